"""Snapshots as Redis 7.0 reads them (RDB version 10), key by key: for replicas, for export, and for DUMP.

Every type is written in its plain form, which any Redis since 7.0 takes (since 7.4, where fields of a hash end); a
packed form would only be smaller. A key comes in pieces that belong together: nothing may be written between them.
"""

import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from titan_objects.store.resp import CommandError
from titan_objects.store.streams import ConsumerGroup, Id, Stream, sorted_pending
from titan_objects.store.values import HASHES, STRINGS, ExpiringHash, Members, ZSet

VERSION = 10
"""A hash whose fields end may stand in it: Redis goes by the type, which it knows since 7.4 and refuses before."""
VERSION_WITH_ENDS = 12
"""That of Redis 7.4: what it is written for has to know fields that end, whether or not there are some just now."""

STRING, LIST, SET, HASH, ZSET, STREAM, EXPIRING_HASH = 0, 1, 2, 4, 5, 19, 24

END = b"\xff" + bytes(8)
"""The end, with no checksum: Redis looks for none then."""

PIECE = 1024
"""Elements of a value that are encoded at once."""

NODE_ENTRIES, NODE_BYTES = 100, 4096
"""What one node of a stream holds at most, as Redis has it."""


def header(version: int = VERSION, *, replicated: bool = False) -> bytes:
    """What stands before all keys. `replicated`: for a replica, whose stream begins in database 0."""
    auxiliary = {b"redis-ver": b"7.0.15", b"redis-bits": b"64"}
    if replicated:
        auxiliary |= {b"repl-stream-db": b"0"}
    return b"REDIS%04d" % version + b"".join(
        b"\xfa" + string(name) + string(value) for name, value in auxiliary.items()
    )


def select(db: int) -> bytes:
    """The keys that follow are in that database."""
    return b"\xfe" + length(db)


def function(source: bytes) -> bytes:
    """A library of functions."""
    return b"\xf5" + string(source)


def record(key: bytes, value: Any, expires: int | None) -> Iterator[bytes]:
    """A key in pieces. The value may change once the first is taken."""
    kind, pieces = body(value)
    until = b"" if expires is None else b"\xfc" + struct.pack("<q", expires)
    yield until + bytes((kind,)) + string(key) + next(pieces)
    yield from pieces


def body(value: Any) -> tuple[int, Iterator[bytes]]:
    """A value: its type, and its pieces."""
    if type(value) in STRINGS:
        return STRING, iter((string(value),))
    if type(value) is Stream:
        return STREAM, _stream(value.copy())
    if type(value) is deque:
        return LIST, _strings(len(value), list(value))
    if type(value) is Members:
        return SET, _strings(len(value), list(value.order))
    if type(value) is ExpiringHash and value.ends:
        return EXPIRING_HASH, _ending(value.copy())
    if type(value) in HASHES:
        return HASH, _strings(len(value), [word for pair in value.items() for word in pair])
    if type(value) is ZSet:
        return ZSET, _scored(list(value))
    raise TypeError(f"a snapshot cannot hold a {type(value).__name__}")


def length(size: int) -> bytes:
    """A length, in 1, 2, 5 or 9 bytes."""
    if size < 1 << 6:
        return bytes((size,))
    if size < 1 << 14:
        return struct.pack(">H", size | 0x4000)
    if size < 1 << 32:
        return b"\x80" + struct.pack(">I", size)
    return b"\x81" + struct.pack(">Q", size)


def string(value: Any) -> bytes:
    """A string with its length before it."""
    return b"%b%b" % (length(len(value)), value)


def _strings(count: int, words: list[bytes]) -> Iterator[bytes]:
    begin = length(count)
    for at in range(0, len(words), PIECE):
        yield begin + b"".join(map(string, words[at : at + PIECE]))
        begin = b""
    if begin:
        yield begin


def _ending(value: ExpiringHash) -> Iterator[bytes]:
    first = value.first or 0
    ends = value.ends.scores
    begin = struct.pack("<Q", first) + length(len(value))
    pairs = iter(value.items())
    while piece := list(islice(pairs, PIECE)):
        rows = [
            length(int(ends[field]) - first + 1 if field in ends else 0) + string(field) + string(text)
            for field, text in piece
        ]
        yield begin + b"".join(rows)
        begin = b""


def _scored(pairs: list[tuple[float, bytes]]) -> Iterator[bytes]:
    begin = length(len(pairs))
    for at in range(0, len(pairs), PIECE):
        yield begin + b"".join([string(member) + struct.pack("<d", score) for score, member in pairs[at : at + PIECE]])
        begin = b""
    if begin:
        yield begin


# ---- streams -----------------------------------------------------------------------------------------------------


def _stream(values: Stream) -> Iterator[bytes]:
    nodes = list(_nodes(values))
    yield length(len(nodes))
    for ids in nodes:
        yield _raw_id_string(ids[0]) + string(_node(values, ids))
    first = values.ids[0] if values.ids else (0, 0)
    yield length(len(values)) + _id(values.last) + _id(first) + _id(values.deleted) + length(values.added)
    yield length(len(values.groups))
    for name, group in values.groups.items():
        yield from _group(name, group)


