"""The append-only file in Redis 7's layout: a manifest, a base, and the increments since.

    appendonlydir/appendonly.aof.manifest          which files there are, in order
    appendonlydir/appendonly.aof.3.base.aof        the whole store at one moment
    appendonlydir/appendonly.aof.7.incr.aof        what has happened since

A real redis-server loads what is written here, and what it has written is loaded here. Everything is written with plain
calls that block: one write, which the disk confirms, for all that one turn of the loop has brought about, which are a
batch of the increment (`batches.py`).
"""

import asyncio
import fcntl
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

import msgspec

import titan_overlay as titan
from titan_objects.store import batches
from titan_objects.store.engine import Engine
from titan_objects.store.increment import Increment
from titan_objects.store.parser import Damaged, Torn
from titan_objects.store.replaying import Replay

_LOG = logging.getLogger("titan_objects.store")

PIECE_BYTES = 1 << 20
"""Of a file in the background: so much is confirmed, or freed, by the disk at a time."""


class Part(msgspec.Struct, frozen=True):
    """A file of the log. `kind`: b (base), i (increment) or h (history, to be deleted)."""

    name: str
    seq: int
    kind: str


class AppendLog:
    """The log of one store, in one directory that nobody else writes to.

    Args:
        directory: made if it is not there; the files lie in `appenddirname` below it.
        name: first part of the files' names.

    Attributes:
        pending: encoded effects that wait to be written with the next `write_out`.
        confirmed_soon: the disk is asked to confirm what is written, at once or every second.
        size: bytes of all files together; `base_size`: of the base.
    """

    def __init__(self, directory: Path, dirname: str = "appendonlydir", name: str = "appendonly.aof") -> None:
        self.directory = directory / dirname
        self._name = name
        self._parts: list[Part] = []
        self._increment: Increment | None = None
        self._lock = -1
        self.pending: list[bytes] = []
        self.confirmed_soon = True
        self.size = 0
        self.base_size = 0

    # ---- opening -------------------------------------------------------------------------------------------------

    def open(self, engine: Engine) -> None:
        """Loads what there is into an empty engine, and opens the last increment for writing.

        Raises:
            ConfigError: another process has the directory.
            StorageError: the log is damaged; the text says where, and what to do.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as why:
            raise titan.ConfigError(f"{self.directory}: {why.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise titan.ConfigError(
                f"{self.directory} is in use by another store: stop that one, or choose another --dir"
            ) from None
        try:
            self._open_files(engine)
        except BaseException:
            self.close()
            raise

    def refuse_others(self) -> None:
        """Raises StorageError: there is no log, but what a Redis has left that keeps none, or an older one."""
        above = self.directory.parent
        for name in ("dump.rdb", self._name) if not self._manifest.exists() else ():
            if (above / name).is_file():
                raise titan.StorageError(
                    f"{above} has a {name}, which is not read from there: `titan store import --dir NEW "
                    f"{above / name}` makes a store of it; to begin empty, move it away"
                )

    def _open_files(self, engine: Engine) -> None:
        self._parts = self._read_manifest()
        live = [part for part in self._parts if part.kind != "h"]
        ours = False
        for place, part in enumerate(live):
            ours = self._load(part, engine, last=self._nothing_in(live[place + 1 :]))
        if ours:
            self._open_increment(live[-1])
        else:
            self._begin_increment()
        if self.history():
            self.clear_history()
        self._measure()

    def _nothing_in(self, parts: list[Part]) -> bool:
        """Whether no command was ever written to these. Where one was named in the manifest, but the disk failed before
        it could be relied on, what came then is at the end of the file before.
        """
        with suppress(FileNotFoundError):
            return all(self._path(part).stat().st_size <= len(batches.MAGIC) for part in parts)
        return False

    def _path(self, part: Part) -> Path:
        return self.directory / part.name

    @property
    def _manifest(self) -> Path:
        return self.directory / f"{self._name}.manifest"

    def _read_manifest(self) -> list[Part]:
        try:
            text = self._manifest.read_text(encoding="utf-8")
        except FileNotFoundError:
            strays = sorted(each.name for each in self.directory.glob("*.aof"))
            if strays:
                raise titan.StorageError(
                    f"{self.directory} has {strays[0]} but no manifest; put {self._manifest.name} back, or move the "
                    "files away to begin empty"
                ) from None
            return []
        parts = []
        for number, line in enumerate(text.splitlines(), 1):
            found = re.fullmatch(r'file "?([^"/ ]+)"? seq (\d+) type ([bih])\s*', line)
            if line.strip() and not line.startswith("#"):
                if found is None:
                    raise titan.StorageError(f"{self._manifest}, line {number}: not understood: {line!r}")
                parts.append(Part(found[1], int(found[2]), found[3]))
        return parts

    def _write_manifest(self) -> None:
        lines = [f"file {part.name} seq {part.seq} type {part.kind}\n" for part in self._parts]
        temporary = self.directory / f"temp-{self._name}.manifest"
        write_durably(temporary, "".join(lines).encode())
        temporary.replace(self._manifest)
        sync_directory(self.directory)

    # ---- replay --------------------------------------------------------------------------------------------------

    def _load(self, part: Part, engine: Engine, last: bool) -> bool:
        """Whether it can be gone on with: it is batches to its end."""
        path = self._path(part)
        replay = Replay(path, engine)
        try:
            replay.run()
        except FileNotFoundError:
            raise titan.StorageError(f"{path}, which the manifest names, is not there") from None
        except Torn as torn:
            if not last:
                raise titan.StorageError(
                    f"{path} ends within a command (at byte {torn.at}), but is not the last file of the log; "
                    "put back a good copy of it"
                ) from None
            size = path.stat().st_size
            _LOG.warning("%s: the last %d bytes, a write that was cut short, are dropped", path, size - torn.at)
            _cut(path, torn.at)
        except Damaged as damaged:
            raise titan.StorageError(
                f"{path} is damaged at byte {damaged.at}: {damaged.why}. Nothing was changed. Put back a good copy, or "
                f"copy the directory and cut the file there: truncate -s {damaged.at} {path}"
            ) from None
        if last and replay.batches_end:
            _cut(path, replay.batches_end)
        return replay.batches_end > 0

    # ---- writing -------------------------------------------------------------------------------------------------

    def _begin_increment(self) -> None:
        seq = max((part.seq for part in self._parts if part.kind == "i"), default=0) + 1
        part = Part(f"{self._name}.{seq}.incr.aof", seq, "i")
        write_durably(self._path(part), batches.MAGIC)
        self._parts.append(part)
        self._write_manifest()
        self._open_increment(part)

    def _open_increment(self, part: Part) -> None:
        if self._increment is not None:
            self._increment.close()
        self._increment = Increment(self._path(part))

    def write_out(self, sync: bool) -> None:
        """Writes all that is pending, and has the disk confirm it if asked to.

        Raises:
            OSError: it could not be; what is not durable is pending, and the file is as it was before.
        """
        increment = self._increment
        assert increment is not None
        if self.pending:
            before = increment.size
            increment.write(b"".join(self.pending), keep=self.confirmed_soon, sync=sync)
            self.size += increment.size - before
            self.pending.clear()
        if sync:
            try:
                increment.sync()
            except OSError:
                self._take_back(increment)
                raise

    async def sync_elsewhere(self) -> None:
        """Has the disk confirm what is written, without holding up the loop. One at a time.

        Raises:
            OSError: as `write_out`.
        """
        increment = self._increment
        assert increment is not None
        if increment.is_durable:
            return
        size, cuts, fd = increment.size, increment.cuts, increment.descriptor()
        try:
            await asyncio.to_thread(os.fdatasync, fd)
            if increment.cuts == cuts:
                increment.confirm(size)
        except OSError:
            self._take_back(increment)
            raise
        finally:
            os.close(fd)

    def _take_back(self, increment: Increment) -> None:
        before = increment.size
        self.pending[:0] = increment.take_back()
        self.size -= before - increment.size

    def close(self) -> None:
        """Writes out and closes. Raises OSError: could not be written."""
        try:
            if self._increment is not None:
                self.write_out(sync=True)
        finally:
            if self._increment is not None:
                self._increment.close()
            if self._lock >= 0:
                os.close(self._lock)
            self._increment, self._lock = None, -1

    # ---- rewriting -----------------------------------------------------------------------------------------------

    def begin_rewrite(self) -> Path:
        """From now on a new increment is written; returns where the base that stands before it is to be written."""
        self.write_out(sync=True)
        self._begin_increment()
        return self._trial

    @property
    def _trial(self) -> Path:
        return self.directory / f"temp-rewrite-{self._name}"

    def give_up_rewrite(self) -> None:
        """Gives back the room that a base takes which does not become whole."""
        with suppress(OSError):
            self._trial.unlink()

    def end_rewrite(self, base: Path) -> None:
        """The base is whole and on disk: it takes the place of all before the current increment, which is history."""
        seq = max((part.seq for part in self._parts if part.kind == "b"), default=0) + 1
        part = Part(f"{self._name}.{seq}.base.aof", seq, "b")
        base.replace(self._path(part))
        old = [Part(each.name, each.seq, "h") for each in self._parts[:-1]]
        self._parts = [part, *old, self._parts[-1]]
        self._write_manifest()
        self._measure()

    def history(self) -> list[Path]:
        """Files that nothing needs any more. The manifest knows of them until they are gone."""
        return [self._path(part) for part in self._parts if part.kind == "h"]

    def forget_history(self) -> None:
        """It has been removed."""
        self._parts = [part for part in self._parts if part.kind != "h"]
        self._write_manifest()

    def clear_history(self) -> None:
        """Removes it, while nobody waits."""
        remove(self.history())
        self.forget_history()

    def _measure(self) -> None:
        assert self._increment is not None
        sizes = {"b": 0, "i": self._increment.size}  # which has room behind it
        for part in self._parts[:-1]:
            if part.kind in sizes:
                sizes[part.kind] += self._path(part).stat().st_size
        self.size, self.base_size = sum(sizes.values()), sizes["b"]


def _cut(path: Path, size: int) -> None:
    """Makes a file that short, durably."""
    if path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())


def write_durably(path: Path, data: bytes) -> None:
    """Writes a file, and has the disk confirm it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove(files: list[Path]) -> None:
    """Removes files, of any size, piece by piece: while a file system frees much at once, nobody's fsync comes back."""
    for path in files:
        with suppress(FileNotFoundError):
            for size in range(path.stat().st_size - PIECE_BYTES, 0, -PIECE_BYTES):
                os.truncate(path, size)
            path.unlink()


def sync_directory(path: Path) -> None:
    """Has the disk confirm the names in a directory."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
