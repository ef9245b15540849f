"""The store: whatever a client sends after it was taken apart into words."""

import tempfile
from pathlib import Path

import msgspec

import titan_overlay as titan
from tests.fuzz.target import Drawn, story, target
from tests.store.core import Core
from titan_objects.store import rdb
from titan_objects.store.batches import MAGIC, encode
from titan_objects.store.group.listening import Listening
from titan_objects.store.group.messages import Done, Mark, News, Outcome, Published, Run, Wake
from titan_objects.store.parser import Damaged, Torn
from titan_objects.store.replaying import Replay
from titan_objects.store.resp import bulks

SCRIPTS = (
    (b"return cjson.encode(cjson.decode(ARGV[1]))", b'{"a": [1, 2.5, null, "x"]}'),
    (b"return cjson.encode(cjson.decode(ARGV[1]))", b'[+5, 0x10, -0.1e7, nan, "\\u00e9"]'),
    (b"return bit.tohex(bit.band(ARGV[1], bit.rol(ARGV[2], 3)))", b"12", b"0x7f"),
    (b"return cmsgpack.pack(cmsgpack.unpack(ARGV[1]))", msgspec.msgpack.encode({"a": [1, 2.5, None, "x"]})),
    (b"return {struct.size(ARGV[2]), struct.unpack(ARGV[1], ARGV[3])}", b"<i4!8dsBc0", b">HI3f", b"\1" * 32),
    (b"return struct.pack(ARGV[1], tonumber(ARGV[2]), ARGV[3])", b">I4s", b"7", b"x"),
)
COMMANDS = (
    b"SET k v EX 10", b"GET k", b"INCRBYFLOAT n 1.5", b"RPUSH l a b", b"LRANGE l 0 -1", b"ZADD z 1 a 0x1p1 b",
    b"ZRANGEBYSCORE z (1 +inf", b"HSET h f v", b"SADD s a b", b"SPOP s", b"XADD x * f v", b"XRANGE x - +", b"MULTI",
    b"EXEC", b"WATCH k", b"SUBSCRIBE c", b"CONFIG GET *", b"OBJECT ENCODING k", b"SCAN 0 MATCH * COUNT 5",
)  # fmt: skip


def _sessions() -> list[bytes]:
    scripted = [
        b"".join(bytes([len(word)]) + word for word in (b"EVAL", script, b"0", *values)) for script, *values in SCRIPTS
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


def _snapshots() -> list[bytes]:
    """An empty one, and one of a hash with one field that ends."""
    ending = b"\x18\x01h" + (2 * 10**12).to_bytes(8, "little") + b"\x01\x01\x01f\x01v"
    return [b"REDIS0011\xff" + bytes(8), b"REDIS0012" + ending + b"\xff" + bytes(8)]


@target(Damaged, seeds=_snapshots)
def rdb_snapshot(data: bytes) -> None:
    """A snapshot that another server left behind: it is read, or it is damaged."""
    rdb.load(data, Core().engine)


@target(seeds=lambda: [b"\0" + msgspec.msgpack.encode(OUTCOME), b"\1" + msgspec.msgpack.encode(OUTCOME.news)])
def store_news(data: bytes) -> None:
    """What a member says has happened in a store that a group keeps."""
    heard: list[News] = []
    listening = Listening(None, "store/x", heard.append, lambda: None, lambda: b"mark")  # type: ignore[arg-type]
    draw = Drawn(data)
    kind = (Run, Wake, Mark)[draw.below(3)].wire_type
    said = draw.rest()
    listening._hear(titan.Change(1, 1, 0.0, b"", kind, said, said), b"mark")
    assert all(each.published or each.touched for each in heard)


OUTCOME = Outcome([Done(b"+OK\r\n", 0, 1)], News([Published(b"channel", b"text")], [3]))
STAYING = {b"DEBUG", b"SHUTDOWN"}
"""They stop or delay the program by design, for those who may."""


def _increments() -> list[bytes]:
    """Two batches with room behind them, and what Redis writes."""
    words = bulks([b"SET", b"k", b"v"])
    whole = MAGIC + encode(words, len(MAGIC))
    whole += encode(words * 2, len(whole))
    return [whole + b"###\n##\n", whole + b"#TS:1\r\n" + words, b"#TS:1\r\n" + words + words[:9]]


@target(Damaged, Torn, seeds=_increments)
def store_log(data: bytes) -> None:
    """A file of a store's log that was written over in places: it is executed, torn or damaged."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        Replay(Path(file.name), Core().engine).run()