def _nodes(values: Stream) -> Iterator[list[Id]]:
    ids: list[Id] = []
    size = 0
    for id in values.ids:
        bytes_of = sum(map(len, values.entries[id]))
        if ids and (len(ids) >= NODE_ENTRIES or size + bytes_of > NODE_BYTES):
            yield ids
            ids, size = [], 0
        ids.append(id)
        size += bytes_of
    if ids:
        yield ids


def _node(values: Stream, ids: list[Id]) -> bytes:
    """A listpack: the first entry's fields, and each entry by its distance from the first."""
    master = ids[0]
    shared = values.entries[master][::2]
    items: list[bytes | int] = [len(ids), 0, len(shared), *shared, 0]
    for id in ids:
        words = values.entries[id]
        same = words[::2] == shared
        own = words[1::2] if same else [len(words) // 2, *words]
        items += [2 if same else 0, id[0] - master[0], id[1] - master[1], *own, len(own) + 3]
    return listpack(items)


def _group(name: bytes, group: ConsumerGroup) -> Iterator[bytes]:
    read = (1 << 64) - 1 if group.read is None else group.read
    yield string(name) + _id(group.last) + length(read) + length(len(group.pending))
    pending = iter(sorted_pending(group))
    while ids := list(islice(pending, PIECE)):
        yield b"".join(
            [_raw_id(id) + struct.pack("<q", group.pending[id].since) + length(group.pending[id].count) for id in ids]
        )
    yield length(len(group.consumers))
    for consumer in group.consumers.values():
        yield string(consumer.name) + struct.pack("<q", consumer.seen) + length(len(consumer.pending))
        own = iter(sorted_pending(group, consumer))
        while ids := list(islice(own, PIECE)):
            yield b"".join(map(_raw_id, ids))


def _id(id: Id) -> bytes:
    return length(id[0]) + length(id[1])


def _raw_id(id: Id) -> bytes:
    return struct.pack(">QQ", *id)


def _raw_id_string(id: Id) -> bytes:
    return b"\x10" + _raw_id(id)


def listpack(items: list[bytes | int]) -> bytes:
    """Strings and numbers one after the other, as Redis packs small collections."""
    parts = [_packed(item) for item in items]
    data = b"".join(parts)
    return struct.pack("<IH", len(data) + 7, min(len(items), 65535)) + data + b"\xff"


def _packed(item: bytes | int) -> bytes:
    if isinstance(item, int):
        data = _packed_number(item)
    elif len(item) < 64:
        data = bytes((0x80 | len(item),)) + item
    elif len(item) < 4096:
        data = struct.pack(">H", 0xE000 | len(item)) + item
    else:
        data = b"\xf0" + struct.pack("<I", len(item)) + item
    # Its size once more, to be read backwards: seven bits a byte, the highest first, all but that one marked.
    size = len(data)
    width = 1 + (size > 127) + (size > 16382) + (size > 2097150) + (size > 268435454)
    marked = [size >> 7 * place & 127 | 128 for place in reversed(range(width))]
    return data + bytes((marked[0] & 127, *marked[1:]))


def _packed_number(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes((value,))
    if -(1 << 12) <= value < 1 << 12:
        return struct.pack(">H", 0xC000 | value & 0x1FFF)
    for code, size in ((0xF1, 2), (0xF2, 3), (0xF3, 4), (0xF4, 8)):
        if -(1 << (8 * size - 1)) <= value < 1 << (8 * size - 1):
            return bytes((code,)) + value.to_bytes(size, "little", signed=True)
    # Distances of ids are unsigned, and Redis adds them as such.
    return b"\xf4" + (value & (1 << 64) - 1).to_bytes(8, "little")


# ---- DUMP --------------------------------------------------------------------------------------------------------


def _table() -> list[int]:
    rows = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
        rows.append(crc)
    return rows


_CRC = _table()


def crc64(data: bytes, crc: int = 0) -> int:
    """The checksum of Redis: CRC-64 with Jones' polynomial, reflected."""
    table = _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc


def dump(value: Any) -> bytes:
    """A value as DUMP gives it."""
    kind, pieces = body(value)
    return sealed(bytes((kind,)) + b"".join(pieces))


def sealed(data: bytes) -> bytes:
    """What is dumped, the version, and the checksum of all that."""
    data += struct.pack("<H", VERSION)
    return data + struct.pack("<Q", crc64(data))


def undumped(data: bytes) -> bytes:
    """What `sealed` was given.

    Raises:
        CommandError: its version is not known here, or its checksum is another.
    """
    if (
        len(data) < 11
        or int.from_bytes(data[-10:-8], "little") > VERSION_WITH_ENDS
        or (crc64(data[:-8]) != int.from_bytes(data[-8:], "little"))
    ):
        raise CommandError(b"ERR DUMP payload version or checksum are wrong")
    return data[:-10]
