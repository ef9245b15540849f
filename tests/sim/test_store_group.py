"""A store that a group keeps, through doors on different nodes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import titan_overlay as titan
from tests.sim.store_doors import NAME, Client, door_on
from tests.sim.test_mutable import group, leader_of
from titan_objects.store.commands.migrate import Migration
from titan_objects.store.migrating import Source
from titan_objects.store.resp import OK, CommandError
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")


@asynccontextmanager
async def two_doors(**policy: int) -> AsyncIterator[tuple[SimulatedPool, Client, Client]]:
    """A group of three, and a client each of two doors."""
    async with SimulatedPool(5) as sim:
        await (await sim.client()).publish("store-group", NAME, policy=titan.Policy(**{"faults": 1, **policy}))
        doors = [door_on(sim, node) for node in sim.nodes[:2]]
        yield sim, *map(Client, doors)
        for door in doors:
            await door.close()


def refused(reply: object, word: str) -> bool:
    return isinstance(reply, CommandError) and word in str(reply)


async def test_commands_of_one_client_are_executed_in_their_order_and_seen_by_all() -> None:
    async with two_doors() as (_, one, other):
        assert await one("SET k v", "GET k", "INCR n", "PING", "LPUSH l a b", "LRANGE l 0 -1") == [
            b"OK", b"v", 1, b"PONG", 2, [b"b", b"a"],
        ]  # fmt: skip
        assert await other("GET k") == b"v"
        assert await one("SELECT 3", "SET k three", "GET k") == [b"OK", b"OK", b"three"]
        assert await other("GET k", "DBSIZE") == [b"v", 3]
        assert refused(await one("LPUSH k x"), "WRONGTYPE")
        assert refused(await one("NOSUCH k"), "unknown command")
        assert refused(await one("BGREWRITEAOF"), "unknown command")
        assert refused(await one("GET"), "wrong number of arguments")
        assert await one("EVAL return(redis.call('INCR',KEYS[1])) 1 n") == 1
        sha = await other("SCRIPT LOAD return(1)")
        assert await one(f"EVALSHA {sha.decode()} 0") == 1


async def test_copies_are_waited_for_as_long_as_there_may_be_more() -> None:
    async with two_doors() as (sim, one, other):
        assert await one("SET k v", "WAIT 1 0", "WAIT 0 0", "WAIT -1 5") == [b"OK", 1, 1, 1]
        begun = sim.now
        assert await one("WAIT 2 3000", "GET k") == [1, b"v"]
        assert 3 <= sim.now - begun < 4
        assert refused(await one("WAIT x y"), "value is not an integer")
        assert refused(await one("WAIT 1 y"), "timeout is not an integer")
        assert refused(await one("WAIT 1 -1"), "timeout is negative")
        other.put("WAIT 9 0", "GET k")
        await asyncio.sleep(3600)
        assert other.quiet
        other.leave()
        assert await one("GET k") == b"v"


async def test_transactions_are_executed_by_all_or_not_at_all() -> None:
    async with two_doors() as (_, one, other):
        assert await one("MULTI", "INCR n", "INCR n", "EXEC") == [b"OK", b"QUEUED", b"QUEUED", [1, 2]]
        assert await one("WATCH n", "MULTI", "INCR n") == [b"OK", b"OK", b"QUEUED"]
        assert await other("INCR n") == 3
        assert await one("EXEC", "GET n") == [None, b"3"]
        assert await one("WATCH n", "MULTI", "INCR n", "EXEC") == [b"OK", b"OK", b"QUEUED", [4]]
        assert await one("WATCH n") == b"OK"
        await other("INCR n")
        assert await one("UNWATCH", "MULTI", "INCR n", "EXEC") == [b"OK", b"OK", b"QUEUED", [6]]
        replies = await one("MULTI", "INCR", "EXEC")
        assert refused(replies[2], "EXECABORT")
        replies = await one("MULTI", "CLIENT ID", "EXEC")
        assert refused(replies[1], "not allowed inside a transaction")
        assert await one("MULTI", "INCR n", "DISCARD", "GET n") == [b"OK", b"QUEUED", b"OK", b"6"]
        assert await one("MULTI", "SELECT 1", "SET k 1", "EXEC", "GET k") == [
            b"OK", b"QUEUED", b"QUEUED", [b"OK", b"OK"], b"1",
        ]  # fmt: skip


async def test_who_watches_may_read_before_the_transaction() -> None:
    async with two_doors() as (_, one, other):
        for reading in ("READWRITE", "READONLY"):
            assert await one(reading, "SET n 1", "WATCH n") == [b"OK", b"OK", b"OK"]
            assert await one("GET n") == b"1"
            assert await other("SET n 5") == b"OK"
            assert await one("MULTI", "SET n 2", "EXEC", "READWRITE", "GET n") == [
                b"OK", b"QUEUED", None, b"OK", b"5",
            ]  # fmt: skip


async def test_who_forgets_what_it_watches_within_a_transaction_has_watched_it_so_far() -> None:
    async with two_doors() as (_, one, other):
        assert await one("WATCH n", "MULTI", "UNWATCH", "INCR n") == [b"OK", b"OK", b"QUEUED", b"QUEUED"]
        await other("SET n 5")
        assert await one("EXEC") is None
        assert await one("WATCH n", "MULTI", "UNWATCH", "INCR n", "EXEC") == [
            b"OK", b"OK", b"QUEUED", b"QUEUED", [b"OK", 6],
        ]  # fmt: skip
        replies = await one("WATCH n", "DISCARD")
        assert refused(replies[1], "without MULTI")
        await other("SET n 7")
        assert await one("MULTI", "INCR n", "EXEC") == [b"OK", b"QUEUED", None]


async def test_who_waits_for_a_key_is_answered_when_somebody_elsewhere_brings_it() -> None:
    async with two_doors() as (sim, one, other):
        one.put("BLPOP q 0", "PING")
        second = Client(one.door)
        await asyncio.sleep(2)
        second.put("BRPOP q 0")
        await asyncio.sleep(2)
        assert one.quiet
        assert await other("RPUSH q first") == 1
        assert [await one.hear(), await one.hear()] == [[b"q", b"first"], b"PONG"]
        await asyncio.sleep(2)
        assert second.quiet, "who has waited longest was first"
        assert await other("RPUSH q a b") == 2
        assert await second.hear() == [b"q", b"b"]
        assert await one("BLPOP q 0") == [b"q", b"a"]
        before = sim.now
        assert await one("BLPOP q none 1.5") is None
        assert 1.4 < sim.now - before < 3
        assert await other("XADD s 1-1 f old") == b"1-1"
        one.put("XREAD BLOCK 0 STREAMS s $")
        await asyncio.sleep(1)
        await other("XADD s 2-1 f new")
        assert await one.hear() == [[b"s", [[b"2-1", [b"f", b"new"]]]]]
        second.put("BLPOP q 0")
        await asyncio.sleep(1)
        second.leave()
        assert await other("RPUSH q kept") == 1
        await asyncio.sleep(1)
        assert await one("LRANGE q 0 -1") == [b"kept"], "nothing is taken for who has gone"


async def test_what_is_published_is_heard_at_all_doors() -> None:
    async with two_doors() as (sim, one, other):
        assert await one("SUBSCRIBE news") == [b"subscribe", b"news", 1]
        assert await other("PUBLISH news hello", "PUBLISH none x") == [0, 0]
        assert await one.hear() == [b"message", b"news", b"hello"]
        assert refused(await one("GET k"), "Can't execute")
        assert await other("CONFIG SET notify-keyspace-events Ex") == b"OK"
        assert await one("PSUBSCRIBE __keyevent*") == [b"psubscribe", b"__keyevent*", 2]
        began = sim.now
        await other("SET worker:ann alive PX 300")
        assert await one.hear() == [b"pmessage", b"__keyevent*", b"__keyevent@0__:expired", b"worker:ann"]
        assert 0.3 <= sim.now - began < 0.6, "nobody had to look at the key"
        sender = await sim.client()
        assert await sender.send(NAME, ["PUBLISH", "news", "from a program"]) == 0
        assert await one.hear() == [b"message", b"news", b"from a program"]
        assert await one("UNSUBSCRIBE news", "PUNSUBSCRIBE") == [
            [b"unsubscribe", b"news", 1],
            [b"punsubscribe", b"__keyevent*", 0],
        ]


async def test_time_is_agreed_upon() -> None:
    async with two_doors() as (sim, one, other):
        await one("SET k v PX 3000", "SET later v EX 100")
        assert 0 < await other("PTTL k") <= 3000
        await asyncio.sleep(2)
        assert await other("GET k") == b"v"
        await asyncio.sleep(1)
        assert [await one("GET k"), await other("GET k")] == [None, None]
        await asyncio.sleep(40)
        assert 55 <= await other("TTL later") <= 60, "time goes on where nothing is written"
        for node in sim.holders(NAME):
            assert await sim.pool(node).send(NAME, ["DBSIZE"]) == 1


async def test_a_leader_whose_clock_jumps_a_year_ahead_ends_nothing() -> None:
    async with two_doors() as (sim, one, other):
        await one("SET k v EX 100", "SET later v EX 1000")
        leader = leader_of(sim, NAME)
        there = group(leader, NAME)
        wall = there.ambient.wall
        wrong = replace(there.ambient, wall=lambda: wall() + 3.15e7)
        there.ambient, there.clock._ambient = wrong, wrong
        await other("SET more v EX 100")
        assert await one("GET k") == b"v"
        assert 900 < await other("TTL later") <= 1000
        await asyncio.sleep(110)
        assert leader_of(sim, NAME) is leader
        assert [await one("EXISTS k more"), await one("EXISTS later")] == [0, 1], "and time goes on"


async def test_programs_need_no_redis_client() -> None:
    async with two_doors() as (sim, one, _):
        pool = await sim.client()
        assert await pool.send(NAME, ["SET", "k", "v"]) == b"OK"
        first, failed, last = await pool.send_batch(NAME, [["INCR", "n"], ["LPUSH", "k", 1], ["INCRBY", "n", 4]])
        assert (first, last) == (1, 5) and isinstance(failed, titan.BadMessage)
        with pytest.raises(titan.BadMessage, match="WRONGTYPE"):
            await pool.send(NAME, ["LPUSH", "k", "v"])
        with pytest.raises(titan.BadMessage, match="a command is a list of words"):
            await pool.send(NAME, [])
        one.put("BLPOP q 0")
        await asyncio.sleep(1)
        assert await pool.send(NAME, ["RPUSH", "q", "x"]) == 1
        assert await one.hear() == [b"q", b"x"]


async def test_settings_and_info_are_of_the_group_where_they_concern_it() -> None:
    async with two_doors() as (_, one, other):
        assert await one("CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru") == b"OK"
        assert await other("CONFIG GET maxmemory maxmemory-policy maxmemory-samples") == [
            b"maxmemory", b"104857600", b"maxmemory-policy", b"allkeys-lru", b"maxmemory-samples", b"5",
        ]  # fmt: skip
        assert await one("CONFIG SET slowlog-max-len 7") == b"OK"
        assert await other("CONFIG GET slowlog-max-len") == [b"slowlog-max-len", b"128"]
        assert refused(await one("CONFIG SET maxmemory 0 slowlog-max-len 7"), "apart")
        await one("SET k v EX 100")
        info = (await other("INFO")).decode()
        assert "db0:keys=1,expires=1" in info and "maxmemory:104857600" in info
        assert "connected_clients:1" in info


async def test_long_replies_and_long_commands() -> None:
    async with two_doors() as (_, one, other):
        word = "x" * 300_000
        for _ in range(5):
            assert await one(f"RPUSH l {word}")
        assert await other("LRANGE l 0 -1", "LLEN l") == [[word.encode()] * 5, 5]
        replies = await one("PING", f"SET k {word * 2}", "GET k")
        assert replies[0] == b"PONG" and refused(replies[1], "a group orders at most") and replies[2] is None


async def test_who_may_do_what_is_the_doors_affair() -> None:
    async with two_doors() as (_, one, _other):
        assert await one("ACL SETUSER reader on >pw ~k* +get +client") == b"OK"
        await one("SET k v")
        guest = Client(one.door)
        assert await guest("AUTH reader pw", "GET k") == [b"OK", b"v"]
        assert refused(await guest("SET k w"), "NOPERM")
        assert refused(await guest("GET other"), "NOPERM")
        assert await guest("CLIENT REPLY OFF", expect=0) is None
        guest.put("GET k")
        assert await guest("CLIENT REPLY ON") == b"OK"


async def test_who_may_not_do_everything_runs_no_scripts_that_members_would_not_check() -> None:
    async with two_doors() as (_, one, _other):
        assert await one("ACL SETUSER writer on >pw ~k* +@all") == b"OK"
        guest = Client(one.door)
        await guest("AUTH writer pw")
        script = "EVAL return(redis.call('SET','other',1)) 0"
        assert refused(await guest(script), "NOPERM")
        assert await guest("MULTI") == b"OK"
        assert refused(await guest(script), "NOPERM")
        assert refused(await guest("EXEC"), "EXECABORT")
        assert await one("EXISTS other") == 0
        assert await one(script) == b"OK"


async def test_stale_reads_are_answered_without_a_quorum_and_others_are_not() -> None:
    async with two_doors() as (sim, one, _):
        await one("SET k v")
        await asyncio.sleep(1)
        members = sim.holders(NAME)
        door = door_on(sim, members[0])
        reader = Client(door)
        assert await reader("READONLY") == b"OK"
        for node in members[1:]:
            sim.kill(node)
        assert await reader("GET k") == b"v"
        assert await reader("READWRITE") == b"OK"
        assert refused(await reader("GET k"), "UNAVAILABLE")
        assert refused((await reader("SET k w", "PING"))[0], "may have been executed")
        await door.close()


LOCK = (
    "if(redis.call('SET',KEYS[1],ARGV[1],'NX','PX',ARGV[2]))then--[[]]"
    "return(redis.call('INCR',KEYS[2]))end--[[]]return(0)"
)


async def test_workers_are_registered_locks_have_numbers_and_logs_are_streamed() -> None:
    async with two_doors() as (_, one, other):
        watching = Client(one.door)
        await one("CONFIG SET notify-keyspace-events Ex")
        await watching("PSUBSCRIBE __keyevent@0__:expired logs:*", expect=2)
        await other("SADD workers ann bob", "SET alive:ann 1 PX 2000", "SET alive:bob 1 PX 2000")
        for _ in range(4):
            await asyncio.sleep(1)
            await other("SET alive:ann 1 PX 2000")
            await other(f"PUBLISH logs:job-{_} done")
        heard = [await watching.hear() for _ in range(5)]
        assert [each[3] for each in heard if each[2] == b"__keyevent@0__:expired"] == [b"alive:bob"]
        assert [each[2] for each in heard if each[1] == b"logs:*"] == [b"logs:job-%d" % n for n in range(4)]
        first = await one(f"EVAL {LOCK} 2 lock fence me 1000")
        assert await other(f"EVAL {LOCK} 2 lock fence you 1000") == 0
        await asyncio.sleep(1.2)
        assert await other(f"EVAL {LOCK} 2 lock fence you 1000") == first + 1, (
            "the slow one can be told from the new one"
        )
        assert await other("SET seen 1 PX 100 GET", "SET seen 2 NX GET") == [None, b"1"]


async def test_members_may_lie_where_that_is_wanted() -> None:
    async with two_doors(byzantine=True) as (_, one, other):
        assert await one("SET k v", "INCR n", "SADD s a b c") == [b"OK", 1, 3]
        assert await other("GET k", "SMEMBERS s") == [b"v", [b"a", b"b", b"c"]]
        one.put("BLPOP q 0")
        await asyncio.sleep(3)
        await other("RPUSH q x")
        assert await one.hear() == [b"q", b"x"]


async def test_a_door_moves_keys_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def moved(source: Source, migration: Migration) -> bytes:
        """As if that server had confirmed."""
        (sent,) = await source.read(migration, deque(migration.options.keys))
        assert await source.let_go(migration, sent)
        return OK

    monkeypatch.setattr("titan_objects.store.group.door.moved", moved)
    async with two_doors() as (_, one, other):
        replies = await one("SET k v", "MIGRATE 127.0.0.1 6379 k 0 1000", "GET k", "MIGRATE 127.0.0.1 0 k 0 1000")
        assert replies[:3] == [b"OK", b"OK", None] and refused(replies[3], "Invalid port")
        assert await other("DBSIZE") == 0
        assert await one("MULTI") == b"OK"
        assert refused(await one("MIGRATE 127.0.0.1 6379 k 0 1000"), "not allowed inside a transaction")
