"""The libraries of scripts: the texts of their errors, and that nothing of Python's decides what they give."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.lua import cjson, cmsgpack, numerals, structs
from titan_objects.store.lua.libraries import Refused
from titan_objects.store.lua.values import Arguments, Lua
from titan_objects.store.resp import CommandError, decode_all

# ---- the same texts as Redis -----------------------------------------------------------------------------------------

ERRORS = r"""
cjson.decode('') | cjson.decode('{') | cjson.decode('{"a') | cjson.decode('{"a\\x"}') | cjson.decode('{"a\\')
cjson.decode('"ab\\u12"') | cjson.decode('"\\ud800"') | cjson.decode('"\\ud800\\u0041"') | cjson.decode('"a\\udc00"')
cjson.decode('"\\u00e9\\ud83d\\ude00" x') | cjson.decode('"ab\0cd"') | cjson.decode('1\0') | cjson.decode('\0')
cjson.decode('  @') | cjson.decode('truex') | cjson.decode('[1,]') | cjson.decode('[1 2]') | cjson.decode('{"a" 1}')
cjson.decode('{1:2}') | cjson.decode('{"a":1 "b"}') | cjson.decode('{"a":1,}') | cjson.decode('[1] 5')
cjson.decode('{"\\u0061" "b"}') | cjson.decode('.5') | cjson.decode('-') | cjson.decode('+x') | cjson.decode('0x')
cjson.decode('[1e]') | cjson.decode('1_0') | cjson.decode('infinit') | cjson.decode('nan(a-b)') | cjson.decode('NULL')
cjson.decode('\239\187\191[]') | cjson.decode('\11[]') | cjson.decode() | cjson.decode({}) | cjson.decode(nil)
cjson.decode(('['):rep(1001)) | cjson.decode(('{"a":['):rep(600)) | cjson.decode('1', 2)
cjson.encode() | cjson.encode(1, nil) | cjson.encode(0/0) | cjson.encode({1/0}) | cjson.encode({[1/0]=1})
cjson.encode(type) | cjson.encode({[{}]=1}) | cjson.encode({[true]=1}) | cjson.encode({[cjson.null]=1, x=2})
cjson.encode({[type]=1}) | cjson.encode({1,2,[11]=3}) | cjson.encode({[2^31-1]=1}) | cjson.encode({[1/0]=1,[39]=2})
(function() local t = {} for i = 1, 1000 do t = {t} end return cjson.encode(t) end)()
(function() local t = {} t.t = t return cjson.encode(t) end)()
struct.pack() | struct.pack({}) | struct.pack(5) | struct.pack('I') | struct.pack('BI', 1) | struct.pack('I', 'x')
struct.pack('I', {}) | struct.pack('z', 1) | struct.pack('c3', 'ab') | struct.pack('c3') | struct.pack('i33', 1)
struct.pack('i2147483648', 1) | struct.pack('!3i', 1) | struct.pack('!0i', 1) | struct.pack('d', '1e')
struct.unpack('B') | struct.unpack('B', {}) | struct.unpack('B', '') | struct.unpack('B', 'a', 0)
struct.unpack('B', 'a', -1) | struct.unpack('B', 'a', {}) | struct.unpack('B', 'a', 1e300)
struct.unpack('s', 'abc') | struct.unpack('s', 'abc', 9)
struct.unpack('c0', 'abc') | struct.unpack('c1c0', 'xabc') | struct.unpack('bc0', '\255abc') | struct.unpack('z', 'a')
struct.unpack(' ', 'a', 5) | struct.unpack(('b'):rep(9000), ('b'):rep(9000)) | struct.size() | struct.size('s')
struct.size('c0') | struct.size('_') | struct.size('i99999999999')
cmsgpack.pack() | cmsgpack.unpack() | cmsgpack.unpack({}) | cmsgpack.unpack('\193') | cmsgpack.unpack('\196\1a')
cmsgpack.unpack('\217\5a') | cmsgpack.unpack('\147\1\193') | cmsgpack.unpack('\221\255\255\255\255')
cmsgpack.unpack_one('\1', 2) | cmsgpack.unpack_one('\1', -1) | cmsgpack.unpack_one('\1', {}) | cmsgpack.unpack_one()
cmsgpack.unpack_one('\1', 2^32) | cmsgpack.unpack_limit('\1\2\3', -1) | cmsgpack.unpack_limit('\1\2\3', 1, 9)
cmsgpack.unpack_limit('\1') | cmsgpack.unpack_limit('\1', nil) | cmsgpack.unpack(('\1'):rep(9000))
cmsgpack.unpack(('\145'):rep(4000) .. '\1') | cmsgpack.unpack('\129\192\1')
cmsgpack.unpack('\129\203\127\248\0\0\0\0\0\0\1')
bit.band() | bit.band({}) | bit.band(1, nil) | bit.band(1, 'x', {}) | bit.band('') | bit.lshift(1) | bit.lshift(1, nil)
bit.tohex(1, nil) | bit.tohex() | bit.bnot(true) | bit.bswap('x') | bit.tobit(type)
"""


@needs_redis
def test_what_is_refused_is_refused_in_the_words_of_redis(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for call in ERRORS.strip().replace(" | ", "\n").splitlines():
            script = f"return {call}"
            ours, (theirs,) = core("EVAL", script, 0), decode_all(wire.ask("EVAL", script, 0))
            assert isinstance(theirs, CommandError), script
            assert isinstance(ours, CommandError), script
            text = theirs.text.removeprefix(b"ERR ").removeprefix(b"user_script:1: ").partition(b" script: ")[0]
            assert text in ours.text, script


# ---- without a Lua ---------------------------------------------------------------------------------------------------


class Table(dict[Any, Any]):
    """A table of Lua's."""

    __hash__ = object.__hash__


