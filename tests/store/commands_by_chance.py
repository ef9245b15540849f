"""Random commands for comparing two servers, few keys so that they meet, all types mixed."""

from collections.abc import Callable
from random import Random

Word = bytes | str | int | float
Maker = Callable[[Random], tuple[Word, ...]]

NUMBERS = ("0", "1", "-1", "7", "10", "-5", "3.5", "1e3", "abc", "9223372036854775807", "")
PXAT = "PXAT 99999999999999"
MEMBERS = ("a", "b", "c", "d", "e", "f", "1", "2", "33", "-4", "5.5", b"\xff\x00", "long" * 30)


def key(r: Random) -> str:
    return r.choice(("k1", "k2", "k3", "k4", "k5"))


def member(r: Random) -> Word:
    return r.choice(MEMBERS)


def number(r: Random) -> str:
    return r.choice(NUMBERS)


def small(r: Random) -> int:
    return r.randrange(-6, 7)


def members(r: Random, most: int = 4) -> list[Word]:
    return [member(r) for _ in range(r.randrange(1, most + 1))]


def score(r: Random) -> Word:
    return r.choice((0, 1, 2, 3, -1, 1.5, 0.1, "inf", "-inf", 1e20, 3.25, "nan" if r.random() < 0.05 else 4))


def bound(r: Random) -> str:
    return r.choice(("-inf", "+inf", "(1", "1", "(2", "2", "0", "(-1", "3", "x"))


def lex(r: Random) -> str:
    return r.choice(("-", "+", "[a", "(a", "[c", "(c", "[z", "b"))


def some(r: Random, *options: str) -> list[Word]:
    """Each of the options by chance."""
    chosen: list[Word] = []
    for each in options:
        if r.random() < 0.3:
            chosen += each.split()
    return chosen


def keys(r: Random, most: int = 3) -> list[Word]:
    return [key(r) for _ in range(r.randrange(1, most + 1))]


def pairs(r: Random, first: Callable[[Random], Word], second: Callable[[Random], Word], most: int = 3) -> list[Word]:
    return [word for _ in range(r.randrange(1, most + 1)) for word in (first(r), second(r))]


def counted(r: Random) -> list[Word]:
    found = keys(r)
    return [len(found), *found]


def some_fields(r: Random) -> list[Word]:
    found = members(r)
    word = r.choice(("fields", "FIELD")) if r.random() < 0.1 else "FIELDS"
    return [word, len(found) - (r.random() < 0.05), *found]


def side(r: Random) -> str:
    return r.choice(("LEFT", "RIGHT"))


STRINGS: list[Maker] = [
    lambda r: ("SET", key(r), member(r)),
    lambda r: (
        "SET",
        key(r),
        number(r),
        *some(r, "NX", "XX", "GET", "KEEPTTL", "EXAT 99999999999", PXAT),
    ),
    lambda r: ("GET", key(r)),
    lambda r: ("GETSET", key(r), member(r)),
    lambda r: ("GETDEL", key(r)),
    lambda r: ("GETEX", key(r), *some(r, "PERSIST", "PXAT 99999999999000")),
    lambda r: ("SETNX", key(r), number(r)),
    lambda r: ("APPEND", key(r), member(r)),
    lambda r: ("STRLEN", key(r)),
    lambda r: ("SETRANGE", key(r), r.randrange(-1, 12), member(r)),
    lambda r: ("GETRANGE", key(r), small(r), small(r)),
    lambda r: ("SUBSTR", key(r), small(r), small(r)),
    lambda r: ("INCR", key(r)),
    lambda r: ("DECR", key(r)),
    lambda r: ("INCRBY", key(r), number(r)),
    lambda r: ("DECRBY", key(r), number(r)),
    lambda r: ("INCRBYFLOAT", key(r), number(r)),
    lambda r: ("MGET", *keys(r)),
    lambda r: ("MSET", *pairs(r, key, member)),
    lambda r: ("MSETNX", *pairs(r, key, member)),
    lambda r: ("LCS", key(r), key(r), *some(r, "LEN", "IDX", "MINMATCHLEN 2", "WITHMATCHLEN")),
]

