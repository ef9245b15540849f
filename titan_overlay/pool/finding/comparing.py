"""When two answers count as equal: a comparison named in the policy, as data. No I/O.

`exact`: the same value (a map's order is no part of it; 1, 1.0 and true are three values).
`set`: as exact, but the order of lists is no part of it either.
`close:1e-6`: as exact, but numbers may differ by this share of the larger one, wherever they stand in the value.

All three are symmetric. `close` is not transitive: see `polling.py` for what a majority then is.
"""

import math
from hashlib import sha256
from typing import Any

from titan_overlay.errors import BadMessage, RemotableError, WireError
from titan_overlay.identity.statements import tolerance_of
from titan_overlay.wire import codec

WHOLE_BYTES = 64


class Form:
    """An answer made ready for comparing. `error`: what was raised, where the answer is an error."""

    __slots__ = ("body", "canonical", "error", "value")

    def __init__(self, body: bytes, value: Any, canonical: bytes, error: RemotableError | None = None) -> None:
        self.body = body
        self.value = value
        self.canonical = canonical
        self.error = error


class Comparison:
    """One of the comparisons above.

    Args:
        name: as in `Policy.compare`, which has checked it.
    """

    def __init__(self, name: str) -> None:
        self._tolerance = tolerance_of(name)
        self.transitive = not self._tolerance
        self._ordered = name != "set"

    def form(self, answer: bytes | RemotableError) -> Form:
        """An answer, ready for comparing. Of an error, code, text and fields count, but not where to look in a log.

        Raises:
            BadMessage: these bytes are no value, or one that is nested too deeply.
        """
        try:
            if isinstance(answer, bytes):
                value = codec.decode(answer, Any)
                return Form(answer, value, b"v" + self._canonical(value))
            wire: WireError = answer.to_wire()
            fields = {key: each for key, each in wire.fields.items() if key != "correlation"}
            told = [wire.code, wire.text, fields]
            return Form(b"", told, b"e" + self._canonical(told), answer)
        except RecursionError:
            raise BadMessage("the answer is nested too deeply to be compared") from None

    def same(self, one: Form, other: Form) -> bool:
        """Whether these two answers count as equal."""
        if one.canonical == other.canonical:
            return True
        if not self._tolerance or (one.error is None) is not (other.error is None):
            return False
        try:
            return self._close(one.value, other.value)
        except RecursionError:
            return False

    def _close(self, one: Any, other: Any) -> bool:
        if _is_number(one) and _is_number(other):
            return _near(one, other, self._tolerance)
        if type(one) is not type(other):
            return False
        if isinstance(one, list):
            return len(one) == len(other) and all(map(self._close, one, other))
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(self._close(each, other[key]) for key, each in one.items())
        return self._canonical(one) == self._canonical(other)

    def _canonical(self, value: Any) -> bytes:
        """Equal bytes for equal values: every part with its type and length, what has no order sorted."""
        if isinstance(value, list):
            parts = [self._canonical(each) for each in value]
            return _joined(b"l", parts if self._ordered else sorted(parts))
        if isinstance(value, dict):
            pairs = (_joined(b"p", [self._canonical(key), self._canonical(each)]) for key, each in value.items())
            return _joined(b"d", sorted(pairs))
        if isinstance(value, float):  # a float's bytes differ where it equals an integer; NaN equals NaN here
            return b"f" + value.hex().encode()
        return codec.encode(value)


def _joined(tag: bytes, parts: list[bytes]) -> bytes:
    """One part of several; long ones as a hash, or what is nested deeply would be copied once for each level."""
    whole = b"".join((tag, b"%d:" % len(parts), *(b"%d:%b" % (len(part), part) for part in parts)))
    return whole if len(whole) <= WHOLE_BYTES else b"#" + sha256(whole).digest()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _near(one: float, other: float, tolerance: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=tolerance) or (math.isnan(one) and math.isnan(other))
    except OverflowError:  # an integer that no float holds
        return one == other
