"""Snapshots as Redis writes them (RDB, versions 1 to 12), read into a keyspace.

Redis puts one before an append-only file (`appendonly.aof.1.base.rdb`). The structure is checked; the CRC-64 at the end
is not, because Python would take longer for it than for everything else.
"""

import math
import mmap
import struct
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from titan_objects.store.keyspace import Database
from titan_objects.store.parser import Damaged
from titan_objects.store.rdb_packed import intset, listpack, lzf, ziplist
from titan_objects.store.resp import CommandError
from titan_objects.store.streams import Consumer, ConsumerGroup, Id, Stream
from titan_objects.store.values import ExpiringHash, Members, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

Data = bytes | mmap.mmap

MAGIC = b"REDIS"
VERSION_MAX = 12

_AUX, _RESIZE, _EXPIRE_MS, _EXPIRE_S, _SELECT, _END = 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF
_IDLE, _FREQUENCY, _FUNCTION = 0xF8, 0xF9, 0xF5

_U64 = (1 << 64) - 1


Key = tuple[Database, bytes]

_BROKEN = (IndexError, KeyError, struct.error, ValueError, OverflowError)


def load(data: Data, engine: "Engine") -> int:
    """Reads a snapshot into an empty engine; returns the place behind it.

    Raises:
        Damaged: it is none, or not whole, or holds what is not known here.
    """
    reader = Reader(data)
    for _ in reader.keys(engine):
        pass
    return reader.at


def restored(data: bytes) -> Any:
    """A value from its type and body, as DUMP gives them. Raises Damaged."""
    reader = Reader(data[1:])
    try:
        value = reader.value(data[0])
        if reader.at != len(data) - 1:
            raise ValueError("bytes are left over")
        if not _is_kept(value):
            raise ValueError("it is empty")
    except _BROKEN as why:
        raise Damaged(0, f"it cannot be read: {why or type(why).__name__}") from None
    return value


def _is_kept(value: Any) -> bool:
    """Whether a key can have that value: no collection is empty, though old versions of Redis have written some."""
    return len(value) > 0 or type(value) in (bytes, Stream)


