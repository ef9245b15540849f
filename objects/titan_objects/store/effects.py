"""Commands as a log keeps them: their encoding, and those that make a value anew."""

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby
from typing import Any

from titan_objects.store.resp import bulks, number
from titan_objects.store.streams import ConsumerGroup, Id, Stream, shown, sorted_pending
from titan_objects.store.table import Args
from titan_objects.store.values import HASHES, STRINGS, ExpiringHash, Members, ZSet

PIECE = 64
"""How many elements one command of a rewritten log adds, as in Redis."""


def encode(effects: Iterable[Args]) -> bytes:
    """Commands in RESP, one after the other."""
    return b"".join([bulks(args) for args in effects])


def recreate(key: bytes, value: Any, expires: int | None) -> Iterator[Args]:
    """Commands that make a key in an empty store. The value may change once the first is taken."""
    if type(value) in STRINGS:
        if expires is None:
            yield [b"SET", key, bytes(value)]
        else:
            yield [b"SET", key, bytes(value), b"PXAT", b"%d" % expires]
        return
    if type(value) is Stream:
        yield from _recreate_stream(key, value)
        if expires is not None:
            yield [b"PEXPIREAT", key, b"%d" % expires]
        return
    name, words, width = _elements(value)
    ends = list(_ends(key, value)) if type(value) is ExpiringHash else ()
    step = PIECE * width
    for at in range(0, len(words), step):
        yield [name, key, *words[at : at + step]]
    yield from ends
    if expires is not None:
        yield [b"PEXPIREAT", key, b"%d" % expires]


def _recreate_stream(key: bytes, value: Stream) -> Iterator[Args]:
    value = value.copy()
    # What is pending can be claimed only while it is there: what was deleted since is deleted again.
    gone = sorted({id for group in value.groups.values() for id in group.pending} - value.entries.keys())
    for id in merge(value.ids, gone):
        yield [b"XADD", key, shown(id), *value.entries.get(id, (b"x", b"y"))]
    if not value.ids and not gone:
        # An empty stream is made by an entry that is trimmed at once.
        yield [b"XADD", key, b"MAXLEN", b"=", b"0", shown(max(value.last, (0, 1))), b"x", b"y"]
    for name, group in value.groups.items():
        read = b"%d" % (-1 if group.read is None else group.read)
        yield [b"XGROUP", b"CREATE", key, name, shown(group.last), b"ENTRIESREAD", read]
        for consumer in group.consumers.values():
            yield [b"XGROUP", b"CREATECONSUMER", key, name, consumer.name]
        for id in sorted_pending(group):
            yield claim(key, name, group, id)
    for at in range(0, len(gone), PIECE):
        yield [b"XDEL", key, *map(shown, gone[at : at + PIECE])]
    counts = [b"ENTRIESADDED", b"%d" % value.added, b"MAXDELETEDID", shown(value.deleted)]
    yield [b"XSETID", key, shown(value.last), *counts]


def claim(key: bytes, name: bytes, group: ConsumerGroup, id: Id) -> Args:
    """The command that makes a pending entry what it is."""
    found = group.pending[id]
    return [
        b"XCLAIM", key, name, found.consumer.name, b"0", shown(id), b"TIME", b"%d" % found.since,
        b"RETRYCOUNT", b"%d" % found.count, b"FORCE", b"JUSTID", b"LASTID", shown(group.last),
    ]  # fmt: skip


def _ends(key: bytes, value: ExpiringHash) -> Iterator[Args]:
    for at, pairs in groupby(value.ends, lambda pair: pair[0]):
        fields = [field for _, field in pairs]
        for start in range(0, len(fields), PIECE):
            yield end_fields(key, int(at), fields[start : start + PIECE])


def end_fields(key: bytes, at: int, fields: list[bytes]) -> Args:
    """The command by which fields of a hash end at a moment; Redis has it since 7.4."""
    return [b"HPEXPIREAT", key, b"%d" % at, b"FIELDS", b"%d" % len(fields), *fields]


def _elements(value: Any) -> tuple[bytes, list[bytes], int]:
    """The command that adds elements, its words, and how many words an element has."""
    if type(value) is deque:
        return b"RPUSH", list(value), 1
    if type(value) is Members:
        return b"SADD", list(value.order), 1
    if type(value) in HASHES:
        return b"HMSET", [word for pair in value.items() for word in pair], 2
    if type(value) is ZSet:
        return b"ZADD", [word for score, member in value for word in (number(score), member)], 2
    raise TypeError(f"no command makes a {type(value).__name__}")
