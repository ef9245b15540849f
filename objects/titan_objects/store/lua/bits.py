"""The library `bit` of scripts: operations on integers of 32 bits (Lua BitOp 1.0.2)."""

import struct
from collections.abc import Callable
from typing import Any

from titan_objects.store.lua.values import Arguments

_ROUNDS = 6755399441055744.0
"""2^52 + 2^51: what is added to it is rounded to an integer, which stands in the low bits of the sum."""


def _bits(args: Arguments, at: int) -> int:
    return int(struct.unpack_from("<I", struct.pack("<d", args.number(at) + _ROUNDS))[0])


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _folding(how: Callable[[int, int], int]) -> Callable[[Arguments], int]:
    def folded(args: Arguments) -> int:
        result = _bits(args, 1)
        for at in range(len(args.values), 1, -1):  # the last one that is wrong is named, as in Redis
            result = how(result, _bits(args, at))
        return _signed(result)

    return folded


def _shifting(how: Callable[[int, int], int]) -> Callable[[Arguments], int]:
    return lambda args: _signed(how(_bits(args, 1), _bits(args, 2) & 31))


def _turned(value: int, by: int) -> int:
    return value << by | value >> (32 - by)


def _swapped(args: Arguments) -> int:
    return _signed(int.from_bytes(_bits(args, 1).to_bytes(4, "little"), "big"))


def _hex(args: Arguments) -> bytes:
    value = _bits(args, 1)
    digits = _signed(_bits(args, 2)) if len(args.values) > 1 else 8
    text = (b"%08x" % value)[8 - min(abs(digits), 8) :]
    return text.upper() if digits < 0 else text


FUNCTIONS: dict[bytes, Callable[[Arguments], Any]] = {
    b"band": _folding(lambda a, b: a & b),
    b"bor": _folding(lambda a, b: a | b),
    b"bxor": _folding(lambda a, b: a ^ b),
    b"bnot": lambda args: _signed(~_bits(args, 1)),
    b"lshift": _shifting(lambda value, by: value << by),
    b"rshift": _shifting(lambda value, by: value >> by),
    b"arshift": _shifting(lambda value, by: _signed(value) >> by),
    b"rol": _shifting(_turned),
    b"ror": _shifting(lambda value, by: _turned(value, -by & 31)),
    b"bswap": _swapped,
    b"tobit": lambda args: _signed(_bits(args, 1)),
    b"tohex": _hex,
}
