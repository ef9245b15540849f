"""Data picked up in passing: who reads it answers for it for a while, is not counted, and lets go of it."""

import pytest

import titan_overlay as titan
from titan_overlay.config import NodeConfig
from titan_overlay.identity import names
from titan_overlay.pool.orders import Recruit
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

DATA = b"popular" * 1000


async def passing_in(pool: titan.Pool, name: str) -> set[str]:
    return {each.node for each in await pool.locate(name) if each.passing}


def wall(node: SimulatedNode) -> float:
    return node.running.ambient.wall()


def a_reader(sim: SimulatedPool, name: str) -> SimulatedNode:
    """A node that does not hold it yet."""
    holders = sim.holders(name)
    return next(each for each in sim.nodes if each not in holders)


async def test_a_node_that_reads_data_answers_for_it_and_is_not_counted() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        name = await pool.put(DATA, policy=titan.Policy(cache_ttl=300))
        reader = a_reader(sim, name)
        assert await sim.pool(reader).get(name) == DATA
        await sim.settle(lambda: any(each.passing for each in reader.database.replicas()), within=30)
        await sim.settle(seconds=5)
        assert await passing_in(await sim.client(), name) == {reader.key.id.hex()}
        assert reader not in sim.holders(name) and len(sim.holders(name)) == 3
        for each in sim.holders(name):
            assert each.running.keeper.copies(names.object_id(sim.id, name)) <= 3
        assert await sim.pool(reader).get(name) == DATA, "from its own disk now"


async def test_what_is_held_in_passing_goes_when_its_time_is_up() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await sim.client()).put(DATA, policy=titan.Policy(cache_ttl=60))
        reader = a_reader(sim, name)
        await sim.pool(reader).get(name)
        await sim.settle(lambda: any(each.passing for each in reader.database.replicas()), within=30)
        await sim.settle(lambda: not reader.database.replicas(), within=120)
        assert reader.running.blobs.used() == 0
        assert not await passing_in(await sim.client(), name)
        assert len(sim.holders(name)) == 3, "the copies that count stay"


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (NodeConfig(), titan.Policy(cache=False)),
        (NodeConfig(cache_bytes=0), titan.Policy()),
        (NodeConfig(cache_bytes=len(DATA) - 1), titan.Policy()),
    ],
)
async def test_nothing_is_kept_where_the_policy_or_the_room_forbids_it(
    config: NodeConfig, policy: titan.Policy
) -> None:
    async with SimulatedPool(10, config=config) as sim:
        name = await (await sim.client()).put(DATA, policy=policy)
        reader = a_reader(sim, name)
        assert await sim.pool(reader).get(name) == DATA
        await sim.settle(seconds=10)
        assert not reader.database.replicas()


async def test_the_cache_stays_within_its_room() -> None:
    async with SimulatedPool(10, config=NodeConfig(cache_bytes=2 * len(DATA) + 100)) as sim:
        client = await sim.client()
        everybody = titan.Policy(min_copies=1, max_copies=1)
        kept = [await client.put(DATA + bytes([n]), policy=everybody) for n in range(6)]
        reader = next(each for each in sim.nodes if not each.database.replicas())
        for name in kept:
            await sim.pool(reader).get(name)
            await sim.settle(seconds=5)
        assert len(reader.database.replicas()) == 2


async def test_a_copy_that_counts_cannot_be_made_a_passing_one() -> None:
    async with SimulatedPool(10) as sim:
        client = await sim.client()
        name = await client.put(DATA)
        holder = sim.holders(name)[0]
        descriptor = holder.database.replicas()[0].descriptor
        with pytest.raises(titan.Forbidden, match="in passing"):
            await client.send(f"node:{holder.key.id.hex()}", Recruit(descriptor=descriptor, passing=True))
        assert holder in sim.holders(name)


async def test_nobody_fills_the_cache_of_another_node() -> None:
    async with SimulatedPool(10) as sim:
        client = await sim.client()
        name = await client.put(DATA, policy=titan.Policy(cache_ttl=1e300))
        reader, holder = a_reader(sim, name), sim.holders(name)[0]
        order = Recruit(
            descriptor=holder.database.replicas()[0].descriptor,
            holders=(holder.running.hints(names.object_id(sim.id, name))[0],),
            passing=True,
        )
        with pytest.raises(titan.Forbidden, match="in passing"):
            await client.send(reader.name, order)
        await sim.settle(seconds=10)
        assert not reader.database.replicas()
        assert await sim.pool(reader).get(name) == DATA
        await sim.settle(lambda: bool(reader.database.replicas()), within=30)
        [row] = reader.database.replicas()
        assert row.passing and row.expires <= wall(reader) + 86400, "whatever its publisher says"
