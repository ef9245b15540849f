"""HyperLogLog as Redis keeps it: 16,384 registers of 6 bits, with the estimator of Ertl (2017, arXiv:1702.01284).

A value is dense, with all registers, or sparse, with runs of equal ones, so that few elements take few bytes:

    00xxxxxx            so many registers, and one more, are 0
    01xxxxxx xxxxxxxx   the same
    1vvvvvxx            so many, and one more, are v + 1

Dense values are changed where they are; sparse ones are bytes, and made anew.
"""

import math
import struct
from collections.abc import Iterator
from itertools import groupby

from titan_objects.store.resp import CommandError

REGISTERS = 1 << 14
_BITS = 50
_HEAD = 16
SIZE = _HEAD + REGISTERS * 6 // 8
_MASK = (1 << 64) - 1
_M = 0xC6A4A7935BD1E995

_CORRUPTED = b"INVALIDOBJ Corrupted HLL object detected"

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


EMPTY = b"HYLL\x01" + bytes(10) + b"\x80" + b"\x7f\xff"
"""A sparse one without elements, which nobody has counted."""

_SPARSE_LEVEL_MAX = 32

ZEROS_SHORT_MAX = 64
"""Registers of a run of one byte."""

JOINED = 5
"""Runs that are looked at again where a register was raised."""

FEW = 32
"""Elements that are added to a sparse value one by one; for more, all registers are looked at once."""


def kept_count(value: bytes | bytearray) -> int | None:
    """The count that a value holds; None: it has to be counted anew. Raises CommandError: it is no value."""
    _check(value)
    return None if value[15] & _STALE else int.from_bytes(value[8:16], "little")


def with_count(value: bytes | bytearray, count: int) -> bytes | bytearray:
    """A value that holds its count; a dense one is changed where it is."""
    if isinstance(value, bytearray):
        value[8:16] = count.to_bytes(8, "little")
        return value
    return value[:8] + count.to_bytes(8, "little") + value[16:]


def is_sparse(value: bytes | bytearray) -> bool:
    """Whether a value that is one is sparse."""
    return value[4] == 1


def place_of(element: bytes) -> tuple[int, int]:
    """The register of an element, and the value that it asks for."""
    hashed = murmur64(element)
    rest = (hashed >> 14) | (1 << _BITS)
    return hashed & (REGISTERS - 1), (rest & -rest).bit_length()


def registers(value: bytes | bytearray) -> list[int]:
    """All registers of a stored value, dense or sparse.

    Raises:
        CommandError: it is none, or damaged.
    """
    _check(value)
    found = _sparse(value) if value[4] == 1 else _dense(value)
    if len(found) != REGISTERS:
        raise CommandError(_CORRUPTED)
    return found


def _check(value: bytes | bytearray) -> None:
    if len(value) < _HEAD or value[:4] != b"HYLL" or value[4] > 1 or (value[4] == 0 and len(value) != SIZE):
        raise CommandError(b"WRONGTYPE Key is not a valid HyperLogLog string value.")


def added(value: bytes | bytearray, places: list[tuple[int, int]], sparse_max: int) -> tuple[bytes | bytearray, bool]:
    """A value with more elements, and whether that made a difference; a dense one is changed where it is.

    Args:
        places: of the elements.
        sparse_max: bytes; what would have more is dense.

    Raises:
        CommandError: it is none, or damaged.
    """
    _check(value)
    changed = False
    if not is_sparse(value):  # it stays so
        kept = value if isinstance(value, bytearray) else bytearray(value)
        for place in places:
            changed = raise_register(kept, *place) or changed
        return kept, changed
    one_by_one = len(places) <= FEW and len(value) <= SIZE
    if one_by_one:
        before = spliced = bytes(value)
        for place in places:
            after = with_register(spliced, *place)
            if after is None:
                break
            spliced = after
        else:
            if len(spliced) <= sparse_max:
                return spliced, spliced is not before
    levels = registers(value)
    for at, wanted in places:
        if levels[at] < wanted:
            levels[at], changed = wanted, True
    if not changed:
        return value, False
    return (dense(levels) if one_by_one else stored(levels, sparse_max)), True


def stored(levels: list[int], sparse_max: int) -> bytes | bytearray:
    """A value with these registers: sparse, if that takes no more bytes than so many."""
    few = sparse(levels) if levels.count(0) * 2 > REGISTERS else None
    return few if few is not None and len(few) <= sparse_max else dense(levels)


