"""Numbers as Redis on x86 adds them in INCRBYFLOAT and HINCRBYFLOAT: extended precision, with 64 bits of significand.

A finite number is a `Fraction` that such a long double can hold, so sums are exact before they are rounded. (It has
fewer bits below 2**-16382; no reply shows so small a part, so the 64 are kept there, too.)
"""

from decimal import Decimal
from fractions import Fraction

from titan_objects.store.arguments import FLOAT, HEXADECIMAL, NOT_A_FLOAT
from titan_objects.store.resp import CommandError

Number = Fraction | float
"""A finite number, or an infinite float."""

_BITS = 64
_END = Fraction(2) ** 16384
"""What has been rounded is below it."""
_LEAST = Fraction(1, 2**16446)
"""Half of the smallest number: what is not greater is rounded to 0."""

BYTES_MAX = 5 * 1024 - 1
"""Redis reads no number that is longer; the longest that it writes has 4,934."""

_EXPONENT_MAX = {10: 11_000, 2: 40_000}
"""By base. With a greater one, a number of so few bytes is beyond the ends in any case, and takes long to work out."""

_PLACES = 17
_NOT_FINITE = b"ERR increment would produce NaN or Infinity"


def number(word: bytes | bytearray, error: bytes = NOT_A_FLOAT) -> Number:
    """A number as text, decimal or hexadecimal; infinities included, NaN not.

    Raises:
        CommandError: with that text, it is none, it is too long, or it is beyond the greatest or below the least.
    """
    text = bytes(word)
    if len(text) > BYTES_MAX:
        raise CommandError(error)
    if FLOAT(text) and b"n" in text.lower():
        return float(text)
    if FLOAT(text):
        digits, _, exponent = text.decode().lower().partition("e")
        value = _scaled(Fraction(Decimal(digits)), 10, exponent)
    elif found := HEXADECIMAL(text):
        sign, whole, part, power = (group.decode() for group in found.groups(b""))
        value = _scaled(Fraction(int(sign + whole + part, 16), 16 ** len(part)), 2, power)
    else:
        raise CommandError(error)
    if value is None or 0 < abs(value) <= _LEAST:
        raise CommandError(error)
    value = _rounded(value)
    if abs(value) >= _END:
        raise CommandError(error)
    return value


def total(one: Number, other: Number) -> Fraction:
    """The sum, rounded. Raises CommandError: it is not finite."""
    if isinstance(one, float) or isinstance(other, float):
        raise CommandError(_NOT_FINITE)
    result = _rounded(one + other)
    if abs(result) >= _END:
        raise CommandError(_NOT_FINITE)
    return result


def text(value: Fraction) -> bytes:
    """Up to 17 places after the point, without trailing zeros."""
    digits = format(Decimal(round(abs(value) * 10**_PLACES)), f"0>{_PLACES + 1}")
    shown = f"{digits[:-_PLACES]}.{digits[-_PLACES:]}".rstrip("0").rstrip(".")
    return (b"-" if value < 0 and shown != "0" else b"") + shown.encode()


def _scaled(digits: Fraction, base: int, exponent: str) -> Fraction | None:
    """The number digits * base ** exponent; None: that is out of all proportion."""
    power = Decimal(exponent or "0")  # unlike an int, it is made of thousands of digits, too
    if not digits or not power:
        return digits
    return digits * Fraction(base) ** int(power) if abs(power) <= _EXPONENT_MAX[base] else None


def _rounded(value: Fraction) -> Fraction:
    """To the nearest of so many bits, to the even one of two."""
    if not value:
        return value
    shift = _BITS - (abs(value.numerator).bit_length() - value.denominator.bit_length())
    scaled = value * Fraction(2) ** shift
    if abs(scaled) >= 1 << _BITS:
        scaled, shift = scaled / 2, shift - 1
    return round(scaled) / Fraction(2) ** shift
