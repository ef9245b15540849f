"""The library `cjson` of scripts: values as JSON (lua-cjson 2.1.0 with its first settings).

It takes more than JSON (`+5`, `0x10`, `NaN`, control characters in strings, what follows a zero byte), and refuses some
of it (halves of surrogate pairs, more than 1,000 levels). What decides that does not call itself: it is the same
however much of its stack Python has used.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from titan_objects.store.lua.numerals import number_at
from titan_objects.store.lua.values import Arguments, Lua, Refused

DEPTH_MAX = 1000
SPARSE_MAX = 10
"""An array up to this length may have any holes, a longer one as many as it has elements."""

_ESCAPE_COST = 10
"""Instructions that each byte counts as by which a string grows."""

_QUICK_COST, _EXACT_COST = 100, 200
"""Instructions that each value of a text counts as that is read."""

QUICK_BYTES_MAX = 64 << 20
QUICK_VALUES_MAX = 1 << 20
QUICK_DEPTH_MAX = 32
"""What Python's own reader is asked to read, at most."""

_INT_MAX = (1 << 31) - 1

# ---- encode ----------------------------------------------------------------------------------------------------------

_SPECIAL = re.compile(rb'[\0-\x1f"\\/\x7f]')
_ESCAPES = {bytes((code,)): b"\\u%04x" % code for code in (*range(32), 127)} | {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"/": b"\\/",
    b"\b": b"\\b",
    b"\t": b"\\t",
    b"\n": b"\\n",
    b"\f": b"\\f",
    b"\r": b"\\r",
}

_Members = Iterator[tuple[bytes, Any]]
"""Values, each after what is written before it."""


def encode(args: Arguments) -> bytes:
    """A value as JSON. Raises Refused."""
    lua, parts = args.lua, list[bytes]()
    write = parts.append
    lua.begin()
    lua.count(args.only())
    levels: list[tuple[_Members, bytes]] = [(iter(((b"", args.only()),)), b"")]
    while levels:
        members, end = levels[-1]
        for before, value in members:
            write(before)
            kind = type(value)
            if kind is bytes:
                quoted = _quoted(value)
                lua.spend(_ESCAPE_COST * (len(quoted) - len(value)))
                write(quoted)
            elif kind is int or kind is float:
                write(_number(value))
            elif kind is bool:
                write(b"true" if value else b"false")
            elif value is None:
                write(b"null")
            elif (named := lua.kind(value)) == "table":
                if len(levels) > DEPTH_MAX:
                    raise Refused(b"Cannot serialise, excessive nesting (%d)" % len(levels))
                start, members, end = _table(lua, lua.pairs(value))
                write(start)
                levels.append((members, end))
                break
            elif named == "userdata":
                write(b"null")
            else:
                raise Refused(b"Cannot serialise %b: type not supported" % lua.type_name(value))
        else:
            write(end)
            levels.pop()
    return b"".join(parts)


def _table(lua: Lua, pairs: list[tuple[Any, Any]]) -> tuple[bytes, _Members, bytes]:
    """How a table begins, what is in it, and how it ends."""
    length = _array_length(pairs)
    if length > 0:
        return b"[", _elements(dict(pairs), length), b"]"
    # All keys before any value: the order of those that are refused is not the same everywhere.
    refused = [lua.type_name(key) for key, _ in pairs if type(key) not in (bytes, int, float)]
    if refused:
        raise Refused(b"Cannot serialise %b: table key must be a number or string" % min(refused))
    return b"{", _fields(pairs), b"}"


def _array_length(pairs: list[tuple[Any, Any]]) -> int:
    """The length of an array, with its holes; of what is none, 0 or less. Raises Refused: the holes are too many."""
    longest = 0
    for key, _ in pairs:
        if type(key) not in (int, float) or key < 1 or key % 1 > 0:
            return 0
        # It overflows, as in Redis: what has a time as its key is an object.
        longest = max(longest, int(key)) if key <= _INT_MAX else -_INT_MAX
    if longest > max(SPARSE_MAX, 2 * len(pairs)):
        raise Refused(b"Cannot serialise table: excessively sparse array")
    return longest


