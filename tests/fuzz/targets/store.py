"""The store: whatever a client sends after it was taken apart into words."""

import msgspec

from tests.fuzz.target import Drawn, story, target
from tests.store.core import Core
from titan_objects.store import rdb
from titan_objects.store.parser import Damaged

SCRIPTS = (
    b"return cjson.encode(cjson.decode(ARGV[1]))",
    b"return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))",
)
VALUES = (b'{"a": [1, 2.5, null, "x"]}', msgspec.msgpack.encode({"a": [1, 2.5, None, "x"]}))
COMMANDS = (
    b"SET k v EX 10", b"GET k", b"INCRBYFLOAT n 1.5", b"RPUSH l a b", b"LRANGE l 0 -1", b"ZADD z 1 a 2 b",
    b"ZRANGEBYSCORE z (1 +inf", b"HSET h f v", b"SADD s a b", b"SPOP s", b"XADD x * f v", b"XRANGE x - +", b"MULTI",
    b"EXEC", b"WATCH k", b"SUBSCRIBE c", b"CONFIG GET *", b"OBJECT ENCODING k", b"SCAN 0 MATCH * COUNT 5",
)  # fmt: skip


def _sessions() -> list[bytes]:
    scripted = [
        b"".join(bytes([len(word)]) + word for word in (b"EVAL", script, b"0", value))
        for script, value in zip(SCRIPTS, VALUES, strict=True)
    ]
    plain = [b"".join(bytes([len(word)]) + word for word in line.split()) for line in COMMANDS]
    return [story(*plain), story(*scripted)]


@target(seeds=_sessions, limit=1024)
def store_commands(data: bytes) -> None:
    """Commands of one client, each a list of words: there is a reply to each, and nothing is raised."""
    core = Core()
    draw = Drawn(data)
    while draw.more():
        line, words = draw.piece(), []
        while line:
            size = line[0]
            words.append(line[1 : 1 + size])
            line = line[1 + size :]
        if words and words[0].upper() not in STAYING:
            core(*words)
        core.pass_time(5)


@target(Damaged, seeds=lambda: [b"REDIS0011\xff" + bytes(8)])
def rdb_snapshot(data: bytes) -> None:
    """A snapshot that another server left behind: it is read, or it is damaged."""
    rdb.load(data, Core().engine)


STAYING = {b"DEBUG", b"SHUTDOWN"}
"""They stop or delay the program by design, for those who may."""
