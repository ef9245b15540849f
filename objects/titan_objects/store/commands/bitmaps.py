"""Bitmaps: strings whose bits are counted, set and searched."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option, slice_bounds
from titan_objects.store.commands.strings import STRING_MAX, editable
from titan_objects.store.resp import EMPTY, ONE, ZERO, CommandError, array, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("bitmap")

_PIECE_BITS = 1 << 16

_OFFSET = b"ERR bit offset is not an integer or out of range"


def _offset(word: bytes) -> int:
    at = integer(word, _OFFSET)
    if not 0 <= at < STRING_MAX * 8:
        raise CommandError(_OFFSET)
    return at


@group.command("setbit", 4, "write denyoom", keys=(1, 1, 1), since="2.2.0")
def setbit(e: "Engine", a: Args) -> bytes:
    """Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist."""
    at = _offset(a[2])
    if a[3] not in (b"0", b"1"):
        raise CommandError(b"ERR bit is not an integer or out of range")
    size = len(e.db.string(a[1]) or b"")
    value = editable(e, a[1], at // 8 + 1)
    mask = 0x80 >> at % 8
    byte = value[at // 8]
    value[at // 8] = byte | mask if a[3] == b"1" else byte & ~mask
    if value[at // 8] != byte or len(value) > size:
        e.touch(a[1], b"setbit", "$")
    return ONE if byte & mask else ZERO


@group.command("getbit", 3, "readonly fast", keys=(1, 1, 1), since="2.2.0")
def getbit(e: "Engine", a: Args) -> bytes:
    """Returns a bit value by offset."""
    at = _offset(a[2])
    value = e.db.string(a[1]) or b""
    return ONE if at // 8 < len(value) and value[at // 8] & (0x80 >> at % 8) else ZERO


def _unit(a: Args, at: int) -> bool:
    """Whether a range is one of bits."""
    if len(a) <= at:
        return False
    if len(a) > at + 1 or a[at].upper() not in (b"BIT", b"BYTE"):
        raise syntax_error()
    return a[at].upper() == b"BIT"


def _bits(value: bytes | bytearray, low: int, high: int) -> tuple[int, int]:
    """Bits from `low` to `high` (not included) as a number, and how many they are."""
    first, last = low // 8, -(-high // 8)
    whole = int.from_bytes(value[first:last], "big") >> (last * 8 - high)
    return whole & ((1 << (high - low)) - 1), high - low


def _pieces(value: bytes | bytearray, low: int, high: int) -> Iterator[tuple[int, int, int]]:
    """The same piece by piece, for a string may be long: where each begins, its bits as a number, and how many."""
    for begin in range(low, high, _PIECE_BITS):
        bits, count = _bits(value, begin, min(begin + _PIECE_BITS, high))
        yield begin, bits, count


@group.command("bitcount", -2, "readonly", keys=(1, 1, 1), since="2.6.0")
def bitcount(e: "Engine", a: Args) -> bytes:
    """Counts the number of set bits (population counting) in a string."""
    value = e.db.string(a[1])
    if value is None:
        return ZERO
    if len(a) == 3 or len(a) > 5:
        raise syntax_error()
    start, stop = (integer(a[2]), integer(a[3])) if len(a) > 2 else (0, -1)
    bits = _unit(a, 4)
    if not value or (start < 0 and stop < 0 and start > stop):
        return ZERO
    size = len(value) * 8 if bits else len(value)
    low, high = slice_bounds(start, max(stop, -size), size)
    if not bits:
        low, high = low * 8, high * 8
    return number(sum(piece.bit_count() for _, piece, _ in _pieces(value, low, high)))


@group.command("bitpos", -3, "readonly", keys=(1, 1, 1), since="2.8.7")
def bitpos(e: "Engine", a: Args) -> bytes:
    """Finds the first set (1) or clear (0) bit in a string."""
    wanted = integer(a[2])
    if wanted not in (0, 1):
        raise CommandError(b"ERR The bit argument must be 1 or 0.")
    value = e.db.string(a[1])
    if value is None:
        return ZERO if wanted == 0 else b":-1\r\n"
    start = integer(a[3]) if len(a) > 3 else 0
    in_bits = _unit(a, 5)
    stop = integer(a[4]) if len(a) > 4 else -1
    size = len(value) * 8 if in_bits else len(value)
    low, high = slice_bounds(start, max(stop, -size) if stop < 0 else stop, size)
    if low >= high:
        return b":-1\r\n"
    if not in_bits:
        low, high = low * 8, high * 8
    for begin, bits, count in _pieces(value, low, high):
        searched = bits if wanted else ~bits & ((1 << count) - 1)
        if searched:
            return number(begin + count - searched.bit_length())
    # Behind the end of a string stand zeros, unless the range has an end of its own.
    return number(high) if wanted == 0 and len(a) < 5 else b":-1\r\n"


_OPERATIONS: dict[bytes, Callable[[int, int], int]] = {
    b"AND": lambda a, b: a & b,
    b"OR": lambda a, b: a | b,
    b"XOR": lambda a, b: a ^ b,
}


@group.command("bitop", -4, "write denyoom", keys=(2, -1, 1), since="2.6.0")
def bitop(e: "Engine", a: Args) -> bytes:
    """Performs bitwise operations on multiple strings, and stores the result."""
    name = a[1].upper()
    if name not in (*_OPERATIONS, b"NOT"):
        raise syntax_error()
    if name == b"NOT" and len(a) != 4:
        raise CommandError(b"ERR BITOP NOT must be called with a single source key.")
    values = [bytes(e.db.string(key) or b"") for key in a[3:]]
    size = max(map(len, values))
    numbers = [int.from_bytes(value.ljust(size, b"\0"), "big") for value in values]
    if name == b"NOT":
        result = ~numbers[0] & ((1 << size * 8) - 1)
    else:
        result = numbers[0]
        for each in numbers[1:]:
            result = _OPERATIONS[name](result, each)
    if size:
        e.db.put(a[2], result.to_bytes(size, "big"))
        e.touch(a[2], b"set", "$")
    elif e.db.get(a[2]) is not None:
        e.removed(a[2])
    return number(size)


_BITS = re.compile(rb"[1-9][0-9]?").fullmatch


class _Field:
    """A number of `bits` bits at a place in a string."""

    def __init__(self, kind: bytes, where: bytes) -> None:
        self.signed = kind[:1] == b"i"
        bits = kind[1:]
        if kind[:1] not in (b"i", b"u") or not _BITS(bits) or int(bits) > 64 - (not self.signed):
            raise CommandError(
                b"ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is."
            )
        self.bits = int(bits)
        times = self.bits if where[:1] == b"#" else 1
        self.at = integer(where.removeprefix(b"#"), _OFFSET) * times
        if not 0 <= self.at < STRING_MAX * 8:  # what is read behind the longest string is zeros, too
            raise CommandError(_OFFSET)

    def _window(self, value: bytes | bytearray) -> tuple[int, int, int]:
        """The bytes that it is in, as one number; where they begin, and how many bits of them stand behind it."""
        first, last = self.at // 8, -(-(self.at + self.bits) // 8)
        held = bytes(value[first:last]).ljust(last - first, b"\0")
        return int.from_bytes(held, "big"), first, last * 8 - self.at - self.bits

    def read(self, value: bytes | bytearray) -> int:
        window, _, behind = self._window(value)
        found = window >> behind & ((1 << self.bits) - 1)
        return found - (1 << self.bits) if self.signed and found >> (self.bits - 1) else found

    def write(self, value: bytearray, new: int) -> None:
        window, first, behind = self._window(value)
        mask = (1 << self.bits) - 1
        size = -(-(self.at + self.bits) // 8) - first
        value[first : first + size] = (window & ~(mask << behind) | (new & mask) << behind).to_bytes(size, "big")

    def fitted(self, new: int, overflow: bytes) -> int | None:
        """The number as it can be stored; None: it cannot be."""
        low, high = (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)
        if low <= new <= high:
            return new
        if overflow == b"FAIL":
            return None
        if overflow == b"SAT":
            return low if new < low else high
        wrapped = new & ((1 << self.bits) - 1)
        return wrapped - (1 << self.bits) if self.signed and wrapped >> (self.bits - 1) else wrapped


def _bitfield(e: "Engine", a: Args, may_write: bool) -> bytes:
    steps: list[tuple[bytes, _Field, int, bytes]] = []
    overflow, at = b"WRAP", 2
    while at < len(a):
        word = a[at].upper()
        if word == b"OVERFLOW":
            overflow = option(a, at + 1).upper()
            if overflow not in (b"WRAP", b"SAT", b"FAIL"):
                raise CommandError(b"ERR Invalid OVERFLOW type specified")
            at += 2
            continue
        behind = at + (3 if word == b"GET" else 4)
        if word not in (b"GET", b"SET", b"INCRBY") or behind > len(a):
            raise syntax_error()
        steps.append((word, _Field(a[at + 1], a[at + 2]), 0 if word == b"GET" else integer(a[at + 3]), overflow))
        at = behind
    writes = [field.at + field.bits for word, field, _, _ in steps if word != b"GET"]
    if writes and not may_write:
        raise CommandError(b"ERR BITFIELD_RO only supports the GET subcommand")
    if writes and max(writes) > STRING_MAX * 8:
        raise CommandError(_OFFSET)
    value: bytes | bytearray = e.db.string(a[1]) or b""
    size = len(value)
    if not steps:
        return EMPTY
    if writes:
        value = editable(e, a[1], -(-max(writes) // 8))
    changed = len(value) > size
    replies = []
    for word, field, given, how in steps:
        old = field.read(value)
        if word == b"GET":
            replies.append(number(old))
            continue
        # Redis takes a negative number for an unsigned field as one of 64 bits: it is too great, not too small.
        wanted = given if field.signed else given & ((1 << 64) - 1)
        new = field.fitted(wanted if word == b"SET" else old + given, how)
        if new is None:
            replies.append(e.reply.null)
            continue
        assert isinstance(value, bytearray)
        field.write(value, new)
        changed = changed or new != old
        replies.append(number(old if word == b"SET" else new))
    if changed:
        e.touch(a[1], b"setbit", "$")
    return array(replies)


@group.command("bitfield", -2, "write denyoom", keys=(1, 1, 1), since="3.2.0")
def bitfield(e: "Engine", a: Args) -> bytes:
    """Performs arbitrary bitfield integer operations on strings."""
    return _bitfield(e, a, True)


@group.command("bitfield_ro", -2, "readonly fast", keys=(1, 1, 1), since="6.0.0")
def bitfield_ro(e: "Engine", a: Args) -> bytes:
    """Performs arbitrary read-only bitfield integer operations on strings."""
    return _bitfield(e, a, False)
