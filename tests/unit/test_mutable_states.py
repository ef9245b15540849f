"""States on disk: one that is late never takes the place of a newer one, behind which the log may begin."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from titan_overlay.errors import DeadlineExceeded
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Checkpoint, Configuration, Entry, EntryKind, Fetch
from titan_overlay.mutable.epochs import Chain
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.states import FETCH_SECONDS, PIECE_BYTES, States
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("virtual")

OBJECT = b"o" * 32
FIRST = Configuration(1, (b"a" * 32,), keys=(b"k" * 32,))
CHAIN = Chain(FIRST)


class Group:
    """As much of a group as states ask for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.me = b"a" * 32
        self.byzantine = True
        self.has_stopped = False
        self.configuration = FIRST
        self.succession = SimpleNamespace(chain=CHAIN, is_news=lambda chain: False, check=lambda stored, wanted: None)
        self.machine = SimpleNamespace(
            object_id=OBJECT,
            name="bank/main",
            height=0,
            snapshot=lambda: iter([b"of the moment"]),
            restoring=lambda: SimpleNamespace(add=lambda c: None, check=lambda: None, finish=lambda: None),
        )
        self.taken: list[Checkpoint] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.installed = lambda chain, checkpoint: None
        self.peers = SimpleNamespace()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def snapshot_taken(self, checkpoint: Checkpoint) -> None:
        self.taken.append(checkpoint)


def at(index: int) -> Entry:
    return Entry(index, 1, EntryKind.COMMANDS, b"")


async def height_on_disk(snapshots: Snapshots) -> int:
    stored = await snapshots.newest()
    assert stored is not None
    return stored.head.checkpoint.index


async def test_a_snapshot_that_waited_for_a_newer_one_is_dropped() -> None:
    group, snapshots = Group(), Snapshots(MemoryDisk(), OBJECT)
    states = States(group, snapshots, Checkpoint(0, 0))  # type: ignore[arg-type]
    states.take(at(198))
    await asyncio.gather(*group.tasks)
    async with states._writing:  # a state that was fetched is being kept
        states.take(at(210))
        await asyncio.sleep(0)
        await snapshots.write(Head(OBJECT, Checkpoint(219, 1), CHAIN), [b"fetched"])
        states.checkpoint = Checkpoint(219, 1)
    await asyncio.gather(*group.tasks)
    assert await height_on_disk(snapshots) == states.checkpoint.index == 219
    assert [each.index for each in group.taken] == [198]


async def test_the_log_is_not_short_while_a_snapshot_of_it_is_made() -> None:
    """Else it would be written anew with all that the snapshot is to take off it."""
    group, snapshots = Group(), Snapshots(MemoryDisk(), OBJECT)
    states = States(group, snapshots, Checkpoint(0, 0))  # type: ignore[arg-type]
    assert states.log_is_short
    states.take(at(5))
    assert not states.log_is_short
    await asyncio.gather(*group.tasks)
    assert states.log_is_short


async def test_a_snapshot_of_an_epoch_that_has_ended_meanwhile_is_dropped() -> None:
    group, snapshots = Group(), Snapshots(MemoryDisk(), OBJECT)
    states = States(group, snapshots, Checkpoint(0, 0))  # type: ignore[arg-type]
    states.take(at(5))
    group.configuration = msgspec.structs.replace(group.configuration, epoch=2)
    await asyncio.gather(*group.tasks)
    assert await snapshots.newest() is None and group.taken == []


async def test_a_state_that_comes_when_this_member_is_further_is_not_kept() -> None:
    group, snapshots, given = Group(), Snapshots(MemoryDisk(), OBJECT), MemoryDisk()
    states = States(group, snapshots, Checkpoint(0, 0))  # type: ignore[arg-type]
    await Snapshots(given, OBJECT).write(Head(OBJECT, Checkpoint(100, 1), CHAIN), [b"old"])
    [path] = await given.list("groups/")
    await snapshots.add(await given.read(path, 0, 10_000), 0)
    states.take(at(128))
    await asyncio.gather(*group.tasks)
    await states._install(await snapshots.fetched(), Checkpoint(100, 1))
    assert await height_on_disk(snapshots) == states.checkpoint.index == 128


# ---- from another member, which may lie -----------------------------------------------------------------------------


class Source:
    """A member that gives its snapshot away in pieces."""

    def __init__(self, file: bytes, index: int) -> None:
        self.file = file
        self.index = index
        self.asked = 0

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        self.asked += 1
        return talk.StatePiece(self.index, len(self.file), self.file[wanted.offset : wanted.offset + PIECE_BYTES])


class Endless(Source):
    """It has always more to give."""

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        self.asked += 1
        await asyncio.sleep(FETCH_SECONDS / 2)
        return talk.StatePiece(self.index, 1 << 20, b"x")


class Restless(Source):
    """It always has a newer one."""

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        self.asked += 1
        await asyncio.sleep(1.0)
        return talk.StatePiece(self.index + self.asked, 100, b"x")


class Boundless(Source):
    """It gives more than it has said, or than there is room for."""

    def __init__(self, size: int) -> None:
        super().__init__(b"", 100)
        self.size = size

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        self.asked += 1
        return talk.StatePiece(self.index, self.size, bytes(PIECE_BYTES))


@pytest.mark.parametrize(
    ("liar", "asked_max"),
    [
        (Endless(b"", 100), 10),
        (Restless(b"", 100), 40),
        (Boundless(1), 1),
        (Boundless(1 << 50), 1),
    ],
    ids=["slow", "restless", "more than said", "more than there is room for"],
)
async def test_a_liar_among_the_sources_keeps_no_member_from_its_state(liar: Source, asked_max: int) -> None:
    group, snapshots, given = Group(), Snapshots(MemoryDisk(), OBJECT), MemoryDisk()
    await Snapshots(given, OBJECT).write(Head(OBJECT, Checkpoint(100, 1), CHAIN), [bytes(PIECE_BYTES), b"agreed"])
    [path] = await given.list("groups/")
    sources = {b"liar": liar, b"honest": Source(await given.read(path), 100)}

    async def ask(member: bytes, type: str, body: bytes, timeout: float) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return codec.encode(await sources[member].piece(codec.decode(body, talk.StateWanted)))
        except TimeoutError:
            raise DeadlineExceeded("no answer") from None

    group.peers = SimpleNamespace(ask=ask)
    states = States(group, snapshots, Checkpoint(0, 0))  # type: ignore[arg-type]
    states.fetch(Fetch(Checkpoint(100, 1), (b"liar", b"honest")))
    await asyncio.wait_for(asyncio.gather(*group.tasks), 600)
    assert await height_on_disk(snapshots) == 100
    assert liar.asked <= asked_max
