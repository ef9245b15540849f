"""Requests at one member of a crash group: they wait for this turn's batch, for its place, and for its execution."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from titan_overlay.errors import BadMessage, NotHere, Overloaded, RemotableError
from titan_overlay.mutable.engine import Entry
from titan_overlay.mutable.gathering import Gathering
from titan_overlay.mutable.intake import BATCH_BYTES, WAITING_BYTES_MAX, WAITING_MAX, batches, fail
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.requests import Request
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.front import Front
    from titan_overlay.mutable.group import Group

BATCH_REQUESTS = 2048


class _Batch:
    """Requests that are proposed together, and who waits for each."""

    __slots__ = ("requests", "term", "waiting")

    def __init__(self, requests: list[Request], waiting: list[asyncio.Future[bytes]]) -> None:
        self.requests = requests
        self.waiting = waiting
        self.term = 0
        """In which it was accepted."""


class Waiting:
    """An `Intake`. A request is known to the member that was asked alone; asking another one is safe."""

    def __init__(self, group: "Group", front: "Front") -> None:
        self._group = group
        self._front = front
        self._gathering = Gathering(group.loop, front.flush_soon)
        self._queue: list[tuple[Request, asyncio.Future[bytes]]] = []
        self._queued_bytes = 0
        self._proposed: dict[int, _Batch] = {}
        """By ref: not yet accepted or refused."""
        self._placed: dict[int, _Batch] = {}
        """By height."""

    def add(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        if len(self._queue) >= WAITING_MAX or self._queued_bytes > WAITING_BYTES_MAX:
            raise Overloaded(f"{len(self._queue)} messages wait for {self._group.machine.name!r}", retry_after=0.2)
        future: asyncio.Future[bytes] = self._group.loop.create_future()
        self._queue.append((request, future))
        self._queued_bytes += request.size
        return future

    def told(self, type: str, body: Body, sender: Sender) -> Begun:
        raise BadMessage(f"members of {self._group.machine.name!r} are believed: {type} means nothing to them")

    def flush(self) -> None:
        full = self._queued_bytes >= BATCH_BYTES
        under_way = bool(self._proposed or self._placed) and not full
        waiting = BATCH_REQUESTS if full else len(self._queue)
        if self._queue and self._gathering.over(under_way=under_way, waiting=waiting):
            made = {self._front.new_ref(): batch for batch in self._batches()}
            self._proposed |= made
            for ref, batch in made.items():
                if ref in self._proposed:  # else the epoch has ended meanwhile
                    self._front.propose(batch.requests, ref)

    def _batches(self) -> Iterator[_Batch]:
        queued = [each for each in self._queue if not each[1].done()]
        self._queue.clear()
        self._queued_bytes = 0
        waiting = (future for _, future in queued)
        for requests in batches((request for request, _ in queued), BATCH_REQUESTS):
            yield _Batch(requests, list(islice(waiting, len(requests))))

    def leads_now(self) -> None:
        """What waits here is proposed whoever leads: the engine brings it to the leader, or refuses it."""

    def leads_no_more(self) -> None:
        """The same."""

    def timer_waits(self) -> None:
        """The leader is believed to see to it."""

    def accepted(self, ref: int, index: int, term: int) -> None:
        batch = self._proposed.pop(ref, None)
        if batch is not None:
            batch.term = term
            self._placed[index] = batch

    def refused(self, ref: int, why: RemotableError) -> None:
        batch = self._proposed.pop(ref, None)
        if batch is not None:
            fail(batch.waiting, why)

    def executed(self, entry: Entry, done: Executed) -> None:
        """Whose batch stood at this place has the replies, or has been displaced."""
        batch = self._placed.pop(entry.index, None)
        if batch is not None:
            if batch.term != entry.term:
                fail(batch.waiting, self._front.elsewhere())
            else:
                for future, reply in zip(batch.waiting, done.replies, strict=True):
                    if not future.done():
                        future.set_result(codec.encode(reply))
        if done.replies:
            self._gathering.ended(answered=len(batch.waiting) if batch else 0, waiting=len(self._queue))
        if self._queue:
            self._front.flush_soon()

    def passed_over(self, height: int, why: RemotableError) -> None:
        for index in [each for each in self._placed if each <= height]:
            fail(self._placed.pop(index).waiting, why)

    def send_away(self, why: NotHere) -> None:
        fail((future for _, future in self._queue), why)
        for batch in (*self._proposed.values(), *self._placed.values()):
            fail(batch.waiting, why)
        self._queue.clear()
        self._queued_bytes = 0
        self._proposed.clear()
        self._placed.clear()
