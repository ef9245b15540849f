"""Cursors of SCAN, HSCAN and ZSCAN: lists of names as they were when a scan began."""

from collections.abc import Callable, Iterator

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
    """Open scans by serial number. A cursor is `serial << 32 | place`."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[object, Names]] = {}
        self._serial = 0

    def resume(self, cursor: int, owner: object, everything: Callable[[], Pieces]) -> tuple[Names, int, int]:
        """The names, the scan's serial number, and the place to go on from."""
        serial, place = cursor >> 32, cursor & 0xFFFFFFFF
        found = self._open.get(serial)
        if cursor and found is not None and found[0] is owner and found[1].first <= place:
            return found[1], serial, place
        self._serial += 1
        if len(self._open) >= SCANS_MAX:
            del self._open[next(iter(self._open))]
        names = Names(everything())
        self._open[self._serial] = (owner, names)
        return names, self._serial, 0

    def done(self, serial: int) -> None:
        """The scan has come to its end."""
        self._open.pop(serial, None)
