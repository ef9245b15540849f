"""The node's rows: one contract for both databases, and what only a file can suffer."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from titan_overlay.errors import StorageError
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.storage.database import (
    Database,
    MemoryDatabase,
    PeerRow,
    ReplicaRow,
    SqliteDatabase,
    TombstoneRow,
)

A, B = ObjectId(b"a" * 32), ObjectId(b"b" * 32)
ROW = ReplicaRow(A, b"descriptor", 1.5, 0.0, passing=True, pinned=False, sequence=2**62)


@pytest.fixture(params=["sqlite", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    made: Database = SqliteDatabase(tmp_path / "node.db") if request.param == "sqlite" else MemoryDatabase()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "node.db"


# --- the contract ---


def test_a_new_database_is_empty(database: Database) -> None:
    assert database.replicas() == database.tombstones() == database.pins(A) == database.peers() == []
    assert database.setting("pool") is None
    assert database.notices == [] and not database.read_only


def test_a_replica_is_put_replaced_and_dropped(database: Database) -> None:
    second = ReplicaRow(B, b"other", 2.0, 99.0)
    database.put_replica(second)
    database.put_replica(ROW)
    assert database.replicas() == [ROW, second]
    renewed = ReplicaRow(A, b"descriptor", 1.5, 7.0, passing=False, pinned=True, sequence=3)
    database.put_replica(renewed)
    assert database.replicas() == [renewed, second]
    newer = ReplicaRow(A, b"a newer version", 9.0, 0.0)
    database.put_replica(newer)
    assert database.replicas() == [newer, second]
    database.drop_replica(A)
    database.drop_replica(A)
    assert database.replicas() == [second]


def test_tombstones_are_put_replaced_and_dropped(database: Database) -> None:
    database.put_tombstone(B, b"two", 5.0)
    database.put_tombstone(A, b"one", 4.0)
    database.put_tombstone(A, b"one again", 6.0)
    assert database.tombstones() == [TombstoneRow(A, b"one again", 6.0), TombstoneRow(B, b"two", 5.0)]
    database.drop_tombstone(A)
    database.drop_tombstone(A)
    assert database.tombstones() == [TombstoneRow(B, b"two", 5.0)]


def test_each_publisher_has_one_pin_on_an_object(database: Database) -> None:
    database.put_pin(A, b"publisher 2", b"raw 2")
    database.put_pin(A, b"publisher 1", b"raw 1")
    database.put_pin(B, b"publisher 1", b"elsewhere")
    database.put_pin(A, b"publisher 2", b"raw 2, renewed")
    assert database.pins(A) == [b"raw 1", b"raw 2, renewed"]
    assert database.drop_pin(A, b"publisher 1")
    assert not database.drop_pin(A, b"publisher 1")
    assert database.pins(A) == [b"raw 2, renewed"]
    assert database.drop_pin(A, b"publisher 2")
    assert database.pins(A) == [] and database.pins(B) == [b"elsewhere"]


def test_peers_are_replaced_as_a_whole_last_seen_first(database: Database) -> None:
    old = PeerRow(NodeId(b"1" * 32), "192.0.2.1", 4747, 10.0)
    new = PeerRow(NodeId(b"2" * 32), "2001:db8::1", 4748, 20.0)
    database.put_peers([old])
    database.put_peers(iter([old, new]))
    assert database.peers() == [new, old]
    moved = PeerRow(NodeId(b"1" * 32), "192.0.2.9", 1, 30.0)
    database.put_peers([old, moved])
    assert database.peers() == [moved]
    database.put_peers([])
    assert database.peers() == []


def test_a_setting_is_its_last_value(database: Database) -> None:
    database.put_setting("pool", b"x" * 32)
    database.put_setting("pool", b"\0")
    assert database.setting("pool") == b"\0"
    assert database.setting("other") is None


def test_a_transaction_makes_its_changes(database: Database) -> None:
    with database.transaction():
        database.put_replica(ROW)
        with database.transaction():
            database.put_setting("s", b"1")
        database.put_peers([])
    assert database.replicas() == [ROW] and database.setting("s") == b"1"


# --- the file ---


def test_rows_outlive_the_process_that_wrote_them(path: Path) -> None:
    first = SqliteDatabase(path)
    first.put_replica(ROW)
    first.put_pin(A, b"publisher", b"raw")
    first.put_tombstone(B, b"dead", 9.0)
    first.put_peers([PeerRow(NodeId(b"1" * 32), "::1", 1, 1.0)])
    first.put_setting("s", b"1")
    first.close()
    second = SqliteDatabase(path)
    assert second.replicas() == [ROW]
    assert second.pins(A) == [b"raw"]
    assert second.tombstones() == [TombstoneRow(B, b"dead", 9.0)]
    assert len(second.peers()) == 1 and second.setting("s") == b"1"
    second.close()


_WRITER = """
import sys
from pathlib import Path
from titan_overlay.storage.database import ReplicaRow, SqliteDatabase

