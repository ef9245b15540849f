"""Histories of clients of a group's store, while members crash and the network falls apart: each is one that a single
machine could have had. So no read is stale, and nothing that was acknowledged is lost.
"""

import asyncio
from random import Random
from typing import Any

import pytest

from tests.sim.store_doors import NAME, Client, door_on
from titan_objects.store.resp import CommandError
from titan_overlay.testing.pool import SimulatedPool
from titan_simulations.checkers import Operation, check

pytestmark = pytest.mark.loops("virtual")

KEYS = ("a", "b")
SECONDS = 15.0
DOORS = 3


def step(state: bytes | None, what: tuple[str, ...]) -> tuple[Any, Any]:
    """What one machine answers."""
    match what:
        case ("GET",):
            return state, state
        case ("SET", value):
            return value.encode(), b"OK"
        case ("APPEND", value):
            after = (state or b"") + value.encode()
            return after, len(after)
        case ("GETDEL",):
            return None, state
    raise AssertionError(what)


class History:
    """What clients saw."""

    def __init__(self, sim: SimulatedPool, random: Random) -> None:
        self.sim = sim
        self.random = random
        self.by_key: dict[str, list[Operation]] = {key: [] for key in KEYS}
        self.done = 0

    async def client(self, name: str, client: Client, until: float) -> None:
        random = Random(self.random.random())
        count = 0
        while self.sim.now < until:
            count += 1
            key = random.choice(KEYS)
            word = f"{name}{count},"
            what = random.choice([("GET",), ("GET",), ("SET", word), ("APPEND", word), ("GETDEL",)])
            called = self.sim.now
            reply = await client(" ".join((what[0], key, *what[1:])))
            if isinstance(reply, CommandError):
                assert str(reply).startswith("UNAVAILABLE")
                if what != ("GET",) and "may have been executed" in str(reply):
                    self.by_key[key].append(Operation(name, what, None, called, None))
            else:
                self.by_key[key].append(Operation(name, what, reply, called, self.sim.now))
                self.done += 1
            await asyncio.sleep(random.uniform(0, 0.5))


async def trouble(sim: SimulatedPool, random: Random, outside: list[Any], until: float) -> int:
    """Crashes and partitions, one at a time, each over after a while."""
    many = 0
    while sim.now < until:
        await asyncio.sleep(random.uniform(0.5, 2))
        victim = random.choice([node for node in sim.holders(NAME) if node not in outside])
        many += 1
        if random.random() < 0.4:
            sim.kill(victim)
            await asyncio.sleep(random.uniform(0.5, 3))
            await sim.restart(victim)
            continue
        alone = [victim, random.choice(outside)]  # with a door: it must not answer from what it has
        sim.partition(alone, [node for node in sim.live() if node not in alone])
        await asyncio.sleep(random.uniform(0.5, 4))
        sim.heal()
    return many


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))])
async def test_histories_are_linearizable(seed: int) -> None:
    random = Random(seed)
    async with SimulatedPool(6, seed=seed) as sim:
        await (await sim.client()).publish("store-group", NAME)
        members = sim.holders(NAME)
        outside = [node for node in sim.nodes if node not in members]
        doors = [door_on(sim, node) for node in outside[:DOORS]]
        history = History(sim, random)
        until = sim.now + SECONDS
        clients = [history.client(f"{n}.", Client(doors[n % len(doors)]), until) for n in range(6)]
        many, *_ = await asyncio.gather(trouble(sim, random, outside, until), *clients)
        for door in doors:
            await door.close()
    assert many >= 2
    assert history.done > 50
    for key in KEYS:
        verdict = check(history.by_key[key], step, None)
        assert verdict.linearizable, verdict.stuck[-3:]
