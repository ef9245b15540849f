"""What a task takes that no limit of the kernel holds: processes (its own count is of all that a user runs, and not of
root's) and disk. Both are looked at while tasks run, of all tasks together; who takes too much is ended.

Between two looks a task may take more than it should: limits leave room for what a machine does in that time.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from titan_objects.dag.journal import Failure

MARK = "TITAN_TASK"
"""Environment variable that all processes of a task have, whatever they do to hide."""
PROCESSES_SECONDS = 0.25
DISK_SECONDS = 1.0
DISK_SHARE = 0.05
"""Of the time, that is spent on looking at directories at most."""
ENTRY_BYTES = 4096
"""What a file or directory takes at least: those without content fill a disk too."""
END_SECONDS = 10.0
"""So long is tried to end what forks again and again."""
PAUSE_SECONDS = 0.01
ROUNDS = 100
_PROC = Path("/proc")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one task."""

    processes: int = 512
    """With threads not counted."""
    disk: int = 8 << 30
    """Bytes of its directory."""


class Watched:
    """A task that is looked at."""

    def __init__(self, session: int, mark: str, place: Path | None) -> None:
        self.session = session
        self.mark = f"{MARK}={mark}".encode()
        self.place = place
        self.broken: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        """What it did, once it has taken too much."""


class Watch:
    """Looks at tasks as long as there are any."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._watched: set[Watched] = set()
        self._looking: dict[Callable[..., object], asyncio.Task[None]] = {}
        """By what is looked with."""

    @contextmanager
    def over(self, session: int, mark: str, place: Path | None = None) -> Iterator["asyncio.Future[Failure]"]:
        """Gives what is done once it takes too much.

        Args:
            session: of its processes; those that left it are known by their mark.
            place: its directory.
        """
        watched = Watched(session, mark, place)
        self._watched.add(watched)
        for look, seconds, share in (
            (self._count, PROCESSES_SECONDS, 1.0),
            (self._measure, DISK_SECONDS, DISK_SHARE),
        ):
            if look not in self._looking or self._looking[look].done():
                self._looking[look] = asyncio.create_task(self._look(look, seconds, share))
        try:
            yield watched.broken
        finally:
            self._watched.discard(watched)

    async def close(self) -> None:
        """Looks no more."""
        for each in self._looking.values():
            each.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)

    async def _look(
        self, look: Callable[[list[Watched]], Mapping[Watched, Failure]], seconds: float, share: float
    ) -> None:
        loop = asyncio.get_running_loop()
        while self._watched:
            began = loop.time()
            for watched, why in (await asyncio.to_thread(look, list(self._watched))).items():
                if not watched.broken.done():
                    watched.broken.set_result(why)
            await asyncio.sleep(max(seconds, (loop.time() - began) * (1 / share - 1)))

    def _count(self, watched: list[Watched]) -> dict[Watched, Failure]:
        most = self.limits.processes
        counts = count_processes(watched)
        text = f"it started more processes than the {most} that a task may have here, and was ended"
        return {each: Failure("TooManyProcesses", text, False) for each, count in counts.items() if count > most}

    def _measure(self, watched: list[Watched]) -> dict[Watched, Failure]:
        most = self.limits.disk
        text = f"its directory grew beyond the {most} bytes that a task may have here, and it was ended"
        why = Failure("TooMuchDisk", text, False)
        return {each: why for each in watched if each.place is not None and is_larger(each.place, most)}


def count_processes(watched: list[Watched]) -> dict[Watched, int]:
    """How many processes each has."""
    sessions, marks = {each.session: each for each in watched}, {each.mark: each for each in watched}
    counts = dict.fromkeys(watched, 0)
    for pid in _processes():
        found = sessions.get(_session(pid)) or next((marks[each] for each in _environment(pid) if each in marks), None)
        if found is not None:
            counts[found] += 1
    return counts


def is_larger(place: Path, most: int) -> bool:
    """Whether a directory takes more than so many bytes. What vanishes meanwhile does not count."""
    size = 0
    waiting = [str(place)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    size += max(ENTRY_BYTES, 512 * entry.stat(follow_symlinks=False).st_blocks)
                    if size > most:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return False


async def end(process: asyncio.subprocess.Process, mark: str) -> None:
    """Ends a program and all that it started, even what has left its session, and waits for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    until = asyncio.get_running_loop().time() + END_SECONDS
    own = f"{MARK}={mark}".encode()
    while await asyncio.to_thread(_end_marked, lambda each: each == own):  # what forked meanwhile has the mark too
        if asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    transport = process._transport  # type: ignore[attr-defined]
    for number in range(3):  # whoever else may hold their other ends
        if (pipe := transport.get_pipe_transport(number)) is not None:
            pipe.close()
    await process.wait()
    transport.close()
    await asyncio.sleep(0)


def end_all(begin: str) -> None:
    """Ends all processes whose marks begin so, as far as that can be done by killing them a few times."""
    for _ in range(ROUNDS):
        if not _end_marked(lambda each: each.startswith(f"{MARK}={begin}".encode())):
            break


def _end_marked(is_wanted: Callable[[bytes], bool]) -> bool:
    """Kills every process with a variable of this kind in its environment; whether there were any."""
    found = False
    for pid in _processes():
        if any(map(is_wanted, _environment(pid))):
            found = True
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                if (group := os.getpgid(pid)) != os.getpgrp():
                    os.killpg(group, signal.SIGKILL)  # at once with its kin: one by one, they might fork on
    return found


def _processes() -> list[int]:
    return [int(each) for each in os.listdir(_PROC) if each.isdecimal()] if _PROC.is_dir() else []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
