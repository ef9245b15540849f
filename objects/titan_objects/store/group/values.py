"""Values as snapshots keep them: in pieces, all that decides what later commands answer included, such as the order of
a set's members.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import msgspec

from titan_objects.store.streams import Consumer, ConsumerGroup, Id, Pending, Stream
from titan_objects.store.values import HASHES, ExpiringHash, Members, ZSet

T = TypeVar("T")

PIECE = 2048
"""Elements of a value that stand in one piece, at most."""
PIECE_BYTES = 64 << 10
"""After so many a piece ends, however few its elements."""


class Kind(IntEnum):
    """What a value is."""

    STRING = 0
    LIST = 1
    SET = 2
    HASH = 3
    ZSET = 4
    STREAM = 5
    EXPIRING_HASH = 6
    CHANGED_STRING = 7
    """Changed in place once: OBJECT ENCODING shows that."""


class _Changed(bytes):
    """A frozen string that was changed in place."""


class _Scores(dict[bytes, float]):
    """A frozen sorted set."""


class _Entries:
    """A frozen stream."""

    __slots__ = ("entries", "ids", "tail")

    def __init__(self, stream: Stream, tail: "_Tail") -> None:
        self.ids = list(stream.ids)
        self.entries = dict(stream.entries)  # what is in one does not change
        self.tail = tail


class _KeptPending(msgspec.Struct, frozen=True, array_like=True, gc=False):
    id: Id
    consumer: bytes
    since: int
    count: int


class _KeptGroup(msgspec.Struct, frozen=True, array_like=True):
    name: bytes
    last: Id
    read: int | None
    consumers: list[tuple[bytes, int]]
    pending: list[_KeptPending]


class _Tail(msgspec.Struct, frozen=True, array_like=True):
    """What a stream is beside its entries."""

    last: Id
    added: int
    deleted: Id
    groups: list[_KeptGroup]


class _StreamPiece(msgspec.Struct, frozen=True, array_like=True):
    entries: list[tuple[int, int, list[bytes]]]
    tail: _Tail | None = None
    """In the last piece."""


_encode = msgspec.msgpack.Encoder().encode
_list = msgspec.msgpack.Decoder(list[bytes])
_hash = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])
_expiring_hash = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, int]])
_zset = msgspec.msgpack.Decoder(list[tuple[bytes, float]])
_stream = msgspec.msgpack.Decoder(_StreamPiece)


def frozen(value: Any) -> Any:
    """A value as it is now, which stays so: a shallow copy where it could change."""
    if value is None or type(value) is bytes:
        return value
    if type(value) is bytearray:
        return _Changed(value)
    if type(value) is deque:
        return deque(value)
    if type(value) in HASHES:
        return value.copy()
    if type(value) is ZSet:
        return _Scores(value.scores)
    return _frozen_stream(value) if type(value) is Stream else list(value.order)


def _frozen_stream(value: Stream) -> _Entries:
    groups = [
        _KeptGroup(
            name,
            group.last,
            group.read,
            [(consumer.name, consumer.seen) for consumer in group.consumers.values()],
            [_KeptPending(id, each.consumer.name, each.since, each.count) for id, each in group.pending.items()],
        )
        for name, group in value.groups.items()
    ]
    return _Entries(value, _Tail(value.last, value.added, value.deleted, groups))


def pieces_of(value: Any) -> tuple[Kind, Iterator[bytes]]:
    """Kind and pieces of a frozen value."""
    if type(value) is bytes:
        return Kind.STRING, iter((value,))
    if type(value) is _Changed:
        return Kind.CHANGED_STRING, iter((bytes(value),))
    if type(value) is deque:
        return Kind.LIST, map(_encode, _split(value, len))
    if type(value) is dict:
        return Kind.HASH, map(_encode, _split(value.items(), _pair_bytes))
    if type(value) is ExpiringHash:
        triples = ((*pair, value.end_of(pair[0]) or 0) for pair in value.items())
        return Kind.EXPIRING_HASH, map(_encode, _split(triples, _pair_bytes))
    if type(value) is _Scores:
        return Kind.ZSET, map(_encode, _split(value.items(), _name_bytes))
    if type(value) is _Entries:
        return Kind.STREAM, _split_stream(value)
    return Kind.SET, map(_encode, _split(value, len))


def _split(elements: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """In pieces that end after `PIECE` elements, or `PIECE_BYTES`."""
    piece: list[T] = []
    room = PIECE_BYTES
    for element in elements:
        piece.append(element)
        room -= size_of(element)
        if room <= 0 or len(piece) == PIECE:
            yield piece
            piece, room = [], PIECE_BYTES
    if piece:
        yield piece


def _pair_bytes(pair: Sequence[Any]) -> int:
    return len(pair[0]) + len(pair[1])


def _name_bytes(pair: tuple[bytes, float]) -> int:
    return len(pair[0])


def _entry_bytes(entry: tuple[int, int, list[bytes]]) -> int:
    return sum(map(len, entry[2])) + 16 * len(entry[2])


def _split_stream(frozen: _Entries) -> Iterator[bytes]:
    entries = ((*id, frozen.entries[id]) for id in frozen.ids)
    before: list[tuple[int, int, list[bytes]]] | None = None
    for piece in _split(entries, _entry_bytes):
        if before is not None:
            yield _encode(_StreamPiece(before))
        before = piece
    yield _encode(_StreamPiece(before or [], frozen.tail))


def add_piece(value: Any, kind: Kind, data: bytes) -> Any:
    """A value with one more piece; None: it begins. ValueError: this is none."""
    if kind is Kind.STRING:
        return data
    if kind is Kind.CHANGED_STRING:
        return bytearray(data)
    if kind is Kind.LIST:
        made = deque() if value is None else value
        made.extend(_list.decode(data))
    elif kind is Kind.SET:
        made = Members() if value is None else value
        for member in _list.decode(data):
            made.add(member)
    elif kind is Kind.HASH:
        made = {} if value is None else value
        made.update(_hash.decode(data))
    elif kind is Kind.EXPIRING_HASH:
        made = ExpiringHash() if value is None else value
        for field, text, end in _expiring_hash.decode(data):
            made[field] = text
            if end:
                made.end_at(field, end)
    elif kind is Kind.ZSET:
        made = ZSet() if value is None else value
        for member, score in _zset.decode(data):
            made.put(member, score)
    else:
        made = Stream() if value is None else value
        _extend(made, _stream.decode(data))
    return made


def _extend(stream: Stream, piece: _StreamPiece) -> None:
    for ms, number, fields in piece.entries:
        stream.append((ms, number), fields)
    if piece.tail is None:
        return
    stream.last, stream.added, stream.deleted = piece.tail.last, piece.tail.added, piece.tail.deleted
    for kept in piece.tail.groups:
        group = stream.groups[kept.name] = ConsumerGroup(kept.last, kept.read)
        for name, seen in kept.consumers:
            group.consumers[name] = Consumer(name, seen)
        for each in kept.pending:
            consumer = group.consumers[each.consumer]
            group.pending[each.id] = Pending(consumer, each.since, each.count)
            consumer.pending[each.id] = None
