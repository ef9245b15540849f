"""When a member hands on what has come together: at once where nothing is under way, else once that is over.

As Nagle's algorithm (RFC 896), with an end to its patience: an entry, or a question to a quorum, costs the group the
same whatever is in it, so one waits for the one before it, but not for a network that is far away.
"""

import asyncio
from collections.abc import Callable

GATHER_SECONDS = 0.01
"""Longest wait for what is under way."""


class Gathering:
    """Of one kind of work.

    Args:
        again: called when the patience has ended.
    """

    __slots__ = ("_again", "_loop", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, again: Callable[[], object]) -> None:
        self._loop = loop
        self._again = again
        self._until: float | None = None

    def over(self, *, under_way: bool) -> bool:
        """Whether what has come together goes now."""
        now = self._loop.time()
        if under_way and self._until is None:
            self._until = now + GATHER_SECONDS
            self._loop.call_at(self._until, self._again)
        if under_way and self._until is not None and now < self._until:
            return False
        self._until = None
        return True