KEYS: list[Maker] = [
    lambda r: ("DEL", *keys(r)),
    lambda r: ("UNLINK", *keys(r)),
    lambda r: ("EXISTS", *keys(r)),
    lambda r: ("TYPE", key(r)),
    lambda r: ("RENAME", key(r), key(r)),
    lambda r: ("RENAMENX", key(r), key(r)),
    lambda r: ("COPY", key(r), key(r), *some(r, "REPLACE", "DB 1")),
    lambda r: ("MOVE", key(r), r.choice((0, 1, 99))),
    lambda r: ("PEXPIREAT", key(r), 99999999999999 - r.randrange(5), *some(r, "NX", "XX", "GT", "LT")),
    lambda r: ("EXPIRE", key(r), r.choice((-1, 0)), *some(r, "GT")),
    lambda r: ("PEXPIRETIME", key(r)),
    lambda r: ("PERSIST", key(r)),
    lambda r: ("OBJECT", "REFCOUNT", "nothing"),
    lambda r: ("SORT", key(r), *some(r, "ALPHA", "DESC", "LIMIT 0 3", "GET #")),
    lambda r: ("SORT", key(r), "ALPHA", "STORE", key(r)),
    lambda r: ("DBSIZE",),
    lambda r: ("KEYS", r.choice(("*", "k?", "k[1-3]", "[^k]*", "x*"))),
    lambda r: ("SELECT", r.choice((0, 0, 0, 1))),
    lambda r: ("TOUCH", *keys(r)),
]

LISTS: list[Maker] = [
    lambda r: ("LPUSH", key(r), *members(r)),
    lambda r: ("RPUSH", key(r), *members(r)),
    lambda r: ("RPUSHX", key(r), *members(r)),
    lambda r: ("LPUSHX", key(r), *members(r)),
    lambda r: ("LPOP", key(r), *some(r, "2", "0")),
    lambda r: ("RPOP", key(r), *some(r, "3")),
    lambda r: ("LLEN", key(r)),
    lambda r: ("LRANGE", key(r), small(r), small(r)),
    lambda r: ("LINDEX", key(r), small(r)),
    lambda r: ("LSET", key(r), small(r), member(r)),
    lambda r: ("LINSERT", key(r), r.choice(("BEFORE", "AFTER", "BESIDE")), member(r), member(r)),
    lambda r: ("LREM", key(r), small(r), member(r)),
    lambda r: ("LTRIM", key(r), small(r), small(r)),
    lambda r: ("LPOS", key(r), member(r), *some(r, "RANK -1", "RANK 2", "COUNT 0", "COUNT 2", "MAXLEN 3")),
    lambda r: ("LMOVE", key(r), key(r), side(r), side(r)),
    lambda r: ("RPOPLPUSH", key(r), key(r)),
    lambda r: ("LMPOP", *counted(r), side(r), *some(r, "COUNT 2")),
]

BLOCKING: list[Maker] = [
    lambda r: ("BLPOP", key(r), key(r), "0.001"),
    lambda r: ("BRPOP", key(r), "0.001"),
    lambda r: ("BLMOVE", key(r), key(r), side(r), side(r), "0.001"),
    lambda r: ("BLMPOP", "0.001", *counted(r), side(r)),
    lambda r: ("BZPOPMIN", key(r), "0.001"),
    lambda r: ("RPUSH", key(r), *members(r)),
    lambda r: ("ZADD", key(r), *pairs(r, score, member)),
    lambda r: ("DEL", key(r)),
]