def _dense(value: bytes | bytearray) -> list[int]:
    found: list[int] = []
    for at in range(_HEAD, SIZE, 3):
        three = value[at] | value[at + 1] << 8 | value[at + 2] << 16
        found += (three & 63, three >> 6 & 63, three >> 12 & 63, three >> 18)
    return found


def _sparse(value: bytes | bytearray) -> list[int]:
    found: list[int] = []
    for level, count in runs(value):
        found += [level] * count
        if len(found) > REGISTERS:
            break
    return found


def dense(values: list[int]) -> bytearray:
    """A stored value with these registers."""
    out = bytearray(b"HYLL" + bytes(SIZE - 4))
    for at in range(0, REGISTERS, 4):
        a, b, c, d = values[at : at + 4]
        three = a | b << 6 | c << 12 | d << 18
        place = _HEAD + at // 4 * 3
        out[place : place + 3] = three.to_bytes(3, "little")
    out[15] = _STALE
    return out


def sparse(values: list[int]) -> bytes | None:
    """The same, sparse; None: a register is too high for that."""
    out = bytearray(EMPTY[:15]) + bytes((_STALE,))
    for level, same in groupby(values):
        if level > _SPARSE_LEVEL_MAX:
            return None
        out += _run(level, sum(1 for _ in same))
    return bytes(out)


def _run(level: int, count: int) -> bytes:
    """So many registers of that level."""
    if not count:
        return b""
    if level:
        whole, rest = divmod(count, 4)
        code = 0x80 | level - 1 << 2
        return bytes((code | 3,)) * whole + (bytes((code | rest - 1,)) if rest else b"")
    return bytes((count - 1,)) if count <= ZEROS_SHORT_MAX else bytes((0x40 | count - 1 >> 8, count - 1 & 255))


def runs(value: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Levels of a sparse value, and how many registers have each, in their order."""
    at = _HEAD
    while at < len(value):
        level, count, size = _decoded(value, at)
        yield level, count
        at += size


def _decoded(value: bytes | bytearray, at: int) -> tuple[int, int, int]:
    """Of the run at that place: its level, its registers, and its bytes."""
    byte = value[at]
    if byte >= 0x80:
        return (byte >> 2 & 31) + 1, (byte & 3) + 1, 1
    if byte < 0x40:
        return 0, byte + 1, 1
    follows = value[at + 1] if at + 1 < len(value) else 0
    return 0, ((byte & 63) << 8 | follows) + 1, 2


_COUNTS = [byte + 1 if byte < 0x40 else (byte & 3) + 1 if byte >= 0x80 else 0 for byte in range(256)]
"""How many registers a run of one byte has; 0: it has two bytes."""


def with_register(value: bytes, register: int, wanted: int) -> bytes | None:
    """A sparse value in which a register is at least that; the very same if it is so already, None: it cannot be.

    Raises:
        CommandError: it is damaged.
    """
    if wanted > _SPARSE_LEVEL_MAX:
        return None
    at, previous, first, size = _HEAD, _HEAD, 0, len(value)
    while at < size:
        count = _COUNTS[value[at]] or _decoded(value, at)[1]
        if first + count > register:
            break
        first += count
        previous = at
        at += 1 + (0x40 <= value[at] < 0x80)
    else:
        raise CommandError(_CORRUPTED)
    level, count, taken = _decoded(value, at)
    if level >= wanted:
        return value
    before = register - first
    changed = _run(level, before) + _run(wanted, 1) + _run(level, count - before - 1)
    made = b"%b%c%b%b%b" % (value[:15], value[15] | _STALE, value[16:at], changed, value[at + taken :])
    return _joined(made, previous)


def _joined(value: bytes, at: int) -> bytes:
    """The same in which equal runs that lie side by side are one, if that is among the next that Redis looks at."""
    for _ in range(JOINED):
        pair = value[at : at + 2]
        if not pair:
            break
        if pair[0] < 0x80:
            at += 1 + (pair[0] >= 0x40)
        elif len(pair) == 2 and pair[0] >> 2 == pair[1] >> 2 and (pair[0] & 3) + (pair[1] & 3) < 3:
            value = b"%b%c%b" % (value[:at], pair[0] + (pair[1] & 3) + 1, value[at + 2 :])
        else:
            at += 1
    return value


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
