"""Snapshots and DUMP: what is written here is read here, and by Redis."""

import math
import struct
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.store.commands_by_chance import GROUPS, commands
from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store import listing, rdb, rdb_writing
from titan_objects.store.effects import recreate
from titan_objects.store.host import Store
from titan_objects.store.listing import Listing
from titan_objects.store.resp import decode
from titan_objects.store.rewriting import Records, Rewrite
from titan_objects.store.streams import Stream
from titan_objects.store.values import ZSet
from titan_overlay.cli.titan import complete
from titan_overlay.errors import StorageError


def snapshot(core: Core) -> bytes:
    parts = [rdb_writing.header()]
    rewrite = Rewrite(core.engine, parts.append, Records())
    while rewrite.step():
        pass
    return b"".join(parts) + rdb_writing.END


def filled(seed: int) -> Core:
    core = Core(seed)
    for args in commands(seed, 3000, tuple(name for name in GROUPS if name not in ("blocking", "transactions", "odd"))):
        core(*args)
    core("SELECT", 0)
    core("SET", "long", "x" * 100_000, "PX", 5_000_000)
    core("XADD", "wide", "5-5", "f", "v" * 5_000, "g", "v" * 16_382)
    core("XADD", "wide", "18446744073709551615-1", "f", "y")
    return core


