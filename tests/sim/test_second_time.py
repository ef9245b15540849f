"""A node that was a member, was replaced while it was away, and is chosen again."""

import pytest

from tests.sim.bank import Bank, Deposit
from tests.sim.test_mutable import balance, group
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

NAME = "bank/main"


async def test_who_was_replaced_while_it_was_away_becomes_a_member_again() -> None:
    async with SimulatedPool(4) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        first, *_ = (node for node in sim.holders(NAME) if node.number)  # the others joined through the founder
        sim.kill(first)
        await sim.settle(lambda: len(sim.holders(NAME)) == 3, within=60)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1002
        await sim.restart(first)
        await sim.settle(lambda: first not in sim.holders(NAME), within=60)
        sim.kill(next(node for node in sim.holders(NAME) if node.number))
        await sim.settle(lambda: first in sim.holders(NAME) and group(first, NAME).is_member, within=60)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1003
        await sim.settle(lambda: not group(first, NAME).is_absent and balance(first, NAME) == 1003, within=30)
