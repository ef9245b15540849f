"""Cursors of SCAN, HSCAN and ZSCAN in a group: places in the order of the names' hashes.

A page follows from the state and the cursor alone, so all members give the same, whatever each of them remembers: one
that was restored from a snapshot, and another one that leads by now. A name keeps its hash, so whatever is there from
the begin of a scan to its end is returned, once, whatever comes and goes meanwhile; a scan may pause for as long as it
likes. To find a place quickly names are spread over buckets by their hashes, which a member keeps for a while as it
likes: they are a cache.
"""

from collections.abc import Collection, Mapping
from typing import Protocol
from zlib import crc32

from titan_objects.store.keyspace import Database
from titan_objects.store.listing import contents
from titan_objects.store.scans import Scans

HASH_BITS = 32
IN_BUCKET_BITS = 4
"""A bucket has some 16 names."""
KEPT_MS = 60_000
"""After so long without a scan, nothing is kept: commands that write have to say what they are about to change."""
KEPT_MAX = 32
"""Databases and values that are kept; the oldest makes room."""
SMALL = 256
"""Names of which nothing is kept; a page has a 256th part of a value's names at least."""


class Walks(Protocol):
    """The engine, as far as it is needed here."""

    now: int

    def add_walk(self, walk: "HashScans") -> None:
        """Each key is told before it changes."""

    def remove_walk(self, walk: "HashScans") -> None:
        """No more."""


def hash_of(name: bytes) -> int:
    """From 1 on: as a cursor, 0 is the begin and the end."""
    return crc32(name) or 1


class Buckets:
    """Names by their hashes.

    Attributes:
        of: what has the names, kept so that nothing else gets its identity.
    """

    def __init__(self, of: object, names: Collection[bytes]) -> None:
        self.of = of
        bits = max(0, len(names).bit_length() - IN_BUCKET_BITS)
        self._shift = HASH_BITS - bits
        self._buckets: list[list[bytes]] = [[] for _ in range(1 << bits)]
        self._room = 2 * len(names) + SMALL
        for name in names:
            self._buckets[hash_of(name) >> self._shift].append(name)

    def add(self, name: bytes) -> bool:
        """A name that may come. False: so many have, or have gone, that it is time to begin anew."""
        bucket = self._buckets[hash_of(name) >> self._shift]
        if name not in bucket:
            bucket.append(name)
            self._room -= 1
        return self._room > 0

    def page(self, place: int, count: int, names: Collection[bytes]) -> tuple[int, list[bytes]]:
        """The next place (0: there is none), and names, of those that there are, from this one on."""
        page: list[bytes] = []
        last = 0
        for number in range(place >> self._shift, len(self._buckets)):
            there = sorted((hash_of(name), name) for name in self._buckets[number] if name in names)
            self._buckets[number] = [name for _, name in there]
            for at, name in there:
                if at < place:
                    continue
                if len(page) >= count and at != last:
                    return at, page
                page.append(name)
                last = at
        return 0, page


class HashScans(Scans):
    """See the module. `walks`: it hears of keys that change."""

    def __init__(self, engine: Walks) -> None:
        super().__init__()
        self._engine = engine
        self._kept: dict[int, Buckets] = {}
        """By the identity of what has the names."""
        self._until = 0
        self.walks = False

    def page(self, cursor: int, count: int, owner: object, names: Mapping[bytes, object]) -> tuple[int, list[bytes]]:
        of = contents(owner.data) if isinstance(owner, Database) else owner
        buckets = self._kept.get(id(of))
        if buckets is None:
            buckets = Buckets(of, names)
            self.passed += len(names)
            if len(names) > SMALL:
                self._keep(buckets)
        self._until = self._engine.now + KEPT_MS
        if of is owner:
            count = max(count, len(names) // SMALL)
        return buckets.page(cursor, count, names)

    def preserve(self, db: Database, key: bytes) -> None:
        """This key is about to change: it may come, or its value may."""
        keys = self._kept.get(id(contents(db.data)))
        value = db.data.get(key)
        if value is not None:
            self._kept.pop(id(value), None)
        elif keys is not None and not keys.add(key):
            del self._kept[id(keys.of)]

    def look(self) -> None:
        """Between two commands: perhaps nothing need be kept any more."""
        if self.walks and (not self._kept or self._engine.now > self._until):
            self._kept.clear()
            self.walks = False
            self._engine.remove_walk(self)

    def flushed(self) -> None:
        """Databases were emptied: what they had is not kept from being let go."""
        self._kept.clear()

    def _keep(self, buckets: Buckets) -> None:
        if not self.walks:
            self.walks = True
            self._engine.add_walk(self)
        while len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[id(buckets.of)] = buckets
