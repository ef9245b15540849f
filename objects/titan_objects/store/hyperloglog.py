"""HyperLogLog as Redis keeps it: 16,384 registers of 6 bits, with the estimator of Ertl (2017, arXiv:1702.01284)."""

import math
import struct

from titan_objects.store.resp import CommandError

REGISTERS = 1 << 14
_BITS = 50
_HEAD = 16
SIZE = _HEAD + REGISTERS * 6 // 8
_MASK = (1 << 64) - 1
_M = 0xC6A4A7935BD1E995

_STALE = 0x80
"""High bit of the cached count's last byte: it has to be counted anew."""


def murmur64(data: bytes, seed: int = 0xADC83B19) -> int:
    """MurmurHash64A."""
    h = (seed ^ (len(data) * _M)) & _MASK
    whole = len(data) & ~7
    for (k,) in struct.iter_unpack("<Q", data[:whole]):
        k = (k * _M) & _MASK
        k = ((k ^ (k >> 47)) * _M) & _MASK
        h = ((h ^ k) * _M) & _MASK
    if len(data) > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 47)) * _M) & _MASK
    return h ^ (h >> 47)


def new() -> bytearray:
    """An empty one."""
    return bytearray(b"HYLL" + bytes(SIZE - 4))


def place_of(element: bytes) -> tuple[int, int]:
    """The register of an element, and the value that it asks for."""
    hashed = murmur64(element)
    rest = (hashed >> 14) | (1 << _BITS)
    return hashed & (REGISTERS - 1), (rest & -rest).bit_length()


def registers(value: bytes | bytearray) -> list[int]:
    """All registers of a stored value, dense or sparse.

    Raises:
        CommandError: it is none.
    """
    if len(value) < _HEAD or value[:4] != b"HYLL" or value[4] > 1:
        raise CommandError(b"WRONGTYPE Key is not a valid HyperLogLog string value.")
    found = _sparse(value) if value[4] == 1 else _dense(value)
    if len(found) != REGISTERS:
        raise CommandError(b"INVALIDOBJ Corrupted HLL object detected")
    return found


def _dense(value: bytes | bytearray) -> list[int]:
    found: list[int] = []
    if len(value) == SIZE:
        for at in range(_HEAD, SIZE, 3):
            three = value[at] | value[at + 1] << 8 | value[at + 2] << 16
            found += (three & 63, three >> 6 & 63, three >> 12 & 63, three >> 18)
    return found


def _sparse(value: bytes | bytearray) -> list[int]:
    found: list[int] = []
    at = _HEAD
    while at < len(value) and len(found) <= REGISTERS:
        byte = value[at]
        if byte < 0x40:
            found += [0] * ((byte & 63) + 1)
        elif byte < 0x80:
            follows = value[at + 1] if at + 1 < len(value) else 0
            found += [0] * (((byte & 63) << 8 | follows) + 1)
            at += 1
        else:
            found += [(byte >> 2 & 31) + 1] * ((byte & 3) + 1)
        at += 1
    return found


def dense(values: list[int]) -> bytearray:
    """A stored value with these registers."""
    out = new()
    for at in range(0, REGISTERS, 4):
        a, b, c, d = values[at : at + 4]
        three = a | b << 6 | c << 12 | d << 18
        place = _HEAD + at // 4 * 3
        out[place : place + 3] = three.to_bytes(3, "little")
    out[15] = _STALE
    return out


def raise_register(value: bytearray, at: int, wanted: int) -> bool:
    """Whether a register of a dense value was below that; now it is not."""
    bit = at * 6
    place, shift = _HEAD + bit // 8, bit % 8
    pair = value[place] | (value[place + 1] << 8 if place + 1 < SIZE else 0)
    if pair >> shift & 63 >= wanted:
        return False
    pair = pair & ~(63 << shift) | wanted << shift
    value[place] = pair & 255
    if place + 1 < SIZE:
        value[place + 1] = pair >> 8
    value[15] |= _STALE
    return True


def count(values: list[int]) -> int:
    """How many different elements there were, about (0.81 % off, one in three)."""
    histogram = [0] * 64
    for each in values:
        histogram[each] += 1
    m = float(REGISTERS)
    z = m * _tau((m - histogram[_BITS + 1]) / m)
    for at in range(_BITS, 0, -1):
        z = 0.5 * (z + histogram[at])
    z += m * _sigma(histogram[0] / m)
    return round(0.721347520444481703680 * m * m / z)


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z = 1.0, 1 - x
    while True:
        x = math.sqrt(x)
        before, y = z, y * 0.5
        z -= (1 - x) ** 2 * y
        if before == z:
            return z / 3


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if before == z:
            return z
