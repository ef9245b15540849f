"""A disk in memory that loses power as real ones do.

`MemoryDisk` is the twin of `titan_overlay.storage.disk.RealDisk`. What is written sits in a "page cache" until `sync`
of that file; a power loss then keeps, for each 512-byte sector on its own, any of the versions that the sector went
through since the last sync, and likewise for the file's size: writes are torn, reordered, partly there. Names follow
the rules of a journalling file system (ext4, xfs): creations, removals and renames reach the disk in order, at the
latest with the next `sync` or `replace` of anything. (Pillai et al., "All File Systems Are Not Created Equal", OSDI
2014, is the source of what may happen.)
"""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from titan_overlay.ambient import Random
from titan_overlay.errors import StorageError
from titan_overlay.storage.disk import check_path

SECTOR = 512
WRITEBACK_SECONDS = 30.0
"""The page cache writes back by itself what is older (Linux: dirty_expire_centisecs)."""


class _Change(NamedTuple):
    """One change since the last sync, with what is needed to take it back."""

    when: float
    start: int
    old: bytes
    length: int  # of what was put at `start`
    size_before: int
    size_after: int


class _File:
    __slots__ = ("data", "pending", "settled")

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.pending: list[_Change] = []
        self.settled = 0  # changes that became durable, ever

    def put(self, offset: int, data: bytes, now: float) -> None:
        size = len(self.data)
        if offset > size:
            start, data = size, bytes(offset - size) + data
        else:
            start = offset
        end = start + len(data)
        self._note(_Change(now, start, bytes(self.data[start:end]), len(data), size, max(size, end)))
        self.data[start:end] = data

    def cut(self, size: int, now: float) -> None:
        before = len(self.data)
        if size < before:
            self._note(_Change(now, size, bytes(self.data[size:]), 0, before, size))
            del self.data[size:]
        elif size > before:
            self.put(size, b"", now)

    def _note(self, change: _Change) -> None:
        pending = self.pending
        if pending and change.when - pending[0].when > WRITEBACK_SECONDS:
            old = change.when - WRITEBACK_SECONDS
            self.settle(self.settled + sum(1 for earlier in pending if earlier.when < old))
        pending.append(change)

    def settle(self, count: int) -> None:
        """The first `count` changes, ever, are durable."""
        if count > self.settled:
            del self.pending[: count - self.settled]
            self.settled = count

    def after_power_loss(self, random: Random) -> bytes:
        """What is on the platter: each sector, and the size, as of a moment of its own since the last sync."""
        pending = self.pending
        luck = random.random()
        if not pending or luck < 0.2:
            return bytes(self.data)
        image, puts = self.data.copy(), list[bytes]()
        for change in reversed(pending):
            puts.append(bytes(image[change.start : change.start + change.length]))
            _resize(image, change.size_before)
            image[change.start : change.start + len(change.old)] = change.old
        puts.reverse()
        if luck < 0.4:
            return bytes(image)
        moments: list[list[int]] = [[] for _ in range(len(pending) + 1)]
        touched = {
            sector
            for change in pending
            for sector in range(
                change.start // SECTOR,
                (change.start + max(change.length, len(change.old)) + SECTOR - 1) // SECTOR,
            )
        }
        for sector in sorted(touched):
            moments[random.randrange(len(moments))].append(sector)
        result = image.copy()
        for number, (change, put) in enumerate(zip(pending, puts, strict=True), 1):
            _resize(image, change.size_after)
            image[change.start : change.start + len(put)] = put
            for sector in moments[number]:
                _copy_sector(image, result, sector)
        moment = random.randrange(len(moments))
        _resize(result, pending[moment - 1].size_after if moment else pending[0].size_before)
        return bytes(result)


def _resize(data: bytearray, size: int) -> None:
    if len(data) > size:
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _copy_sector(source: bytearray, target: bytearray, sector: int) -> None:
    start = sector * SECTOR
    part = source[start : start + SECTOR]
    if len(target) < start + len(part):
        _resize(target, start + len(part))
    target[start : start + len(part)] = part
    end = min(start + SECTOR, len(target))
    target[start + len(part) : end] = bytes(max(0, end - start - len(part)))


class _Renamed(NamedTuple):
    """One line of the journal of names: the file now at `path` (None: removed), and the name it had before."""

    path: str
    file: _File | None
    before: str | None


