"""Deletions that a node remembers, and rows that were damaged."""

from tests.fuzz.world import DATA_NAME, NOW, POOL, descriptor, object_id, tombstone
from titan_overlay.identity.ids import ObjectId
from titan_overlay.pool.keeping.damage import forget_damaged
from titan_overlay.pool.keeping.graves import Graves
from titan_overlay.storage.rows import MemoryDatabase, ReplicaRow, TombstoneRow


def ids(count: int) -> list[ObjectId]:
    return [ObjectId(number.to_bytes(32, "big")) for number in range(count)]


def test_whoever_publishes_and_deletes_without_end_fills_no_memory() -> None:
    forgotten: list[ObjectId] = []
    graves = Graves((), forgotten.append, most=80)
    for number, buried in enumerate(ids(1000)):
        graves.put(buried, b"raw", float(number))
        assert len(graves) <= 80
    assert forgotten == ids(len(forgotten)), "those that end first go first"
    assert len(forgotten) == 1000 - len(graves)


def test_the_last_tombstone_of_an_object_is_the_one_that_is_kept() -> None:
    one = ids(1)[0]
    graves = Graves([TombstoneRow(one, b"old", 1.0)])
    graves.put(one, b"new", 2.0)
    assert (graves.get(one), len(graves), one in graves) == (b"new", 1, True)
    assert graves.get(ids(2)[1]) is None


def test_rows_that_were_damaged_are_forgotten_and_the_others_stay() -> None:
    database = MemoryDatabase()
    sound, broken = object_id(), object_id(DATA_NAME)
    database.put_replica(ReplicaRow(sound, descriptor().raw, NOW, 0.0))
    database.put_replica(ReplicaRow(broken, descriptor(DATA_NAME).raw[:-1] + b"?", NOW, 0.0))
    database.put_tombstone(sound, tombstone().raw[:-9], NOW)
    database.put_tombstone(broken, tombstone(DATA_NAME).raw, NOW)
    assert forget_damaged(database, POOL) == 2
    assert [row.object_id for row in database.replicas()] == [sound]
    assert [row.object_id for row in database.tombstones()] == [broken]
    assert forget_damaged(database, POOL) == 0
