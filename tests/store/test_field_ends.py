"""Fields of hashes that end (HEXPIRE and its kin, since Redis 7.4)."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.store.commands_by_chance import commands
from tests.store.core import NOW, Core
from tests.store.real import RealRedis, Wire, needs_redis
from tests.store.test_group import START, Member
from tests.store.test_log import Asked
from tests.store.test_snapshots import shown, snapshot
from titan_objects.store import rdb
from titan_objects.store.effects import encode, recreate
from titan_objects.store.host import Store
from titan_objects.store.keyspace import BUCKET_MS
from titan_objects.store.resp import CommandError
from titan_objects.store.values import ExpiringHash

FIELDS = ("hashes", "hashes", "field ends")


def mixed(seed: int) -> Core:
    core = Core(seed)
    for args in commands(seed, 2000, FIELDS):
        core(*args)
    core("HSET", "h", *[word for at in range(2000) for word in (f"f{at}", at)])
    core("HPEXPIREAT", "h", NOW + 5, "FIELDS", 1000, *[f"f{at}" for at in range(0, 2000, 2)])
    return core


def ends(core: Core) -> list[object]:
    values = [value for db in core.engine.databases for _, value in sorted(db.data.items())]
    return [sorted(value.ends) for value in values if type(value) is ExpiringHash and value.ends]


def test_a_field_ends_when_its_time_is_over() -> None:
    core = Core()
    core("HSET h a 1 b 2 c 3")
    assert core("HEXPIRE h 1 FIELDS 3 a b x") == [1, 1, -2]
    assert core("HPTTL h FIELDS 3 a c x") == [1000, -1, -2]
    core.effects()
    core.now += 999
    assert core("HGET h a") == b"1"
    core.now += 1
    assert core("HGET h a") is None, "nobody sees it, although nothing has looked for it yet"
    assert core("HGETALL h") == [b"c", b"3"]
    assert core.effects() == ["HDEL h a b"]


def test_a_hash_whose_last_field_ends_is_gone() -> None:
    core = Core()
    core("CONFIG SET notify-keyspace-events Ehg")
    hearer = core.connect()
    hearer("PSUBSCRIBE __keyevent@0__:*")
    core("HSET h a 1")
    core("HPEXPIRE h 15 FIELDS 1 a")
    core.effects()
    core.pass_time(14)
    assert core("EXISTS h") == 1
    core.pass_time(1)
    assert core("EXISTS h") == 0
    assert core.effects() == ["HDEL h a"]
    heard = [message[2].rpartition(b":")[2] for message in hearer.heard() if message[0] == b"pmessage"]
    assert heard == [b"hset", b"hexpire", b"hexpired", b"del"]
    assert core.engine.keyspace.wheel.next() is None


def test_a_field_that_is_set_anew_ends_no_more_and_one_that_is_counted_does() -> None:
    core = Core()
    core("HSET h a 1 b 1 c 1 d 1 e 1")
    core("HPEXPIRE h 50 FIELDS 5 a b c d e")
    core.effects()
    core("HSET h a 2")
    core("HINCRBY h b 1")
    core("HINCRBYFLOAT h c 0.5")
    assert core("HPERSIST h FIELDS 2 d x") == [1, -2]
    assert core("HPTTL h FIELDS 5 a b c d e") == [-1, 50, 50, -1, 50]
    written = core.effects()
    assert written[2:4] == ["HSET h c 1.5", f"HPEXPIREAT h {NOW + 50} FIELDS 1 c"], "HSET alone would keep it for ever"
    core.pass_time(100)
    assert core("HKEYS h") == [b"a", b"d"]


def test_a_time_in_the_past_removes_at_once() -> None:
    core = Core()
    core("HSET h a 1 b 2")
    core.effects()
    assert core("HPEXPIREAT h 1 FIELDS 2 a a") == [2, -2]
    assert core("HEXPIRE h 0 FIELDS 1 b") == [2]
    assert core.effects() == ["HDEL h a", "HDEL h b"]
    assert core("EXISTS h") == 0


def test_many_fields_go_a_thousand_at_a_time() -> None:
    core = Core()
    core("HSET", "h", *[word for at in range(3000) for word in (f"f{at}", at)], "last", 1)
    core("HPEXPIRE", "h", 10, "FIELDS", 3000, *[f"f{at}" for at in range(3000)])
    core.now += 20
    left = []
    while core.engine.tick(core.now):
        left.append(len(core.engine.databases[0].data[b"h"]))
    assert left == [2001, 1001, 1]
    assert core("HKEYS h") == [b"last"]


@pytest.mark.parametrize("how", ["RENAME h g", "COPY h g", "MOVE h 1", "SWAPDB 0 1", "DUMP"])
def test_ends_go_where_the_hash_goes(how: str) -> None:
    core = Core()
    core("HSET h a 1 b 2")
    core("HPEXPIRE h 100 FIELDS 1 a")
    if how == "DUMP":
        core("RESTORE", "g", 0, core("DUMP h"))
    else:
        core(how)
    core("SELECT", 1 if how in ("MOVE h 1", "SWAPDB 0 1") else 0)
    key = "h" if how in ("MOVE h 1", "SWAPDB 0 1") else "g"
    assert core(f"HPTTL {key} FIELDS 2 a b") == [100, -1]
    core.pass_time(100)
    assert core("HLEN", key) == 1
    core.pass_time(BUCKET_MS)
    assert core.engine.keyspace.wheel.next() is None


def test_a_pause_hides_what_has_ended_and_removes_nothing() -> None:
    core = Core()
    core("HSET h a 1 b 2")
    core("HPEXPIRE h 100 FIELDS 1 a")
    core("CLIENT PAUSE 500 WRITE")
    core.effects()
    core.pass_time(200)
    assert core("HKEYS h") == [b"b"]
    assert core.effects() == []
    core.now += 300
    assert core("HSET h c 3") == 1, "the pause is over for whoever comes then, ticked or not"
    assert core.effects() == ["HDEL h a", "HSET h c 3"]


def test_whoever_caches_a_hash_is_told_even_of_what_ends_while_he_looks() -> None:
    core = Core()
    core("HELLO 3")
    core("CLIENT TRACKING ON NOLOOP")
    core("HSET h a 1 b 2")
    core("HPEXPIRE h 10 FIELDS 1 a")
    core("HGET h a")
    core.now += 10
    core.engine.run(core.client.session, [[b"HGET", b"h", b"b"]], core.now)
    assert b"invalidate" in b"".join(core.client.session.out)


def test_wrong_words_are_refused() -> None:
    core = Core()
    core("HSET h a 1")
    core("SET s 1")
    for command, why in {
        "HEXPIRE h x FIELDS 1 a": "not an integer",
        "HEXPIRE h -1 FIELDS 1 a": "must be >= 0",
        "HEXPIRE h 1 FIELDS 0 a": "greater than 0",
        "HEXPIRE h 1 FIELDS 2 a": "must match",
        "HEXPIRE h 1 NX FIELDS 1": "must match",
        "HEXPIRE h 1 BUT FIELDS 1 a": "FIELDS is missing",
        f"HPEXPIREAT h {1 << 46} FIELDS 1 a": "invalid expire time in 'hpexpireat'",
        "HTTL h FIELDS 0 a": "positive integer",
        "HEXPIRE s 1 FIELDS 1 a": "WRONGTYPE",
        "HPERSIST s FIELDS 1 a": "WRONGTYPE",
    }.items():
        reply = core(command)
        assert isinstance(reply, CommandError) and why in str(reply), command
    assert type(core.engine.databases[0].data[b"h"]) is dict


@pytest.mark.parametrize("seed", [1, 2])
def test_snapshots_and_rewritten_logs_keep_ends(seed: int) -> None:
    core = mixed(seed)
    loaded, replayed = Core(), Core()
    rdb.load(snapshot(core), loaded.engine)
    for key, value in core.engine.databases[0].data.items():
        replayed.engine.replay(list(recreate(key, value, core.engine.databases[0].expires.get(key))))
    for again in (loaded, replayed):
        assert shown(again) == shown(core)
        assert ends(again) == ends(core)
        again.pass_time(20)
        assert again("HLEN h") == 1000


def test_a_packed_hash_of_redis_keeps_ends() -> None:
    # DUMP of {a: 1, b: 22} by Redis 7.4.1, where b ends at 4,100,000,000,123.
    dumped = "197b280b9bba0300001d1d00000006008162021601f47b280b9bba0300000981610201010001ff0c00e068214b3947db10"
    core = Core()
    assert core("RESTORE", "h", 0, bytes.fromhex(dumped)) == b"OK"
    assert core("HGETALL h") == [b"b", b"22", b"a", b"1"], "in the order of ends, as Redis keeps them"
    assert core("HPEXPIRETIME h FIELDS 2 a b") == [-1, 4_100_000_000_123]


@pytest.mark.parametrize("at", [0, 1 << 47, 1 << 63])
def test_an_end_beyond_all_time_is_refused_in_snapshots(at: int) -> None:
    data = bytes((24,)) + at.to_bytes(8, "little") + b"\x01\x01\x01f\x01v"
    with pytest.raises(rdb.Damaged):
        rdb.restored(data)


def test_members_of_a_group_let_fields_go_at_the_same_entry() -> None:
    here = Member()
    here("HSET h a 1 b 2 c 3", "HPEXPIRE h 50 FIELDS 2 b a", "HSET g x 1", "HPEXPIRE g 50 FIELDS 1 x")
    there = here.restored()
    for member in (here, there):
        assert member("HPTTL h FIELDS 3 a b c", now=START + 0.02) == [[30, 30, -1]]
        assert member("HGETALL h", "EXISTS g", now=START + 0.05) == [[b"c", b"3"], 0]
    assert here.state() == there.state()


async def rewritten(store: Store) -> None:
    store.rewrite()
    while store.engine.stats.rewriting:
        await asyncio.sleep(0.001)
    await store.close()


async def test_the_log_keeps_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = Asked(store)
    asked.ask("HSET", "h", "a", 1, "b", 2)
    asked.ask("HEXPIRE", "h", 1000, "FIELDS", 1, "a")
    before = asked.ask("HPEXPIRETIME", "h", "FIELDS", 2, "a", "b")
    await store.close()
    for _ in range(2):
        store = Store(tmp_path)
        assert Asked(store).ask("HPEXPIRETIME", "h", "FIELDS", 2, "a", "b") == before
        await rewritten(store)


async def test_replicas_that_might_not_know_ends_need_a_snapshot_that_says_so() -> None:
    store = Store(None)
    state = store.engine.replication
    asked = Asked(store)

    async def follow() -> Asked:
        replica = Asked(store)
        replica.ask("REPLCONF", "capa", "eof")
        store.run(replica.session, [[b"PSYNC", b"?", b"-1"]])
        while not state.replicas[replica.session].sent:
            await asyncio.sleep(0.001)
        store.flush()
        return replica

    first = await follow()
    assert b"REDIS0010" in b"".join(first.replies)
    history = state.id
    asked.ask("HSET", "h", "a", 1)
    assert not first.session.closing
    asked.ask("HEXPIRE", "h", 1000, "FIELDS", 1, "a")
    assert first.session.closing and state.id != history, "it cannot go on where it was"
    store.disconnect(first.session)
    second = await follow()
    assert b"REDIS0012" in b"".join(second.replies)
    asked.ask("HEXPIRE", "h", 2000, "FIELDS", 1, "a")
    assert not second.session.closing
    await store.close()


@needs_redis
async def test_redis_before_7_4_refuses_ends_and_takes_the_hash_without(tmp_path: Path) -> None:
    core = Core()
    core("HSET h a 1 b 2")
    core("HPEXPIRE h 100 FIELDS 1 a")
    with RealRedis(tmp_path / "redis") as server, Wire(server.port) as redis:
        assert redis.ask("RESTORE", "h", 0, core("DUMP h")).startswith(b"-ERR Bad data format")
        core.pass_time(200)
        assert redis.ask("RESTORE", "h", 0, core("DUMP h")) == b"+OK\r\n"
        assert redis.ask("HGETALL", "h") == encode([[b"b", b"2"]])
    store = Store(tmp_path / "log")
    asked = Asked(store)
    asked.ask("HSET", "h", "a", 1, "b", 2)
    asked.ask("HEXPIRE", "h", 1000, "FIELDS", 1, "a")
    await store.close()
    words = [
        "redis-server",
        "--port",
        str(free_port()),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(tmp_path / "log"),
        "--appendonly",
        "yes",
    ]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1 and "Unknown command 'HPEXPIREAT'" in refused.stdout
    store = Store(tmp_path / "log")
    Asked(store).ask("HPERSIST", "h", "FIELDS", 1, "a")
    await rewritten(store)
    with RealRedis(tmp_path / "log", "--appendonly", "yes") as server, Wire(server.port) as redis:
        assert redis.ask("HGET", "h", "a") == b"$1\r\n1\r\n"
