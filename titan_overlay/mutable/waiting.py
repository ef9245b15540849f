"""Who waits for what at one member of a group: requests on their way through the order, and reads for their height."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from titan_overlay.errors import NotHere, Overloaded, RemotableError
from titan_overlay.mutable.engine import Entry
from titan_overlay.mutable.requests import Reply, Request
from titan_overlay.wire import codec

QUEUE_MAX = 8192
"""Requests that wait to be proposed."""
QUEUE_BYTES_MAX = 8 << 20
BATCH_BYTES = 256 << 10
BATCH_REQUESTS = 2048


Read = tuple["asyncio.Future[bytes]", Callable[[], bytes]]
"""Who waits, and what gives the encoded answer when it is time."""


class Batch:
    """Requests that are proposed together, and who waits for each."""

    __slots__ = ("requests", "term", "waiting")

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.waiting: list[asyncio.Future[bytes]] = []
        self.term = 0
        """In which it was accepted."""


class Waiting:
    """See the module. A future that fails with `NotHere` says: ask another member, which is safe.

    Args:
        name: of the object, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Request, asyncio.Future[bytes]]] = deque()
        self._queued_bytes = 0
        self._proposed: dict[int, Batch] = {}
        """By ref: not yet accepted or refused."""
        self._placed: dict[int, Batch] = {}
        """By height."""
        self._reads: list[Read] = []
        """Not asked yet."""
        self._asked: dict[int, list[Read]] = {}
        """By ref."""
        self._readable: list[tuple[int, list[Read]]] = []
        """Once this height has been executed."""

    @property
    def under_way(self) -> bool:
        """Whether something that was proposed here has not been executed yet."""
        return bool(self._proposed or self._placed)

    @property
    def queued_bytes(self) -> int:
        """Of requests that wait to be proposed."""
        return self._queued_bytes

    def __len__(self) -> int:
        """Requests that wait to be proposed."""
        return len(self._queue)

    # ---- requests --------------------------------------------------------------------------------------------

    def add(self, request: Request) -> "asyncio.Future[bytes]":
        """A request that is to be ordered; its encoded `Reply`. Overloaded: too many wait."""
        if len(self._queue) >= QUEUE_MAX or self._queued_bytes > QUEUE_BYTES_MAX:
            raise Overloaded(f"{len(self._queue)} messages wait for {self._name!r}", retry_after=0.2)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._queue.append((request, future))
        self._queued_bytes += len(request.body)
        return future

    def batches(self) -> Iterable[Batch]:
        """What has come together, in batches to be proposed."""
        while self._queue:
            batch, size = Batch(), 0
            while self._queue and size < BATCH_BYTES and len(batch.requests) < BATCH_REQUESTS:
                request, future = self._queue.popleft()
                self._queued_bytes -= len(request.body)
                if not future.done():
                    batch.requests.append(request)
                    batch.waiting.append(future)
                    size += len(request.body)
            if batch.requests:
                yield batch

    def proposed(self, ref: int, batch: Batch) -> None:
        self._proposed[ref] = batch

    def accepted(self, ref: int, index: int, term: int) -> None:
        """It has a place in the log now."""
        batch = self._proposed.pop(ref, None)
        if batch is not None:
            batch.term = term
            self._placed[index] = batch

    def refused(self, ref: int, why: RemotableError) -> None:
        """A proposal or a question that the engine does not take."""
        batch = self._proposed.pop(ref, None)
        fail(batch.waiting if batch is not None else _futures(self._asked.pop(ref, ())), why)

    def executed(self, entry: Entry, replies: list[Reply], elsewhere: Callable[[], RemotableError]) -> None:
        """An entry was executed; whose batch stood at its place has the replies, or has been displaced."""
        batch = self._placed.pop(entry.index, None)
        if batch is None:
            return
        if batch.term != entry.term:
            fail(batch.waiting, elsewhere())
            return
        for future, reply in zip(batch.waiting, replies, strict=True):
            if not future.done():
                future.set_result(codec.encode(reply))

    def passed_over(self, height: int, why: RemotableError) -> None:
        """The state jumped to this height: what was ordered below it is not known here."""
        for index in [each for each in self._placed if each <= height]:
            fail(self._placed.pop(index).waiting, why)

    # ---- reads -----------------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether some wait to be asked about."""
        return bool(self._reads)

    @property
    def asking(self) -> bool:
        """Whether the engine has been asked, and has not answered yet."""
        return bool(self._asked)

    def ask(self, answer: Callable[[], bytes]) -> "asyncio.Future[bytes]":
        """What `answer` gives once the state here is as new as any that was acknowledged before now."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._reads.append((future, answer))
        return future

    def take_reads(self) -> list[Read]:
        """Those that nobody has asked the engine about."""
        taken, self._reads = [each for each in self._reads if not each[0].done()], []
        return taken

    def asked(self, ref: int, reads: list[Read]) -> None:
        self._asked[ref] = reads

    def ask_again(self, ref: int) -> bool:
        """The engine has not answered this question; True: somebody still waits for it."""
        left = [each for each in self._asked.pop(ref, ()) if not each[0].done()]
        self._reads += left
        return bool(left)

    def readable(self, ref: int, index: int, height: int) -> None:
        """The engine's answer: at `index`; executed so far: `height`."""
        self._readable.append((index, self._asked.pop(ref, [])))
        self.reached(height)

    def reached(self, height: int) -> None:
        """The state is executed up to this height."""
        if not self._readable:
            return
        for index, waiting in self._readable:
            if index <= height:
                for future, answer in waiting:
                    if not future.done():
                        future.set_result(answer())
        self._readable = [each for each in self._readable if each[0] > height]

    # ---- the end ---------------------------------------------------------------------------------------------

    def send_away(self, why: NotHere) -> None:
        """All who wait for an order go elsewhere."""
        fail((future for _, future in self._queue), why)
        for batch in (*self._proposed.values(), *self._placed.values()):
            fail(batch.waiting, why)
        self._queue.clear()
        self._queued_bytes = 0
        self._proposed.clear()
        self._placed.clear()

    def close(self, why: NotHere) -> None:
        """The same for reads too."""
        self.send_away(why)
        for reads in (self._reads, *self._asked.values(), *(each for _, each in self._readable)):
            fail(_futures(reads), why)
        self._reads, self._asked, self._readable = [], {}, []


def _futures(reads: Iterable[Read]) -> "Iterable[asyncio.Future[bytes]]":
    return (future for future, _ in reads)


def fail(waiting: "Iterable[asyncio.Future[Any]]", why: RemotableError) -> None:
    """Those who still wait are told."""
    for future in waiting:
        if not future.done():
            future.set_exception(why)
