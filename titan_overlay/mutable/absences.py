"""Members of a group that take no part, as one of the others sees it."""

from math import inf
from typing import Protocol


class Silence(Protocol):
    """Knows for how long nothing was heard of a node."""

    def silent_for(self, peer: bytes) -> float: ...


class Absences:
    """For how long each member of one group has been missing: silent, or out of it by its own word."""

    def __init__(self, silence: Silence) -> None:
        self._silence = silence
        self._resigned: set[bytes] = set()

    def resigned(self, member: bytes) -> None:
        """It has said that it can take no part any more."""
        self._resigned.add(member)

    def begin_epoch(self) -> None:
        """Who cannot take part in this one either says so again."""
        self._resigned.clear()

    def back(self, member: bytes) -> None:
        """It takes part."""
        self._resigned.discard(member)

    def silent_for(self, peer: bytes) -> float:
        """Seconds; infinite for one that has resigned."""
        return inf if peer in self._resigned else self._silence.silent_for(peer)
