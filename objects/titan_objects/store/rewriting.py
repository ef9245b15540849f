"""A rewrite of the log: the whole store as it was at one moment, written in slices while commands go on.

No process is forked. Before a command changes a key that has not been written yet, the key is written as it is
(`Rewrite.preserve`, which the engine calls); so the base shows one moment, and the increment that was begun then holds
everything since.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Protocol

from titan_objects.store import rdb_writing
from titan_objects.store.effects import encode, recreate
from titan_objects.store.engine import Engine
from titan_objects.store.keyspace import Database
from titan_objects.store.listing import Listing, contents
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
    """One database as it was: the very dicts, which FLUSHALL and SWAPDB leave as they are, and the keys to write."""

    __slots__ = ("data", "done", "expires", "index", "keys")

    def __init__(self, db: Database) -> None:
        self.index = db.index
        self.keys = Listing(db)
        self.data = self.keys.data
        self.expires = db.expires
        self.done = _Keys()


class Form(Protocol):
    """How a snapshot is written."""

    def function(self, source: bytes) -> bytes: ...
    def select(self, db: int) -> bytes: ...
    def key(self, key: bytes, value: Any, expires: int | None) -> Iterator[bytes]: ...


class Commands:
    """As commands that make the keys anew: the base of a log."""

    def function(self, source: bytes) -> bytes:
        """A library of functions."""
        return encode([[b"FUNCTION", b"LOAD", source]])

    def select(self, db: int) -> bytes:
        """Keys that follow are in that database."""
        return encode([[b"SELECT", b"%d" % db]])

    def key(self, key: bytes, value: Any, expires: int | None) -> Iterator[bytes]:
        """A key in pieces; its value may change once the first is taken."""
        if type(value) is bytes and expires is None:  # as most keys are
            yield bulks([b"SET", key, value])
            return
        batch: list[Args] = []
        for args in recreate(key, value, expires):
            batch.append(args)
            if len(batch) == 32:
                yield encode(batch)
                batch = []
        if batch:
            yield encode(batch)


class Records:
    """As records of a snapshot that Redis reads (RDB)."""

    function = staticmethod(rdb_writing.function)
    select = staticmethod(rdb_writing.select)
    key = staticmethod(rdb_writing.record)


class Rewrite:
    """Writes what is in an engine now, slice by slice.

    Args:
        write: takes encoded keys.
        form: how they are encoded.
        without: what is left out: `functions`, `data`.
    """

    def __init__(
        self,
        engine: Engine,
        write: Callable[[bytes], object],
        form: Form | None = None,
        without: frozenset[bytes] = frozenset(),
    ) -> None:
        self._write = write
        self._form = form or Commands()
        self._functions = [each.source for each in engine.functions.libraries.values() if b"functions" not in without]
        parts = [_Part(db) for db in engine.databases if db.data and b"data" not in without]
        self._parts = {id(contents(part.data)): part for part in parts}
        self._db = 0
        # Keys that were about to change, begun and not yet written: the pieces of a key must not be torn apart.
        self._begun: deque[tuple[int, Iterator[bytes]]] = deque()
        self._steps = self._run()

    def step(self) -> bool:
        """Writes a slice; False: all is written."""
        return next(self._steps, False)

    def clean_up(self) -> bool:
        """Forgets what was written, a little; False: all is forgotten. For when `preserve` is called no more."""
        return sum(part.done.shrink() for part in self._parts.values()) > 0

    def _run(self) -> Iterator[bool]:
        for source in self._functions:
            self._write(self._form.function(source))
        size = count = 0
        for index, pieces in self._keys():
            count += 1
            if index != self._db:
                self._db = index
                self._write(self._form.select(index))
            for piece in pieces:
                self._write(piece)
                size += len(piece)
                if size >= SLICE_BYTES:
                    size = count = 0
                    yield True
            if count >= SLICE_KEYS:
                size = count = 0
                yield True

    def _keys(self) -> Iterator[tuple[int, Iterator[bytes]]]:
        for part in self._parts.values():
            for key in part.keys:
                while self._begun:
                    yield self._begun.popleft()
                value = part.data.get(key)
                if part.done.add(key) and value is not None:  # it may have expired since
                    yield part.index, self._form.key(key, value, part.expires.get(key))
        while self._begun:
            yield self._begun.popleft()

    def preserve(self, db: Database, key: bytes) -> None:
        """Takes a key as it is, because it is about to change."""
        part = self._parts.get(id(contents(db.data)))
        if part is None or not part.done.add(key):
            return
        value = part.data.get(key)
        if value is not None:
            pieces = self._form.key(key, value, part.expires.get(key))
            first = next(pieces)
            self._begun.append((part.index, chain((first,), pieces)))
