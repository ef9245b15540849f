"""Maps whose keys are made to collide."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage, WireError
from titan_overlay.pool.hosting.object import service
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.wire import codec
from titan_overlay.wire.keys import ARRAY_KEYS_MAX, LONG_BYTES, _container, check_keys
from titan_overlay.wire.messages import Failure

_MASK = (1 << 64) - 1


def colliding(count: int) -> Iterator[tuple[int, int]]:
    """Pairs of numbers with one hash (CPython's `tuplehash`, after xxHash)."""
    one, two, five = 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse = pow(two, -1, 1 << 64)
    first = 0
    while count:
        first += 1
        lane = (five + first * two) & _MASK
        lane = ((lane << 31 | lane >> 33) & _MASK) * one & _MASK
        second = (12345 - lane) * inverse & _MASK
        if second < (1 << 61) - 1:
            count -= 1
            yield first, second


def test_these_keys_do_collide() -> None:
    assert len({hash(each) for each in colliding(100)}) == 1


PAIRS = [codec.encode(each) + b"\xc0" for each in colliding(40_000)]
BOMB = codec.Raw(b"\xdf" + len(PAIRS).to_bytes(4) + b"".join(PAIRS))
"""A map of less than 1 MiB; a dict of it takes a minute."""


@pytest.mark.parametrize("type", [Any, dict, list, WireError, Failure, dict[str, Any]])
def test_a_megabyte_of_keys_that_collide_is_refused_before_it_costs_anything(type: Any) -> None:
    body = codec.encode({"": [[BOMB]]})
    assert len(body) < 1 << 20
    with pytest.raises(BadMessage):
        codec.decode(body, type)


def test_a_handler_that_takes_anything_is_protected_too() -> None:
    @service()
    class Taker:
        async def take(self, message: dict) -> int:  # type: ignore[type-arg]
            return len(message)

    runner = ServiceRunner(Taker())
    with pytest.raises(BadMessage, match="keys that are lists"):
        runner.call("dict", codec.encode(BOMB), None)  # type: ignore[arg-type]


def test_a_few_keys_that_are_lists_are_welcome_and_many_texts_and_numbers() -> None:
    some = dict.fromkeys(colliding(ARRAY_KEYS_MAX))
    many = {str(number): {number: [None, 1.5, b"x" * 300]} for number in range(5000)}
    value = [some, many, "x" * LONG_BYTES]
    assert codec.decode(codec.encode(value), Any) == value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner),
)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.integers(1, 20))
def test_every_value_is_walked_to_its_end(value: object, arrays: int) -> None:
    """Counted right: behind any value, one list too many is seen, and one fewer is not."""
    body = msgspec.msgpack.encode(value)

    def behind(count: int) -> bytes:
        keys = b"".join(b"\x91" + msgspec.msgpack.encode(number) + b"\xc0" for number in range(count))
        return b"\x92" + body + b"\xde" + count.to_bytes(2) + keys

    check_keys(behind(ARRAY_KEYS_MAX))
    with pytest.raises(BadMessage):
        check_keys(behind(ARRAY_KEYS_MAX + arrays))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_walked_without_an_error(data: bytes) -> None:
    check_keys(b"\x81" + data)


def test_a_container_says_how_many_tokens_come() -> None:
    for count in (0, 3, 15, 16, 70_000):
        for made, tokens in (([None] * count, count), (dict.fromkeys(range(count)), -2 * count)):
            body = msgspec.msgpack.encode(made)
            at, found = _container(body, 0, body[0])
            assert found == tokens and len(body) - at >= count
