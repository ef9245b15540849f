"""Content outside the node's own store: a program's bytes and files, to give out and to fetch into."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Protocol

from titan_overlay.errors import BadMessage, Conflict, StorageError
from titan_overlay.identity.statements import Content
from titan_overlay.storage.assembly import Assembly
from titan_overlay.storage.content import (
    CHUNK_BYTES,
    Describer,
    check_manifest,
    chunk_count,
    chunk_length,
    is_chunk,
)
from titan_overlay.storage.disk import RealDisk

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

USERS_MODE = 0o666
"""Of files that a user asked for: the umask says who else may read them."""


async def file_size(path: Path) -> int:
    """Bytes in a file. Raises StorageError: there is no such file."""
    with closing(RealDisk(path.parent, threads=1)) as disk:
        size = await disk.size(path.name)
    if size is None:
        raise StorageError(f"there is no file {path}")
    return size


async def read_file(path: Path) -> AsyncGenerator[bytes, None]:
    """Chunks of a file, one in memory at a time.

    Raises:
        StorageError: the file cannot be read.
    """
    with closing(RealDisk(path.parent, threads=1)) as disk:
        offset = 0
        length = CHUNK_BYTES
        while length == CHUNK_BYTES:
            try:
                chunk = await disk.read(path.name, offset, CHUNK_BYTES)
            except FileNotFoundError:
                raise StorageError(f"{path} is gone") from None
            length = len(chunk)
            offset += length
            if chunk:
                yield chunk


async def save(pieces: AsyncIterator[bytes], path: Path) -> None:
    """Writes pieces to a file, one in memory at a time: whole, or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    path = _absolute(path)
    part = f"{path.name}.part"
    with closing(RealDisk(path.parent, threads=1, mode=USERS_MODE)) as disk:
        await disk.write(part, b"")
        await disk.truncate(part, 0)
        try:
            async for piece in pieces:
                await disk.append(part, piece)
            await disk.sync(part)
            await disk.replace(part, path.name)
        except BaseException:
            await disk.remove(part)
            raise


def describe_bytes(data: bytes) -> tuple[bytes, Content, bytes]:
    """(SHA-256, `Content`, manifest) of bytes."""
    describer = Describer()
    for start in range(0, len(data), CHUNK_BYTES):
        describer.add(data[start : start + CHUNK_BYTES])
    return describer.result()


async def describe(source: bytes | Path, progress: Progress | None = None) -> tuple[bytes, Content, bytes]:
    """(SHA-256, `Content`, manifest) of bytes or of a file, which is read once, chunk by chunk.

    Raises:
        StorageError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return describe_bytes(source)
    describer = Describer()
    done, total = 0, await file_size(source)
    async with aclosing(read_file(source)) as chunks:
        async for chunk in chunks:
            describer.add(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(done, total))
    return describer.result()


class ContentSource(Protocol):
    """A content that can be given out. `digest` is its name."""

    @property
    def digest(self) -> bytes: ...

    @property
    def content(self) -> Content: ...

    async def manifest(self) -> bytes:
        """SHA-256 digests of all chunks, one after the other."""
        ...

    async def read_chunk(self, index: int) -> bytes:
        """Chunk `index`. Raises BadMessage: there is none. Another RemotableError: it cannot be given out now."""
        ...


class BytesSource:
    """A `ContentSource` of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.digest, self.content, self._manifest = describe_bytes(data)
        self._data = data

    async def manifest(self) -> bytes:
        """Digests of all chunks."""
        return self._manifest

    async def read_chunk(self, index: int) -> bytes:
        """Chunk `index`. Raises BadMessage: there is none."""
        check_index(self.content, index)
        return self._data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


class FileSource:
    """A `ContentSource` that reads a file of the user's in place. Made by `open_source`."""

    def __init__(self, path: Path, described: tuple[bytes, Content, bytes]) -> None:
        self.digest, self.content, self._manifest = described
        self._path = path
        self._disk = RealDisk(path.parent, threads=1)

    async def manifest(self) -> bytes:
        """Digests of all chunks."""
        return self._manifest

    async def read_chunk(self, index: int) -> bytes:
        """Chunk `index`.

        Raises:
            BadMessage: there is none. Conflict: the file is no longer what it was.
        """
        check_index(self.content, index)
        length = chunk_length(self.content, index)
        try:
            data = await self._disk.read(self._path.name, index * CHUNK_BYTES, length)
        except FileNotFoundError:
            data = b""
        if not is_chunk(self._manifest, self.content, index, data):
            raise Conflict(f"{self._path.name} has changed since it was read; put it again")
        return data


def check_index(content: Content, index: int) -> None:
    """Raises BadMessage where a content has no chunk `index`."""
    if not 0 <= index < chunk_count(content):
        raise BadMessage(f"there is no chunk {index}, only {chunk_count(content)}")


