"""Datagrams, the handshake, sessions, and what the overlay makes of bodies and statements."""

import asyncio
import contextlib
import struct
from typing import Any

from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import (
    DATA_NAME,
    ME,
    NODES,
    NOW,
    OWN_NAME,
    POOL,
    RIGHTS,
    advertisement,
    ambient,
    body_of,
    node,
    object_id,
    peer,
    run,
    signed,
    tombstone,
)
from titan_overlay.errors import BadMessage, Forbidden, LinkError, RemotableError, WireError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import IPV4, IPV6, Contact, is_dialable, pack_address, unpack_address
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Tombstone
from titan_overlay.overlay import bodies, directory, evidence, handshake, lookup, packets, sessiontable
from titan_overlay.overlay.announcer import Announcer
from titan_overlay.overlay.answers import Answers
from titan_overlay.overlay.bodies import NAMED_BY, FindHolders, FindNode, Holders, Store, Stored
from titan_overlay.overlay.calls import Call
from titan_overlay.overlay.density import Density
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.evidence import Evidence
from titan_overlay.overlay.finder import Finder
from titan_overlay.overlay.handshake import Handshakes
from titan_overlay.overlay.lookup import Lookup, Question
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.packets import SERVING
from titan_overlay.overlay.regions import Region
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.sessions import CHALLENGE, HEAD, KEY_BYTES, REFUSAL, REPLY, REQUEST, Session
from titan_overlay.wire import codec

THERE = ("10.0.0.2", 4747)
HERE = ("10.0.0.1", 4747)
OURS, THEIRS = int.from_bytes(b"ours", "big"), int.from_bytes(b"them", "big")
"""Ids of sessions; inputs that were kept name them."""


# --- contacts -------------------------------------------------------------------------------------------------


@target(
    BadMessage,
    seeds=lambda: [
        bodies.pack_all([peer(1), peer(2)]),
        bodies.pack_all([bodies.contact(node(3), "2001:db8::1", 4747), bodies.contact(node(1), "8.8.8.8", 1)]),
    ],
)
def contacts(data: bytes) -> None:
    """Contacts in a reply: each can be addressed, and is packed as it came."""
    found = bodies.unpack_all(data)
    again = bodies.unpack_all(bodies.pack_all(found))
    assert again == found
    assert all(len(bodies.pack(each)) in (38, 50, 56) for each in found)
    for by in ("8.8.8.8", "10.0.0.1"):
        for each in bodies.believable(found, {IPV4, IPV6}, by=by):
            assert all(is_dialable(*one) for one in each.addresses)


@target(ValueError, seeds=lambda: [pack_address(HERE), pack_address(("::1", 1))])
def address(data: bytes) -> None:
    """An address as a peer sees it."""
    assert pack_address(unpack_address(data)) == data


# --- handshake and sessions -----------------------------------------------------------------------------------


class _Side:
    """One end of a conversation, and what it has sent."""

    def __init__(self, number: int, address: tuple[str, int]) -> None:
        source = ambient()
        source.random.seed(number)
        self.address = address
        self.table = Handshakes(NODES[number], Rights(POOL), source.random.randbytes, lambda: NOW)
        self.table.credentials = b"credentials"
        self.table.role = SERVING
        self.sent: list[bytes] = []
        self.made: list[Session] = []

    def receive(self, data: bytes, address: tuple[str, int], now: float) -> None:
        known = len(self.table.sessions)
        step = self.table.receive(data, address, now)
        if step.session is not None:
            self.made.append(step.session)
        elif step.opening is None:
            assert len(self.table.sessions) <= known, "a datagram that leads nowhere has left something behind"
        if step.reply:
            self.sent.append(step.reply)
            proven = step.session is not None or step.opening is not None or data[0] == handshake.INIT
            assert proven or len(step.reply) <= len(data), "more goes to an unproven address than came from it"
        table = self.table
        assert len(table.openings) <= handshake.MAX_OPENINGS
        assert len(table.sessions) <= sessiontable.MAX_SESSIONS + sessiontable.MAX_UNCONFIRMED


