"""How commands are read out of what comes, in whatever pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("hiredis")

from titan_objects.store.effects import encode
from titan_objects.store.parser import CommandReader

WORDS = st.lists(st.sampled_from([b"*", b"~", b">", b"|", b"$", b"\r", b"\n", b"\r\n", b"1", b"2345678"])).map(b"".join)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(places)]


@given(st.lists(st.lists(WORDS, min_size=1), max_size=4), st.lists(st.integers(0)))
def test_words_may_look_like_anything(commands: list[list[bytes]], cuts: list[int]) -> None:
    reader, read = CommandReader(), []
    for piece in pieces(encode(commands), cuts):
        read += reader.read(piece)
    assert read == commands
    assert not reader.error
    assert not reader.amid


@given(
    st.lists(st.lists(WORDS, min_size=1), max_size=2),
    st.sampled_from([b"", b"*2\r\n", b"*2\r\n$1\r\n*\r\n", b"~1\r\n*3\r\n", b"|1\r\n"]),
    st.sampled_from([b"*", b"~", b">", b"|"]),
    st.integers(1_000_000, 1 << 40),
    st.lists(st.integers(0)),
)
def test_what_announces_too_much_is_an_error(
    commands: list[list[bytes]], begun: bytes, kind: bytes, count: int, cuts: list[int]
) -> None:
    reader, read = CommandReader(), []
    for piece in pieces(encode(commands) + begun + b"%b%d\r\n" % (kind, count), cuts):
        read += reader.read(piece)
    assert read == commands
    assert reader.error
