"""A thread that writes through to a file, again and again: what a write-ahead log does.

It differs from an executor in what it leaves out. The file stays open, and its bytes and their durability are one call
to the system (`O_DSYNC`); and nobody but the loop waits for the outcome. Each call that blocks gives Python's lock away
and has to get it back, which costs as much as all the rest.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

_Order = tuple[str, bytes, int, "asyncio.Future[None]"]


class Scribe:
    """See the module.

    Args:
        open: gives a descriptor of the file at a path; what is written to it is durable when the call returns.
        wrote: called in the thread after each write, with its path.
    """

    def __init__(self, open: Callable[[str], int], wrote: Callable[[str], None]) -> None:
        self._open = open
        self._wrote = wrote
        self._orders: SimpleQueue[_Order | str | None] = SimpleQueue()
        self._thread: Thread | None = None

    def write(self, path: str, data: bytes, offset: int) -> "asyncio.Future[None]":
        """Done when the bytes are durable at that offset. OSError (from the future): they may be, or not."""
        if self._thread is None:
            self._thread = Thread(target=self._work, name="titan-scribe", daemon=True)
            self._thread.start()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders.put((path, data, offset, future))
        return future

    def forget(self, path: str) -> None:
        """Another file may have that path from now on."""
        if self._thread is not None:
            self._orders.put(path)

    def close(self) -> None:
        """Waits for what was ordered."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        file = _File()
        while (order := self._orders.get()) is not None:
            if isinstance(order, str):
                if order == file.path:
                    file.close()
                continue
            path, data, offset, future = order
            failure: Exception | None = None
            try:
                if path != file.path:
                    file.close()
                    file.descriptor, file.path = self._open(path), path
                write_at(file.descriptor, data, offset)
                self._wrote(path)
            except Exception as why:
                failure = why
                file.close()
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits
                future.get_loop().call_soon_threadsafe(settle, future, failure)
            del future, failure
        file.close()


class _File:
    """The one that is open, if one is."""

    __slots__ = ("descriptor", "path")

    def __init__(self) -> None:
        self.path = ""
        self.descriptor = -1

    def close(self) -> None:
        if self.path:
            self.path = ""
            os.close(self.descriptor)


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Puts all of the bytes there."""
    written = os.pwrite(descriptor, data, offset)
    rest = memoryview(data)[written:]
    while rest:
        offset += written
        written = os.pwrite(descriptor, rest, offset)
        rest = rest[written:]


def settle(future: "asyncio.Future[None]", failure: Exception | None) -> None:
    """Says how it went to whoever still waits."""
    if future.done():
        return  # whoever waited was cancelled
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
