"""Bad luck is not malice: nodes that die, come back, lose packets or are slow keep their good standing."""

from random import Random

import pytest

import titan_overlay as titan
from tests.sim.calculator import Calculator
from tests.sim.voted import Sums
from titan_overlay.client import Pool
from titan_overlay.testing.pool import Machine, SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

FIVE = titan.Policy(votes=5, min_copies=6, max_copies=10)


def avoided(pools: list[Pool], nodes: list[SimulatedNode], now: float) -> list[tuple[str, object]]:
    """Whom somebody avoids, and why."""
    conducts = [pool._member.conduct for pool in pools]
    return [
        (node.name[:12], conduct.report(node.key.id, now))
        for conduct in conducts
        for node in nodes
        if conduct.avoided(node.key.id, now)
    ]


async def test_nobody_honest_is_avoided_after_a_quarter_of_an_hour_of_churn_and_loss() -> None:
    chance = Random(7)
    async with SimulatedPool(16, machine=lambda number: Machine(loss=0.03)) as sim:
        await sim.publish(Sums, "sums", policy=FIVE)
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=4))
        pools = [await sim.client(through=0) for _ in range(3)]
        names = [await pools[0].put(bytes([n]) * 3000) for n in range(3)]
        answered = 0
        down: list[SimulatedNode] = []
        for turn in range(45):
            if turn % 6 == 0:
                if len(down) > 2:
                    await sim.restart(down.pop(0))
                victim = chance.choice(sim.live()[1:])
                down.append(sim.kill(victim))
            for pool in pools:
                for ask in (
                    pool.send("sums", [turn, 1], timeout=20.0),
                    pool.send("calc", "x", timeout=20.0),
                    pool.get(chance.choice(names), timeout=20.0),
                ):
                    try:
                        await ask
                        answered += 1
                    except titan.Unavailable:
                        pass  # so many died at once
            await sim.settle(seconds=20)
            assert avoided(pools, sim.live(), sim.now) == []
        assert answered >= 0.98 * 45 * 9
        seen = [pool._member.conduct.report(node.key.id, sim.now) for pool in pools for node in sim.nodes]
        assert sum(len(each.incidents) for each in seen) > 0, "there was something to forgive"


async def test_a_node_that_comes_back_with_an_empty_disk_is_not_avoided() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client(through=0)
        names = [await pool.put(bytes([n]) * 300, policy=titan.Policy(cache=False)) for n in range(30)]
        for name in names:
            await pool.get(name)
        loser = max(sim.nodes[1:], key=lambda node: sum(node in sim.holders(name) for name in names))
        sim.kill(loser)
        for row in loser.database.replicas():
            loser.database.drop_replica(row.object_id)
        await sim.restart(loser)
        for name in names:
            await pool.get(name)
        report = pool._member.conduct.report(loser.key.id, sim.now)
        assert report.incidents, "it was caught without what it had promised"
        assert report.avoided_for == 0.0
