"""Rows whose bytes have changed on the disk: forgotten before anybody believes them.

SQLite finds a broken file, not a flipped bit in a row. What a row stands for is signed, so it is clear which ones are
damaged. Others hold the object still; this node does not any more.
"""

import logging
from collections.abc import Callable, Iterable

from titan_overlay.errors import BadMessage
from titan_overlay.identity import records
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.records import Record
from titan_overlay.identity.statements import Descriptor, Tombstone
from titan_overlay.storage.rows import Database

log = logging.getLogger("titan")


def forget_damaged(database: Database, pool: PoolId) -> int:
    """Drops the rows of replicas, and of tombstones, that do not verify; how many there were."""
    replicas = ((row.object_id, row.descriptor) for row in database.replicas())
    tombstones = ((row.object_id, row.raw) for row in database.tombstones())
    return _sift(replicas, Descriptor, pool, database.drop_replica) + _sift(
        tombstones, Tombstone, pool, database.drop_tombstone
    )


def _sift(
    rows: Iterable[tuple[ObjectId, bytes]], kind: type[Record], pool: PoolId, drop: Callable[[ObjectId], None]
) -> int:
    dropped = 0
    for object_id, raw in rows:
        try:
            value = records.check(raw, kind, pool).value
            if isinstance(value, Tombstone):
                records.check(value.descriptor, Descriptor, pool)
        except BadMessage as why:
            log.warning("a row about %s was damaged on the disk and is forgotten: %s", object_id.hex()[:12], why)
            drop(object_id)
            dropped += 1
    return dropped
