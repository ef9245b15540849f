"""Files, behind one door: real ones here, simulated ones in `titan_overlay.testing`.

Everything in the package that keeps bytes in files goes through a `Disk`, so that a simulation can lose power at any
point. What a caller may rely on, on either side of the door:

- nothing that was written is durable until `sync` of that path has returned;
- `replace` puts a file under a new name at once (a reader sees the old or the new one, never a mixture) and
  durably, but it does not sync the file's bytes: sync first, then replace.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from titan_overlay.errors import StorageError
from titan_overlay.storage.scribe import Scribe, write_at

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk(Protocol):
    """Files under one root. Paths are relative, with "/" between their parts; directories come and go by themselves.

    Raises, from every operation:
        FileNotFoundError: there is no such file (never from `write`, `append`, `remove`, `size` and `list`).
        StorageError: the disk is full or broken, or the path leads outside.
    """

    full: bool
    """The last write failed for want of room; the next one that succeeds, or fails otherwise, clears it."""

    async def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        """`size` bytes from `offset` on, fewer at the end of the file; -1: all that follow."""
        ...

    async def write(self, path: str, data: bytes, offset: int = 0) -> None:
        """Puts bytes at `offset`, making the file where there is none; a gap before them reads as zeros."""
        ...

    async def append(self, path: str, data: bytes) -> None:
        """Puts bytes at the end, making the file where there is none."""
        ...

    async def truncate(self, path: str, size: int) -> None:
        """Cuts or extends (with zeros) a file to `size` bytes."""
        ...

    async def sync(self, path: str) -> None:
        """Returns when what was written to the file is durable, its name included."""
        ...

    async def write_through(self, path: str, data: bytes, offset: int) -> None:
        """`write`, and then `sync`, in one go: what a log does all the time."""
        ...

    async def replace(self, src: str, dst: str) -> None:
        """Renames `src`; a file `dst` is replaced."""
        ...

    async def remove(self, path: str) -> None:
        """Removes a file; no error where there is none."""
        ...

    async def size(self, path: str) -> int | None:
        """Bytes in the file, or None where there is none."""
        ...

    async def list(self, prefix: str) -> list[str]:
        """Paths of all files that start with `prefix`, sorted."""
        ...

    async def free(self) -> int:
        """Bytes that can still be written."""
        ...


def check_path(path: str) -> str:
    """The path, if it stays below the root.

    Raises:
        StorageError: absolute, empty, with an empty, `.` or `..` part, a backslash or a NUL.
    """
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise StorageError(f"{path!r} is not a path below the data directory")
    return path


class RealDisk:
    """A `Disk` on the file system.

    Each operation runs in one of a few threads of its own, so that a slow disk does not stop the loop. (These are
    the only threads of a node; the virtual loop refuses executors, that is why files are behind this door.) What a log
    writes through is written on the spot while the disk is quick, and in a thread of its own while it is not.

    Args:
        root: a directory, made when something is written.
        threads: operations at once.
        mode: of new files, before the umask.
    """

    def __init__(self, root: Path, threads: int = 2, *, mode: int = 0o600) -> None:
        self.root = Path(root)
        self._mode = mode
        self.full = False
        self._executor = ThreadPoolExecutor(threads, "titan-disk")
        self._scribe = Scribe(lambda path: self._open(path, os.O_DSYNC), self._sync_name)
        self._fresh: set[str] = set()  # files made here whose names are not durable yet

    def close(self) -> None:
        """Waits for operations under way and ends the threads."""
        self._scribe.close()
        self._executor.shutdown()

    async def read(self, path: str, offset: int = 0, size: int = -1) -> bytes:
        return await self._run(path, lambda: _read(self._at(path), offset, size))

    async def write(self, path: str, data: bytes, offset: int = 0) -> None:
        await self._write(path, lambda: _write(self._open(path), data, offset))

    async def append(self, path: str, data: bytes) -> None:
        await self._write(path, lambda: _write(self._open(path), data, None))

    async def truncate(self, path: str, size: int) -> None:
        await self._write(path, lambda: os.truncate(self._at(path), size))

    async def sync(self, path: str) -> None:
        await self._write(path, lambda: self._sync(path))

    async def write_through(self, path: str, data: bytes, offset: int) -> None:
        await self._outcome(path, self._scribe.write(path, data, offset))
        self.full = False

    async def replace(self, src: str, dst: str) -> None:
        await self._write(src, lambda: self._replace(src, dst))

    async def remove(self, path: str) -> None:
        await self._run(path, lambda: self._remove(path))

    async def size(self, path: str) -> int | None:
        return await self._run(path, lambda: _size(self._at(path)))

    async def list(self, prefix: str) -> list[str]:
        return await self._run(prefix, lambda: _list(self.root, prefix))

    async def free(self) -> int:
        return await self._run("", self._free)

    async def _run(self, path: str, work: Callable[[], T]) -> T:
        return await self._outcome(path, asyncio.get_running_loop().run_in_executor(self._executor, work))

    async def _outcome(self, path: str, work: Awaitable[T]) -> T:
        try:
            return await work
        except FileNotFoundError:
            raise
        except OSError as why:
            self.full = why.errno in _FULL
            if self.full:
                raise StorageError(
                    f"the disk of {self.root} is full ({why.strerror}): make room, what was saved stays"
                ) from None
            raise StorageError(f"cannot use {self.root / path}: {why.strerror}") from None

    async def _write(self, path: str, work: Callable[[], None]) -> None:
        await self._run(path, work)
        self.full = False

    def _at(self, path: str) -> Path:
        return self.root / check_path(path)

    def _open(self, path: str, more: int = 0) -> int:
        place = self._at(path)
        flags = os.O_WRONLY | os.O_CLOEXEC | more
        try:
            return os.open(place, flags)
        except FileNotFoundError:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fresh.add(path)
            return os.open(place, flags | os.O_CREAT, self._mode)

    def _sync(self, path: str) -> None:
        _fsync(self._at(path))
        self._sync_name(path)

    def _sync_name(self, path: str) -> None:
        if path in self._fresh:
            self._sync_directories(path)
            self._fresh.discard(path)

    def _sync_directories(self, path: str) -> None:
        # A directory may be new as well, so its name in the one above it is made durable too.
        place = self.root / path
        while place != self.root:
            place = place.parent
            _fsync(place)

    def _replace(self, src: str, dst: str) -> None:
        target = self._at(dst)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(self._at(src), target)
        for path in (src, dst):
            self._fresh.discard(path)
            self._scribe.forget(path)
        self._sync_directories(dst)

    def _remove(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)
        self._fresh.discard(path)
        self._scribe.forget(path)

    def _free(self) -> int:
        place = self.root
        while not place.exists():
            place = place.parent
        about = os.statvfs(place)
        return about.f_bavail * about.f_frsize


def _read(place: Path, offset: int, size: int) -> bytes:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if size < 0:
            size = max(0, os.fstat(descriptor).st_size - offset)
        first = os.pread(descriptor, size, offset)
        if len(first) == size or not first:
            return first
        parts, got = [first], len(first)
        while got < size and (part := os.pread(descriptor, size - got, offset + got)):
            parts.append(part)
            got += len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes, offset: int | None) -> None:
    try:
        if offset is None:
            offset = os.fstat(descriptor).st_size
        write_at(descriptor, data, offset)
    finally:
        os.close(descriptor)


def _size(place: Path) -> int | None:
    try:
        about = place.stat()
        return about.st_size if stat.S_ISREG(about.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fsync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list(root: Path, prefix: str) -> list[str]:
    # Only the deepest directory that the prefix names is walked.
    directory = prefix.rpartition("/")[0]
    found: list[str] = []
    for where, _, files in os.walk(root / check_path(directory) if directory else root):
        relative = os.path.relpath(where, root).replace(os.sep, "/")
        start = "" if relative == "." else f"{relative}/"
        found += [start + file for file in files if (start + file).startswith(prefix)]
    return sorted(found)