class MemoryDisk:
    """A `Disk` whose files live in memory.

    Args:
        capacity: bytes that fit; more gives a StorageError, as a full disk does, and what was there stays.
        sync_seconds: what a `sync` or `replace` takes.
        operation_seconds: what every other operation takes.
        bytes_per_second: what reads and writes take beyond that; None for no limit. Operations queue: the disk does one
            at a time.

    All of them may be changed at any time: a disk that turns slow, or full.
    `on_operation(name, path)` is called before each operation and may raise (StorageError) in its place.
    `full`: the last write failed for want of room.
    """

    __slots__ = (
        "_busy_until", "_durable_names", "_gone", "_journal", "_journalled", "_names", "bytes_per_second", "capacity",
        "full", "on_operation", "operation_seconds", "sync_seconds", "syncs", "used",
    )  # fmt: skip

    def __init__(
        self,
        *,
        capacity: int = 1 << 40,
        sync_seconds: float = 0.001,
        operation_seconds: float = 0.0,
        bytes_per_second: float | None = None,
    ) -> None:
        self.capacity, self.sync_seconds = capacity, sync_seconds
        self.operation_seconds, self.bytes_per_second = operation_seconds, bytes_per_second
        self.on_operation: Callable[[str, str], object] | None = None
        self.full = False
        self.used = 0
        self.syncs = 0
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._journal: list[_Renamed] = []
        self._journalled = 0  # lines that became durable, ever
        self._busy_until = 0.0
        self._gone = ""

    # -- the Disk ----------------------------------------------------------------------------------------------

    async def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file; -1: all that follow."""
        file = self._existing("read", path)
        end = len(file.data) if size < 0 else offset + size
        found = bytes(file.data[offset:end])
        await self._spend(self.operation_seconds, len(found))
        return found

    async def write(self, path: str, data: bytes, offset: int = 0) -> None:
        """Puts bytes at `offset`, making the file where there is none; a gap before them reads as zeros."""
        self._put("write", path, data, offset)
        await self._spend(self.operation_seconds, len(data))

    async def append(self, path: str, data: bytes) -> None:
        """Puts bytes at the end, making the file where there is none."""
        self._put("append", path, data, None)
        await self._spend(self.operation_seconds, len(data))

    async def truncate(self, path: str, size: int) -> None:
        """Cuts or extends (with zeros) a file to `size` bytes."""
        file = self._existing("truncate", path)
        more = size - len(file.data)
        self._take_room(path, more)
        self.used += min(0, more)
        file.cut(size, _now())
        await self._spend(self.operation_seconds, 0)

    async def sync(self, path: str) -> None:
        """Returns when what was written before this call is durable, the file's name included."""
        file = self._existing("sync", path)
        changes, lines = file.settled + len(file.pending), self._journalled + len(self._journal)
        await self._spend(self.sync_seconds, 0)
        self.syncs += 1
        file.settle(changes)
        self._settle_names(lines)

    async def write_through(self, path: str, data: bytes, offset: int) -> None:
        """`write`, then `sync`; the power may go between the two."""
        await self.write(path, data, offset)
        await self.sync(path)

    async def replace(self, src: str, dst: str) -> None:
        """Renames `src`; a file `dst` is replaced. Durable as a name, but the bytes are `sync`'s business."""
        file = self._existing("replace", src)
        self._before("replace", dst)
        if src != dst:
            replaced = self._names.get(dst)
            self.used -= 0 if replaced is None else len(replaced.data)
            del self._names[src]
            self._names[dst] = file
            self._journal.append(_Renamed(dst, file, src))
        lines = self._journalled + len(self._journal)
        await self._spend(self.sync_seconds, 0)
        self._settle_names(lines)

    async def remove(self, path: str) -> None:
        """Removes a file; no error where there is none. It may be back after a power loss."""
        self._before("remove", path)
        file = self._names.pop(path, None)
        if file is not None:
            self.used -= len(file.data)
            self._journal.append(_Renamed(path, None, None))
        await self._spend(self.operation_seconds, 0)

    async def size(self, path: str) -> int | None:
        """Bytes in the file, or None where there is none."""
        self._before("size", path)
        file = self._names.get(path)
        await self._spend(self.operation_seconds, 0)
        return None if file is None else len(file.data)

    async def list(self, prefix: str) -> list[str]:
        """Paths of all files that start with `prefix`, sorted."""
        self._alive("list", prefix)
        found = sorted(path for path in self._names if path.startswith(prefix))
        await self._spend(self.operation_seconds, 0)
        return found

    async def free(self) -> int:
        """Bytes that can still be written."""
        self._alive("free", "")
        return max(0, self.capacity - self.used)

    def close(self) -> None:
        """Nothing to end; the files stay."""

    # -- what goes wrong ---------------------------------------------------------------------------------------

    def power_loss(self, random: Random) -> "MemoryDisk":
        """Cuts the power. Gives the disk that the next start finds; this one answers nothing but errors from now on."""
        names = dict(self._durable_names)
        for line in self._journal[: random.randint(0, len(self._journal))]:
            _apply(line, names)
        survivor = self._successor("the power was cut")
        for path in sorted(names):
            survivor._adopt(path, _File(names[path].after_power_loss(random)))
        return survivor

    def process_loss(self) -> "MemoryDisk":
        """Kills the process only: the page cache survives. Gives the disk that the next start finds."""
        survivor = self._successor("the process was killed")
        survivor._names, survivor._durable_names = self._names, self._durable_names
        survivor._journal, survivor._journalled, survivor.used = self._journal, self._journalled, self.used
        self._names, self._durable_names, self._journal = {}, {}, []
        return survivor

    def corrupt(self, path: str, random: Random) -> None:
        """Flips one bit of a file, durably and silently. FileNotFoundError: there is no such file, or it is empty."""
        file = self._names.get(path)
        if file is None or not file.data:
            raise FileNotFoundError(errno.ENOENT, "nothing to corrupt", path)
        bit = random.randrange(len(file.data) * 8)
        file.data[bit // 8] ^= 1 << bit % 8

    def _successor(self, why: str) -> "MemoryDisk":
        survivor = MemoryDisk(
            capacity=self.capacity,
            sync_seconds=self.sync_seconds,
            operation_seconds=self.operation_seconds,
            bytes_per_second=self.bytes_per_second,
        )
        self._gone = why
        return survivor

    def _adopt(self, path: str, file: _File) -> None:
        self._names[path] = self._durable_names[path] = file
        self.used += len(file.data)

    # -- within ------------------------------------------------------------------------------------------------

    def _alive(self, operation: str, path: str) -> None:
        if self._gone:
            raise StorageError(f"cannot {operation} {path}: {self._gone}")
        if self.on_operation is not None:
            self.on_operation(operation, path)

    def _before(self, operation: str, path: str) -> None:
        self._alive(operation, check_path(path))

    def _existing(self, operation: str, path: str) -> _File:
        self._before(operation, path)
        file = self._names.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return file

    def _put(self, operation: str, path: str, data: bytes, offset: int | None) -> None:
        self._before(operation, path)
        file = self._names.get(path)
        size = 0 if file is None else len(file.data)
        place = size if offset is None else offset
        self._take_room(path, place + len(data) - size)
        if file is None:
            self._check_name(path)
            file = self._names[path] = _File()
            self._journal.append(_Renamed(path, file, None))
        if data:
            file.put(place, bytes(data), _now())

    def _check_name(self, path: str) -> None:
        """A file cannot lie below another file, nor where a directory is."""
        parts = path.split("/")
        if any("/".join(parts[:depth]) in self._names for depth in range(1, len(parts))):
            raise StorageError(f"cannot use {path}: {os.strerror(errno.ENOTDIR)}")

    def _take_room(self, path: str, more: int) -> None:
        if more > 0 and self.used + more > self.capacity:
            self.full = True
            self._raise_full(path)
        self.full = False
        self.used += max(0, more)

    def _raise_full(self, path: str) -> NoReturn:
        raise StorageError(f"the disk is full ({os.strerror(errno.ENOSPC)}) at {path}: make room, what was saved stays")

    def _settle_names(self, count: int) -> None:
        """The first `count` lines of the journal, ever, are durable."""
        for line in self._journal[: max(0, count - self._journalled)]:
            _apply(line, self._durable_names)
        if count > self._journalled:
            del self._journal[: count - self._journalled]
            self._journalled = count

    async def _spend(self, seconds: float, size: int) -> None:
        if self.bytes_per_second is not None:
            seconds += size / self.bytes_per_second
        if seconds > 0.0:
            now = _now()
            self._busy_until = max(now, self._busy_until) + seconds
            await asyncio.sleep(self._busy_until - now)
        if self._gone:
            raise StorageError(self._gone)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _apply(line: _Renamed, names: dict[str, _File]) -> None:
    if line.before is not None:
        names.pop(line.before, None)
    if line.file is None:
        names.pop(line.path, None)
    else:
        names[line.path] = line.file