async def open_source(
    source: bytes | bytearray | memoryview | str | Path, progress: Progress | None = None
) -> ContentSource:
    """Bytes, or the file at a path, as something that can be given out.

    Raises:
        StorageError: the file cannot be read. BadMessage: it is neither.
    """
    if isinstance(source, str | Path):
        path = _absolute(source)
        return FileSource(path, await describe(path, progress))
    try:
        view = memoryview(source)  # of a number, `bytes` alone would make as many zeros
    except TypeError:
        raise BadMessage(f"data is bytes, or the path of a file, not of type {type(source).__name__!r}") from None
    return BytesSource(bytes(view))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


class MemorySink:
    """A `Sink` that keeps one content in memory."""

    def __init__(self) -> None:
        self._content: Content | None = None
        self._manifest = b""
        self._chunks: dict[int, bytes] = {}
        self._value: bytes | None = None

    async def begin(self, content_id: bytes, content: Content, manifest: bytes) -> None:
        """Raises BadMessage: not the manifest of that content."""
        check_manifest(content, manifest)
        if manifest != self._manifest:  # what came before was another's idea of this content
            self._chunks.clear()
        self._content, self._manifest = content, manifest

    def missing(self, content_id: bytes) -> list[int]:
        """Chunks that are not there yet, ascending."""
        if self._content is None or self._value is not None:
            return []
        return [index for index in range(chunk_count(self._content)) if index not in self._chunks]

    async def put_chunk(self, content_id: bytes, index: int, data: bytes) -> None:
        """Raises BadMessage: not that chunk."""
        if self._content is None or self._value is not None:
            raise BadMessage("no content was begun")
        check_index(self._content, index)
        if not is_chunk(self._manifest, self._content, index, data):
            raise BadMessage(f"chunk {index} is not what the manifest says")
        self._chunks[index] = bytes(data)

    def suspend(self, content_id: bytes) -> None:
        """What came stays here."""

    async def finish(self, content_id: bytes) -> None:
        """Raises BadMessage: chunks are missing, or the whole is not what its name says."""
        if self.missing(content_id):
            raise BadMessage(f"{len(self.missing(content_id))} chunks are missing")
        value = b"".join(self._chunks[index] for index in sorted(self._chunks))
        self._chunks.clear()
        if describe_bytes(value)[0] != content_id:
            raise BadMessage(f"the chunks fit their manifest, but are not sha256:{content_id.hex()}")
        self._value = value

    def value(self) -> bytes:
        """The whole, after `finish`."""
        if self._value is None:
            raise BadMessage("the content is not whole")
        return self._value


class FileSink:
    """A `Sink` that fetches into a file of the user's. Chunks gather in `<name>.part`, from where it resumes."""

    def __init__(self, path: Path) -> None:
        self.path = _absolute(path)
        self._part = f"{self.path.name}.part"
        self._disk = RealDisk(self.path.parent, threads=2, mode=USERS_MODE)
        self._assembly: Assembly | None = None

    async def begin(self, content_id: bytes, content: Content, manifest: bytes) -> None:
        """Takes up what the `.part` file holds of this content, and drops what it holds of another.

        Raises:
            BadMessage: not the manifest of that content. StorageError: the directory cannot be written, or is full.
        """
        if self.path.is_dir():
            raise StorageError(f"{self.path} is a directory; name a file")
        assembly = Assembly(self._disk, self._part, content, manifest)
        free = await self._disk.free()
        there = await self._disk.size(self._part) or 0
        if content.size - there > free:
            raise StorageError(f"{self.path} needs {content.size - there} bytes more, the disk has {free}")
        await assembly.recover()
        self._assembly = assembly

    def missing(self, content_id: bytes) -> list[int]:
        """Chunks that are not there yet, ascending."""
        return self._begun().missing()

    async def put_chunk(self, content_id: bytes, index: int, data: bytes) -> None:
        """Raises BadMessage: not that chunk. StorageError: the disk fails."""
        await self._begun().put(index, data)

    def suspend(self, content_id: bytes) -> None:
        """What came stays in the `.part` file."""

    async def finish(self, content_id: bytes) -> None:
        """Gives the file its name. Raises BadMessage: it is not the content of that name."""
        whole = await self._begun().complete(content_id)
        if not whole:
            await self._disk.remove(self._part)
            raise BadMessage(f"the chunks fit their manifest, but are not sha256:{content_id.hex()}; thrown away")
        await self._disk.replace(self._part, self.path.name)
        self._disk.close()

    def _begun(self) -> Assembly:
        if self._assembly is None:
            raise BadMessage("no content was begun")
        return self._assembly
