"""Keeping copies among liars: probes, what a node takes in, contents that are fetched, what a recruit answers."""

import asyncio
from hashlib import sha256
from typing import Any

from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import (
    DATA,
    DATA_NAME,
    KEYS,
    ME,
    NODES,
    NOW,
    OWN_NAME,
    POOL,
    advertisement,
    ambient,
    body_of,
    descriptor,
    object_id,
    peer,
    run,
    signed,
    tombstone,
)
from titan_overlay.config import NodeConfig
from titan_overlay.errors import BadMessage, LinkError, NotHere, Overloaded, RemotableError
from titan_overlay.identity import records
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact, pack_addresses
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Content, Descriptor
from titan_overlay.overlay import bodies
from titan_overlay.overlay.regions import Region
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.bundles import BundleLoader
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.keeping import roster, transfer
from titan_overlay.pool.keeping.admission import Admission
from titan_overlay.pool.keeping.lifecycle import Pace
from titan_overlay.pool.keeping.probes import Conversation, Listing, Member, Reply, Request
from titan_overlay.pool.keeping.recruiter import Recruiter
from titan_overlay.pool.keeping.roster import Replica, Roster
from titan_overlay.pool.orders import Accepted, Recruit
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import CHUNK_BYTES
from titan_overlay.storage.rows import MemoryDatabase
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

EPOCH = 7
ROOM = 1 << 20


# --- probes ---------------------------------------------------------------------------------------------------


def _side(number: int) -> Conversation:
    talk = Conversation(Roster(NODES[number].id, Pace()))
    for name in (OWN_NAME, DATA_NAME):
        replica = Replica(object_id(name), descriptor(name), NODES[number].id, Pace(), 0.0)
        replica.digests[EPOCH] = b"d" * 32
        talk.roster.add(replica)
        for other in range(1, 3):
            if other != number:
                talk.roster.claim(replica, peer(other))
    return talk


def _asked(number: int) -> Any:
    talk = _side(number)
    whom = talk.roster.peers[peer(2 if number != 2 else 1).id]
    return talk, whom, talk.ask(whom, list(talk.roster.shared_with(whom)), b"12345678", EPOCH, 10.0)


def _probes() -> list[bytes]:
    _, _, asked = _asked(1)
    request = codec.decode(asked.body, Request)
    members = (
        Member(peer(4).id, pack_addresses(peer(4))),
        Member(peer(5).id, b"not an address"),
        Member(peer(2).id, b"", 2),
    )
    listed = Request(request.epoch, request.nonce, request.entries[:20] + b"\2", (Listing(0, members),))
    return [asked.body, codec.encode(listed)]


@target(BadMessage, seeds=_probes, limit=1200)
def probe(data: bytes) -> None:
    """A probe: proofs of whoever asks, and lists of holders that it invents."""
    talk = _side(2)
    reply = talk.answer(peer(1), data, EPOCH, 10.0)
    assert len(reply) <= bodies.MAX_BODY
    codec.decode(reply, Reply)
    _bounded(talk)


@target(BadMessage, seeds=lambda: [_side(2).answer(peer(1), _asked(1)[2].body, EPOCH, 10.0)], limit=1200)
def probe_reply(data: bytes) -> None:
    """The reply to a probe."""
    talk, _, asked = _asked(1)
    talk.absorb(peer(2), asked, data, 11.0)
    _bounded(talk)


def _bounded(talk: Conversation) -> None:
    known = talk.roster
    for replica in known.replicas.values():
        assert len(replica.partners) <= roster.PARTNERS_MAX and len(replica.lost) <= roster.LOST_MAX
        assert len(replica.digests) <= 4
    for each in known.peers.values():
        bodies.pack(each.contact)  # it is asked at that address: nothing but an address will do
    assert len(talk.effects) <= 200


# --- taking in ------------------------------------------------------------------------------------------------


class _Links:
    """A network of one peer, who answers with what the input says."""

    def __init__(self, draw: Drawn) -> None:
        self._draw = draw

    async def connect(self, contact: Contact, *, deadline: float) -> None:
        await asyncio.sleep(0)

    async def request(self, contact: Contact, object_id: bytes, type: str, body: bytes, *, deadline: float) -> bytes:
        bodies.pack(contact)
        await asyncio.sleep(0)
        match self._draw.below(6):
            case 0:
                raise LinkError("nobody there")
            case 1:
                raise NotHere("not here")
            case 2:
                return codec.encode(self._draw.bent(DATA))
            case 3:
                return self._draw.piece()
            case 4:
                return codec.encode([descriptor(DATA_NAME).raw, self._draw.piece()])
            case _:
                return codec.encode(DATA)


def _admission(draw: Drawn) -> tuple[Admission, Host, MemoryDatabase, Blobs]:
    source = ambient()
    host = Host(source, pool=POOL, holder=ME.id)
    database, blobs = MemoryDatabase(), Blobs(MemoryDisk(), ROOM)
    admission = Admission(
        rights=Rights(POOL),
        me=Sender(ME.id, ME.public),
        ambient=source,
        config=NodeConfig(),
        host=host,
        links=_Links(draw),  # type: ignore[arg-type]
        database=database,
        blobs=blobs,
        bundles=BundleLoader((), POOL),
        makers={},
        grants=(),
        labels={"cores": "4"},
    )
    return admission, host, database, blobs


