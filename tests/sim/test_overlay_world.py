"""Half a hundred overlay nodes on the virtual loop: the same code as on sockets."""

import asyncio
from collections.abc import Callable, Coroutine
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity import records
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId, distance
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement
from titan_overlay.overlay import traffic
from titan_overlay.overlay.bodies import contact, pack_all
from titan_overlay.overlay.endpoint import RESET, RESET_FORM
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.sessions import REQUEST, Session
from titan_overlay.testing.crypto import fake_crypto
from titan_overlay.testing.loop import VirtualLoop, run
from titan_overlay.testing.network import MemoryNetwork

NODES = 50


async def grown(count: int = NODES, k: int = 20) -> list[Overlay]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    pool = PoolId(SigningKey(sha256(b"pool").digest()).public)
    nodes: list[Overlay] = []
    for number in range(count):
        ambient = Ambient.seeded(f"world/{number}", loop)
        node = Overlay(SigningKey(ambient.token_bytes(32)), Rights(pool), ambient, k=k)
        node.set_serving(True)
        ip = f"10.0.0.{number + 1}"
        loop.network.host(ip)
        with loop.network.on_host(ip):
            await node.listen(4747, ip)
        if nodes:
            while not await node.bootstrap([JoinLine(nodes[number // 2].contact.ip, 4747)]):
                await asyncio.sleep(1)
        nodes.append(node)
    await asyncio.sleep(60)
    return nodes


def simulated(main: Callable[[], Coroutine[Any, Any, None]], loss: float = 0.0) -> str:
    network = MemoryNetwork(loss=loss)
    with fake_crypto():
        run(main, seed=11, network=network)
    return network.trace_hash


def raw(holder: Overlay, object_id: ObjectId) -> bytes:
    wall = 1_700_000_000.0 + asyncio.get_running_loop().time()
    statement = Advertisement(object_id, holder.contact.ip, 4747, 1, wall + 1500)
    return records.sign(statement, holder.key, holder.pool).raw


async def publish_and_find(nodes: list[Overlay], alive: list[Overlay]) -> None:
    random = Random(3)
    ids = [ObjectId(sha256(b"object %d" % number).digest()) for number in range(30)]
    for object_id in ids:
        holder = random.choice(alive)
        assert await holder.announce(object_id, [raw(holder, object_id)]) >= 7
    for object_id in ids:
        found = await random.choice(alive).find_holders(object_id)
        assert len(found.advertisements) == 1


def test_everything_published_is_found_though_one_datagram_in_fifty_is_lost() -> None:
    async def main() -> None:
        nodes = await grown()
        await publish_and_find(nodes, nodes)

    simulated(main, loss=0.02)


def test_everything_is_found_after_a_third_has_died_unannounced() -> None:
    async def main() -> None:
        nodes = await grown()
        for node in nodes[1::3]:
            node.stop()
        alive = [node for node in nodes if node not in nodes[1::3]]
        await publish_and_find(nodes, alive)
        target = sha256(b"anywhere").digest()
        exact = sorted(alive, key=lambda node: distance(node.key.id, target))[:5]
        found = await exact[-1].find_nodes(target, 4)
        assert [contact.id for contact in found] == [node.key.id for node in exact[:4]]
        await asyncio.sleep(4000)
        dead = {node.key.id for node in nodes} - {node.key.id for node in alive}
        assert not any(contact.id in dead for node in alive for contact in node.table)

    simulated(main)


def test_a_quiet_overlay_stays_quiet() -> None:
    async def main() -> None:
        nodes = await grown()
        await asyncio.sleep(600)
        names = ("routing_bytes_sent", "handshake_bytes_sent")
        before = sum(node.counters[name] for node in nodes for name in names)
        await asyncio.sleep(1200)
        spent = sum(node.counters[name] for node in nodes for name in names) - before
        assert spent / NODES / 1200 < 75  # half of what both ways may cost, and nobody joins

    simulated(main, loss=0.01)


def test_the_same_seed_tells_the_same_story() -> None:
    async def main() -> None:
        nodes = await grown(20)
        await publish_and_find(nodes, nodes)

    assert simulated(main, loss=0.02) == simulated(main, loss=0.02)


def test_one_point_fills_no_bucket() -> None:
    """Where liars crowd, it finds them alone."""

    async def main() -> None:
        *_, node = await grown(20, k=6)
        node.table.flush()
        node._enter([session.contact for session in node._handshakes.by_peer.values()][:1])
        await node._refresh(Random(5).randbytes(32))
        assert 2 <= len(node.table) <= 1 + 3

    simulated(main)


def forgets(node: Overlay) -> None:
    """It answers whatever it is asked with "I have no such session", and shakes hands as often as others like."""
    protocol = node.protocol
    accept = protocol._accept

    def forget(session: Session, flags: int, call_id: int, data: bytes, addr: Any) -> None:
        if flags & 7 == REQUEST:
            protocol._send(RESET_FORM.pack(RESET, session.receive_id, call_id), addr, traffic.HANDSHAKE)
        else:
            accept(session, flags, call_id, data, addr)

    protocol._accept = forget  # type: ignore[method-assign]


def test_nodes_that_forget_every_session_hold_nobody_up() -> None:
    async def main() -> None:
        first, *others = await grown(20)
        for node in others[:10]:
            forgets(node)
        handshakes, began = first.counters["handshake_rpcs"], asyncio.get_running_loop().time()
        with pytest.raises(LinkError):
            await first.call(others[0].contact, "ping", b"")
        assert len(await first.find_nodes(sha256(b"anywhere").digest(), 4)) == 4
        assert asyncio.get_running_loop().time() - began < 15
        assert first.counters["handshake_rpcs"] - handshakes < 60

    simulated(main)


def test_a_node_whose_network_was_away_still_knows_how_large_regions_are() -> None:
    """Else all that it announces on its return lies with the nodes of one region that it has just read: everywhere."""

    async def main() -> None:
        first, *others = nodes = await grown()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        first.find_seeds = lambda: [JoinLine(each.contact.ip, 4747) for each in others[:4]]
        await asyncio.sleep(300)
        loop.network.partition([[first.contact.ip], [node.contact.ip for node in others]])
        await asyncio.sleep(1200)
        assert not len(first.table)
        loop.network.heal()
        while not len(first.table):
            await asyncio.sleep(1)
        for _ in range(20):
            assert first.estimated_size() > NODES / 3
            await asyncio.sleep(5)
        await publish_and_find(nodes, [first])

    simulated(main)


def test_who_calls_first_on_a_node_that_was_cut_off_does_not_keep_it() -> None:
    async def main() -> None:
        nodes = await grown(30)
        node, honest, liars = nodes[5], nodes[:24], nodes[24:]
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        gang = [each.contact for each in liars]
        for each in liars:
            each.table.closest = lambda target, count, exclude=b"": gang[:count]  # type: ignore[method-assign]
        node.find_seeds = lambda: [JoinLine(each.contact.ip, 4747) for each in honest[:4]]
        loop.network.partition([[node.contact.ip], [each.contact.ip for each in nodes if each is not node]])
        await asyncio.sleep(3600)
        assert not len(node.table)
        loop.network.heal()
        for liar in liars:
            liar.protocol.meet_again(node.contact)
        await asyncio.sleep(60)
        assert sum(each.id not in {liar.key.id for liar in liars} for each in node.table) > 10

    simulated(main)


def test_a_search_ends_at_its_deadline_though_the_node_is_joining_again() -> None:
    async def main() -> None:
        node, *others = await grown(4)
        node.find_seeds = lambda: [JoinLine(f"10.9.9.{number}", 4747) for number in range(1, 65)]
        for each in others:
            each.stop()
        began = asyncio.get_running_loop().time()
        found = await node.find_holders(ObjectId(sha256(b"object").digest()), deadline=began + 4)
        assert not found.asked
        assert asyncio.get_running_loop().time() - began < 4.1

    simulated(main)


def test_a_seed_that_names_many_has_no_more_say_in_where_a_newcomer_begins_than_another() -> None:
    async def main() -> None:
        *_, liar, honest, newcomer = await grown(10)
        gang = [contact(NodeId(sha256(b"liar %d" % n).digest()), f"10.6.6.{n}", 4747) for n in range(1, 50)]
        liar.serve("find_node", lambda asker, body: pack_all(gang))
        named = await newcomer._finder.introductions([liar.contact, honest.contact], 8)
        assert sum(each in gang for each in named[:8]) <= 4
        assert sum(each in gang for each in named) == 8

    simulated(main)
