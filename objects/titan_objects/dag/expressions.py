"""Conditions: what `depends` and `when` say. Parsed by hand into trees, and evaluated without `eval`.

    either  = both {"||" both}
    both    = unless {"&&" unless}
    unless  = "!" unless | compared
    compared = atom [("==" | "!=" | "<" | "<=" | ">" | ">=") atom]
    atom    = "(" either ")" | NUMBER | "TEXT" | true | false | null | NAME {"." NAME}

Truth has three values (Kleene): what is not decided yet is None, and decides nothing that does not hang on it.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import titan_overlay as titan

TEXT_MAX = 4096
DEPTH_MAX = 64

_TOKEN = re.compile(
    r"\s*(?:(?P<op>\|\||&&|==|!=|<=|>=|[!<>().])"
    r"|(?P<number>-?\d+(?:\.\d+)?(?![\w-]))"
    r'|(?P<text>"[^"\\]*"|\'[^\'\\]*\')'
    r"|(?P<name>[A-Za-z_][\w-]*))"
)
_CONSTANTS = {"true": True, "false": False, "null": None}


class Name(msgspec.Struct, frozen=True, tag=True):
    """`render.Succeeded` as its parts."""

    parts: tuple[str, ...]


class Value(msgspec.Struct, frozen=True, tag=True):
    """A constant."""

    value: Any


class Not(msgspec.Struct, frozen=True, tag=True):
    """The other way round."""

    inner: "Expression"


class Both(msgspec.Struct, frozen=True, tag=True):
    """All of them."""

    parts: "tuple[Expression, ...]"


class Either(msgspec.Struct, frozen=True, tag=True):
    """One of them at least."""

    parts: "tuple[Expression, ...]"


class Compared(msgspec.Struct, frozen=True, tag=True):
    """Two values side by side."""

    left: "Expression"
    operator: str
    right: "Expression"


Expression = Name | Value | Not | Both | Either | Compared


def parse(text: str) -> Expression:
    """The tree of an expression.

    Raises:
        BadMessage: it is none; the text says where and why.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0
        self._depth = 0

    def parse(self) -> Expression:
        found = self._either()
        kind, token, place = self._tokens[self._at]
        if kind != "end":
            raise _mistake(self._text, place, f"{token!r} is one too many")
        return found

    def _either(self) -> Expression:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise _mistake(self._text, self._tokens[self._at][2], f"more than {DEPTH_MAX} levels of parentheses")
        parts = [self._both()]
        while self._taken("||"):
            parts.append(self._both())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _both(self) -> Expression:
        parts = [self._unless()]
        while self._taken("&&"):
            parts.append(self._unless())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _unless(self) -> Expression:
        turned = 0
        while self._taken("!"):
            turned += 1
        found = self._compared()
        return Not(found) if turned % 2 else found

    def _compared(self) -> Expression:
        left = self._atom()
        for operator in ("==", "!=", "<=", ">=", "<", ">"):
            if self._taken(operator):
                return Compared(left, operator, self._atom())
        return left

    def _atom(self) -> Expression:
        kind, token, place = self._tokens[self._at]
        self._at += kind != "end"
        if token == "(" and kind == "op":
            inner = self._either()
            if not self._taken(")"):
                raise _mistake(self._text, self._tokens[self._at][2], "a ) is missing")
            return inner
        if kind == "number":
            return Value(float(token) if "." in token else int(token))
        if kind == "text":
            return Value(token[1:-1])
        if kind != "name":
            raise _mistake(self._text, place, f"{token!r} is no name or value" if token else "something is missing")
        if token in _CONSTANTS:
            return Value(_CONSTANTS[token])
        parts = [token]
        while self._taken("."):
            kind, token, place = self._tokens[self._at]
            if kind != "name":
                raise _mistake(self._text, place, "a name must follow the dot")
            self._at += 1
            parts.append(token)
        return Name(tuple(parts))

    def _taken(self, operator: str) -> bool:
        kind, token, _ = self._tokens[self._at]
        if kind != "op" or token != operator:
            return False
        self._at += 1
        return True


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    if len(text) > TEXT_MAX:
        raise titan.BadMessage(f"an expression has at most {TEXT_MAX} characters, this one {len(text)}")
    place = 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            raise _mistake(text, place, "this is no part of an expression")
        yield str(found.lastgroup), found[found.lastgroup or 0], found.start(found.lastgroup or 0)
        place = found.end()
    yield "end", "", len(text)


def _mistake(text: str, place: int, why: str) -> titan.BadMessage:
    return titan.BadMessage(f"in the expression {text[:200]!r}, at character {place + 1}: {why}")


def names(expression: Expression) -> Iterator[tuple[str, ...]]:
    """All names in it, in their order."""
    match expression:
        case Name(parts):
            yield parts
        case Not(inner):
            yield from names(inner)
        case Both(parts) | Either(parts):
            for each in parts:
                yield from names(each)
        case Compared(left, _, right):
            yield from names(left)
            yield from names(right)


def truth(expression: Expression, look: Callable[[tuple[str, ...]], Any]) -> bool | None:
    """Whether it is true; None: what decides it is not known yet.

    Args:
        look: gives the value of a name, None where it has none yet.
    """
    match expression:
        case Name(parts):
            value = look(parts)
            return None if value is None else bool(value)
        case Value(value):
            return bool(value)
        case Not(inner):
            found = truth(inner, look)
            return None if found is None else not found
        case Both(parts):
            found_all = [truth(each, look) for each in parts]
            return False if False in found_all else None if None in found_all else True
        case Either(parts):
            found_all = [truth(each, look) for each in parts]
            return True if True in found_all else None if None in found_all else False
        case Compared(left, operator, right):
            return _compare(_value(left, look), operator, _value(right, look))


def _value(expression: Expression, look: Callable[[tuple[str, ...]], Any]) -> Any:
    match expression:
        case Name(parts):
            return look(parts)
        case Value(value):
            return value
    return truth(expression, look)


def _compare(left: Any, operator: str, right: Any) -> bool:
    """Values that have no order beside each other are not before, and not after."""
    if operator == "==":
        return bool(left == right)
    if operator == "!=":
        return bool(left != right)
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        return False
    if operator in ("<", "<="):
        return bool(left < right or (operator == "<=" and left == right))
    return bool(left > right or (operator == ">=" and left == right))
