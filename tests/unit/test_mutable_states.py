"""States on disk: one that is late never takes the place of a newer one, behind which the log may begin."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from titan_overlay.mutable.engine import Checkpoint, Configuration, Entry, EntryKind
from titan_overlay.mutable.epochs import Chain
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.states import States
from titan_overlay.testing.disk import MemoryDisk

pytestmark = pytest.mark.loops("virtual")

OBJECT = b"o" * 32
FIRST = Configuration(1, (b"a" * 32,), keys=(b"k" * 32,))
CHAIN = Chain(FIRST)


class Group:
    """As much of a group as states ask for."""

    def __init__(self) -> None:
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
