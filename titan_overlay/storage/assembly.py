"""One content being put together from chunks that come in any order, in a file that outlives the process.

The file of chunks and the manifest are all the state there is. After an interruption every chunk that the file may
hold is read once and compared with the manifest, so that neither a torn write nor a lost one can go unnoticed; the
same pass feeds the hash of the whole, so nothing is read twice.
"""

import asyncio
from hashlib import sha256
from typing import Protocol

from titan_overlay.errors import BadMessage
from titan_overlay.identity.statements import Content
from titan_overlay.storage.content import (
    CHUNK_BYTES,
    check_manifest,
    chunk_count,
    chunk_length,
    is_chunk,
)
from titan_overlay.storage.disk import Disk


class Sink(Protocol):
    """Where a transfer puts what it fetches."""

    async def begin(self, content_id: bytes, content: Content, manifest: bytes) -> None:
        """Makes ready, keeping what an earlier, interrupted transfer left.

        Raises:
            BadMessage: not the manifest of that content. Overloaded: no room. StorageError: the disk fails.
        """
        ...

    def missing(self, content_id: bytes) -> list[int]:
        """Chunks that are not there yet, ascending."""
        ...

    async def put_chunk(self, content_id: bytes, index: int, data: bytes) -> None:
        """Takes a chunk. One that is there already changes nothing.

        Raises:
            BadMessage: it is not that chunk. StorageError: the disk fails.
        """
        ...

    def suspend(self, content_id: bytes) -> None:
        """The transfer ends here without having finished: what came is kept for the next, what was reserved is not."""
        ...

    async def finish(self, content_id: bytes) -> None:
        """Verifies the whole and makes it durable and visible.

        Raises:
            BadMessage: chunks are missing, or the whole is not what its name says (it is then thrown away).
        """
        ...


class Assembly:
    """The chunks of one content in one file.

    Args:
        path: of the file, below the disk's root.
    """

    __slots__ = (
        "_disk",
        "_left",
        "_lock",
        "_next",
        "_there",
        "_whole",
        "content",
        "finishing",
        "manifest",
        "path",
        "users",
    )

    def __init__(self, disk: Disk, path: str, content: Content, manifest: bytes) -> None:
        check_manifest(content, manifest)
        self.content = content
        self.manifest = manifest
        self.path = path
        self.users = 1
        """Transfers that put chunks into it."""
        self._disk = disk
        self._there = bytearray(chunk_count(content))  # 1: chunk written and verified
        self._left = len(self._there)
        self._whole = sha256()
        self._next = 0  # chunks that the hash of the whole has taken
        self._lock = asyncio.Lock()
        self.finishing = asyncio.Lock()
        """Transfers that share an assembly make it whole one after the other."""

    async def recover(self) -> None:
        """Finds the chunks that the file holds already."""
        found = await self._disk.size(self.path)
        if found is None:
            if not self.content.size:
                await self._disk.write(self.path, b"")
            return
        if found > self.content.size:
            await self._disk.truncate(self.path, self.content.size)
        for index in range(min(-(-found // CHUNK_BYTES), len(self._there))):
            data = await self._read(index)
            if is_chunk(self.manifest, self.content, index, data) and not self._there[index]:
                self._take(index, data)

    def there(self) -> int:
        """Bytes that are there."""
        missing = self.missing()
        return self.content.size - sum(chunk_length(self.content, index) for index in missing)

    def missing(self) -> list[int]:
        """Chunks that are not there, ascending."""
        return [index for index, there in enumerate(self._there) if not there] if self._left else []

    async def put(self, index: int, data: bytes) -> None:
        """Verifies and writes a chunk.

        Raises:
            BadMessage: it is not that chunk.
        """
        if not 0 <= index < len(self._there):
            raise BadMessage(f"there is no chunk {index}, only {len(self._there)}")
        if not is_chunk(self.manifest, self.content, index, data):
            raise BadMessage(f"chunk {index} is not what the manifest says")
        if self._there[index]:
            return
        await self._disk.write(self.path, data, index * CHUNK_BYTES)
        if self._there[index]:  # somebody else was faster
            return
        self._take(index, data)
        if self._next and not self._lock.locked():
            async with self._lock:
                await self._catch_up()

    async def complete(self, content_id: bytes) -> bool:
        """Makes the file durable; whether it is the content of that name.

        Raises:
            BadMessage: chunks are missing.
        """
        if self._left:
            raise BadMessage(f"{self._left} of {len(self._there)} chunks are missing")
        async with self._lock:
            await self._catch_up()
        if self._whole.digest() != content_id:
            return False
        await self._disk.sync(self.path)
        return True

    def _take(self, index: int, data: bytes) -> None:
        self._there[index] = 1
        self._left -= 1
        if index == self._next:
            self._whole.update(data)
            self._next += 1

    async def _catch_up(self) -> None:
        """Hashes chunks that came before their turn, while the system still has them in memory."""
        while self._next < len(self._there) and self._there[self._next]:
            index = self._next
            data = await self._read(index)
            # An in-order chunk may have been taken meanwhile only if it was `_next`, which was there already.
            self._whole.update(data)
            self._next = index + 1

    async def _read(self, index: int) -> bytes:
        return await self._disk.read(self.path, index * CHUNK_BYTES, chunk_length(self.content, index))
