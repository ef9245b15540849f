"""Frames of the Titan orchestrator's protocol: bytes in, frames out; a reply in, bytes out. No I/O.

    version u8 = 1 | opcode u8 | flags u8 | spare u8 | length of the body u32, big-endian | body, UTF-8

Flags and the spare byte mean nothing in it. A body has fields between `|`, with nothing to write a `|` itself with.
"""

import struct

import msgspec

VERSION = 1
HEADER = struct.Struct(">BBBBI")
BODY_BYTES_MAX = 10 << 20

ACK = 0x50
"""Of all replies but errors: the original sends data under it as well."""
ERROR = 0x51


class Frame(msgspec.Struct, frozen=True):
    """One request."""

    opcode: int
    body: bytes


class BadFrame(msgspec.Struct, frozen=True):
    """These bytes are no frame that is taken here; what comes after them nobody looks at."""

    why: str


class Decoder:
    """Frames of one connection, however its bytes were cut. It holds less than one frame of the largest size."""

    def __init__(self, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self.body_bytes_max = body_bytes_max
        """May grow: who has not shown a token is not let in with much."""
        self._buffer = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> None:
        """Takes more bytes."""
        if not self._broken:
            self._buffer += data

    def next(self) -> Frame | BadFrame | None:
        """The next frame; None: more bytes have to come. A `BadFrame` is the last that ever comes."""
        if self._broken or len(self._buffer) < HEADER.size:
            return None
        version, opcode, _, _, length = HEADER.unpack_from(self._buffer)
        if version != VERSION:
            return self._break(f"version {version} is not spoken here; {VERSION} is")
        if length > self.body_bytes_max:
            return self._break(f"a body of {length} bytes; {self.body_bytes_max} are the most")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Frame(opcode, body)

    def _break(self, why: str) -> BadFrame:
        self._broken = True
        self._buffer.clear()
        return BadFrame(why)


def encode(opcode: int, body: bytes) -> bytes:
    """A frame. Raises ValueError: the body is too long."""
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"a body of {len(body)} bytes; {BODY_BYTES_MAX} are the most")
    return HEADER.pack(VERSION, opcode, 0, 0, len(body)) + body
