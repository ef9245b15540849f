"""Quorums that are lost for good."""

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.test_mutable import balance, group
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable.recovery import RecoveryPlan
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

NAME = "bank/main"
CRASHES, LIARS = titan.Policy(faults=1), titan.Policy(faults=1, byzantine=True)


def yes(plan: RecoveryPlan) -> bool:
    return True


@pytest.mark.parametrize(("policy", "kill"), [(CRASHES, 2), (LIARS, 2)], ids=["raft", "bft"])
async def test_the_owner_has_it_go_on_and_it_grows_again(policy: titan.Policy, kill: int) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=policy)
        for turn in range(1, 5):
            assert await pool.send(NAME, Deposit("rent", 1)) == 1000 + turn
        await sim.settle(seconds=2)
        members = sim.holders(NAME)
        dead = [sim.kill(node) for node in members[:kill]]
        await sim.settle(seconds=20)
        shown: list[RecoveryPlan] = []
        assert await pool.recover(NAME, lambda plan: bool(shown.append(plan))) == 0, "not confirmed, not done"
        assert set(shown[0].lost) == {node.key.id.hex() for node in dead}
        assert "WILL BE LOST" in shown[0].says
        epoch = await pool.recover(NAME, yes)
        assert epoch > 1
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1005
        await sim.settle(lambda: len(group(members[-1], NAME).configuration.members) == len(members), within=120)
        await sim.settle(seconds=5)
        health = await pool.group(NAME)
        assert (health.health, len(health.members)) == ("well", len(members))
        for node in dead:
            await sim.restart(node)
        await sim.settle(seconds=30)
        given_up = {node for node in dead if node in sim.holders(NAME) and not group(node, NAME).is_member}
        assert not given_up, "who was given up has given its place up, or was asked anew"
        assert await (await sim.client()).send(NAME, Deposit("rent", 1), timeout=30) == 1006
        await sim.settle(seconds=2)
        named = {each.node for each in (await pool.group(NAME)).members}
        assert {balance(node, NAME) for node in sim.holders(NAME) if node.key.id.hex() in named} == {1006}


async def test_where_there_is_a_quorum_nobody_recovers_anything() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        with pytest.raises(titan.Conflict, match="nothing to recover"):
            await pool.recover(NAME, yes)
        sim.kill(sim.holders(NAME)[0])
        with pytest.raises(titan.Conflict, match="nothing to recover"):
            await pool.recover(NAME, yes)


async def test_only_the_owner_recovers() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        for node in sim.holders(NAME)[:2]:
            sim.kill(node)
        await sim.settle(seconds=8)
        with pytest.raises(titan.Forbidden, match="only that key may recover it"):
            await pool.recover(NAME, yes, key=SigningKey(b"k" * 32))
        (left,) = sim.holders(NAME)
        assert not group(left, NAME).trouble
        with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
            await pool.send(NAME, Deposit("rent", 1), timeout=3)
