"""The file at the end of a log, which is written to: what the disk has confirmed of it, and what it has not yet.

After an fsync that has failed nobody knows what is on the disk, and a later one that succeeds says nothing about it
(Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). So what is not confirmed is kept; if the
disk fails, the file is cut back to what it has confirmed, and the rest is given back to be written anew.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path

KEPT_BYTES_MAX = 64 << 20
"""Of what is not confirmed. A disk that is behind by more is believed."""


class Increment:
    """One open file, which only grows.

    Attributes:
        size: bytes in it.
        cuts: how often something was taken back: a sync that began before says nothing of what was written since.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self._durable = self.size
        """So much the disk has confirmed."""
        self._kept: deque[bytes] = deque()
        """What stands between `_kept_from` and `size`."""
        self._kept_from = self.size
        self.cuts = 0
        self._stray = False
        """Something stands behind `size`."""

    @property
    def is_durable(self) -> bool:
        """Whether the disk has confirmed all of it."""
        return self._durable == self.size

    def write(self, data: bytes, *, keep: bool) -> None:
        """Appends.

        Args:
            keep: the disk will be asked to confirm it soon.

        Raises:
            OSError: it could not be, and the file is as it was before.
        """
        if self._stray:
            self._cut()
        try:
            at = os.write(self._fd, data)
            while at < len(data):
                at += os.write(self._fd, data[at:])
        except OSError:
            self._stray = True
            with suppress(OSError):  # if not now, before the next write
                self._cut()
            raise
        self.size += len(data)
        self._kept.append(data)
        if not keep or self.size - self._kept_from > KEPT_BYTES_MAX:
            self._forget(self.size)

    def sync(self) -> None:
        """Has the disk confirm all of it. Raises OSError: it does not, and `take_back` is due."""
        if not self.is_durable:
            os.fdatasync(self._fd)
            self.confirm(self.size)

    def descriptor(self) -> int:
        """One more, to sync elsewhere and to close."""
        return os.dup(self._fd)

    def confirm(self, size: int) -> None:
        """The disk has: so many bytes are durable."""
        self._durable = size
        self._forget(size)

    def _forget(self, size: int) -> None:
        while self._kept and self._kept_from + len(self._kept[0]) <= size:
            self._kept_from += len(self._kept.popleft())

    def take_back(self) -> list[bytes]:
        """Cuts off what is not confirmed; it has to be written again."""
        back = list(self._kept)
        self._kept.clear()
        self.size = self._kept_from
        self.cuts += 1
        self._durable = -1  # the cut is not confirmed either
        self._stray = True
        with suppress(OSError):
            self._cut()
        return back

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._stray = False

    def close(self) -> None:
        """Confirmed or not."""
        os.close(self._fd)
