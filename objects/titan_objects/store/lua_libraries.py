"""What Redis's Lua has beside the language: `cjson`, `cmsgpack`, `struct` and `bit`.

Functions raise any error with a text for the script that called them. What they take apart is bounded by what a script
may hold, what they put together by the caller's count.
"""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

DEPTH_MAX = 64
SPARSE_MAX = 10
"""A JSON array up to this length may have any holes, a longer one as many as it has elements."""

SIZE_MAX = 32
"""Bytes of an integer of `struct`."""

_WORD = (1 << 64) - 1


class Values:
    """Between Lua's values and Python's.

    Args:
        lua: the runtime.
        kind: `lupa.lua_type`.
        null: what `cjson.null` is.
        begin: something new is put together.
        count: one more value of that; raises when there are too many.
    """

    def __init__(
        self, lua: Any, kind: Callable[[Any], Any], null: Any, begin: Callable[[], None], count: Callable[[Any], None]
    ) -> None:
        self._table = lua.table_from
        self._kind = kind
        self._null = null
        self._begin = begin
        self._count = count

    def libraries(self) -> dict[bytes, dict[bytes, Callable[..., Any]]]:
        """Functions by library and name; one that returns a tuple returns many values."""
        return {
            b"cjson": {b"encode": self._json_encode, b"decode": self._json_decode},
            b"cmsgpack": {
                b"pack": self._pack,
                b"unpack": self._unpack,
                b"unpack_one": lambda data, at=0: self._unpack_limited(data, 1, at),
                b"unpack_limit": self._unpack_limited,
            },
            b"struct": {b"pack": self._struct_pack, b"unpack": _struct_unpack, b"size": _struct_size},
            b"bit": _BITS,
        }

    def _look(self, value: Any, depth: int) -> str:
        self._count(value)
        if depth > DEPTH_MAX:
            raise ValueError("nested too deep")
        kind = self._kind(value)
        if kind in ("function", "thread"):
            raise TypeError(f"cannot serialise {kind}")
        return kind or "plain"

    # ---- cjson ---------------------------------------------------------------------------------------------------

    def _json_encode(self, value: Any) -> bytes:
        self._begin()
        text = json.dumps(self._plain(value, 0), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "surrogateescape")

    def _plain(self, value: Any, depth: int) -> Any:
        if isinstance(value, bytes):
            self._count(value)
            return value.decode("utf-8", "surrogateescape")
        if self._look(value, depth) == "plain":
            return _whole(value)
        if self._kind(value) != "table":
            return None
        pairs = dict(value.items())
        if not pairs or not all(type(key) in (int, float) and key >= 1 and key % 1 == 0 for key in pairs):
            return {_json_key(key): self._plain(each, depth + 1) for key, each in pairs.items()}
        size = int(max(pairs))
        if size > max(SPARSE_MAX, 2 * len(pairs)):
            raise ValueError("Cannot serialise table: excessively sparse array")
        return [self._plain(pairs.get(at), depth + 1) for at in range(1, size + 1)]

    def _json_decode(self, text: bytes) -> Any:
        return self._from_json(json.loads(text.decode("utf-8", "surrogateescape"), parse_int=_json_int))

    def _from_json(self, value: Any) -> Any:
        if value is None:
            return self._null
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if isinstance(value, list):
            return self._table([self._from_json(each) for each in value])
        if isinstance(value, dict):
            return self._table({self._from_json(key): self._from_json(each) for key, each in value.items()})
        return value

    # ---- cmsgpack ------------------------------------------------------------------------------------------------

    def _pack(self, *values: Any) -> bytes:
        if not values:
            raise ValueError("MessagePack pack needs input.")
        self._begin()
        return b"".join(part for value in values for part in self._packed(value, 0))

    def _packed(self, value: Any, depth: int) -> Iterator[bytes]:
        kind = self._look(value, depth)
        if isinstance(value, bytes):
            yield _head(len(value), 0xA0, 32, b"\xd9\xda\xdb") + value
        elif isinstance(value, bool):
            yield b"\xc3" if value else b"\xc2"
        elif isinstance(value, (int, float)):
            yield _packed_number(value)
        elif kind != "table":
            yield b"\xc0"
        else:
            pairs = dict(value.items())
            if all(at in pairs for at in range(1, len(pairs) + 1)):
                yield _head(len(pairs), 0x90, 16, b"\0\xdc\xdd")
                for at in range(1, len(pairs) + 1):
                    yield from self._packed(pairs[at], depth + 1)
            else:
                yield _head(len(pairs), 0x80, 16, b"\0\xde\xdf")
                for key, each in pairs.items():
                    yield from self._packed(key, depth + 1)
                    yield from self._packed(each, depth + 1)

    def _unpack(self, data: bytes) -> tuple[Any, ...]:
        return self._unpacked(data, 0, len(data))[1:]

    def _unpack_limited(self, data: bytes, limit: int, at: int = 0) -> tuple[Any, ...]:
        if limit < 0 or at < 0:
            raise ValueError("Invalid request to unpack with a limit or an offset below 0")
        if at > len(data):
            raise ValueError(f"Start offset {at} greater than input length {len(data)}.")
        return self._unpacked(data, int(at), int(limit))

    def _unpacked(self, data: bytes, at: int, limit: int) -> tuple[Any, ...]:
        """Where it goes on (-1: all was read), and the values."""
        self._begin()
        reader = _Reader(data, at)
        found: list[Any] = []
        while reader.at < len(data) and len(found) < limit:
            found.append(self._value(reader, 0))
        return (reader.at if reader.at < len(data) else -1, *found)

    def _value(self, reader: "_Reader", depth: int) -> Any:
        self._count(None)
        if depth > DEPTH_MAX:
            raise ValueError("nested too deep")
        kind, size = reader.head()
        if kind == "array":
            return self._table([self._value(reader, depth + 1) for _ in range(size)])
        if kind == "map":
            pairs = [(self._value(reader, depth + 1), self._value(reader, depth + 1)) for _ in range(size)]
            return self._table({key: each for key, each in pairs if key is not None})
        return reader.take(size) if kind == "text" else reader.plain

    def _struct_pack(self, form: bytes, *values: Any) -> bytes:
        self._begin()
        for value in values:
            self._count(value)
        return _struct_pack(form, *values)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53 else value


