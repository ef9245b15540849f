"""Digests of data as `DEBUG DIGEST` of Redis has them: two stores with the same data have the same digest.

What has an order is mixed into a digest (added, and the sum hashed again); what has none is added alone.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Any

from titan_objects.store.keyspace import Database
from titan_objects.store.streams import Stream
from titan_objects.store.values import HASHES, STRINGS, ZSet, type_name

_TYPES = {b"string": 0, b"list": 1, b"set": 2, b"zset": 3, b"hash": 4, b"stream": 6}


class Digest:
    """20 bytes, at first 0."""

    def __init__(self) -> None:
        self.value = bytes(20)

    def add(self, data: Any) -> None:
        """Adds the hash of some bytes."""
        hashed = hashlib.sha1(data, usedforsecurity=False).digest()
        self.value = bytes(map(int.__xor__, self.value, hashed))

    def mix(self, data: Any) -> None:
        """Adds bytes whose place counts."""
        self.add(data)
        self.value = hashlib.sha1(self.value, usedforsecurity=False).digest()

    def mix_value(self, value: Any, *, expires: bool) -> None:
        """A value, and whether its key ends; not when."""
        self.mix(_TYPES[type_name(value)].to_bytes(4, "big"))
        if type(value) in STRINGS:
            self.mix(value)
        elif type(value) is deque:
            self._mix_all(value)
        elif type(value) in HASHES:
            self._add_mixed(value.items())
        elif type(value) is ZSet:
            self._add_mixed((member, b"%.17g" % score) for member, score in value.scores.items())
        elif type(value) is Stream:
            for id in value.ids:
                self.mix(b"%d.%d" % id)
                self._mix_all(value.entries[id])
        else:
            for member in value:
                self.add(member)
        if expires:
            self.add(b"!!expire!!")

    def _mix_all(self, words: Iterable[Any]) -> None:
        for word in words:
            self.mix(word)

    def _add_mixed(self, rows: Iterable[Iterable[Any]]) -> None:
        for row in rows:
            each = Digest()
            each._mix_all(row)
            self.add(each.value)


def of_value(db: Database, key: bytes) -> str:
    """In hexadecimal; of a key that is not there, 0."""
    digest = Digest()
    value = db.get(key)
    if value is not None:
        digest.mix_value(value, expires=key in db.expires)
    return digest.value.hex()


def of_all(databases: Iterable[Database]) -> str:
    """Of all keys with their values, in hexadecimal."""
    whole = Digest()
    for db in databases:
        keys = db.live_keys()
        if keys:
            whole.mix(db.index.to_bytes(4, "big"))
        for key in keys:
            each = Digest()
            each.mix(key)
            each.mix_value(db.data[key], expires=key in db.expires)
            whole.add(each.value)
    return whole.value.hex()
