"""The pool that users test their objects on: faults do what they say, and runs repeat."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from titan_overlay.errors import TitanError
from titan_overlay.testing import Machine, SimulatedPool
from titan_overlay.testing.crypto import fake_crypto

CONTENT = b"something to keep"


async def keep(sim: SimulatedPool) -> str:
    name = await sim.pool(0).put(CONTENT)
    await sim.settle()
    return name


async def test_on_a_real_loop_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"SimulatedPool\.run"):
        async with SimulatedPool(nodes=2):
            pass


def test_run_needs_no_loop_and_gives_the_result_back():
    async def scenario(sim: SimulatedPool) -> int:
        return len(sim.live())

    assert SimulatedPool.run(scenario, nodes=3, seed=1) == 3


@pytest.mark.loops("virtual")
async def test_a_holder_that_is_killed_is_replaced():
    async with SimulatedPool(nodes=12) as sim:
        name = await keep(sim)
        holders = sim.holders(name)
        assert len(holders) == 3
        dead = sim.kill(holders[0])
        assert not dead.alive and len(sim.holders(name)) == 2
        assert 0 < await sim.settle(lambda: len(sim.holders(name)) >= 3, within=120) <= 120
        assert dead not in sim.holders(name)
        for node in sim.live():
            assert await sim.pool(node).get(name) == CONTENT


@pytest.mark.loops("virtual")
async def test_a_restarted_node_has_its_key_and_its_replicas_back():
    async with SimulatedPool(nodes=8) as sim:
        name = await keep(sim)
        holder = sim.holders(name)[0]
        key = holder.running.key.id
        sim.kill(holder)
        await asyncio.sleep(5)
        await sim.restart(holder)
        assert holder.running.key.id == key and holder in sim.holders(name)
        assert await sim.pool(holder).get(name) == CONTENT


@pytest.mark.loops("virtual")
async def test_a_node_that_is_stopped_hands_its_copies_over():
    async with SimulatedPool(nodes=10) as sim:
        name = await keep(sim)
        await sim.stop(sim.holders(name)[0])
        assert len(sim.holders(name)) >= 3


@pytest.mark.loops("virtual")
async def test_the_two_sides_of_a_partition_do_not_reach_each_other_until_it_heals():
    async with SimulatedPool(nodes=8) as sim:
        target = sim.nodes[7]
        sim.partition(sim.nodes[:4], sim.nodes[4:])
        with pytest.raises(TitanError):
            await sim.pool(0).describe(target.name, timeout=5)
        sim.heal()
        assert (await sim.pool(0).describe(target.name, timeout=30)).id == target.key.id.hex()


@pytest.mark.loops("virtual")
async def test_a_delay_is_felt_both_ways():
    async with SimulatedPool(nodes=6) as sim:
        target = sim.nodes[3]
        pool = sim.pool(1)
        await pool.describe(target.name)
        before = sim.now
        await pool.describe(target.name)
        usual = sim.now - before
        sim.delay(target, 0.5)
        before = sim.now
        await pool.describe(target.name)
        assert sim.now - before == pytest.approx(usual + 1.0, abs=0.2)


@pytest.mark.loops("virtual")
async def test_nodes_may_join_later_and_clients_come_from_machines_of_their_own():
    async with SimulatedPool(nodes=4) as sim:
        added = await sim.add_node(Machine(upload=1e6))
        assert added in sim.live() and added.host.upload == 1e6
        client = await sim.client()
        name = await client.put(CONTENT)
        assert await sim.pool(added).get(name) == CONTENT
        assert len(sim.network.hosts) == 6


@pytest.mark.loops("virtual")
async def test_what_never_comes_true_is_a_timeout():
    async with SimulatedPool(nodes=2) as sim:
        began = sim.now
        with pytest.raises(TimeoutError, match="still not so"):
            await sim.settle(lambda: False, within=60)
        assert sim.now - began >= 60


def trace(seed: int) -> str:
    async def scenario(sim: SimulatedPool) -> str:
        name = await keep(sim)
        sim.kill(sim.holders(name)[1])
        await sim.settle(lambda: len(sim.holders(name)) >= 3)
        return sim.trace_hash

    return SimulatedPool.run(scenario, nodes=10, seed=seed)


def test_the_same_seed_is_the_same_run_in_any_process():
    here = trace(5)
    program = "from tests.sim.test_simulated_pool import trace; print(trace(5))"
    for hash_seed in ("0", "4711"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here
    assert trace(6) != here


def test_fake_crypto_forges_nothing_by_accident_and_leaves_no_trace():
    from titan_overlay.identity import keys

    seed = bytes(32)
    real = keys.SigningKey(seed)
    signature = real.sign(b"x")
    with fake_crypto():
        fake = keys.SigningKey(seed)
        assert fake.public != real.public
        assert keys.verify(fake.public, fake.sign(b"x"), b"x")
        assert not keys.verify(fake.public, fake.sign(b"x"), b"y")
        assert not keys.verify(real.public, signature, b"x")
        ours, theirs = keys.Ephemeral(b"a" * 32), keys.Ephemeral(b"b" * 32)
        assert ours.agree(theirs.public) == theirs.agree(ours.public) is not None
    assert keys.verify(real.public, signature, b"x")
    assert keys.verify_record(real.public, signature, b"x")


def test_a_pool_on_fake_crypto_works_like_any_other():
    async def scenario(sim: SimulatedPool) -> bytes:
        return await sim.pool(1).get(await keep(sim))

    with fake_crypto():
        assert SimulatedPool.run(scenario, nodes=5) == CONTENT


@pytest.mark.loops("virtual")
async def test_a_node_that_is_stopped_while_it_joins_stops_cleanly():
    async with SimulatedPool(nodes=2) as sim:
        sim.partition([0, 1])  # nobody answers the newcomer
        joining = asyncio.create_task(sim.add_node())
        await asyncio.sleep(0.2)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert len(sim.live()) == 2


def test_the_example_does_what_it_says():
    example = Path(__file__).parents[2] / "examples" / "simulated_pool.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=True)
    assert "two of three holders are dead, and it answers" in done.stdout
    assert "trace" in done.stdout
