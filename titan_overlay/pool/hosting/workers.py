"""`isolation="process"`: a service whose handlers run in a warm process of their own.

For handlers that compute for long: the node's loop stays free, a crash takes only the worker with it, memory has a
limit, and a handler that ignores its deadline is killed. The class's instance, and so its state, lives in the worker;
after a kill a new worker starts from nothing. Streams are not for such services, in either direction.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any

from titan_overlay.errors import BadMessage, RemotableError, RemoteError, Unavailable, from_wire
from titan_overlay.pool.context import Context, Outbound
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.hosting.packing import Origin
from titan_overlay.pool.hosting.runner import Body, Runner
from titan_overlay.pool.hosting.worker_frames import (
    FRAME_BYTES_MAX,
    HEAD_BYTES,
    Answer,
    Ask,
    Call,
    Cancel,
    Done,
    Failed,
    FromWorker,
    Load,
    Ready,
    Stop,
    ToWorker,
    frame,
)
from titan_overlay.pool.hosting.worker_log import LAST_WORDS_SECONDS, listen
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.values import GIB
from titan_overlay.wire import codec

_LOG = logging.getLogger("titan_overlay.object")

CANCEL_SECONDS = 0.5
"""Time that a cancelled handler in a worker has to end before its process is killed."""
STOP_SECONDS = 2.0
START_SECONDS = 30.0
ASKS_MAX = 64
"""Calls to other objects that one worker may have under way."""

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""Environment that a worker sees; the node's own settings and secrets stay with the node."""


