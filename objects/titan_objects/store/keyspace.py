"""Databases: keys, their values and their expiry.

A key that expires, or a field of whose hash does, stands in a wheel of 10 ms buckets, which `due` empties bucket by
bucket; whoever looks at a key, or at fields of a hash, checks them as well, so that nobody ever sees what is past its
time. Moments are unix milliseconds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator, MutableMapping
from contextlib import closing
from typing import Any

from titan_objects.store.listing import Held
from titan_objects.store.resp import wrong_type
from titan_objects.store.values import STRINGS, ExpiringHash

BUCKET_MS = 10


class Placed(dict[bytes, int]):
    """The bucket in which each key of a database stands. SWAPDB gives it another database; the wheel need not know."""

    __slots__ = ("database",)

    def __init__(self, database: "Database") -> None:
        super().__init__()
        self.database = database

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]


class Wheel:
    """Which keys expire in which 10 ms. A key stands in one bucket, the earliest that anybody asked for.

    A key whose expiry moves back (a heartbeat) stays where it is and is placed again when its bucket comes up: so a
    renewal costs nothing here. Keys leave bucket by bucket, and within one in the order of their databases and names:
    so it shows nowhere when a key was placed, and a store that was read from a snapshot lets go as the others do.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[Placed, bytes]]] = {}
        self._order: list[int] = []
        self._sorted = -1
        """The bucket that was put in order last."""

    def place(self, placed: Placed, key: bytes, at: int) -> None:
        """Puts a key into the bucket that ends after `at`."""
        bucket = at // BUCKET_MS
        before = placed.get(key)
        if before is not None and before <= bucket:
            return
        placed[key] = bucket
        entries = self._buckets.get(bucket)
        if entries is None:
            entries = self._buckets[bucket] = []
            heapq.heappush(self._order, bucket)
        entries.append((placed, key))
        if bucket == self._sorted:
            self._sorted = -1

    def due(self, now: int) -> Generator[tuple["Database", bytes]]:
        """Takes out keys that expire, or whose fields do, by now; to be closed by who does not take them all."""
        while self._order and self._order[0] <= now // BUCKET_MS:
            bucket = self._order[0]
            entries = self._buckets[bucket]
            if bucket != self._sorted:
                entries.sort(key=_by_name, reverse=True)
                self._sorted = bucket
            late: list[tuple[Placed, bytes]] = []
            try:
                while entries:
                    placed, key = entries.pop()
                    if placed.get(key) != bucket:
                        continue  # it was placed earlier since, and has been dealt with
                    at = placed.database.end(key)
                    if at is None:
                        del placed[key]
                    elif at // BUCKET_MS > bucket:
                        del placed[key]
                        self.place(placed, key, at)
                    elif at > now:
                        late.append((placed, key))
                    else:
                        del placed[key]
                        yield placed.database, key
            finally:
                if late:  # the bucket's last milliseconds are still to come
                    entries += late
                    self._sorted = -1
            if late:
                return
            heapq.heappop(self._order)
            del self._buckets[bucket]

    def emptied(self) -> list[object]:
        """Nothing ends any more; what it had."""
        buckets, self._buckets, self._order = self._buckets, {}, []
        self._sorted = -1
        return list(buckets.values())

    def forget_order(self) -> None:
        """Databases have changed their places."""
        self._sorted = -1

    def next(self) -> int | None:
        """The begin of the bucket in which something ends next, as the ends are now; None: nothing ends.

        Members of a group go by it, so where keys were once placed must not show: those that have been renewed or are
        gone leave the buckets that come first.
        """
        while self._order:
            bucket = self._order[0]
            entries = self._buckets[bucket]
            while entries:
                placed, key = entries[-1]
                if placed.get(key) == bucket:
                    at = placed.database.end(key)
                    if at is not None and at // BUCKET_MS == bucket:
                        return bucket * BUCKET_MS
                    del placed[key]
                    if at is not None:
                        self.place(placed, key, at)
                entries.pop()
            heapq.heappop(self._order)
            del self._buckets[bucket]
        return None


def _by_name(place: tuple[Placed, bytes]) -> tuple[int, bytes]:
    return place[0].database.index, place[1]


