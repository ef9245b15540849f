"""Regions: who keeps what is said about an object, and what one lookup tells about the objects nearby."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, distance
from titan_overlay.overlay import regions as rules
from titan_overlay.overlay.regions import REGION_MAX, REGION_MIN, Region, Regions

WORLD = [Contact(NodeId(sha256(b"node %d" % n).digest()), f"10.0.{n >> 8}.{n & 255}", 4747) for n in range(500)]
BITS = 5
"""16 of 500 share so many."""


def object_id(number: int) -> bytes:
    return sha256(b"object %d" % number).digest()


def read(target: bytes, bits: int = BITS) -> list[Contact]:
    """What a lookup finds: all in the region, and the 8 closest."""
    region = Region.around(target, bits)
    closest = sorted(WORLD, key=lambda c: distance(c.id, target))
    return closest[:REGION_MIN] + [c for c in closest[REGION_MIN:] if c.long_id in region]


@given(target=st.binary(min_size=32, max_size=32), bits=st.integers(0, 256), fraction=st.floats(0, 1, exclude_max=True))
def test_a_region_holds_its_target_and_its_points_and_is_a_ball(target: bytes, bits: int, fraction: float) -> None:
    region = Region.around(target, bits)
    assert int.from_bytes(target, "big") in region
    point = region.point(fraction)
    assert len(point) == 32 and int.from_bytes(point, "big") in region
    assert distance(point, target) < region.width
    if bits:
        outside = (int.from_bytes(target, "big") ^ region.width).to_bytes(32, "big")
        assert int.from_bytes(outside, "big") not in region and distance(outside, target) >= region.width


def test_a_sweep_needs_a_lookup_for_each_dozen_nodes_however_many_objects_there_are() -> None:
    regions = Regions()
    lookups = 0
    for target in sorted(object_id(n) for n in range(1500)):
        region = Region.around(target, BITS)
        known = regions.members(target, region, 0.0)
        if known is None:
            lookups += 1
            regions.learn(target, region, read(target), 0.0)
            known = regions.members(target, region, 0.0) or []
        assert {c.id for c in known} >= {c.id for c in WORLD if c.long_id in region}
        assert len(known) >= REGION_MIN, "where the region holds fewer, others beside it are told"
    assert lookups < 150


def test_a_small_overlay_is_one_region() -> None:
    regions, everywhere = Regions(), Region.around(object_id(1), 0)
    regions.learn(object_id(1), everywhere, WORLD[:5], 0.0)
    assert regions.members(object_id(2), Region.around(object_id(2), 0), 0.0) == WORLD[:5]
    assert not regions.remove(WORLD[0])
    assert regions.members(object_id(2), everywhere, 0.0) == WORLD[1:5]


def test_a_node_that_is_alone_looks_for_others_each_time() -> None:
    regions, everywhere = Regions(), Region.around(object_id(1), 0)
    regions.learn(object_id(1), everywhere, [], 0.0)
    assert regions.members(object_id(1), everywhere, 0.0) is None, "nobody could tell it who has come since"
    regions.learn(object_id(1), everywhere, WORLD[:1], 0.0)
    assert regions.remove(WORLD[0]), "and neither can one that has died"
    assert regions.members(object_id(1), everywhere, 0.0) is None


def test_a_newcomer_takes_its_place_and_a_dead_node_leaves_it() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    *others, newcomer = read(target)
    regions.learn(target, region, others, 0.0)
    assert regions.add(target, region, newcomer)
    assert not regions.add(target, region, newcomer), "it is known"
    assert newcomer in (regions.members(target, region, 0.0) or ())
    regions.remove(Contact(newcomer.id, "10.66.6.6", 6))
    assert newcomer in (regions.members(target, region, 0.0) or ()), "nobody is lost for a false address"
    regions.remove(newcomer)
    assert newcomer not in (regions.members(target, region, 0.0) or ())


def test_a_region_with_too_few_left_is_looked_up_anew() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    members = read(target)
    regions.learn(target, region, members, 0.0)
    gone = [regions.remove(contact) for contact in members[: len(members) - REGION_MIN + 1]]
    assert gone[-1] and not any(gone[:-1])
    assert regions.members(target, region, 0.0) is None


def test_the_half_of_a_region_that_was_read_is_not_looked_up_anew() -> None:
    regions, target = Regions(), object_id(1)
    wider, region = Region.around(target, BITS - 1), Region.around(target, BITS)
    regions.learn(target, wider, read(target, BITS - 1), 0.0)
    assert set(regions.members(target, region, 0.0) or ()) == {c for c in WORLD if c.long_id in region}
    assert regions.members(target, region, rules.REGION_SECONDS) is None, "it is as old as what it is a half of"
    too_narrow = Region.around(target, BITS + 2)
    assert regions.members(target, too_narrow, 0.0) is None


def test_a_region_is_believed_for_an_hour() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    regions.learn(target, region, read(target), 0.0)
    assert regions.members(target, region, rules.REGION_SECONDS - 1) is not None
    assert regions.members(target, region, rules.REGION_SECONDS) is None


def test_regions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_REGIONS", 100)
    regions = Regions()
    for number in range(150):
        target = object_id(number)
        regions.learn(target, Region.around(target, 200), WORLD[:3], float(number))
    assert len(regions) == 100


def test_no_crowd_of_names_that_others_give_grows_without_end() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    regions.learn(target, region, read(target), 0.0)
    for number in range(200):
        regions.add(target, region, Contact(NodeId(region.point(number / 200)), "10.1.0.1", number + 1))
    assert len(regions.members(target, region, 0.0) or ()) == REGION_MAX


def test_what_another_tells_of_a_region_is_good_for_one_object_and_one_minute() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    told = [c for c in WORLD if c.long_id in region]
    regions.hint(target, region, WORLD, 0.0)
    assert regions.members(target, region, 0.0) == told, "and only who lies in the region"
    assert regions.members(region.point(0.9), region, 0.0) is None, "what is said of one object hides no other"
    assert regions.read(region, 0.0) == [], "and it is not passed on"
    assert regions.members(target, region, rules.HINT_SECONDS) is None


def test_what_was_read_counts_for_more_than_what_another_tells() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    regions.learn(target, region, read(target), 0.0)
    lies = [Contact(NodeId(region.point(n / 16)), f"10.9.0.{n}", 4747) for n in range(16)]
    regions.hint(target, region, lies, 0.0)
    known = regions.members(target, region, 0.0)
    assert known is not None and not set(known) & set(lies)
    assert regions.read(region, 0.0) == known


def test_where_those_who_were_named_do_not_answer_the_region_is_read_after_all() -> None:
    regions, target = Regions(), object_id(1)
    region = Region.around(target, BITS)
    named = [Contact(NodeId(region.point(n / 9)), f"10.9.0.{n}", 4747) for n in range(9)]
    regions.hint(target, region, named[:7], 0.0)
    assert regions.members(target, region, 0.0) is None, "too few to begin with"
    regions.hint(target, region, named, 0.0)
    assert not regions.remove(named[0]) and regions.remove(named[1])
    assert regions.members(target, region, 0.0) is None