class ProcessRunner(Runner):
    """Runs an object in a process of its own, started with the first message (or by the host's `open`).

    Args:
        origin: where the worker finds the class.
        memory_bytes: address space of the worker; allocating more raises MemoryError in the handler.
    """

    def __init__(self, cls: type, origin: Origin, *, memory_bytes: int = GIB) -> None:
        service = service_type(cls)
        self.types = tuple(service.handlers)
        # One at a time: what is in the worker when it is killed is lost, so as little as possible is.
        self.concurrency = service.concurrency or 1
        self.mailbox = service.mailbox
        self.bundle = origin.bundle
        self._schema = service.schema
        self._origin = origin
        self._memory_bytes = memory_bytes
        self._worker: _Worker | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Of the worker, while there is one."""
        return self._worker.process.pid if self._worker is not None else None

    def call(self, type: str, body: Body, context: Context) -> Begun:
        return self._call(type, bytes(body), context)

    async def _call(self, type: str, body: bytes, context: Context) -> bytes:
        worker = await self._ready(context)
        reply = worker.call(type, body, context)
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:
            # The caller has its answer. This place in the mailbox is free again when the handler, or its process, ends.
            await worker.cancel(reply)
            raise

    async def _ready(self, context: Context) -> "_Worker":
        async with self._starting:
            if self._worker is None or self._worker.over:
                self._worker = await self._start_worker(context)
            return self._worker

    async def _start_worker(self, context: Context) -> "_Worker":
        environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        # Not a pipe of asyncio's: before Python 3.13 it takes a process for alive while anybody has one of those open.
        hearing, saying = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "titan_overlay.pool.hosting.worker_main"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=saying,
                env=environment,
            )
        except (OSError, RuntimeError, NotImplementedError) as why:
            os.close(hearing)
            raise Unavailable(
                f'{context.name!r} has isolation="process", and no process can be started here: {why}'
            ) from None
        finally:
            os.close(saying)
        log = asyncio.get_running_loop().create_task(listen(hearing, context.name))
        worker = _Worker(process, context, log)
        publisher = (bytes(context.sender.id), context.sender.public)
        id, level = bytes(context.object_id), _LOG.getEffectiveLevel()
        worker.write(Load(self._origin, context.name, id, self._memory_bytes, publisher, level))
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(worker.ready)
        except BaseException:
            await worker.kill()
            raise
        return worker

    def schema(self) -> dict[str, MessageSchema]:
        return self._schema()

    async def start(self, context: Context) -> None:
        await self._ready(context)

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.stop()


class _Worker:
    """One process, from its start to its end.

    Args:
        log: logs what the process writes, until the process ends.
    """

    def __init__(self, process: asyncio.subprocess.Process, context: Context, log: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        self.process = process
        self.over = False
        self.ready: asyncio.Future[None] = loop.create_future()
        self._name = context.name
        self._outbound: Outbound = context.outbound
        self._next_id = 0
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._log = log
        self._reader = loop.create_task(self._read())

    def write(self, message: ToWorker) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write(frame(message))

    def call(self, type: str, body: bytes, context: Context) -> "asyncio.Future[bytes]":
        """The reply, to come."""
        if self.over:
            raise self._lost(maybe_executed=False)
        self._next_id += 1
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[self._next_id] = reply
        sender = (bytes(context.sender.id), context.sender.public)
        self.write(Call(self._next_id, type, body, sender, context.remaining, context.chain))
        return reply

    async def cancel(self, reply: "asyncio.Future[bytes]") -> None:
        """Ends a handler, if need be with the process. Returns when it has ended."""
        for id, pending in self._replies.items():
            if pending is reply:
                self.write(Cancel(id))
        try:
            await asyncio.wait([reply], timeout=CANCEL_SECONDS)
        finally:
            if not reply.done():
                await self.kill()
            elif not reply.cancelled():
                reply.exception()  # nobody waits for it any more

    async def stop(self) -> None:
        """Lets the class's `stop` run, then ends the process."""
        self.write(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        await self.kill()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        """Takes what the worker says until it ends; then everything that waits for it fails."""
        assert self.process.stdout is not None
        why = ""
        try:
            while True:
                size = int.from_bytes(await self.process.stdout.readexactly(HEAD_BYTES), "big")
                if size > FRAME_BYTES_MAX:
                    raise BadMessage(f"a frame of {size} bytes")
                self._take(codec.decode(await self.process.stdout.readexactly(size), FromWorker))  # type: ignore[arg-type]
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except BadMessage as bad:  # something in the process writes into our pipe
            why = f"; it wrote nonsense: {bad}"
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        self.over = True
        await self._end(why)

    async def _end(self, why: str) -> None:
        for ask in self._asks:
            ask.cancel()
        status = await self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        lost = self._lost(f" (exit status {status}{why})")
        waiting: list[asyncio.Future[Any]] = [*self._replies.values(), self.ready]
        self._replies.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
        if not self.ready.cancelled():
            self.ready.exception()
        await asyncio.wait([self._log], timeout=LAST_WORDS_SECONDS)
        self._log.cancel()
        await asyncio.wait([self._log])

    def _lost(self, detail: str = "", *, maybe_executed: bool = True) -> Unavailable:
        text = f"the worker process of {self._name!r} has ended{detail}; the next message starts a new one"
        return Unavailable(text, maybe_executed=maybe_executed)

    def _take(self, message: FromWorker) -> None:
        match message:
            case Done(id, body):
                self._settle(id, body)
            case Failed(id, error):
                self._settle(id, from_wire(error))
            case Ask():
                self._ask(message)
            case Ready(error):
                if not self.ready.done():
                    if error is None:
                        self.ready.set_result(None)
                    else:
                        self.ready.set_exception(from_wire(error))

    def _settle(self, id: int, outcome: bytes | RemotableError) -> None:
        reply = self._replies.pop(id, None)
        if reply is None or reply.done():
            return
        if isinstance(outcome, bytes):
            reply.set_result(outcome)
        else:
            reply.set_exception(outcome)

    def _ask(self, ask: Ask) -> None:
        if len(self._asks) >= ASKS_MAX:
            error = Unavailable(f"{self._name!r} has {ASKS_MAX} calls under way already")
            self.write(Answer(ask.id, error=error.to_wire()))
            return
        task = asyncio.get_running_loop().create_task(self._answer(ask))
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _answer(self, ask: Ask) -> None:
        deadline = asyncio.get_running_loop().time() + ask.seconds
        sending: Coroutine[Any, Any, bytes] = self._outbound.send(ask.name, ask.type, ask.body, deadline, ask.chain)
        try:
            self.write(Answer(ask.id, bytes(await sending)))
        except RemotableError as why:
            self.write(Answer(ask.id, error=why.to_wire()))
        except Exception as why:
            self.write(Answer(ask.id, error=RemoteError(str(why), type=type(why).__name__).to_wire()))
