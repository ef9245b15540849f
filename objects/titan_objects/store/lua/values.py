"""What the libraries of scripts are called with, and how they refuse it: as Lua's C interface checks and says it.

Members of a group show a script the very same errors, so no text of Python's may be in one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import copysign
from typing import Any, Protocol

from titan_objects.store.lua.numerals import integer_of, number_of

KEY_UNCOUNTED_MAX = 64
"""Bytes of a key that do not count: as many have room beside any value."""


class Refused(Exception):
    """A library refuses what a script gave it. `text` is what the script is told."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text.decode("utf-8", "backslashreplace")


class Meter(Protocol):
    """Counts what the libraries do."""

    def begin(self) -> None:
        """Something new is put together."""

    def count(self, value: Any) -> None:
        """One more value of that. Raises CommandError: there are too many."""

    def spend(self, instructions: float) -> None:
        """What is done takes as long as so many instructions of Lua's."""


@dataclass(frozen=True, slots=True)
class Lua:
    """The Lua that calls.

    Attributes:
        table: makes a table of a list, or of dicts.
        kind: `lupa.lua_type`.
        null: what `cjson.null` is.
        begin: something new is put together.
        count: one more value of that; raises when there are too many.
        spend: what is done takes as long as so many instructions of Lua's.
    """

    table: Callable[..., Any]
    kind: Callable[[Any], Any]
    null: Any
    begin: Callable[[], None]
    count: Callable[[Any], None]
    spend: Callable[[float], None]

    def pairs(self, table: Any) -> list[tuple[Any, Any]]:
        """What a table has, counted before it is looked at: one that is nested in itself is copied at each level."""
        count, pairs = self.count, list[tuple[Any, Any]]()
        for pair in table.items():
            count(pair[1])
            if type(pair[0]) is bytes and len(pair[0]) > KEY_UNCOUNTED_MAX:
                count(pair[0])
            pairs.append(pair)
        return pairs

    def type_name(self, value: Any) -> bytes:
        """Lua's `type`."""
        if value is None:
            return b"nil"
        if isinstance(value, bool):
            return b"boolean"
        if isinstance(value, (int, float)):
            return b"number"
        if isinstance(value, bytes):
            return b"string"
        return str(self.kind(value) or "userdata").encode()


class Arguments:
    """What a function was called with. Its arguments count from 1, as in its errors.

    All that look at one raise Refused: it is not of that type.
    """

    __slots__ = ("_function", "lua", "values")

    def __init__(self, lua: Lua, function: bytes, values: tuple[Any, ...]) -> None:
        self.lua = lua
        self.values = values
        self._function = function

    def and_nil(self) -> "Arguments":
        """The same, and a nil after them: what is missing is not "no value" then."""
        return Arguments(self.lua, self._function, (*self.values, None))

    def only(self) -> Any:
        """The one argument, of any type."""
        if len(self.values) != 1:
            raise self.wrong(1, b"expected 1 argument")
        return self.values[0]

    def text(self, at: int) -> bytes:
        """A string; a number is taken as its text."""
        value = self._at(at)
        if isinstance(value, bytes):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._expected(at, b"string")
        return b"%.14g" % value if value == value else b"nan" if copysign(1, value) > 0 else b"-nan"

    def number(self, at: int) -> float:
        """A number; a string is taken that is the text of one."""
        value = self._at(at)
        if type(value) is int or type(value) is float:
            return float(value)
        number = number_of(value) if isinstance(value, bytes) else None
        if number is None:
            raise self._expected(at, b"number")
        return number

    def integer(self, at: int, default: int | None = None) -> int:
        """A number as a signed integer of 64 bits. `default`: what it is where it is missing or nil."""
        if default is not None and self._at(at) is None:
            return default
        return integer_of(self.number(at))

    def wrong(self, at: int, why: bytes) -> Refused:
        """The error that says what is wrong with one of them."""
        return Refused(b"bad argument #%d to '%b' (%b)" % (at, self._function, why))

    def _at(self, at: int) -> Any:
        return self.values[at - 1] if at <= len(self.values) else None

    def _expected(self, at: int, wanted: bytes) -> Refused:
        found = self.lua.type_name(self.values[at - 1]) if at <= len(self.values) else b"no value"
        return self.wrong(at, b"%b expected, got %b" % (wanted, found))
