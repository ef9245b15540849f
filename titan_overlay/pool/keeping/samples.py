"""Samples of content, read for proofs of holding: one chunk after the other, so that an idle machine stays idle."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from titan_overlay.errors import StorageError, TitanError
from titan_overlay.identity.ids import ObjectId
from titan_overlay.pool.keeping import proofs
from titan_overlay.pool.keeping.roster import Replica

log = logging.getLogger("titan")

READ_TRIES = 6
READ_PAUSE = 10.0
"""Times and pauses (seconds) after which content that cannot be read counts as lost."""


class Samples:
    """The chunks that are to be read, in the order in which they were asked for.

    Args:
        read_chunk: chunk of an object's content by its index, verified.
    """

    def __init__(self, read_chunk: Callable[[bytes, int], Coroutine[Any, Any, bytes]]) -> None:
        self.read_chunk = read_chunk
        self._wanted: dict[tuple[ObjectId, int], None] = {}
        self._reading = False

    def want(self, object_id: ObjectId, epoch: int) -> None:
        """The chunk of this epoch is needed."""
        self._wanted[object_id, epoch] = None

    @property
    def waiting(self) -> bool:
        """There is something to read, and nobody who does."""
        return bool(self._wanted) and not self._reading

    async def read(self, replicas: Mapping[ObjectId, Replica]) -> AsyncIterator[Replica]:
        """Reads all that is wanted into the replicas' digests, and gives those whose content cannot be read."""
        self._reading = True
        try:
            while self._wanted:
                object_id, epoch = next(iter(self._wanted))
                del self._wanted[object_id, epoch]
                replica = replicas.get(object_id)
                if replica is not None and not await self._read(replica, epoch):
                    yield replica
        finally:
            self._reading = False

    async def _read(self, replica: Replica, epoch: int) -> bool:
        content = replica.descriptor.value.content
        index = proofs.sample_index(replica.object_id, epoch, content) if content else 0
        try:
            chunk = await self._read_patiently(replica.object_id, index) if content and content.size else b""
        except TitanError as why:
            log.error("replica %s cannot be read any more: %s", replica.object_id.hex()[:12], why)
            return False
        replica.digests[epoch] = proofs.sample_digest(replica.object_id, epoch, chunk)
        return True

    async def _read_patiently(self, object_id: ObjectId, index: int) -> bytes:
        """A chunk. Too many open files, or a disk that hangs, is no reason to give a replica up at once."""
        for _ in range(READ_TRIES - 1):
            try:
                return await self.read_chunk(object_id, index)
            except StorageError as why:
                log.warning("replica %s cannot be read now: %s", object_id.hex()[:12], why)
            await asyncio.sleep(READ_PAUSE)
        return await self.read_chunk(object_id, index)
