"""Keys by chance (RANDOMKEY) from a database of any size, without looking at all of them at once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from titan_objects.store.listing import PIECE, Listing, contents

if TYPE_CHECKING:
    from titan_objects.store.engine import Chance
    from titan_objects.store.keyspace import Database

FEW = 1000
"""So many keys are looked at."""

TRIES = 100


class Sample:
    """The keys of a database as they were some time ago, in pieces.

    They are listed while commands go on, and again after as many draws as are a tenth of them: so a key is as likely
    as any other once it was there for that long, and what is not there any more is never drawn.
    """

    def __init__(self, database: "Database") -> None:
        self._database = database
        self.of: Any = contents(database.data)
        self._pieces: list[list[bytes]] = []
        self._source: Iterator[list[bytes]] | None = None
        self._next = self._draws = 0

    def draw(self, chance: "Chance") -> bytes | None:
        """A key that is there; None: none was found."""
        self._draws += 1
        if self._source is None and (not self._pieces or self._draws * 10 > len(self._database.data)):
            self._source = Listing(self._database).pieces()
            self._next = self._draws = 0
        for _ in range(TRIES):
            if self._source is not None:
                self._take(self._source)
            piece = self._pieces[chance.randrange(len(self._pieces))]
            at = chance.randrange(PIECE)
            if at < len(piece):
                if self._database.get(piece[at]) is not None:
                    return piece[at]
                piece[at] = piece[-1]
                piece.pop()
        return None

    def _take(self, source: Iterator[list[bytes]]) -> None:
        """One piece, in place of the one that stood there. After the last one, what is left of before goes."""
        found = next(source, None)
        if found is None:
            self._source = None
            del self._pieces[self._next :]
        else:
            for start in range(0, max(1, len(found)), PIECE):
                self._pieces[self._next : self._next + 1] = [found[start : start + PIECE]]
                self._next += 1


class Samples:
    """Of all databases of a store. Where a database has few keys, all of them are looked at."""

    def __init__(self) -> None:
        self._samples: dict[Database, Sample] = {}

    def key(self, database: "Database", chance: "Chance") -> bytes | None:
        """A key that is not past its time; None: there is none."""
        if len(database.data) > FEW:
            sample = self._samples.get(database)
            if sample is None or sample.of is not contents(database.data):  # FLUSHDB, SWAPDB
                sample = self._samples[database] = Sample(database)
            key = sample.draw(chance)
            if key is not None:
                return key
        return key_by_chance(database, chance)


def key_by_chance(database: "Database", chance: "Chance") -> bytes | None:
    """A key that is not past its time, all equally likely; None: there is none."""
    found = database.live_keys()
    return found[chance.randrange(len(found))] if found else None