def _conversations() -> list[bytes]:
    there, back = (1, 0, 0), (2, 0, 0)  # the last that was said arrives at the other, as it was said
    straight = bytes((0, 0, *there, *back, *there, *back))
    crossed = bytes((0, 0, 0, 1, *back, *there, *back, *there, *back, *there))
    late = bytes((0, 0, *there, 3, 40, *back, *there, *back))
    bent = bytes((0, 0, *there, *back, 1, 0, 1, 0, 60, 3, *there, *back, *there))
    of_another_pool = bytes((0, 0, 1, 0, 1, 0, 20, 3, *back))
    rules = bytes((4, 0, 0, 1)) + story(packets.ASK_FORM.pack(packets.ASK, packets.VERSION, b"nonce").ljust(512, b"\0"))
    return [straight, crossed, late, bent, of_another_pool, rules]


@target(seeds=_conversations, limit=768)
def conversation(data: bytes) -> None:
    """Two nodes shake hands while somebody between them repeats, bends, swaps and delays what they say.

    Whatever arrives: a session leads to who signed it, both ends that have one with the same ids have the same keys.
    """
    draw = Drawn(data)
    one, two = _Side(0, HERE), _Side(1, THERE)
    now = 1000.0
    for _ in range(40):
        if not draw.more():
            break
        match draw.below(5):
            case 0:
                a, b = (one, two) if draw.below(2) == 0 else (two, one)
                begun = a.table.begin(b.address, b.table.key.id, now)
                if begun is not None and begun[1]:
                    a.sent.append(begun[0].datagram)
            case 1 | 2 as to:
                a, b = (one, two) if to == 1 else (two, one)
                kept = a.sent[::-1]
                b.receive(draw.bent(draw.of(kept)) or b"\0", a.address, now)
            case 3:
                now += draw.below(256) / 2
                one.table.sweep(now)
                two.table.sweep(now)
            case _:
                side = one if draw.below(2) == 0 else two
                elsewhere = ("10.0.0.9", 1 + draw.below(65535))
                side.receive(draw.of(one.sent + two.sent) or draw.piece() or b"\0", elsewhere, now)
    for side, other in ((one, two), (two, one)):
        for session in side.made:
            assert session.contact.id == other.table.key.id, "a session with somebody who never signed"
            for twin in other.made:
                if (twin.receive_id, twin.send_id) == (session.send_id, session.receive_id) and _same_keys(
                    twin, session
                ):
                    assert _turned(twin.keys) == session.keys != twin.keys


def _same_keys(one: Session, two: Session) -> bool:
    return two.keys in (one.keys, _turned(one.keys))


def _turned(keys: bytes) -> bytes:
    return keys[KEY_BYTES:] + keys[:KEY_BYTES]


def _pair() -> tuple[Session, Session]:
    both: dict[str, Any] = {"serving": True, "credentials": b"", "born": 0.0}
    keys = b"1" * KEY_BYTES + b"2" * KEY_BYTES
    here = Session(contact=peer(1), send_id=THEIRS, receive_id=OURS, keys=keys, **both)
    there = Session(contact=peer(0), send_id=OURS, receive_id=THEIRS, keys=_turned(keys), **both)
    return here, there


@target(seeds=lambda: [story(0, 0, 1, 0, 0, 0, 1, 1, 0, 0), story(*[0, 1] * 5, *[1, 0, 0] * 8)], limit=512)
def datagram_in_session(data: bytes) -> None:
    """Datagrams inside a session, repeated, reordered, bent: each true one is taken once, and nothing else."""
    draw = Drawn(data)
    here, there = _pair()
    true: list[bytes] = []
    taken: set[bytes] = set()
    while draw.more():
        if draw.below(2) == 0:
            for _ in range(1 + draw.below(80)):
                true.append(there.seal(0, len(true), b"rest"))
        else:
            said = draw.bent(draw.of(true[::-1]))
            if len(said) < HEAD.size + 16:
                continue
            if here.opens(said, HEAD.unpack_from(said)[2]):
                assert said in true and said not in taken
                taken.add(said)