SETS: list[Maker] = [
    lambda r: ("SADD", key(r), *members(r)),
    lambda r: ("SREM", key(r), *members(r)),
    lambda r: ("SCARD", key(r)),
    lambda r: ("SISMEMBER", key(r), member(r)),
    lambda r: ("SMISMEMBER", key(r), *members(r)),
    lambda r: ("SMEMBERS", key(r)),
    lambda r: ("SMOVE", key(r), key(r), member(r)),
    lambda r: ("SINTER", *keys(r)),
    lambda r: ("SUNION", *keys(r)),
    lambda r: ("SDIFF", *keys(r)),
    lambda r: ("SINTERSTORE", key(r), *keys(r)),
    lambda r: ("SUNIONSTORE", key(r), *keys(r)),
    lambda r: ("SDIFFSTORE", key(r), *keys(r)),
    lambda r: ("SINTERCARD", *counted(r), *some(r, "LIMIT 1")),
]

HASHES: list[Maker] = [
    lambda r: ("HSET", key(r), *pairs(r, member, number)),
    lambda r: ("HSET", key(r), member(r)),
    lambda r: ("HMSET", key(r), *pairs(r, member, number)),
    lambda r: ("HSETNX", key(r), member(r), number(r)),
    lambda r: ("HGET", key(r), member(r)),
    lambda r: ("HMGET", key(r), *members(r)),
    lambda r: ("HGETALL", key(r)),
    lambda r: ("HKEYS", key(r)),
    lambda r: ("HVALS", key(r)),
    lambda r: ("HLEN", key(r)),
    lambda r: ("HSTRLEN", key(r), member(r)),
    lambda r: ("HEXISTS", key(r), member(r)),
    lambda r: ("HDEL", key(r), *members(r)),
    lambda r: ("HINCRBY", key(r), member(r), number(r)),
    lambda r: ("HINCRBYFLOAT", key(r), member(r), number(r)),
]

FIELD_ENDS: list[Maker] = [
    lambda r: (
        r.choice(("HPEXPIREAT", "HPEXPIREAT", "HEXPIREAT")),
        key(r),
        r.choice((4_100_000_000_000, 4_100_000_000_500, 4_200_000_000_001, 5_000_000_000, 1, 0, -1, 1 << 46, "x")),
        *r.choice(((), (), (), ("NX",), ("XX",), ("GT",), ("LT",), ("gt",), ("NO",))),
        *some_fields(r),
    ),
    lambda r: (r.choice(("HEXPIRE", "HPEXPIRE")), key(r), r.choice((0, 0, 0, -1, 1 << 62)), *some_fields(r)),
    lambda r: (r.choice(("HPEXPIRETIME", "HEXPIRETIME", "HPERSIST")), key(r), *some_fields(r)),
    lambda r: ("HTTL", key(r), "FIELDS", 1, "no such"),
    lambda r: ("RENAME", key(r), key(r)),
    lambda r: ("COPY", key(r), key(r), "REPLACE"),
    lambda r: ("SORT", key(r), "BY", "nosort", "GET", "*->a"),
    lambda r: ("OBJECT", "ENCODING", key(r)),
]

