"""Regions: what one lookup tells about the objects nearby."""

from hashlib import sha256

import pytest

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, distance
from titan_overlay.overlay import regions as rules
from titan_overlay.overlay.regions import Regions

COPIES = 8
WORLD = [Contact(NodeId(sha256(b"node %d" % n).digest()), f"10.0.{n >> 8}.{n & 255}", 4747) for n in range(500)]


def closest(target: bytes, count: int) -> list[Contact]:
    return sorted(WORLD, key=lambda c: distance(c.id, target))[:count]


def object_id(number: int) -> bytes:
    return sha256(b"object %d" % number).digest()


def test_a_sweep_needs_a_lookup_for_each_dozen_nodes_however_many_objects_there_are() -> None:
    regions = Regions(COPIES)
    lookups = 0
    for target in sorted(object_id(n) for n in range(1500)):
        known = regions.closest(target, 0.0)
        if known is None:
            lookups += 1
            regions.learn(target, closest(target, 20), 0.0)
            known = regions.closest(target, 0.0)
        assert known == closest(target, COPIES), "what is remembered is what a lookup would find"
    assert lookups < 150


def test_a_small_overlay_is_one_region() -> None:
    regions = Regions(COPIES)
    regions.learn(object_id(1), WORLD[:5], 0.0, everyone=True)
    assert {c.id for c in regions.closest(object_id(2), 0.0) or ()} == {c.id for c in WORLD[:5]}


def test_a_newcomer_takes_its_place_and_a_dead_node_leaves_it() -> None:
    regions = Regions(COPIES)
    target = object_id(1)
    near = closest(target, 21)
    newcomer = near.pop(0)
    regions.learn(target, near, 0.0)
    regions.add(target, newcomer)
    assert regions.closest(target, 0.0) == closest(target, COPIES)
    regions.remove(newcomer)
    left = regions.closest(target, 0.0)
    assert left is None or newcomer not in left


def test_a_region_with_too_few_left_is_looked_up_anew() -> None:
    regions = Regions(COPIES)
    target = object_id(1)
    regions.learn(target, closest(target, 8), 0.0)
    regions.remove(closest(target, 8)[0])
    assert regions.closest(target, 0.0) is None


def test_a_region_is_believed_for_an_hour() -> None:
    regions = Regions(COPIES)
    regions.learn(object_id(1), closest(object_id(1), 20), 0.0)
    assert regions.closest(object_id(1), rules.REGION_SECONDS - 1) is not None
    assert regions.closest(object_id(1), rules.REGION_SECONDS) is None


def test_regions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_REGIONS", 100)
    regions = Regions(1)
    for number in range(150):
        target = object_id(number)
        regions.learn(target, [Contact(NodeId(target), "10.0.0.1", 1)], float(number))
    assert len(regions) == 100
