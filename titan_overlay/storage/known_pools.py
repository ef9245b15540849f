"""Pools that programs of this user have met at a bare address: trusted on first use, and pinned.

The file is text, one pin a line, so that its user can read it and take a pin back:

    HOST:PORT POOL      the pool's id in hexadecimal

Programs that run at once share it: `flock` (flock(2)) keeps them apart. It is bounded: the oldest pins go first.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from titan_overlay.errors import StorageError

PINS_MAX = 1024
LINE_BYTES_MAX = 512
"""A host name has 253 bytes at most (RFC 1035, 2.3.4), a pool's id 64 digits."""
_ID_DIGITS = 64
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


class Pin(NamedTuple):
    """One line of the file."""

    address: str
    pool: bytes
    line: int
    """Counted from 1."""


class KnownPools:
    """The pins in a file, which need not be there.

    Raises (all methods):
        StorageError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, address: str) -> Pin | None:
        """The pin of an address."""
        if not self.path.exists():
            return None
        with self._open(os.O_RDONLY, fcntl.LOCK_SH) as file:
            return next((pin for pin in _pins(_lines(file)) if pin.address == address), None)

    def add(self, addresses: Sequence[str], pool: bytes) -> None:
        """Pins addresses; one that has a pin keeps it."""
        with self._open(os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX) as file:
            lines = _lines(file)
            known = {pin.address for pin in _pins(lines)}
            new = [f"{address} {pool.hex()}" for address in dict.fromkeys(addresses) if address not in known]
            # Over what is there, most of which is the same: whoever is killed meanwhile leaves the pins as they were.
            file.seek(0)
            file.write("".join(f"{line}\n" for line in [*filter(None, lines), *new][-PINS_MAX:]).encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _open(self, flags: int, lock: int) -> Iterator[IO[bytes]]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
            with open(descriptor, "rb" if lock == fcntl.LOCK_SH else "r+b") as file:
                fcntl.flock(file, lock)
                yield file
        except OSError as why:
            raise StorageError(
                f"cannot use {self.path}, where pools that were trusted on first use are kept: {why.strerror}"
            ) from None


def _lines(file: IO[bytes]) -> list[str]:
    """What is beyond the bound, which nobody wrote from here, is left out."""
    text = file.read(PINS_MAX * LINE_BYTES_MAX).decode("utf-8", "replace")
    return text.split("\n")[:PINS_MAX]


def _pins(lines: Sequence[str]) -> Iterator[Pin]:
    for number, line in enumerate(lines, start=1):
        address, _, digits = line.strip().rpartition(" ")
        if address and len(digits) == _ID_DIGITS and set(digits) <= _HEXADECIMAL:
            yield Pin(address, bytes.fromhex(digits), number)