ZSETS: list[Maker] = [
    lambda r: ("ZADD", key(r), *some(r, "NX", "XX", "GT", "LT", "CH"), *pairs(r, score, member)),
    lambda r: ("ZADD", key(r), *some(r, "NX", "XX"), "INCR", score(r), member(r)),
    lambda r: ("ZADD", key(r), *pairs(r, score, member)),
    lambda r: ("ZINCRBY", key(r), score(r), member(r)),
    lambda r: ("ZREM", key(r), *members(r)),
    lambda r: ("ZCARD", key(r)),
    lambda r: ("ZSCORE", key(r), member(r)),
    lambda r: ("ZMSCORE", key(r), *members(r)),
    lambda r: ("ZRANK", key(r), member(r)),
    lambda r: ("ZREVRANK", key(r), member(r)),
    lambda r: ("ZRANGE", key(r), small(r), small(r), *some(r, "REV", "WITHSCORES")),
    lambda r: ("ZRANGE", key(r), bound(r), bound(r), "BYSCORE", *some(r, "REV", "LIMIT 1 2", "WITHSCORES")),
    lambda r: ("ZRANGEBYSCORE", key(r), bound(r), bound(r), *some(r, "WITHSCORES", "LIMIT 1 -1")),
    lambda r: ("ZREVRANGEBYSCORE", key(r), bound(r), bound(r), *some(r, "WITHSCORES", "LIMIT 0 2")),
    lambda r: ("ZREVRANGE", key(r), small(r), small(r), *some(r, "WITHSCORES")),
    lambda r: ("ZRANGESTORE", key(r), key(r), small(r), small(r), *some(r, "REV")),
    lambda r: ("ZCOUNT", key(r), bound(r), bound(r)),
    lambda r: ("ZREMRANGEBYRANK", key(r), small(r), small(r)),
    lambda r: ("ZREMRANGEBYSCORE", key(r), bound(r), bound(r)),
    lambda r: ("ZPOPMIN", key(r), *some(r, "2")),
    lambda r: ("ZPOPMAX", key(r), *some(r, "2")),
    lambda r: ("ZMPOP", *counted(r), r.choice(("MIN", "MAX")), *some(r, "COUNT 2")),
    lambda r: ("ZUNION", *counted(r), *some(r, "WITHSCORES", "AGGREGATE MAX")),
    lambda r: ("ZINTER", *counted(r), *some(r, "WITHSCORES", "AGGREGATE MIN")),
    lambda r: ("ZDIFF", *counted(r), *some(r, "WITHSCORES")),
    lambda r: ("ZUNIONSTORE", key(r), 2, key(r), key(r), *some(r, "WEIGHTS 2 3", "AGGREGATE SUM")),
    lambda r: ("ZINTERSTORE", key(r), 2, key(r), key(r), *some(r, "WEIGHTS 0.5 3")),
    lambda r: ("ZDIFFSTORE", key(r), *counted(r)),
    lambda r: ("ZINTERCARD", *counted(r), *some(r, "LIMIT 1")),
]

LEX: list[Maker] = [
    lambda r: ("ZADD", "lex", *pairs(r, lambda _: 0, lambda r: r.choice("abcdefg"))),
    lambda r: ("ZRANGEBYLEX", "lex", lex(r), lex(r), *some(r, "LIMIT 1 2")),
    lambda r: ("ZREVRANGEBYLEX", "lex", lex(r), lex(r)),
    lambda r: ("ZRANGE", "lex", lex(r), lex(r), "BYLEX", *some(r, "REV", "LIMIT 0 2")),
    lambda r: ("ZLEXCOUNT", "lex", lex(r), lex(r)),
    lambda r: ("ZREMRANGEBYLEX", "lex", lex(r), lex(r)),
]


def stream_id(r: Random) -> str:
    return r.choice(("-", "+", "0", "5", "7-1", "(5-1", "9-9", "12", "x"))


def plain_id(r: Random) -> str:
    return r.choice(("0", "1-1", "2-1", "3-1", "4-1", "5-1", "5-2", "6-0", "7-1", "8-1", "12-0", "0-0", "x"))


def field(r: Random) -> str:
    return r.choice(("u8", "i8", "u3", "i16", "u63", "i64", "i1", "u64", "x9"))


def place(r: Random) -> str:
    return r.choice(("0", "3", "7", "#1", "#2", "17", "-1"))


BITMAPS: list[Maker] = [
    lambda r: ("SETBIT", key(r), r.randrange(-1, 40), r.choice((0, 1, 1, 2))),
    lambda r: ("GETBIT", key(r), r.randrange(-1, 60)),
    lambda r: ("BITCOUNT", key(r)),
    lambda r: ("BITCOUNT", key(r), small(r), small(r), *some(r, "BIT")),
    lambda r: ("BITPOS", key(r), r.choice((0, 1))),
    lambda r: ("BITPOS", key(r), r.choice((0, 1, 2)), small(r)),
    lambda r: ("BITPOS", key(r), r.choice((0, 1)), small(r), small(r), *some(r, "BIT")),
    lambda r: ("BITOP", r.choice(("AND", "OR", "XOR", "NOT")), key(r), *keys(r)),
    lambda r: ("BITFIELD", key(r), "GET", field(r), place(r)),
    lambda r: ("BITFIELD", key(r), "SET", field(r), place(r), small(r) * 50, "GET", "u8", 0),
    lambda r: (
        *("BITFIELD", key(r), "OVERFLOW", r.choice(("WRAP", "SAT", "FAIL"))),
        *("INCRBY", field(r), place(r), r.choice((1, -1, 100, -100, 1 << 40))),
    ),
    lambda r: ("BITFIELD_RO", key(r), "GET", field(r), place(r)),
    lambda r: ("SET", key(r), member(r)),
    lambda r: ("GET", key(r)),
]


