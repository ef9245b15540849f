"""The same random commands to Debian's redis-server and to this store give the same replies and the same data."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.commands_by_chance import GROUPS, UNORDERED, Word, commands
from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.resp import CommandError, decode, decode_all

pytestmark = needs_redis

EVERYTHING = tuple(name for name in GROUPS if name not in ("blocking", "counts"))
"""Not those that take long in Redis, and not those that Redis keeps in two forms."""

TYPES = {
    "string": ("GET",),
    "list": ("LRANGE", "0", "-1"),
    "set": ("SMEMBERS",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
    "stream": ("XRANGE", "-", "+"),
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with RealRedis(tmp_path_factory.mktemp("redis")) as server, Wire(server.port) as wire:
        yield wire


class Ours:
    """The core, asked as a server is."""

    def __init__(self) -> None:
        self.core = Core()

    def ask(self, *args: Word) -> bytes:
        session = self.core.client.session
        encoded = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        self.core.engine.run(session, [encoded], self.core.now)
        if session.waiter is not None:
            self.core.pass_time(1)
        data = b"".join(session.out)
        session.out.clear()
        return data


def comparable(args: tuple[Word, ...], reply: bytes) -> object:
    value = decode(reply)
    if isinstance(value, CommandError):
        # Where both refuse, the code must agree; texts may be better than Redis's.
        return f"error {value.text.split()[0].decode()}"
    if args[0] in UNORDERED and isinstance(value, list):
        return sorted(value)
    if args[0] == "EXEC" and isinstance(value, list):
        return [sorted(each) if isinstance(each, list) and _flat(each) else _shown(each) for each in value]
    return _shown(value)


def _flat(value: list[object]) -> bool:
    return all(isinstance(each, bytes) for each in value)


def _shown(value: object) -> object:
    return f"error {value.text.split()[0].decode()}" if isinstance(value, CommandError) else value


def contents(ask: "Wire | Ours") -> dict[object, object]:
    found: dict[object, object] = {}
    for db in (0, 1):
        ask.ask("SELECT", db)
        for key in decode(ask.ask("KEYS", "*")):
            kind = decode(ask.ask("TYPE", key)).decode()
            name, *rest = TYPES[kind]
            value = decode(ask.ask(name, key, *rest))
            if kind == "hash":
                value = dict(zip(value[::2], value[1::2], strict=True))
            if kind == "stream":
                groups = decode(ask.ask("XINFO", "GROUPS", key))
                pending = [decode(ask.ask("XPENDING", key, name)) for name in ("g", "h")]
                value = [value, groups, [each for each in pending if isinstance(each, list)]]
            found[db, key] = (kind, sorted(value) if kind == "set" else value, decode(ask.ask("PEXPIRETIME", key)))
    return found


def compare(redis: Wire, seed: int, count: int, groups: tuple[str, ...]) -> None:
    redis.ask("RESET")
    redis.ask("FLUSHALL")
    ours = Ours()
    sent = commands(seed, count, groups)
    for number, args in enumerate(sent):
        theirs, mine = comparable(args, redis.ask(*args)), comparable(args, ours.ask(*args))
        assert mine == theirs, (
            f"seed {seed}, command {number}: {mine} is not {theirs} after {sent[max(0, number - 8) : number + 1]}"
        )
    redis.ask("RESET")
    ours.ask("RESET")
    if groups != ("counts",):
        assert contents(ours) == contents(redis)


@pytest.mark.parametrize("group", [name for name in GROUPS if name not in ("keys", "odd", "transactions")])
def test_a_group_of_commands_answers_as_redis_does(redis: Wire, group: str) -> None:
    slow = group in ("blocking", "counts")  # redis looks at timeouts ten times a second; 16,384 registers are many
    compare(redis, 1, 100 if slow else 1000, (group,))


def test_all_groups_together_answer_as_redis_does(redis: Wire) -> None:
    compare(redis, 2, 3000, EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_many_commands_answer_as_redis_does(redis: Wire, seed: int) -> None:
    compare(redis, seed, 30_000, EVERYTHING)


def test_what_is_replayed_from_the_effects_is_the_same(redis: Wire, tmp_path: Path) -> None:
    """Effects executed by the real redis-server make the data that the commands made here."""
    redis.ask("RESET")
    redis.ask("FLUSHALL")
    ours = Ours()
    for args in commands(3, 3000, tuple(name for name in EVERYTHING if name != "transactions")):
        ours.ask(*args)
    for effect in ours.core.engine.effects:
        redis.ask(*effect)
    redis.ask("RESET")
    ours.ask("RESET")
    assert contents(redis) == contents(ours)


def compare_lines(redis: Wire, lines: str) -> None:
    """Byte for byte, in both versions of the protocol; `;` divides commands."""
    for version in (2, 3):
        ours = Ours()
        for server in (redis, ours):
            server.ask("RESET")
            server.ask("FLUSHALL")
            decode(server.ask("HELLO", version))
        for line in lines.replace("\n", ";").split(";"):
            words = line.split()
            if words:
                assert ours.ask(*words) == redis.ask(*words), line.strip()
    redis.ask("RESET")


def test_places_at_the_edges_of_the_world_are_where_they_are(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        GEOADD g 180 10 e 179.9 10 f -180 10 w 10 85.05112878 n 10 -85.05112878 s 180 85.05112878 ne
        ZRANGE g 0 -1 WITHSCORES; GEOPOS g e f w n s ne; GEOHASH g e f w n s ne
        GEODIST g e f; GEODIST g e w; GEODIST g n s km
        """,
    )
    ours = Ours()
    ours.ask("GEOADD", "g", 180, 10, "e", 10, 85.05112878, "n")
    assert decode(ours.ask("GEOSEARCH", "g", "FROMLONLAT", 179, 10, "BYRADIUS", 200, "km")) == [b"e"]
    assert decode(ours.ask("GEOSEARCH", "g", "FROMMEMBER", "n", "BYBOX", 1, 1, "km")) == [b"n"]


