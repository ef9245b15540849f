"""The library `cmsgpack` of scripts: values as MessagePack (lua_cmsgpack 0.4.0, in the old form of the format)."""

import struct
from collections.abc import Callable
from math import isnan
from typing import Any

from titan_objects.store.lua.numerals import single_at, single_of
from titan_objects.store.lua.values import Arguments, Lua, Refused

PACKED_DEPTH_MAX = 16
"""Tables that are nested deeper are packed as nil."""

DEPTH_MAX = 3999
"""Tables in tables of what is unpacked. In Redis each has two places on Lua's stack, which ends at 8,000."""

RESULTS_MAX = 4096
"""Values of one unpacking. They all stand on Lua's stack."""


def pack(args: Arguments) -> bytes:
    """Values as MessagePack, one after the other. Raises Refused, as all of these."""
    if not args.values:
        raise args.wrong(0, b"MessagePack pack needs input.")
    args.lua.begin()
    parts: list[bytes] = []
    for value in args.values:
        args.lua.count(value)
        _write(args.lua, parts, value, 0)
    return b"".join(parts)


def _write(lua: Lua, parts: list[bytes], value: Any, depth: int) -> None:
    kind = type(value)
    if kind is bytes:
        parts += (_head(len(value), 0xA0, 32, b"\xd9\xda\xdb"), value)
    elif kind is bool:
        parts.append(b"\xc3" if value else b"\xc2")
    elif kind is int or kind is float:
        parts.append(_number(value))
    elif value is None or lua.kind(value) != "table" or depth == PACKED_DEPTH_MAX:
        parts.append(b"\xc0")
    else:
        pairs = lua.pairs(value)
        if _is_array(pairs):
            parts.append(_head(len(pairs), 0x90, 16, b"\0\xdc\xdd"))
            elements = dict(pairs)
            for at in range(1, len(pairs) + 1):
                _write(lua, parts, elements[at], depth + 1)
        else:
            if not all(isinstance(key, (bytes, int, float)) for key, _ in pairs):
                raise Refused(b"cannot pack a table with keys that are tables or functions: they have no order")
            parts.append(_head(len(pairs), 0x80, 16, b"\0\xde\xdf"))
            for key, each in pairs:
                _write(lua, parts, key, depth + 1)
                _write(lua, parts, each, depth + 1)


def _is_array(pairs: list[tuple[Any, Any]]) -> bool:
    """The keys are 1 to their number."""
    size = len(pairs)
    return all(type(key) is int and 0 < key <= size for key, _ in pairs)


def _head(size: int, small: int, below: int, codes: bytes) -> bytes:
    """How something of that size begins; `codes` are for sizes of one, two and four bytes, 0: there is none."""
    if size < below:
        return bytes((small | size,))
    if size < 256 and codes[0]:
        return bytes((codes[0], size))
    return struct.pack(">BH", codes[1], size) if size < 1 << 16 else struct.pack(">BI", codes[2], size)


def _number(value: int | float) -> bytes:
    number = float(value)
    if not number.is_integer() or not -(1 << 63) <= number < 1 << 63:
        single = single_of(number)
        return b"\xca" + single if single_at(single) == number else struct.pack(">Bd", 0xCB, number)
    whole = int(number)
    if -32 <= whole < 128:
        return struct.pack("b", whole)
    bits = whole.bit_length() if whole >= 0 else (~whole).bit_length() + 1
    power = max(0, (bits - 1).bit_length() - 3)  # of 2: bytes
    code = 0xCC + power if whole >= 0 else 0xD0 + power
    return bytes((code,)) + whole.to_bytes(1 << power, "big", signed=whole < 0)


def unpack(args: Arguments) -> tuple[Any, ...]:
    """All values."""
    return _unpacked(args, 0, 0)


def unpack_one(args: Arguments) -> tuple[Any, ...]:
    """Where the value after one ends (-1: with the data), and that value."""
    return _unpacked(args, 1, args.integer(2, 0))


def unpack_limit(args: Arguments) -> tuple[Any, ...]:
    """The same of at most so many values."""
    return _unpacked(args, args.integer(2), args.integer(3, 0))


