"""Processes of tasks: commands, and warm ones for functions. Bounded, streamed, and ended with all they started."""

import asyncio
import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

import titan_overlay as titan
from titan_objects.dag.child import END, FRAME_BYTES_MAX
from titan_objects.dag.inside import Answer, Asked, Call, Progress, Question, Said, Told
from titan_objects.dag.journal import Failure
from titan_objects.dag.limits import MARK, Watch, end

PIECE_BYTES = 16 << 10
LINE_BYTES_MAX = 4 << 10
FILE_BYTES_MAX = 4 << 30
LATE_SECONDS = 0.5
"""So long is waited for the last that a task has written: what it left behind may hold the pipes open."""
LOOK_SECONDS = 0.1
ASKED_MAX = 16
"""Questions of one task that are under way; further ones are not read."""
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
        busy = isinstance(why, OSError) and why.errno in _FULL
        raise Failed("CannotStart", f"{words[0]}: {reason}", busy) from None


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
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.close()
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


class Warm:
    """A process that has imported a bundle, and calls its functions one after the other."""

    def __init__(self, directory: Path, mark: str, watch: Watch) -> None:
        self._directory = directory
        self._mark = mark
        self._watch = watch
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._say: Say = lambda line: None
        self._lines = Lines(self._take)
        self._blank = False
        """The line before was empty, and may belong to the end of a call."""
        self._all_said = asyncio.Event()

    @property
    def runs(self) -> bool:
        """Whether it can be called again, and has to be closed."""
        return self._process is not None

    async def call(self, request: Call, ear: Ear) -> bytes:
        """What a function gives, as msgpack; cancelled, the process is ended with what it does.

        Raises:
            Failed: it raised, the process ended, or took too much.
        """
        if self._process is not None and self._process.returncode is not None:
            await self.close()  # what it had started may hold its pipes
        if self._process is None:
            words = [sys.executable, "-m", "titan_objects.dag.child", str(self._directory)]
            self._process = await start(words, self._directory, self._mark)
            assert self._process.stderr is not None
            self._reading = asyncio.create_task(self._lines.read(self._process.stderr))
        self._say = ear.line
        self._all_said.clear()
        process = self._process
        done = False
        try:
            with self._watch.over(process.pid, self._mark) as broken, unless(broken):
                answer = await _talk(process, request, ear)
            if answer.more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LATE_SECONDS):
                        await self._all_said.wait()
            else:  # all had been read before the answer was written, and lines are cut in the order of reading
                self._lines.end()
                self._take_blank()
            done = True
        except (OSError, EOFError):
            raise Failed("Died", "the process ended before it had answered") from None
        finally:
            if not done:
                await asyncio.shield(self.close())
        if answer.kind:
            raise Failed(answer.kind, answer.text)
        return answer.value

    def _take(self, line: str) -> None:
        if line == END:
            self._all_said.set()
        else:
            self._take_blank()
            if line:
                self._say(line)
        self._blank = not line

    def _take_blank(self) -> None:
        if self._blank:
            self._say("")
        self._blank = False

    async def close(self) -> None:
        """Ends it."""
        process, self._process = self._process, None
        if process is not None:
            await end(process, self._mark)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def _talk(process: asyncio.subprocess.Process, request: Call, ear: Ear) -> Answer:
    """Calls a function, hears what it says meanwhile, and gives its answer."""
    asked: set[asyncio.Task[None]] = set()
    try:
        await _tell(process, request)
        while not isinstance(said := await _hear(process), Answer):
            if isinstance(said, Progress):
                ear.progress(said.done)
                continue
            if len(asked) >= ASKED_MAX:
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            asked.add(asking := asyncio.create_task(_answered(process, said, ear)))
            asking.add_done_callback(asked.discard)
        return said
    finally:
        for asking in asked:
            asking.cancel()


async def _answered(process: asyncio.subprocess.Process, asked: Asked, ear: Ear) -> None:
    """Tells a process what its question comes to; one that has ended meanwhile needs no answer."""
    try:
        told = Told(asked.number, await ear.ask(asked.what))
    except titan.TitanError as why:
        maybe = isinstance(why, titan.RemotableError) and why.maybe_executed
        told = Told(asked.number, kind=type(why).__name__, text=str(why) or type(why).__name__, maybe_executed=maybe)
    except Exception as why:  # without an answer, the task would wait for ever
        told = Told(asked.number, kind=type(why).__name__, text=str(why) or type(why).__name__)
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