def test_what_is_shown_of_places_and_what_is_stored_do_not_go_together(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania; GEOPOS g Palermo
        GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD WITHDIST WITHHASH
        GEORADIUS g 15 37 200 km DESC WITHCOORD; GEORADIUS g 15 37 200 km STORE d WITHCOORD
        GEOSEARCHSTORE d g FROMLONLAT 15 37 BYRADIUS 200 km WITHDIST; EXISTS d
        GEORADIUSBYMEMBER g Palermo 200 km WITHHASH STOREDIST d; EXISTS d
        """,
    )


FULL = """
XADD x 1-1 a 1; XADD x 2-1 a 1; XADD x 3-1 a 1; XADD x 4-1 a 1
XGROUP CREATE x g 0; XGROUP CREATE x b 0; XGROUP CREATECONSUMER x g idle
XREADGROUP GROUP g c COUNT 2 STREAMS x >; XREADGROUP GROUP g d STREAMS x >
XCLAIM x g c 0 1-1 2-1 3-1 TIME 1000000 RETRYCOUNT 5 JUSTID; XACK x g 4-1; XDEL x 3-1
"""


@pytest.mark.parametrize("options", ["", "COUNT 1", "COUNT 0", "COUNT -1", "COUNT", "COUNT x", "FOO 1"])
def test_all_that_there_is_to_know_about_a_stream(redis: Wire, options: str) -> None:
    ours = Ours()
    for server in (redis, ours):
        server.ask("RESET")
        server.ask("FLUSHALL")
        server.ask("HELLO", 3)
        for line in FULL.replace("\n", ";").split(";"):
            if line:
                server.ask(*line.split())
    command = ("XINFO", "STREAM", "x", "FULL", *options.split())
    told = [decode(server.ask(*command)) for server in (redis, ours)]
    redis.ask("RESET")
    if isinstance(told[0], CommandError):
        told = [each.text for each in told]
    else:
        for each in told:
            for consumer in each[b"groups"][1][b"consumers"]:
                assert consumer.pop(b"seen-time") > 10**12
    assert told[1] == told[0]


def test_numbers_at_their_limits_and_words_that_are_none(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        BITFIELD b OVERFLOW SAT SET u8 0 -1 GET u8 0 SET u8 0 300 SET i8 0 -300 GET i8 0 INCRBY u8 0 -500
        BITFIELD b OVERFLOW FAIL SET u8 0 -1 SET u8 0 256; BITFIELD b OVERFLOW WRAP SET u8 0 -2 GET u8 0
        ZADD z 1e400 a; ZADD z 1e308 a; ZADD z INCR 1e308 a; ZADD z inf b; ZINCRBY z -1e400 a; ZRANGE z 0 -1 WITHSCORES
        ZINCRBY z -0 c; ZINCRBY z -0 c; ZINCRBY z 0 c
        CLIENT KILL ID 0; CLIENT KILL ID -1; CLIENT KILL TYPE nosuch; CLIENT KILL TYPE PUBSUB; CLIENT LIST TYPE nosuch
        """,
    )


