"""The node's database: one SQLite file in write-ahead mode. The face, and its in-memory twin, are in `rows`.

kill -9 at any instant loses no row whose call had returned.
"""

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from titan_overlay.errors import StorageError
from titan_overlay.identity.ids import ObjectId
from titan_overlay.storage.rows import Database as Database
from titan_overlay.storage.rows import MemoryDatabase as MemoryDatabase
from titan_overlay.storage.rows import PeerRow as PeerRow
from titan_overlay.storage.rows import ReplicaRow as ReplicaRow
from titan_overlay.storage.rows import TombstoneRow as TombstoneRow

_log = logging.getLogger(__name__)

R = TypeVar("R", bound=msgspec.Struct)

SCHEMA_VERSION = 2

# Step n brings a file of version n to version n + 1; a new file walks all of them.
_STEPS = (
    """
    CREATE TABLE replicas (object_id BLOB PRIMARY KEY, descriptor BLOB NOT NULL, since REAL NOT NULL,
        expires REAL NOT NULL, passing INTEGER NOT NULL, pinned INTEGER NOT NULL, sequence INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE tombstones (object_id BLOB PRIMARY KEY, raw BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE pins (object_id BLOB, publisher BLOB, raw BLOB NOT NULL, PRIMARY KEY (object_id, publisher))
        WITHOUT ROWID;
    CREATE TABLE peers (id BLOB PRIMARY KEY, ip TEXT NOT NULL, port INTEGER NOT NULL, seen REAL NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    """,
    "ALTER TABLE replicas ADD COLUMN lineage BLOB NOT NULL DEFAULT x'';",
)
assert len(_STEPS) == SCHEMA_VERSION

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_SIDE_FILES = ("", "-wal", "-shm")


def check_version(path: Path) -> None:
    """Looks into the file's header alone, where there is one: nothing is opened, made or changed.

    Raises:
        StorageError: it was made by a newer version.
    """
    with suppress(OSError), path.open("rb") as file:
        head = file.read(64)
        if head.startswith(b"SQLite format 3\0"):
            _check_version(path, int.from_bytes(head[60:]))


