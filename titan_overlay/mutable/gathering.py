"""When a member hands on what has come together: at once where nothing is under way, else once that is over.

As Nagle's algorithm (RFC 896), with an end to its patience: an entry, or a question to a quorum, costs the group the
same whatever is in it, so one waits for the one before it, but not for a network that is far away. Who has just been
answered mostly asks again: what is handed on next waits until all of them have, for as long as they keep coming.
"""

import asyncio
from collections.abc import Callable

PATIENCE_SECONDS = (0.01, 0.1)
"""Longest wait for what is under way: half of what it has taken lately, within these."""
RETURN_SECONDS_MAX = 0.04
"""Longest wait for those who were answered: as long as what was handed on has taken lately, within this; and no longer
than a quarter of it for the first, an eighth for each next one."""


class Gathering:
    """Of one kind of work.

    Args:
        again: called when the patience has ended.
    """

    __slots__ = ("_again", "_began", "_expected", "_limit", "_loop", "_seen", "_timer", "_timer_at", "_until", "_usual")

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[], object]) -> None:
        self._loop = loop
        self._again = again
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._until: float | None = None
        """The end of the patience, where there is something to wait for."""
        self._began: float | None = None
        self._usual = 0.0
        """Seconds that what was handed on takes, smoothed."""
        self._expected = self._seen = 0
        """So many wait once all who were answered are back; so many did when one of them came last."""
        self._limit = 0.0
        """Until when they are waited for at most."""

    def over(self, *, under_way: bool, waiting: int = 0) -> bool:
        """Whether what has come together, from so many, goes now."""
        now = self._loop.time()
        if under_way:
            if self._until is None:
                shortest, longest = PATIENCE_SECONDS
                self._wait(now + min(max(shortest, self._usual / 2), longest))
        elif waiting >= self._expected:
            self._until = None
        elif waiting > self._seen:
            self._seen = waiting
            self._wait(min(now + self._usual / 8, self._limit))
        if self._until is not None and now < self._until:
            return False
        self._until = None
        self._expected = 0
        if self._began is None:
            self._began = now
        return True

    def ended(self, *, answered: int = 0, waiting: int = 0) -> None:
        """What was handed on has been done: so many have their answer, and so many wait already."""
        if self._began is None:
            return
        now = self._loop.time()
        self._usual += (now - self._began - self._usual) / 8
        self._began = self._until = None
        self._expected, self._seen = answered + waiting, waiting
        if self._expected > 1:
            usual = min(self._usual, RETURN_SECONDS_MAX)
            self._limit = now + usual
            self._wait(now + usual / 4)

    def _wait(self, until: float) -> None:
        self._until = until
        if self._timer is not None:
            if self._timer_at <= until:
                return  # and looks again then
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(until, self._due), until

    def _due(self) -> None:
        self._timer = None
        if self._until is not None and self._loop.time() < self._until:
            self._wait(self._until)
        else:
            self._again()
