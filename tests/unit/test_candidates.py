"""Where copies go: to random places of the pool; to the ids that crowd around the object when nobody else is left."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from titan_overlay.ambient import Random
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, distance
from titan_overlay.overlay.density import Density
from titan_overlay.overlay.regions import Region
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.pool.keeping.candidates import Candidates

GROUND = 20


def contact(node: bytes, number: int) -> Contact:
    return Contact(NodeId(node), f"{20 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1", 4747)


def close_to(target: bytes, number: int) -> bytes:
    """An id so close to the target that no honest one is nearer."""
    return (int.from_bytes(target, "big") ^ (number + 1 << 128)).to_bytes(ID_BYTES, "big")


class Town:
    """What one node knows of a pool in which the ids nearest to one object are ground.

    ground: how many. early: those were there first, and have all the places of their bucket.
    """

    def __init__(self, nodes: int, seed: int, *, ground: int = GROUND, early: bool = True) -> None:
        random = Random(seed)
        self.object_id = ObjectId(random.randbytes(ID_BYTES))
        self.contact = contact(random.randbytes(ID_BYTES), 0)
        self.ground = {close_to(self.object_id, number) for number in range(ground)}
        self.honest = {random.randbytes(ID_BYTES) for _ in range(nodes)}
        everybody = [*sorted(self.ground), *sorted(self.honest)]
        if not early:
            random.shuffle(everybody)
        self._everybody = [contact(node, number) for number, node in enumerate(everybody, 1)]
        self._table = RoutingTable(NodeId(self.contact.id), 20)
        for each in self._everybody:
            self._table.add(each, 0.0)
        self._density = Density(self._table)
        for _ in range(8):
            point = random.randbytes(ID_BYTES)
            self._density.observe(point, self.near(point, 8), 0.0)
        self.point = lambda: random.randbytes(ID_BYTES)
        self.lookups = 0
        self.serving = False

    def near(self, target: bytes, count: int) -> list[Contact]:
        return sorted(self._everybody, key=lambda each: distance(each.id, target))[:count]

    # ---- what `Candidates` asks of the overlay ---------------------------------------------------------------

    def region_of(self, object_id: ObjectId) -> Region:
        return Region.around(object_id, self._density.region_bits(16))

    def neighbours(self, target: bytes, count: int) -> list[Contact]:
        return self._table.closest(target, count)

    async def find_nodes(self, target: bytes, count: int) -> list[Contact]:
        self.lookups += 1
        return self.near(target, count)

    def turns(self) -> list[list[Contact]]:
        async def all_of_them() -> list[list[Contact]]:
            return [turn async for turn in Candidates(self, self.object_id, self.point)]  # type: ignore[arg-type]

        return asyncio.run(all_of_them())


@settings(max_examples=10, deadline=None)
@given(nodes=st.integers(60, 250), seed=st.integers(0, 2**32))
@example(nodes=186, seed=18196)  # no random point leads to the region
def test_ids_ground_next_to_the_object_are_asked_when_all_others_have_refused(nodes: int, seed: int) -> None:
    town = Town(nodes, seed)
    *turns, last = town.turns()
    assert not town.ground & {each.id for turn in turns for each in turn}
    assert all(each.long_id in town.region_of(town.object_id) for each in last)


def test_there_are_enough_to_choose_from_outside_of_the_region() -> None:
    """One town in some hundred has fewer: random points may all lie where those are that were asked already."""
    towns = [Town(60 + 5 * seed, seed) for seed in range(40)]
    assert all(sum(map(len, town.turns()[:-1])) >= 20 for town in towns)


def test_who_crowds_around_any_other_point_is_drawn_no_more_often_than_one_of_the_table() -> None:
    drawn = ground = 0
    for seed in range(20):
        town = Town(150, seed, early=False)
        elsewhere = ObjectId(bytes(b ^ 0xFF for b in town.object_id))
        candidates = Candidates(town, elsewhere, town.point)  # type: ignore[arg-type]
        first = asyncio.run(one(candidates))[:8]
        drawn += len(first)
        ground += sum(each.id in town.ground for each in first)
    assert ground < 0.1 * drawn, "of eight copies, less than one"


async def one(candidates: Candidates) -> list[Contact]:
    return await anext(candidates)


def test_nobody_is_named_twice_and_never_the_asker() -> None:
    town = Town(200, 1)
    named = [each.id for turn in town.turns() for each in turn]
    assert len(named) == len(set(named)) and town.contact.id not in named


def test_the_first_turn_costs_no_look_up() -> None:
    town = Town(200, 1)
    assert asyncio.run(one(Candidates(town, town.object_id, town.point))) and not town.lookups  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", [1, 5, 15])
def test_in_a_small_pool_everybody_is_asked(nodes: int) -> None:
    town = Town(nodes, 3, ground=0)
    assert {each.id for turn in town.turns() for each in turn} == town.honest


def test_copies_follow_from_no_id_at_all() -> None:
    """The same object, published twice, goes elsewhere: what cannot be foreseen cannot be ground."""
    town = Town(300, 4)
    first, second = ([each.id for each in town.turns()[0][:8]] for _ in range(2))
    assert len(set(first) & set(second)) < 6


def test_the_node_that_asks_is_the_last_one_and_only_if_it_serves() -> None:
    town = Town(60, 1)
    assert town.contact not in [each for turn in town.turns() for each in turn]
    town.serving = True
    turns = town.turns()
    assert turns[-1] == [town.contact]
    assert town.contact not in [each for turn in turns[:-1] for each in turn]
