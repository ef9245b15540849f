"""Frames: any bytes give frames or `BadMessage`, at a cost that is known before it is paid."""

import contextlib
import random

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage
from titan_overlay.wire import frames
from titan_overlay.wire.frames import HEADER, MAX_PAYLOAD_BYTES, PIECES_MAX, Flags, Frame, FrameReader
from titan_overlay.wire.messages import Data, Opcode


def frame(opcode: int, payload: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(1, opcode, flags, 0, len(payload)) + payload


def read(data: bytes) -> list[Frame]:
    return list(FrameReader().feed(data))


def test_the_header_is_eight_bytes_big_endian() -> None:
    out = bytearray()
    frames.append(out, Opcode.DATA, Flags.MORE, [7, b"abc"])
    body = msgspec.msgpack.encode([7, b"abc"])
    assert bytes(out) == bytes([1, 0x52, 4, 0]) + len(body).to_bytes(4, "big") + body


def test_what_is_appended_is_read() -> None:
    out = bytearray()
    size = frames.append(out, Opcode.DATA, 0, Data(3, msgspec.Raw(b"\xa2hi")))
    assert size == len(out)
    [(opcode, flags, payload)] = read(bytes(out))
    assert (opcode, flags) == (Opcode.DATA, 0)
    assert msgspec.msgpack.decode(payload) == [3, "hi"]


@given(
    st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0, 2, 4, 6]), st.binary(max_size=300)), max_size=8),
    st.randoms(use_true_random=False),
)
def test_frames_survive_any_cut_of_the_stream(sent: list[tuple[int, int, bytes]], random: random.Random) -> None:
    data = b"".join(frame(opcode, payload, flags) for opcode, flags, payload in sent)
    reader, got, at = FrameReader(), [], 0
    while at < len(data):
        step = random.choice([1, 2, 7, 50, 1000])
        got += list(reader.feed(data[at : at + step]))
        at += step
    assert got == sent
    assert reader.pending_bytes == 0


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_bad_message(data: bytes) -> None:
    try:
        for opcode, _, payload in read(data):
            assert 0 <= opcode <= 255
            assert len(payload) <= MAX_PAYLOAD_BYTES
    except BadMessage:
        pass


@given(st.binary(max_size=200))
def test_any_payload_marked_as_compressed_gives_a_frame_or_bad_message(data: bytes) -> None:
    with contextlib.suppress(BadMessage):
        read(frame(Opcode.DATA, data, Flags.COMPRESSED))


def test_a_frame_that_comes_byte_by_byte_costs_little_more_than_its_bytes() -> None:
    reader = FrameReader()
    frame = HEADER.pack(1, 0x52, 0, 0, 9000) + bytes(range(250)) * 36
    given = [each for start in range(len(frame)) for each in reader.feed(frame[start : start + 1])]
    assert given == [(0x52, 0, frame[8:])]
    list(reader.feed(HEADER.pack(1, 0x52, 0, 0, 9000)))
    for number in range(8000):
        assert not list(reader.feed(bytes((number % 256,))))
    assert len(reader._parts) <= PIECES_MAX + 1 and reader.pending_bytes == 8008


def test_an_incomplete_frame_is_kept_and_nothing_more() -> None:
    reader = FrameReader()
    assert list(reader.feed(frame(0x52, b"whole") + frame(0x52, b"x" * 100)[:50])) == [(0x52, 0, b"whole")]
    assert reader.pending_bytes == 50


def test_a_frame_is_the_same_until_it_is_complete_in_however_many_pieces_it_comes() -> None:
    reader = FrameReader()
    whole = frame(1, bytes(5 * PIECES_MAX))
    seen = set()
    for at in range(len(whole) - 1):
        assert list(reader.feed(whole[at : at + 1])) == []
        seen.add(reader.partial)
    assert len(seen) == 1 and 0 not in seen
    assert len(list(reader.feed(whole[-1:]))) == 1 and reader.partial == 0
    list(reader.feed(whole[:1]))
    assert reader.partial not in seen, "another begins with the very same byte"


def test_frames_before_a_bad_one_are_given() -> None:
    reader = FrameReader().feed(frame(0x52, b"good") + b"\xff" * 20)
    assert next(reader) == (0x52, 0, b"good")
    with pytest.raises(BadMessage, match="version 255"):
        next(reader)


def test_a_frame_over_the_limit_is_refused_by_its_header_alone() -> None:
    with pytest.raises(BadMessage, match="the limit is 1048576"):
        read(HEADER.pack(1, 0x52, 0, 0, MAX_PAYLOAD_BYTES + 1))


def test_a_frame_at_the_limit_is_read() -> None:
    [(_, _, payload)] = read(frame(0x52, bytes(MAX_PAYLOAD_BYTES)))
    assert len(payload) == MAX_PAYLOAD_BYTES


@pytest.mark.parametrize("flags", [8, 16, 128])
def test_flags_that_this_version_does_not_know_are_refused(flags: int) -> None:
    with pytest.raises(BadMessage):
        read(frame(0x52, b"", flags))


def test_a_body_over_the_limit_is_not_appended() -> None:
    out = bytearray(b"before")
    with pytest.raises(BadMessage, match="the limit"):
        frames.append(out, 0x52, 0, bytes(MAX_PAYLOAD_BYTES))
    assert out == b"before"


def test_bodies_that_shrink_travel_compressed() -> None:
    out = bytearray()
    frames.append(out, 0x52, Flags.MORE, b"again " * 10_000)
    assert len(out) < 1000
    [(_, flags, payload)] = read(bytes(out))
    assert flags == Flags.COMPRESSED | Flags.MORE
    assert msgspec.msgpack.decode(payload) == b"again " * 10_000


def test_bodies_that_do_not_shrink_travel_as_they_are() -> None:
    noise = random.Random(1).randbytes(10_000)
    out = bytearray()
    frames.append(out, 0x52, 0, noise)
    assert not out[2] & Flags.COMPRESSED
    assert len(out) >= len(noise)


def test_a_compressed_body_that_claims_to_be_huge_is_refused_before_it_is_made() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(BadMessage, match="claims 67108864 bytes"):
        read(frame(0x52, bomb, Flags.COMPRESSED))


def test_a_compressed_body_that_does_not_say_its_size_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 1000)
    with pytest.raises(BadMessage):
        read(frame(0x52, silent, Flags.COMPRESSED))
