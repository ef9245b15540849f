"""An agenda: many things, each with one time at which it is due, and one timer for them all."""

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Generic, Protocol, TypeVar


class Due(Protocol):
    """Something that is due at `due` (loop time; `inf`: never)."""

    due: float


T = TypeVar("T", bound=Due)


class Agenda(Generic[T]):
    """Calls `turn(item, now)` when an item is due. Things due at one time have their turn in the order of planning."""

    def __init__(self, turn: Callable[[T, float], None]) -> None:
        self._turn = turn
        self._heap: list[tuple[float, int, T]] = []
        self._serial = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._running = False

    def start(self) -> None:
        """What was planned before has its turn now or later."""
        self._running = True
        self._arm()

    def stop(self) -> None:
        """Nothing has its turn any more; planning goes on."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, inf

    def plan(self, item: T, due: float) -> None:
        """The item is due at this time, or earlier if so planned. To put it off, set its `due` to `inf` first."""
        if due < item.due:
            item.due = due
            heapq.heappush(self._heap, (due, next(self._serial), item))
            self._arm()

    def _arm(self) -> None:
        if self._running and self._heap and self._heap[0][0] < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._heap[0][0]
            self._timer = asyncio.get_running_loop().call_at(self._timer_at, self._ring)

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time()
        # Virtual and real loops alike may fire a hair before the time that was asked for.
        now = max(now, self._timer_at)
        self._timer, self._timer_at = None, inf
        while self._heap and self._heap[0][0] <= now:
            due, _, item = heapq.heappop(self._heap)
            if item.due == due:  # else it has been given another time since
                item.due = inf
                self._turn(item, now)
        self._arm()
