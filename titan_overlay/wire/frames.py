"""Frames: what a link carries. Bytes in, frames out; no I/O.

    version u8 = 1 | opcode u8 | flags u8 | spare u8 | payload length u32 | payload        (big-endian)

The payload is msgpack (`wire/messages.py`). Payloads that shrink travel as one zstd frame with its content size, so
that the receiver knows what it will cost before it pays.
"""

from collections.abc import Callable, Iterator
from enum import IntFlag
from functools import cache
from struct import Struct
from typing import Any

import msgspec

from titan_overlay.errors import BadMessage

VERSION = 1
MAX_PAYLOAD_BYTES = 1 << 20
"""1 MiB, before and after compression. What is bigger travels in chunks."""

COMPRESS_FROM_BYTES = 1024
"""Smaller payloads are not worth the attempt."""

PIECES_MAX = 256
"""Of an incomplete frame, kept apart: a peer that sends byte by byte would make each cost fifty."""

HEADER = Struct(">BBBBI")
HEADER_BYTES = HEADER.size


class Flags(IntFlag):
    """Third byte of a frame."""

    NONE = 0
    COMPRESSED = 1
    ERROR = 2
    MORE = 4
    ENCRYPTED = 8


Frame = tuple[int, int, bytes]
"""Opcode, flags, payload (expanded). A plain tuple of plain integers: one is made for every message."""

_UNKNOWN_FLAGS = 0xFF & ~int(Flags.COMPRESSED | Flags.ERROR | Flags.MORE)
_COMPRESSED = int(Flags.COMPRESSED)
_GAP = bytes(HEADER_BYTES)

_encode_into: Callable[[Any, bytearray, int], None] = msgspec.msgpack.Encoder().encode_into


@cache
def _zstd() -> tuple[Any, Any]:
    """What compresses and what expands; an idle node has never sent anything large, and not loaded it."""
    import zstandard

    return (
        zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False),
        zstandard.ZstdDecompressor(),
    )


def append(out: bytearray, opcode: int, flags: int, body: Any) -> int:
    """Add one frame with this body (any msgpack value) to `out`; returns its size, header included.

    Raises:
        BadMessage: the payload is over the limit.
        TypeError: the body is nothing that msgpack can say. Either way `out` is as it was.
    """
    start = len(out)
    out += _GAP
    try:
        _encode_into(body, out, start + HEADER_BYTES)
    except Exception:
        del out[start:]
        raise
    size = len(out) - start - HEADER_BYTES
    if size >= COMPRESS_FROM_BYTES:
        if size > MAX_PAYLOAD_BYTES:
            del out[start:]
            raise BadMessage(f"{size} bytes in one frame; the limit is {MAX_PAYLOAD_BYTES}")
        with memoryview(out) as view:
            small = _zstd()[0].compress(view[start + HEADER_BYTES :])
        if len(small) < size - size // 8:
            out[start + HEADER_BYTES :] = small
            size = len(small)
            flags |= _COMPRESSED
    HEADER.pack_into(out, start, VERSION, opcode, flags, 0, size)
    return size + HEADER_BYTES


def _expand(payload: bytes) -> bytes:
    import zstandard

    try:
        # The size is checked before anything is allocated: a few bytes may claim to be gigabytes.
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= MAX_PAYLOAD_BYTES:
            raise BadMessage(f"a compressed payload that claims {size} bytes")
        expand: Callable[..., bytes] = _zstd()[1].decompress
        return expand(payload, max_output_size=MAX_PAYLOAD_BYTES, allow_extra_data=False)
    except zstandard.ZstdError as why:
        raise BadMessage(f"not a zstd frame: {why}") from None


class FrameReader:
    """Cuts a stream of bytes into frames, holding at most one incomplete frame.

    Total: any bytes give frames or `BadMessage`, after which the stream cannot be trusted and the reader is done.
    """

    __slots__ = ("_begun", "_have", "_need", "_parts")

    def __init__(self) -> None:
        self._begun = 1
        self._parts: list[bytes] = []
        self._have = 0
        self._need = HEADER_BYTES

    @property
    def pending_bytes(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return self._have

    @property
    def partial(self) -> int:
        """The frame that is not complete yet: the same number until it is, then another. 0: there is none."""
        return self._begun if self._parts else 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete, in order, each cut (and expanded) when it is asked for.

        Take them all before feeding more.

        Raises:
            BadMessage: wrong version, unknown flags, over the limit, or not zstd where it says so.
        """
        if self._parts or len(data) < HEADER_BYTES:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                if len(self._parts) > PIECES_MAX:
                    self._parts = [b"".join(self._parts)]
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, end = 0, len(data)
        self._need = HEADER_BYTES
        unpack = HEADER.unpack_from
        while end - at >= HEADER_BYTES:
            version, opcode, flags, _, size = unpack(data, at)
            if version != VERSION or size > MAX_PAYLOAD_BYTES or flags & _UNKNOWN_FLAGS:
                raise _refusal(version, flags, size)
            stop = at + HEADER_BYTES + size
            if stop > end:
                self._need = HEADER_BYTES + size
                break
            payload = data[at + HEADER_BYTES : stop]
            at = stop
            yield opcode, flags, _expand(payload) if flags & _COMPRESSED else payload
        self._have = end - at
        self._begun += at > 0
        if at < end:
            self._parts.append(data[at:])


def _refusal(version: int, flags: int, size: int) -> BadMessage:
    if version != VERSION:
        return BadMessage(f"frames of version {version}; this node speaks version {VERSION}")
    if size > MAX_PAYLOAD_BYTES:
        return BadMessage(f"a frame of {size} bytes; the limit is {MAX_PAYLOAD_BYTES}: stream it or put it as data")
    if flags & Flags.ENCRYPTED:
        return BadMessage("an encrypted frame; links are encrypted by TLS")
    return BadMessage(f"unknown flags {flags:#04x}")