class Database:
    """One numbered keyspace. `data` and `expires` may be read directly where speed counts.

    While its keys are listed, `data` is no dict (`listing.py`).
    """

    __slots__ = ("data", "expires", "index", "placed", "space")

    def __init__(self, space: "Keyspace", index: int) -> None:
        self.space = space
        self.index = index
        self.data: MutableMapping[bytes, Any] = {}
        self.expires: dict[bytes, int] = {}
        self.placed = Placed(self)

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

    def hash(self, key: bytes) -> dict[bytes, bytes] | None:
        """The hash, without what is past its time, or None. Raises WRONGTYPE."""
        value = self.get(key)
        if value is None or type(value) is dict:
            return value
        if type(value) is not ExpiringHash:
            raise wrong_type()
        return self.space.live_fields(self, key, value)

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
        self.space.wheel.place(self.placed, key, at)

    def end(self, key: bytes) -> int | None:
        """When the key is past its time, or the first field of its hash is; None: never."""
        at = self.expires.get(key)
        value = self.data.get(key)
        if type(value) is ExpiringHash:
            first = value.first
            return first if at is None else at if first is None else min(at, first)
        return at

    def take_in(self, key: bytes, value: Any, expires: int | None) -> None:
        """Stores a value that comes from elsewhere, with the key's end and those of its fields."""
        self.put(key, value)
        if expires is not None:
            self.expire_at(key, expires)
        if type(value) is ExpiringHash:
            self.place_fields(key)

    def place_fields(self, key: bytes) -> None:
        """The same as `place`, for a hash that may have got ends."""
        self.space.has_known_ends = True
        self.place(key)

    def place(self, key: bytes) -> None:
        """Sees to it that what ends is let go in time."""
        at = self.end(key)
        if at is not None:
            self.space.wheel.place(self.placed, key, at)

    def clear(self) -> None:
        """Removes all keys."""
        self.data, self.expires = {}, {}
        self.placed.clear()
        if not any(each.placed for each in self.space.databases):
            self.space.spent += self.space.wheel.emptied()

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
        on_fields_expired: the same for fields of a hash; the key is gone if none is left.
        held: what is being listed.
        spent: what walks were about and need no more, to be let go one by one: all at once would stall everybody.
        has_known_ends: there were fields that end, ever.
        hides_expired: what is past its time is not seen, but stays: the server that is followed here
            removes it, or a pause ends.
        preserve: called with each key before it is removed for that; None: nobody wants to know.
    """

    def __init__(
        self,
        databases: int,
        on_expired: Callable[[Database, bytes], None],
        on_fields_expired: Callable[[Database, bytes, list[bytes]], None],
    ) -> None:
        self.now = 0
        self.held: list[Held] = []
        self.spent: deque[object] = deque()
        self.hides_expired = False
        self.has_known_ends = False
        self.wheel = Wheel()
        self.databases = [Database(self, index) for index in range(databases)]
        self._on_expired = on_expired
        self._on_fields_expired = on_fields_expired
        self.preserve: Callable[[Database, bytes], None] | None = None

    def expire(self, database: Database, key: bytes) -> None:
        """Removes a key that is past its time."""
        if self.preserve is not None:
            self.preserve(database, key)
        database.delete(key)
        self._on_expired(database, key)

    def live_fields(self, database: Database, key: bytes, value: ExpiringHash) -> dict[bytes, bytes] | None:
        """A hash without fields that are past their time; None: all are."""
        first = value.first
        if first is None or first > self.now:
            return value
        if self.hides_expired:
            return value.live(self.now) or None
        self.expire_fields(database, key, value, len(value))
        return value or None

    def expire_fields(self, database: Database, key: bytes, value: ExpiringHash, limit: int) -> int:
        """Removes up to `limit` fields that are past their time; says how many."""
        if self.preserve is not None:
            self.preserve(database, key)
        gone = value.take_due(self.now, limit)
        if value:
            database.place(key)
        else:
            database.delete(key)
        self._on_fields_expired(database, key, gone)
        return len(gone)

    def expire_due(self, limit: int) -> int:
        """Removes keys and fields that are past their time, up to `limit`; says how many."""
        count = 0
        with closing(self.wheel.due(self.now)) as due:
            for database, key in due:
                at = database.expires.get(key)
                if at is not None and at <= self.now:
                    self.expire(database, key)
                    count += 1
                else:
                    count += self.expire_fields(database, key, database.data[key], limit - count)
                if count >= limit:
                    break
        return count

    def list_on(self) -> None:
        """Lists a piece more of all that is being listed, and lets go of something that is spent."""
        for held in list(self.held):
            held.more()
        if self.spent:
            self.spent.popleft()

    def swap(self, one: int, other: int) -> None:
        """Exchanges two databases' contents."""
        a, b = self.databases[one], self.databases[other]
        for name in ("data", "expires", "placed"):
            mine, theirs = getattr(a, name), getattr(b, name)
            setattr(a, name, theirs)
            setattr(b, name, mine)
        a.placed.database, b.placed.database = a, b
        self.wheel.forget_order()
