"""The overlay on real sockets, all on 127.0.0.1."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, ConfigError, Forbidden, LinkError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import IPV4, Contact
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement
from titan_overlay.overlay.bodies import NAMED_BY, FindHolders, FindNode, Holders
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.wire import codec

POOL_KEY = SigningKey(sha256(b"pool").digest())
POOL = PoolId(POOL_KEY.public)


def key_of(number: int) -> SigningKey:
    return SigningKey(sha256(b"node %d" % number).digest())


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def founder(number: int = 0, pool: PoolId = POOL, **options: object) -> Overlay:
    overlay = Overlay(key_of(number), Rights(pool), Ambient.system(), **options)
    overlay.set_serving(True)
    await overlay.listen(0, "127.0.0.1")
    return overlay


def line_to(overlay: Overlay) -> JoinLine:
    return JoinLine("127.0.0.1", overlay.contact.port, overlay.pool, overlay.contact.id)


@asynccontextmanager
async def pool_of(count: int, **options: object) -> AsyncIterator[list[Overlay]]:
    nodes = [await founder(**options)]
    try:
        for number in range(1, count):
            node = Overlay(key_of(number), Rights(), Ambient.system(), **options)
            node.set_serving(True)
            nodes.append(node)
            await node.listen(0, "127.0.0.1")
            assert await node.bootstrap([line_to(nodes[0])]) == 1
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def advertisement(holder: SigningKey, object_id: bytes, sequence: int = 1, **more: object) -> bytes:
    expires = Ambient.system().wall() + 600
    statement = Advertisement(object_id, "127.0.0.1", 4747, sequence, expires, **more)
    return records.sign(statement, holder, POOL).raw


async def test_a_node_that_knows_only_an_address_learns_the_pool() -> None:
    first = await founder()
    second = Overlay(key_of(1), Rights(), Ambient.system())
    await second.listen(0, "127.0.0.1")
    with pytest.raises(ConfigError, match="no pool yet"):
        _ = second.pool
    assert await second.bootstrap([JoinLine("127.0.0.1", first.contact.port)]) == 1
    assert second.pool == POOL
    assert second.neighbours(first.contact.id, 1) == [first.contact]
    first.stop()
    second.stop()


async def test_a_node_of_another_pool_is_refused_with_a_clear_error() -> None:
    first = await founder()
    other = Overlay(key_of(1), Rights(PoolId(key_of(99).public)), Ambient.system())
    await other.listen(0, "127.0.0.1")
    with pytest.raises(ConfigError, match="another pool"):
        await other.bootstrap([JoinLine("127.0.0.1", first.contact.port)])
    assert first.counters["wrong_pool"] == 1
    first.stop()
    other.stop()


async def test_another_node_than_the_join_line_says_is_a_clear_error() -> None:
    first = await founder()
    second = Overlay(key_of(1), Rights(), Ambient.system())
    await second.listen(0, "127.0.0.1")
    line = JoinLine("127.0.0.1", first.contact.port, POOL, key_of(7).id)
    with pytest.raises(ConfigError, match="another node answers"):
        await second.bootstrap([line])
    first.stop()
    second.stop()


async def test_a_seed_that_is_down_is_not_reached() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        node = Overlay(key_of(1), Rights(), Ambient.system())
        await node.listen(0, "127.0.0.1")
        assert await node.bootstrap([JoinLine("127.0.0.1", hole.getsockname()[1])]) == 0
        node.stop()


async def test_every_node_finds_the_exact_closest_nodes() -> None:
    async with pool_of(25) as nodes:
        target = sha256(b"anywhere").digest()
        wanted = int.from_bytes(target, "big")
        exact = sorted((node.contact for node in nodes), key=lambda c: c.long_id ^ wanted)
        for node in nodes:
            others = [contact for contact in exact if contact.id != node.contact.id]
            assert await node.find_nodes(target, 8) == others[:8]


async def test_what_one_announces_all_find_and_a_withdrawal_takes_it_back() -> None:
    async with pool_of(12) as nodes:
        object_id = ObjectId(sha256(b"thing").digest())
        holder = nodes[3]
        assert await holder.announce(object_id, [advertisement(holder.key, object_id)]) >= 8
        for node in nodes:
            found = await node.find_holders(object_id)
            assert [each.signer for each in found.advertisements] == [holder.key.id]
        gone = advertisement(holder.key, object_id, 2, withdrawn=True)
        assert await holder.announce(object_id, [gone]) >= 8
        for node in nodes:
            assert (await node.find_holders(object_id)).advertisements == ()


async def test_nobody_can_advertise_for_another() -> None:
    async with pool_of(4) as nodes:
        object_id = ObjectId(sha256(b"thing").digest())
        assert await nodes[1].announce(object_id, [advertisement(nodes[2].key, object_id)]) == 0
        assert (await nodes[3].find_holders(object_id)).advertisements == ()


async def test_many_holders_are_read_page_by_page() -> None:
    async with pool_of(3) as nodes:
        object_id = ObjectId(sha256(b"popular").digest())
        keys = [key_of(1000 + number) for number in range(20)]
        for key in keys:
            nodes[0].directory.put(advertisement(key, object_id), Ambient.system().wall())
        found = await nodes[2].find_holders(object_id, everything=True)
        assert {each.signer for each in found.advertisements} == {key.id for key in keys}


async def test_what_others_have_told_is_not_read_again() -> None:
    async with pool_of(4) as nodes:
        object_id = ObjectId(sha256(b"popular").digest())
        keys = [key_of(1000 + number) for number in range(20)]
        for node in nodes[:3]:
            for key in keys:
                node.directory.put(advertisement(key, object_id), Ambient.system().wall())
        found = await nodes[3].find_holders(object_id, everything=True)
        assert {each.signer for each in found.advertisements} == {key.id for key in keys}
        page = await nodes[3].call(nodes[0].contact, "find_holders", codec.encode(FindHolders(object_id, 0, 0)))
        pages_of_one = -(-len(keys) // len(codec.decode(page, Holders).raws))
        assert found.rpcs < 2 * pages_of_one, "less than two directories whole, where three were asked"


async def test_whoever_names_holders_of_whom_it_has_nothing_is_asked_once_more() -> None:
    async with pool_of(3) as nodes:
        object_id = ObjectId(sha256(b"popular").digest())
        truth = advertisement(key_of(1000), object_id)
        asked: list[int] = []

        def promise(contact: Contact, body: bytes) -> bytes:
            asked.append(codec.decode(body, FindHolders).skip)
            return codec.encode(Holders(b"", [truth], [], bytes(range(9 * NAMED_BY))))

        nodes[1].serve("find_holders", promise)
        found = await nodes[2].find_holders(object_id, everything=True)
        assert [each.signer for each in found.advertisements] == [key_of(1000).id]
        assert asked == [0, 1]


async def test_a_client_finds_but_is_never_found() -> None:
    async with pool_of(5) as nodes:
        client = Overlay(key_of(50), Rights(), Ambient.system(), client=True)
        client.set_serving(True)
        assert not client.serving
        await client.listen(0, "127.0.0.1")
        await client.bootstrap([line_to(nodes[0])])
        assert len(await client.find_nodes(sha256(b"x").digest(), 5)) == 5
        assert all(client.key.id not in node.table for node in nodes)
        client.stop()


async def test_a_node_that_begins_to_serve_is_noticed() -> None:
    async with pool_of(3) as nodes:
        late = Overlay(key_of(50), Rights(), Ambient.system())
        await late.listen(0, "127.0.0.1")
        await late.bootstrap([line_to(nodes[0])])
        assert late.key.id not in nodes[0].table
        late.set_serving(True)
        await late.call(nodes[0].contact, "ping", b"")
        assert late.key.id in nodes[0].table
        late.set_serving(False)
        await late.call(nodes[0].contact, "ping", b"")
        assert late.key.id not in nodes[0].table
        late.stop()


async def test_calls_bring_replies_and_refusals() -> None:
    async with pool_of(2) as nodes:

        def refuse(contact: Contact, body: bytes) -> bytes:
            raise Forbidden("not you")

        nodes[0].serve("echo", lambda contact, body: contact.id + body)
        nodes[0].serve("refuse", refuse)
        nodes[0].serve("break", lambda contact, body: bytes(1 // len(body)))
        to = nodes[0].contact
        assert await nodes[1].call(to, "echo", b"hi") == nodes[1].key.id + b"hi"
        with pytest.raises(Forbidden, match="not you"):
            await nodes[1].call(to, "refuse", b"")
        with pytest.raises(BadMessage, match="no method"):
            await nodes[1].call(to, "nothing", b"")
        with pytest.raises(BadMessage, match="1200 bytes"):
            await nodes[1].call(to, "echo", bytes(1201))
        with pytest.raises(Exception, match="handler failed"):
            await nodes[1].call(to, "break", b"")
        assert await nodes[1].call(to, "echo", b"still there")


async def test_a_peer_that_restarted_is_reached_at_once() -> None:
    """Its session is lost; a RESET starts a new handshake before the first timeout is over."""
    async with pool_of(2) as nodes:
        to = nodes[0].contact
        await nodes[1].call(to, "ping", b"")
        nodes[0].stop()
        again = Overlay(key_of(0), Rights(POOL), Ambient.system())
        again.set_serving(True)
        await asyncio.sleep(0)
        await again.listen(to.port, "127.0.0.1")
        assert await nodes[1].call(to, "ping", b"", timeout=5) == b""
        assert nodes[1].counters.get("timeouts", 0) == 0
        again.stop()


async def test_a_silent_peer_is_a_link_error() -> None:
    async with pool_of(2) as nodes:
        to = nodes[0].contact
        nodes[0].stop()
        with pytest.raises(LinkError, match="no answer"):
            await nodes[1].call(to, "ping", b"")


async def test_garbage_at_the_socket_leaves_it_serving() -> None:
    async with pool_of(2) as nodes:
        to = nodes[0].contact
        random = Ambient.system().random
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for kind in range(256):
                stranger.sendto(bytes((kind,)) + random.randbytes(random.randrange(0, 1400)), to.address)
            stranger.sendto(b"", to.address)
        assert await nodes[1].call(to, "ping", b"") == b""
        assert nodes[0].counters.get("errors", 0) == 0


async def test_garbage_inside_a_session_gets_its_sender_shunned() -> None:
    async with pool_of(2) as nodes:
        for _ in range(16):
            with pytest.raises(BadMessage):
                await nodes[1].call(nodes[0].contact, "find_node", b"garbage")
        assert nodes[0].counters["shunned"] == 1
        assert nodes[1].key.id not in nodes[0].table
        with pytest.raises(LinkError):
            await nodes[1].call(nodes[0].contact, "ping", b"", timeout=1.5)


async def test_a_peer_whose_address_changes_keeps_its_session() -> None:
    """As behind a NAT that forgets: the new address is believed once it has echoed a challenge."""
    async with pool_of(2) as nodes:
        to = nodes[0].contact
        await nodes[1].call(to, "ping", b"")
        protocol = nodes[1].protocol
        before = protocol.transports[IPV4]

        class Elsewhere(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                protocol.datagram_received(data, addr)

        moved, _ = await asyncio.get_running_loop().create_datagram_endpoint(Elsewhere, local_addr=("127.0.0.1", 0))
        protocol.transports[IPV4] = moved
        address = moved.get_extra_info("sockname")
        assert await nodes[1].call(to, "find_node", codec.encode(FindNode(bytes(32), 20)))
        session = nodes[0].protocol.handshakes.by_peer[nodes[1].key.id]
        await until(lambda: session.address == address)
        assert nodes[0].table.get(nodes[1].key.id).address == address
        moved.close()
        protocol.transports[IPV4] = before
