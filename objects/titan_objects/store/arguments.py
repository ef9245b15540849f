"""Words of a command as numbers, with Redis's rules and Redis's errors.

Python's own parsers take more than Redis does (blanks, underscores, leading zeros), so each has a pattern first.
"""

import math
import re

from titan_objects.store.resp import CommandError, syntax_error

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1

_INT = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch
FLOAT = re.compile(
    rb"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|inf|infinity)", re.I
).fullmatch
HEXADECIMAL = re.compile(rb"([+-]?)0x(?=\.?[0-9a-f])([0-9a-f]*)\.?([0-9a-f]*)(?:p([+-]?[0-9]+))?", re.I).fullmatch
"""As C writes a double down: 0x1.8p1 is 3."""
_ZERO = re.compile(rb"[+-]?(?:0x)?[0.]+(?:[ep].*)?", re.I).fullmatch

NOT_AN_INTEGER = b"ERR value is not an integer or out of range"
NOT_A_FLOAT = b"ERR value is not a valid float"


def integer(word: bytes | bytearray, error: bytes = NOT_AN_INTEGER) -> int:
    """A 64-bit signed number.

    Raises:
        CommandError: with that text, it is none.
    """
    if _INT(word):
        value = int(word)
        if INT_MIN <= value <= INT_MAX:
            return value
    raise CommandError(error)


def integer_within(word: bytes, low: int, high: int) -> int:
    """A number from `low` to `high`. Raises CommandError that says which one is wanted."""
    value = integer(word)
    if not low <= value <= high:
        raise CommandError(f"ERR value is out of range, value must between {low} and {high}")
    return value


def natural(word: bytes, error: bytes, low: int = 0) -> int:
    """A number from 0 (or 1) on. Raises CommandError with that text: it is less, or none."""
    value = integer(word, error)
    if value < low:
        raise CommandError(error)
    return value


def double(word: bytes | bytearray, error: bytes = NOT_A_FLOAT) -> float:
    """A double, infinities included, NaN not. Raises CommandError with that text."""
    if word.isdigit() and len(word) < 16:
        return float(word)
    if FLOAT(word):
        value = float(word)
    elif HEXADECIMAL(word):
        value = _hexadecimal(word)
    else:
        raise CommandError(error)
    if math.isinf(value) and b"n" not in word.lower():  # it was written as a number, which is too great
        raise CommandError(error)
    if not value and not _ZERO(word):  # or too small
        raise CommandError(error)
    return value


def _hexadecimal(word: bytes | bytearray) -> float:
    try:
        return float.fromhex(word.decode())
    except OverflowError:
        return -math.inf if word[:1] == b"-" else math.inf


def bound(word: bytes) -> float:
    """An end of a range of scores, as C reads numbers: one that is too great is infinite, and nothing is 0.

    Raises:
        CommandError: it is no number.
    """
    word = word.lstrip(b" \t\n\v\f\r")
    if FLOAT(word):
        return float(word)
    if HEXADECIMAL(word):
        return _hexadecimal(word)
    if word:
        raise CommandError(b"ERR min or max is not a float")
    return 0.0


def timeout_ms(word: bytes, now: int) -> int:
    """Seconds that a client is willing to wait, as a moment in unix milliseconds; 0: for ever.

    Raises:
        CommandError: it is no number, or below 0.
    """
    seconds = double(word, b"ERR timeout is not a float or out of range")
    if seconds < 0:
        raise CommandError(b"ERR timeout is negative")
    if math.isinf(seconds) or seconds * 1000 > INT_MAX - now:
        raise CommandError(b"ERR timeout is out of range")
    return now + math.ceil(seconds * 1000) if seconds else 0


def slice_bounds(start: int, stop: int, size: int) -> tuple[int, int]:
    """Redis's inclusive range, negative counted from the end, as a half-open Python one; empty: (0, 0)."""
    if start < 0:
        start = max(0, size + start)
    if stop < 0:
        stop = size + stop
    stop = min(stop, size - 1)
    return (start, stop + 1) if start <= stop else (0, 0)


def option(args: list[bytes], at: int) -> bytes:
    """The word at that place. Raises CommandError: it is missing."""
    if at >= len(args):
        raise syntax_error()
    return args[at]
