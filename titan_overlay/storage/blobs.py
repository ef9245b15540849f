"""Content-addressed store: replicas of data, cached data and bundles, each named by its SHA-256.

    blobs/ab/<hex>             a content, whole and verified: exists only after fsync and rename
    blobs/ab/<hex>.manifest    digests of its chunks (only where there are two chunks or more)
    blobs/ab/<hex>.partial     a content that is still being fetched (see `assembly`)
    blobs/ab/<hex>.corrupt     a content whose bytes have changed on the disk: set aside, never served
    blobs/incoming-<n>         a file being imported, whose name is not known yet

A blob of one chunk is one file. Memory: about 200 bytes a blob, and the manifests used last.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from contextlib import aclosing
from pathlib import Path

from titan_overlay.errors import BadMessage, NotHere
from titan_overlay.identity.statements import Content
from titan_overlay.storage.assembly import Assembly
from titan_overlay.storage.content import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    Describer,
    check_manifest,
    chunk_count,
    chunk_length,
    is_chunk,
    manifest_of_small,
)
from titan_overlay.storage.disk import Disk
from titan_overlay.storage.files import Progress, describe_bytes, file_size, read_file
from titan_overlay.storage.room import Room

_log = logging.getLogger(__name__)

MANIFESTS_MAX = 8
"""Manifests of large blobs that are kept in memory (32 bytes for 256 KiB each)."""


class Blobs:
    """The blobs of one node, at most `max_bytes` in all. A `Sink`. Call `open` first.

    Room is reserved when a content is begun, so what has begun can be finished.
    """

    def __init__(self, disk: Disk, max_bytes: int) -> None:
        self._room = Room(disk, max_bytes)
        self._disk = disk
        self._sizes: dict[bytes, int] = {}  # whole blobs
        self._begun: dict[bytes, Assembly] = {}
        self._left_over: dict[bytes, int] = {}  # partial files of an earlier run that nobody has begun again
        self._imports = 0
        self._manifests: OrderedDict[bytes, bytes] = OrderedDict()
        self._keeping = asyncio.Lock()

    async def open(self) -> None:
        """Learns what is there, and clears away what an interruption left and nobody can use."""
        stray: list[str] = []
        manifests: list[bytes] = []
        for path in await self._disk.list("blobs/"):
            name, _, suffix = path.rpartition("/")[2].partition(".")
            content_id = _parse(name)
            if content_id is None:
                stray.append(path)
            elif suffix == "":
                self._sizes[content_id] = await self._disk.size(path) or 0
            elif suffix == "partial":
                self._left_over[content_id] = await self._disk.size(path) or 0
            elif suffix == "manifest":
                manifests.append(content_id)
        stray += [_path(each, ".manifest") for each in manifests if each not in self._sizes]
        for path in stray:
            await self._disk.remove(path)
        self._room.used = sum(map(_cost, self._sizes.values())) + sum(self._left_over.values())

    # --- what is here ---

    def has(self, content_id: bytes) -> bool:
        """Whether the whole content is here, verified and durable."""
        return content_id in self._sizes

    def ids(self) -> list[bytes]:
        """All whole contents, ordered."""
        return sorted(self._sizes)

    def partial(self) -> list[bytes]:
        """Contents that were begun, in this run or an earlier one, and not finished; ordered."""
        return sorted({*self._begun, *self._left_over})

    def used(self) -> int:
        """Bytes taken or reserved."""
        return self._room.used

    def size(self, content_id: bytes) -> int:
        """Bytes of a whole content. Raises NotHere."""
        try:
            return self._sizes[content_id]
        except KeyError:
            raise NotHere(f"no copy of sha256:{content_id.hex()} here") from None

    # --- taking a content in ---

    def check_room(self, content: Content) -> None:
        """For who has yet to fetch the manifest, which alone may be larger than this node has room for.

        Raises:
            Overloaded: that content does not fit, however empty the store is.
        """
        self._room.check(_cost(content.size))

    async def begin(self, content_id: bytes, content: Content, manifest: bytes) -> None:
        """Reserves room for a content and finds what an earlier run has fetched of it.

        Raises:
            BadMessage: not the manifest of that content.
            Overloaded: it does not fit; the text says why.
        """
        check_manifest(content, manifest)
        if len(content_id) != DIGEST_BYTES:
            raise BadMessage("a content is named by 32 bytes")
        if content_id in self._sizes:
            return
        if content_id in self._begun:
            self._begun[content_id].users += 1
            return
        assembly = Assembly(self._disk, _path(content_id, ".partial"), content, manifest)
        self._begun[content_id] = assembly
        on_disk = self._left_over.pop(content_id, 0)
        self._room.used -= on_disk
        try:
            await self._reserve(_cost(content.size), on_disk=on_disk)
            try:
                await assembly.recover()
            except BaseException:
                self._room.used -= _cost(content.size)
                raise
        except BaseException:
            del self._begun[content_id]
            self._keep_left_over(content_id, on_disk)
            raise

    def missing(self, content_id: bytes) -> list[int]:
        """Chunks still to be put; none where the content is whole. Raises NotHere: not begun."""
        return [] if content_id in self._sizes else self._assembly(content_id).missing()

    async def put_chunk(self, content_id: bytes, index: int, data: bytes) -> None:
        """Takes a chunk. Raises BadMessage: not that chunk. NotHere: not begun."""
        if content_id not in self._sizes:
            await self._assembly(content_id).put(index, data)

    def suspend(self, content_id: bytes) -> None:
        """Ends a transfer that did not finish. Its room is free again; what came stays until room is short."""
        assembly = self._begun.get(content_id)
        if assembly is None:
            return
        assembly.users -= 1
        if not assembly.users:
            del self._begun[content_id]
            self._room.used -= _cost(assembly.content.size)
            self._keep_left_over(content_id, assembly.there())

    def _keep_left_over(self, content_id: bytes, size: int) -> None:
        if size:
            self._left_over[content_id] = size
            self._room.used += size

    async def finish(self, content_id: bytes) -> None:
        """Verifies the whole and makes it durable; then `has` is true.

        Raises:
            BadMessage: chunks are missing, or the whole has another hash (it is then thrown away).
        """
        if content_id in self._sizes:
            return
        assembly = self._assembly(content_id)
        async with assembly.finishing:
            if content_id in self._sizes:  # another transfer of the same was faster
                return
            if not await assembly.complete(content_id):
                await self.remove(content_id)
                raise BadMessage(f"the chunks fit their manifest, but are not sha256:{content_id.hex()}; thrown away")
            async with self._keeping:
                await self._keep(content_id, assembly.path, assembly.manifest, assembly.content.size)
                self._begun.pop(content_id, None)

    async def put_small(self, content_id: bytes, data: bytes) -> None:
        """Stores a blob whole (a bundle).

        Raises:
            BadMessage: the bytes have another name. Overloaded: no room.
        """
        digest, content, manifest = describe_bytes(data)
        if digest != content_id:
            raise BadMessage(f"these bytes are sha256:{digest.hex()}, not sha256:{content_id.hex()}")
        await self.begin(content_id, content, manifest)
        try:
            for index in self.missing(content_id):
                await self.put_chunk(content_id, index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
            await self.finish(content_id)
        except BaseException:
            self.suspend(content_id)
            raise

    async def import_file(self, source: bytes | Path, progress: Progress | None = None) -> tuple[bytes, Content, bytes]:
        """Stores bytes or a copy of a file, read once; (SHA-256, `Content`, manifest).

        Raises:
            Overloaded: it does not fit. StorageError: the file cannot be read or the copy not be written.
        """
        if isinstance(source, bytes):
            described = describe_bytes(source)
            await self.put_small(described[0], source)
            return described
        self._imports += 1
        path = f"blobs/incoming-{self._imports}"
        total = await file_size(source)
        await self._reserve(_cost(total), on_disk=0)
        try:
            described = await self._copy(source, path, total, progress)
            async with self._keeping:
                await self._keep_import(described, path)
            return described
        finally:
            self._room.used -= _cost(total)
            await self._disk.remove(path)

    async def _copy(
        self, source: Path, path: str, total: int, progress: Progress | None
    ) -> tuple[bytes, Content, bytes]:
        describer = Describer()
        done = 0
        await self._disk.write(path, b"")
        async with aclosing(read_file(source)) as chunks:
            async for chunk in chunks:
                if done + len(chunk) > total:
                    raise BadMessage(f"{source} grows while it is read; try again when it is complete")
                await self._disk.write(path, chunk, done)
                describer.add(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        await self._disk.sync(path)
        return describer.result()

    async def _keep_import(self, described: tuple[bytes, Content, bytes], path: str) -> None:
        content_id, content, manifest = described
        if content_id in self._sizes:
            return
        if content_id in self._begun or content_id in self._left_over:
            await self.remove(content_id)  # what was being fetched is here now
        self._room.used += _cost(content.size)
        try:
            await self._keep(content_id, path, manifest, content.size)
        except BaseException:
            self._room.used -= _cost(content.size)
            raise

    async def _keep(self, content_id: bytes, path: str, manifest: bytes, size: int) -> None:
        """Puts a synced file under its name."""
        if len(manifest) > DIGEST_BYTES:
            await self._disk.write(_path(content_id, ".manifest"), manifest)
            await self._disk.sync(_path(content_id, ".manifest"))
        await self._disk.replace(path, _path(content_id))
        self._sizes[content_id] = size

    async def _reserve(self, cost: int, *, on_disk: int) -> None:
        if not self._room.fits(cost):
            await self._drop_left_over()
        await self._room.reserve(cost, on_disk=on_disk)

    async def _drop_left_over(self) -> None:
        """Gives up what an earlier run began and nobody has asked for since."""
        while self._left_over:
            content_id, size = self._left_over.popitem()
            self._room.used -= size
            await self._disk.remove(_path(content_id, ".partial"))

    def _assembly(self, content_id: bytes) -> Assembly:
        assembly = self._begun.get(content_id)
        if assembly is None:
            raise NotHere(f"sha256:{content_id.hex()} has not been begun here")
        return assembly

    # --- giving it out ---

    async def manifest(self, content_id: bytes) -> bytes:
        """Digests of the chunks of a whole content. Raises NotHere."""
        content = Content(self.size(content_id), CHUNK_BYTES, b"")
        small = manifest_of_small(content_id, content)
        if small is not None:
            return small
        known = self._manifests.get(content_id)
        if known is None:
            known = await self._load_manifest(content_id, content)
            self._manifests[content_id] = known
        self._manifests.move_to_end(content_id)
        while len(self._manifests) > MANIFESTS_MAX:
            self._manifests.popitem(last=False)
        return known

    async def _load_manifest(self, content_id: bytes, content: Content) -> bytes:
        path = _path(content_id, ".manifest")
        try:
            manifest = await self._disk.read(path)
        except FileNotFoundError:
            manifest = b""
        if len(manifest) == DIGEST_BYTES * chunk_count(content):
            return manifest
        # Lost or torn: the content itself tells.
        describer = Describer()
        for index in range(chunk_count(content)):
            describer.add(await self._read(content_id, index, content))
        digest, _, manifest = describer.result()
        if digest != content_id:
            await self._set_aside(content_id)
        await self._disk.write(path, manifest)
        return manifest

    async def read_chunk(self, content_id: bytes, index: int) -> bytes:
        """Chunk `index` of a whole content, verified. One that fails is set aside with its content.

        Raises:
            NotHere: no copy, or a damaged one. BadMessage: no such chunk.
        """
        manifest = await self.manifest(content_id)
        content = Content(self.size(content_id), CHUNK_BYTES, b"")
        if not 0 <= index < chunk_count(content):
            raise BadMessage(f"there is no chunk {index}, only {chunk_count(content)}")
        data = await self._read(content_id, index, content)
        if not is_chunk(manifest, content, index, data):
            await self._set_aside(content_id)
        return data

    async def get_small(self, content_id: bytes) -> bytes | None:
        """All bytes of a content that fits in memory, or None where it is not here (or damaged)."""
        if content_id not in self._sizes:
            return None
        count = chunk_count(Content(self._sizes[content_id], CHUNK_BYTES, b""))
        try:
            return b"".join([await self.read_chunk(content_id, index) for index in range(count)])
        except NotHere:
            return None

    async def _read(self, content_id: bytes, index: int, content: Content) -> bytes:
        try:
            return await self._disk.read(_path(content_id), index * CHUNK_BYTES, chunk_length(content, index))
        except FileNotFoundError:
            self._forget(content_id)
            raise NotHere(f"no copy of sha256:{content_id.hex()} here any more") from None

    async def _set_aside(self, content_id: bytes) -> None:
        """Takes a damaged copy out of service. Always raises NotHere."""
        if self._forget(content_id):
            aside = _path(content_id, ".corrupt")
            _log.warning("sha256:%s has changed on the disk; set aside as %s", content_id.hex(), aside)
            await self._disk.replace(_path(content_id), aside)
            await self._disk.remove(_path(content_id, ".manifest"))
        raise NotHere(f"the copy of sha256:{content_id.hex()} here is damaged and was set aside")

    def _forget(self, content_id: bytes) -> bool:
        """Whether a whole content of that name was here."""
        self._manifests.pop(content_id, None)
        size = self._sizes.pop(content_id, None)
        if size is not None:
            self._room.used -= _cost(size)
        return size is not None

    async def keep_only(self, wanted: Collection[bytes]) -> int:
        """Frees the room of all other whole contents; how many there were. Not while contents are being taken in."""
        unwanted = [each for each in self._sizes if each not in wanted]
        for content_id in unwanted:
            await self.remove(content_id)
        return len(unwanted)

    async def remove(self, content_id: bytes) -> None:
        """Frees the room of a content, whole or begun; no error where there is none."""
        assembly = self._begun.pop(content_id, None)
        if assembly is not None:
            self._room.used -= _cost(assembly.content.size)
        self._room.used -= self._left_over.pop(content_id, 0)
        if assembly is not None or not self._forget(content_id):
            await self._disk.remove(_path(content_id, ".partial"))
        else:
            await self._disk.remove(_path(content_id))
            await self._disk.remove(_path(content_id, ".manifest"))


def _cost(size: int) -> int:
    """Bytes that a content takes, its manifest included."""
    chunks = -(-size // CHUNK_BYTES)
    return size + (DIGEST_BYTES * chunks if chunks > 1 else 0)


def _path(content_id: bytes, suffix: str = "") -> str:
    name = content_id.hex()
    return f"blobs/{name[:2]}/{name}{suffix}"


def _parse(name: str) -> bytes | None:
    try:
        content_id = bytes.fromhex(name)
    except ValueError:
        return None
    return content_id if len(content_id) == DIGEST_BYTES and content_id.hex() == name else None
