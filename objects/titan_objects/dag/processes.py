"""Processes of tasks: commands, and warm ones for functions. Bounded, streamed, and ended with all they started."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

import titan_overlay as titan
from titan_objects.dag.child import END, FRAME_BYTES_MAX
from titan_objects.dag.inside import Answer, Asked, Call, Progress, Question, Said, Told
from titan_objects.dag.journal import Failure

MARK = "TITAN_TASK"
"""Environment variable that all processes of a task have, whatever they do to hide."""
PIECE_BYTES = 16 << 10
LINE_BYTES_MAX = 4 << 10
FILE_BYTES_MAX = 4 << 30
LATE_SECONDS = 0.5
"""So long is waited for the last that a task has written: what it left behind may hold the pipes open."""
ASKED_MAX = 16
"""Questions of one task that are under way; further ones are not read."""
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH")

Say = Callable[[str], None]
"""Takes a line of output."""


class Ear(Protocol):
    """Hears what a task says while it runs."""

    def line(self, text: str) -> None:
        """It has written a line."""

    def progress(self, done: float) -> None:
        """So much of it is done, 0 to 1."""

    async def ask(self, what: Question) -> Any:
        """It wants something, and gives the answer to go on with, in builtins. Raises TitanError: it gets none."""


class Failed(Exception):
    """An attempt failed."""

    def __init__(self, kind: str, text: str, retryable: bool = True) -> None:
        super().__init__(text)
        self.failure = Failure(kind, text, retryable)


def decoded(data: bytes, kind: Any = Any) -> Any:
    """What a task or another worker gave. Raises Failed: it is no msgpack of this type."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise Failed("Garbage", f"a value that cannot be read: {why}") from None


async def start(
    words: Sequence[str], directory: Path, mark: str, *, memory: int = 0, env: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Starts a program in a session of its own, with limits.

    Raises:
        Failed: it cannot be started.
    """

    def limit() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    try:
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=directory,
            env={**environment, **(env or {}), MARK: mark},
            start_new_session=True,
            preexec_fn=limit,
        )
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        raise Failed("CannotStart", f"{words[0]}: {reason}", False) from None


async def end(process: asyncio.subprocess.Process, mark: str) -> None:
    """Ends a program and all that it started, even what has left its session, and waits for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.to_thread(_end_marked, f"{MARK}={mark}".encode())
    await process.wait()


def _end_marked(mark: bytes) -> None:
    """Kills every process with this in its environment, until there is none: what forks meanwhile has it too."""
    for _ in range(10):
        found = False
        for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
            if not entry.name.isdecimal():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
            except OSError:
                continue
        if not found:
            return


async def read_lines(reader: asyncio.StreamReader, say: Say) -> None:
    """Hands on what a program writes, line by line; what has no end is cut."""
    rest = b""
    while piece := await reader.read(PIECE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            say(line[:LINE_BYTES_MAX].decode(errors="replace"))
        if len(rest) > LINE_BYTES_MAX:
            say(rest[:LINE_BYTES_MAX].decode(errors="replace"))
            rest = b""
    if rest:
        say(rest.decode(errors="replace"))


async def run_command(
    words: Sequence[str], directory: Path, mark: str, say: Say, *, memory: int = 0, env: dict[str, str] | None = None
) -> int:
    """Runs a command to its end, and gives its status.

    Raises:
        Failed: it cannot be started, or ended badly.
    """
    process = await start(words, directory, mark, memory=memory, env=env)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.close()
    try:
        readers = asyncio.gather(read_lines(process.stdout, say), read_lines(process.stderr, say))
        status = await process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_SECONDS):
                await readers
    finally:
        await asyncio.shield(end(process, mark))
    if status:
        shown = f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
        raise Failed("CommandFailed", f"{words[0]} ended with {shown}")
    return status


class Warm:
    """A process that has imported a bundle, and calls its functions one after the other."""

    def __init__(self, directory: Path, mark: str) -> None:
        self._directory = directory
        self._mark = mark
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._say: Say = lambda line: None
        self._blank = False
        """The line before was empty, and may belong to the end of a call."""
        self._all_said = asyncio.Event()

    async def call(self, request: Call, ear: Ear) -> bytes:
        """What a function gives, as msgpack; cancelled, the process is ended with what it does.

        Raises:
            Failed: it raised, or the process ended.
        """
        if self._process is None or self._process.returncode is not None:
            words = [sys.executable, "-m", "titan_objects.dag.child", str(self._directory)]
            self._process = await start(words, self._directory, self._mark)
            assert self._process.stderr is not None
            self._reading = asyncio.create_task(read_lines(self._process.stderr, self._take))
        self._say = ear.line
        self._all_said.clear()
        process = self._process
        asked: set[asyncio.Task[None]] = set()
        done = False
        try:
            await _tell(process, request)
            while not isinstance(answer := await _hear(process), Answer):
                if isinstance(answer, Progress):
                    ear.progress(answer.done)
                    continue
                if len(asked) >= ASKED_MAX:
                    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                asked.add(asking := asyncio.create_task(_answered(process, answer, ear)))
                asking.add_done_callback(asked.discard)
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE_SECONDS):
                    await self._all_said.wait()
            done = True
        except (OSError, EOFError):
            raise Failed("Died", "the process ended before it had answered") from None
        finally:
            for asking in asked:
                asking.cancel()
            if not done:
                await asyncio.shield(self.close())
        if answer.kind:
            raise Failed(answer.kind, answer.text)
        return answer.value

    def _take(self, line: str) -> None:
        if line == END:
            self._all_said.set()
        else:
            if self._blank:
                self._say("")
            if line:
                self._say(line)
        self._blank = not line

    async def close(self) -> None:
        """Ends it."""
        process, self._process = self._process, None
        if process is not None:
            await end(process, self._mark)
        if self._reading is not None:
            self._reading.cancel()


async def _answered(process: asyncio.subprocess.Process, asked: Asked, ear: Ear) -> None:
    """Tells a process what its question comes to; one that has ended meanwhile needs no answer."""
    try:
        told = Told(asked.number, await ear.ask(asked.what))
    except titan.TitanError as why:
        maybe = isinstance(why, titan.RemotableError) and why.maybe_executed
        told = Told(asked.number, kind=type(why).__name__, text=str(why) or type(why).__name__, maybe_executed=maybe)
    with suppress(OSError):
        await _tell(process, told)


async def _tell(process: asyncio.subprocess.Process, what: Call | Told) -> None:
    assert process.stdin is not None
    body = msgspec.msgpack.encode(what)
    process.stdin.write(len(body).to_bytes(4, "big") + body)
    await process.stdin.drain()


async def _hear(process: asyncio.subprocess.Process) -> Said:
    """What a process says next. Raises Failed: it says too much at once, or garbage. EOFError: nothing more."""
    assert process.stdout is not None
    size = int.from_bytes(await process.stdout.readexactly(4), "big")
    if size > FRAME_BYTES_MAX:
        raise Failed("TooLarge", f"a result of {size} bytes; {FRAME_BYTES_MAX} are the most", False)
    said: Said = decoded(await process.stdout.readexactly(size), Said)
    return said