class Function:
    """A function of Lua's."""


def made(*parts: Any) -> Any:
    """Arrays stay lists, so that what was decoded can be compared."""
    if len(parts) == 1:
        return parts[0] if isinstance(parts[0], list) else Table(parts[0])
    return [Table(part) for part in parts]


def kind(value: Any) -> str | None:
    return {Table: "table", list: "table", Function: "function", str: "userdata"}.get(type(value))


LUA = Lua(made, kind, "null", lambda: None, lambda value: None, lambda cost: None)


def call(function: Callable[[Arguments], Any], *values: Any) -> Any:
    return function(Arguments(LUA, b"f", values))


def refusal(function: Callable[[Arguments], Any], *values: Any) -> bytes:
    with pytest.raises(Refused) as caught:
        call(function, *values)
    return caught.value.text


def deep_in_the_stack(function: Callable[[], Any], room: int) -> Any:
    """Calls it where Python's stack has about so many frames left."""
    frame, used = sys._getframe(), 0
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1

    def nested(more: int) -> Any:
        return nested(more - 1) if more else function()

    return nested(sys.getrecursionlimit() - used - room)


def outcome(function: Callable[[], Any]) -> Any:
    """What it gives or refuses, to be compared: NaN is equal to itself, -0 not to 0."""
    try:
        return repr(function())
    except Refused as why:
        return why.text


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


