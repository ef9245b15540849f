"""A rewrite of the log: the whole store as it was at one moment, written in slices while commands go on.

No process is forked. Before a command changes a key that has not been written yet, the key is written as it is
(`Rewrite.preserve`, which the engine calls); so the base shows one moment, and the increment that was begun then holds
everything since.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from titan_objects.store.effects import encode, recreate
from titan_objects.store.engine import Engine
from titan_objects.store.keyspace import Database
from titan_objects.store.resp import bulks
from titan_objects.store.table import Args

SLICE_BYTES = 1 << 17
"""Encoded bytes after which a slice ends: about two milliseconds' work."""

SLICE_KEYS = 500


class _Keys:
    """A set of very many keys that grows and goes piece by piece: a big one stalls everybody when it is moved."""

    PIECES = 1024

    def __init__(self) -> None:
        self._pieces: list[set[bytes]] = [set() for _ in range(self.PIECES)]

    def add(self, key: bytes) -> bool:
        """Whether it is new."""
        piece = self._pieces[hash(key) % self.PIECES]
        if key in piece:
            return False
        piece.add(key)
        return True

    def shrink(self) -> bool:
        """Forgets a piece; False: there is none left."""
        if self._pieces:
            self._pieces.pop()
        return bool(self._pieces)


class _Part:
    """One database as it was: the very dicts, which FLUSHALL and SWAPDB leave as they are."""

    __slots__ = ("data", "done", "expires", "index", "keys")

    def __init__(self, db: Database) -> None:
        self.index = db.index
        self.data: dict[bytes, Any] = db.data
        self.expires = db.expires
        self.keys = list(db.data)
        self.done = _Keys()


class Rewrite:
    """Writes what is in an engine now, slice by slice.

    Args:
        write: takes encoded commands.
    """

    def __init__(self, engine: Engine, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._parts = {id(db.data): _Part(db) for db in engine.databases if db.data}
        self._db = 0
        self._steps = self._run()

    def step(self) -> bool:
        """Writes a slice; False: all is written."""
        return next(self._steps, False)

    def clean_up(self) -> bool:
        """Forgets what was written, a little; False: all is forgotten. For when `preserve` is called no more."""
        return sum(part.done.shrink() for part in self._parts.values()) > 0

    def _run(self) -> Iterator[bool]:
        size = count = 0
        for part in self._parts.values():
            while part.keys:
                key = part.keys.pop()
                count += 1
                if part.done.add(key):
                    for piece in self._pieces(part, key):
                        self._write(piece)
                        size += len(piece)
                        if size >= SLICE_BYTES:
                            size = count = 0
                            yield True
                if count >= SLICE_KEYS:
                    size = count = 0
                    yield True

    def _pieces(self, part: _Part, key: bytes) -> Iterable[bytes]:
        value = part.data.get(key)
        if type(value) is bytes and key not in part.expires:  # as most keys are
            return (self._selected(part) + bulks([b"SET", key, value]),)
        return self._large_pieces(part, key, value)

    def _large_pieces(self, part: _Part, key: bytes, value: Any) -> Iterator[bytes]:
        if value is None:
            return  # it has expired since
        batch: list[Args] = []
        for args in recreate(key, value, part.expires.get(key)):
            # Another key may be written between two pieces of this one, from another database.
            batch.append(args)
            if len(batch) == 32:
                yield self._selected(part) + encode(batch)
                batch = []
        if batch:
            yield self._selected(part) + encode(batch)

    def _selected(self, part: _Part) -> bytes:
        if part.index == self._db:
            return b""
        self._db = part.index
        return encode([[b"SELECT", b"%d" % part.index]])

    def preserve(self, db: Database, key: bytes) -> None:
        """Writes a key now, because it is about to change."""
        part = self._parts.get(id(db.data))
        if part is None or not part.done.add(key):
            return
        for piece in self._pieces(part, key):
            self._write(piece)
