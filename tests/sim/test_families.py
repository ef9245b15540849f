"""IPv4 and IPv6 in one pool: who has both is one node to everybody, and nobody dials what it has no way to."""

from titan_overlay.identity.contacts import IPV4, IPV6, family
from titan_overlay.testing import Event, Machine, SimulatedPool

V4 = [Machine(ip=f"10.4.0.{number}") for number in range(1, 4)]
V6 = [Machine(ip=f"fd00:6::{number}") for number in range(1, 4)]
BOTH = [Machine(ip=f"10.46.0.{number}", ip6=f"fd00:46::{number}") for number in range(1, 6)]


async def mixed(sim: SimulatedPool) -> None:
    for machine in [each for trio in zip(V4, V6, strict=True) for each in trio]:
        await sim.add_node(machine)
    await sim.settle()


def test_a_node_of_one_family_never_hears_of_nor_dials_the_other() -> None:
    packets: list[Event] = []

    async def scenario(sim: SimulatedPool) -> None:
        sim.network.observers.append(packets.append)
        await mixed(sim)
        for node in sim.nodes[len(BOTH) :]:
            mine = family(node.ip)
            table = list(node.running.overlay.table)
            assert len(table) >= len(BOTH)
            assert {family(ip) for contact in table for ip, _ in contact.addresses} == {mine}

    SimulatedPool.run(scenario, nodes=len(BOTH), seed=1, machine=BOTH.__getitem__)
    assert packets and all(family(each.source[0]) == family(each.destination[0]) for each in packets)


def test_a_node_with_both_is_one_contact_with_two_addresses() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        await mixed(sim)
        first = sim.nodes[0].running
        known = {contact.id: contact for contact in first.overlay.table}
        assert len(known) == len(sim.nodes) - 1
        for node in sim.nodes[1 : len(BOTH)]:
            assert known[node.key.id].addresses == ((node.ip, 4747), (node.machine.ip6, 4747))

    SimulatedPool.run(scenario, nodes=len(BOTH), seed=2, machine=BOTH.__getitem__)


def test_data_is_found_and_read_across_families_by_way_of_holders_that_have_both() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        await mixed(sim)
        name = await sim.pool(0).put(b"seen by all" * 100)
        assert any(node.machine.ip6 is not None for node in sim.holders(name))
        readers = {family(node.ip): node for node in sim.nodes[len(BOTH) :]}
        for wanted in (IPV4, IPV6):
            assert await sim.pool(readers[wanted]).get(name) == b"seen by all" * 100

    SimulatedPool.run(scenario, nodes=len(BOTH), seed=3, machine=BOTH.__getitem__)
