"""Mutable objects: what members say to each other, what is ordered, what is on their disks."""

import random
from functools import cache
from hashlib import sha256
from typing import Any

import titan_overlay as titan
from tests.fuzz.samples import sample
from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import NODES, NOW, run
from tests.unit.bft_cluster import Cluster
from titan_objects.cache import Cache, Set
from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.mutable import bft_messages, raft_messages, snapshots
from titan_overlay.mutable.declare import mutable_type
from titan_overlay.mutable.decorators import mutable
from titan_overlay.mutable.engine import (
    GENESIS,
    Configuration,
    Entry,
    EntryKind,
    Persisted,
    Proposed,
    Received,
    TimerDue,
)
from titan_overlay.mutable.log_format import (
    Act,
    Contents,
    Identity,
    Scan,
    Written,
    decode_identity,
    encode_batch,
    encode_header,
    encode_identity,
)
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.requests import DELIVERED, OPEN, Batch, Request
from titan_overlay.pool.finding.comparing import Comparison
from titan_overlay.pool.message import encode_message
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

MEMBERS = tuple(sorted(key.id for key in NODES[:3]))


# --- engines --------------------------------------------------------------------------------------------------


def _raft(number: int, records: list[Any] | None = None) -> Raft:
    return Raft(MEMBERS[number], Configuration(0, MEMBERS), GENESIS, records or [], random.Random(number))


@cache
def _raft_talk() -> tuple[list[bytes], list[bytes]]:
    """What three members say and write until something is agreed on."""
    engines = [_raft(number) for number in range(3)]
    said: list[bytes] = []
    written: list[bytes] = []
    now = 0.0
    waiting: list[tuple[int, Any]] = [(number, TimerDue()) for number in range(3)]
    for turn in range(400):
        if not waiting:
            now += 0.3
            waiting += [(number, TimerDue()) for number in range(3)]
            if turn > 100:
                waiting += [(number, Proposed(b"data", turn)) for number in range(3)]
        number, event = waiting.pop(0)
        ready = engines[number].step(event, now)
        written += [codec.encode(record) for record in ready.persist]
        if ready.persist or ready.send_after_persist:
            waiting.append((number, Persisted(ready.number)))
        for send in [*ready.send_now, *ready.send_after_persist]:
            raw = codec.encode(send.message)
            said.append(raw)
            waiting.append((MEMBERS.index(send.to), Received(MEMBERS[number], raft_messages.decode_message(raw))))
    kinds = {raft_messages.decode_message(raw).__class__: raw for raw in said}
    records = {raft_messages.decode_record(raw).__class__: raw for raw in written}
    return list(kinds.values()), list(records.values())


@target(BadMessage, seeds=lambda: [b"\1\0" + raw for raw in _raft_talk()[0]], limit=1024)
def raft_message(data: bytes) -> None:
    """A member of a group that says anything: an engine takes it or drops it, before and after an election."""
    draw = Drawn(data)
    engine = _raft(0)
    now = 0.0
    for _ in range(draw.below(3)):
        now += 3.0
        ready = engine.step(TimerDue(), now)
        engine.step(Persisted(ready.number), now)
    sender = MEMBERS[1 + draw.below(2)]
    message = raft_messages.decode_message(draw.rest())
    for _ in range(2):
        ready = engine.step(Received(sender, message), now)
        assert all(entry.index == place for place, entry in enumerate(ready.committed, 1))
        now += 0.01
    engine.image()
    engine.status()


@target(BadMessage, StorageError, seeds=lambda: [story(*_raft_talk()[1]), *map(story, _raft_talk()[1])], limit=2048)
def raft_log(data: bytes) -> None:
    """Records of a member's log: the member starts from them, or says that they do not fit."""
    draw = Drawn(data)
    records = []
    while draw.more():
        records.append(raft_messages.decode_record(draw.piece()))
    engine = _raft(0, records)
    engine.step(TimerDue(), 1.0)
    engine.image()


@cache
def _bft_talk() -> tuple[tuple[bytes, bytes, bytes], ...]:
    cluster = Cluster(seed=3)
    said: list[tuple[bytes, bytes, bytes]] = []
    for turn in range(60):
        cluster.submit(b"request %d" % turn)
        for _ in range(40):
            cluster.flush()
            if not cluster.bag:
                break
            said.append(cluster.bag[0])
            cluster.deliver(0)
        if turn % 5 == 4:
            cluster.pass_time()
    kinds = {bft_messages.decode_message(each[2]).__class__: each for each in said}
    return tuple(kinds.values())


