"""Cursors of SCAN, HSCAN and ZSCAN: lists of names as they were when a scan began."""

from collections.abc import Iterator, Mapping

from titan_objects.store.keyspace import Database
from titan_objects.store.listing import Listing

SCANS_MAX = 64
"""How many scans may be open; the oldest makes room."""

Pieces = Iterator[list[bytes]]


BEHIND = 5_000
"""So many names are kept that a scan has passed, for a client that asks for a page again."""


class Names:
    """What one scan goes through, taken piece by piece as it gets there, and let go so.

    Attributes:
        first: the place of the first name that is kept.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._kept: list[bytes] = []
        self.first = 0

    def page(self, begin: int, end: int) -> tuple[list[bytes], bool]:
        """Names by their places, the first of which is kept; whether there are more."""
        kept = self._kept
        while self.first + len(kept) <= end and (piece := next(self._pieces, None)) is not None:
            kept += piece
        page = kept[begin - self.first : end - self.first]
        more = end < self.first + len(kept)
        if begin - self.first >= 2 * BEHIND:
            del kept[:BEHIND]
            self.first += BEHIND
        return page, more


class Scans:
    """Open scans by serial number. A cursor is `serial << 32 | place`.

    Whatever is there from the begin of a scan to its end is returned. One whose list is gone begins again.

    Attributes:
        passed: names that were looked at, in all.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[object, Names]] = {}
        self._serial = 0
        self.passed = 0

    def page(self, cursor: int, count: int, owner: object, names: Mapping[bytes, object]) -> tuple[int, list[bytes]]:
        """The next cursor (0: this is the end), and names.

        Args:
            owner: what is scanned, a database or a value.
            names: all that it has now.
        """
        serial, place = cursor >> 32, cursor & 0xFFFFFFFF
        found = self._open.get(serial)
        if not cursor or found is None or found[0] is not owner or place < found[1].first:
            serial, place = self._begin(owner, names), 0
        end = place + count
        page, more = self._open[serial][1].page(place, end)
        if more:
            return serial << 32 | end, page
        del self._open[serial]
        return 0, page

    def _begin(self, owner: object, names: Mapping[bytes, object]) -> int:
        self._serial += 1
        if len(self._open) >= SCANS_MAX:
            del self._open[next(iter(self._open))]
        pieces = Listing(owner).pieces() if isinstance(owner, Database) else iter([list(names)])
        self._open[self._serial] = (owner, Names(pieces))
        return self._serial
