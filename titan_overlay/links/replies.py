"""The receiving end of a stream of replies."""

import asyncio
from collections import deque

from titan_overlay.errors import DeadlineExceeded
from titan_overlay.links.deadlines import Slot


class Replies:
    """Buffers at most `credit` items; says when the sender may send more.

    The sender gets new credit in halves of the window: one frame for many items, and never an idle wire.
    """

    __slots__ = ("_credit", "_end", "_items", "_loop", "_taken", "_waiter", "id", "slot", "window")

    def __init__(self, id: int, window: int, slot: Slot, loop: asyncio.AbstractEventLoop) -> None:
        self.id = id
        self.window = window
        self.slot = slot
        slot[self] = None
        self._loop = loop
        self._items: deque[bytes] = deque()
        self._credit = window
        self._taken = 0
        self._end: Exception | bool = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        return self._end is not False

    def put(self, item: bytes) -> bool:
        """One item from the wire; False where the sender had no credit for it."""
        if self._credit <= 0:
            return False
        self._credit -= 1
        self._items.append(item)
        self._wake()
        return True

    def finish(self, error: Exception | None = None) -> None:
        """Nothing more comes."""
        if self._end is False:
            self._end = error or True
            self.slot.pop(self, None)
            self._wake()

    def expire(self) -> None:
        self.finish(DeadlineExceeded("the stream of replies did not end within the deadline", maybe_executed=True))

    async def next(self) -> bytes | None:
        """The next item, or None after the last.

        Raises:
            RemotableError, LinkError: what ended the stream early; items that came before it are given first.
        """
        while not self._items:
            if isinstance(self._end, Exception):
                raise self._end
            if self._end:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        self._taken += 1
        return self._items.popleft()

    def credit_due(self) -> int:
        """Items to give the sender credit for, now; mostly 0."""
        if self._end is not False or 2 * self._taken < self.window:
            return 0
        due, self._taken = self._taken, 0
        self._credit += due
        return due

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
