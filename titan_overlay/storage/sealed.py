"""Content that only who has the key can read, sealed chunk by chunk, so that a file of any size takes little memory.

    sealed chunk = salt (32 bytes) | AES-256-GCM(piece of the content) | tag (16 bytes)

One key seals one content and nothing else, so a nonce is the number of the piece and whether it is the last (STREAM;
Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015, section 7). Salt and key come from the publisher's own key and, for
the salt, the content: putting the same file again gives the same sealed bytes, and nobody else can tell what they are.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from titan_overlay.errors import Forbidden
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Content
from titan_overlay.storage.content import CHUNK_BYTES, Describer, chunk_count
from titan_overlay.storage.disk import RealDisk
from titan_overlay.storage.files import (
    BytesSource,
    ContentSource,
    FileSink,
    MemorySink,
    check_index,
    open_source,
    save,
)

SALT_BYTES: Final = 32
TAG_BYTES: Final = 16
PIECE_BYTES: Final = CHUNK_BYTES - SALT_BYTES - TAG_BYTES
"""Bytes of the content in every sealed chunk but the last."""

KeyFor = Callable[[bytes], bytes]
"""Gives the key for a salt."""


def key_of(user: SigningKey, salt: bytes) -> bytes:
    """The 32-byte key of what this user sealed with this salt."""
    return user.derive(b"sealed/key", salt)


def _nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(11) + bytes([last])


class SealedSource:
    """A `ContentSource` of another one's content, sealed. Made by `seal`; `key` opens it."""

    def __init__(self, plain: ContentSource, key: bytes, salt: bytes) -> None:
        self.key = key
        self.digest = b""
        self.content: Content
        self._plain = plain
        self._salt = salt
        self._cipher = AESGCM(key)
        self._manifest = b""
        self._last = max(0, plain.content.size - 1) // PIECE_BYTES

    @classmethod
    async def seal(cls, plain: ContentSource, user: SigningKey) -> Self:
        """Reads the content once, to learn what its sealed form is called."""
        salt = user.derive(b"sealed/salt", plain.digest)
        made = cls(plain, key_of(user, salt), salt)
        describer = Describer()
        for index in range(made._last + 1):
            describer.add(await made._seal(index))
        made.digest, made.content, made._manifest = describer.result()
        return made

    async def manifest(self) -> bytes:
        """Digests of all sealed chunks."""
        return self._manifest

    async def read_chunk(self, index: int) -> bytes:
        """Sealed chunk `index`. Raises as the source of the content does."""
        check_index(self.content, index)
        return await self._seal(index)

    async def _seal(self, index: int) -> bytes:
        piece = await _read(self._plain, index * PIECE_BYTES, PIECE_BYTES)
        return self._salt + self._cipher.encrypt(_nonce(index, index == self._last), piece, None)


async def _read(source: ContentSource, start: int, size: int) -> bytes:
    """Bytes of a content, from the chunks that they lie in."""
    end = min(start + size, source.content.size)
    if start >= end:
        return b""
    first, last = start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
    parts = [await source.read_chunk(index) for index in range(first, last + 1)]
    return b"".join(parts)[start - first * CHUNK_BYTES : end - first * CHUNK_BYTES]


async def unseal(source: ContentSource, key_for: KeyFor) -> AsyncIterator[bytes]:
    """The content in a sealed one, piece by piece.

    Raises:
        Forbidden: not the key of this content, or it is not sealed at all.
    """
    count = chunk_count(source.content)
    cipher: AESGCM | None = None
    for index in range(count):
        chunk = await source.read_chunk(index)
        if cipher is None:
            cipher = AESGCM(key_for(chunk[:SALT_BYTES]))
        try:
            yield cipher.decrypt(_nonce(index, index == count - 1), chunk[SALT_BYTES:], None)
        except (InvalidTag, ValueError):
            raise _closed(source) from None
    if cipher is None:
        raise _closed(source)


def _closed(source: ContentSource) -> Forbidden:
    return Forbidden(f"this key does not open sha256:{source.digest.hex()[:16]}; ask who put it for the key")


class UnsealedMemory(MemorySink):
    """A `Sink` that fetches a sealed content into memory; `value` is what was sealed."""

    def __init__(self, key_for: KeyFor) -> None:
        super().__init__()
        self._key_for = key_for

    async def finish(self, content_id: bytes) -> None:
        """As of `MemorySink`. Raises Forbidden: not the key."""
        await super().finish(content_id)
        self._value = b"".join([piece async for piece in unseal(BytesSource(self.value()), self._key_for)])


class UnsealedFile(FileSink):
    """A `Sink` that fetches a sealed content into `<name>.sealed`, and what was sealed from there into the file."""

    def __init__(self, path: Path, key_for: KeyFor) -> None:
        super().__init__(path.with_name(f"{path.name}.sealed"))
        self._target = path
        self._key_for = key_for

    async def finish(self, content_id: bytes) -> None:
        """As of `FileSink`. Raises Forbidden: not the key; the file is not touched."""
        await super().finish(content_id)
        with closing(RealDisk(self.path.parent, threads=1)) as disk:
            try:
                await save(unseal(await open_source(self.path), self._key_for), self._target)
            finally:
                await disk.remove(self.path.name)
