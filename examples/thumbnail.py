"""A service that computes: small copies of pictures, made in a process of its own.

    titan publish examples/thumbnail.py:Thumbnails --name img/thumb

    from thumbnail import Thumb
    small = await pool.send("img/thumb", Thumb(Path("cat.ppm").read_bytes(), 64))     # type checkers know: bytes

Pictures are binary PPM (P6, 8 bits a colour), so that the example needs no other package.
"""

import re

import titan_overlay as titan

PIXELS_MAX = 16_000_000
HEAD = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s", re.ASCII)


@titan.error("img.unreadable")
class Unreadable(titan.RemoteError):
    """The bytes are no picture that this service reads."""


class Thumb(titan.Message[bytes], namespace="img"):
    """A picture, and the longer side of the copy that is wanted, in pixels."""

    raw: bytes
    size: int = 64


@titan.service("img/*", policy=titan.Policy(min_copies=2), isolation="process")
class Thumbnails:
    """Makes small pictures of big ones."""

    @titan.idempotent
    async def thumb(self, message: Thumb) -> bytes:
        """A copy at most `size` pixels wide and high, each pixel the mean of those it stands for."""
        head = HEAD.match(message.raw)
        if head is None or message.size < 1:
            raise Unreadable("send a binary PPM (P6, maximum 255) and a size of at least 1")
        width, height = int(head[1]), int(head[2])
        pixels = message.raw[head.end() :]
        if not 0 < width * height <= PIXELS_MAX or len(pixels) != 3 * width * height:
            raise Unreadable(f"{width} x {height} pixels are not {len(pixels)} bytes, or more than {PIXELS_MAX}")
        scale = max(1.0, max(width, height) / message.size)
        columns, rows = max(1, int(width / scale)), max(1, int(height / scale))
        body = bytearray()
        for row in range(rows):
            top, bottom = row * height // rows, (row + 1) * height // rows
            for column in range(columns):
                left, right = column * width // columns, (column + 1) * width // columns
                body += _mean(pixels, width, left, right, top, bottom)
        return b"P6 %d %d 255\n" % (columns, rows) + body


def _mean(pixels: bytes, width: int, left: int, right: int, top: int, bottom: int) -> bytes:
    """The mean colour of a rectangle, 3 bytes."""
    count = (right - left) * (bottom - top)
    lines = [pixels[3 * (y * width + left) : 3 * (y * width + right)] for y in range(top, bottom)]
    return bytes(sum(sum(line[colour::3]) for line in lines) // count for colour in range(3))
