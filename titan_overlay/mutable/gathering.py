"""When a member hands on what has come together: at once where nothing is under way, else once that is over.

As Nagle's algorithm (RFC 896), with an end to its patience: an entry, or a question to a quorum, costs the group the
same whatever is in it, so one waits for the one before it, but not for a network that is far away. Who has just been
answered mostly asks again; so what is handed on next waits a moment for them, too.
"""

import asyncio
from collections.abc import Callable

PATIENCE_SECONDS = (0.01, 0.1)
"""Longest wait for what is under way: half of what it has taken lately, within these."""
RETURN_SECONDS_MAX = 0.02
"""Longest wait for those who were answered: half of what it has taken lately, within this."""


class Gathering:
    """Of one kind of work.

    Args:
        again: called when the patience has ended.
    """

    __slots__ = ("_again", "_began", "_expected", "_loop", "_return", "_until", "_usual")

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[], object]) -> None:
        self._loop = loop
        self._again = again
        self._until: float | None = None
        self._began: float | None = None
        self._usual = 0.0
        """Seconds that what was handed on takes, smoothed."""
        self._expected = 0
        """So many wait once all who were answered are back."""
        self._return = 0.0
        """Until when they are waited for."""

    def over(self, *, under_way: bool, waiting: int = 0) -> bool:
        """Whether what has come together, from so many, goes now."""
        now = self._loop.time()
        if not under_way:
            if now < self._return and waiting < self._expected:
                return False
        elif self._until is None:
            shortest, longest = PATIENCE_SECONDS
            self._until = now + min(max(shortest, self._usual / 2), longest)
            self._loop.call_at(self._until, self._again)
            return False
        elif now < self._until:
            return False
        self._until = None
        self._return = 0.0
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
        self._expected = answered + waiting
        if self._expected > 1:
            self._return = now + min(self._usual / 2, RETURN_SECONDS_MAX)
            self._loop.call_at(self._return, self._again)
