"""All that a group needs of its log, on its way into that piece by piece: what others write goes in between."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from titan_overlay.storage.scribe import settle

Waiter = asyncio.Future[None] | None
"""Who is told that a write is durable, or that it failed; None: nobody asks."""
W = TypeVar("W", asyncio.Future[None], None)


class Anew:
    """What a group says anew, as far as it has not been written.

    Args:
        records: taken, and so made, as they are written.
        piece_bytes: after so many a piece ends.
        done: once all of it is durable.
    """

    __slots__ = ("_next", "_piece_bytes", "_records", "done")

    def __init__(self, records: Iterable[bytes], piece_bytes: int, done: asyncio.Future[None]) -> None:
        self.done = done
        self._records = iter(records)
        self._piece_bytes = piece_bytes
        self._next = self._more()

    def take(self) -> tuple[list[bytes], bool]:
        """The next piece, and whether it is the last."""
        piece, self._next = self._next, self._more()
        return piece, not self._next

    def _more(self) -> list[bytes]:
        piece: list[bytes] = []
        room = self._piece_bytes
        while room > 0 and (record := next(self._records, None)) is not None:
            piece.append(record)
            room -= len(record)
        return piece


def tell(waiter: Waiter, failure: Exception | None) -> None:
    """How it went. Whoever does not wait misses nothing: a node hears by itself that its log has failed."""
    if waiter is not None:
        settle(waiter, failure)
        if failure is not None and not waiter.cancelled():
            waiter.exception()
