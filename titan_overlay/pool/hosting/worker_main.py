"""The other end of `workers.py`: a process (`python -m` this) with one object, and frames on stdin and stdout.

A thread reads, so that the process ends with its node even while a handler computes; the loop runs the handlers.
"""

import asyncio
import io
import logging
import os
import resource
import sys
import threading
from collections.abc import AsyncIterator
from typing import BinaryIO

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, RemotableError, RemoteError, from_wire
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.calls import Calls
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.hosting.worker_frames import (
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
from titan_overlay.pool.hosting.worker_log import ToNode
from titan_overlay.wire import codec


class Worker:
    """One object of a node, in a process of its own."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asks: dict[int, asyncio.Future[bytes]] = {}
        self._next_ask = 0
        self._stopped = asyncio.Event()
        self._first: asyncio.Future[Load] = self._loop.create_future()
        self._runner: ServiceRunner
        self._calls: Calls
        self._load: Load

    async def run(self) -> None:
        """From the first frame to `Stop`."""
        threading.Thread(target=self._read, daemon=True).start()
        self._load = await self._first
        try:
            await self._begin()
        except RemotableError as why:
            self._write(Ready(why.to_wire()))
            return
        except Exception as why:
            self._write(Ready(RemoteError(str(why), type=type(why).__name__, maybe_executed=False).to_wire()))
            return
        self._write(Ready())
        await self._stopped.wait()
        for task in self._tasks.values():
            task.cancel()
        await self._runner.close()

    async def _begin(self) -> None:
        load = self._load
        logging.getLogger().setLevel(load.log_level)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if load.memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (load.memory_bytes, load.memory_bytes))
        self._calls = Calls(load.name, 1, 1, sys.maxsize, Ambient.system())
        self._runner = ServiceRunner(load.origin.load()())
        await self._runner.start(self._context(load.sender, 3600.0, ()))

    def _context(self, sender: tuple[bytes, bytes], seconds: float, chain: tuple[bytes, ...]) -> Context:
        now = self._loop.time()
        who = Sender(NodeId(sender[0]), sender[1])
        return Context(who, self._load.name, self._load.object_id, now + seconds, now, self, chain)

    # ---- the pipe ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """In a thread: hands every frame to the loop; the end of the pipe is the end of the process."""
        while len(head := self._source.read(HEAD_BYTES)) == HEAD_BYTES:
            data = self._source.read(int.from_bytes(head, "big"))
            self._loop.call_soon_threadsafe(self._take, codec.decode(data, ToWorker))  # type: ignore[arg-type]
        os._exit(0)

    def _write(self, message: FromWorker) -> None:
        self._sink.write(frame(message))
        self._sink.flush()

    def _take(self, message: ToWorker) -> None:
        match message:
            case Load():
                self._first.set_result(message)
            case Call():
                task = self._loop.create_task(self._handle(message))
                self._tasks[message.id] = task
                task.add_done_callback(lambda _: self._tasks.pop(message.id, None))
            case Cancel(id):
                if id in self._tasks:
                    self._tasks[id].cancel()
            case Stop():
                self._stopped.set()
            case Answer(id, body, error):
                waiting = self._asks.pop(id, None)
                if waiting is not None and not waiting.done():
                    if error is None:
                        waiting.set_result(body)
                    else:
                        waiting.set_exception(from_wire(error))

    # ---- handlers ----------------------------------------------------------------------------------------------

    async def _handle(self, call: Call) -> None:
        context = self._context(call.sender, call.seconds, call.chain)
        try:
            begun = self._runner.call(call.type, call.body, context)
            reply = begun if isinstance(begun, bytes) else await begun  # type: ignore[misc]
            assert isinstance(reply, bytes)
            self._write(Done(call.id, reply))
        except BaseException as why:
            failure = self._calls.failed(why, call.type, context, self._loop.time())
            self._write(Failed(call.id, failure.to_wire()))

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        """`ctx.send` of a handler: the node does it."""
        self._next_ask += 1
        id = self._next_ask
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._asks[id] = answer
        try:
            self._write(Ask(id, name, type, body, max(0.0, deadline - self._loop.time()), chain))
            return await answer
        finally:
            self._asks.pop(id, None)

    def stream(
        self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /
    ) -> AsyncIterator[bytes]:
        """Raises BadMessage."""
        raise BadMessage('ctx.stream does not work with isolation="process"; ask with ctx.send, page by page')


def main() -> None:
    """Runs one worker. What handlers print goes where its log goes (`worker_log.py`): stdout is for frames."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    logging.basicConfig(handlers=[ToNode(2)])

    async def run() -> None:
        await Worker(source, sink).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