def test_numbers_may_be_hexadecimal_and_bounds_of_scores_anything_that_c_reads(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        ZADD z 0x10 a 0X1.8P1 b -0x1p-1 c 0x.8 d +0x0p99999 e; ZADD z 0x g; ZADD z 0x1p99999 g; ZADD z 0x1p-99999 g
        ZADD z 0x1.8q g; ZADD z 0x. g; ZADD z 0x10p g; ZADD z 1e-400 g; ZADD z 0e-400 g; ZRANGE z 0 -1 WITHSCORES
        ZINCRBY z 0xff a; ZRANGEBYSCORE z 0x0 (0x20; ZCOUNT z -1e999 1e999; ZCOUNT z -0x1p9999 0x1p9999
        ZCOUNT z ( 1e999; ZCOUNT z 1e-400 0x1p-9999; ZCOUNT z 0x 1; ZCOUNT z ((1 2
        ZREMRANGEBYSCORE z ( 1; ZRANGE z 0 -1
        INCRBYFLOAT n 0x10; INCRBYFLOAT n 0x1p3; INCRBYFLOAT n -0x.8; INCRBYFLOAT n 0x1.123456789abcdefp-3; SET n 0x10
        INCRBYFLOAT n 1; INCRBYFLOAT n 0x1p-9999999; INCRBYFLOAT n 0x0p9999999; HSET h f 0x11; HINCRBYFLOAT h f 0xA
        GEOADD g 0x10 0x10 p; GEOPOS g p; ZUNION 1 z WEIGHTS 0x2 WITHSCORES
        """,
    )
    ours = Ours()
    for server in (redis, ours):
        server.ask("FLUSHALL")
        server.ask("ZADD", "z", 0, "a", 1, "b", 2, "c")
        server.ask("RPUSH", "l", "0x10", 9)
    for words in (("", 1), (" 1", 2), ("1 ", 2), ("\t(1", 2), ("( 1", 2), ("(", "0x1")):
        assert ours.ask("ZRANGEBYSCORE", "z", *words) == redis.ask("ZRANGEBYSCORE", "z", *words), words
    assert ours.ask("SORT", "l") == redis.ask("SORT", "l")
    assert ours.ask("ZREMRANGEBYSCORE", "z", "", "") == redis.ask("ZREMRANGEBYSCORE", "z", "", "")


LONG = [
    "0",
    "-0.1",
    "1e4932",
    "-1.18973149535723176502e4932",
    "0x1p16383",
    "2e-4951",
    "1e-4951",
    "inf",
    "-Infinity",
    "nan",
]
LONG += ["1" * 4932, "1" * 4933, "0." + "3" * 5117, "0." + "3" * 5118, "9007199254740993.5", "0x1.fffffffffffffffep3"]


def test_sums_go_as_far_as_an_extended_double_and_are_as_exact(redis: Wire) -> None:
    ours = Ours()
    for server in (redis, ours):
        server.ask("RESET")
        server.ask("FLUSHALL")
    for one in LONG:
        for other in LONG:
            for server in (redis, ours):
                server.ask("SET", "k", one)
                server.ask("HSET", "h", "f", one)
            for command in (("INCRBYFLOAT", "k", other), ("HINCRBYFLOAT", "h", "f", other)):
                assert ours.ask(*command) == redis.ask(*command), (one[:40], other[:40])


def test_bits_are_read_up_to_the_end_of_the_longest_string(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        BITFIELD b GET u8 4294967288 GET u8 4294967289 GET i64 4294967295 GET u63 #68174084 GET u8 #536870911
        BITFIELD b GET u8 4294967296; BITFIELD b GET u8 #536870912; BITFIELD b GET u8 -1; BITFIELD b GET u8 #-1
        BITFIELD b GET U8 0; BITFIELD b GET I8 0; BITFIELD b GET u08 0; BITFIELD b GET u+8 0; BITFIELD b GET u 0
        BITFIELD b GET u0 0; BITFIELD b GET u64 0; BITFIELD b GET i65 0; BITFIELD b GET i64 0; BITFIELD b SET u8 -1 0
        BITFIELD b SET i13 5 -1234 GET i13 5 GET u13 4 GET i64 3 INCRBY u3 15 6 GET u24 0; GET b; BITFIELD b GET i8 20
        """,
    )
    assert decode(Ours().ask("BITFIELD", "b", "SET", "u8", 4294967289, 1)).text.startswith(b"ERR bit offset")


def test_bits_of_a_long_string_are_counted_and_found_where_they_are(redis: Wire) -> None:
    edges = (0, 1, 65535, 65536, 65537, 131072, 200_000, 204_799)
    ours = Ours()
    for server in (redis, ours):
        server.ask("FLUSHALL")
        server.ask("SETRANGE", "ones", 0, b"\xff" * 25_600)
        for at in edges:
            server.ask("SETBIT", "zeros", at, 1)
            server.ask("SETBIT", "ones", at, 0)
    for key, bit in (("zeros", 1), ("ones", 0)):
        for low in edges:
            for high in edges:
                for args in (("BITCOUNT", key, low, high, "BIT"), ("BITPOS", key, bit, low + 1, high, "BIT")):
                    assert ours.ask(*args) == redis.ask(*args), args
            for args in (("BITCOUNT", key, low // 8, -1), ("BITPOS", key, bit, low // 8 + 1), ("BITPOS", key, bit, -1)):
                assert ours.ask(*args) == redis.ask(*args), args


def test_bits_are_counted_and_found_without_a_copy_of_the_string() -> None:
    ours = Ours()
    ours.ask("SETRANGE", "b", 8 << 20, "a")
    tracemalloc.start()
    try:
        assert [decode(ours.ask(*args)) for args in (("BITCOUNT", "b"), ("BITPOS", "b", 1))] == [3, (64 << 20) + 1]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_read_of_a_bitfield_takes_no_more_room_than_it_has() -> None:
    ours = Ours()
    ours.ask("SETBIT", "b", 7, 1)
    tracemalloc.start()
    try:
        assert decode(ours.ask("BITFIELD", "b", "GET", "u8", 0, "GET", "u8", 4294967288)) == [1, 0]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_list_that_is_not_to_be_sorted_is_turned_round_where_asked_for(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        RPUSH l 3 1 2 5; SORT l BY nosort; SORT l BY nosort DESC; SORT l BY nosort DESC LIMIT 1 2 GET #
        SORT l BY nosort DESC LIMIT 9 2; SORT l BY nosort LIMIT 2 -1 DESC; SORT l BY nosort DESC STORE d; LRANGE d 0 -1
        ZADD z 1 a 2 b 3 c; SORT z BY nosort DESC LIMIT 1 1; SORT z BY nosort LIMIT 1 1; SADD s a; SORT s BY nosort DESC
        """,
    )


def test_a_list_of_one_that_is_moved_onto_itself_is_still_the_same(redis: Wire) -> None:
    compare_lines(
        redis,
        """
        RPUSH l a; PEXPIREAT l 99999999999999; LMOVE l l LEFT RIGHT; PEXPIRETIME l; RPOPLPUSH l l; PEXPIRETIME l
        BLMOVE l l LEFT LEFT 0; PEXPIRETIME l; BRPOPLPUSH l l 0; PEXPIRETIME l; LRANGE l 0 -1; LMOVE l m LEFT LEFT
        EXISTS l
        RPUSH l 1 2 3; LMOVE l l LEFT LEFT; LMOVE l l RIGHT RIGHT; LMOVE l l RIGHT LEFT; LRANGE l 0 -1
        """,
    )


def test_a_hyperloglog_of_one_is_one_of_the_other(redis: Wire) -> None:
    redis.ask("FLUSHALL")
    ours = Ours()
    for many in (3, 300, 20_000):
        elements = [f"{many}:{at}" for at in range(many)]
        for server in (redis, ours):
            server.ask("PFADD", "h", *elements)
        counted = redis.ask("PFCOUNT", "h")
        assert ours.ask("PFCOUNT", "h") == counted
        theirs, mine = decode(redis.ask("GET", "h")), decode(ours.ask("GET", "h"))
        redis.ask("SET", "mine", mine)
        ours.ask("SET", "theirs", theirs)
        assert redis.ask("PFCOUNT", "mine") == ours.ask("PFCOUNT", "theirs") == counted


EVENTS = """
    SET n 5; INCR n; DECR n; DECRBY n 2; INCRBY n 2; SETBIT b 7 1; SETBIT b 7 1; SETBIT b 7 0; SETBIT b 6 0;
    SETBIT b 70 0; SETBIT c 0 0; BITFIELD b SET u8 0 0; BITFIELD b SET u8 0 1 SET u8 0 1; BITFIELD b SET u8 800 0;
    BITFIELD b INCRBY u8 0 0; BITFIELD b OVERFLOW FAIL INCRBY u8 0 500; RPUSH l a b;
    LMOVE l m LEFT RIGHT; RPOPLPUSH l m; RPOPLPUSH m m; LPOP m 2
"""


def test_events_are_those_of_redis(redis: Wire) -> None:
    ours = Ours()
    for server in (redis, ours):
        for line in ("RESET", "FLUSHALL", "HELLO 3", "CONFIG SET notify-keyspace-events KEA", "PSUBSCRIBE __key*"):
            server.ask(*line.split())
    for line in EVENTS.split(";"):
        redis.send(*line.split())
        redis.send("ECHO", "end")
        theirs = []
        while (reply := redis.reply()) != b"$3\r\nend\r\n":
            theirs.append(decode(reply))
        mine = decode_all(ours.ask(*line.split()))
        told = [
            [each for each in heard if isinstance(each, list) and each[:1] == [b"pmessage"]] for heard in (mine, theirs)
        ]
        assert told[0] == told[1], line
    redis.ask("RESET")
    redis.ask("CONFIG", "SET", "notify-keyspace-events", "")


CALLS = """
    GET k; SET k v; SET k v GET; MSET k v l w; MSETNX k v; DEL k l; RENAME k l; COPY k l; SUNIONSTORE t k l;
    ZADD k 1 m; ZUNIONSTORE t 2 k l; SINTERCARD 2 k l; LMOVE k l LEFT LEFT; BLPOP k l 0; BITOP AND t k l;
    BITFIELD k GET u8 0; SMOVE k l m; BITFIELD k SET u8 0 1; EVAL x 2 k l; EVAL_RO x 1 k; SORT k;
    SORT k STORE t; GEORADIUS k 0 0 1 m STORE t; XREAD STREAMS k 0; XREADGROUP GROUP g c STREAMS k l 0 0;
    XGROUP CREATE k g $; OBJECT FREQ k; EXISTS k l; PFMERGE t k l; PFCOUNT k; RESTORE k 0 x; HSET k f v;
    HDEL k f; INCR k; EXPIRE k 1; SPUBLISH c m; WATCH k l; ZRANGESTORE t k 0 1; GETDEL k; LPUSH k v; PING;
    NOSUCH k; GET; ZUNIONSTORE t 9 k; MIGRATE h 1 k 0 1; FCALL f 1 k; SETNX k v; GETEX k; SINTERSTORE t k l
"""


def test_keys_and_what_commands_do_with_them(redis: Wire) -> None:
    ours = Ours()
    for call in CALLS.split(";"):
        args = ("COMMAND", "GETKEYSANDFLAGS", *call.split())
        theirs, mine = redis.ask(*args), ours.ask(*args)
        assert mine == theirs or mine[:1] == theirs[:1] == b"-", call


def test_what_cannot_be_in_a_transaction_and_what_waits_for_nothing_there(redis: Wire) -> None:
    ours = Ours()
    waits = ("BLMOVE a b LEFT RIGHT 0", "BRPOPLPUSH a b 0", "BLPOP a 0", "BZPOPMIN z 0", "XREAD BLOCK 0 STREAMS s $")
    for hello in ("HELLO 2", "HELLO 3"):
        for command in ("FLUSHALL", hello, "MULTI", "MONITOR", *waits, "EXEC", "PING"):
            theirs = redis.ask(*command.split())
            if command != hello:
                assert ours.ask(*command.split()) == theirs, command
            else:
                ours.ask(*command.split())
    redis.ask("HELLO", "2")


@pytest.mark.parametrize(
    "command", ["BGSAVE now", "SHUTDOWN SAVE NOSAVE", "SHUTDOWN later", "SHUTDOWN ABORT", "SHUTDOWN ABORT NOW"]
)
def test_what_is_not_done_is_refused_in_the_same_words(redis: Wire, command: str) -> None:
    ours = Ours()
    assert ours.ask(*command.split()) == redis.ask(*command.split())
    assert not ours.core.engine.requests and not ours.core.client.session.closing


def test_where_keys_are_is_told_as_redis_tells_it(redis: Wire) -> None:
    core = Core()
    ours = _specs(core("COMMAND"))
    theirs = _specs(decode(redis.ask("COMMAND")))
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert len([name for name in shared if ours[name]]) > 150
    assert ours[b"hexpire"], "what Redis 7.0 does not have is there, too"


def _specs(rows: Any) -> dict[bytes, list[Any]]:
    found: dict[bytes, list[Any]] = {}
    for row in rows:
        specs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in row[8]]
        found[row[0]] = [(set(each[b"flags"]), each[b"begin_search"], each[b"find_keys"]) for each in specs]
        found |= _specs(row[9])
    return found
