"""Workers and members of the groups die at random moments of a run: all of it happens all the same, once."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

import titan_overlay as titan
from tests.unit.dag_world import definition
from titan_objects.dag.client import submit
from titan_objects.dag.definition import Definition
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Order, Success
from titan_objects.dag.processes import Ear
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.submitted import SubmittedRun
from titan_objects.dag.worker import Workers
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")
WORKERS = 2


class Cord:
    """A pool as a worker has it, until the cord is cut: from then on it says and hears nothing."""

    def __init__(self, pool: titan.Pool) -> None:
        self._pool = pool
        self.trusted = pool.trusted
        self.cut = False

    async def read(self, name: str, message: Any) -> Any:
        self._check()
        answer = await self._pool.read(name, message)
        self._check()
        return answer

    async def send(self, name: str, message: Any, **options: Any) -> Any:
        self._check()
        answer = await self._pool.send(name, message, **options)
        self._check()
        return answer

    def _check(self) -> None:
        if self.cut:
            raise titan.Unavailable("the cord was cut")


class Adders(Workers):
    """Workers without processes: a task adds what it gets, and one; it takes a while, and has an effect."""

    def __init__(self, pool: titan.Pool, name: str, chaos: "Chaos") -> None:
        self.cord = Cord(pool)
        super().__init__(cast(titan.Pool, self.cord), "dag", name, 2, {}, Path("nowhere"))
        self._chaos = chaos

    async def execute(self, order: Order, ear: Ear) -> Success:
        ear.line(f"{order.key} begins")
        await asyncio.sleep(self._chaos.random.uniform(0.1, 4))
        if not self.cord.cut:
            self._chaos.effects[order.key] += 1
        ear.line(f"{order.key} ends")
        return Success(1 + sum(order.args))


class Chaos:
    """Workers, and what kills them and the nodes below the run and its queue."""

    def __init__(self, sim: SimulatedPool, pool: titan.Pool, seed: int) -> None:
        self.sim = sim
        self.random = Random(f"chaos/{seed}")
        self.effects: Counter[str] = Counter()
        self._pool = pool
        self._serving: list[tuple[Adders, asyncio.Task[None]]] = []
        self._started = 0

    async def start_worker(self) -> None:
        self._started += 1
        worker = Adders(await self.sim.client(), f"w{self._started}", self)
        self._serving.append((worker, asyncio.create_task(worker.serve())))

    async def kill_worker(self) -> None:
        worker, task = self._serving.pop(self.random.randrange(len(self._serving)))
        worker.cord.cut = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.start_worker()

    async def kill_member(self, name: str) -> None:
        """One node of the group is gone for a while."""
        members = [each.node.removeprefix("node:") for each in (await self._pool.group(name)).members]
        below = [each for each in self.sim.live() if each.node is not None and each.node.key.id.hex() in members]
        down = self.sim.kill(self.random.choice(below))
        await asyncio.sleep(self.random.uniform(1, 10))
        await self.sim.restart(down)

    async def end(self) -> None:
        for worker, task in self._serving:
            worker.cord.cut = True
            task.cancel()
        await asyncio.gather(*(task for _, task in self._serving), return_exceptions=True)


def layers(depth: int, width: int) -> Definition:
    """Each task of a layer needs two of the layer before; one sums up the last."""
    tasks: list[dict[str, Any]] = []
    for row in range(depth):
        for column in range(width):
            needs = [f"t{row - 1}-{(column + n) % width}" for n in range(2)] if row else []
            tasks.append({"id": f"t{row}-{column}", "needs": needs, "args": [f"${{{each}}}" for each in needs]})
    last = [f"t{depth - 1}-{column}" for column in range(width)]
    tasks.append({"id": "sum", "needs": last, "args": [f"${{{each}}}" for each in last]})
    return definition(*tasks)


async def survive(seed: int, depth: int, width: int, kills: int) -> None:
    async with SimulatedPool(4, seed=seed) as sim:
        pool = await sim.client()
        await pool.publish("dag", "dag")
        chaos = Chaos(sim, pool, seed)
        for _ in range(WORKERS):
            await chaos.start_worker()
        while len(await pool.read("dag", AskWorkers())) < WORKERS:
            await asyncio.sleep(0.5)
        run = await submit(pool, layers(depth, width))
        killed = 0
        for _ in range(kills):
            await asyncio.sleep(chaos.random.uniform(0, 5))
            if (await run.look()).state != "RUNNING":
                break
            killed += 1
            await chaos.random.choice(
                [chaos.kill_worker, lambda: chaos.kill_member("dag"), lambda: chaos.kill_member(run.name)]
            )()
        assert killed, "nothing was disturbed"
        assert await run.result() == width * (2**depth - 1) + 1
        await check(run, chaos)
        await chaos.end()


async def check(run: SubmittedRun, chaos: Chaos) -> None:
    """Every task had its effect, one attempt of each was believed, and that one's log is whole."""
    engine = Engine.replay(await run.journal())
    assert chaos.effects.keys() == engine.steps.keys()
    assert {step.state for step in engine.steps.values()} == {"SUCCEEDED"}
    assert engine.executions == (await run.look()).executions >= chaos.effects.total()
    said = Counter([line.text async for line in run.logs()])
    for key in engine.steps:
        assert said[f"{key} ends"] == 1
        assert said[f"{key} begins"] >= 1


async def test_a_run_survives_kills_of_its_workers_and_of_the_members_below_it() -> None:
    await survive(seed=1, depth=8, width=2, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_many_runs_survive_kills_at_random() -> None:
    """TITAN_SEEDS=100-300: so many, one after the other."""
    first, _, last = os.environ.get("TITAN_SEEDS", "4-6").partition("-")
    for seed in range(int(first), int(last or first) + 1):
        await survive(seed, depth=8, width=4, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
async def test_a_longer_run_survives_kills_at_random(seed: int) -> None:
    await survive(seed, depth=24, width=8, kills=12)
