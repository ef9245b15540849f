"""Deletions that a node knows of. No I/O.

Every stranger may publish under names of its own and delete what it published, so these are bounded: when there are too
many, those go that would end first. A replica that comes back after that is deleted by the tombstones of others.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256

from titan_overlay.identity import names, records
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.statements import Descriptor, Tombstone
from titan_overlay.storage.rows import TombstoneRow

GRAVES_MAX = 20_000


def object_in(tombstone: bytes, pool: PoolId) -> ObjectId:
    """The object that a tombstone gives itself out to be of; nothing is checked. BadMessage: it is none."""
    _, value = records.claimed(tombstone, Tombstone)
    _, descriptor = records.claimed(value.descriptor, Descriptor)
    return names.object_id(pool, descriptor.name)


def grave_of(object_id: ObjectId, kind: str, publisher: bytes) -> ObjectId:
    """Under which a deletion is kept: of data there is one for each publisher, whose pin it ends."""
    return object_id if kind != "data" else ObjectId(sha256(object_id + publisher).digest())


class Graves:
    """Tombstones by object (see `grave_of`).

    Args:
        rows: those of the last run.
        forget: told of each that goes.
        most: that are kept.
    """

    def __init__(
        self,
        rows: Iterable[TombstoneRow],
        forget: Callable[[ObjectId], object] = lambda object_id: None,
        *,
        most: int = GRAVES_MAX,
    ) -> None:
        self._rows = {row.object_id: row for row in rows}
        self._forget = forget
        self._most = most

    def __contains__(self, object_id: ObjectId) -> bool:
        return object_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, object_id: ObjectId) -> bytes | None:
        """The tombstone of this object, as it was signed."""
        row = self._rows.get(object_id)
        return None if row is None else row.raw

    def put(self, object_id: ObjectId, raw: bytes, expires: float) -> None:
        """Keeps a tombstone in place of the one before."""
        self._rows[object_id] = TombstoneRow(object_id, raw, expires)
        if len(self._rows) > self._most:
            order = sorted(self._rows.values(), key=lambda row: row.expires)
            for row in order[: self._most // 8 + 1]:  # some at once: sorting for each would be slow
                del self._rows[row.object_id]
                self._forget(row.object_id)
