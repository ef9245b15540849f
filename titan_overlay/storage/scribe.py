"""Writes through to a file, again and again: what a write-ahead log does.

The file stays open, and its bytes and their durability are one call to the system (`O_DSYNC`). To have a thread make
that call costs as much as a good disk takes for it: so it is made on the spot, as long as the disk is quick, and while
it is not, or much is to be written, in a thread, so that the loop goes on meanwhile.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread

from titan_overlay.ambient import stopwatch

SHORT_BYTES = 64 << 10
"""More is written in the thread: it takes long on any disk."""

QUICK_SECONDS = 0.002
"""Of a short write. A disk that took longer is left to the thread for a while."""

AWAY = 100
"""That while, in units of what the slow write took: so the loop is held up for a hundredth of its time at most."""

_Order = tuple[str, bytes, int, "asyncio.Future[None]"]


class Scribe:
    """See the module. Its calls come from the loop, but for `forget`.

    Args:
        open: gives a descriptor of the file at a path; what is written to it is durable when the call returns.
        wrote: called after each write, with its path, by whoever made it.
        clock: seconds.
    """

    def __init__(
        self, open: Callable[[str], int], wrote: Callable[[str], None], clock: Callable[[], float] = stopwatch
    ) -> None:
        self._open = open
        self._wrote = wrote
        self._clock = clock
        self._file = _File()
        self._lock = Lock()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._ordered = 0
        """Writes that the thread has not done yet: none overtakes them."""
        self._away_until = 0.0

    def write(self, path: str, data: bytes, offset: int) -> "asyncio.Future[None]":
        """Done when the bytes are durable at that offset. OSError (from the future): they may be, or not."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._ordered or len(data) > SHORT_BYTES or self._clock() < self._away_until:
            self._order((path, data, offset, future))
        else:
            settle(future, self._write(path, data, offset))
        return future

    def forget(self, path: str) -> None:
        """Another file may have that path from now on."""
        with self._lock:
            if self._file.path == path:
                self._file.close()

    def close(self) -> None:
        """Waits for what was ordered."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None
        self._file.close()

    def _order(self, order: _Order) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name="titan-scribe", daemon=True)
            self._thread.start()
        self._ordered += 1
        self._orders.put(order)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            path, data, offset, future = order
            failure = self._write(path, data, offset)
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits
                future.get_loop().call_soon_threadsafe(self._done, future, failure)
            del order, future, failure

    def _done(self, future: "asyncio.Future[None]", failure: Exception | None) -> None:
        self._ordered -= 1
        settle(future, failure)

    def _write(self, path: str, data: bytes, offset: int) -> Exception | None:
        file = self._file
        with self._lock:
            begun = self._clock()
            try:
                if path != file.path:
                    file.close()
                    file.descriptor, file.path = self._open(path), path
                write_at(file.descriptor, data, offset)
                self._wrote(path)
            except Exception as why:
                file.close()
                return why
            now = self._clock()
        if now - begun > QUICK_SECONDS and len(data) <= SHORT_BYTES:
            self._away_until = now + AWAY * (now - begun)
        return None


class _File:
    """The one that is open, if one is."""

    __slots__ = ("descriptor", "path")

    def __init__(self) -> None:
        self.path = ""
        self.descriptor = -1

    def close(self) -> None:
        if self.path:
            self.path = ""
            with suppress(OSError):  # of a file server: what was written is durable, or is said to have failed
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
