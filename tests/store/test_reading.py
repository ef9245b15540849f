"""How commands are read out of what comes, in whatever pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("hiredis")

from titan_objects.store.effects import encode
from titan_objects.store.reading import CommandReader

WORDS = st.lists(st.sampled_from([b"*", b"~", b">", b"|", b"$", b"\r", b"\n", b"\r\n", b"1", b"2345678"])).map(b"".join)


LINES = st.lists(st.sampled_from([b"PING", b"GET", b"*", b"$1", b"x"]), min_size=1).filter(lambda line: line[0] != b"*")
COMMANDS = st.lists(WORDS, min_size=1)
BROKEN = [
    b"*1000001\r\n",
    b"*500000000\r\n",
    b"*99999999999999999999999999999999999",
    b"*-2\r\n",
    b"*x\r\n",
    b"*1\r\n$1\r\naXY",
    b"*1\r\n$1\r\na\n\r",
    b"*2\r\n$1\r\naXY*500000000\r\n",
    b"*2\r\n$1\r\naXY*2\r\n",
    b"*1\r\n+a\r\n*3\r\n",
    b"*2\r\n$1\r\n1\r\n+a\r\n$1\r\n",
    b"*2\r\n$1\r\nX\r\n*1\r\n",
    b"*1\r\n$600000000\r\n",
    *(b"*2\r\n$1\r\na\r\n%b\r\n" % kind for kind in (b"+a", b"-a", b":1", b"_", b"#t", b",1", b"(1", b"$-1", b"%%1")),
    *(b"*1\r\n%b1\r\n" % kind for kind in (b"~", b">", b"|", b"*")),
    b"*1\r\n=5\r\ntxt:a\r\n",
]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


@given(st.lists(COMMANDS, max_size=4), st.lists(st.integers(0)))
def test_words_may_look_like_anything(commands: list[list[bytes]], cuts: list[int]) -> None:
    reader, read = CommandReader(), []
    for piece in pieces(encode(commands), cuts):
        now = reader.read(piece)
        assert not reader.whole or encode(now) == piece
        read += now
    assert read == commands
    assert not reader.error
    assert not reader.held


@given(st.lists(st.one_of(COMMANDS, LINES.map(tuple)), max_size=5), st.lists(st.integers(0)))
def test_lines_and_arrays_follow_each_other(commands: list[list[bytes] | tuple[bytes, ...]], cuts: list[int]) -> None:
    sent = [b" ".join(each) + b"\r\n" if isinstance(each, tuple) else encode([each]) for each in commands]
    reader, read = CommandReader(), []
    for piece in pieces(b"".join(sent), cuts):
        read += reader.read(piece)
    assert read == list(map(list, commands))
    assert not reader.error
    assert not reader.held


@given(st.lists(COMMANDS, max_size=2), st.sampled_from(BROKEN), st.lists(st.integers(0)))
def test_what_is_no_command_is_an_error(before: list[list[bytes]], broken: bytes, cuts: list[int]) -> None:
    reader, read = CommandReader(), []
    for piece in pieces(encode(before) + broken, cuts):
        if reader.error:
            break
        read += reader.read(piece)
        assert not reader.whole or piece in encode(before)
    assert read == before
    assert reader.error
