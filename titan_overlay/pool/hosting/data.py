"""Objects of kind data: what they answer, and what they can be given out from."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from titan_overlay.errors import BadMessage
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Content, Descriptor
from titan_overlay.pool.hosting.runner import Runner
from titan_overlay.pool.message import Message
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import chunk_count
from titan_overlay.storage.files import BytesSource as BytesSource
from titan_overlay.storage.files import ContentSource as ContentSource
from titan_overlay.storage.files import FileSource as FileSource
from titan_overlay.storage.files import open_source as open_source
from titan_overlay.wire import codec

READ_BYTES_MAX: Final = 512 * 1024
"""Largest content that `Read` answers whole; more would not fit in a frame."""

PAGE_BYTES: Final = 256 * 1024
"""Bytes of the manifest in one answer: the digests of 2 GiB."""

READS_MAX: Final = 8
"""Chunks of one object that are read at once; each takes 256 KiB of memory until it is on its way."""


class Manifest(Message[bytes], namespace="titan"):
    """Asks for the digests of the chunks, `PAGE_BYTES` at a time."""

    page: int = 0


class Fetch(Message[bytes], namespace="titan"):
    """Asks for one chunk."""

    index: int


class Read(Message[bytes], namespace="titan"):
    """Asks for the whole, where it has at most `READ_BYTES_MAX`."""


class StoredContent:
    """A `ContentSource` out of the node's own store."""

    __slots__ = ("_blobs", "content", "digest")

    def __init__(self, blobs: Blobs, object_id: ObjectId, content: Content) -> None:
        self.digest: bytes = object_id
        self.content = content
        self._blobs = blobs

    async def manifest(self) -> bytes:
        """Raises NotHere: the store has it no longer."""
        return await self._blobs.manifest(self.digest)

    async def read_chunk(self, index: int) -> bytes:
        """Raises NotHere: the store has it no longer, or it is damaged."""
        return await self._blobs.read_chunk(self.digest, index)


class DataRunner(Runner):
    """The runner of one data object: gives out its chunks.

    Attributes:
        on_read: called with all bytes of chunks given out so far.
    """

    types: tuple[str, ...] = (Manifest.wire_type, Fetch.wire_type, Read.wire_type)

    def __init__(self, source: ContentSource, descriptor: Signed[Descriptor]) -> None:
        self.source = source
        self.descriptor = descriptor
        self.on_read: Callable[[int], object] | None = None
        self._given = 0
        self._reading = asyncio.Semaphore(READS_MAX)

    async def call(self, type: str, body: bytes, context: Any) -> bytes:
        """The encoded answer (msgpack bytes) to one message.

        Raises:
            BadMessage: another message, no such chunk, or too large to be read whole. NotHere: no copy any more.
        """
        if type == Fetch.wire_type:
            index = codec.decode(body, Fetch).index
            async with self._reading:
                data = await self.source.read_chunk(index)
        elif type == Manifest.wire_type:
            data = await self._manifest(codec.decode(body, Manifest).page)
        elif type == Read.wire_type:
            data = await self._whole()
        else:
            raise BadMessage(f"data takes no {type}; it takes {', '.join(self.types)}")
        if type != Manifest.wire_type and self.on_read is not None:
            self._given += len(data)
            self.on_read(self._given)
        return codec.encode(data)

    async def _manifest(self, page: int) -> bytes:
        manifest = await self.source.manifest()
        if not 0 <= page <= max(0, len(manifest) - 1) // PAGE_BYTES:
            raise BadMessage(f"the manifest has no page {page}, only {len(manifest)} bytes")
        return manifest[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]

    async def _whole(self) -> bytes:
        size = self.source.content.size
        if size > READ_BYTES_MAX:
            raise BadMessage(f"this data has {size} bytes, more than a message holds; use: titan get")
        async with self._reading:
            parts = [await self.source.read_chunk(index) for index in range(chunk_count(self.source.content))]
        return b"".join(parts)

    async def close(self) -> None:
        """Nothing to end: the content stays where it is."""
