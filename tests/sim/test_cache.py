"""The cache as a group keeps it, and its gateway, on simulated machines."""

import asyncio
from typing import Any, cast

import pytest

import titan_overlay as titan
from titan_objects.cache import Get, Set
from titan_objects.cache.gateway import Gateway
from titan_objects.cache.wire import GetCommand, JoinCommand, SetCommand, encode
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")


class Wire:
    """What a gateway has of a connection."""

    def __init__(self, gateway: Gateway) -> None:
        self.reader = asyncio.StreamReader()
        self.written = b""
        self.closed = False
        self._task = asyncio.create_task(gateway.converse(self.reader, cast(Any, self)))
        self._task.add_done_callback(self._ended)

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, data: list[bytes]) -> None:
        self.written += b"".join(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self.closed = True

    async def replies(self, sent: bytes, count: int) -> bytes:
        """What answers these bytes, once it has as many."""
        before = len(self.written)
        self.reader.feed_data(sent)
        async with asyncio.timeout(100):
            while len(self.written) < before + count and not self.closed:
                await asyncio.sleep(0.1)
        return self.written[before:]


async def test_values_end_at_all_members_without_anybody_writing() -> None:
    async with SimulatedPool(5) as sim:
        pool = await sim.client()
        await pool.publish("cache", "cache/main")
        await pool.send("cache/main", Set(b"key", b"value", ttl=10))
        assert await pool.read("cache/main", Get(b"key")) == b"value"
        await sim.settle(seconds=12)
        for node in sim.nodes:
            assert await sim.pool(node).read("cache/main", Get(b"key")) is None


async def test_any_gateway_takes_sets_and_a_get_sees_those_before_it() -> None:
    async with SimulatedPool(5) as sim:
        await (await sim.client()).publish("cache", "cache/main")
        first, second = (Wire(Gateway(sim.pool(node), "cache/main")) for node in sim.nodes[:2])
        sets = b"".join(encode(SetCommand(b"k%d" % number, b"v%d" % number, 0)) for number in range(50))
        again = encode(SetCommand(b"k1", b"new", 0)) + encode(GetCommand(b"k1")) + encode(GetCommand(b"none"))
        assert await first.replies(sets + again, 64) == b"\x01" * 51 + b"\x01\x03\0\0\0new" + b"\x03\0\0\0\0"
        assert await second.replies(encode(GetCommand(b"k49")), 8) == b"\x01\x03\0\0\0v49"
        assert await second.replies(encode(GetCommand(b"k49")) + b"\xff", 9) == b"\x01\x03\0\0\0v49\x02"
        assert second.closed
        first.reader.feed_eof()


async def test_without_a_quorum_a_gateway_says_error() -> None:
    async with SimulatedPool(5) as sim:
        await (await sim.client()).publish("cache", "cache/main")
        members = sim.holders("cache/main")
        outsider = next(node for node in sim.nodes if node not in members)
        wire = Wire(Gateway(sim.pool(outsider), "cache/main"))
        for node in members[:2]:
            sim.kill(node)
        assert await wire.replies(encode(SetCommand(b"k", b"v", 0)), 1) == b"\x02"
        assert await wire.replies(encode(GetCommand(b"k")), 5) == b"\x02\0\0\0\0"
        wire.reader.feed_eof()


async def test_a_node_that_joins_becomes_a_member_and_the_old_ones_may_go() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish("cache", "cache/main", policy=titan.Policy(faults=0))
        (alone,) = sim.holders("cache/main")
        await pool.send("cache/main", Set(b"key", b"value"))
        others = [node for node in sim.nodes if node is not alone][:2]
        wire = Wire(Gateway(pool, "cache/main"))
        assert await wire.replies(encode(JoinCommand(others[0].key.id.hex().encode(), b"")), 1) == b"\x01"
        by_address = JoinCommand(b"node2", f"{others[1].ip}:4747".encode())
        assert await wire.replies(b"\x04" + encode(by_address)[1:], 1) == b"\x01"
        assert await wire.replies(encode(by_address), 1) == b"\x01", "asking again is no harm"
        assert {each.number for each in sim.holders("cache/main")} == {alone.number, *(o.number for o in others)}
        sim.kill(alone)
        assert await pool.read("cache/main", Get(b"key"), timeout=30) == b"value"
        assert await pool.send("cache/main", Set(b"key", b"new"), timeout=30)
        assert await wire.replies(encode(JoinCommand(b"nobody", b"10.9.9.9:1")), 1) == b"\x02"
        wire.reader.feed_eof()


async def test_only_who_may_administer_it_names_its_members() -> None:
    async with SimulatedPool(4) as sim:
        await (await sim.client()).publish("cache", "cache/main", policy=titan.Policy(faults=0))
        stranger = sim.pool(sim.nodes[0])
        with pytest.raises(titan.Forbidden, match="published"):
            await stranger.add_member("cache/main", sim.nodes[1].name)
