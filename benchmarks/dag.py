"""Trivial tasks on two workers: seconds and CPU per task, beside other engines.

    python -m benchmarks.dag [--rounds 3] [--systems "Titan;Dask;..."] [--json FILE] [--report]

Flat is 1,000 tasks, layered 10 x 100 (of Titan's, each task needs two of the layer before; elsewhere a layer begins
when the one before has ended), chain 200. Titan is one `titan-node` with two workers that keeps the queue and the run,
with its journal on disk, and this client. "Titan, no pool" runs them in this program and its processes, without a
journal; these run already, as those of all others do (`Here`), or are started first (`titan dag run`). CPU is that of
all processes of a system, the client among them. "Engine alone" is the state machine without journal, pool and
processes.

Peers run under the Python that DAG_PEERS names (else this one), with what can be installed of: distributed, celery with
redis and a `redis-server`, dbos, ray. What is missing is left out, and the table says so.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import titan_overlay as titan
from benchmarks import report, trivial
from benchmarks.dag_peers import PEERS, SHAPES, WORKERS, executor, work
from benchmarks.processes import answer, cpu_seconds, start_node, stop
from titan_objects.dag.client import submit
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.engine import Engine
from titan_objects.dag.here import Here
from titan_objects.dag.journal import Begin, Lease, Report, Success, Worker
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.steps import DONE

Round = dict[str, tuple[float, float]]
"""By shape: seconds, and CPU seconds."""


def shaped(depth: int, width: int) -> Definition:
    """Layers of tasks; each needs two of the layer before, and adds one to what the first of them gave."""
    tasks = []
    for row in range(depth):
        for column in range(width):
            needs = sorted({f"t{row - 1}-{(column + n) % width}" for n in range(2)}) if row else []
            args = [f"${{{needs[0]}}}"] if needs else [0]
            tasks.append(Task(id=f"t{row}-{column}", call="trivial:increment", needs=needs, args=args))
    return Definition(name="bench", tasks=tasks)


def count(shape: str) -> int:
    depth, width = SHAPES[shape]
    return depth * width


# --- systems ------------------------------------------------------------------------------------------------------


def engine_alone() -> Round:
    """The state machine, fed by hand."""
    took: Round = {}
    for shape, size in SHAPES.items():
        definition = shaped(*size)
        began, cpu = time.perf_counter(), time.process_time()
        engine = Engine(keep_journal=False)
        engine.step(Begin(definition), 0.0)
        worker = Worker("w", cores=float(WORKERS))
        while engine.state not in DONE:
            for order in engine.step(Lease(worker, WORKERS), 0.0).orders:
                engine.step(Report("w", order.epoch, Success(order.args[0] + 1)), 0.0)
        took[shape] = time.perf_counter() - began, time.process_time() - cpu
    return took


async def here(warm: bool) -> Round:
    """Without a pool, and without a journal; with the start of its processes, unless they are warm."""
    took: Round = {}
    for shape, size in SHAPES.items():
        async with Here(slots=WORKERS) as machine:
            if warm:
                await machine.run(shaped(1, 10), code=Path(trivial.__file__))
            cpu = _cpu_below(os.getpid()) + _cpu_of_ended()
            began = time.perf_counter()
            await machine.run(shaped(*size), code=Path(trivial.__file__))
            took[shape] = time.perf_counter() - began, _cpu_below(os.getpid()) + _cpu_of_ended() - cpu
    return took


def each_more(rounds: int) -> dict[str, float]:
    """Seconds that a flat run takes for each task more, once its processes run: without a pool, and of the executor."""
    few, many = 1000, 5000

    async def runs() -> float:
        async with Here(slots=WORKERS) as machine:
            await machine.run(shaped(1, 10), code=Path(trivial.__file__))
            marks = [time.perf_counter()]
            for tasks in (few, many):
                await machine.run(shaped(1, tasks), code=Path(trivial.__file__))
                marks.append(time.perf_counter())
        return (marks[2] - marks[1]) - (marks[1] - marks[0])

    def theirs(tasks: int) -> float:
        with executor(Path()) as layer:
            layer([0] * WORKERS)
            began = time.perf_counter()
            work(layer, 1, tasks)
            return time.perf_counter() - began

    found = {
        "Titan, no pool": [asyncio.run(runs()) for _ in range(rounds)],
        "ProcessPoolExecutor": [theirs(many) - theirs(few) for _ in range(rounds)],
    }
    return {name: statistics.median(seconds) / (many - few) for name, seconds in found.items()}


def _cpu_of_ended() -> float:
    """CPU seconds of processes that this one has started and that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


