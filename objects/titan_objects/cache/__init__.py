"""Cache: keys and values with a time to live, the same on all members of a group.

    titan publish cache --name cache/main
    titan cache set cache/main greeting hello --ttl 60
    titan cache serve cache/main

Values end by the time that the members have agreed on, so that no member answers with what another has let go.
`gateway.py` opens it to programs that speak the little-endian protocol of the Raft cache (`wire.py`).
"""

import heapq
from collections.abc import Iterator
from itertools import islice

import msgspec

import titan_overlay as titan

KEY_BYTES_MAX = 64 << 10
VALUE_BYTES_MAX = 512 << 10
BYTES_MAX = 256 << 20
"""Of all keys and values together."""
ENTRY_BYTES = 64
"""What an entry costs beside its key and value."""
CHUNK_BYTES = 64 << 10
NEVER = float("inf")


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
    """It keeps its own snapshots, in chunks: a cache may be large, and nobody waits for it."""

    def __init__(self) -> None:
        self.entries: titan.WalkableDict[bytes, tuple[bytes, float]] = titan.WalkableDict()
        """Value, and agreed time at which it ends."""
        self.ends: list[tuple[float, bytes]] = []
        """A heap of all ends, with some that are not true any more."""
        self.alarm = NEVER
        """When the next `Expire` comes."""
        self.size = 0

    def set(self, m: Set, ctx: titan.Context) -> bool:
        """Keeps a value."""
        if len(m.key) > KEY_BYTES_MAX or len(m.value) > VALUE_BYTES_MAX or m.ttl < 0:
            return False
        known = self.entries.get(m.key)
        grown = len(m.value) - len(known[0]) if known else _cost(m.key, m.value)
        if self.size + grown > BYTES_MAX:
            return False
        end = ctx.now + m.ttl if m.ttl else NEVER
        self._wake_at(end, ctx)  # first: it may be refused
        self._put(m.key, m.value, end)
        self._tidy()
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
        while self.ends:
            end, key = self.ends[0]
            true = self.entries.get(key, (b"", None))[1] == end
            if true and end > ctx.now:
                break
            heapq.heappop(self.ends)
            if true:
                self._drop(key)
        if ctx.now >= self.alarm:
            self.alarm = NEVER
            if self.ends:
                self._wake_at(self.ends[0][0], ctx)

    def snapshot(self) -> Iterator[bytes]:
        """Alarm, then entries, some at a time."""
        entries = self.entries.walk()
        yield msgspec.msgpack.encode(self.alarm)
        while chunk := _chunk(entries):
            yield msgspec.msgpack.encode(chunk)

    def restore(self, chunk: bytes) -> None:
        """The other way round."""
        if self.alarm == NEVER and not self.entries and len(chunk) == _ALARM_BYTES:
            self.alarm = msgspec.msgpack.decode(chunk, type=float)
            return
        for key, value, end in msgspec.msgpack.decode(chunk, type=list[tuple[bytes, bytes, float]]):
            self._put(key, value, end)

    def _put(self, key: bytes, value: bytes, end: float) -> None:
        known = self.entries.get(key)
        self.size += len(value) - len(known[0]) if known else _cost(key, value)
        self.entries[key] = (value, end)
        if end != NEVER:
            heapq.heappush(self.ends, (end, key))

    def _drop(self, key: bytes) -> float | None:
        known = self.entries.pop(key, None)
        if known is None:
            return None
        self.size -= _cost(key, known[0])
        return known[1]

    def _wake_at(self, end: float, ctx: titan.Context) -> None:
        """One timer is enough: for the first that ends."""
        if end < self.alarm:
            self.alarm = end
            ctx.schedule(end - ctx.now, Expire())

    def _tidy(self) -> None:
        """Who sets the same key again and again does not fill the heap."""
        if len(self.ends) > 2 * len(self.entries) + 64:
            self.ends = sorted((end, key) for key, (_, end) in self.entries.items() if end != NEVER)


_ALARM_BYTES = len(msgspec.msgpack.encode(NEVER))


def _cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES


def _chunk(entries: Iterator[tuple[bytes, tuple[bytes, float]]]) -> list[tuple[bytes, bytes, float]]:
    """The next entries of a snapshot: many small ones, or a few large ones."""
    taken, size = [], 0
    for key, (value, end) in islice(entries, CHUNK_BYTES // ENTRY_BYTES):
        taken.append((key, value, end))
        size += _cost(key, value)
        if size >= CHUNK_BYTES:
            break
    return taken
