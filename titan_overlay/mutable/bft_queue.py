"""What a leader has been given to order, and is in no block yet: bounded, in the order of arrival."""

from collections import deque

from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import EntryKind, Proposed


class Queue:
    """Proposals of the leader's own shell."""

    __slots__ = ("_bytes", "_settings", "_waiting")

    def __init__(self, settings: BftSettings) -> None:
        self._settings = settings
        self._waiting: deque[Proposed] = deque()
        self._bytes = 0

    def offer(self, proposed: Proposed) -> bool:
        """False: it is full."""
        settings = self._settings
        if (
            len(self._waiting) >= settings.queue_entries_max
            or self._bytes + len(proposed.data) > settings.queue_bytes_max
        ):
            return False
        self._waiting.append(proposed)
        self._bytes += len(proposed.data)
        return True

    def take(self) -> list[Proposed]:
        """What the next block holds. Nothing comes behind a stop sign."""
        room = self._settings.block_bytes_max
        taken: list[Proposed] = []
        while self._waiting and len(taken) < self._settings.block_entries_max:
            room -= len(self._waiting[0].data)
            if taken and (room < 0 or taken[-1].kind is EntryKind.RECONFIG):
                break
            taken.append(self._waiting.popleft())
        self._bytes -= sum(len(each.data) for each in taken)
        return taken

    def clear(self) -> list[Proposed]:
        """All that waits, which is given back."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return waiting
