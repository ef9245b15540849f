"""Snapshots of a store, in chunks of some 64 KiB, as its members keep and exchange them.

A walk goes through the keys in their order, while commands go on. Before a command changes a key, the engine says so
(`preserve`), and the walk puts aside what the key was: strings as they are, other values as a shallow copy. So the
chunks show one moment, and are the same bytes at all members, whatever happened to the store while they were made.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from titan_objects.store.group.agreed import AgreedEngine
from titan_objects.store.group.values import Kind, add_piece, frozen, pieces_of
from titan_objects.store.keyspace import Database

CHUNK_BYTES = 64 << 10
CHUNK_KEYS = 500


class KeptGuard(msgspec.Struct, frozen=True, array_like=True):
    """A guard, and the keys that it stands on, each with its database."""

    number: int
    fallen: bool
    awaited: bool
    places: list[tuple[int, bytes]]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """All but scripts and keys."""

    now: int
    settings: dict[str, str]
    guards: list[KeptGuard]
    last_guard: int
    last_parked: int
    scans: int
    alarm: float
    metered: bool


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key, or a piece of one that is large; pieces follow one another."""

    key: bytes
    kind: Kind
    value: bytes
    """Of what is no string: encoded, as the kind says."""
    expires: int | None = None
    used: tuple[int, int] | None = None
    """When it was used last, and how often, where memory is limited."""


class Scripts(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Sources of scripts."""

    sources: list[bytes]


class Keys(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Some keys of a database."""

    db: int
    records: list[Record]


class Drawn(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Part of the list from which keys are drawn that have to go."""

    places: list[tuple[int, bytes]]


class Ends(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Part of the keys that expire, in the order in which they are looked at."""

    db: int
    keys: list[bytes]


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_chunk = msgspec.msgpack.Decoder(Scripts | Keys | Drawn | Ends)

Aside = tuple[Any, int | None, tuple[int, int] | None]
"""What a key was: a value that will not change, its end, its use. The value of one that was not there is None."""


class Walk:
    """One walk through an engine, as it is when the walk is made.

    Args:
        alarm: when the store has asked to be woken.
    """

    def __init__(self, engine: AgreedEngine, alarm: float) -> None:
        self._engine = engine
        self._parts = [(db.index, db.data, db.expires, list(db.data)) for db in engine.databases if db.data]
        self._aside: dict[int, dict[bytes, Aside]] = {id(data): {} for _, data, _, _ in self._parts}
        meter = engine.meter
        self._used = meter.used if meter is not None else None
        self._drawn = meter.order() if meter is not None else []
        self._ends = [(index, list(ends)) for index, _, ends, _ in self._parts] if meter is not None else []
        self._sources = list(engine.scripts.sources.values())
        self._head = Head(
            engine.now,
            engine.settings(),
            [
                KeptGuard(each.id, each.doomed, each.awaited, sorted((db.index, key) for db, key in each.watched))
                for each in engine.guards.values()
            ],
            engine.last_guard,
            engine.last_parked,
            engine.agreed_scans.serial,
            alarm,
            meter is not None,
        )

    def preserve(self, db: Database, key: bytes) -> None:
        """This key is about to change."""
        aside = self._aside.get(id(db.data))
        if aside is not None and key not in aside:
            aside[key] = self._as_it_is(db.index, db.data, db.expires, key)

    def _as_it_is(self, index: int, data: dict[bytes, Any], expires: dict[bytes, int], key: bytes) -> Aside:
        use = self._used(self._engine.databases[index], key) if self._used is not None else None
        return frozen(data.get(key)), expires.get(key), use

    def chunks(self) -> Iterator[bytes]:
        """All of it. Whoever takes them lets the engine go on between two."""
        engine = self._engine
        engine.add_walk(self)
        try:
            yield encode(self._head)
            for source in self._sources:
                yield encode(Scripts([source]))
            for index, data, expires, keys in self._parts:
                yield from self._keys(index, data, expires, keys)
            for start in range(0, len(self._drawn), CHUNK_KEYS):
                places = self._drawn[start : start + CHUNK_KEYS]
                yield encode(Drawn([(db.index, key) for db, key in places]))
            for index, ends in self._ends:
                for start in range(0, len(ends), CHUNK_KEYS):
                    yield encode(Ends(index, ends[start : start + CHUNK_KEYS]))
        finally:
            engine.remove_walk(self)

    def _keys(
        self, index: int, data: dict[bytes, Any], expires: dict[bytes, int], keys: list[bytes]
    ) -> Iterator[bytes]:
        aside = self._aside[id(data)]
        records: list[Record] = []
        size = 0
        keys.reverse()
        while keys:
            key = keys.pop()
            kept = aside.get(key) if aside else None
            if kept is None and self._used is None:
                value = data[key]
                if type(value) is bytes:
                    records.append(Record(key, Kind.STRING, value, expires.get(key) if expires else None))
                    size += len(key) + len(value) + 8
                    if size >= CHUNK_BYTES or len(records) >= CHUNK_KEYS:
                        yield encode(Keys(index, records))
                        records, size = [], 0
                    continue
            value, end, use = kept if kept is not None else self._as_it_is(index, data, expires, key)
            kind, pieces = pieces_of(value)
            for piece in pieces:
                records.append(Record(key, kind, piece, end, use))
                size += len(key) + len(piece) + 16
                if size >= CHUNK_BYTES or len(records) >= CHUNK_KEYS:
                    yield encode(Keys(index, records))
                    records, size = [], 0
        if records:
            yield encode(Keys(index, records))


class Restore:
    """Takes chunks into a new engine, in their order. Raises ValueError: this is none."""

    def __init__(self, engine: AgreedEngine) -> None:
        self._engine = engine
        self._head: Head | None = None

    def add(self, data: bytes) -> float | None:
        """The next chunk. Of the first: when the store has asked to be woken."""
        if self._head is None:
            self._head = msgspec.msgpack.decode(data, type=Head)
            self._begin(self._head)
            return self._head.alarm
        chunk = _chunk.decode(data)
        engine = self._engine
        if isinstance(chunk, Scripts):
            for source in chunk.sources:
                engine.scripts.keep(source)
        elif isinstance(chunk, Keys):
            self._keys(engine.databases[chunk.db], chunk.records)
        elif isinstance(chunk, Drawn):
            engine.metered().draw_from((engine.databases[index], key) for index, key in chunk.places)
        else:
            expires = engine.databases[chunk.db].expires
            for key in chunk.keys:
                if key in expires:
                    expires[key] = expires.pop(key)
        return None

    def _begin(self, head: Head) -> None:
        engine = self._engine
        engine.now = engine.keyspace.now = head.now
        engine.config.change(head.settings)
        engine.last_guard, engine.last_parked, engine.agreed_scans.serial = (
            head.last_guard,
            head.last_parked,
            head.scans,
        )
        for each in head.guards:
            engine.set_guard(each.number, each.places, fallen=each.fallen, awaited=each.awaited)

    def _keys(self, db: Database, records: list[Record]) -> None:
        engine, data = self._engine, db.data
        for record in records:
            key = record.key
            if record.kind is Kind.STRING:
                data[key] = record.value
            else:
                data[key] = add_piece(data.get(key), record.kind, record.value)
            if record.expires is not None:
                db.expire_at(key, record.expires)
            if record.used is not None:
                engine.metered().restore((db, key), record.used)