async def titans(directory: Path) -> Round:
    """A node with workers, and a client in this process."""
    node, line = start_node(0, directory, "", "--workers", str(WORKERS), "--queue", "dag")
    try:
        async with titan.connect(line, data=directory / "0") as pool:
            await pool.publish("dag", "dag", policy=titan.Policy(faults=0))
            while not await pool.read("dag", AskWorkers()):
                await asyncio.sleep(0.1)
            await _titan_run(pool, shaped(1, 10))
            took: Round = {}
            for shape, size in SHAPES.items():
                cpu = _cpu_below(node.pid) + time.process_time()
                took[shape] = await _titan_run(pool, shaped(*size)), 0.0
                took[shape] = took[shape][0], _cpu_below(node.pid) + time.process_time() - cpu
            return took
    finally:
        stop([node])


async def _titan_run(pool: titan.Pool, definition: Definition) -> float:
    began = time.perf_counter()
    run = await submit(pool, definition, code=Path(trivial.__file__), faults=0)
    await run.result()
    return time.perf_counter() - began


def peer(system: str, directory: Path) -> Round | None:
    """Another engine; None: it is not installed."""
    python = os.environ.get("DAG_PEERS", sys.executable)
    with (directory / "errors").open("w") as errors:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.dag_peers", system, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=report.ROOT,
        )  # fmt: skip
    try:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            why = (directory / "errors").read_text().splitlines()[-1:]
            print(f"{system} is left out: {''.join(why)}", file=sys.stderr)
            return None
        took: Round = {}
        for shape in SHAPES:
            cpu = _cpu_below(process.pid)
            process.stdin.write(f"{shape}\n")
            process.stdin.flush()
            took[shape] = float(answer(process)), _cpu_below(process.pid) - cpu
        process.stdin.close()
        process.wait(30)
        return took
    finally:
        stop([process])


def _cpu_below(pid: int) -> float:
    """CPU seconds so far of a process and all that it has started, as far as they run."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for each in family:  # it grows meanwhile
        family += [child for child, parent in parents.items() if parent == each]
    total = 0.0
    for each in family:
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            total += cpu_seconds(each)
    return total


# --- what came of it ----------------------------------------------------------------------------------------------


def run(systems: list[str], rounds: int) -> dict[str, Any]:
    found: dict[str, list[Round]] = {}
    missing: set[str] = set()
    for _ in range(rounds):
        for system in systems:
            with tempfile.TemporaryDirectory(prefix="bench-dag-") as name:
                directory = Path(name)
                if system == "engine alone":
                    took: Round | None = engine_alone()
                elif system.startswith("Titan, no pool"):
                    took = asyncio.run(here(warm=system == "Titan, no pool"))
                elif system == "Titan":
                    took = asyncio.run(titans(directory))
                else:
                    took = peer(system, directory)
            if took is None:
                missing.add(system)
            else:
                found.setdefault(system, []).append(took)
    rows = {
        system: {
            shape: {
                "seconds": statistics.median(each[shape][0] for each in took),
                "cpu_ms_per_task": statistics.median(each[shape][1] for each in took) / count(shape) * 1e3,
            }
            for shape in SHAPES
        }
        for system, took in found.items()
    }
    more = each_more(rounds) if {"Titan, no pool", "ProcessPoolExecutor"} <= rows.keys() else {}
    return {
        "rounds": rounds,
        "workers": WORKERS,
        "rows": rows,
        "more": more,
        "missing": sorted(missing),
        "load": os.getloadavg()[1],
    }


def markdown(result: dict[str, Any]) -> str:
    heads = [f"{shape} ({count(shape):,})" for shape in SHAPES]
    lines = [
        f"Median of {result['rounds']} rounds; seconds, and CPU milliseconds per task:",
        "",
        "| system | " + " | ".join(f"{head}, s | CPU ms" for head in heads) + " |",
        "|---" + "|---:" * 2 * len(SHAPES) + "|",
    ]
    for system, row in result["rows"].items():
        cells = " | ".join(f"{row[shape]['seconds']:.2f} | {row[shape]['cpu_ms_per_task']:.2f}" for shape in SHAPES)
        lines.append(f"| {system} | {cells} |")
    if result["more"]:
        ours, theirs = result["more"]["Titan, no pool"], result["more"]["ProcessPoolExecutor"]
        lines += [
            "",
            f"Each task more of a flat run, once processes run: {ours * 1e3:.3f} ms without a pool, "
            f"{theirs * 1e3:.3f} ms with ProcessPoolExecutor ({ours / theirs:.2f} times).",
        ]
    if result["missing"]:
        lines += ["", f"Not here, since not installed or not started: {', '.join(result['missing'])}."]
    lines += ["", f"Load average of the machine meanwhile: {result['load']:.1f}, on {os.cpu_count()} cores."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ["engine alone", "Titan", "Titan, no pool", "Titan, no pool, with its start", *PEERS]
    parser.add_argument("--systems", default=";".join(known), help="which of them, with semicolons between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    systems = options.systems.split(";")
    if unknown := [each for each in systems if each not in known]:
        parser.error(f"no system {unknown[0]!r}; there are {', '.join(known)}")
    result = run(systems, options.rounds)
    report.publish_table("dag", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