def _json_key(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "surrogateescape")
    if isinstance(key, bool) or not isinstance(key, (int, float)):
        raise TypeError("table key must be a number or string")
    return str(_whole(key))


def _json_int(text: str) -> int | float:
    return int(text) if len(text) < 18 else float(text)  # a number of Lua's is a double


def _head(size: int, small: int, below: int, codes: bytes) -> bytes:
    """How something of that size begins; `codes` are for sizes of one, two and four bytes, 0: there is none."""
    if size < below:
        return bytes([small | size])
    if size < 256 and codes[0]:
        return bytes([codes[0], size])
    return struct.pack(">BH", codes[1], size) if size < 1 << 16 else struct.pack(">BI", codes[2], size)


def _packed_number(value: int | float) -> bytes:
    if value % 1 or not -(1 << 63) <= value < 1 << 63:
        single = -3.4e38 < value < 3.4e38 and struct.unpack(">f", struct.pack(">f", value))[0] == value
        return struct.pack(">Bf", 0xCA, value) if single else struct.pack(">Bd", 0xCB, value)
    whole = int(value)
    if -32 <= whole < 128:
        return struct.pack("b", whole)
    for code, form in zip(range(0xCC, 0xD0) if whole >= 0 else range(0xD0, 0xD4), "BHIQ", strict=True):
        size = struct.calcsize(f">{form}") * 8
        if whole < 1 << size if whole >= 0 else whole >= -(1 << size - 1):
            return struct.pack(f">B{form}", code, whole & (1 << size) - 1)
    raise OverflowError("a number has 64 bits at most")


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
_SIZED = {
    **dict(zip((0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6), [("text", form) for form in "BHIBHI"], strict=True)),
    **dict(zip((0xDC, 0xDD, 0xDE, 0xDF), [(kind, form) for kind in ("array", "map") for form in "HI"], strict=True)),
}


