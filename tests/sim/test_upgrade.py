"""Another class for an object that runs."""

from pathlib import Path

import pytest

import titan_overlay as titan
from tests.sim import bank, bank2
from tests.sim.test_mutable import group, leader_of
from titan_overlay.identity.keys import SigningKey
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

NAME = "bank/main"
CRASHES, LIARS = titan.Policy(faults=1), titan.Policy(faults=1, byzantine=True)


@pytest.mark.parametrize("policy", [CRASHES, LIARS], ids=["raft", "bft"])
async def test_all_members_go_over_at_one_height_and_the_state_with_them(policy: titan.Policy) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        first = await pool.publish(bank.Bank, NAME, policy=policy)
        assert await pool.send(NAME, bank.Deposit("rent", 5)) == 1005
        receipt = await pool.publish(bank2.Bank, NAME, policy=policy)
        assert sorted(receipt.holders) == sorted(first.holders)
        assert await pool.send(NAME, bank2.Deposit("rent", 5)) == 1010
        assert await pool.read(NAME, "rent") == "1010 GBP"
        assert await pool.send(NAME, bank2.Close("rent"), once="close") == 1010
        await sim.settle(seconds=3)
        roots = {group(node, NAME).machine.root() for node in sim.holders(NAME)}
        heights = {group(node, NAME).machine.height for node in sim.holders(NAME)}
        assert (len(roots), len(heights)) == (1, 1)


async def test_the_new_class_outlives_power_cuts_and_is_what_new_members_get() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(bank.Bank, NAME)
        await pool.publish(bank2.Bank, NAME)
        assert await pool.send(NAME, bank2.Deposit("rent", 5)) == 1005
        members = sim.holders(NAME)
        for node in members:
            sim.kill(node)
        for node in members:
            await sim.restart(node)
        assert await pool.send(NAME, bank2.Deposit("rent", 5), timeout=60) == 1010
        gone = sim.kill(sim.holders(NAME)[0])
        await sim.settle(lambda: len(sim.holders(NAME)) == 3 and gone not in sim.holders(NAME), within=90)
        await sim.settle(seconds=10)
        assert await pool.send(NAME, bank2.Deposit("rent", 5), timeout=30) == 1015
        await sim.settle(seconds=2)
        assert {group(node, NAME).machine.instance.accounts["rent"].pence for node in sim.holders(NAME)} == {1015}


async def test_a_state_that_is_not_taken_over_changes_nothing() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(bank2.Bank, NAME)
        with pytest.raises(titan.BadMessage, match="version 2"):
            await pool.publish(bank.Bank, NAME)  # there is no way back
        assert await pool.send(NAME, bank2.Deposit("rent", 5)) == 5


async def test_a_migration_that_raises_changes_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    text = Path(bank2.__file__).read_text(encoding="utf-8")
    broken.write_text(text.replace('fields["balances"]', 'fields["no such"]'), encoding="utf-8")
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(bank.Bank, NAME)
        with pytest.raises(titan.BadMessage, match="migrate does not take this: KeyError"):
            await pool.publish(f"{broken}:Bank", NAME)
        assert await pool.send(NAME, bank.Deposit("rent", 5)) == 1005
        await pool.publish(bank2.Bank, NAME)
        assert await pool.send(NAME, bank2.Deposit("rent", 5)) == 1010


async def test_only_the_owner_replaces_the_code_and_not_the_policy() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(bank.Bank, NAME)
        stranger = await sim.client(user=SigningKey(b"s" * 32))
        with pytest.raises(titan.Forbidden, match="only that key"):
            await stranger.publish(bank2.Bank, NAME)
        with pytest.raises(titan.Conflict, match="another policy"):
            await pool.publish(bank2.Bank, NAME, policy=titan.Policy(faults=2))


async def test_a_member_that_cannot_run_the_new_code_says_so_before_anything_changes() -> None:
    async with SimulatedPool(5) as sim:
        pool = await sim.client()
        await pool.publish(bank.Bank, NAME)
        odd = sim.holders(NAME)[0]
        odd.running.bundles.trusted = frozenset()
        with pytest.raises(titan.Unavailable, match=f"{odd.key.id.hex()[:12]} cannot run the new code"):
            await pool.publish(bank2.Bank, NAME)
        assert await pool.send(NAME, bank.Deposit("rent", 5)) == 1005


async def test_one_that_turns_out_not_to_run_it_resigns_and_the_others_go_on() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(bank.Bank, NAME)
        assert await pool.send(NAME, bank.Deposit("rent", 0)) == 1000
        leader = leader_of(sim, NAME)
        odd = next(node for node in sim.holders(NAME) if node is not leader)
        member = group(odd, NAME)
        member.machine._load = lambda new: odd.running.groups.load(new.__class__("Other", new.owner, b"x"))
        await pool.publish(bank2.Bank, NAME)
        assert await pool.send(NAME, bank2.Deposit("rent", 5)) == 1005
        await sim.settle(lambda: bool(member.trouble), within=10)
        assert "cannot run the object's present code" in member.trouble
        await sim.settle(lambda: odd not in sim.holders(NAME), within=60)
