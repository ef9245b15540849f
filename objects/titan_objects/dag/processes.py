"""Processes of tasks: started, bounded, streamed, and ended with all that they have started."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from titan_objects.dag.inside import Question
from titan_objects.dag.journal import Failure
from titan_objects.dag.limits import MARK, Watch, end

PIECE_BYTES = 16 << 10
LINE_BYTES_MAX = 4 << 10
FILE_BYTES_MAX = 4 << 30
LATE_SECONDS = 0.5
"""So long is waited for the last that a task has written: what it left behind may hold the pipes open."""
LOOK_SECONDS = 0.1
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH")

_FULL = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""The machine is short of something just now."""

_NAMES = {int(each): each.name for each in signal.Signals}
"""Of signals; those for real time have none."""

Say = Callable[[str], None]
"""Takes a line of output."""


class Ear(Protocol):
    """Hears what a task says while it runs."""

    def line(self, text: str) -> None:
        """It has written a line."""

    def progress(self, done: float) -> None:
        """So much of it is done, 0 to 1."""

    def up(self, where: Any) -> None:
        """It is a service, and answers there now."""

    async def ask(self, what: Question) -> Any:
        """It wants something, and gives the answer to go on with, in builtins. Raises TitanError: it gets none."""


class Failed(Exception):
    """An attempt failed."""

    def __init__(self, kind: str, text: str, retryable: bool = True) -> None:
        super().__init__(text)
        self.failure = Failure(kind, text, retryable)


def decoded(data: bytes | bytearray, kind: Any = Any) -> Any:
    """What a task or another worker gave. Raises Failed: it is no msgpack of this type."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise Failed("Garbage", f"a value that cannot be read: {why}") from None


async def start(
    words: Sequence[str],
    directory: Path,
    mark: str,
    *,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
    memory: int = 0,
    env: dict[str, str] | None = None,
) -> asyncio.subprocess.Process:
    """Starts a program in a session of its own, with limits.

    Args:
        stdin, stderr: as `subprocess.Popen` takes them; its standard output is a pipe.
        memory: bytes of address space that it may have; 0: any.

    Raises:
        Failed: it cannot be started.
    """

    def limit() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *words,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=directory,
            env={**environment, **(env or {}), MARK: mark},
            start_new_session=True,
            preexec_fn=limit,
        )
    )
    try:
        return await asyncio.shield(starting)  # cancelled itself, it would wait for whatever holds its pipes
    except (OSError, ValueError) as why:
        raise cannot_start(words[0], why) from None
    except asyncio.CancelledError:
        await asyncio.shield(_end_once_started(starting, mark))
        raise


async def _end_once_started(starting: "asyncio.Future[asyncio.subprocess.Process]", mark: str) -> None:
    with suppress(OSError, ValueError):
        await end(await starting, mark)


def cannot_start(program: str, why: OSError | ValueError) -> Failed:
    """The failure; to try again helps if the machine is short of something just now."""
    reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
    return Failed("CannotStart", f"{program}: {reason}", isinstance(why, OSError) and why.errno in _FULL)


@contextmanager
def unless(broken: "asyncio.Future[Failure]") -> Iterator[None]:
    """Ends what is awaited in the block as soon as the task has taken too much, and raises Failed."""
    task, inside, ended = asyncio.current_task(), True, False
    assert task is not None

    def end_it(_: object) -> None:
        nonlocal ended
        if inside:  # it may be called a turn late
            ended = task.cancel()

    broken.add_done_callback(end_it)
    try:
        yield
    except asyncio.CancelledError:
        if not ended or task.uncancel():  # somebody else wants an end of it too
            raise
        why = broken.result()
        raise Failed(why.kind, why.text, why.retryable) from None
    finally:
        inside = False
        broken.remove_done_callback(end_it)


class Lines:
    """Cuts what a program writes into lines, and what has no end into pieces.

    Args:
        say: takes each.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._rest = b""

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Takes all that comes."""
        while piece := await reader.read(PIECE_BYTES):
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._say(line[:LINE_BYTES_MAX].decode(errors="replace"))
            if len(self._rest) > LINE_BYTES_MAX:
                self.end()
        self.end()

    def end(self) -> None:
        """What came last is a line."""
        rest, self._rest = self._rest[:LINE_BYTES_MAX], b""
        if rest:
            self._say(rest.decode(errors="replace"))


async def run_command(
    words: Sequence[str],
    directory: Path,
    mark: str,
    say: Say,
    watch: Watch,
    *,
    memory: int = 0,
    env: dict[str, str] | None = None,
) -> int:
    """Runs a command to its end, and gives its status. Its temporary files are in its directory, too.

    Raises:
        Failed: it cannot be started, ended badly, or took too much.
    """
    temporary = directory / ".tmp"
    temporary.mkdir(exist_ok=True)
    process = await start(words, directory, mark, memory=memory, env={"TMPDIR": str(temporary), **(env or {})})
    assert process.stdout is not None and process.stderr is not None
    readers = asyncio.gather(Lines(say).read(process.stdout), Lines(say).read(process.stderr))
    try:
        with watch.over(process.pid, mark, directory) as broken, unless(broken):
            status = await _status(process)
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS):
                await readers
    finally:
        await asyncio.shield(end(process, mark))
        readers.cancel()
        await asyncio.gather(readers, return_exceptions=True)
    if status:
        shown = f"status {status}" if status > 0 else f"signal {_NAMES.get(-status, -status)}"
        raise Failed("CommandFailed", f"{words[0]} ended with {shown}")
    return status


async def _status(process: asyncio.subprocess.Process) -> int:
    """Of a program, once it has ended: `wait` would also wait for what it has left behind, which holds its pipes."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        while process.returncode is None:
            await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
        return process.returncode
    finally:
        waiting.cancel()
