"""Content in chunks: arithmetic and checks, without I/O.

A content is named by the SHA-256 of its bytes. Its manifest is the SHA-256 digests of its chunks, one after the
other; `Content.manifest` is the SHA-256 of that. So a chunk can be verified the moment it arrives, from anybody.
"""

from hashlib import sha256

from titan_overlay.errors import BadMessage
from titan_overlay.identity.statements import Content

CHUNK_BYTES = 256 * 1024
"""Every chunk but the last has this many bytes."""

DIGEST_BYTES = 32


def chunk_count(content: Content) -> int:
    """How many chunks there are; 0 for no bytes at all."""
    return -(-content.size // CHUNK_BYTES)


def chunk_length(content: Content, index: int) -> int:
    """Bytes in chunk `index`, which must be below `chunk_count`."""
    return min(CHUNK_BYTES, content.size - index * CHUNK_BYTES)


def check_content(content: Content) -> None:
    """Whether these figures can be of a content.

    Raises:
        BadMessage: another chunk size, or an impossible one.
    """
    if content.chunk_bytes != CHUNK_BYTES:
        raise BadMessage(f"chunks have {CHUNK_BYTES} bytes here, not {content.chunk_bytes}")
    if content.size < 0 or len(content.manifest) != DIGEST_BYTES:
        raise BadMessage("a content has a size of 0 or more and a manifest of 32 bytes")


def check_manifest(content: Content, manifest: bytes) -> None:
    """Whether these are the digests of the content's chunks.

    Raises:
        BadMessage: they are not.
    """
    check_content(content)
    if len(manifest) != DIGEST_BYTES * chunk_count(content) or sha256(manifest).digest() != content.manifest:
        raise BadMessage("this is not the manifest that the descriptor names")


def manifest_of_small(content_id: bytes, content: Content) -> bytes | None:
    """The manifest, where it need not be asked for: of no chunk, or of one, whose digest is the content's name."""
    count = chunk_count(content)
    return None if count > 1 else content_id[: DIGEST_BYTES * count]


def is_chunk(manifest: bytes, content: Content, index: int, data: bytes) -> bool:
    """Whether `data` is chunk `index`."""
    if len(data) != chunk_length(content, index):
        return False
    start = DIGEST_BYTES * index
    return sha256(data).digest() == manifest[start : start + DIGEST_BYTES]


class Describer:
    """Computes what a content is called, from its bytes handed in chunk by chunk."""

    __slots__ = ("_digests", "_short", "_size", "_whole")

    def __init__(self) -> None:
        self._whole = sha256()
        self._digests = bytearray()
        self._size = 0
        self._short = False

    def add(self, chunk: bytes) -> None:
        """The next chunk; all but the last have `CHUNK_BYTES`."""
        if self._short or not 0 < len(chunk) <= CHUNK_BYTES:
            raise ValueError(f"all chunks but the last have {CHUNK_BYTES} bytes")
        self._short = len(chunk) < CHUNK_BYTES
        self._whole.update(chunk)
        self._digests += sha256(chunk).digest()
        self._size += len(chunk)

    def result(self) -> tuple[bytes, Content, bytes]:
        """(SHA-256 of all bytes, `Content`, manifest)."""
        manifest = bytes(self._digests)
        content = Content(self._size, CHUNK_BYTES, sha256(manifest).digest())
        return self._whole.digest(), content, manifest
