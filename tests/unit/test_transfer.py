"""Fetching from several holders: some lie, some die, some are slow, and the content arrives or nothing does."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    Overloaded,
    RemoteError,
    StorageError,
    Unavailable,
)
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Content, Descriptor
from titan_overlay.pool.hosting.data import PAGE_BYTES, READ_BYTES_MAX, DataRunner, Fetch, Manifest, Read, StoredContent
from titan_overlay.pool.keeping.transfer import (
    BEHIND_SECONDS,
    LATE_SECONDS,
    PATIENCE_FIRST,
    REFUSALS_MAX,
    STRIKES_MAX,
    FileSink,
    Holders,
    MemorySink,
    Source,
    fetch,
)
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import CHUNK_BYTES
from titan_overlay.storage.disk import RealDisk
from titan_overlay.storage.files import BytesSource, describe_bytes, open_source
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

KEY = SigningKey(b"k" * 32)
Behaviour = Callable[[str, bytes], Awaitable[bytes]]


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


DATA = some_bytes(9 * CHUNK_BYTES + 1234)
CONTENT_ID, CONTENT, MANIFEST = describe_bytes(DATA)


def runner_of(source: Any) -> DataRunner:
    descriptor = Descriptor(names.content_name(source.digest), "data", "", 1, 0.0, content=source.content)
    return DataRunner(source, records.sign(descriptor, KEY, PoolId(bytes(32))))


class World:
    """Holders by number, each with a behaviour, and what they were asked."""

    def __init__(self, data: bytes = DATA) -> None:
        self.runner = runner_of(BytesSource(data))
        self.behaviours: dict[int, Behaviour] = {}
        self.asked: Counter[int] = Counter()
        self.in_flight = self.in_flight_max = 0

    def add(self, behaviour: Behaviour | None = None) -> Contact:
        number = len(self.behaviours) + 1
        self.behaviours[number] = behaviour or self.honest
        return Contact(bytes([number]) * 32, "192.0.2.1", number)

    async def honest(self, type: str, body: bytes) -> bytes:
        return await self.runner.call(type, body, None)

    async def ask(self, contact: Contact, type: str, body: bytes, deadline: float) -> bytes:
        assert deadline >= asyncio.get_running_loop().time()
        self.asked[contact.port] += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await asyncio.sleep(0)
            return await self.behaviours[contact.port](type, body)
        finally:
            self.in_flight -= 1

    async def fetch(self, sources: list[Contact], sink: Any = None, *, seconds: float = 60.0, **options: Any) -> bytes:
        target = sink if sink is not None else MemorySink()
        deadline = asyncio.get_running_loop().time() + seconds
        digest, content = self.runner.source.digest, self.runner.source.content
        await fetch(digest, content, sources, self.ask, target, deadline=deadline, **options)
        return target.value() if sink is None else b""


def raising(error: Exception) -> Behaviour:
    async def behave(type: str, body: bytes) -> bytes:
        raise error

    return behave


def replying(reply: Any) -> Behaviour:
    async def behave(type: str, body: bytes) -> bytes:
        return codec.encode(reply)

    return behave


# --- it arrives ---


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES])
async def test_a_content_of_any_size_arrives(size: int) -> None:
    data = some_bytes(size)
    world = World(data)
    assert await world.fetch([world.add(), world.add()]) == data


async def test_several_holders_share_the_work() -> None:
    world = World()
    assert await world.fetch([world.add() for _ in range(3)]) == DATA
    assert all(world.asked[number] >= 2 for number in (1, 2, 3))
    assert world.asked.total() == 11  # ten chunks and the manifest


async def test_a_small_content_costs_one_question() -> None:
    world = World(b"small")
    assert await world.fetch([world.add()]) == b"small"
    assert world.asked.total() == 1


async def test_what_is_in_flight_is_bounded() -> None:
    world = World()
    await world.fetch([world.add() for _ in range(5)], parallel=3)
    assert world.in_flight_max == 3


async def test_progress_is_told_from_nothing_to_all() -> None:
    world = World()
    told: list[tuple[int, int]] = []
    await world.fetch([world.add()], progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, len(DATA)) and told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told) and len(told) == 11


@pytest.mark.loops("virtual")
async def test_a_fast_holder_gives_most() -> None:
    world = World(some_bytes(40 * CHUNK_BYTES))

    async def slow(type: str, body: bytes) -> bytes:
        await asyncio.sleep(1.0)
        return await world.honest(type, body)

    async def fast(type: str, body: bytes) -> bytes:
        await asyncio.sleep(0.05)
        return await world.honest(type, body)

    await world.fetch([world.add(slow), world.add(fast)])
    assert world.asked[2] > 5 * world.asked[1]


async def test_it_arrives_in_the_store_and_in_a_file(tmp_path: Path) -> None:
    world = World()
    blobs = Blobs(MemoryDisk(), 1 << 30)
    await blobs.open()
    await world.fetch([world.add()], blobs)
    assert blobs.has(CONTENT_ID)
    second = World()
    second.runner = runner_of(StoredContent(blobs, ObjectId(CONTENT_ID), CONTENT))
    await second.fetch([second.add()], FileSink(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == DATA
    third = World()
    third.runner = runner_of(await open_source(tmp_path / "file"))
    assert await third.fetch([third.add()]) == DATA


# --- holders that lie or die ---

LIARS: dict[str, Behaviour] = {
    "other bytes": replying(bytes(CHUNK_BYTES)),
    "no bytes": replying(b""),
    "not even bytes": replying(["what?"]),
    "too many bytes": replying(bytes(3 * CHUNK_BYTES)),
    "no copy": raising(NotHere("gone")),
    "an error": raising(RemoteError("boom")),
    "a refusal": raising(BadMessage("what?")),
    "a broken link": raising(LinkError("reset")),
    "no time": raising(DeadlineExceeded("late")),
}


@pytest.mark.parametrize("liar", LIARS.values(), ids=LIARS.keys())
async def test_a_holder_that_lies_or_dies_is_left_out(liar: Behaviour) -> None:
    world = World()
    sources = [world.add(liar), world.add(), world.add(liar)]
    assert await world.fetch(sources) == DATA
    # One question for the manifest, and as many as can be under way before the first verdict.
    assert world.asked[1] <= 1 + STRIKES_MAX + 4 and world.asked[3] <= STRIKES_MAX + 4


@pytest.mark.parametrize("liar", LIARS.values(), ids=LIARS.keys())
async def test_where_all_lie_or_die_it_says_whom_it_asked(liar: Behaviour) -> None:
    world = World()
    with pytest.raises(Unavailable, match=r"192\.0\.2\.1:1.*are here and stay"):
        await world.fetch([world.add(liar), world.add(liar)])


async def test_a_holder_that_tells_the_truth_only_about_the_manifest_is_left_out() -> None:
    world = World()

    async def two_faced(type: str, body: bytes) -> bytes:
        return await world.honest(type, body) if type == "titan.Manifest" else codec.encode(bytes(CHUNK_BYTES))

    assert await world.fetch([world.add(two_faced), world.add()]) == DATA
    with pytest.raises(Unavailable, match="not what the manifest says"):
        await world.fetch([world.add(two_faced)])


async def test_a_holder_that_dies_in_the_middle_is_replaced() -> None:
    world = World()

    async def mortal(type: str, body: bytes) -> bytes:
        if world.asked[1] > 4:
            raise LinkError("killed")
        return await world.honest(type, body)

    assert await world.fetch([world.add(mortal), world.add()]) == DATA


async def test_a_link_that_breaks_once_is_tried_again() -> None:
    world = World()

    async def hiccup(type: str, body: bytes) -> bytes:
        if world.asked[1] == 3:
            raise LinkError("reset")
        return await world.honest(type, body)

    assert await world.fetch([world.add(hiccup)]) == DATA


async def test_without_holders_there_is_nothing_to_wait_for() -> None:
    with pytest.raises(Unavailable, match="no holder is known"):
        await World().fetch([])


async def test_a_descriptor_that_lies_about_its_own_content_fails() -> None:
    world = World()
    sink = MemorySink()
    deadline = asyncio.get_running_loop().time() + 60
    with pytest.raises(BadMessage, match="are not sha256"):
        await fetch(b"l" * 32, CONTENT, [world.add()], world.ask, sink, deadline=deadline)
    for content in (Content(5, 7, bytes(32)), Content(-1, CHUNK_BYTES, bytes(32)), Content(1, CHUNK_BYTES, b"")):
        with pytest.raises(BadMessage):
            await fetch(CONTENT_ID, content, [world.add()], world.ask, sink, deadline=deadline)


async def test_a_sink_without_room_ends_the_transfer_with_its_own_error() -> None:
    world = World()
    blobs = Blobs(MemoryDisk(), 1 << 20)
    with pytest.raises(Overloaded, match="--max-bytes"):
        await world.fetch([world.add()], blobs)
    disk = MemoryDisk()
    full = Blobs(disk, 1 << 30)

    def fill_up(operation: str, path: str) -> None:
        if operation == "write":
            disk.capacity = 3 * CHUNK_BYTES

    disk.on_operation = fill_up
    with pytest.raises(StorageError, match="full"):
        await world.fetch([world.add()], full)
    assert world.in_flight == 0


# --- time ---


@pytest.mark.loops("virtual")
async def test_a_holder_that_never_answers_holds_nobody_up_for_long() -> None:
    world = World()

    async def silent(type: str, body: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    started = asyncio.get_running_loop().time()
    assert await world.fetch([world.add(silent), world.add()], seconds=120.0) == DATA
    assert asyncio.get_running_loop().time() - started < 5 * LATE_SECONDS
    assert world.in_flight == 0


@pytest.mark.loops("virtual")
@pytest.mark.parametrize("size", [1000, CHUNK_BYTES, len(DATA)])
async def test_fifteen_holders_that_take_the_question_and_never_answer_do_not_hide_the_one_that_does(size: int) -> None:
    world = World(some_bytes(size))
    met: list[str] = []

    async def silent(type: str, body: bytes) -> bytes:
        met.append(type)
        await asyncio.Event().wait()
        raise AssertionError

    started = asyncio.get_running_loop().time()
    sources = [world.add(silent) for _ in range(15)] + [world.add()]
    assert await world.fetch(sources, seconds=PATIENCE_FIRST) == some_bytes(size)
    assert met
    assert asyncio.get_running_loop().time() - started < 10.0
    assert world.in_flight == 0


@pytest.mark.loops("virtual")
async def test_holders_that_give_the_manifest_and_stall_the_chunks_are_passed_over() -> None:
    world = World()

    async def stalling(type: str, body: bytes) -> bytes:
        if type == "titan.Manifest":
            return await world.honest(type, body)
        await asyncio.Event().wait()
        raise AssertionError

    sources = [world.add(stalling) for _ in range(7)] + [world.add()]
    assert await world.fetch(sources, seconds=10.0) == DATA


@pytest.mark.loops("virtual")
async def test_when_time_runs_out_it_says_how_far_it_came() -> None:
    world = World()

    async def slow(type: str, body: bytes) -> bytes:
        await asyncio.sleep(2.0)
        return await world.honest(type, body)

    started = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match=rf"{4 * CHUNK_BYTES} of {len(DATA)} bytes"):
        await world.fetch([world.add(slow)], seconds=5.0)
    assert asyncio.get_running_loop().time() - started == pytest.approx(5.0)
    assert world.in_flight == 0


@pytest.mark.loops("virtual")
async def test_an_overloaded_holder_is_given_a_pause_and_asked_again() -> None:
    world = World()

    async def busy(type: str, body: bytes) -> bytes:
        if type == "titan.Fetch" and world.asked[1] % 3 == 0:
            raise Overloaded("later", retry_after=0.5)
        return await world.honest(type, body)

    assert await world.fetch([world.add(busy)]) == DATA


@pytest.mark.loops("virtual")
async def test_a_holder_that_stays_overloaded_is_left_out() -> None:
    world = World()

    async def busy(type: str, body: bytes) -> bytes:
        if type == "titan.Fetch":
            raise Overloaded("later", retry_after=float("1e9"))
        return await world.honest(type, body)

    with pytest.raises(Unavailable, match="stays overloaded"):
        await world.fetch([world.add(busy)], seconds=600.0)


async def test_a_transfer_that_is_called_off_leaves_nothing_running() -> None:
    world = World()
    reached = asyncio.Event()

    async def hang(type: str, body: bytes) -> bytes:
        if type == "titan.Manifest":
            return await world.honest(type, body)
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.get_running_loop().create_task(world.fetch([world.add(hang)]))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.in_flight == 0
    assert not [each for each in asyncio.all_tasks() if each.get_name().startswith("fetch-")]


# --- going on ---


async def test_the_next_transfer_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    world = World()

    async def mortal(type: str, body: bytes) -> bytes:
        if world.asked[1] > 6:
            raise LinkError("killed")
        return await world.honest(type, body)

    target = tmp_path / "file"
    before: list[int] = []
    with pytest.raises(Unavailable, match="ask again to go on"):
        await world.fetch([world.add(mortal)], FileSink(target), progress=lambda done, _: before.append(done))
    assert not target.exists() and 0 < before[-1] < len(DATA)
    second = World()
    told: list[int] = []
    await second.fetch([second.add()], FileSink(target), progress=lambda done, _: told.append(done))
    assert target.read_bytes() == DATA
    assert told[0] >= before[-1]  # chunks whose write ended while the transfer was called off count too
    assert second.asked.total() == 1 + 10 - told[0] // CHUNK_BYTES


async def test_the_store_goes_on_after_a_restart_of_the_node() -> None:
    world = World()
    disk = MemoryDisk()
    first = Blobs(disk, 1 << 30)

    async def mortal(type: str, body: bytes) -> bytes:
        if world.asked[1] > 6:
            raise LinkError("killed")
        return await world.honest(type, body)

    with pytest.raises(Unavailable):
        await world.fetch([world.add(mortal)], first)
    assert 0 < first.used() < len(DATA) and first.partial() == [CONTENT_ID]
    survivor = disk.power_loss(random.Random(3))
    blobs = Blobs(survivor, 1 << 30)
    await blobs.open()
    second = World()
    await second.fetch([second.add()], blobs)
    assert blobs.has(CONTENT_ID)
    assert await blobs.get_small(CONTENT_ID) == DATA


# --- the schedule alone ---


VERDICTS = [NotHere("gone"), LinkError("reset"), DeadlineExceeded("late"), Overloaded("busy", retry_after=1.0), None]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(VERDICTS), st.booleans()), max_size=60))
def test_who_is_asked_is_alive_not_paused_and_not_asked_already(
    events: list[tuple[int, Exception | None, bool]],
) -> None:
    holders = Holders(Contact(bytes([n]) * 32, "h", n) for n in range(4))
    now, asked = 0.0, set[Source]()
    for number, verdict, late in events:
        source = holders.sources[number]
        if late:
            source.kept_waiting(now)
        if verdict is None:
            holders.arrived(source, 0.1)
        else:
            holders.failed(source, verdict, now)  # type: ignore[arg-type]
        now += 0.3
        best, wake = holders.best(now, asked), holders.wake(now, asked)
        if best is not None:
            assert not best.dropped and best.pause_until <= now and best not in asked
            assert (best.behind_until > now) == all(
                each.behind_until > now for each in holders.live() if each not in asked and each.pause_until <= now
            )
            asked.add(best)
        elif wake is not None:
            assert wake > now
            assert holders.best(wake, asked) is not None, "it is not woken for nothing"
        else:
            assert set(holders.live()) <= asked, "somebody waits for ever"
            asked.clear()


def test_one_that_is_late_is_asked_after_those_that_are_not() -> None:
    first, second = (holders := Holders([Contact(b"1" * 32, "h", 1), Contact(b"2" * 32, "h", 2)])).sources
    assert holders.best(0.0, ()) is first
    first.kept_waiting(0.0)
    assert holders.best(0.0, ()) is second
    second.kept_waiting(0.0)
    holders.arrived(first, 9.0)
    assert holders.best(0.0, ()) is first


def test_one_that_was_late_has_its_share_again_after_a_while() -> None:
    fast, slow = (holders := Holders([Contact(b"1" * 32, "h", 1), Contact(b"2" * 32, "h", 2)])).sources
    holders.arrived(fast, 1.0)
    holders.arrived(slow, 1.0)
    fast.in_flight = 4
    slow.kept_waiting(0.0)
    assert holders.best(0.0, ()) is fast
    assert holders.best(BEHIND_SECONDS[0], ()) is slow, "else the whole transfer comes from one holder"
    for _ in range(20):
        slow.kept_waiting(0.0)
    assert holders.best(BEHIND_SECONDS[1] - 1, ()) is fast, "one that stalls again and again costs less each time"
    assert holders.best(BEHIND_SECONDS[1], ()) is slow


def test_who_is_refused_often_or_fails_in_a_row_is_left_out() -> None:
    busy, dead = (holders := Holders([Contact(b"1" * 32, "h", 1), Contact(b"2" * 32, "h", 2)])).sources
    for _ in range(REFUSALS_MAX):
        assert busy in holders.live()
        holders.failed(busy, Overloaded("later", retry_after=0.0), 0.0)
    for _ in range(STRIKES_MAX):
        assert dead in holders.live()
        holders.failed(dead, LinkError("dead"), 0.0)
    assert holders.live() == [] and holders.best(99.0, ()) is None and holders.wake(0.0, ()) is None
    assert [source.dropped for source in holders.sources] == ["it stays overloaded", "dead"]


# --- what a data object answers ---


async def test_a_data_object_answers_manifest_fetch_and_read() -> None:
    data = some_bytes(READ_BYTES_MAX)
    runner = runner_of(BytesSource(data))
    given: list[int] = []
    runner.on_read = given.append

    async def call(message: Any) -> bytes:
        return codec.decode(await runner.call(message.wire_type, codec.encode(message), None), bytes)

    assert await call(Manifest()) == describe_bytes(data)[2]
    assert await call(Fetch(1)) == data[CHUNK_BYTES : 2 * CHUNK_BYTES]
    assert await call(Read()) == data
    assert given == [CHUNK_BYTES, CHUNK_BYTES + READ_BYTES_MAX]
    assert set(runner.types) == {"titan.Manifest", "titan.Fetch", "titan.Read"}


async def test_a_data_object_refuses_the_rest_with_what_to_do() -> None:
    runner = runner_of(BytesSource(DATA))
    for type, body, text in (
        ("titan.Read", Read(), "titan get"),
        ("titan.Fetch", Fetch(10), "no chunk 10"),
        ("titan.Fetch", Fetch(-1), "no chunk -1"),
        ("titan.Manifest", Manifest(1), "no page"),
        ("titan.Manifest", Manifest(-1), "no page"),
        ("str", "hello", "it takes titan.Manifest"),
        ("titan.Fetch", ["nonsense"], "not a Fetch"),
    ):
        with pytest.raises(BadMessage, match=text):
            await runner.call(type, codec.encode(body), None)


@given(body=st.binary(max_size=40), type=st.sampled_from(DataRunner.types))
async def test_any_body_is_answered_or_a_bad_message(body: bytes, type: str) -> None:
    runner = runner_of(BytesSource(b"data"))
    with suppress(BadMessage):
        codec.decode(await runner.call(type, body, None), bytes)


class _Huge:
    """A source of 3 GiB with a manifest and no bytes."""

    manifest_bytes = some_bytes(3 * 4096 * 32)

    def __init__(self) -> None:
        self.digest = bytes(32)
        self.content = Content(3 << 30, CHUNK_BYTES, bytes(32))

    async def manifest(self) -> bytes:
        return self.manifest_bytes

    async def read_chunk(self, index: int) -> bytes:
        raise NotHere("never asked")


async def test_a_long_manifest_comes_in_pages_that_fit_in_a_frame() -> None:
    runner = runner_of(_Huge())
    pages = []
    for page in range(2):
        body = await runner.call("titan.Manifest", codec.encode(Manifest(page)), None)
        assert len(body) < PAGE_BYTES + 16
        pages.append(codec.decode(body, bytes))
    assert b"".join(pages) == _Huge.manifest_bytes


async def test_a_real_disk_takes_part(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    blobs = Blobs(disk, 1 << 30)
    await blobs.open()
    world = World()
    await world.fetch([world.add(), world.add()], blobs)
    assert await blobs.get_small(CONTENT_ID) == DATA
    disk.close()