def documents(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | numbers | TEXTS
    return st.recursive(
        plain, lambda each: st.lists(each, max_size=5) | st.dictionaries(TEXTS, each, max_size=5), max_leaves=20
    )


DOCUMENTS = documents(st.floats())
PIECES = st.lists(st.sampled_from([bytes((each,)) for each in b'{}[]:,"\\u0x1-+.e nNaitrfl\0\xff\xc3d8']), max_size=12)


@given(document=DOCUMENTS, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_what_is_read_quickly_is_what_is_read_exactly(document: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    assert outcome(lambda: call(cjson.decode, text)) == outcome(lambda: cjson.exact(LUA, text))


@given(document=DOCUMENTS, at=st.integers(0, 99), piece=PIECES.map(b"".join))
@example(document=[], at=0, piece=b"\xff")
@example(document="", at=1, piece=b"\\udc80\x80")
@example(document="\u00e9", at=1, piece=b"\\u00e9\xe9")
def test_also_where_a_text_is_no_json(document: Any, at: int, piece: bytes) -> None:
    text = json.dumps(document).encode()
    text = text[:at] + piece + text[at:]
    try:
        quick = repr(cjson.quick(LUA, text))
    except (ValueError, RecursionError):
        return
    assert quick == outcome(lambda: cjson.exact(LUA, text))


@given(st.binary(max_size=30) | PIECES.map(b"".join))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    outcome(lambda: call(cjson.decode, data))
    outcome(lambda: call(cmsgpack.unpack, data))
    for form in (data, b"!<i3c0", b"bc0s"):
        outcome(lambda form=form: call(structs.unpack, form, data))  # type: ignore[misc]
        outcome(lambda form=form: call(structs.pack, form, *([1e300, float("nan"), b"7"] * 9)))  # type: ignore[misc]
    outcome(lambda: call(structs.size, data))


@given(documents(st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_written_is_json(document: Any) -> None:
    def as_lua(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, list):
            return Table(enumerate(map(as_lua, value), 1))
        if isinstance(value, dict):
            return Table({as_lua(key): as_lua(each) for key, each in value.items()})
        return value

    def as_read(value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(f"{value:.14g}")
        if isinstance(value, list):
            return [as_read(each) for each in value] or {}
        return {key: as_read(each) for key, each in value.items()} if isinstance(value, dict) else value

    text = call(cjson.encode, as_lua(document))
    assert json.loads(text, parse_int=float) == as_read(document)


@given(st.floats())
def test_a_number_is_read_as_it_was_written(number: float) -> None:
    for text in (repr(number), f"{number:+.17e}", number.hex()):
        found = numerals.number_at(text.encode() + b"x", 0)
        assert found is not None
        assert (repr(found[0]), found[1]) == (repr(number), len(text))


@pytest.mark.parametrize(
    ("text", "number"), [(b" 0x1.8p1\n", 3), (b"5\0z", 5), (b"1_0", None), (b"0x", None), (b"", None)]
)
def test_a_text_is_a_number_as_in_lua(text: bytes, number: float | None) -> None:
    assert numerals.number_of(text) == number


# ---- the same everywhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [10, 900, 1000, 1001])
def test_how_much_of_pythons_stack_is_used_decides_nothing(levels: int) -> None:
    table = Table({1: True})
    for _ in range(levels - 1):
        table = Table({1: table})
    text = b"[" * levels + b"true" + b"]" * levels

    def read() -> int:
        found, depth = call(cjson.decode, text), 0
        while isinstance(found, list):
            found, depth = found[0], depth + 1
        return depth

    def written() -> bool:
        return bool(call(cjson.encode, table) == text)

    for function, expected in ((read, repr(levels)), (written, "True")):
        shallow, deep = outcome(function), deep_in_the_stack(lambda each=function: outcome(each), 60)
        assert shallow == deep
        assert (b"(1001)" in shallow) if levels == 1001 else (shallow == expected)


def test_a_larger_stack_of_pythons_takes_no_deeper_text(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = sys.getrecursionlimit()
    monkeypatch.setattr(cjson, "exact", lambda lua, text: "exact")
    sys.setrecursionlimit(limit + 10_000)
    try:
        for levels in (cjson.QUICK_DEPTH_MAX + 1, cjson.DEPTH_MAX + 1):
            assert call(cjson.decode, b"[" * levels + b"]" * levels) == "exact"
    finally:
        sys.setrecursionlimit(limit)
    assert call(cjson.decode, b"[[[]]]") == [[[]]]


def test_what_is_unpacked_may_be_nested_deeper_than_pythons_stack() -> None:
    assert call(cmsgpack.unpack, b"\x91" * cmsgpack.DEPTH_MAX + b"\xc0")
    assert b"stack overflow" in refusal(cmsgpack.unpack, b"\x91" * (cmsgpack.DEPTH_MAX + 1) + b"\xc0")


def test_keys_without_an_order_are_refused_before_any_value() -> None:
    keys = [Table(), Function(), b"x"]
    said = set()
    for order in (keys, keys[::-1]):
        table = Table({key: Function() for key in order})
        said |= {refusal(cjson.encode, table), refusal(cmsgpack.pack, table)}
    assert said == {
        b"Cannot serialise function: table key must be a number or string",
        b"cannot pack a table with keys that are tables or functions: they have no order",
    }


def test_what_a_table_has_is_counted_before_it_is_copied() -> None:
    counted = []

    def count(value: Any) -> None:
        counted.append(value)
        if len(counted) > 1000:
            raise CommandError(b"ERR too many")

    table = Table({at: at for at in range(1, 900)})
    table[1] = table
    lua = Lua(made, kind, "null", counted.clear, count, lambda cost: None)
    for function in (cjson.encode, cmsgpack.pack):
        with pytest.raises(CommandError):
            function(Arguments(lua, b"f", (table,)))
        assert len(counted) == 1001
    with pytest.raises(CommandError):
        cjson.exact(lua, b"[" + b"1," * 1000 + b"1]")


def test_a_nan_of_single_precision_keeps_its_sign_alone() -> None:
    for data in (b"\x7f\xa0\x00\x01", b"\x7f\xff\xff\xff"):
        assert numerals.single_of(numerals.single_at(data)) == b"\x7f\xc0\x00\x00"
    assert numerals.single_of(numerals.single_at(b"\xff\xa0\x00\x01")) == b"\xff\xc0\x00\x00"
