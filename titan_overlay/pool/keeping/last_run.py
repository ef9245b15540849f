"""What the last run has left on the disk: what no replica needs is cleared away, and the replicas are brought back."""

import asyncio
import logging

from titan_overlay.identity import records
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.keeping.admission import Admission
from titan_overlay.pool.keeping.damage import forget_damaged
from titan_overlay.pool.keeping.keeper import Keeper
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.rows import Database, ReplicaRow

log = logging.getLogger("titan")

RESTORED_AT_ONCE = 16
BLOBS_KEPT = "blobs kept"
"""Setting: the database was once damaged, so contents that it does not name may be all that is left of something."""


async def clear_away(database: Database, blobs: Blobs, rights: Rights) -> None:
    """Frees the room of contents that no replica needs: a crash came between writing a content and its row."""
    if database.notices:  # it was damaged, and does not know what is here
        database.put_setting(BLOBS_KEPT, b"1")
    rows = database.replicas()
    if (rows or database.tombstones()) and forget_damaged(database, rights.pool):
        database.put_setting(BLOBS_KEPT, b"1")
        rows = database.replicas()
    if database.setting(BLOBS_KEPT) or not (blobs.ids() and rows):
        return
    wanted: set[bytes] = {row.object_id for row in rows}
    for row in rows:
        wanted.add(records.check(row.descriptor, Descriptor, rights.pool).value.bundle)
    freed = await blobs.keep_only(wanted)
    if freed:
        log.info("%d contents that no replica needs were cleared away", freed)


async def bring_back(database: Database, admission: Admission, keeper: Keeper) -> None:
    """Brings the replicas back, some at once: of each the region may have to be asked first."""
    rows = iter(database.replicas())

    async def restore() -> None:
        for row in rows:
            await _restore(row, admission, keeper)

    working = [asyncio.create_task(restore()) for _ in range(RESTORED_AT_ONCE)]
    try:
        await asyncio.gather(*working)
    finally:
        for each in working:
            each.cancel()


async def _restore(row: ReplicaRow, admission: Admission, keeper: Keeper) -> None:
    if not await keeper.still_wanted(row):
        await admission.release(row.object_id)
        return
    descriptor = await admission.restore(row)
    if descriptor is not None:
        await keeper.resume(descriptor, row)