def lonlat(r: Random) -> list[Word]:
    return [round(r.uniform(-6, 6), 3), round(r.uniform(-6, 6), 3)] if r.random() < 0.95 else [181, 90]


def places(r: Random) -> str:
    """Keys of their own: what Redis makes of scores that are no places depends on the machine."""
    return r.choice(("g1", "g2", "g3"))


GEO: list[Maker] = [
    lambda r: ("GEOADD", places(r), *some(r, "NX", "CH"), *lonlat(r), member(r)),
    lambda r: ("GEOADD", places(r), *lonlat(r), member(r), *lonlat(r), member(r)),
    lambda r: ("GEODIST", places(r), member(r), member(r), *some(r, "km")),
    lambda r: ("GEOPOS", places(r), member(r), member(r)),
    lambda r: ("GEOHASH", places(r), member(r), member(r)),
    lambda r: (
        *("GEOSEARCH", places(r), "FROMLONLAT", *lonlat(r), "BYRADIUS", 400, "km", "ASC"),
        *some(r, "WITHDIST", "WITHHASH", "WITHCOORD", "COUNT 2"),
    ),
    lambda r: ("GEOSEARCH", places(r), "FROMMEMBER", member(r), "BYBOX", 500, 900, "km", "DESC"),
    lambda r: ("GEOSEARCHSTORE", places(r), places(r), "FROMLONLAT", 0, 0, "BYRADIUS", 500, "mi", "ASC"),
    lambda r: ("GEORADIUS", places(r), *lonlat(r), 500, "km", "ASC", *some(r, "WITHDIST")),
    lambda r: ("GEORADIUSBYMEMBER", places(r), member(r), 500, "km", "ASC", *some(r, "COUNT 2")),
    lambda r: ("DEL", places(r)) if r.random() < 0.1 else ("ZCARD", places(r)),
]

COUNTS: list[Maker] = [
    lambda r: ("PFADD", key(r), *(r.randrange(5000) for _ in range(r.randrange(60)))),
    lambda r: ("PFADD", key(r), *members(r)),
    lambda r: ("PFCOUNT", *keys(r)),
    lambda r: ("PFMERGE", key(r), *keys(r)),
]

