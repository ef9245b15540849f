"""All that a group needs of its log, on its way into that piece by piece: what others write goes in between."""

import asyncio
from collections import deque
from typing import TypeVar

from titan_overlay.storage.scribe import settle

Waiter = asyncio.Future[None] | None
"""Who is told that a write is durable, or that it failed; None: nobody asks."""
W = TypeVar("W", asyncio.Future[None], None)


class Anew:
    """What a group says anew, as far as it has not been written.

    Args:
        piece_bytes: of a piece; one with a record that is longer has that alone.
        done: once all of it is durable.
    """

    __slots__ = ("done", "pieces", "size")

    def __init__(self, records: list[bytes], piece_bytes: int, done: asyncio.Future[None]) -> None:
        self.pieces: deque[list[bytes]] = deque()
        self.size = sum(map(len, records))
        self.done = done
        room = 0
        for record in records:
            if not self.pieces or room < len(record):
                self.pieces.append([])
                room = piece_bytes
            self.pieces[-1].append(record)
            room -= len(record)

    def take(self) -> list[bytes]:
        """The next piece."""
        piece = self.pieces.popleft()
        self.size -= sum(map(len, piece))
        return piece


def tell(waiter: Waiter, failure: Exception | None) -> None:
    """How it went."""
    if waiter is not None:
        settle(waiter, failure)