def _check_version(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{path} was written by a newer version of titan-overlay (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade, or choose another directory with --data DIR"
        )


class SqliteDatabase:
    """A `Database` in the file `path`.

    A file that is not a sound database is set aside as `<name>.corrupt-<n>` and a new one begun; `notices` says so.

    Raises:
        StorageError: the file cannot be opened or written, or was made by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.notices: list[str] = []
        self._read_only = False
        self._batching = False
        try:
            self._db = self._open()
        except _CorruptFileError as why:
            aside = _set_aside(self.path)
            self.notices.append(
                f"{self.path} was damaged ({why}); it is kept as {aside.name} and a new one begun. Replicas that it "
                "named are no longer known here; other holders replace them"
            )
            _log.warning("%s", self.notices[-1])
            try:
                self._db = self._open()
            except _CorruptFileError as again:
                raise StorageError(f"cannot make a database at {self.path}: {again}") from None

    @property
    def read_only(self) -> bool:
        return self._read_only

    def _open(self) -> sqlite3.Connection:
        db = None
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise _CorruptFileError(found)
            self._upgrade(db)
        except (sqlite3.Error, OSError, UnicodeDecodeError, StorageError, _CorruptFileError) as why:
            if db is not None:
                db.close()
            if isinstance(why, StorageError | _CorruptFileError):
                raise
            # What is no text in a damaged file, SQLite gives out as text.
            if _is_corrupt(why) or isinstance(why, UnicodeDecodeError):
                raise _CorruptFileError(str(why)) from None
            raise StorageError(f"cannot open {self.path}: {why}") from None
        return db

    def _upgrade(self, db: sqlite3.Connection) -> None:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        _check_version(self.path, version)
        for step in range(version, SCHEMA_VERSION):
            db.executescript(f"BEGIN; {_STEPS[step]} PRAGMA user_version = {step + 1}; COMMIT;")

    # --- transactions ---

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._batching:
            yield  # part of the one around it
            return
        with self._guarded():
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
        self._batching = True
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        else:
            with self._guarded():
                self._db.execute("COMMIT")
        finally:
            self._batching = False

    def _change(self, statement: str, values: tuple[Any, ...], *, durable: bool) -> int:
        """Runs one statement (in a transaction of its own unless in one); rows that it changed."""
        with self._guarded():
            if not self._batching:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            return self._db.execute(statement, values).rowcount

    def _guarded(self) -> AbstractContextManager[None]:
        return _Guard(self)

    def failed(self, why: sqlite3.Error) -> StorageError:
        """Notes a refused change; the error to raise for it."""
        self._read_only = True
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        if getattr(why, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            return StorageError(f"no room for {self.path}: the disk is full; this node is read-only until there is")
        return StorageError(f"cannot write {self.path} ({why}); this node is read-only until that is mended")

    def succeeded(self) -> None:
        """Notes a change that went through."""
        self._read_only = False

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as why:
            raise StorageError(f"cannot read {self.path}: {why}; restart, and a damaged file is set aside") from None

    def _sound(self, kind: type[R], rows: Iterable[Any]) -> list[R]:
        """Rows as what they are; SQLite does not mind a text where a number belongs, after a flipped bit."""
        found = []
        for row in rows:
            try:
                found.append(msgspec.convert(row, kind))
            except msgspec.ValidationError as why:
                _log.warning("a row in %s is damaged and left out: %s", self.path, why)
        return found

    # --- rows ---

    def replicas(self) -> list[ReplicaRow]:
        rows = self._rows(
            "SELECT object_id, descriptor, since, expires, passing, pinned, sequence, lineage "
            "FROM replicas ORDER BY object_id"
        )
        return self._sound(ReplicaRow, ((*row[:4], bool(row[4]), bool(row[5]), *row[6:]) for row in rows))

    def put_replica(self, row: ReplicaRow) -> None:
        # Most calls only note the next sequence number: those need no fsync.
        updated = self._change(
            "UPDATE replicas SET expires = ?, passing = ?, pinned = ?, sequence = ?, since = ?, lineage = ? "
            "WHERE object_id = ? AND descriptor = ?",
            (*structs.astuple(row)[3:7], row.since, row.lineage, row.object_id, row.descriptor),
            durable=False,
        )
        if not updated:
            self._change(
                "INSERT OR REPLACE INTO replicas "
                "(object_id, descriptor, since, expires, passing, pinned, sequence, lineage) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                structs.astuple(row),
                durable=True,
            )

    def drop_replica(self, object_id: ObjectId) -> None:
        self._change("DELETE FROM replicas WHERE object_id = ?", (object_id,), durable=False)

    def tombstones(self) -> list[TombstoneRow]:
        query = "SELECT object_id, raw, expires FROM tombstones ORDER BY object_id"
        return self._sound(TombstoneRow, self._rows(query))

    def put_tombstone(self, object_id: ObjectId, raw: bytes, expires: float) -> None:
        self._change(
            "INSERT OR REPLACE INTO tombstones (object_id, raw, expires) VALUES (?, ?, ?)",
            (object_id, raw, expires),
            durable=True,
        )

    def drop_tombstone(self, object_id: ObjectId) -> None:
        self._change("DELETE FROM tombstones WHERE object_id = ?", (object_id,), durable=False)

    def pins(self, object_id: ObjectId) -> list[bytes]:
        query = "SELECT raw FROM pins WHERE object_id = ? ORDER BY publisher"
        return [raw for (raw,) in self._rows(query, (object_id,)) if isinstance(raw, bytes)]

    def put_pin(self, object_id: ObjectId, publisher: bytes, raw: bytes) -> None:
        self._change(
            "INSERT OR REPLACE INTO pins (object_id, publisher, raw) VALUES (?, ?, ?)",
            (object_id, publisher, raw),
            durable=True,
        )

    def drop_pin(self, object_id: ObjectId, publisher: bytes) -> bool:
        statement = "DELETE FROM pins WHERE object_id = ? AND publisher = ?"
        return self._change(statement, (object_id, publisher), durable=True) > 0

    def peers(self) -> list[PeerRow]:
        query = "SELECT id, ip, port, seen FROM peers ORDER BY seen DESC, id"
        return self._sound(PeerRow, self._rows(query))

    def put_peers(self, rows: Iterable[PeerRow]) -> None:
        latest = {row.id: row for row in rows}
        with self._guarded():
            if not self._batching:
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM peers")
            self._db.executemany(
                "INSERT INTO peers (id, ip, port, seen) VALUES (?, ?, ?, ?)",
                [(row.id, row.ip, row.port, row.seen) for row in latest.values()],
            )
            if not self._batching:
                self._db.execute("COMMIT")

    def setting(self, key: str) -> bytes | None:
        found = self._rows("SELECT value FROM settings WHERE key = ?", (key,))
        return found[0][0] if found else None

    def put_setting(self, key: str, value: bytes) -> None:
        statement = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)"
        self._change(statement, (key, value), durable=True)

    def close(self) -> None:
        """Brings the write-ahead file into the database and lets go of both."""
        self._db.close()


class _CorruptFileError(Exception):
    """The file is not a sound database."""


class _Guard(AbstractContextManager[None]):
    """Turns what SQLite raises while changing something into StorageError, and keeps the read-only flag."""

    __slots__ = ("_database",)

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __exit__(self, kind: object, why: BaseException | None, trace: object) -> None:
        if why is None:
            self._database.succeeded()
        elif isinstance(why, sqlite3.Error):
            raise self._database.failed(why) from None


def _is_corrupt(why: BaseException) -> bool:
    return getattr(why, "sqlite_errorcode", 0) & 0xFF in _CORRUPT


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    try:
        for suffix in _SIDE_FILES:
            side = path.with_name(path.name + suffix)
            if side.exists():
                side.rename(aside.with_name(aside.name + suffix))
    except OSError as why:
        raise StorageError(f"{path} is damaged and cannot be set aside: {why.strerror}") from None
    return aside
