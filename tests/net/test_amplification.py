"""One datagram from an unproven address costs at most its own size in replies, and adds no state. On real sockets."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from tests.net.test_overlay import POOL, founder, key_of, line_to
from titan_overlay.identity.contacts import IPV4, pack_address
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay import packets
from titan_overlay.overlay.bodies import FindNode
from titan_overlay.overlay.endpoint import RESET, RESET_BYTES
from titan_overlay.overlay.handshake import Handshakes
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.protocol import ALSO_AT
from titan_overlay.overlay.sessions import CHALLENGE, DATA, HEAD, PROOF, REFUSAL, REPLY, REQUEST, SERVING, Session
from titan_overlay.wire import codec


class Stranger:
    """A bare socket, and what the node sends to it."""

    def __init__(self, node: Overlay) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self._node = node
        self.address = self._socket.getsockname()

    async def tell(self, *datagrams: bytes) -> bytes:
        """Sends these, waits until the node has handled them, and gives all that came back."""
        for datagram in datagrams:
            self._socket.sendto(datagram, self._node.contact.address)
        # Whatever is behind them in the node's socket has been handled after them.
        marker = self._other_hello()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.setblocking(False)
            last.sendto(marker, self._node.contact.address)
            async with asyncio.timeout(10):
                await loop.sock_recv(last, 2048)
        back = b""
        while True:
            try:
                back += self._socket.recv(2048)
            except BlockingIOError:
                return back

    def _other_hello(self) -> bytes:
        opening, _ = stranger_party(b"marker").begin(self._node.contact.address, None, 0.0)
        return opening.datagram

    def close(self) -> None:
        self._socket.close()


NONE = int.from_bytes(b"none", "big")
"""A session that nobody has."""


def stranger_party(name: bytes) -> Handshakes:
    return Handshakes(
        key_of(int(sha256(name).hexdigest()[:6], 16)), Rights(POOL), random.Random(name).randbytes, lambda: 1e9
    )


def state_of(node: Overlay) -> list[object]:
    """Sizes of everything that a datagram could make grow."""
    protocol, shakes = node.protocol, node.protocol.handshakes
    return [
        {name: len(table) for name, table in vars(shakes).items() if isinstance(table, dict | set | list)},
        {name: len(table) for name, table in vars(protocol).items() if isinstance(table, dict)},
        len(shakes._arrivals._buckets),
        len(node.table),
        len(node.directory),
        [(repr(session.unproven), session.second) for session in shakes.sessions.values()],
    ]


@pytest.fixture
async def node() -> AsyncIterator[Overlay]:
    made = await founder()
    yield made
    made.stop()


def first_datagrams() -> dict[str, bytes]:
    """One of each kind, as somebody without a session can make them."""
    party = stranger_party(b"one")
    opening, _ = party.begin(("127.0.0.1", 1), None, 0.0)
    hello = opening.datagram
    stale = stranger_party(b"another node")
    cookie = stale.receive(hello, ("127.0.0.1", 9), 0.0).reply
    init = party.receive(cookie, ("127.0.0.1", 1), 0.0).reply
    sealed = HEAD.pack(DATA, NONE, 7, 0, 1) + b"\x04ping" + bytes(16)
    return {
        "hello": hello,
        "hello of another version": hello[:1] + b"\x09" + hello[2:],
        "hello of another pool": packets.HELLO_FORM.pack(packets.HELLO, packets.VERSION, bytes(8), b"Q" * 32).ljust(
            128
        ),
        "hello without its padding": hello[:100],
        "cookie": cookie,
        "init with a forged cookie": init,
        "resp": bytes((packets.RESP,)) + bytes(packets.RESP_FORM.size + 63),
        "refused": packets.REFUSED_FORM.pack(packets.REFUSED, bytes(8), packets.WRONG_POOL, bytes(32)),
        "request in no session": sealed,
        "reply in no session": HEAD.pack(DATA, NONE, 7, REPLY, 1) + bytes(16),
        "challenge in no session": HEAD.pack(DATA, NONE, 7, CHALLENGE, 0) + bytes(24),
        "proof in no session": HEAD.pack(DATA, NONE, 7, PROOF, 0) + bytes(24),
        "reset": bytes((RESET,)) + bytes(RESET_BYTES - 1),
        "asking for the rules": packets.ASK_FORM.pack(packets.ASK, packets.VERSION, bytes(8)).ljust(packets.ASK_BYTES),
        "rules": packets.RULES_FORM.pack(packets.RULES, bytes(8)) + bytes(400),
        "one byte": b"\x01",
        "garbage": random.Random(2).randbytes(1200),
    }


@pytest.mark.parametrize("kind", first_datagrams())
async def test_a_first_datagram_gains_no_bytes_and_leaves_nothing(kind: str, node: Overlay) -> None:
    stranger = Stranger(node)
    try:
        await stranger.tell()  # the first cookie makes the epoch's secret
        before = state_of(node)
        datagram = first_datagrams()[kind]
        for _ in range(3):
            assert len(await stranger.tell(datagram)) <= len(datagram)
        assert state_of(node) == before
    finally:
        stranger.close()


async def test_noise_of_all_sizes_gains_no_bytes_and_leaves_nothing(node: Overlay) -> None:
    stranger, chance = Stranger(node), random.Random(3)
    try:
        await stranger.tell()
        before = state_of(node)
        for _ in range(30):
            noise = [bytes((chance.randrange(20),)) + chance.randbytes(chance.randrange(300)) for _ in range(20)]
            assert len(await stranger.tell(*noise)) <= sum(map(len, noise))
        assert state_of(node) == before
    finally:
        stranger.close()


async def with_session(node: Overlay) -> tuple[Overlay, Session, Session]:
    """A peer of the node; the peer's side of their session, and the node's."""
    peer = await founder(1)
    assert await peer.bootstrap([line_to(node)]) == 1
    await peer.call(node.contact, "ping", b"")
    mine = peer.protocol.handshakes.by_peer[node.key.id]
    theirs = node.protocol.handshakes.by_peer[peer.key.id]
    return peer, mine, theirs


async def test_a_replay_from_elsewhere_gains_nothing(node: Overlay) -> None:
    peer, _, _ = await with_session(node)
    stranger, sent = Stranger(node), []
    transport = peer.protocol.transports[IPV4]

    class Tap:
        def sendto(self, data: bytes, address: object) -> None:
            sent.append(data)
            transport.sendto(data, address)

    try:
        peer.protocol.transports[IPV4] = Tap()
        await peer.call(node.contact, "find_node", codec.encode(FindNode(bytes(32), 20)))
        before = state_of(node)
        assert await stranger.tell(*sent, *sent) == b""
        assert state_of(node) == before
    finally:
        peer.protocol.transports[IPV4] = transport
        stranger.close()
        peer.stop()


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        (REQUEST, b"\x09find_node" + codec.encode(FindNode(bytes(32), 20))),
        (REQUEST, b"\x04ping"),
        (CHALLENGE, bytes(8)),
        (CHALLENGE, bytes(900)),
        (PROOF, b""),
        (PROOF, bytes(8)),
        (REPLY, bytes(100)),
        (REFUSAL, bytes(100)),
    ],
    ids=["question", "ping", "challenge", "long challenge", "empty proof", "false proof", "reply", "refusal"],
)
async def test_a_session_that_speaks_from_a_new_address_gets_no_more_there_than_came_from_there(
    flags: int, rest: bytes, node: Overlay
) -> None:
    """Somebody on the way has caught datagrams, and sends them from the address of a victim; or the peer makes them."""
    peer, mine, theirs = await with_session(node)
    stranger = Stranger(node)
    try:
        tables = state_of(node)[:-1]
        sent = received = 0
        for _ in range(20):
            caught = mine.seal(flags | SERVING, 1, rest)
            sent += len(caught)
            received += len(await stranger.tell(caught))
            assert received <= sent
        assert received, "it is asked to prove the address, or answered"
        assert theirs.address == peer.contact.address
        assert state_of(node)[:-1] == tables
    finally:
        stranger.close()
        peer.stop()


async def test_a_claim_to_be_elsewhere_too_sends_nothing_to_where_the_peer_may_not_be(node: Overlay) -> None:
    """Only an address of the other family can be a second one (`test_families` has what is sent there)."""
    peer, mine, theirs = await with_session(node)
    victim = Stranger(node)
    try:
        body = bytes((len(ALSO_AT),)) + ALSO_AT.encode() + pack_address(victim.address)
        for number in range(1, 11):
            peer.protocol._send(mine.seal(SERVING, number, body), node.contact.address, 0)
        assert await victim.tell() == b""
        assert (theirs.second, theirs.unproven) == (None, None)
    finally:
        victim.close()
        peer.stop()
