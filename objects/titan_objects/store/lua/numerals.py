"""Numbers as the C in which Lua 5.1 and its libraries are written reads, writes and converts them on 64-bit machines.

Python's own ways differ (`1_0` is a number, a large integer an exception), and some from version to version.
"""

import re
import struct
from math import copysign, inf, nan

WORD = (1 << 64) - 1

_NUMBER = re.compile(
    rb"[+-]?(?:(?P<hex>0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?)"
    rb"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan(?:\([0-9a-z_]*\))?)",
    re.IGNORECASE,
)
_BLANKS = re.compile(rb"[ \t\n\v\f\r]*")


def number_at(text: bytes, at: int) -> tuple[float, int] | None:
    """C's `strtod` without blanks: the number that begins there, and where it ends. None: there is none."""
    found = _NUMBER.match(text, at)
    if found is None:
        return None
    word = found[0]
    if not found["hex"]:
        return float(word.partition(b"(")[0]), found.end()
    try:
        return float.fromhex(word.decode("ascii")), found.end()
    except OverflowError:
        return (-inf if word.startswith(b"-") else inf), found.end()


def number_of(text: bytes) -> float | None:
    """A text where Lua wants a number: blanks around it are none of it, and it ends at its first zero."""
    text = text.partition(b"\0")[0]
    found = number_at(text, _blanks(text, 0))
    return found[0] if found and _blanks(text, found[1]) == len(text) else None


def _blanks(text: bytes, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def integer_of(number: float) -> int:
    """As a signed integer of 64 bits; the lowest stands for all that have no place in it."""
    return int(number) if -(1 << 63) <= number < 1 << 63 else -(1 << 63)


def word_of(number: float) -> int:
    """As an unsigned integer of 64 bits, a negative one in two's complement."""
    if number >= 1 << 64:
        return 0
    return int(number) if number >= 1 << 63 else integer_of(number) & WORD


def single_of(number: float) -> bytes:
    """As a float of 32 bits, most significant byte first."""
    try:
        return struct.pack(">f", copysign(nan, number) if number != number else number)
    except OverflowError:
        return struct.pack(">f", copysign(inf, number))


def single_at(data: bytes) -> float:
    """What `single_of` has written. Of a NaN only the sign: what else is kept differs between versions of Python."""
    number: float = struct.unpack(">f", data)[0]
    return number if number == number else copysign(nan, -1 if data[0] & 0x80 else 1)
