"""Reads at one member: a question to the engine for all that come together, then the height that it names."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from titan_overlay.errors import NotHere, RemotableError
from titan_overlay.mutable.engine import ReadAsked, ReadReady
from titan_overlay.mutable.gathering import Gathering
from titan_overlay.mutable.intake import fail

if TYPE_CHECKING:
    from titan_overlay.mutable.front import Front
    from titan_overlay.mutable.group import Group

AGAIN_SECONDS = 0.5
"""The engine may never answer a question; then it is asked again."""

Read = tuple["asyncio.Future[bytes]", Callable[[], bytes]]
"""Who waits, and what gives the encoded answer when it is time."""


class Reads:
    """See the module."""

    def __init__(self, group: "Group", front: "Front") -> None:
        self._group = group
        self._front = front
        self._gathering = Gathering(group.loop, front.flush_soon)
        self._fresh: list[Read] = []
        """The engine was not asked about them yet."""
        self._asked: dict[int, list[Read]] = {}
        """By ref."""
        self._readable: list[tuple[int, list[Read]]] = []
        """Once this height has been executed."""

    def add(self, answer: Callable[[], bytes]) -> "asyncio.Future[bytes]":
        """What `answer` gives once the state here is as new as any that was acknowledged before now."""
        future: asyncio.Future[bytes] = self._group.loop.create_future()
        self._fresh.append((future, answer))
        return future

    def flush(self) -> None:
        """A turn of the loop is over: asks the engine for all who have come."""
        if self._fresh and self._gathering.over(under_way=bool(self._asked), waiting=len(self._fresh)):
            reads, self._fresh = [each for each in self._fresh if not each[0].done()], []
            ref = self._front.new_ref()
            self._asked[ref] = reads
            self._group.loop.call_later(AGAIN_SECONDS, self._again, ref)
            self._group.step(ReadAsked(ref))

    def _again(self, ref: int) -> None:
        left = [each for each in self._asked.pop(ref, ()) if not each[0].done()]
        self._fresh += left
        if left:
            self._front.flush_soon()

    def ready(self, answers: Sequence[ReadReady], height: int) -> None:
        """The engine's answers. Executed so far: `height`."""
        if not answers:
            return
        answered = 0
        for each in answers:
            reads = self._asked.pop(each.ref, [])
            answered += len(reads)
            self._readable.append((each.index, reads))
        self.reached(height)
        self._gathering.ended(answered=answered, waiting=len(self._fresh))
        if self._fresh:
            self._front.flush_soon()

    def refused(self, ref: int, why: RemotableError) -> None:
        """The engine does not take that question."""
        fail(_futures(self._asked.pop(ref, ())), why)

    def reached(self, height: int) -> None:
        """The state is executed up to this height."""
        if not self._readable:
            return
        for index, reads in self._readable:
            if index <= height:
                for future, answer in reads:
                    if not future.done():
                        future.set_result(answer())
        self._readable = [each for each in self._readable if each[0] > height]

    def close(self, why: NotHere) -> None:
        """All who wait go elsewhere."""
        for reads in (self._fresh, *self._asked.values(), *(each for _, each in self._readable)):
            fail(_futures(reads), why)
        self._fresh, self._asked, self._readable = [], {}, []


def _futures(reads: Iterable[Read]) -> "Iterable[asyncio.Future[bytes]]":
    return (future for future, _ in reads)
