"""The library `struct` of scripts: values as bytes of a given format (lua_struct 0.2 by Roberto Ierusalimschy)."""

import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from titan_objects.store.lua.numerals import WORD, integer_of, number_of, single_at, single_of, word_of
from titan_objects.store.lua.values import Arguments, Refused

SIZE_MAX = 32
"""Bytes of an integer."""

RESULTS_MAX = 4096
"""Values of one unpacking. They all stand on Lua's stack, which ends at 8,000."""

_INT_MAX = (1 << 31) - 1
_SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "l": 8, "L": 8, "T": 8, "f": 4, "d": 8, "x": 1}
_INTEGERS = frozenset("bBhHlLTiI")
_DIGITS = re.compile(r"[0-9]*")


class _Format:
    """A format, its first argument, as far as it was read. Its controls hold from where they stand."""

    def __init__(self, args: Arguments) -> None:
        self._args = args
        self._text = args.text(1).partition(b"\0")[0].decode("latin-1")
        self._at = 0
        self._align_max = 1
        self.order = "<"

    def options(self) -> Iterator[tuple[str, int]]:
        """Each letter and its size; that of a string of any length, and of a control, is 0. Raises Refused."""
        while self._at < len(self._text):
            letter = self._text[self._at]
            self._at += 1
            size = _SIZES.get(letter, 0)
            if letter == "c":
                size = self._number(1)
            elif letter in "iI":
                size = self._number(4)
                if size > SIZE_MAX:
                    raise Refused(b"integral size %d is larger than limit of %d" % (size, SIZE_MAX))
            yield letter, size

    def padding(self, length: int, letter: str, size: int) -> int:
        """How many bytes come before that option, after so many."""
        if size == 0 or letter == "c":
            return 0
        align = min(size, self._align_max)
        return (align - (length & (align - 1))) & (align - 1)

    def control(self, letter: str) -> None:
        """What is no option. Raises Refused: no control either."""
        if letter in "<>":
            self.order = letter
        elif letter == "!":
            align = self._number(8)
            if align & (align - 1) or not align:
                raise Refused(b"alignment %d is not a power of 2" % align)
            self._align_max = align
        elif letter != " ":
            raise self._args.wrong(1, b"invalid format option '%b'" % letter.encode("latin-1"))

    def _number(self, default: int) -> int:
        found = _DIGITS.match(self._text, self._at)
        if not found or not found[0]:
            return default
        self._at = found.end()
        digits = found[0].lstrip("0") or "0"
        if len(digits) > 10 or int(digits) > _INT_MAX:
            raise Refused(b"integral size overflow")
        return int(digits)


def pack(args: Arguments) -> bytes:
    """Values as bytes. Raises Refused, as all of these."""
    lua = args.lua
    lua.begin()
    form, args, at = _Format(args), args.and_nil(), 1
    made = bytearray()
    for letter, size in form.options():
        made += bytes(form.padding(len(made), letter, size))
        if letter == "x":
            made += b"\0"
        elif letter in "cs":
            at += 1
            text = args.text(at)
            lua.count(text)
            if len(text) < size:
                raise args.wrong(at + 1, b"string too short")  # counted as in Redis
            made += text[: size or len(text)] + (b"\0" if letter == "s" else b"")
        elif letter in _INTEGERS or letter in "fd":
            at += 1
            number = args.number(at)
            lua.count(number)
            made += _number_bytes(number, letter, size, form.order)
        else:
            form.control(letter)
    return bytes(made)


def _number_bytes(number: float, letter: str, size: int, order: str) -> bytes:
    if letter == "d":
        return struct.pack(order + "d", number)
    if letter == "f":
        single = single_of(number)
        return single if order == ">" else single[::-1]
    word = word_of(number) & ((1 << size * 8) - 1)
    return word.to_bytes(size, "little" if order == "<" else "big")


def unpack(args: Arguments) -> tuple[Any, ...]:
    """The values that bytes stand for, and where what follows them begins."""
    form, data = _Format(args), args.text(2)
    start = args.integer(3, 1)
    if start == 0:
        raise args.wrong(3, b"offset must be 1 or greater")
    at = (start - 1) & WORD
    found: list[Any] = []
    for letter, size in form.options():
        at = (at + form.padding(at, letter, size)) & WORD
        if at + size > len(data):
            raise args.wrong(2, b"data string too short")
        if len(found) >= RESULTS_MAX:
            raise Refused(b"stack overflow (too many results)")
        if letter == "c":
            if size == 0:
                size = _announced(found)
            if at + size > len(data):
                raise args.wrong(2, b"data string too short")
            found.append(data[at : at + size])
        elif letter == "s":
            end = data.find(b"\0", at)
            if end < 0:
                raise Refused(b"unfinished string in data")
            found.append(data[at:end])
            size = end + 1 - at
        elif letter in _INTEGERS or letter in "fd":
            found.append(_number(data[at : at + size], letter, form.order))
        elif letter != "x":
            form.control(letter)
        at += size
    return (*found, float(integer_of(at + 1)) if at + 1 < 1 << 63 else float(at + 1 - (1 << 64)))


def _announced(found: list[Any]) -> int:
    """The size of a `c0`: what was read before it, which is no result then."""
    size = found[-1] if found else None
    if isinstance(size, bytes):
        size = number_of(size)
    if size is None:
        raise Refused(b"format 'c0' needs a previous size")
    found.pop()
    return word_of(size)


def _number(data: bytes, letter: str, order: str) -> float:
    if letter == "d":
        return float(struct.unpack(order + "d", data)[0])
    if letter == "f":
        return single_at(data if order == ">" else data[::-1])
    word = int.from_bytes(data, "little" if order == "<" else "big") & WORD
    if letter.islower():
        signs = WORD << ((len(data) * 8 - 1) & 63) & WORD  # shifted as 64 bits are, whatever the size
        if word & signs:
            word |= signs
        word -= (word >> 63) << 64
    return float(word)


def size(args: Arguments) -> int:
    """How many bytes a format has."""
    form, total = _Format(args), 0
    for letter, each in form.options():
        total += form.padding(total, letter, each)
        if letter == "s" or (letter == "c" and each == 0):
            raise args.wrong(1, b"option '%b' has no fixed size" % (b"s" if letter == "s" else b"c0"))
        if not (letter.isascii() and letter.isalnum()):
            form.control(letter)
        total += each
    return total


FUNCTIONS: dict[bytes, Callable[[Arguments], Any]] = {b"pack": pack, b"unpack": unpack, b"size": size}
