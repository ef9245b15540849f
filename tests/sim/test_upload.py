"""A node sends no faster than its user allows, whatever it is that it sends."""

import asyncio

import pytest

import titan_overlay as titan
from titan_overlay.config import NodeConfig
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

RATE = 100_000
CONFIG = NodeConfig(max_upload=RATE, max_bytes=1 << 30)
SLACK = 64 * 1024
"""For frames, handshakes and datagrams in one second."""


class Sink:
    async def take(self, data: bytes) -> int:
        return len(data)


def sent(node: SimulatedNode) -> int:
    """Bytes that have left the machine."""
    return node.host.bytes_sent + node.host.stream_bytes_sent


async def ask_much(sim: SimulatedPool, node: SimulatedNode) -> None:
    pool = sim.pool(node)
    asked = [pool.send("sink", sim.random.randbytes(RATE), timeout=60) for _ in range(20)]
    assert await asyncio.gather(*asked) == [RATE] * 20


async def put_much(sim: SimulatedPool, node: SimulatedNode) -> None:
    await sim.pool(node).put(sim.random.randbytes(5 * RATE), policy=titan.Policy(min_copies=3))


async def a_pool(sim: SimulatedPool) -> SimulatedNode:
    """One of its nodes; another holds an object that takes bytes."""
    await sim.publish(Sink, "sink", policy=titan.Policy(min_copies=1, max_copies=1))
    (holder,) = sim.holders("sink")
    return next(each for each in sim.nodes if each is not holder)


@pytest.mark.parametrize("what", [ask_much, put_much])
async def test_what_a_node_asks_and_what_others_take_from_it_stays_within_max_upload(what: object) -> None:
    async with SimulatedPool(5, config=CONFIG) as sim:
        node = await a_pool(sim)
        before, began = sent(node), sim.loop.time()
        work = asyncio.ensure_future(what(sim, node))  # type: ignore[operator]
        while not work.done():
            await asyncio.wait([work], timeout=1.0)
            assert sent(node) - before <= RATE * (sim.loop.time() - began + 1) + SLACK
        await work
        assert sent(node) - before > 4 * RATE, "there was something to limit"


async def test_a_request_whose_turn_would_come_too_late_is_not_sent_and_costs_nothing() -> None:
    async with SimulatedPool(5, config=CONFIG) as sim:
        node = await a_pool(sim)
        pool = sim.pool(node)
        for _ in range(3):
            with pytest.raises(titan.DeadlineExceeded, match="max_upload"):
                await pool.send("sink", bytes(5 * RATE), timeout=2)
        assert await pool.send("sink", bytes(RATE), timeout=2) == RATE