def shown(core: Core) -> list[object]:
    """All keys, as the commands that make them."""
    found = []
    for db in core.engine.databases:
        for key in sorted(db.data):
            value = db.data[key]
            if isinstance(value, Stream):
                groups = {name: (group.last, group.read, sorted(group.pending)) for name, group in value.groups.items()}
                found.append((key, value.entries, value.last, value.added, value.deleted, groups))
            else:
                found.append((key, list(value) if isinstance(value, ZSet) else value, db.expires.get(key)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_holds_everything(seed: int) -> None:
    core, again = filled(seed), Core()
    data = snapshot(core)
    assert rdb.load(data, again.engine) == len(data)
    assert shown(again) == shown(core)


def test_a_snapshot_shows_one_moment_whatever_is_changed_meanwhile() -> None:
    core = Core()
    for at in range(3000):
        core("SET", f"k{at}", at)
    core("RPUSH", "list", *range(5000))
    before = deepcopy(shown(core))
    parts = [rdb_writing.header()]
    rewrite = Rewrite(core.engine, parts.append, Records())
    core.engine.preserve = rewrite.preserve
    core.engine.look()
    while rewrite.step():
        for at in range(0, 3000, 7):
            core("APPEND", f"k{at}", "changed")
        core("LPOP", "list")
        core("SET", "new", 1)
    again = Core()
    rdb.load(b"".join(parts) + rdb_writing.END, again.engine)
    assert shown(again) == before


def test_the_checksum_is_that_of_redis() -> None:
    assert rdb_writing.crc64(b"123456789") == 0xE9C6D914C4B8D9CA


def test_restore_takes_what_dump_gives_and_nothing_else() -> None:
    core = Core()
    core("ZADD z 1 a 2.5 b")
    data = core("DUMP z")
    assert isinstance(data, bytes)
    assert core("DUMP nothing") is None
    assert core("RESTORE", "z", 0, data).text.startswith(b"BUSYKEY")
    assert core("RESTORE", "y", 1000, data) == b"OK"
    assert core("ZRANGE y 0 -1 WITHSCORES") == [b"a", b"1", b"b", b"2.5"]
    assert core("PTTL y") == 1000
    assert core("RESTORE", "z", core.now - 1, data, "REPLACE", "ABSTTL") == b"OK"
    assert core("EXISTS z") == 0
    for at in range(len(data)):
        damaged = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        assert b"checksum" in core("RESTORE", "x", 0, damaged).text
    bad = b"\x05\x7f" + data[-10:-8]
    bad += rdb_writing.crc64(bad).to_bytes(8, "little")
    assert core("RESTORE", "x", 0, bad).text == b"ERR Bad data format"


NAN = struct.pack("<d", math.nan)
EMPTY = (b"\x01\0", b"\x02\0", b"\x04\0", b"\x05\0", b"\x12\0", b"\x14\x07" + rdb_writing.listpack([]))
"""Collections without elements, which Redis itself wrote now and then before 7.0."""


def stream(*ids: tuple[int, int]) -> bytes:
    """One node of entries with these ids, as DUMP has it."""
    value = Stream()
    for id in ids:
        value.append(id, [b"f", b"v"])
    return rdb_writing.dump(value)[:-10]


@pytest.mark.parametrize(
    "body",
    [
        *EMPTY,
        b"\x05\x02\x01a" + NAN + b"\x01b" + NAN,
        b"\x03\x01\x01a\xfd",
        b"\x11" + rdb_writing.string(rdb_writing.listpack([b"a", b"nan"])),
        stream((2, 1), (1, 1)),
        stream((1, 1), (1, 1)),
        stream((0, 0)),
    ],
)
def test_no_value_is_made_that_could_not_have_been_written(body: bytes) -> None:
    core = Core()
    assert core("RESTORE", "x", 0, rdb_writing.sealed(body)).text == b"ERR Bad data format"


def test_collections_without_elements_are_left_out_of_a_snapshot() -> None:
    core = Core()
    records = b"".join(body[:1] + b"\x01%c" % (97 + at) + body[1:] for at, body in enumerate(EMPTY))
    kept = b"".join(rdb_writing.record(b"k", b"", None))
    rdb.load(rdb_writing.header() + b"\xfc" + bytes(8) + records + kept + rdb_writing.END, core.engine)
    assert core.engine.databases[0].data == {b"k": b""} and not core.engine.databases[0].expires


def test_ids_that_are_far_apart_are_what_they_were() -> None:
    core = Core()
    for id in ("1-18446744073709551615", "9223372036854775809-3", "18446744073709551615-1"):
        core("XADD", "x", id, "f", "v")
    assert core("RESTORE", "y", 0, core("DUMP x")) == b"OK"
    assert core("XRANGE y - +") == core("XRANGE x - +")


@needs_redis
def test_redis_reads_a_snapshot_and_takes_what_dump_gives(tmp_path: Path) -> None:
    core = filled(7)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "dump.rdb").write_bytes(snapshot(core))
    with RealRedis(tmp_path / "r", "--sanitize-dump-payload", "yes") as server, Wire(server.port) as wire:
        for db in core.engine.databases[:2]:
            wire.ask("SELECT", db.index)
            assert wire.ask("DBSIZE") == b":%d\r\n" % len(db.data)
            for key, value in db.data.items():
                theirs = wire.ask("DUMP", key).partition(b"\r\n")[2][:-2]
                read = rdb.restored(rdb_writing.undumped(theirs))
                assert list(read) == list(value) if not isinstance(value, (Stream, dict)) else len(read) == len(value)
                assert wire.ask("RESTORE", "copy", 0, rdb_writing.dump(value), "REPLACE") == b"+OK\r\n"
                wire.ask("DEL", "copy")


def titan(*words: object) -> Result:
    return CliRunner().invoke(complete(), ["store", *map(str, words)])


@pytest.mark.parametrize("name", ["all.rdb", "all.aof"])
def test_a_store_goes_into_a_file_and_out_of_it(tmp_path: Path, name: str) -> None:
    core = filled(5)
    (tmp_path / "from.rdb").write_bytes(snapshot(core))
    count = sum(len(db.data) for db in core.engine.databases)
    done = titan("import", "--dir", tmp_path / "one", tmp_path / "from.rdb")
    assert done.exit_code == 0 and f"{count} keys" in done.output
    assert titan("export", "--dir", tmp_path / "one", tmp_path / name).exit_code == 0
    assert titan("import", "--dir", tmp_path / "two", tmp_path / name).exit_code == 0
    assert titan("export", "--dir", tmp_path / "two", tmp_path / "again.rdb").exit_code == 0
    again = Core()
    rdb.load((tmp_path / "again.rdb").read_bytes(), again.engine)
    assert shown(again) == shown(core)


async def test_a_consumer_was_seen_when_its_store_was_written_into_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    before = store.now()
    for command in ("XGROUP CREATE s g 0 MKSTREAM", "XADD s 1-1 a 1", "XREADGROUP GROUP g one STREAMS s >"):
        await store.execute(command.encode().split())
    await store.close()
    assert titan("export", "--dir", tmp_path / "one", tmp_path / "all.rdb").exit_code == 0
    again = Core()
    rdb.load((tmp_path / "all.rdb").read_bytes(), again.engine)
    value = again.engine.databases[0].data[b"s"]
    assert before <= value.groups[b"g"].consumers[b"one"].seen <= store.now()


def test_databases_of_any_number_go_in_and_out(tmp_path: Path) -> None:
    core = Core(databases="32")
    core("SELECT 20")
    core("SET k v")
    (tmp_path / "from.rdb").write_bytes(snapshot(core))
    assert titan("import", "--dir", tmp_path / "one", tmp_path / "from.rdb").exit_code == 0
    assert titan("export", "--dir", tmp_path / "one", tmp_path / "to.rdb").exit_code == 0
    again = Core(databases="32")
    rdb.load((tmp_path / "to.rdb").read_bytes(), again.engine)
    assert again.engine.databases[20].data == {b"k": b"v"}


def test_what_cannot_be_moved_is_said(tmp_path: Path) -> None:
    (tmp_path / "from.rdb").write_bytes(snapshot(filled(5))[:-20])
    assert "damaged at byte" in titan("import", "--dir", tmp_path / "one", tmp_path / "from.rdb").output
    assert "holds no store" in titan("export", "--dir", tmp_path / "nowhere", tmp_path / "x.rdb").output
    (tmp_path / "whole.rdb").write_bytes(snapshot(filled(5)))
    assert titan("import", "--dir", tmp_path / "two", tmp_path / "whole.rdb").exit_code == 0
    assert "already" in titan("import", "--dir", tmp_path / "two", tmp_path / "whole.rdb").output
    for name, why in (("none.rdb", "no file"), ("two", "is a directory")):
        assert why in titan("import", "--dir", tmp_path / "three", tmp_path / name).output
    assert not (tmp_path / "three").exists()
    assert "already" in titan("export", "--dir", tmp_path / "two", tmp_path / "whole.rdb").output


@pytest.mark.parametrize("name", ["dump.rdb", "appendonly.aof"])
async def test_a_store_does_not_begin_empty_beside_what_a_redis_has_left(name: str, tmp_path: Path) -> None:
    core = Core()
    core("SET k v")
    (tmp_path / name).write_bytes(snapshot(core))
    with pytest.raises(StorageError, match="titan store import"):
        Store(tmp_path)
    assert titan("import", "--dir", tmp_path, tmp_path / name).exit_code == 0
    store = Store(tmp_path)
    assert await store.execute([b"GET", b"k"]) == b"v", "there is a log now, and that file does not count"
    await store.close()


@needs_redis
def test_what_is_pending_stays_so_though_its_message_is_gone(tmp_path: Path) -> None:
    def asked(core: Core) -> list[object]:
        return [core("XPENDING s g - + 100"), core("XINFO STREAM s"), core("XRANGE s - +"), core("XINFO GROUPS s")]

    for end in ("XDEL s 2-1 9-1", "XTRIM s MAXLEN 1", "XTRIM s MAXLEN 0", "XDEL s 3-1"):
        core = Core()
        for at in range(1, 10):
            core(f"XADD s {at}-1 a {at}")
        for command in ("XGROUP CREATE s g 0", "XREADGROUP GROUP g ann COUNT 5 STREAMS s >", "XACK s g 1-1", end):
            core(command)
        core("XREADGROUP GROUP g bob STREAMS s >")
        made = list(recreate(b"s", core.engine.databases[0].data[b"s"], None))
        again = Core()
        again.engine.now = core.now
        assert again.engine.replay(made) is None
        assert asked(again) == asked(core)
        with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
            assert not any(wire.ask(*args).startswith(b"-") for args in made)
            for command in ("XRANGE s - +", "XPENDING s g"):
                assert decode(wire.ask(*command.split())) == core(command)


# ---- listing keys while they come and go -------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PIECE", 5)


def churn(core: Core, seed: int, many: int) -> None:
    names = tuple(name for name in GROUPS if name not in ("blocking", "transactions", "odd"))
    for args in commands(seed, many, names):
        core(*args)


@pytest.mark.parametrize("seed", range(5))
def test_a_database_that_is_listed_is_like_any_other(small_pieces: None, seed: int) -> None:
    """Beside one that is not: the same keys in the same order, at every step and afterwards."""
    held, plain = filled(seed), filled(seed)
    database, other = held.engine.databases[0], plain.engine.databases[0]
    before = list(other.data)
    walk = Listing(database)
    while held.engine.keyspace.held:
        for core in (held, plain):
            churn(core, seed + 100, 40)
        assert list(database.data) == list(other.data) and len(database.data) == len(other.data)
        assert held("KEYS", "*") == plain("KEYS", "*")
        held.engine.keyspace.list_on()
    assert list(walk) == before and type(database.data) is dict
    assert shown(held) == shown(plain) and list(database.data) == list(other.data)


def test_a_database_may_be_emptied_exchanged_and_listed_again_while_it_is_listed(small_pieces: None) -> None:
    core = Core()
    for at in range(40):
        core("SET", f"k{at:02}", at)
    names = list(core.engine.databases[0].data)
    first = Listing(core.engine.databases[0])
    core("DEL", "k39")
    core("SWAPDB", 0, 1)
    core("SET", "other", 1)
    second = Listing(core.engine.databases[1])
    assert list(first) == names and list(second) == names[:-1]
    third = Listing(core.engine.databases[1])
    core("FLUSHALL")
    core("SELECT", 1)
    core("SET", "new", 1)
    assert list(third) == names[:-1] and list(core.engine.databases[1].data) == [b"new"]
    assert all(type(database.data) is dict for database in core.engine.databases)


def test_listings_that_overlap_show_each_its_own_moment(small_pieces: None) -> None:
    """While keys come, go and come again; in the end the dict is back."""
    core, chance, taken = Core(), Random(1), []
    database = core.engine.databases[0]
    core("MSET", *range(200))
    for turn in range(40):
        taken.append((list(database.data), Listing(database)))
        for _ in range(6):
            key = chance.randrange(0, 210, 2)
            core(*chance.choice((("DEL", key), ("SET", key, turn), ("SET", key, turn, "PX", 50_000), ("PERSIST", key))))
        if turn % 3 == 0:
            core.engine.keyspace.list_on()
    assert len({len(names) for names, _ in taken}) > 10 and core.engine.keyspace.held
    assert all(list(made) == names for names, made in taken)
    assert type(database.data) is dict and not core.engine.keyspace.held


def test_scans_begin_at_any_time_and_those_given_up_leave_nothing(small_pieces: None) -> None:
    core = Core()
    core("MSET", *range(400))
    cursors = []
    for at in range(60):
        expected = set(core.engine.databases[0].data)
        cursors.append((core("SCAN", 0, "COUNT", 3), expected))
        core("SET", f"new{at}", 1)
        core("DEL", 2 * at)
    assert type(core.engine.databases[0].data) is not dict
    for _ in range(100):
        core.pass_time(10)
    assert type(core.engine.databases[0].data) is dict
    there = set(core.engine.databases[0].data)
    for reply, expected in cursors:
        assert isinstance(reply, list)
        found = set(reply[1])
        while reply[0] != b"0":
            reply = core("SCAN", reply[0], "COUNT", 50)
            assert isinstance(reply, list)
            found |= set(reply[1])
        assert found >= expected & there and found <= expected


@pytest.mark.parametrize("seed", range(3))
def test_a_rewrite_shows_the_moment_at_which_keys_began_to_be_listed(small_pieces: None, seed: int) -> None:
    core, again = filled(seed), Core()
    before = deepcopy(shown(core))
    parts = [rdb_writing.header()]
    rewrite = Rewrite(core.engine, parts.append, Records())
    core.engine.preserve = core.engine.keyspace.preserve = rewrite.preserve
    core.engine.look()
    while rewrite.step():
        churn(core, seed + 100, 20)
    rdb.load(b"".join(parts) + rdb_writing.END, again.engine)
    assert shown(again) == before


def test_a_rewrite_that_is_given_up_leaves_the_store_as_it_was(small_pieces: None) -> None:
    core = Core()
    core("MSET", *range(40))
    rewrite = Rewrite(core.engine, bytes.split)
    rewrite.step()
    core("DEL", 0)
    core("SET", "new", 1)
    for _ in range(10):
        core.pass_time(10)
    database = core.engine.databases[0]
    assert type(database.data) is dict and list(database.data)[-1] == b"new" and b"0" not in database.data
