"""Who serves: the rules of dial-backs, on addresses that look public and on private ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from titan_overlay.config import NodeConfig
from titan_overlay.errors import Overloaded
from titan_overlay.identity.contacts import IPV4, Contact, pack_address
from titan_overlay.identity.ids import NodeId
from titan_overlay.node import Node
from titan_overlay.overlay.openings import Step
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.whereabouts import Whereabouts, witnesses
from titan_overlay.reachability import DIALS, enough
from titan_overlay.testing import Event, Machine, SimulatedNode, SimulatedPool

HOUSES = [f"5.9.{number}.1" for number in range(5)]
"""Public addresses, each in a subnet of its own."""


def run(
    ips: Sequence[str], scenario: Callable[[SimulatedPool], Any], *, liars: Sequence[int] = (), seed: int = 1
) -> None:
    """A pool of machines with these addresses. Liars dial nobody, and say so."""

    def machine(number: int) -> Machine:
        return Machine(ip=ips[number], prepare=_refuse if number in liars else lambda node: None)

    SimulatedPool.run(scenario, nodes=len(ips), seed=seed, machine=machine)


def _refuse(node: Node) -> None:
    async def never(agent: NodeId, address: str) -> bool:
        return False

    node.dial_back = never  # type: ignore[method-assign]


async def join(sim: SimulatedPool, ip: str, **settings: Any) -> SimulatedNode:
    return await sim.add_node(Machine(ip=ip, config=replace(NodeConfig(), **settings)))


def reason(node: SimulatedNode) -> str:
    info = node.running.info()
    assert info.serving == (not info.reason)
    return info.reason


# ---- who serves ------------------------------------------------------------------------------------------------


def test_a_public_node_that_three_subnets_have_dialled_serves() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        assert [reason(node) for node in sim.nodes] == [""] * 5
        assert reason(await join(sim, "5.10.0.1")) == ""

    run(HOUSES, scenario)


def test_two_subnets_are_not_enough_where_there_are_more() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        newcomer = await join(sim, "5.10.0.1")
        assert reason(newcomer).startswith(
            "only 2 of 5 peers asked could dial 5.10.0.1:4747 (TCP); open that port, or "
        )
        assert newcomer.key.id not in sim.nodes[0].running.overlay.table

    run(HOUSES, scenario, liars=[2, 3, 4])


def test_many_peers_of_one_subnet_are_one_voice() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        assert reason(await join(sim, "5.10.0.1")).startswith("only 1 of 3 peers asked")

    run(["5.9.0.1", "5.9.0.2", "5.9.0.3", "5.9.0.4", "5.9.1.1", "5.9.2.1"], scenario, liars=[4, 5])


def test_a_private_address_needs_one_that_dials_it() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        assert reason(await join(sim, "10.0.9.1")) == ""

    run(["10.0.0.1", "10.0.0.2", "10.0.0.3"], scenario, liars=[1, 2])


def test_what_peers_at_private_addresses_say_of_a_public_one_counts_for_nothing() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        newcomer = await join(sim, "5.10.0.1")
        assert reason(newcomer).startswith(
            "nobody could be asked to dial 5.10.0.1:4747: no peer known has a public IPv4"
        )

    run(["10.0.0.1", "10.0.0.2", "10.0.0.3"], scenario)


def test_what_peers_at_public_addresses_say_of_a_private_one_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Whereabouts, "is_open", lambda self, family: True)

    async def scenario(sim: SimulatedPool) -> None:
        newcomer = await join(sim, "10.0.0.9")
        assert reason(newcomer).startswith(
            "nobody could be asked to dial 10.0.0.9:4747: no peer known has a private IPv4"
        )
        assert newcomer.running.overlay.whereabouts.sightings == {}, "nor do they say how a private node looks"

    run(HOUSES, scenario)


def test_a_node_that_cannot_be_dialled_serves_once_it_can() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        for node in sim.nodes[1:]:
            honest = node.running.dial_back
            _refuse(node.running)
            node.running._honest = honest  # type: ignore[attr-defined]
        newcomer = await join(sim, "5.10.0.1")
        assert reason(newcomer)
        for node in sim.nodes[1:5]:
            node.running.dial_back = node.running._honest  # type: ignore[attr-defined, method-assign]
        await sim.settle(lambda: newcomer.running.overlay.serving, within=900)
        assert reason(newcomer) == ""

    run(HOUSES, scenario)


# ---- at which address ------------------------------------------------------------------------------------------


def believes(monkeypatch: pytest.MonkeyPatch, node: SimulatedNode, ip: str) -> Overlay:
    """This node listens everywhere, and has been at this address so far, as all it has met have said."""
    overlay = node.running.overlay
    monkeypatch.setattr("titan_overlay.overlay.whereabouts.outgoing_ip", lambda family: "192.168.0.1")
    overlay.whereabouts.bound[IPV4] = ("0.0.0.0", 4747)
    overlay.roaming.move(ip)
    for each in overlay.table:
        overlay.whereabouts.heard(each, ip)
    assert overlay.contact.ip == ip
    return overlay


def lie(monkeypatch: pytest.MonkeyPatch, node: SimulatedNode, ip: str) -> None:
    """From now on it says, in every handshake, that it sees the other at this address."""
    shakes = node.running.overlay.protocol.handshakes
    honest = shakes._init

    def lying(data: bytes, address: tuple[str, int], now: float) -> Step:
        with monkeypatch.context() as patch:
            patch.setattr("titan_overlay.overlay.handshake.pack_address", lambda seen: pack_address((ip, seen[1])))
            return honest(data, address, now)

    monkeypatch.setattr(shakes, "_init", lying)


def test_one_liar_moves_no_node_and_has_nobody_called_up(monkeypatch: pytest.MonkeyPatch) -> None:
    packets: list[Event] = []

    async def scenario(sim: SimulatedPool) -> None:
        overlay = believes(monkeypatch, sim.nodes[1], sim.nodes[1].ip)
        sim.network.host("5.66.6.6")
        sim.network.observers.append(packets.append)
        lie(monkeypatch, sim.nodes[4], "5.66.6.6")
        liar = sim.nodes[4].running.overlay.contact
        for _ in range(20):
            overlay.protocol._begin(liar.address, liar.id, sim.now)
            await sim.settle(seconds=30)
        assert overlay.contact.address == (sim.nodes[1].ip, 4747)
        assert not [each for each in packets if each.destination[0] == "5.66.6.6"]

    run(HOUSES, scenario)


def test_a_node_that_has_moved_is_told_by_one_asks_the_others_and_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(sim: SimulatedPool) -> None:
        moved = sim.nodes[1]
        overlay = believes(monkeypatch, moved, "5.66.6.6")
        overlay.protocol.meet_again(sim.nodes[2].running.overlay.contact)
        await sim.settle(lambda: overlay.contact.address == (moved.ip, 4747), within=30)

    run(HOUSES, scenario)


@pytest.mark.parametrize(("says", "follows"), [("10.0.0.2", True), ("10.66.6.6", False)])
def test_where_there_is_but_one_peer_its_word_counts_once_it_has_dialled(
    says: str, follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(sim: SimulatedPool) -> None:
        overlay = believes(monkeypatch, sim.nodes[1], "10.0.0.77")
        overlay.protocol._on_observed(sim.nodes[0].running.overlay.contact, (says, 4747))
        assert overlay.contact.ip == "10.0.0.77"
        await sim.settle(seconds=90)
        assert overlay.contact.ip == (says if follows else "10.0.0.77")

    run(["10.0.0.1", "10.0.0.2"], scenario)


# ---- who dials -------------------------------------------------------------------------------------------------


def test_only_an_address_that_the_asker_has_proven_is_dialled() -> None:
    packets: list[Event] = []

    async def scenario(sim: SimulatedPool) -> None:
        asker, asked = sim.nodes[1], sim.nodes[0].running
        sim.network.host("5.99.0.1")
        sim.network.observers.append(packets.append)
        for address in ("5.99.0.1:4747", f"{sim.nodes[2].ip}:4747", "127.0.0.1:4747", "localhost:1", "5.9.1.1:0", "?"):
            assert not await asked.dial_back(asker.key.id, address)
        assert not [each for each in packets if each.stream]
        assert await asked.dial_back(asker.key.id, f"{asker.ip}:4747")

    run(HOUSES, scenario)


def test_one_subnet_has_only_so_much_dialled() -> None:
    async def scenario(sim: SimulatedPool) -> None:
        asker, asked = sim.nodes[1], sim.nodes[0].running
        await sim.settle(seconds=DIALS.burst / DIALS.rate)
        for port in range(1, int(DIALS.burst) + 1):
            assert not await asked.dial_back(asker.key.id, f"{asker.ip}:{port}")
        with pytest.raises(Overloaded, match="enough dialled") as refused:
            await asked.dial_back(asker.key.id, f"{asker.ip}:4747")
        assert 0 < refused.value.retry_after <= 30
        other = sim.nodes[2]
        assert await asked.dial_back(other.key.id, f"{other.ip}:4747"), "another subnet has a budget of its own"

    run(HOUSES, scenario)


# ---- the rules, bare -------------------------------------------------------------------------------------------


def peer(number: int, ip: str) -> Contact:
    return Contact(NodeId(number.to_bytes(32, "big")), ip, 4747)


def test_one_witness_a_subnet_and_only_those_that_can_know() -> None:
    peers = [peer(1, "5.9.1.1"), peer(2, "5.9.1.2"), peer(3, "10.0.0.1"), peer(4, "5.9.2.1"), peer(5, "2a01:4f8::1")]
    assert [each.id[-1] for each in witnesses(peers, ("5.10.0.1", 4747)).values()] == [1, 4]
    assert [each.id[-1] for each in witnesses(peers, ("10.0.0.2", 4747)).values()] == [3]
    assert [each.id[-1] for each in witnesses(peers, ("2a01:4f9::1", 4747)).values()] == [5]


@pytest.mark.parametrize(
    ("ip", "asked", "reached", "serves"),
    [
        ("5.9.1.1", 6, 3, True),
        ("5.9.1.1", 6, 2, False),
        ("5.9.1.1", 2, 2, True),
        ("5.9.1.1", 2, 1, False),
        ("5.9.1.1", 1, 1, True),
        ("10.0.0.1", 3, 1, True),
        ("10.0.0.1", 3, 0, False),
        ("5.9.1.1", 0, 0, False),
    ],
)
def test_how_many_must_have_dialled(ip: str, asked: int, reached: int, serves: bool) -> None:
    assert enough((ip, 4747), asked, reached) == serves