@target(
    seeds=lambda: [
        bytes((0, 0, REQUEST, 2)) + b"\x09find_node" + codec.encode(FindNode(b"t" * 32, 20)),
        bytes((0, 0, REFUSAL, 1)) + codec.encode(WireError("overloaded", "busy")),
        bytes((0, 0, REPLY, 1)) + b"pong",
        bytes((0, 2, CHALLENGE, 0)) + b"12345678",
        story(2, 0, b"\x10" + bytes(40)),
        b"\1\0\0",
    ],
)
def datagram(data: bytes) -> None:
    """Whole datagrams at a socket that has a session and calls under way: `datagram_received` never raises."""
    run(_at_a_socket(data))


class _Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        pack_address(address)  # a name would be looked up by the system, and the loop would stand still
        self.sent.append((data, address))

    def get_extra_info(self, name: str) -> Any:
        return HERE

    def close(self) -> None:
        pass


async def _at_a_socket(data: bytes) -> None:
    draw = Drawn(data)
    overlay = Overlay(ME, Rights(POOL), ambient())
    overlay.whereabouts.bound[IPV4] = HERE
    wire = _Wire()
    overlay.protocol = protocol = overlay._create_protocol()
    protocol.connection_made(wire)
    for method, handler in overlay._handlers.items():
        protocol.serve(method, handler)
    overlay.set_serving(True)
    here, there = _pair()
    here.receive_id = there.send_id = OURS
    overlay._handshakes.adopt(here, 0.0)
    outcome = protocol._loop.create_task(protocol.call(peer(1), "ping", b"", timeout=5.0))
    await asyncio.sleep(0)
    try:
        for _ in range(8):
            if not draw.more():
                break
            kind, address = draw.below(3), (THERE, HERE, ("10.9.9.9", 9))[draw.below(3)]
            if kind == 0:  # what only the peer can have sealed
                said = there.seal(draw.below(256), draw.below(4), draw.rest())
            elif kind == 1:
                said = draw.bent(draw.of([each for each, _ in wire.sent])) or b"\0"
            else:
                said = draw.piece()
            errors = protocol.traffic.report().get("errors", 0)
            before = len(wire.sent)
            protocol.datagram_received(said, address)
            assert protocol.traffic.report().get("errors", 0) == errors, "a handler raised what is none of its errors"
            if kind != 0:
                assert sum(len(each) for each, to in wire.sent[before:] if to == address) <= max(len(said), 600)
    finally:
        protocol.close()
        outcome.cancel()
        with contextlib.suppress(BaseException):
            await outcome


# --- answers --------------------------------------------------------------------------------------------------


class _Node:
    """A node's directory and table, once filled."""

    def __init__(self) -> None:
        self.directory = Directory(RIGHTS, max_statements=40, max_per_object=4)
        self.table = RoutingTable(ME.id, 20, 3600.0)
        for number in range(1, 5):
            self.table.add(peer(number), 0.0)
        self.answers = Answers(ME.id, self.table, self.directory, ambient(), lambda _: [advertisement(4).raw])
        self.answers.serving = True
        self.directory.put(advertisement(1).raw, NOW)
        self.directory.put(tombstone(DATA_NAME).raw, NOW)


@target(
    RemotableError,
    seeds=lambda: [
        b"\0" + codec.encode(FindNode(bytes(32), 20)),
        b"\1" + codec.encode(FindHolders(object_id(), 0, 8)),
        b"\2" + codec.encode(Store([advertisement(2).raw, tombstone().raw], 4, [0, 1])),
    ],
)
def question(data: bytes) -> None:
    """`find_node`, `find_holders` and `store`: the reply fits in a datagram."""
    draw = Drawn(data)
    answers = _Node().answers
    handler = (answers.find_node, answers.find_holders, answers.store)[draw.below(3)]
    assert len(handler(peer(2), draw.rest())) <= bodies.MAX_BODY


@target(BadMessage, seeds=lambda: [codec.encode(Holders(bodies.pack_all([peer(1)]), [advertisement(1).raw], []))])
def holders(data: bytes) -> None:
    """A reply to `find_holders`, as a lookup reads it."""
    said = codec.decode(data, Holders)
    known = Evidence(object_id(), RIGHTS, NOW)
    known.add(said.raws, said.tombstones)
    bodies.unpack_all(said.contacts)
    _believed(known)