database = SqliteDatabase(Path(sys.argv[1]))
number = 0
while True:
    database.put_replica(ReplicaRow(number.to_bytes(32, "big"), b"d" * 400, 0.0, 0.0))
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL
    survivor = SqliteDatabase(path)
    held = {int.from_bytes(row.object_id, "big") for row in survivor.replicas()}
    assert held >= set(acknowledged) and survivor.notices == []
    survivor.close()


def test_a_transaction_that_fails_changes_nothing(path: Path) -> None:
    database = SqliteDatabase(path)

    def change_and_fail() -> None:
        with database.transaction():
            with database.transaction():
                database.put_replica(ROW)
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        change_and_fail()
    assert database.replicas() == []
    with database.transaction():
        database.put_replica(ROW)
    assert database.replicas() == [ROW]
    database.close()


def _garble(path: Path) -> None:
    path.write_bytes(b"this is not a database at all " * 100)


def _zero_the_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(bytes(path.stat().st_size - 100))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 7)


@pytest.mark.parametrize("damage", [_garble, _zero_the_middle, _cut])
def test_a_damaged_file_is_set_aside_and_said_so(path: Path, damage: Callable[[Path], None]) -> None:
    before = SqliteDatabase(path)
    for number in range(200):
        before.put_replica(ReplicaRow(ObjectId(number.to_bytes(32, "big")), b"d" * 400, 0.0, 0.0))
    before.close()
    for turn in (1, 2):
        damage(path)
        damaged = path.read_bytes()
        database = SqliteDatabase(path)
        aside = path.with_name(f"node.db.corrupt-{turn}")
        assert aside.read_bytes() == damaged
        assert len(database.notices) == 1 and aside.name in database.notices[0]
        assert database.replicas() == []
        database.put_replica(ROW)
        assert database.replicas() == [ROW]
        database.close()


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    database = SqliteDatabase(path)
    database.put_replica(ROW)
    assert database.notices == []
    database.close()


def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    SqliteDatabase(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"newer version.*--data"):
        SqliteDatabase(path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.corrupt-*"))


def test_a_path_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot open"):
        SqliteDatabase(tmp_path / "file" / "node.db")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError, match="cannot open"):
        SqliteDatabase(tmp_path / "directory")


def test_a_full_disk_makes_it_read_only_until_there_is_room(path: Path) -> None:
    database = SqliteDatabase(path)
    database.put_replica(ROW)
    database._db.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be out of room; it keeps what it has

    def fill() -> None:
        for number in range(1000):
            database.put_pin(A, number.to_bytes(2, "big"), bytes(900))

    def fill_at_once() -> None:
        with database.transaction():
            fill()

    with pytest.raises(StorageError, match="disk is full"):
        fill_at_once()
    assert database.pins(A) == []
    with pytest.raises(StorageError, match="disk is full"):
        fill()
    assert database.read_only
    assert database.replicas() == [ROW]
    database._db.execute("PRAGMA max_page_count = 100000")
    database.put_tombstone(B, b"dead", 1.0)
    assert not database.read_only
    database.close()


def test_many_databases_in_memory_are_small() -> None:
    """Thousands of simulated nodes have one each."""
    database = MemoryDatabase()
    assert not hasattr(database, "__dict__")
