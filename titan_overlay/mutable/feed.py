"""The feed of an object's changes at one member: what was executed, for those who watch."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from titan_overlay.errors import Conflict, NotHere
from titan_overlay.mutable.talk import Change

KEPT_MAX = 4096
"""Changes that somebody who was away may still ask for."""
KEPT_BYTES_MAX = 8 << 20
"""Of their messages and replies; the last one is kept however large it is."""


class Feed:
    """The latest changes, by number, and who waits for the next.

    Args:
        last: number of the last change before this member began to listen.
    """

    def __init__(self, last: int) -> None:
        self._kept: deque[Change] = deque()
        self._bytes = 0
        self._last = last
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    def add(self, changes: Sequence[Change]) -> None:
        """What has just been executed, in order."""
        if not changes:
            return
        self._kept.extend(changes)
        self._bytes += sum(map(_size, changes))
        while len(self._kept) > KEPT_MAX or (self._bytes > KEPT_BYTES_MAX and len(self._kept) > 1):
            self._bytes -= _size(self._kept.popleft())
        self._last = changes[-1].number
        self._wake()

    def restart(self, last: int) -> None:
        """The state was fetched from elsewhere: what led to it is not known here."""
        self._kept.clear()
        self._bytes = 0
        self._last = last
        self._wake()

    def open(self) -> None:
        """This member takes part."""
        self._closed = False

    def close(self) -> None:
        """This member takes no part any more; who watches here goes elsewhere."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def watch(self, start: int) -> AsyncIterator[Change]:
        """Changes from number `start` on (0: those to come), each once, in order, without end.

        Raises:
            Conflict: that one is not known here any more. NotHere: this member takes no part any more.
        """
        wanted = start or self._last + 1
        while True:
            if self._closed:
                raise NotHere("this member takes no part any more")
            if wanted <= self._last:
                first = self._kept[0].number if self._kept else self._last + 1
                if wanted < first:
                    raise Conflict(
                        f"change {wanted} is not kept any more, the earliest is {first}; "
                        "read the object's state, and watch from now on"
                    )
                for change in list(self._kept)[wanted - first :]:
                    yield change
                    wanted = change.number + 1
                continue
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)


def _size(change: Change) -> int:
    return len(change.body) + len(change.reply)
