"""Cursors of SCAN, HSCAN and ZSCAN: lists of names as they were when a scan began."""

from collections.abc import Callable, Iterator

SCANS_MAX = 64
"""How many scans may be open; the oldest makes room."""

Pieces = Iterator[list[bytes]]


class Names:
    """What one scan goes through, taken piece by piece as it gets there."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._taken: list[bytes] = []

    def page(self, begin: int, end: int) -> tuple[list[bytes], bool]:
        """Names by their places; whether there are more."""
        taken = self._taken
        while len(taken) <= end and (piece := next(self._pieces, None)) is not None:
            taken += piece
        return taken[begin:end], end < len(taken)


class Scans:
    """Open scans by serial number. A cursor is `serial << 32 | place`."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[object, Names]] = {}
        self._serial = 0

    def resume(self, cursor: int, owner: object, everything: Callable[[], Pieces]) -> tuple[Names, int, int]:
        """The names, the scan's serial number, and the place to go on from."""
        serial, place = cursor >> 32, cursor & 0xFFFFFFFF
        found = self._open.get(serial)
        if cursor and found is not None and found[0] is owner:
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
