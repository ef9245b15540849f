"""What a log writes through: on the spot while the disk is quick, in a thread while it is not."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from titan_overlay.storage.scribe import AWAY, QUICK_SECONDS, SHORT_BYTES, Scribe

SLOW = 10 * QUICK_SECONDS


class Machine:
    """A directory whose disk takes as long as it is told, on a clock that nothing else moves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.takes = 0.0
        self.broken = False
        self.opened: list[str] = []
        self.wrote: list[tuple[str, bool]] = []
        """Path, and whether the loop was held up for it."""
        self._loops = threading.current_thread()
        self.scribe = Scribe(self._open, self._wrote, lambda: self.now)

    def _open(self, path: str) -> int:
        if self.broken:
            raise OSError(5, "broken")
        self.opened.append(path)
        return os.open(self.root / path, os.O_WRONLY | os.O_CREAT, 0o600)

    def _wrote(self, path: str) -> None:
        self.now += self.takes
        self.wrote.append((path, threading.current_thread() is self._loops))

    async def writes(self, data: bytes = b"x", path: str = "log") -> bool:
        """Whether it was written on the spot."""
        await self.scribe.write(path, data, 0)
        return self.wrote[-1][1]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.scribe.close()


async def test_a_quick_disk_is_written_to_on_the_spot(machine: Machine) -> None:
    machine.takes = QUICK_SECONDS / 2
    future = machine.scribe.write("log", b"durable", 0)
    assert future.done()
    assert (machine.root / "log").read_bytes() == b"durable"
    assert await machine.writes()
    assert machine.opened == ["log"]


async def test_a_disk_that_was_slow_is_left_to_the_thread_for_a_hundred_times_as_long(machine: Machine) -> None:
    machine.takes = SLOW
    assert await machine.writes()  # nobody could know
    machine.takes = 0.0
    assert not await machine.writes()
    machine.now += AWAY * SLOW * 0.99
    assert not await machine.writes()
    machine.now += AWAY * SLOW * 0.02
    assert await machine.writes()


async def test_a_disk_that_stays_slow_holds_up_the_loop_once(machine: Machine) -> None:
    machine.takes = SLOW
    spot = [await machine.writes() for _ in range(300)]  # thrice as long as one slow write keeps it away
    assert spot == [True] + 299 * [False]


async def test_much_is_written_in_the_thread_and_says_nothing_about_the_disk(machine: Machine) -> None:
    machine.takes = SLOW
    assert not await machine.writes(bytes(SHORT_BYTES + 1))
    machine.takes = 0.0
    assert await machine.writes()


async def test_no_write_overtakes_one_in_the_thread(machine: Machine) -> None:
    large = machine.scribe.write("log", bytes(SHORT_BYTES + 1), 0)
    small = machine.scribe.write("log", b"last", 0)
    assert not small.done()
    await asyncio.gather(large, small)
    assert [spot for _, spot in machine.wrote] == [False, False]
    assert (machine.root / "log").read_bytes()[:5] == b"last\0"
    assert await machine.writes()


@pytest.mark.parametrize("size", [1, SHORT_BYTES + 1])
async def test_what_fails_is_said_and_the_next_write_opens_the_file_anew(machine: Machine, size: int) -> None:
    machine.broken = True
    with pytest.raises(OSError, match="broken"):
        await machine.writes(bytes(size))
    machine.broken = False
    await machine.writes(bytes(size))
    assert (machine.root / "log").stat().st_size == size


@pytest.mark.parametrize("size", [1, SHORT_BYTES + 1])
async def test_a_file_that_fails_as_it_is_closed_leaves_nobody_waiting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    close = os.close

    def fails(descriptor: int) -> None:
        close(descriptor)
        raise OSError(28, "no room, says the file server")

    def broken(path: str) -> None:
        raise OSError(5, "broken")

    machine.scribe._wrote = broken
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fails)
        future = machine.scribe.write("log", bytes(size), 0)
        with pytest.raises(OSError, match="broken"):
            await future


@pytest.mark.parametrize("size", [1, SHORT_BYTES + 1])
async def test_a_forgotten_path_may_be_another_file(machine: Machine, size: int) -> None:
    await machine.writes(bytes(size))
    os.replace(machine.root / "log", machine.root / "old")
    machine.scribe.forget("other")
    machine.scribe.forget("log")
    await machine.writes(b"new")
    assert (machine.root / "log").read_bytes() == b"new"
    assert machine.opened == ["log", "log"]


async def test_closing_waits_for_what_was_ordered(machine: Machine) -> None:
    future = machine.scribe.write("log", bytes(SHORT_BYTES + 1), 0)
    machine.scribe.close()
    assert (machine.root / "log").stat().st_size == SHORT_BYTES + 1
    await future
