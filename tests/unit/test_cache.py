"""The cache: its protocol as bytes, and what it keeps until when."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import titan_overlay as titan
from titan_objects import cache
from titan_objects.cache import Cache, Delete, Expire, Get, Set
from titan_objects.cache.wire import (
    BadFrame,
    Command,
    Decoder,
    GetCommand,
    JoinCommand,
    SetCommand,
    Status,
    encode,
    get_reply,
)
from titan_objects.doors import address, written
from titan_overlay.mutable.declare import mutable_type
from titan_overlay.mutable.engine import Entry, EntryKind
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.requests import Batch, Request
from titan_overlay.pool.message import encode_message
from titan_overlay.wire import codec

SET = b"\x01" + b"\x03\0\0\0" + b"key" + b"\x05\0\0\0" + b"value" + b"\x3c\0\0\0"
GET = b"\x02" + b"\x03\0\0\0" + b"key"
JOIN = b"\x03" + b"\x02\0\0\0" + b"id" + b"\x06\0\0\0" + b"host:1"


def test_commands_are_read_as_the_seed_writes_them() -> None:
    assert Decoder().feed(SET + GET + JOIN + b"\x04" + JOIN[1:]) == [
        SetCommand(b"key", b"value", 60),
        GetCommand(b"key"),
        JoinCommand(b"id", b"host:1"),
        JoinCommand(b"id", b"host:1"),
    ]


def test_a_client_writes_what_the_seed_reads() -> None:
    commands: list[Command] = [SetCommand(b"key", b"value", 60), GetCommand(b"key"), JoinCommand(b"id", b"host:1")]
    assert b"".join(map(encode, commands)) == SET + GET + JOIN


def test_a_reply_to_get_is_a_status_and_a_value() -> None:
    assert get_reply(Status.OK, b"value") == b"\x01\x05\0\0\0value"
    assert get_reply(Status.KEY_NOT_FOUND) == b"\x03\0\0\0\0"


@given(
    commands=st.lists(
        st.one_of(
            st.builds(SetCommand, st.binary(max_size=9), st.binary(max_size=30), st.integers(0, 2**31 - 1)),
            st.builds(GetCommand, st.binary(max_size=9)),
        ),
        max_size=6,
    ),
    cuts=st.lists(st.integers(1, 12), max_size=40),
)
def test_however_bytes_are_cut_the_commands_are_the_same(commands: list[Command], cuts: list[int]) -> None:
    raw = b"".join(map(encode, commands))
    decoder, found = Decoder(), []
    for cut in cuts:
        found += decoder.feed(raw[:cut])
        raw = raw[cut:]
    assert found + decoder.feed(raw) == commands


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_give_commands_and_at_most_one_end(pieces: list[bytes]) -> None:
    decoder = Decoder()
    found = [each for piece in pieces for each in decoder.feed(piece)]
    assert not any(isinstance(each, BadFrame) for each in found[:-1])
    if found and isinstance(found[-1], BadFrame):
        assert decoder.feed(SET) == []


def test_what_is_no_command_ends_the_connection() -> None:
    for wrong in (
        b"\x09",
        b"\x02" + struct.pack("<i", -1),
        b"\x02" + struct.pack("<i", cache.KEY_BYTES_MAX + 1),
        b"\x01" + b"\x01\0\0\0k" + struct.pack("<i", cache.VALUE_BYTES_MAX + 1),
        SET[:-4] + struct.pack("<i", -5),
    ):
        first, bad = Decoder().feed(GET + wrong)
        assert first == GetCommand(b"key")
        assert isinstance(bad, BadFrame), wrong


class Clock:
    """One member that executes messages at agreed times."""

    def __init__(self) -> None:
        self.machine = Machine(mutable_type(Cache), Cache(), "cache/main", b"o" * 32)
        self.now = 1000.0
        self._height = 0

    def send(self, message: Any, after: float = 0.0) -> Any:
        self.now += after
        self._height += 1
        request = Request(b"A" * 32, 0, 0, 0, f"{self._height}", *encode_message(message))
        batch = codec.encode(Batch(self.now, b"seed", (request,)))
        done = self.machine.execute(Entry(self._height, 1, EntryKind.COMMANDS, batch))
        assert not done.replies[-1].failed
        return codec.decode(done.replies[-1].body, Any)

    def get(self, key: bytes) -> Any:
        return codec.decode(self.machine.read(Request(b"A" * 32, 0, 0, 0, "", *encode_message(Get(key)))), Any)


def test_a_value_ends_by_the_agreed_time() -> None:
    clock = Clock()
    assert clock.send(Set(b"a", b"1", ttl=10)) is True
    assert clock.send(Set(b"b", b"2")) is True
    clock.send(Set(b"c", b"3"), after=9.0)
    assert clock.get(b"a") == b"1"
    clock.send(Set(b"c", b"3"), after=1.0)
    assert (clock.get(b"a"), clock.get(b"b")) == (None, b"2")
    assert b"a" not in clock.machine.instance.entries, "it is gone, not only hidden"


def test_a_value_that_is_set_anew_has_a_new_time_to_live() -> None:
    clock = Clock()
    clock.send(Set(b"a", b"1", ttl=10))
    clock.send(Set(b"a", b"2", ttl=10), after=8.0)
    clock.send(Set(b"z", b"1"), after=8.0)
    assert clock.get(b"a") == b"2"
    clock.send(Set(b"a", b"3"))
    clock.send(Set(b"z", b"1"), after=100.0)
    assert clock.get(b"a") == b"3"


def test_a_member_restored_from_chunks_lets_values_end_at_the_same_places() -> None:
    here, there = Clock(), Clock()
    for number in range(3000):
        here.send(Set(b"%04d" % (number % 2000), b"x" * (number % 50), ttl=number % 7 and 5000 - number))
    here.send(Delete(b"0003"))
    chunks = list(here.machine.snapshot())
    assert len(chunks) > 3
    there.machine.restore(chunks)
    there.now, there._height = here.now, here._height
    assert there.machine.root() == here.machine.root()
    for after in (2000.5, 500.0, 700.0, 5000.0):
        for clock in (here, there):
            clock.send(Set(b"now", b"1"), after=after)
        assert there.machine.root() == here.machine.root()
        assert there.machine.instance.size == here.machine.instance.size
    assert 0 < len(here.machine.instance.entries) < 500


def test_a_snapshot_shows_the_state_of_its_first_moment() -> None:
    clock = Clock()
    for number in range(3000):
        clock.send(Set(b"%04d" % number, b"old"))
    chunks = clock.machine.snapshot()
    first = [next(iter(chunks))]
    clock.send(Set(b"2999", b"new"))
    clock.send(Set(b"more", b"new"))
    other = Clock()
    other.machine.restore([*first, *chunks])
    assert other.get(b"2999") == b"old" and len(other.machine.instance.entries) == 3000


def test_what_was_deleted_or_has_ended_is_not_there_to_delete() -> None:
    clock = Clock()
    clock.send(Set(b"a", b"1", ttl=10))
    assert [clock.send(Delete(b"a")), clock.send(Delete(b"a")), clock.get(b"a")] == [True, False, None]
    assert clock.machine.instance.size == 0


def test_timers_and_heap_do_not_grow_with_the_messages() -> None:
    clock = Clock()
    for turn in range(500):
        clock.send(Set(b"a", b"1", ttl=1000 - turn))
    assert len(clock.machine.instance.ends) <= 70
    clock.send(Expire())
    assert len(clock.machine.timers) <= 500
    clock.send(Set(b"z", b"1"), after=1000.0)
    assert not clock.machine.timers
    assert clock.get(b"a") is None


def test_a_full_cache_takes_no_more_until_something_goes() -> None:
    clock = Clock()
    large = b"x" * cache.VALUE_BYTES_MAX
    for number in range(cache.BYTES_MAX // cache.VALUE_BYTES_MAX - 1):  # the value is one object: it costs no memory
        clock.machine.instance.set(Set(b"%03d" % number, large), _Now())
    assert clock.send(Set(b"last", large)) is False
    assert clock.send(Delete(b"000")) is True
    assert clock.send(Set(b"last", large)) is True
    assert clock.send(Set(b"k" * (cache.KEY_BYTES_MAX + 1), b"")) is False
    assert clock.send(Set(b"k", b"", ttl=-1)) is False


class _Now(titan.Context):
    now = 0.0

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("text", ["127.0.0.1:4780", "[::1]:4780", "[::]:0"])
def test_where_a_door_is_served_is_written_as_it_is_read(text: str) -> None:
    assert written(*address(text)) == text
