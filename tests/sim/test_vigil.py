"""Members of groups that sleep watch each other."""

from collections import Counter

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank
from tests.sim.test_mutable import group, leader_of
from titan_overlay.identity.ids import NodeId
from titan_overlay.links.links import Links
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

FIVE = titan.Policy(faults=2)


async def test_of_two_members_one_asks_however_many_groups_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(5) as sim:
        for name in ("bank/one", "bank/two"):
            await sim.publish(Bank, name, policy=FIVE)
        await sim.settle(seconds=15)
        asked: Counter[tuple[NodeId, NodeId]] = Counter()
        ping = Links.ping

        def counted(links: Links, id: NodeId) -> None:
            asked[links.key.id, id] += 1
            ping(links, id)

        monkeypatch.setattr(Links, "ping", counted)
        await sim.settle(seconds=30)
        ids = sorted(node.key.id for node in sim.nodes)
        pairs = {(a, b) for a in ids for b in ids if a < b}
        assert all(asked[pair] >= 30 for pair in pairs)
        assert sum(asked.values()) < 1.5 * 60 * len(pairs), "two that dialed each other at once may both ask"


@pytest.mark.parametrize("which", [0, -1], ids=["who asks", "who is asked"])
async def test_all_others_notice_that_a_member_is_silent(which: int) -> None:
    async with SimulatedPool(5) as sim:
        await sim.publish(Bank, "bank/main", policy=FIVE)
        await sim.settle(seconds=15)
        members = sorted(sim.holders("bank/main"), key=lambda node: node.key.id)
        dead = sim.kill(members.pop(which))
        absences = [group(node, "bank/main").absences for node in members]
        await sim.settle(seconds=5)
        assert all(4 < each.silent_for(dead.key.id) < 6 for each in absences)
        assert all(each.silent_for(node.key.id) < 1.5 for each in absences for node in members)
        assert leader_of(sim, "bank/main") in members
        await sim.restart(dead)
        await sim.settle(lambda: all(each.silent_for(dead.key.id) < 1 for each in absences), within=10)
