"""A caller that knows few of the members, and not the one that leads."""

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.test_mutable import leader_of
from titan_overlay.identity import names
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

NAME = "bank/main"


async def test_where_a_leader_is_that_another_member_names_is_looked_up_before_the_dead_are_asked_again() -> None:
    async with SimulatedPool(10) as sim:
        await sim.publish(Bank, NAME, policy=titan.Policy(faults=2))
        await sim.settle(seconds=10)
        leader = leader_of(sim, NAME)
        object_id = names.object_id(sim.id, NAME)
        clients = [await sim.client() for _ in range(6)]
        places = [await each._router.places.find(object_id, name=NAME, deadline=sim.now + 5) for each in clients]
        advertised = {each.signer: each for place in places for each in place.holders}
        members = [node for node in sim.holders(NAME) if node.key.id in advertised and node is not leader]
        follower, dead = members[-2:]
        sim.kill(dead)
        took = []
        for number, (client, place) in enumerate(zip(clients, places, strict=True)):
            place.holders[:] = [advertised[follower.key.id], advertised[dead.key.id]]
            began = sim.now
            assert await client.send(NAME, Deposit("rent", 1), once=str(number)) == 1001 + number
            took.append(sim.now - began)
        assert max(took) < 5.0, "the dead one is asked once, for two seconds, and one look-up may meet it, too"
