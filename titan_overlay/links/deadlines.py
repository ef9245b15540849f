"""One timer for all deadlines of a node's links.

A `call_later` for every request costs more than the request's own bytes. Here a deadline is a slot in a dictionary:
slots are 1/64 s wide, each request sits in the slot in which it expires and leaves it when it is answered, and one
timer waits for the first slot. In the spirit of hashed timing wheels (Varghese and Lauck, 1987).
"""

import asyncio
import heapq
import math
from typing import Protocol

TICKS_PER_SECOND = 64
SLOTS_TIDY = 4096
"""Up to so many slots, those that emptied in time may wait for their turn in the order."""
_FOREVER = 1 << 50


class Expiring(Protocol):
    """What can run out of time."""

    def expire(self) -> None: ...


class Expired(Exception):
    """A future's time ran out."""


Slot = dict["asyncio.Future[bytes] | Expiring", None]
"""In the order in which they came. Each stands for itself: peers choose the numbers of their requests as they like."""


class Deadlines:
    """Deadlines are loop times; each is met at most 1/64 s late, never early."""

    __slots__ = ("_armed_for", "_loop", "_order", "_slots", "_tidy_at", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, Slot] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._tidy_at = SLOTS_TIDY

    def slot(self, deadline: float) -> Slot:
        """Where to put what expires then: `slot[it] = None`; `slot.pop(it, None)` when it is done in time."""
        try:
            tick = int(deadline * TICKS_PER_SECOND) + 1
        except OverflowError:  # infinity
            tick = _FOREVER
        slot = self._slots.get(tick)
        if slot is None:
            if len(self._slots) >= self._tidy_at:
                self._tidy()
            slot = self._slots[tick] = {}
            heapq.heappush(self._order, tick)
            if self._timer is None or tick < self._armed_for:
                self._arm(tick)
        return slot

    def _tidy(self) -> None:
        """Drops slots that emptied in time. Whoever may choose deadlines could else fill the memory behind a late one.

        The next time is when there are twice as many as are in use, so each slot costs a few steps at most.
        """
        self._slots = {tick: slot for tick, slot in self._slots.items() if slot}
        self._order = sorted(self._slots)  # as good a heap as any
        self._tidy_at = max(SLOTS_TIDY, 2 * len(self._slots))

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = tick
        self._timer = self._loop.call_at(tick / TICKS_PER_SECOND, self._fire)

    def _fire(self) -> None:
        self._timer = None
        order, slots = self._order, self._slots
        # Real timers may fire up to one clock resolution early.
        now = max(math.floor(self._loop.time() * TICKS_PER_SECOND), self._armed_for)
        due: list[Slot] = []
        # Slots that emptied in time go without a timer of their own.
        while order and (order[0] <= now or not slots[order[0]]):
            due.append(slots.pop(heapq.heappop(order)))
        if order:
            self._arm(order[0])
        for slot in due:
            for it in list(slot):
                if not isinstance(it, asyncio.Future):
                    it.expire()
                elif not it.done():
                    it.set_exception(Expired())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()
