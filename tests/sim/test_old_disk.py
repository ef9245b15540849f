"""A member that comes back with an earlier copy of its disk."""

import copy

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.test_mutable import balance, group
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

CRASHES, LIARS = titan.Policy(faults=1), titan.Policy(faults=1, byzantine=True)


@pytest.mark.parametrize("policy", [CRASHES, LIARS], ids=["raft", "bft"])
async def test_it_does_not_vote_and_another_takes_its_place(policy: titan.Policy) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=policy)
        await pool.send("bank/main", Deposit("rent", 1))
        victim = next(node for node in sim.holders("bank/main") if not group(node, "bank/main").leads)
        earlier = copy.deepcopy(victim.disk)
        for turn in range(2, 5):
            assert await pool.send("bank/main", Deposit("rent", 1)) == 1000 + turn
        sim.kill(victim)
        victim.disk = earlier
        await sim.restart(victim)
        member = group(victim, "bank/main")
        await sim.settle(lambda: bool(member.trouble), within=5)
        assert "old copy" in member.trouble
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1005
        await sim.settle(lambda: victim not in sim.holders("bank/main"), within=60)
        await sim.settle(seconds=5)
        members = sim.holders("bank/main")
        assert len(members) == (3 if policy is CRASHES else 4)
        assert {balance(node, "bank/main") for node in members} == {1005}


@pytest.mark.parametrize("policy", [CRASHES, LIARS], ids=["raft", "bft"])
async def test_who_was_only_away_goes_on(policy: titan.Policy) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=policy)
        await pool.send("bank/main", Deposit("rent", 1))
        victim = sim.kill(sim.holders("bank/main")[0])
        for turn in range(2, 5):
            assert await pool.send("bank/main", Deposit("rent", 1), timeout=30) == 1000 + turn
        await sim.restart(victim)
        await sim.settle(seconds=2)
        assert not group(victim, "bank/main").is_absent
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1005
        await sim.settle(seconds=5)
        assert balance(victim, "bank/main") == 1005