def _unpacked(args: Arguments, limit: int, at: int) -> tuple[Any, ...]:
    data = args.text(1)
    if at < 0 or limit < 0:
        raise Refused(b"Invalid request to unpack with offset of %d and limit of %d." % (_int(at), _int(len(data))))
    if at > len(data):
        raise Refused(b"Start offset %d greater than input length %d." % (_int(at), _int(len(data))))
    args.lua.begin()
    whole = limit == at == 0
    reader = _Reader(args.lua, data, at)
    found: list[Any] = []
    while reader.at < len(data) and (whole or len(found) < limit):
        if len(found) == RESULTS_MAX:
            raise Refused(b"stack overflow (too many return values at once; use unpack_one or unpack_limit instead.)")
        found.append(reader.value())
    return tuple(found) if whole else (reader.at if reader.at < len(data) else -1, *found)


def _int(number: int) -> int:
    """As C prints an integer of 64 bits as one of 32."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_INTEGERS = {0xCC: (1, False), 0xCD: (2, False), 0xCE: (4, False), 0xCF: (8, True)} | {
    0xD0 + at: (1 << at, True) for at in range(4)
}
"""Sizes, and whether they have a sign; those of eight bytes always have one here, as in Redis."""
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


class _Open:
    """An array or a map of which values are still to come."""

    __slots__ = ("is_map", "items", "size")

    def __init__(self, size: int, is_map: bool) -> None:
        self.size = size * 2 if is_map else size
        self.is_map = is_map
        self.items: list[Any] = []

    def add(self, value: Any) -> None:
        """One more value, or key. Raises Refused: there can be no such key."""
        self.items.append(value)
        if self.is_map and len(self.items) % 2 == 0:
            key = self.items[-2]
            if key is None or (isinstance(key, float) and isnan(key)):
                raise Refused(b"table index is nil" if key is None else b"table index is NaN")

    def table(self, lua: Lua) -> Any:
        """Its table."""
        if not self.is_map:
            return lua.table(self.items)
        # A dict each: `true` and 1 are one key of Python's.
        return lua.table(*({key: each} for key, each in zip(self.items[::2], self.items[1::2], strict=True)))


class _Reader:
    """Reads MessagePack: no recursion, so that what can be read does not depend on Python's stack."""

    def __init__(self, lua: Lua, data: bytes, at: int) -> None:
        self._lua = lua
        self._data = data
        self.at = at

    def value(self) -> Any:
        """One value. Raises Refused."""
        lua, levels = self._lua, list[_Open]()
        while True:
            lua.count(None)
            value = self._begin()
            if isinstance(value, _Open):
                if len(levels) == DEPTH_MAX:
                    what = b"hash" if value.is_map else b"array"
                    raise Refused(b"stack overflow (in function mp_decode_to_lua_%b)" % what)
                levels.append(value)
            elif levels:
                levels[-1].add(value)
            else:
                return value
            while len(levels[-1].items) == levels[-1].size:
                value = levels.pop().table(lua)
                if not levels:
                    return value
                levels[-1].add(value)

    def _begin(self) -> Any:
        """A value, or how one begins that has others in it."""
        code = self._take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 256
        if code < 0xC0:
            if code >= 0xA0:
                return self._take(code & 31)
            return _Open(code & 15, code < 0x90)
        if code in _FIXED:
            return _FIXED[code]
        if code in _INTEGERS:
            size, signed = _INTEGERS[code]
            number = int.from_bytes(self._take(size), "big", signed=signed)
            return number if size < 8 else float(number)
        if code == 0xCA:
            return single_at(self._take(4))
        if code == 0xCB:
            return struct.unpack(">d", self._take(8))[0]
        if code in _TEXTS:
            return self._take(self._size(_TEXTS[code]))
        if code in _ARRAYS:
            return _Open(self._size(_ARRAYS[code]), False)
        if code in _MAPS:
            return _Open(self._size(_MAPS[code]), True)
        raise Refused(b"Bad data format in input.")

    def _size(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise Refused(b"Missing bytes in input.")
        self.at += size
        return self._data[self.at - size : self.at]


FUNCTIONS: dict[bytes, Callable[[Arguments], Any]] = {
    b"pack": pack,
    b"unpack": unpack,
    b"unpack_one": unpack_one,
    b"unpack_limit": unpack_limit,
}
