"""Deadlines of many things on one timer of the loop: a heap that forgets lazily."""

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar


class Due(Protocol):
    """What can fall due. Setting `due` later (by `Deadlines.set`) or to infinity puts it off."""

    due: float


D = TypeVar("D", bound=Due)


class Deadlines(Generic[D]):
    """Calls `on_due(what, now)` when something falls due.

    A timer of asyncio for each call would cost more than the call's own bookkeeping: nearly all are answered in time.
    """

    __slots__ = ("_at", "_heap", "_loop", "_on_due", "_serial", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[D, float], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._heap: list[tuple[float, int, D]] = []
        self._serial = 0
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, what: D, when: float) -> None:
        """It falls due then (loop time), and not at any time set before."""
        what.due = when
        self._serial += 1
        heappush(self._heap, (when, self._serial, what))
        if self._timer is None or when < self._at:
            self._arm(when)

    def stop(self) -> None:
        """Nothing falls due any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        heap = self._heap
        now = max(self._loop.time(), self._at)  # asyncio rings up to a clock tick early
        while heap and heap[0][0] <= now:
            when, _, what = heappop(heap)
            if what.due == when:
                self._on_due(what, now)
        while heap and heap[0][2].due != heap[0][0]:
            heappop(heap)
        if heap and self._timer is None:
            self._arm(heap[0][0])
