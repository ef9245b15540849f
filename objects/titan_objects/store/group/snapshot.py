"""Snapshots of a store, in chunks of some 64 KiB, as its members keep and exchange them.

A walk lists the keys in their order and goes through them, while commands go on. Before a command changes a key, the
engine says so (`preserve`), and the walk puts aside what the key was: strings as they are, other values encoded, or as
a shallow copy where they are large. So the chunks show one moment, and are the same bytes at all members, whatever
happened to the store while they were made.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from titan_objects.store.group.agreed import AgreedEngine
from titan_objects.store.group.messages import Published
from titan_objects.store.group.values import Kind, add_piece, frozen, pieces_of
from titan_objects.store.keyspace import Database
from titan_objects.store.listing import Listing, contents
from titan_objects.store.resp import CommandError

CHUNK_BYTES = 64 << 10
CHUNK_KEYS = 500
SMALL = 128
"""Elements of a value that is encoded at once when it is about to change; of a larger one there is a shallow copy."""
PART_BYTES = 4 << 20
"""A chunk that is longer, because a value is, travels in parts: a group takes no chunk of more than 16 MiB."""
_MORE, _LAST = b"\xc1\x01", b"\xc1\x00"
"""What parts begin with; nothing that is encoded begins with that byte."""


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
    alarm: float
    expired: int
    evicted: int
    published: list[Published] = []
    """With `touched`: news of what programs did, which the next `Wake` brings to the doors."""
    touched: list[int] = []


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


class Libraries(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Sources of libraries of functions, in the order in which they were loaded."""

    sources: list[bytes]


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_chunk = msgspec.msgpack.Decoder(Scripts | Keys | Drawn | Libraries)

Frozen = tuple[Any, int | None, tuple[int, int] | None]
"""A value that will not change, its end, its use."""
Aside = Record | Frozen | None
"""What a key was. A record has nothing in it for the garbage collector to go through; None: it was not there."""


class _Asides(list[dict[bytes, Aside]]):
    """Of very many keys, spread over small dicts: a big one holds up everybody when it grows, and when it goes."""

    SPREAD = 256

    def __init__(self) -> None:
        super().__init__({} for _ in range(self.SPREAD))

    def near(self, key: bytes) -> dict[bytes, Aside]:
        """The one in which a key would be."""
        return self[hash(key) % self.SPREAD]


class _Part:
    """One database as it was: the very dicts, which FLUSHALL and SWAPDB leave as they are, and what was put aside."""

    __slots__ = ("aside", "data", "db", "expires", "keys", "placed")

    def __init__(self, db: Database) -> None:
        self.db = db
        self.keys = Listing(db)
        self.data = self.keys.data
        self.expires = db.expires
        self.placed = db.placed
        self.aside = _Asides()