class Reader:
    """A place in a snapshot that moves on.

    Attributes:
        stream_db: the database in which the stream behind it goes on, where a server that follows another has sent it.
    """

    def __init__(self, data: Data) -> None:
        self._data = data
        self.at = 0
        self.stream_db = 0

    def keys(self, engine: "Engine") -> Iterator[Key]:
        """Reads a snapshot into an engine, and tells each key once it is there. Raises Damaged."""
        try:
            yield from self._keys(engine)
        except _BROKEN as why:
            at = min(self.at, len(self._data))
            raise Damaged(at, f"the snapshot cannot be read: {why or type(why).__name__}") from None

    def _keys(self, engine: "Engine") -> Iterator[Key]:
        version = self._data[5:9]
        if self._data[:5] != MAGIC or not version.isdigit() or not 1 <= int(version) <= VERSION_MAX:
            raise ValueError(f"version {version!r} is not known")
        self.at = 9
        db = engine.databases[0]
        expires: int | None = None
        while True:
            kind = self._byte()
            if kind == _END:
                self.at += 8 if int(version) >= 5 else 0
                if self.at > len(self._data):
                    raise ValueError("it has no end")
                return
            if kind == _SELECT:
                db = self._database(engine, self._length())
            elif kind == _AUX:
                name, text = self._string(), self._string()
                if name == b"repl-stream-db":
                    self.stream_db = self._database(engine, int(text)).index
            elif kind == _RESIZE:
                self._length()
                self._length()
            elif kind == _EXPIRE_MS:
                expires = struct.unpack("<q", self._take(8))[0]
            elif kind == _EXPIRE_S:
                expires = struct.unpack("<i", self._take(4))[0] * 1000
            elif kind == _IDLE:
                self._length()
            elif kind == _FREQUENCY:
                self._byte()
            elif kind == _FUNCTION:
                self._load_functions(engine)
            else:
                key = self._string()
                value, until, expires = self.value(kind), expires, None
                if not _is_kept(value):
                    continue
                db.take_in(key, value, until)
                if engine.meter is not None:
                    engine.meter.note(db, key)
                yield db, key

    def _database(self, engine: "Engine", index: int) -> Database:
        if not 0 <= index < len(engine.databases):
            raise ValueError(f"it has a database {index}; set databases to more")
        return engine.databases[index]

    def _load_functions(self, engine: "Engine") -> None:
        try:
            engine.functions.load(self._string(), replace=True)
        except CommandError as why:
            raise ValueError(f"a library of functions cannot be loaded: {why}") from None

    def functions(self) -> list[bytes]:
        """Sources of libraries up to the end of the data. Raises Damaged."""
        found = []
        try:
            while self.at < len(self._data):
                if self._byte() != _FUNCTION:
                    raise ValueError("it holds other things than functions")
                found.append(self._string())
        except _BROKEN as why:
            raise Damaged(self.at, f"no functions: {why or type(why).__name__}") from None
        return found

    # ---- bytes ---------------------------------------------------------------------------------------------------

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _take(self, size: int) -> bytes:
        found = self._data[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("it is cut short")
        self.at += size
        return found

    def _length(self) -> int:
        size, special = self._length_or_special()
        if special:
            raise ValueError("a length was expected")
        return size

    def _length_or_special(self) -> tuple[int, bool]:
        first = self._byte()
        match first >> 6:
            case 0:
                return first & 0x3F, False
            case 1:
                return (first & 0x3F) << 8 | self._byte(), False
            case 2:
                width = 8 if first == 0x81 else 4
                return int.from_bytes(self._take(width), "big"), False
        return first & 0x3F, True

    def _string(self) -> bytes:
        size, special = self._length_or_special()
        if not special:
            return self._take(size)
        if size in (0, 1, 2):
            return b"%d" % int.from_bytes(self._take(1 << size), "little", signed=True)
        if size == 3:
            packed, whole = self._length(), self._length()
            return lzf(self._take(packed), whole)
        raise ValueError(f"a string of the unknown kind {size}")

    def _text_double(self) -> float:
        size = self._byte()
        if size >= 253:
            return (float("nan"), float("inf"), float("-inf"))[size - 253]
        return float(self._take(size))

    # ---- values --------------------------------------------------------------------------------------------------

    def value(self, kind: int) -> Any:
        """The value of that type which stands here."""
        match kind:
            case 0:
                return self._string()
            case 1:
                return deque([self._string() for _ in range(self._length())])
            case 2:
                return Members([self._string() for _ in range(self._length())])
            case 3 | 5:
                return self._zset(binary=kind == 5)
            case 4:
                return {self._string(): self._string() for _ in range(self._length())}
            case 10:
                return deque(ziplist(self._string()))
            case 11:
                return Members(intset(self._string()))
            case 12:
                return _scored(ziplist(self._string()))
            case 13:
                return _paired(ziplist(self._string()))
            case 14:
                return deque([item for _ in range(self._length()) for item in ziplist(self._string())])
            case 16:
                return _paired(listpack(self._string()))
            case 17:
                return _scored(listpack(self._string()))
            case 18:
                return deque([item for _ in range(self._length()) for item in self._node()])
            case 20:
                return Members(listpack(self._string()))
            case 24:
                return self._expiring_hash()
            case 25:
                self._take(8)  # the earliest end, which is known
                return _ending(listpack(self._string()))
            case 15 | 19 | 21:
                return self._stream(kind)
        raise ValueError(f"a value of the unknown type {kind}")

    def _node(self) -> list[bytes]:
        plain = self._length() == 1
        data = self._string()
        return [data] if plain else listpack(data)

    def _zset(self, binary: bool) -> ZSet:
        values = ZSet()
        for _ in range(self._length()):
            member = self._string()
            values.put(member, _score(struct.unpack("<d", self._take(8))[0] if binary else self._text_double()))
        return values

    def _expiring_hash(self) -> ExpiringHash:
        """Each field with its end before it: 0 if it has none, else counted from the earliest, which is 1."""
        first = struct.unpack("<Q", self._take(8))[0]
        found = ExpiringHash()
        for _ in range(self._length()):
            end, field, value = self._length(), self._string(), self._string()
            found[field] = value
            if end:
                found.end_at(field, first + end - 1)
        return found

    def _id(self) -> Id:
        return (self._length(), self._length())

    def _raw_id(self) -> Id:
        ms, seq = struct.unpack(">QQ", self._take(16))
        return (ms, seq)

    def _stream(self, kind: int) -> Stream:
        values = Stream()
        for _ in range(self._length()):
            ms, seq = struct.unpack(">QQ", self._string())
            _add_entries(values, (ms, seq), listpack(self._string()))
        size = self._length()
        if size != len(values):
            raise ValueError(f"a stream of {size} entries has {len(values)}")
        last = self._id()
        if last < values.last:
            raise ValueError("a stream ends before its last entry")
        values.last = last
        values.added = size
        if kind >= 19:
            self._id()  # the first, which is known
            values.deleted = self._id()
            values.added = self._length()
        for _ in range(self._length()):
            name = self._string()
            group = ConsumerGroup(self._id(), None)
            if kind >= 19:
                read = self._length()
                group.read = None if read >= 1 << 63 else read
            values.groups[name] = group
            self._group_members(group, kind)
        return values

    def _group_members(self, group: ConsumerGroup, kind: int) -> None:
        given = {}
        for _ in range(self._length()):
            id = self._raw_id()
            given[id] = (struct.unpack("<q", self._take(8))[0], self._length())
        for _ in range(self._length()):
            consumer = Consumer(self._string(), struct.unpack("<q", self._take(8))[0])
            group.consumers[consumer.name] = consumer
            if kind == 21:
                self._take(8)
            for _ in range(self._length()):
                id = self._raw_id()
                since, count = given.get(id, (0, 0))
                group.give(id, consumer, since, count)


def _paired(items: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _ending(items: list[bytes]) -> ExpiringHash:
    found = ExpiringHash()
    for field, value, end in zip(items[::3], items[1::3], items[2::3], strict=True):
        found[field] = value
        if end != b"0":
            found.end_at(field, int(end))
    return found


def _scored(items: list[bytes]) -> ZSet:
    values = ZSet()
    for member, score in zip(items[::2], items[1::2], strict=True):
        values.put(member, _score(float(score)))
    return values


def _score(value: float) -> float:
    if math.isnan(value):
        raise ValueError("a score is no number")
    return value


def _add_entries(values: Stream, master: Id, items: list[bytes]) -> None:
    """The entries of one node of a stream: each shares the node's fields, or has its own."""
    count, deleted, width = int(items[0]), int(items[1]), int(items[2])
    shared = items[3 : 3 + width]
    at = 4 + width
    for _ in range(count + deleted):
        flags = int(items[at])
        # Distances are unsigned, and stand there as what has the same 64 bits.
        id = ((master[0] + int(items[at + 1])) & _U64, (master[1] + int(items[at + 2])) & _U64)
        at += 3
        if flags & 2:
            words = [word for pair in zip(shared, items[at : at + width], strict=True) for word in pair]
            at += width
        else:
            own = int(items[at])
            words = items[at + 1 : at + 1 + 2 * own]
            at += 1 + 2 * own
        at += 1
        if not flags & 1:
            if id <= values.last:
                raise ValueError("the entries of a stream are not in order")
            values.append(id, words)