STREAMS: list[Maker] = [
    lambda r: ("XADD", key(r), *some(r, "NOMKSTREAM", "MAXLEN 4"), f"{r.randrange(30)}-*", member(r), member(r)),
    lambda r: ("XADD", key(r), *some(r, "MINID 3"), f"{r.randrange(60)}-{r.randrange(3)}", member(r), member(r)),
    lambda r: ("XADD", key(r), plain_id(r), *members(r)),
    lambda r: ("XLEN", key(r)),
    lambda r: ("XRANGE", key(r), stream_id(r), stream_id(r), *some(r, "COUNT 2")),
    lambda r: ("XREVRANGE", key(r), stream_id(r), stream_id(r), *some(r, "COUNT 3")),
    lambda r: ("XDEL", key(r), plain_id(r), plain_id(r)),
    lambda r: ("XTRIM", key(r), r.choice(("MAXLEN", "MINID")), *some(r, "="), r.randrange(1, 7)),
    lambda r: ("XREAD", *some(r, "COUNT 2"), "STREAMS", key(r), key(r), plain_id(r), plain_id(r)),
    lambda r: ("XGROUP", "CREATE", key(r), r.choice("gh"), r.choice(("0", "$", "3-1")), *some(r, "MKSTREAM")),
    lambda r: ("XGROUP", "CREATE", key(r), "g", "0", "MKSTREAM"),
    lambda r: ("XGROUP", "SETID", key(r), "g", r.choice(("0", "$", "3-1")), *some(r, "ENTRIESREAD 2")),
    lambda r: ("XGROUP", "CREATECONSUMER", key(r), "g", r.choice("uv")),
    lambda r: ("XGROUP", "DELCONSUMER", key(r), "g", r.choice("uv")) if r.random() < 0.3 else ("PING",),
    lambda r: ("XGROUP", "DESTROY", key(r), "h"),
    lambda r: ("XREADGROUP", "GROUP", "g", r.choice("uv"), "COUNT", 2, *some(r, "NOACK"), "STREAMS", key(r), ">"),
    lambda r: ("XREADGROUP", "GROUP", "g", r.choice("uv"), "STREAMS", key(r), ">"),
    lambda r: ("XREADGROUP", "GROUP", "g", r.choice("uv"), "STREAMS", key(r), r.choice(("0", "5"))),
    lambda r: ("XACK", key(r), "g", plain_id(r), plain_id(r)),
    lambda r: ("XPENDING", key(r), "g"),
    lambda r: ("XCLAIM", key(r), "g", r.choice("uv"), 0, plain_id(r), plain_id(r), *some(r, "FORCE", "JUSTID")),
    lambda r: ("XAUTOCLAIM", key(r), "g", r.choice("uv"), 0, r.choice(("0", "5-1")), *some(r, "COUNT 1", "JUSTID")),
    lambda r: ("XINFO", "GROUPS", key(r)),
    lambda r: ("XSETID", key(r), plain_id(r)) if r.random() < 0.2 else ("XLEN", key(r)),
    lambda r: ("DEL", key(r)) if r.random() < 0.1 else ("XLEN", key(r)),
]

TRANSACTIONS: list[Maker] = [
    lambda r: ("MULTI",),
    lambda r: ("EXEC",),
    lambda r: ("EXEC",),
    lambda r: ("DISCARD",),
    lambda r: ("WATCH", *keys(r)),
    lambda r: ("UNWATCH",),
]

ODD: list[Maker] = [
    lambda r: ("NOSUCHCOMMAND", *members(r)),
    lambda r: ("GET",),
    lambda r: ("SET", key(r)),
    lambda r: ("ECHO", member(r)),
    lambda r: ("PING",),
    lambda r: ("OBJECT", "NOSUCH", key(r)),
    lambda r: ("CONFIG", "GET", "maxmemory-policy"),
    lambda r: ("PUBLISH", "channel", member(r)),
    lambda r: ("FLUSHDB",) if r.random() < 0.1 else ("PING", "x"),
]

GROUPS: dict[str, list[Maker]] = {
    "strings": STRINGS,
    "lists": LISTS,
    "blocking": BLOCKING,
    "sets": SETS,
    "hashes": HASHES,
    "zsets": ZSETS,
    "lex": LEX,
    "streams": STREAMS,
    "bitmaps": BITMAPS,
    "geo": GEO,
    "counts": COUNTS,
    "keys": KEYS,
    "transactions": TRANSACTIONS,
    "odd": ODD,
}

LATER: dict[str, list[Maker]] = {"field ends": FIELD_ENDS}
"""What Redis has since 7.4."""

UNORDERED = frozenset(("SMEMBERS", "SINTER", "SUNION", "SDIFF", "KEYS", "HGETALL", "HKEYS", "HVALS"))
"""Replies whose order is nobody's business."""


def commands(seed: int, count: int, groups: tuple[str, ...]) -> list[tuple[Word, ...]]:
    """So many commands, drawn evenly from the groups, with some keys' types mixed on purpose."""
    r = Random(seed)
    makers = [maker for group in groups for maker in (GROUPS | LATER)[group]]
    return [r.choice(makers)(r) for _ in range(count)]