class Walk:
    """One walk through an engine, as it is when the walk is made.

    Args:
        alarm: when the store has asked to be woken.
    """

    def __init__(self, engine: AgreedEngine, alarm: float) -> None:
        self._engine = engine
        parts = [_Part(db) for db in engine.databases if db.data]
        self._parts = {id(contents(part.data)): part for part in parts}
        meter = engine.meter
        self._used = meter.used if meter is not None else None
        self._drawn = meter.order() if meter is not None else []
        self._indices = {db.placed: db.index for db in engine.databases}
        self._sources = list(engine.scripts.sources.values())
        self._libraries = [each.source for each in engine.functions.libraries.values()]
        self._head = Head(
            engine.now,
            engine.settings(),
            [
                KeptGuard(each.id, each.doomed, each.awaited, sorted((db.index, key) for db, key in each.watched))
                for each in engine.guards.values()
            ],
            engine.last_guard,
            engine.last_parked,
            alarm,
            engine.stats.expired,
            engine.stats.evicted,
            list(engine.published),
            sorted(engine.touched),
        )

    def preserve(self, db: Database, key: bytes) -> None:
        """This key is about to change."""
        part = self._parts.get(id(contents(db.data)))
        if part is not None and key not in (near := part.aside.near(key)):
            near[key] = self._as_it_is(part, key)

    def _as_it_is(self, part: _Part, key: bytes) -> Aside:
        value, end = part.data.get(key), part.expires.get(key)
        if value is None:
            return None
        use = self._used((part.placed, key)) if self._used is not None else None
        kept = frozen(value)
        if type(value) is bytes or len(value) <= SMALL:
            kind, pieces = pieces_of(kept)
            first, *others = pieces
            if not others:
                return Record(key, kind, first, end, use)
        return kept, end, use

    def chunks(self) -> Iterator[bytes]:
        """All of it. Whoever takes them lets the engine go on between two."""
        engine = self._engine
        engine.add_walk(self)
        try:
            for chunk in self._chunks():
                if len(chunk) <= PART_BYTES:
                    yield chunk
                    continue
                for start in range(0, len(chunk), PART_BYTES):
                    last = start + PART_BYTES >= len(chunk)
                    yield (_LAST if last else _MORE) + chunk[start : start + PART_BYTES]
        finally:
            engine.remove_walk(self)
            for part in self._parts.values():
                engine.keyspace.spent += part.aside
            self._parts.clear()

    def _chunks(self) -> Iterator[bytes]:
        """However long they are."""
        yield encode(self._head)
        for source in self._sources:
            yield encode(Scripts([source]))
        for source in self._libraries:
            yield encode(Libraries([source]))
        for part in self._parts.values():
            yield from self._keys(part)
        for start in range(0, len(self._drawn), CHUNK_KEYS):
            places = self._drawn[start : start + CHUNK_KEYS]
            yield encode(Drawn([(self._indices[placed], key) for placed, key in places]))

    def _keys(self, part: _Part) -> Iterator[bytes]:
        records: list[Record] = []
        size = 0
        for record in self._records(part):
            records.append(record)
            size += len(record.key) + len(record.value) + 16
            if size >= CHUNK_BYTES or len(records) >= CHUNK_KEYS:
                yield encode(Keys(part.db.index, records))
                records, size = [], 0
        if records:
            yield encode(Keys(part.db.index, records))

    def _records(self, part: _Part) -> Iterator[Record]:
        data, expires, near = part.data, part.expires, part.aside.near
        for key in part.keys:
            kept = near(key).get(key)
            if kept is None and self._used is None and type(value := data[key]) is bytes:  # as most are
                yield Record(key, Kind.STRING, value, expires.get(key))
                continue
            kept = kept or self._as_it_is(part, key)
            assert kept is not None, "keys that are listed were there"
            if isinstance(kept, Record):
                yield kept
                continue
            value, end, use = kept
            kind, pieces = pieces_of(value)
            for piece in pieces:
                yield Record(key, kind, piece, end, use)


class Restore:
    """Takes chunks into a new engine, in their order. Raises ValueError: this is none."""

    def __init__(self, engine: AgreedEngine) -> None:
        self._engine = engine
        self._head: Head | None = None
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> float | None:
        """The next chunk. Of the first, once it is whole: when the store has asked to be woken."""
        if data.startswith((_MORE, _LAST)):
            self._parts.append(data[len(_LAST) :])
            if data.startswith(_MORE):
                return None
            data = b"".join(self._parts)
            self._parts.clear()
        if self._head is None:
            self._head = msgspec.msgpack.decode(data, type=Head)
            self._begin(self._head)
            return self._head.alarm
        chunk = _chunk.decode(data)
        engine = self._engine
        if isinstance(chunk, Scripts):
            for source in chunk.sources:
                engine.scripts.keep(source)
        elif isinstance(chunk, Libraries):
            self._libraries(chunk.sources)
        elif isinstance(chunk, Keys):
            self._keys(engine.databases[chunk.db], chunk.records)
        else:
            engine.metered().draw_from((engine.databases[index].placed, key) for index, key in chunk.places)
        return None

    def _begin(self, head: Head) -> None:
        engine = self._engine
        engine.now = engine.keyspace.now = head.now
        engine.config.change(head.settings)
        engine.last_guard, engine.last_parked = head.last_guard, head.last_parked
        engine.stats.expired, engine.stats.evicted = head.expired, head.evicted
        for each in head.guards:
            engine.set_guard(each.number, each.places, fallen=each.fallen, awaited=each.awaited)
        engine.published, engine.touched = list(head.published), set(head.touched)
        engine.published_bytes = sum(len(each.channel) + len(each.message) for each in head.published)

    def _libraries(self, sources: list[bytes]) -> None:
        for source in sources:
            try:
                self._engine.functions.load(source)
            except CommandError as why:
                raise ValueError(f"a library of functions cannot be loaded: {why}") from None

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
            if record.kind is Kind.EXPIRING_HASH:
                db.place_fields(key)
            if record.used is not None:
                engine.metered().restore(db, key, record.used)
