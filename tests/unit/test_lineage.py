"""Who was asked to hold an object, by whom, and how voters are drawn along that."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage
from titan_overlay.identity import lineage
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.pool.finding.voters import shares

PUBLISHER, FIRST, SECOND, THIRD = (SigningKey(bytes([number]) * 32) for number in range(1, 5))
POOL = PoolId(SigningKey(b"\x09" * 32).public)
THING, OTHER = ObjectId(b"\x11" * 32), ObjectId(b"\x12" * 32)


def led(
    raw: bytes, holder: SigningKey, publisher: SigningKey = PUBLISHER, thing: ObjectId = THING, version: int = 1
) -> tuple[NodeId, ...]:
    return lineage.path(raw, publisher.public, POOL, thing, version, holder.id)


def first() -> bytes:
    return lineage.begin(PUBLISHER, POOL, THING, 1, FIRST.id)


def second() -> bytes:
    return lineage.extend(first(), FIRST, POOL, THING, 1, SECOND.id)


def test_a_lineage_leads_from_the_publisher_to_the_holder() -> None:
    assert led(first(), FIRST) == (FIRST.id,)
    assert led(second(), SECOND) == (FIRST.id, SECOND.id)


def test_it_grows_no_further_than_fits_and_nothing_grows_from_nothing() -> None:
    assert len(second()) == lineage.LINEAGE_BYTES_MAX
    assert lineage.extend(second(), SECOND, POOL, THING, 1, THIRD.id) == b""
    assert lineage.extend(b"", FIRST, POOL, THING, 1, SECOND.id) == b""


@pytest.mark.parametrize(
    ("raw", "holder", "how"),
    [
        pytest.param(first(), SECOND, {}, id="another holder"),
        pytest.param(first(), FIRST, {"publisher": SECOND}, id="another publisher"),
        pytest.param(first(), FIRST, {"thing": OTHER}, id="another object"),
        pytest.param(first(), FIRST, {"version": 2}, id="another version"),
        pytest.param(second(), THIRD, {}, id="another end"),
        pytest.param(lineage.extend(first(), SECOND, POOL, THING, 1, THIRD.id), THIRD, {}, id="by who was not asked"),
        pytest.param(lineage.extend(first(), FIRST, POOL, THING, 1, FIRST.id), FIRST, {}, id="by itself"),
        pytest.param(b"", FIRST, {}, id="none"),
        pytest.param(first()[:-1], FIRST, {}, id="cut"),
        pytest.param(second() + FIRST.public + bytes(64), SECOND, {}, id="too long"),
    ],
)
def test_what_does_not_lead_there_is_none(raw: bytes, holder: SigningKey, how: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        led(raw, holder, **how)


@given(st.binary(max_size=400))
def test_whatever_the_bytes_they_lead_nowhere(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        led(raw, FIRST)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def test_branches_are_alike_whatever_grows_on_them() -> None:
    friends = {f"friend {n}": (node(3), node(100 + n)) for n in range(50)}
    found = shares({"one": (node(1),), "two": (node(2),), "liar": (node(3),), **friends})
    assert found["one"] == found["two"] == pytest.approx(1 / 3)
    assert found["liar"] + sum(found[each] for each in friends) == pytest.approx(1 / 3)


def test_who_is_gone_hands_on_what_it_had() -> None:
    found = shares({"one": (node(1),), "heir": (node(2), node(20)), "other heir": (node(2), node(21))})
    assert found == pytest.approx({"one": 1 / 2, "heir": 1 / 4, "other heir": 1 / 4})


@given(st.dictionaries(st.integers(), st.lists(st.integers(0, 9).map(node), min_size=1, max_size=2).map(tuple)))
def test_all_shares_together_are_one(drawn: dict[int, tuple[NodeId, ...]]) -> None:
    paths = {path[-1]: path for path in drawn.values()}  # each holder has one lineage
    found = shares(paths)
    assert set(found) == set(paths) and all(share > 0 for share in found.values())
    assert sum(found.values()) == pytest.approx(1.0 if paths else 0.0)