async def _taken(*_: Any) -> Accepted:
    return Accepted(b"", 0)


def _orders() -> list[bytes]:
    held = advertisement(2, DATA_NAME).raw
    plain = story(0, 0, 0, descriptor().raw, 1, held)
    data = story(0, 0, 0, descriptor(DATA_NAME).raw, 1, held, 5)
    huge = descriptor(DATA_NAME).value
    content = Content(2**62, CHUNK_BYTES, bytes(32))
    made = Descriptor(huge.name, "data", "", 1, NOW - 5, content=content)
    bury = story(1, tombstone().raw)
    return [
        plain + bury,
        data + data + story(1, tombstone(DATA_NAME).raw),
        story(0, 1, 0, body_of(made), 0, 3, bytes(9)),
    ]


@target(seeds=_orders, limit=4096)
def orders(data: bytes) -> None:
    """A node that strangers order to hold things and to bury them: held is what was signed, kept within its room."""
    run(_ordered(data))


async def _ordered(data: bytes) -> None:
    draw = Drawn(data)
    admission, host, database, blobs = _admission(draw)
    await blobs.open()
    for _ in range(6):
        if not draw.more():
            break
        try:
            if draw.below(2):
                outcome, _ = await admission.bury(draw.piece())
                assert outcome in ("deleted", "unpinned", "wrong token", "nothing to delete", "already gone")
                continue
            by_signer, passing = draw.below(2), draw.below(2) == 1
            raw = draw.piece()
            raw = signed(raw, Descriptor.LABEL, KEYS[1]) if by_signer else raw
            holders = tuple(draw.piece() for _ in range(draw.below(4)))
            await admission.recruit(Recruit(raw, holders, passing=passing), peer(3), _taken)
        except RemotableError:
            pass
        assert blobs.used() <= ROOM
        rows = {row.object_id for row in database.replicas()}
        assert set(host.ids()) <= rows
        for row in database.replicas():
            value = records.check(row.descriptor, Descriptor, POOL).value
            assert value.kind != "data" or blobs.has(row.object_id)
            assert all(value.policy.requires[key] == "4" for key in value.policy.requires if key == "cores")
    await host.close()


# --- fetching -------------------------------------------------------------------------------------------------

_BIG = bytes(range(256)) * 1024 + b"and a tail"
_BIG_ID = sha256(_BIG).digest()
_BIG_MANIFEST = sha256(_BIG[:CHUNK_BYTES]).digest() + sha256(_BIG[CHUNK_BYTES:]).digest()
_BIG_CONTENT = Content(len(_BIG), CHUNK_BYTES, sha256(_BIG_MANIFEST).digest())


@target(
    seeds=lambda: [story(0, 0, 0), story(1, 0, 0, 2, 0, 0), story(4, b"x", 3, 5, 0, 0, 0), story(5, 5, 5, 5)], limit=512
)
def fetched(data: bytes) -> None:
    """A content fetched from holders of which any may lie, refuse or break off: its own bytes, or an error."""
    run(_fetch(data))


async def _fetch(data: bytes) -> None:
    draw = Drawn(data)

    async def ask(contact: Contact, type: str, body: bytes, deadline: float) -> bytes:
        await asyncio.sleep(0.1)
        true = _BIG_MANIFEST
        if type == "titan.Fetch":
            index = codec.decode(body, transfer.Fetch).index
            true = _BIG[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        match draw.below(6):
            case 1:
                raise LinkError("it broke off")
            case 2:
                raise Overloaded("busy", retry_after=float(draw.below(256)))
            case 3:
                raise BadMessage("no")
            case 4:
                return draw.piece()
            case 5:
                return codec.encode(draw.bent(true))
        return codec.encode(true)

    sink = transfer.MemorySink()
    deadline = asyncio.get_running_loop().time() + 600
    try:
        await transfer.fetch(_BIG_ID, _BIG_CONTENT, [peer(1), peer(2)], ask, sink, deadline=deadline)
    except RemotableError:
        return
    assert sink.value() == _BIG


class _Overlay:
    pool = POOL
    rights = Rights(POOL)
    contact = peer(0)
    serving = False

    def region_of(self, *_: Any) -> Region:
        return Region(0, 0)

    def region_read(self, *_: Any) -> bytes:
        return b""

    def neighbours(self, *_: Any) -> list[Contact]:
        return [peer(1)]

    async def find_nodes(self, *_: Any) -> list[Contact]:
        return [peer(1), peer(2)]


@target(
    seeds=lambda: [
        codec.encode(Accepted(advertisement(1).raw, 3)),
        codec.encode(Accepted(signed(body_of(advertisement(1).value), Advertisement.LABEL, NODES[2]), 3)),
    ]
)
def recruit_says(data: bytes) -> None:
    """What nodes answer that are asked to hold a replica: each counts only with its own signature."""
    draw = Drawn(story(3, data, 3, data))
    recruiter = Recruiter(_Overlay(), _Links(draw), KEYS[0], KEYS[0], Conduct(), lambda _: b"")  # type: ignore[arg-type]
    result: Any = run(recruiter.recruit(descriptor(), count=2))
    assert {each.signer for each in result.accepted} <= {peer(1).id, peer(2).id}
