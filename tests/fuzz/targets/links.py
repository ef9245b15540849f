"""Links: frames between two nodes in any order and any chunking, TLS records, certificates."""

import asyncio
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import KEYS, ME, NODES, POOL, ambient, node, run
from titan_overlay.errors import BadMessage, LinkError, RemotableError
from titan_overlay.identity.ids import node_id
from titan_overlay.links.connection import CLOSED, OPEN
from titan_overlay.links.links import Links, Peer
from titan_overlay.links.requests import request_id as request_id_of
from titan_overlay.links.tls import Tls, TlsContexts, _certificate
from titan_overlay.wire import codec, frames
from titan_overlay.wire.frames import Flags, FrameReader
from titan_overlay.wire.messages import Cancel, Credit, Data, Failure, Hello, Opcode, Send

OBJECT = b"O" * 32
HELLO = Hello(POOL, 1, False, NODES[1].public, 4747)


def _frame(opcode: int, body: Any, flags: int = 0) -> bytes:
    out = bytearray()
    frames.append(out, opcode, flags, body)
    return bytes(out)


def _sends() -> list[bytes]:
    nil = codec.Raw(b"\xc0")
    return [
        _frame(Opcode.SEND, Send(1, 1000, OBJECT, "str", nil)),
        _frame(Opcode.SEND, Send(2, 1000, OBJECT, "slow", nil)) + _frame(Opcode.CANCEL, Cancel(2)),
        _frame(Opcode.SEND, Send(3, 1000, OBJECT, "stream", nil, 1)) + _frame(Opcode.CREDIT, Credit(3, 5)),
        _frame(Opcode.SEND, Send(4, 1000, OBJECT, "raises", nil)) + _frame(Opcode.PING, None),
        _frame(Opcode.DATA, Data(1, nil)) + _frame(Opcode.DATA, Data(2, nil), Flags.MORE) + _frame(Opcode.BYE, None),
        _frame(Opcode.ERROR, Failure(1, RemotableError.to_wire(BadMessage("no"))), Flags.ERROR),
        _frame(Opcode.ACK, Data(2, nil)),
    ]


async def _handler(peer: Peer, send: Send) -> Any:
    if send.type == "raises":
        raise BadMessage("as you wish")
    if send.type == "stream":
        return _items()
    if send.type == "slow":
        await asyncio.sleep(3600)
    return bytes(send.body)


async def _items() -> Any:
    for number in range(3):
        yield codec.encode(number)


class _Transport:
    """What a link writes to."""

    def __init__(self) -> None:
        self.reader = FrameReader()
        self.said: list[frames.Frame] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.said += self.reader.feed(bytes(data))  # whatever comes in, what goes out is frames

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_write_buffer_limits(self, **_: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return ("10.0.0.2", 4747) if name == "peername" else None


@target(
    seeds=lambda: [
        story(0, 0) + _frame(Opcode.HELLO, HELLO) + b"".join(_sends()),
        story(1, 2, 7, 30) + b"".join(_sends()),
        story(2, 0) + _frame(Opcode.HELLO, HELLO) + _sends()[4] + _sends()[0],
    ],
    limit=4096,
)
def link(data: bytes) -> None:
    """A peer that says anything, cut anyhow, before its hello, after it, and where answers are waited for."""
    run(_talk(data))


async def _talk(data: bytes) -> None:
    draw = Drawn(data)
    links = Links(ME, POOL, ambient(), _handler, secure=False)
    transport = _Transport()
    link = links._accepted()
    try:
        link.connection_made(transport)
        kind = draw.below(3)
        if kind:
            link.data_received(_frame(Opcode.HELLO, HELLO))
            assert link.state is OPEN
        asked: list[asyncio.Future[Any]] = []
        if kind == 2:
            loop = asyncio.get_running_loop()
            asked.append(loop.create_task(link.request(OBJECT, "str", b"\xc0", loop.time() + 5, ())))
            replies = link.open_stream(OBJECT, "list", b"\xc0", loop.time() + 5, (), 2)
            await asyncio.sleep(0)
        cuts = [1 + draw.below(256) for _ in range(draw.below(8))]
        whole = draw.rest()
        for size in [*cuts, len(whole)]:
            link.data_received(whole[:size])
            whole = whole[size:]
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(link._inbound) <= links.limits.requests_per_peer
            assert link._inbound_bytes == sum(job.size for job in link._inbound.values())
        if link.state is CLOSED:
            assert transport.closing
            assert not link._streams
        elif kind == 2:
            assert len(replies._items) <= 2, "more items than there was credit for"
        for opcode, _, payload in transport.said:
            if opcode == Opcode.ERROR:
                assert codec.decode(payload, Failure).error.code
        for each in asked:
            if each.done():
                _answered(each)
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await links.close()
    assert links.gate.half_open == links.gate.inside == 0, "a link is gone and still counted"


def _answered(task: Any) -> None:
    why = task.exception()
    assert why is None or isinstance(why, RemotableError | LinkError), why


@target(BadMessage, seeds=lambda: [b"\x92\x01\xc0", b"\x95\xcd\x01\x00" + b"\x91" * 9])
def request_id(data: bytes) -> None:
    """The number at the head of a body that cannot be decoded; such a body is never empty."""
    assert 0 < request_id_of(data.ljust(2, b"\0")) < 2**64


# --- TLS ------------------------------------------------------------------------------------------------------


@cache
def _contexts() -> TlsContexts:
    return TlsContexts(ME, ambient().token_bytes)


def _flights() -> list[bytes]:
    """What two true ends say to each other."""
    client, server = Tls(_contexts(), dialed=True), Tls(_contexts(), dialed=False)
    said: list[bytes] = []
    for _ in range(3):
        for one, other in ((client, server), (server, client)):
            one.handshake()
            part = one.outgoing()
            said.append(part)
            other.feed(part)
    return [story(0, said[0]), story(1, said[1]), story(0, said[0][:40], said[0][40:], b"\x14\x03\x03\x00\x01\x01")]


@target(LinkError, seeds=_flights, limit=4096)
def tls(data: bytes) -> None:
    """Bytes instead of a TLS handshake, to the end that accepts and to the one that dials."""
    draw = Drawn(data)
    end = Tls(_contexts(), dialed=draw.below(2) == 1)
    if end._engine.server_side is False:
        end.handshake()
    while draw.more():
        end.feed(draw.piece())
        if end.handshake():
            end.read()
    end.outgoing()
    end.goodbye()


class _Engine:
    """A TLS engine whose peer has shown any certificate."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, *, binary_form: bool) -> bytes:
        return self._der


def _certificates() -> list[bytes]:
    public = Ed25519PublicKey.from_public_bytes(KEYS[3].public)
    return [_certificate("somebody", public, authority=each).public_bytes(Encoding.DER) for each in (False, True)]


@target(LinkError, seeds=_certificates)
def certificate(data: bytes) -> None:
    """The certificate of a peer: its Ed25519 key, or no link."""
    end = Tls.__new__(Tls)
    end._engine = _Engine(data)  # type: ignore[assignment]
    public = end.peer_public()
    assert len(public) == 32 and len(node_id(public)) == len(node(1))
    assert x509.load_der_x509_certificate(data).public_key().public_bytes_raw() == public  # type: ignore[union-attr]
