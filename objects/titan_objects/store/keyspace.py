"""Databases: keys, their values and their expiry.

A key that expires stands in a wheel of 10 ms buckets, which `due` empties bucket by bucket; whoever looks at a key
checks it as well, so that nobody ever sees one that is past its time. Moments are unix milliseconds.
"""

import heapq
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from titan_objects.store.listing import Held
from titan_objects.store.resp import wrong_type
from titan_objects.store.values import STRINGS

BUCKET_MS = 10


class Wheel:
    """Which keys expire in which 10 ms. A key stands in one bucket, the earliest that anybody asked for.

    A key whose expiry moves back (a heartbeat) stays where it is and is placed again when its bucket comes up: so a
    renewal costs nothing here. Keys leave bucket by bucket, and within one in the order of their databases and names:
    so it shows nowhere when a key was placed, and a store that was read from a snapshot lets go as the others do.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[Database, bytes]]] = {}
        self._order: list[int] = []
        self._sorted = -1
        """The bucket that was put in order last."""

    def place(self, database: "Database", key: bytes, at: int) -> None:
        """Puts a key into the bucket that ends after `at`."""
        bucket = at // BUCKET_MS
        placed = database.placed.get(key)
        if placed is not None and placed <= bucket:
            return
        database.placed[key] = bucket
        entries = self._buckets.get(bucket)
        if entries is None:
            entries = self._buckets[bucket] = []
            heapq.heappush(self._order, bucket)
        entries.append((database, key))
        if bucket == self._sorted:
            self._sorted = -1

    def due(self, now: int, limit: int) -> Iterator[tuple["Database", bytes]]:
        """Takes out up to `limit` keys that have expired by now."""
        while self._order and self._order[0] <= now // BUCKET_MS and limit > 0:
            bucket = self._order[0]
            entries = self._buckets[bucket]
            if bucket != self._sorted:
                entries.sort(key=_by_name, reverse=True)
                self._sorted = bucket
            late: list[tuple[Database, bytes]] = []
            while entries and limit > 0:
                database, key = entries.pop()
                if database.placed.get(key) != bucket:
                    continue  # it was placed earlier since, and has been dealt with
                at = database.expires.get(key)
                if at is None:
                    del database.placed[key]
                elif at // BUCKET_MS > bucket:
                    del database.placed[key]
                    self.place(database, key, at)
                elif at > now:
                    del database.placed[key]
                    late.append((database, key))
                else:
                    del database.placed[key]
                    limit -= 1
                    yield database, key
            for database, key in late:
                database.placed[key] = bucket
            if late:
                entries += late
                self._sorted = -1
                return  # the bucket's last milliseconds are still to come
            if not entries:
                heapq.heappop(self._order)
                del self._buckets[bucket]

    def next(self) -> int | None:
        """When something may expire next."""
        return self._order[0] * BUCKET_MS if self._order else None


def _by_name(place: tuple["Database", bytes]) -> tuple[int, bytes]:
    return place[0].index, place[1]


class Database:
    """One numbered keyspace. `data` and `expires` may be read directly where speed counts.

    Both are dicts, but while their keys are listed (`listing.py`).
    """

    __slots__ = ("data", "expires", "index", "placed", "space")

    def __init__(self, space: "Keyspace", index: int) -> None:
        self.space = space
        self.index = index
        self.data: MutableMapping[bytes, Any] = {}
        self.expires: MutableMapping[bytes, int] = {}
        self.placed: dict[bytes, int] = {}

    def get(self, key: bytes) -> Any:
        """The value, or None. One that is past its time is removed on the way."""
        if key in self.expires and self.expires[key] <= self.space.now:
            if not self.space.hides_expired:
                self.space.expire(self, key)
            return None
        return self.data.get(key)

    def typed(self, key: bytes, kind: type) -> Any:
        """The value, which must be of that class, or None. Raises WRONGTYPE."""
        value = self.get(key)
        if value is not None and type(value) is not kind:
            raise wrong_type()
        return value

    def string(self, key: bytes) -> bytes | bytearray | None:
        """The string, or None. Raises WRONGTYPE."""
        value = self.get(key)
        if value is not None and type(value) not in STRINGS:
            raise wrong_type()
        return value  # type: ignore[no-any-return]

    def put(self, key: bytes, value: Any) -> None:
        """Stores a value; the key expires no more."""
        self.data[key] = value
        self.expires.pop(key, None)

    def delete(self, key: bytes) -> bool:
        """Whether it was there. Says nothing to anybody."""
        self.expires.pop(key, None)
        return self.data.pop(key, None) is not None

    def expire_at(self, key: bytes, at: int) -> None:
        """Sets a key's end."""
        self.expires[key] = at
        self.space.wheel.place(self, key, at)

    def clear(self) -> None:
        """Removes all keys."""
        self.data, self.expires, self.placed = {}, {}, {}

    def live_keys(self) -> list[bytes]:
        """All keys that are not past their time."""
        now = self.space.now
        if not self.expires:
            return list(self.data)
        expires = self.expires
        return [key for key in self.data if key not in expires or expires[key] > now]


class Keyspace:
    """All databases, on one clock.

    Attributes:
        now: set by whoever runs commands; 0 while a log is replayed, when nothing may expire.
        on_expired: called after a key was removed because its time is over.
        held: what is being listed.
        hides_expired: what is past its time is not seen, but stays: the server that is followed here
            removes it, or a pause ends.
        preserve: called with each key before it is removed for that; None: nobody wants to know.
    """

    def __init__(self, databases: int, on_expired: Callable[[Database, bytes], None]) -> None:
        self.now = 0
        self.held: list[Held] = []
        self.hides_expired = False
        self.wheel = Wheel()
        self.databases = [Database(self, index) for index in range(databases)]
        self._on_expired = on_expired
        self.preserve: Callable[[Database, bytes], None] | None = None

    def expire(self, database: Database, key: bytes) -> None:
        """Removes a key that is past its time."""
        if self.preserve is not None:
            self.preserve(database, key)
        database.delete(key)
        self._on_expired(database, key)

    def expire_due(self, limit: int) -> int:
        """Removes up to `limit` keys that are past their time; says how many."""
        count = 0
        for database, key in self.wheel.due(self.now, limit):
            self.expire(database, key)
            count += 1
        return count

    def list_on(self) -> None:
        """Lists a piece more of all that is being listed."""
        for held in list(self.held):
            held.more()

    def swap(self, one: int, other: int) -> None:
        """Exchanges two databases' contents."""
        a, b = self.databases[one], self.databases[other]
        for name in ("data", "expires"):
            mine, theirs = getattr(a, name), getattr(b, name)
            setattr(a, name, theirs)
            setattr(b, name, mine)
        for database in (a, b):
            for key, at in database.expires.items():
                self.wheel.place(database, key, at)