@target(BadMessage, seeds=lambda: [b"\1" + raw for _, _, raw in _bft_talk()] + [b"\0"], limit=2048)
def bft_message(data: bytes) -> None:
    """A member that lies: nothing is agreed on by what one of four says, nothing is raised."""
    draw = Drawn(data)
    cluster = Cluster(seed=3)
    cluster.submit(b"request 0")
    for _ in range(draw.below(4)):
        cluster.flush()
        if cluster.bag:
            cluster.deliver(0)
    message = bft_messages.decode_message(draw.rest())
    sender, me = cluster.configuration.members[1], cluster.configuration.members[0]
    before = dict(cluster.agreed)
    for _ in range(2):
        cluster.honest[me].step(Received(sender, message))
    assert cluster.agreed == before, "one member's word was enough"
    cluster.honest[me].engine.image()


@target(BadMessage, seeds=lambda: [codec.encode(bft_messages.GaveUp(3)), *(raw for _, _, raw in _bft_talk())])
def bft_record(data: bytes) -> None:
    """A record of a byzantine member's log."""
    record = bft_messages.decode_record(data)
    assert bft_messages.decode_record(codec.encode(record)) == record


# --- the machine ----------------------------------------------------------------------------------------------


class Withdraw(titan.Message[int], frozen=True, namespace="fuzz"):
    account: str
    pence: int


@mutable("bank/*")
class Bank:
    """An object with a state."""

    balances: dict[str, int] = {"rent": 1000}

    def withdraw(self, m: Withdraw, ctx: titan.Context) -> int:
        self.balances[m.account] = self.balances.get(m.account, 0) - m.pence
        if m.pence > 1000:
            raise ValueError("so much?")
        ctx.schedule(60.0, Withdraw("fee", 1))
        ctx.send_later("log", m.account)
        return self.balances[m.account]

    def put(self, amounts: dict[str, int]) -> int:
        self.balances.update(amounts)
        return len(self.balances)


def _machine() -> Machine:
    return Machine(mutable_type(Bank), Bank(), "bank/x", b"B" * 32)


def _batch(*messages: Any, now: float = NOW) -> bytes:
    requests = [Request(b"A" * 32, 0, 0, 0, "", OPEN, b"\xc0"), Request(b"A" * 32, 0, 0, 0, "", DELIVERED, b"\1")]
    for number, message in enumerate(messages):
        requests.append(Request(b"A" * 32, 0, 0, 0, f"once {number}", *encode_message(message)))
    return codec.encode(Batch(now, b"seed", tuple(requests)))


def _orders() -> list[bytes]:
    some = _batch(Withdraw("rent", 5), {"x": 1}, Withdraw("rent", 5000))
    return [story(some, _batch("hello", now=NOW + 100)), story(b"\xc0")]


@target(seeds=_orders)
def ordered(data: bytes) -> None:
    """Batches that the members have agreed on, whatever is in them: two members end in the same state."""
    one, two = _machine(), _machine()
    draw = Drawn(data)
    height = 0
    while draw.more():
        height += 1
        entry = Entry(height, 1, EntryKind.COMMANDS, draw.piece())
        assert one.execute(entry).replies == two.execute(entry).replies
    assert one.root() == two.root()
    three = _machine()
    three.restore(one.snapshot())
    assert three.root() == one.root(), "a snapshot is not the state"


def _cache() -> Machine:
    return Machine(mutable_type(Cache), Cache(), "cache/x", b"C" * 32)


def _cache_snapshots() -> list[bytes]:
    machine = _cache()
    machine.execute(Entry(1, 1, EntryKind.COMMANDS, _batch(Set(b"key", b"value", 5), Set(b"other", b"", 0))))
    return [story(*machine.snapshot()), story(*_cache().snapshot())]


@target(BadMessage, seeds=_cache_snapshots)
def own_snapshot(data: bytes) -> None:
    """A state that another member sends, of an object that keeps its own snapshots: its state, or none."""
    draw = Drawn(data)
    machine = _cache()
    machine.restore([draw.piece() for _ in iter(draw.more, False)])
    machine.execute(Entry(machine.height + 1, 1, EntryKind.COMMANDS, _batch(Set(b"key", b""), now=machine.now)))
    machine.root()


