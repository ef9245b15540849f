"""Cache: keys and values with a time to live, the same on all members of a group.

    titan publish cache --name cache/main
    titan cache set cache/main greeting hello --ttl 60
    titan cache serve cache/main

Values end by the time that the members have agreed on, so that no member answers with what another has let go.
`gateway.py` opens it to programs that speak the little-endian protocol of the Raft cache (`wire.py`).
"""

import heapq

import titan_overlay as titan

KEY_BYTES_MAX = 64 << 10
VALUE_BYTES_MAX = 512 << 10
BYTES_MAX = 64 << 20
"""Of all keys and values together."""


class Set(titan.Message[bool], namespace="cache"):
    """Keeps a value. Answered with False where the cache is full, or key, value or time to live make no sense."""

    key: bytes
    value: bytes
    ttl: int = 0
    """Seconds; 0: until it is deleted."""


class Get(titan.Message[bytes | None], namespace="cache"):
    """Asks for the value of a key; None: there is none (any more)."""

    key: bytes


class Delete(titan.Message[bool], namespace="cache"):
    """Lets a key go; answered with whether it was there."""

    key: bytes


class Expire(titan.Message[None], namespace="cache"):
    """The cache reminds itself that values end now. From others it changes nothing."""


@titan.mutable("cache/*", policy=titan.Policy(faults=1))
class Cache:
    """Its state is small enough to be copied whole: values that matter for years belong elsewhere."""

    entries: dict[bytes, tuple[bytes, float]] = {}
    """Value, and agreed time at which it ends (infinity: never)."""
    ends: list[tuple[float, bytes]] = []
    """A heap of all ends, with some that are not true any more."""
    alarm: float = float("inf")
    """When the next `Expire` comes."""
    size: int = 0

    def set(self, m: Set, ctx: titan.Context) -> bool:
        """Keeps a value."""
        if len(m.key) > KEY_BYTES_MAX or len(m.value) > VALUE_BYTES_MAX or m.ttl < 0:
            return False
        known = self.entries.get(m.key)
        grown = len(m.value) - len(known[0]) if known else len(m.key) + len(m.value)
        if self.size + grown > BYTES_MAX:
            return False
        end = ctx.now + m.ttl if m.ttl else float("inf")
        self.size += grown
        self.entries[m.key] = (m.value, end)
        if m.ttl:
            heapq.heappush(self.ends, (end, m.key))
            self._tidy()
            self._wake_at(end, ctx)
        return True

    @titan.readonly
    def get(self, m: Get, ctx: titan.Context) -> bytes | None:
        """The value of a key."""
        value, end = self.entries.get(m.key, (None, 0.0))
        return value if end > ctx.now else None

    def delete(self, m: Delete, ctx: titan.Context) -> bool:
        """Lets a key go."""
        end = self._drop(m.key)
        return end is not None and end > ctx.now

    def expire(self, m: Expire, ctx: titan.Context) -> None:
        """Lets go what has ended."""
        while self.ends and self.ends[0][0] <= ctx.now:
            end, key = heapq.heappop(self.ends)
            known = self.entries.get(key)
            if known is not None and known[1] == end:
                self._drop(key)
        if ctx.now >= self.alarm:
            self.alarm = float("inf")
            if self.ends:
                self._wake_at(self.ends[0][0], ctx)

    def _drop(self, key: bytes) -> float | None:
        known = self.entries.pop(key, None)
        if known is None:
            return None
        self.size -= len(key) + len(known[0])
        return known[1]

    def _wake_at(self, end: float, ctx: titan.Context) -> None:
        """One timer is enough: for the first that ends."""
        if end < self.alarm:
            self.alarm = end
            ctx.schedule(end - ctx.now, Expire())

    def _tidy(self) -> None:
        """Who sets the same key again and again does not fill the heap."""
        if len(self.ends) > 2 * len(self.entries) + 64:
            self.ends = sorted((end, key) for key, (_, end) in self.entries.items() if end != float("inf"))