def _elements(values: dict[Any, Any], length: int) -> _Members:
    yield b"", values.get(1)
    for at in range(2, length + 1):
        yield b",", values.get(at)


def _fields(pairs: list[tuple[Any, Any]]) -> _Members:
    comma = b""
    for key, value in pairs:
        name = _quoted(key) if type(key) is bytes else b'"%b"' % _number(key)
        yield comma + name + b":", value
        comma = b","


def _number(value: float) -> bytes:
    if value - value != 0:
        raise Refused(b"Cannot serialise number: must not be NaN or Inf")
    return b"%.14g" % value


def _quoted(text: bytes) -> bytes:
    return b'"%b"' % _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)


# ---- decode ----------------------------------------------------------------------------------------------------------

_STRING, _NUMBER, _BOOLEAN, _NULL, _END = b"T_STRING", b"T_NUMBER", b"T_BOOLEAN", b"T_NULL", b"T_END"
_OBJECT, _OBJECT_END, _ARRAY, _ARRAY_END = b"T_OBJ_BEGIN", b"T_OBJ_END", b"T_ARR_BEGIN", b"T_ARR_END"
_COLON, _COMMA = b"T_COLON", b"T_COMMA"
_MARKS = {
    b"": _END,
    b"\0": _END,
    b":": _COLON,
    b",": _COMMA,
    b"{": _OBJECT,
    b"}": _OBJECT_END,
    b"[": _ARRAY,
    b"]": _ARRAY_END,
}
_BLANKS = re.compile(rb"[ \t\n\r]*")
_WORD = re.compile(rb"true|false|null")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_TEXT = re.compile(
    rb"""(?x) (?: [^"\\\0]++ | \\["\\/bfnrt]
             | \\u (?! [dD][89a-fA-F]) [0-9a-fA-F]{4}
             | \\u [dD][89abAB][0-9a-fA-F]{2} \\u [dD][c-fC-F][0-9a-fA-F]{2} )*+"""
)


def decode(args: Arguments) -> Any:
    """The value of a JSON text. Raises Refused."""
    args.only()
    text = args.text(1)
    if len(text) > 1 and b"\0" in text[:2]:
        raise Refused(b"JSON parser does not support UTF-16 or UTF-32")
    try:
        return quick(args.lua, text)
    except (ValueError, RecursionError):
        return exact(args.lua, text)


def quick(lua: Lua, text: bytes) -> Any:
    """What `exact` gives, four times as fast. Raises ValueError or RecursionError, as it happens: ask `exact` then."""
    most = _values(text)
    if len(text) > QUICK_BYTES_MAX or most > QUICK_VALUES_MAX or _SURROGATE.search(text):
        raise ValueError
    lua.spend(_QUICK_COST * most)
    value = json.loads(text.decode("utf-8", "surrogateescape"), parse_int=float)
    return _to_lua(lua, value, 0)


