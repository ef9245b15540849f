"""The file at the end of a log, which is written to: what the disk has confirmed of it, and what it has not yet.

After an fsync that has failed nobody knows what is on the disk, and a later one that succeeds says nothing about it
(Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). So what is not confirmed is kept; if the
disk fails, the file is cut back to what it has confirmed, and the rest is given back to be written anew.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from titan_objects.store import batches

KEPT_BYTES_MAX = 64 << 20
"""Of what is not confirmed. A disk that is behind by more is believed."""


class Increment:
    """One open file of batches, which only grows.

    Attributes:
        size: bytes in it, without the room behind them.
        cuts: how often something was taken back: a sync that began before says nothing of what was written since.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._through = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_DSYNC)
        """To write with the disk's confirmation: it takes a quarter less time than to write, and ask for it then."""
        self.size = self._end = os.fstat(self._fd).st_size
        self._durable = self.size
        """So much the disk has confirmed."""
        self._kept: deque[tuple[int, bytes]] = deque()
        """What was written from `_kept_from` on: where each batch ends, and its commands."""
        self._kept_from = self.size
        self.cuts = 0
        self._stray = False
        """Something stands behind `size` that is no room."""

    @property
    def is_durable(self) -> bool:
        """Whether the disk has confirmed all of it."""
        return self._durable == self.size

    def write(self, commands: bytes, *, keep: bool, sync: bool = False) -> None:
        """Appends a batch.

        Args:
            keep: the disk will be asked to confirm it soon.
            sync: each batch has to be confirmed, and is at once where all before it is: the file is to be longer than
                what is in it. Else it must not be: of several that are written over room, the disk may keep a later
                one and not the one before.

        Raises:
            OSError: it could not be, and the file is as it was before.
        """
        data = batches.encode(commands, self.size)
        size = self.size + len(data)
        if sync and size >= self._end and self.is_durable and not self._stray:
            self._make_room(size)
        if self._stray or (not sync and self._end > self.size):
            self._cut()
        if batches.splits_line(size) and size < self._end:
            data += b"#"
        through = sync and self.is_durable
        fd = self._through if through else self._fd
        try:
            written = os.pwrite(fd, data, self.size)
            while written < len(data):
                written += os.pwrite(fd, data[written:], self.size + written)
        except OSError:
            self._doubt()
            raise
        self.size = size
        self._end = max(self._end, size)
        self._kept.append((size, commands))
        if through:
            self.confirm(size)
        elif not keep or size - self._kept_from > KEPT_BYTES_MAX:
            self._forget(size)

    def _make_room(self, size: int) -> None:
        """Lets the file end behind that place, if the disk has room."""
        end = self._end
        try:
            while end <= size or end % batches.ROOM_BYTES:
                end += os.pwrite(self._fd, batches.room_from(end), end)
            os.fdatasync(self._fd)  # of what is torn later, the rest is room and nothing else
            self._end = end
        except OSError:
            self._stray = True

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
        while self._kept and self._kept[0][0] <= size:
            self._kept_from, _ = self._kept.popleft()

    def take_back(self) -> list[bytes]:
        """Cuts off what is not confirmed; it has to be written again."""
        back = [commands for _, commands in self._kept]
        self._kept.clear()
        self.size = self._kept_from
        self._doubt()
        return back

    def _doubt(self) -> None:
        """Nobody knows what stands behind `size`: it is cut off, if not now, before the next write."""
        self.cuts += 1
        self._durable = -1  # the cut is not confirmed either
        self._stray = True
        with suppress(OSError):
            self._cut()

    def _cut(self) -> None:
        os.ftruncate(self._fd, self.size)
        self._end = self.size
        self._stray = False

    def close(self) -> None:
        """Confirmed or not; without room."""
        with suppress(OSError):
            self._cut()
        os.close(self._fd)
        os.close(self._through)
