"""Cursors of SCAN, HSCAN, SSCAN and ZSCAN: lists of names taken when a scan began."""

from collections.abc import Callable

SCANS_MAX = 64
"""How many scans may be open; the oldest makes room."""


class Scans:
    """Open scans by serial number. A cursor is `serial << 32 | place`."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[object, list[bytes]]] = {}
        self._serial = 0

    def resume(self, cursor: int, owner: object, everything: Callable[[], list[bytes]]) -> tuple[list[bytes], int, int]:
        """The names, the scan's serial number, and the place to go on from."""
        serial, place = cursor >> 32, cursor & 0xFFFFFFFF
        found = self._open.get(serial)
        if cursor and found is not None and found[0] is owner:
            return found[1], serial, place
        self._serial += 1
        if len(self._open) >= SCANS_MAX:
            del self._open[next(iter(self._open))]
        names = everything()
        self._open[self._serial] = (owner, names)
        return names, self._serial, 0

    def done(self, serial: int) -> None:
        """The scan has come to its end."""
        self._open.pop(serial, None)