class _Reader:
    """Reads MessagePack. `plain`: the value, where `head` says that it has no more to come."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at
        self.plain: Any = None

    def take(self, size: int) -> bytes:
        """So many bytes. Raises ValueError: there are fewer."""
        if size > len(self._data) - self.at:
            raise ValueError("Missing bytes in input.")
        self.at += size
        return self._data[self.at - size : self.at]

    def head(self) -> tuple[str, int]:
        """What comes and how long it is. Raises ValueError."""
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            self.plain = code if code < 0x80 else code - 256
            return "plain", 0
        if code < 0xC0:
            kind, mask = ("text", 31) if code >= 0xA0 else ("array", 15) if code >= 0x90 else ("map", 15)
            return self._bounded(kind, code & mask)
        if code in _FIXED:
            self.plain = _FIXED[code]
            return "plain", 0
        if code in _NUMBERS:
            number = self._number(_NUMBERS[code])
            self.plain = number if abs(number) < 1 << 53 else float(number)
            return "plain", 0
        if code in _SIZED:
            kind, form = _SIZED[code]
            return self._bounded(kind, self._number(form))
        raise ValueError("Bad data format in input.")

    def _number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))[0]

    def _bounded(self, kind: str, size: int) -> tuple[str, int]:
        if size > len(self._data) - self.at:  # each element has a byte at least
            raise ValueError("Missing bytes in input.")
        return kind, size


# ---- struct ----------------------------------------------------------------------------------------------------------

_SIZES = {"b": 1, "h": 2, "l": 8, "t": 8, "f": 4, "d": 8, "x": 1}


def _options(form: bytes) -> Iterator[tuple[str, int, int, str]]:
    """Each option of a format: its letter, its size, its alignment and the order of its bytes."""
    text, at = form.decode("latin-1"), 0
    order, most = "<", 1
    while at < len(text):
        letter, at = text[at], at + 1
        end = at
        while letter in "ciI!" and end < len(text) and text[end] in "0123456789":
            end += 1
        given, at = text[at:end][:9], end
        if letter in "<>":
            order = letter
        elif letter == "!":
            most = int(given or 8)
            if most < 1 or most & (most - 1):
                raise ValueError(f"alignment {most} is not a power of 2")
        elif letter in "cs":
            yield letter, int(given or 1) if letter == "c" else 0, 1, order
        elif letter in "iI":
            size = int(given or 4)
            if size > SIZE_MAX:
                raise ValueError(f"integral size {size} is larger than limit of {SIZE_MAX}")
            yield letter, size, min(size, most), order
        elif letter in "bBhHlLTfdx":
            size = _SIZES[letter.lower()]
            yield letter, size, min(size, most), order
        elif letter != " ":
            raise ValueError(f"invalid format option '{letter}'")


def _gap(at: int, align: int) -> int:
    return -at & (align - 1) if align > 1 else 0


def _struct_pack(form: bytes, *values: Any) -> bytes:
    made = bytearray()
    given = iter(values)
    for letter, size, align, order in _options(form):
        made += bytes(_gap(len(made), align))
        if letter == "x":
            made += b"\0"
            continue
        value = next(given, None)
        if letter in "cs":
            if not isinstance(value, bytes):
                raise TypeError("string expected")
            if len(value) < size:
                raise ValueError("string too short")
            made += value[: size or len(value)] + (b"\0" if letter == "s" else b"")
        elif value is None or isinstance(value, bool):
            raise TypeError("number expected")
        elif letter in "fd":
            made += struct.pack(order + letter, float(value))
        else:
            number = (int(float(value)) & _WORD) & ((1 << size * 8) - 1)
            made += number.to_bytes(size, "little" if order == "<" else "big")
    return bytes(made)


def _struct_unpack(form: bytes, data: bytes, start: float = 1) -> tuple[Any, ...]:
    at = int(start) - 1
    if at < 0:
        raise ValueError("offset must be 1 or greater")
    found: list[Any] = []
    for letter, size, align, order in _options(form):
        at += _gap(at, align)
        if letter == "c" and size == 0:
            if not found or not isinstance(found[-1], (int, float)):
                raise ValueError("format 'c0' needs a previous size")
            size = int(found.pop())
        if letter == "s":
            end = data.find(b"\0", at)
            if end < 0:
                raise ValueError("unfinished string in data")
            size = end - at + 1
        if size < 0 or size > len(data) - at:
            raise ValueError("data string too short")
        part, at = data[at : at + size], at + size
        if letter in "cs":
            found.append(part if letter == "c" else part[:-1])
        elif letter in "fd":
            found.append(struct.unpack(order + letter, part)[0])
        elif letter != "x":
            number = int.from_bytes(part, "little" if order == "<" else "big", signed=letter.islower())
            found.append(number if abs(number) < 1 << 53 else float(number))
    return (*found, at + 1)


def _struct_size(form: bytes) -> int:
    total = 0
    for letter, size, align, _ in _options(form):
        if letter == "s" or (letter == "c" and size == 0):
            raise ValueError(f"option '{'s' if letter == 's' else 'c0'}' has no fixed size")
        total += _gap(total, align) + size
    return total


# ---- bit -------------------------------------------------------------------------------------------------------------


def _bits(value: Any) -> int:
    return round(float(value)) & 0xFFFFFFFF


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _folded(values: tuple[Any, ...], how: Callable[[int, int], int]) -> int:
    result = _bits(values[0])
    for value in values[1:]:
        result = how(result, _bits(value))
    return _signed(result)


def _turned(value: Any, by: Any) -> int:
    many = _bits(by) & 31
    return _signed(_bits(value) << many | _bits(value) >> (32 - many))


def _hex(value: Any, digits: float = 8) -> bytes:
    many = min(abs(int(digits)), 8)
    text = b"%0*x" % (many, _bits(value) & ((1 << 4 * many) - 1)) if many else b""
    return text.upper() if digits < 0 else text


_BITS: dict[bytes, Callable[..., Any]] = {
    b"band": lambda *values: _folded(values, lambda a, b: a & b),
    b"bor": lambda *values: _folded(values, lambda a, b: a | b),
    b"bxor": lambda *values: _folded(values, lambda a, b: a ^ b),
    b"bnot": lambda value: _signed(~_bits(value)),
    b"lshift": lambda value, by: _signed(_bits(value) << (_bits(by) & 31)),
    b"rshift": lambda value, by: _signed(_bits(value) >> (_bits(by) & 31)),
    b"arshift": lambda value, by: _signed(_signed(_bits(value)) >> (_bits(by) & 31)),
    b"rol": _turned,
    b"ror": lambda value, by: _turned(value, -_bits(by)),
    b"bswap": lambda value: _signed(int.from_bytes(_bits(value).to_bytes(4, "little"), "big")),
    b"tobit": lambda value: _signed(_bits(value)),
    b"tohex": _hex,
}