def _values(text: bytes) -> int:
    """How many values it has, at most, but one."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _to_lua(lua: Lua, value: Any, depth: int) -> Any:
    if type(value) is str:
        return value.encode("utf-8", "surrogateescape")
    if value is None:
        return lua.null
    if type(value) not in (list, dict):
        return value
    if depth == QUICK_DEPTH_MAX:
        raise ValueError
    if type(value) is list:
        return lua.table([_to_lua(lua, each, depth + 1) for each in value])
    pairs = value.items()
    return lua.table({key.encode("utf-8", "surrogateescape"): _to_lua(lua, each, depth + 1) for key, each in pairs})


def exact(lua: Lua, text: bytes) -> Any:
    """The value of a JSON text as cjson reads it. Raises Refused."""
    lua.begin()
    lua.spend(_EXACT_COST * _values(text))
    tokens = _Tokens(text, lua.null)
    value = _value(lua, tokens)
    tokens.expect(_END, b"the end")
    return value


def _value(lua: Lua, tokens: "_Tokens") -> Any:
    levels: list[list[Any] | dict[bytes, Any]] = []
    keys: list[bytes] = []
    token = tokens.next()
    while True:
        if token is _ARRAY or token is _OBJECT:
            if len(levels) == DEPTH_MAX:
                where = (DEPTH_MAX + 1, tokens.at)
                raise Refused(b"Found too many nested data structures (%d) at character %d" % where)
            levels.append([] if token is _ARRAY else {})
            end = _ARRAY_END if token is _ARRAY else _OBJECT_END
            token = tokens.next()
            if token is not end:
                if end is _OBJECT_END:
                    keys.append(tokens.key(token))
                    token = tokens.next()
                continue
            value = lua.table(levels.pop())
        elif token in (_STRING, _NUMBER, _BOOLEAN, _NULL):
            value = tokens.value
        else:
            raise tokens.expected(b"value", token)
        while levels:
            lua.count(None)
            level = levels[-1]
            token = tokens.next()
            if isinstance(level, dict):
                level[keys.pop()] = value
                if token is _COMMA:
                    keys.append(tokens.key(tokens.next()))
                elif token is not _OBJECT_END:
                    raise tokens.expected(b"comma or object end", token)
            else:
                level.append(value)
                if token is not _COMMA and token is not _ARRAY_END:
                    raise tokens.expected(b"comma or array end", token)
            if token is _COMMA:
                token = tokens.next()
                break
            value = lua.table(levels.pop())
        else:
            return value


class _Tokens:
    """The tokens of a text.

    Attributes:
        at: where the next one begins, blanks before it aside.
        index: where the last one began, or what was wrong with it.
        value: the last one's value, if it has one.
    """

    def __init__(self, text: bytes, null: Any) -> None:
        self._text = text
        self._words = {b"true": (_BOOLEAN, True), b"false": (_BOOLEAN, False), b"null": (_NULL, null)}
        self.at = self.index = 0
        self.value: Any = None

    def next(self) -> bytes:
        """The name of the next token, or what is wrong with it."""
        text = self._text
        blanks = _BLANKS.match(text, self.at)
        self.index = at = blanks.end() if blanks else self.at
        first = text[at : at + 1]
        mark = _MARKS.get(first)
        if mark is not None:
            self.at = at + 1
            return mark
        if first == b'"':
            return self._string(at + 1)
        if word := _WORD.match(text, at):
            self.at = word.end()
            name, self.value = self._words[word[0]]
            return name
        number = number_at(text, at) if first != b"." else None
        if number is None:
            return b"invalid number" if first in b"+-" else b"invalid token"
        self.value, self.at = number
        return _NUMBER

    def expect(self, token: bytes, what: bytes) -> None:
        """Raises Refused: the next one is another."""
        found = self.next()
        if found is not token:
            raise self.expected(what, found)

    def key(self, token: bytes) -> bytes:
        """The key that this token is, and the colon after it. Raises Refused."""
        if token is not _STRING:
            raise self.expected(b"object key string", token)
        key: bytes = self.value
        self.expect(_COLON, b"colon")
        return key

    def expected(self, what: bytes, found: bytes) -> Refused:
        """The error that says what should stand where the last one stands."""
        return Refused(b"Expected %b but found %b at character %d" % (what, found, self.index + 1))

    def _string(self, at: int) -> bytes:
        text = self._text
        found = _TEXT.match(text, at)
        end = found.end() if found else at
        if text[end : end + 1] == b'"':
            self.at, self.value = end + 1, _unquoted(text[at - 1 : end + 1])
            return _STRING
        self.index = end
        if text[end : end + 1] != b"\\":
            return b"unexpected end of string"
        return b"invalid unicode escape code" if text[end + 1 : end + 2] == b"u" else b"invalid escape code"


def _unquoted(text: bytes) -> bytes:
    """A string in its quotes, whose escapes are right. Not all of its bytes need be UTF-8."""
    if b"\\" not in text:
        return text[1:-1]
    value: str = json.loads(text.decode("utf-8", "surrogateescape"), strict=False)
    return value.encode("utf-8", "surrogateescape")


FUNCTIONS: dict[bytes, Callable[[Arguments], Any]] = {b"encode": encode, b"decode": decode}
