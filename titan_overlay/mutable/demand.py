"""Who asks a group: if it is nearly always one of its own members, that one should lead.

Requests of others pass by the leader in any case; those of a member's own machine then need no way to another. (The
leases of CockroachDB follow the load for the same reason.) No I/O, no clock.
"""

from collections import Counter

JUDGED = 512
"""Requests after which it is judged: who leads changes no more often than that."""
NEARLY_ALL = 7 / 8


class Demand:
    """Counts the requests that one leader is brought, by the node that brings them."""

    def __init__(self) -> None:
        self._asked: Counter[bytes] = Counter()
        self._total = 0

    def note(self, node: bytes) -> bytes | None:
        """One more. The node that has brought nearly all of the last `JUDGED`, each time that so many have come."""
        self._asked[node] += 1
        self._total += 1
        if self._total < JUDGED:
            return None
        ((most, count),) = self._asked.most_common(1)
        self.forget()
        return most if count >= NEARLY_ALL * JUDGED else None

    def forget(self) -> None:
        """Counts from now on."""
        self._asked.clear()
        self._total = 0
