"""The node's small rows: replicas, pins, tombstones, known peers, settings.

Two databases with one face: `database.SqliteDatabase` for nodes that outlive their process, `MemoryDatabase` for
simulated ones (thousands in one process) and for light clients. Calls are synchronous: each costs well under a
millisecond, but for the fsync of a row that somebody relies on.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec

from titan_overlay.identity.ids import NodeId, ObjectId


class ReplicaRow(msgspec.Struct, frozen=True, array_like=True):
    """One object that this node holds. Times are unix seconds."""

    object_id: ObjectId
    descriptor: bytes
    """As signed by the publisher."""
    since: float
    """When this node began to hold it."""
    expires: float
    """When it may go; 0: never."""
    passing: bool = False
    """An opportunistic cache, not counted as a copy."""
    pinned: bool = False
    """The node's operator has set it up."""
    sequence: int = 0
    """Of the last advertisement that was sent for it."""
    lineage: bytes = b""
    """Who has asked this node to hold it (`identity.lineage`), where the object is voted on."""


class TombstoneRow(msgspec.Struct, frozen=True, array_like=True):
    """A deletion that this node knows of."""

    object_id: ObjectId
    raw: bytes
    """As signed."""
    expires: float


class PeerRow(msgspec.Struct, frozen=True, array_like=True):
    """A peer that answered once: where to begin after a restart."""

    id: NodeId
    ip: str
    port: int
    seen: float
    """Unix seconds."""


class Database(Protocol):
    """What a node must not forget.

    When a call returns, the row survives kill -9. New replicas, pins, tombstones and settings survive a loss of
    power too; mere updates (a new sequence number, `put_peers`) may fall back to an earlier state then.

    Raises, from every call that changes something:
        StorageError: the disk is full or broken; `read_only` is then true, and nothing that was saved is lost.
    """

    notices: list[str]
    """What a person should be told about opening it (a file set aside), each a line of text."""

    @property
    def read_only(self) -> bool:
        """The last change was refused by the disk. The next one that succeeds clears this."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Changes within it are made together (and cost one fsync), or, after an exception, not at all.

        One within another is part of that one.
        """
        ...

    def replicas(self) -> list[ReplicaRow]:
        """All, ordered by id."""
        ...

    def put_replica(self, row: ReplicaRow) -> None:
        """Adds or replaces the row of that object."""
        ...

    def drop_replica(self, object_id: ObjectId) -> None: ...

    def tombstones(self) -> list[TombstoneRow]:
        """All, ordered by id."""
        ...

    def put_tombstone(self, object_id: ObjectId, raw: bytes, expires: float) -> None: ...

    def drop_tombstone(self, object_id: ObjectId) -> None: ...

    def pins(self, object_id: ObjectId) -> list[bytes]:
        """Signed descriptors of all who want this data kept, one for each publisher, ordered by publisher."""
        ...

    def put_pin(self, object_id: ObjectId, publisher: bytes, raw: bytes) -> None:
        """Adds or replaces the pin of this publisher (its public key)."""
        ...

    def drop_pin(self, object_id: ObjectId, publisher: bytes) -> bool:
        """Whether there was such a pin."""
        ...

    def peers(self) -> list[PeerRow]:
        """Those of the last `put_peers`, last seen first."""
        ...

    def put_peers(self, rows: Iterable[PeerRow]) -> None:
        """Replaces all that were known."""
        ...

    def setting(self, key: str) -> bytes | None: ...

    def put_setting(self, key: str, value: bytes) -> None: ...

    def close(self) -> None: ...


class MemoryDatabase:
    """A `Database` that forgets when it is dropped. Reusing one for a second node simulates a restart."""

    __slots__ = ("_peers", "_pins", "_replicas", "_settings", "_tombstones", "notices", "read_only")

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.read_only = False
        self._replicas: dict[ObjectId, ReplicaRow] = {}
        self._tombstones: dict[ObjectId, TombstoneRow] = {}
        self._pins: dict[ObjectId, dict[bytes, bytes]] = {}
        self._peers: tuple[PeerRow, ...] = ()
        self._settings: dict[str, bytes] = {}

    def transaction(self) -> AbstractContextManager[None]:
        """No more than a block: nothing here can fail half-way."""
        return nullcontext()

    def replicas(self) -> list[ReplicaRow]:
        return [self._replicas[key] for key in sorted(self._replicas)]

    def put_replica(self, row: ReplicaRow) -> None:
        self._replicas[row.object_id] = row

    def drop_replica(self, object_id: ObjectId) -> None:
        self._replicas.pop(object_id, None)

    def tombstones(self) -> list[TombstoneRow]:
        return [self._tombstones[key] for key in sorted(self._tombstones)]

    def put_tombstone(self, object_id: ObjectId, raw: bytes, expires: float) -> None:
        self._tombstones[object_id] = TombstoneRow(object_id, raw, expires)

    def drop_tombstone(self, object_id: ObjectId) -> None:
        self._tombstones.pop(object_id, None)

    def pins(self, object_id: ObjectId) -> list[bytes]:
        held = self._pins.get(object_id, {})
        return [held[publisher] for publisher in sorted(held)]

    def put_pin(self, object_id: ObjectId, publisher: bytes, raw: bytes) -> None:
        self._pins.setdefault(object_id, {})[publisher] = raw

    def drop_pin(self, object_id: ObjectId, publisher: bytes) -> bool:
        held = self._pins.get(object_id, {})
        found = held.pop(publisher, None) is not None
        if not held:
            self._pins.pop(object_id, None)
        return found

    def peers(self) -> list[PeerRow]:
        return list(self._peers)

    def put_peers(self, rows: Iterable[PeerRow]) -> None:
        latest = {row.id: row for row in rows}
        self._peers = tuple(sorted(latest.values(), key=lambda row: (-row.seen, row.id)))

    def setting(self, key: str) -> bytes | None:
        return self._settings.get(key)

    def put_setting(self, key: str, value: bytes) -> None:
        self._settings[key] = value

    def close(self) -> None:
        pass
