"""When a member hands on what has come together: at once where nothing is under way, else once that is over.

As Nagle's algorithm (RFC 896), with an end to its patience: an entry, or a question to a quorum, costs the group the
same whatever is in it, so one waits for the one before it, but not for a network that is far away.
"""

import asyncio
from collections.abc import Callable

PATIENCE_SECONDS = (0.01, 0.1)
"""Longest wait for what is under way: half of what it has taken lately, within these."""


class Gathering:
    """Of one kind of work.

    Args:
        again: called when the patience has ended.
    """

    __slots__ = ("_again", "_began", "_loop", "_until", "_usual")

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[], object]) -> None:
        self._loop = loop
        self._again = again
        self._until: float | None = None
        self._began: float | None = None
        self._usual = 0.0
        """Seconds that what was handed on takes, smoothed."""

    def over(self, *, under_way: bool) -> bool:
        """Whether what has come together goes now."""
        now = self._loop.time()
        if under_way and self._until is None:
            shortest, longest = PATIENCE_SECONDS
            self._until = now + min(max(shortest, self._usual / 2), longest)
            self._loop.call_at(self._until, self._again)
        if under_way and self._until is not None and now < self._until:
            return False
        self._until = None
        if self._began is None:
            self._began = now
        return True

    def ended(self) -> None:
        """What was handed on has been done."""
        if self._began is not None:
            self._usual += (self._loop.time() - self._began - self._usual) / 8
            self._began = None
