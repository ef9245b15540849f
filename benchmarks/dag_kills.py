"""A run of 10,000 tasks while its workers, and the nodes that keep it and its queue, are killed at random.

    python -m benchmarks.dag_kills [--depth 100] [--width 100] [--seconds 0.02] [--pause 6] [--report]

Real `titan-node` processes on loopback, fsync on: four that may keep run and queue (three of them keep each), and two
that work, four tasks at a time. Every `--pause` seconds one of the six, drawn at random, gets kill -9, or two at once
(then a quorum may be gone), and is started again a second later. Each task needs two of the layer before and adds up
what they gave; it writes two lines, and leaves one in a file, each time that it is executed: so what happened is
counted beside what the run says of itself.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import titan_overlay as titan
from benchmarks import noted, report
from benchmarks.failover import DOWN_SECONDS, Nodes
from titan_objects.dag.client import submit
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.engine import Engine
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.submitted import ENDED, SubmittedRun

HOSTS, WORKERS, SLOTS = 4, 2, 4
WAIT_SECONDS = 120.0
"""For what no killed node should keep from happening for longer."""


def layered(depth: int, width: int, seconds: float, effects: Path) -> Definition:
    """Layers of tasks, each of which needs two of the layer before; the last one adds up."""
    tasks = []
    for row in range(depth):
        for column in range(width):
            needs = [f"t{row - 1}-{(column + n) % width}" for n in range(2)] if row else []
            tasks.append(_task(f"t{row}-{column}", needs, seconds, effects))
    tasks.append(_task("sum", [f"t{depth - 1}-{column}" for column in range(width)], seconds, effects))
    return Definition(name="kills", tasks=tasks)


def _task(name: str, needs: list[str], seconds: float, effects: Path) -> Task:
    args = [name, str(effects), seconds, *(f"${{{each}}}" for each in needs)]
    return Task(id=name, call="noted:add", needs=needs, args=args)


def expected(definition: Definition) -> dict[str, int]:
    """What each task gives."""
    values: dict[str, int] = {}
    for task in definition.tasks:  # each stands behind what it needs
        values[task.id] = (1 + sum(values[each] for each in task.needs)) % noted.MODULUS
    return values


async def surely(what: Any) -> Any:
    """What a question gives, asked again where a quorum is gone for a while."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await what()
        except titan.RemotableError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)


async def kill(nodes: Nodes, run: SubmittedRun, pause: float, chance: random.Random) -> dict[str, int]:
    """Kills until the run has ended; how many of each kind."""
    kills = {"workers": 0, "hosts": 0, "together": 0}
    while True:
        await asyncio.sleep(pause)
        if (await surely(run.look)).state in ENDED:
            return kills
        chosen = chance.sample(range(len(nodes)), 1 + (chance.random() < 0.25))
        for number in chosen:
            await asyncio.to_thread(nodes.kill, number)
            kills["hosts" if number < HOSTS else "workers"] += 1
        kills["together"] += len(chosen) > 1
        await asyncio.sleep(DOWN_SECONDS)
        for number in chosen:
            await asyncio.to_thread(nodes.start, number)


async def measure(nodes: Nodes, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Submits the run, kills, and counts what came of it."""
    effects = directory / "effects"
    definition = layered(options.depth, options.width, options.seconds, effects)
    async with titan.connect(nodes.line, data=directory / "0") as pool:
        await pool.publish("dag", "dag", policy=titan.Policy(faults=1))
        while len(await surely(lambda: pool.read("dag", AskWorkers()))) < WORKERS:
            await asyncio.sleep(0.5)
        began = time.monotonic()
        run = await submit(pool, definition, code=Path(noted.__file__), faults=1)
        kills = await kill(nodes, run, options.pause, random.Random(options.seed))
        took = time.monotonic() - began
        state = (await surely(run.look)).state
        engines = [Engine.replay(await surely(each.journal)) for each in await surely(lambda: _sections(run))]
        said = Counter(line.text for line in await surely(lambda: _lines(run)))
    done = Counter(line.split()[0] for line in effects.read_text().splitlines())
    wanted = expected(definition)
    results = {name: step.result for engine in engines for name, step in engine.steps.items()}
    return {
        "tasks": len(wanted),
        "seconds": took,
        "kills_workers": kills["workers"],
        "kills_hosts": kills["hosts"],
        "kills_together": kills["together"],
        "objects": len(engines),
        "state": state,
        "leases": sum(engine.executions for engine in engines),
        "executed": done.total(),
        "executed_again": sum(count > 1 for count in done.values()),
        "never_executed": len(wanted.keys() - done.keys()),
        "wrong": sum(results.get(name) != value for name, value in wanted.items()),
        "log_missing": sum(not said[f"{name} begins"] or not said[f"{name} ends"] for name in wanted),
        "ends_twice": sum(said[f"{name} ends"] > 1 for name in wanted),
        "load": os.getloadavg()[1],
    }


async def _sections(run: SubmittedRun) -> list[SubmittedRun]:
    """The runs that have its tasks."""
    below = [each.child for each in (await run.look(tasks=True)).tasks if each.section]
    return [SubmittedRun(run.pool, name) for name in below] or [run]


async def _lines(run: SubmittedRun) -> list[Any]:
    return [line async for line in run.logs(follow=False)]


ROWS: list[report.Row] = [
    ("tasks", "tasks", "{:,}"),
    ("objects that hold sections of them", "objects", "{}"),
    ("seconds", "seconds", "{:.0f}"),
    ("nodes killed that work", "kills_workers", "{}"),
    ("nodes killed that keep run or queue", "kills_hosts", "{}"),
    ("times that two were killed at once", "kills_together", "{}"),
    ("how the run ended", "state", "{}"),
    ("leases given", "leases", "{:,}"),
    ("tasks executed more than once, since their worker was killed or not heard", "executed_again", "{}"),
    ("tasks never executed", "never_executed", "{}"),
    ("tasks whose result is not what it should be", "wrong", "{}"),
    ("tasks without their lines in the log", "log_missing", "{}"),
    ("tasks with the end of two attempts in the log", "ends_twice", "{}"),
    ("load average of the machine meanwhile", "load", "{:.1f}"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.02, help="that a task takes")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titan-dag-kills-") as name:
        working = ["--workers", str(SLOTS)]
        nodes = Nodes(HOSTS + WORKERS, Path(name), lambda number: [] if number < HOSTS else working)
        try:
            result = asyncio.run(measure(nodes, options, Path(name)))
        finally:
            nodes.stop()
    print(json.dumps(result), file=sys.stderr)
    report.publish_table("dag-kills", report.table(ROWS, result), result, options)
    if result["state"] != "SUCCEEDED" or result["never_executed"] or result["wrong"] or result["log_missing"]:
        raise SystemExit("the run is not what it should be")


if __name__ == "__main__":
    main()