class _Peers:
    """A protocol whose peers answer what the input says, one after the other."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self.blamed: list[NodeId] = []
        self.handshakes = Handshakes(ME, Rights(POOL), ambient().random.randbytes, lambda: NOW)

    async def call(self, contact: Contact, method: str, body: bytes, **_: Any) -> bytes:
        await asyncio.sleep(0)
        if not self._answers:
            raise LinkError("nobody there")
        return self._answers.pop(0)

    def start(self, caller: Any, to: Contact, method: str, body: bytes, **_: Any) -> None:
        call = Call(caller, to, method, body, 0, 1e9)
        loop = asyncio.get_running_loop()
        if self._answers:
            loop.call_soon(caller.answered, call, self._answers.pop(0))
        else:
            loop.call_soon(caller.failed, call, LinkError("nobody there"))

    def heard_of(self, by: Contact, packed: bytes) -> list[Contact]:
        return bodies.believable(bodies.unpack_all(packed), {IPV4}, by=by.ip)

    def blame(self, node: NodeId, *_: Any) -> None:
        self.blamed.append(node)


def _replies() -> list[bytes]:
    closer = bodies.pack_all([peer(3), peer(4)])
    one = codec.encode(Holders(closer, [advertisement(1).raw], [], advertisement(2).signer[:NAMED_BY]))
    more = codec.encode(Holders(b"", [advertisement(2).raw], [tombstone().raw]))
    return [story(0, one, more), story(1, one, more, more), story(1, b"\xc0", one), story(2, closer, closer)]


@target(RemotableError, seeds=_replies, limit=4096)
def found(data: bytes) -> None:
    """Whole look-ups among nodes that answer anything: they end, and believe what verifies."""
    run(_look_up(data))


async def _look_up(data: bytes) -> None:
    draw = Drawn(data)
    kind = draw.below(3)
    peers: Any = _Peers([draw.piece() for _ in range(12) if draw.more()])
    table = RoutingTable(ME.id, 20, 3600.0)
    for number in range(1, 5):
        table.add(peer(number), 0.0)
    rights = Rights(POOL)
    finder = Finder(ME.id, rights, peers, table, Directory(rights), Density(table), ambient(), alpha=3, copies=8)
    async with asyncio.timeout(600):
        if kind == 2:
            assert len(await finder.nodes(object_id(), 20)) <= 20
            return
        seen = await finder.holders(object_id(), None, kind == 1, frozenset())
    for each in seen.advertisements:
        assert records.check(each.raw, Advertisement, POOL).value.object_id == object_id()


@target(
    seeds=lambda: [story(codec.encode(Stored([True], bodies.pack_all([peer(3)])))), story(b"", b"\xc0")], limit=2048
)
def receipts(data: bytes) -> None:
    """What nodes answer that are told statements."""
    draw = Drawn(data)
    peers = _Peers([draw.piece() for _ in range(6) if draw.more()])
    run(_announce(peers))


async def _announce(peers: _Peers) -> None:
    async def near(*_: object) -> list[Contact]:
        return [peer(1), peer(2)]

    region = Region.around(object_id(), 0)
    announcer = Announcer(ME.id, peers, lambda _: region, near, lambda raw: True, lambda: True)  # type: ignore[arg-type]
    (took,) = await announcer.announce([(object_id(), advertisement(1).raw)])
    assert 0 <= took <= 64


# --- statements -----------------------------------------------------------------------------------------------


def _statement(draw: Drawn) -> bytes:
    """A statement that somebody may have signed, or that somebody has bent."""
    number, name = draw.below(len(NODES)), (OWN_NAME, DATA_NAME)[draw.below(2)]
    match draw.below(4):
        case 0:
            made = advertisement(
                number,
                name,
                sequence=draw.below(256),
                expires=NOW + draw.below(65536) - 5000.0,
                version=draw.below(4),
                withdrawn=bool(draw.below(2)),
                passing=bool(draw.below(2)),
            )
            return made.raw
        case 1:
            return tombstone(name, draw.below(4)).raw
        case 2:
            return signed(draw.bent(body_of(advertisement(number, name).value)), Advertisement.LABEL, NODES[number])
        case _:
            return draw.bent(tombstone(name).raw)


def _stories() -> list[bytes]:
    plain = [story(number, 0, 0, 9, 0x20, 0, 1, 0, 0) for number in range(6)]
    return [b"".join(plain), story(1, 0, 1, 1) + plain[1] + story(2, 1, 1, 1), story(1, 0, 2, 1, 0, 30, 5)]


@target(seeds=_stories, limit=512)
def statements(data: bytes) -> None:
    """A directory, fed by everybody: bounded, the highest sequence of a holder wins, nothing unverified is in it."""
    draw = Drawn(data)
    kept = Directory(RIGHTS, max_statements=8, max_per_object=3)
    now = NOW
    while draw.more():
        raw = _statement(draw)
        sender = peer(draw.below(8)) if draw.below(2) else None
        try:
            kept.put(raw, now, sender=sender)
        except (BadMessage, Forbidden):
            continue
        now += draw.below(8) * 60
        assert len(kept) <= 8
        count = 0
        for name in (OWN_NAME, DATA_NAME):
            known = kept.get(object_id(name), now, node(1))
            count += len(known.advertisements) + len(known.tombstones)
            signers = [records.check(each, Advertisement, POOL) for each in known.advertisements]
            assert len({each.signer for each in signers}) == len(signers)
            assert all(each.value.object_id == object_id(name) and each.value.expires > now for each in signers)
            for each in known.tombstones:
                directory.proven(records.check(each, Tombstone, POOL), RIGHTS, now)
        assert count <= len(kept)


@target(seeds=_stories, limit=512)
def gathered(data: bytes) -> None:
    """Evidence out of many answers: only what verifies, of this object, from now on."""
    draw = Drawn(data)
    known = Evidence(object_id(), RIGHTS, NOW)
    while draw.more():
        raw = _statement(draw)
        known.add([raw], [raw])
    _believed(known)


def _believed(known: Evidence) -> None:
    live = known.advertisements()
    assert len(live) <= evidence.MAX_HOLDERS
    for each in live:
        assert records.check(each.raw, Advertisement, POOL).signer == each.signer
        assert each.value.object_id == object_id() and each.value.expires > NOW and not each.value.withdrawn
        Contact(each.signer, each.value.host, each.value.port)
        assert is_dialable(each.value.host, each.value.port)
    for each in known.tombstones:
        directory.proven(each, RIGHTS, NOW)


@target(seeds=lambda: [bytes(range(64)), bytes(range(200, 0, -3)) * 4], limit=1024)
def walk(data: bytes) -> None:
    """A lookup among liars: each contact asked once at most over all paths, never oneself, within a budget; it ends."""
    draw = Drawn(data)
    begin = [_invented(draw) for _ in range(1 + draw.below(8))]
    seen = Lookup(
        object_id(),
        ME.id,
        lambda target, count: begin[:count],
        alpha=3,
        aim=lambda: draw.take(32).ljust(32, b"\0"),
        expects=draw.below(2) << 254,
        within=draw.below(2) << 250,
        patient=bool(draw.below(2)),
    )
    asked: list[Contact] = []
    flying: list[Contact] = []

    def took(more: list[Question]) -> None:
        asked.extend(each.contact for each in more)
        flying.extend(each.contact for each in more)

    took(seen.start())
    while not seen.finished and flying and draw.more():
        whom = flying[draw.below(len(flying))]
        what = draw.below(4)
        if what == 0:
            took(seen.late(whom))
            continue
        flying.remove(whom)
        said = [_invented(draw) for _ in range(draw.below(20))]
        took(seen.failed(whom) if what == 1 else seen.reply(whom, said, told=what == 3))
    while flying and not seen.finished:
        took(seen.failed(flying.pop(0)))
    assert seen.finished, "nobody is left to answer, and it waits"
    assert len(set(asked)) == len(asked) == seen.questions <= lookup.BUDGET
    assert all(each.id != ME.id for each in asked)


def _invented(draw: Drawn) -> Contact:
    number = draw.below(65536)
    if number % 97 == 0:
        return bodies.contact(ME.id, "10.0.0.1", 1)
    return bodies.contact(NodeId(struct.pack(">I", number) * 8), "10.0.0.1", 1 + number % 1000)
