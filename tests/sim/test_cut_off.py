"""Nodes and programs that lose everybody they know, and find back."""

from collections.abc import Sequence
from hashlib import sha256

import pytest

import titan_overlay as titan
from tests.sim.calculator import Calculator
from titan_overlay.identity import records
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.storage.rows import PeerRow
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")


async def test_a_node_whose_net_was_away_for_hours_finds_back_by_itself() -> None:
    async with SimulatedPool(10) as sim:
        await sim.publish(Calculator, "calc")
        alone = next(each for each in sim.nodes[1:] if each not in sim.holders("calc"))
        others = [each for each in sim.nodes if each is not alone]
        sim.partition([alone], others)
        await sim.settle(seconds=3 * 3600)
        assert len(alone.running.overlay.table) == 0, "it has given up everybody"
        sim.heal()
        await sim.settle(lambda: len(alone.running.overlay.table) >= 3, within=60)
        assert await sim.pool(alone).send("calc", "hello") == "hello"
        assert (await sim.pool(others[0]).send(alone.name, titan.Ping())).holder == alone.key.id.hex()


async def test_two_parts_of_a_pool_that_were_apart_for_hours_become_one_again() -> None:
    async with SimulatedPool(16) as sim:
        parts = sim.nodes[:8], sim.nodes[8:]
        sim.partition(*parts)
        await sim.settle(seconds=3 * 3600)

        def others_known(part: int) -> list[int]:
            others = {each.key.id for each in parts[1 - part]}
            return [sum(other.id in others for other in each.running.overlay.table) for each in parts[part]]

        assert not any(others_known(0) + others_known(1)), "each has forgotten the other"
        sim.heal()
        await sim.settle(lambda: min(others_known(0) + others_known(1)) >= 6, within=2 * 3600)


async def test_a_program_that_knows_nobody_any_more_says_so_and_finds_back() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client()
        await sim.settle()
        for node in sim.nodes:
            sim.kill(node)
        with pytest.raises(titan.Unavailable):
            await pool.send("calc", "hello", timeout=30)
        with pytest.raises(titan.Unavailable, match="no node of the pool answers"):
            await pool.send("another", "hello", timeout=30)
        for node in sim.nodes:
            await sim.restart(node)
        await sim.settle()
        assert await pool.send("calc", "hello", timeout=30) == "hello"


async def test_a_program_whose_own_node_was_away_for_a_while_still_hears_of_new_rules() -> None:
    async with SimulatedPool(6) as sim:
        member = (await sim.client())._member
        find_seeds = member.overlay.find_seeds

        def none_runs() -> Sequence[JoinLine]:
            raise titan.ConfigError("no pool to connect to: no node of yours runs")

        member.overlay.find_seeds = none_runs
        for node in sim.nodes:
            sim.kill(node)
        await sim.settle(lambda: not len(member.overlay.table))
        await sim.settle(seconds=300)
        member.overlay.find_seeds = find_seeds
        for node in sim.nodes:
            await sim.restart(node)
        newer = records.sign(PoolRecord(version=2), sim.pool_key, sim.id)
        assert sim.nodes[0].running.rights.learn_record(newer.raw)
        await sim.settle(lambda: member.rights.record.version == 2)


def peers_that_have_changed(sim: SimulatedPool, node: SimulatedNode) -> None:
    """All that its database knows are addresses at which others are now."""
    strangers = [SigningKey(sha256(each.key.id).digest()) for each in sim.live()]
    addresses = zip(strangers, sim.live(), strict=True)
    node.database.put_peers([PeerRow(stranger.id, each.ip, 4747, 0.0) for stranger, each in addresses])


async def test_a_node_joins_through_the_seeds_where_others_have_the_addresses_of_the_peers_it_knew() -> None:
    async with SimulatedPool(6) as sim:
        node = sim.kill(sim.nodes[3])
        peers_that_have_changed(sim, node)
        await sim.restart(node)
        assert len(node.running.overlay.table) >= 3


async def test_a_founder_waits_for_nobody_where_others_have_the_addresses_of_the_peers_it_knew() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(
            Calculator, "calc", policy=titan.Policy(min_copies=1, requires={"node": sim.nodes[0].key.id.hex()})
        )
        node = sim.kill(sim.nodes[0])
        peers_that_have_changed(sim, node)
        sim.network.revive(node.ip)
        await sim._start(node, seeds=[])
        assert await sim.pool(node).send("calc", "hello") == "hello"
