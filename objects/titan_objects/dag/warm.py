"""Warm processes: each has imported a bundle, and calls its functions one after the other (`child.py`)."""

import asyncio
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import titan_overlay as titan
from titan_objects.dag.child import END
from titan_objects.dag.conversation import Conversation
from titan_objects.dag.inside import Answer, Asked, Call, Progress, Told
from titan_objects.dag.limits import Watch, end
from titan_objects.dag.processes import LATE_SECONDS, Ear, Failed, Lines, Say, cannot_start, start, unless

ASKED_MAX = 16
"""Questions of one task that are under way; further ones are not read."""


class Warm:
    """A process that calls functions of the bundle in a directory.

    Args:
        mark: of all that it starts; unique on this machine.
        watch: looks at what that takes.
    """

    def __init__(self, directory: Path, mark: str, watch: Watch) -> None:
        self._directory = directory
        self._mark = mark
        self._watch = watch
        self._process: asyncio.subprocess.Process | None = None
        self._conversation: Conversation | None = None
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
        process, conversation = self._process, self._conversation
        if process is None or conversation is None:
            process, conversation = await self._start()
        self._say = ear.line
        self._all_said.clear()
        done = False
        try:
            with self._watch.over(process.pid, self._mark) as broken, unless(broken):
                answer = await _talk(conversation, request, ear)
            if answer.more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LATE_SECONDS):
                        await self._all_said.wait()
            else:  # all had been read before the answer was written, and its lines were cut before the answer was heard
                self._lines.end()
                self._take_blank()
            done = True
        except EOFError:
            raise Failed("Died", "the process ended before it had answered") from None
        finally:
            if not done:
                await asyncio.shield(self.close())
        if answer.kind:
            raise Failed(answer.kind, answer.text)
        return answer.value

    async def _start(self) -> tuple[asyncio.subprocess.Process, Conversation]:
        words = [sys.executable, "-m", "titan_objects.dag.child", str(self._directory)]
        try:
            ours, theirs = socket.socketpair()
        except OSError as why:
            raise cannot_start(words[0], why) from None
        with theirs:
            conversation = await Conversation.begin(ours)
            try:
                process = await start(
                    words, self._directory, self._mark, stdin=theirs.fileno(), stderr=subprocess.STDOUT
                )
            except BaseException:
                conversation.close()
                raise
        assert process.stdout is not None
        self._reading = asyncio.create_task(self._lines.read(process.stdout))
        self._process, self._conversation = process, conversation
        return process, conversation

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
        if self._conversation is not None:
            self._conversation.close()
            self._conversation = None
        if process is not None:
            await end(process, self._mark)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


async def _talk(conversation: Conversation, request: Call, ear: Ear) -> Answer:
    """Calls a function, hears what it says meanwhile, and gives its answer."""
    asked: set[asyncio.Task[None]] = set()
    try:
        await conversation.tell(request)
        while not isinstance(said := await conversation.hear(), Answer):
            if isinstance(said, Progress):
                ear.progress(said.done)
                continue
            if len(asked) >= ASKED_MAX:
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            asked.add(asking := asyncio.create_task(_answered(conversation, said, ear)))
            asking.add_done_callback(asked.discard)
        return said
    finally:
        for asking in asked:
            asking.cancel()


async def _answered(conversation: Conversation, asked: Asked, ear: Ear) -> None:
    """Tells a process what its question comes to; one that has ended meanwhile needs no answer."""
    try:
        told = Told(asked.number, await ear.ask(asked.what))
    except titan.TitanError as why:
        maybe = isinstance(why, titan.RemotableError) and why.maybe_executed
        told = Told(asked.number, kind=type(why).__name__, text=str(why) or type(why).__name__, maybe_executed=maybe)
    except Exception as why:  # without an answer, the task would wait for ever
        told = Told(asked.number, kind=type(why).__name__, text=str(why) or type(why).__name__)
    with suppress(EOFError):
        await conversation.tell(told)