def _snapshots() -> list[bytes]:
    machine = _machine()
    machine.execute(Entry(1, 1, EntryKind.COMMANDS, _batch(Withdraw("rent", 5))))
    odd = _machine()
    odd.instance.balances["fee"] = 1.5  # handlers can: annotations hold nobody
    return [story(*each.snapshot()) for each in (machine, _machine(), odd)]


@target(BadMessage, seeds=_snapshots)
def snapshot(data: bytes) -> None:
    """A state that another member sends: a state of this object, or none."""
    draw = Drawn(data)
    chunks = []
    while draw.more():
        chunks.append(draw.piece())
    machine = _machine()
    machine.restore(chunks)
    again = _machine()
    again.restore(machine.snapshot())
    assert again.root() == machine.root(), "it is not as it was left"
    machine.execute(Entry(machine.height + 1, 1, EntryKind.COMMANDS, _batch(Withdraw("rent", 5), now=machine.now)))
    machine.root()


def _files() -> list[bytes]:
    head = snapshots.Head(*_head())
    return [run(_file(head, [b"chunk", b"more"])), run(_file(head, []))]  # type: ignore[list-item]


async def _file(head: snapshots.Head, chunks: list[bytes]) -> bytes:
    store = snapshots.Snapshots(MemoryDisk(), b"B" * 32)
    await store.write(head, chunks)
    _, data = await store.piece(head.checkpoint.index, 0, 1 << 20)
    return data[:-32]


def _head() -> tuple[Any, ...]:
    return tuple(b"B" * 32 if name == "object_id" else _plain(name) for name in snapshots.Head.__struct_fields__)


def _plain(name: str) -> Any:
    return getattr(sample(snapshots.Head), name)


@target(BadMessage, seeds=_files)
def snapshot_file(data: bytes) -> None:
    """The file of a snapshot; its hash is made to fit, as whoever sends it can."""
    assert run(_state_bytes(data + sha256(data).digest())) <= len(data)  # type: ignore[operator]


async def _state_bytes(data: bytes) -> int:
    store = snapshots.Snapshots(MemoryDisk(), b"B" * 32)
    await store.add(data, 0)
    return sum([len(chunk) async for chunk in store.chunks(await store.fetched())])


# --- the log --------------------------------------------------------------------------------------------------

IDENTITY = Identity(b"n" * 32, b"l" * 32, 1, 1)


def _segments() -> list[bytes]:
    header = encode_header(IDENTITY, 1, 1)
    batch = encode_batch(IDENTITY, 1, [Written(b"g" * 32, Act.REPLACE, [b"record"])])
    more = encode_batch(IDENTITY, 2, [Written(b"g" * 32, Act.APPEND, [b"r" * 9]), Written(b"h", Act.DROP, [])])
    return [header + batch + more, header + batch + more[:30], encode_identity(IDENTITY)]


@target(StorageError, seeds=_segments)
def log_segment(data: bytes) -> None:
    """A segment of the write-ahead log, and the file that says which there are: whole batches, or what was lost."""
    try:
        identity = decode_identity(data)
    except StorageError:
        scan = Scan(IDENTITY, 1, data)
        contents = Contents()
        for batch in scan.batches:
            contents.take(1, batch)
        assert scan.end <= len(data)
        contents.check()
    else:
        assert encode_identity(identity)


# --- votes ----------------------------------------------------------------------------------------------------


def _answers() -> list[bytes]:
    one, other = codec.encode([1, 2.0, {"a": None}]), codec.encode([2.0, 1, {"a": None}])
    return [story(one) + other, story(b"\xc0") + b"\xc0"]


@target(BadMessage, seeds=_answers)
def compared(data: bytes) -> None:
    """Two answers of voters: equality is symmetric, and everything equals itself."""
    draw = Drawn(data)
    first, second = draw.piece(), draw.rest()
    for name in ("exact", "set", "close:1e-6"):
        comparison = Comparison(name)
        one, two = comparison.form(first), comparison.form(second)
        assert comparison.same(one, one) and comparison.same(two, two)
        assert comparison.same(one, two) == comparison.same(two, one)
