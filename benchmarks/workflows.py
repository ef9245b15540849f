"""Real workflows in virtual time: the engine's schedules on 16 workers, with recorded run times.

    python -m benchmarks.workflows [--workers 16] [--json FILE] [--report]

The instances are those of WfCommons (WfFormat 1.5), in the directory that WFINSTANCES names, else
../shared/wfinstances. The same engine, fed with the same tasks, does each twice: by critical path, and first in, first
out; beside them stands a plan made in advance for just these workers. A makespan is divided by two lower bounds, which
no schedule can beat: max(critical path, work / workers), and a closer one that also counts what must come before and
after any part of a workflow, and that tasks are not cut up.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import report
from titan_objects.dag.checking import order, waits
from titan_objects.dag.definition import Definition, Timeout, seconds
from titan_objects.dag.engine import Engine, Ranking
from titan_objects.dag.journal import Begin, Lease, Report, Success, Worker
from titan_objects.dag.reading import read_definition
from titan_objects.dag.ready import critical_path, first_come
from titan_objects.dag.steps import State

INSTANCES = Path(os.environ.get("WFINSTANCES", report.ROOT.parent / "shared" / "wfinstances"))


def makespan(definition: Definition, workers: int, ranking: Ranking) -> float:
    """Virtual seconds from begin to end; each worker runs one task after the other."""
    took = {task.id: seconds(task.estimate) for task in definition.tasks}
    engine = Engine(ranking=ranking, keep_journal=False)
    engine.step(Begin(definition), 0.0)
    # Leases are not renewed here, and do not have to be: the longest task is shorter than they are.
    free = [Worker(f"w{number:02}") for number in range(workers)]
    busy: list[tuple[float, str, int]] = []
    by_name = {each.name: each for each in free}
    now = 0.0
    while engine.state is State.RUNNING:
        while free:
            orders = engine.step(Lease(free[-1]), now).orders
            if not orders:
                break
            heappush(busy, (now + took[orders[0].key], free.pop().name, orders[0].epoch))
        now, name, epoch = heappop(busy)
        engine.step(Report(name, epoch, Success()), now)
        free.append(by_name[name])
    assert engine.state is State.SUCCEEDED, engine.state
    assert engine.executions == len(took), "a task ran twice"
    return now


def lower_bounds(definition: Definition, workers: int) -> tuple[float, float]:
    """max(critical path, work / workers), and a closer bound.

    Of any tasks, the first of each worker cannot begin before what it needs has been done (its head), and behind the
    last of each its successors must follow (its tail). So the run takes at least the mean over all workers of the
    smallest heads, the work and the smallest tails; and of k * workers + 1 tasks one worker has k + 1, all of them.
    Tried are all tasks with heads and tails of at least so much.

    Sources: Carlier, "Scheduling jobs with release dates and tails on identical machines to minimize the makespan",
    1987; Martello and Toth, "Knapsack Problems", 1990, section 8.3.
    """
    took = {task.id: seconds(task.estimate) for task in definition.tasks}
    needs = {task.id: task.needs for task in definition.tasks}
    heads: dict[str, float] = {}
    tails = dict.fromkeys(took, 0.0)
    sorted_ids = order(waits(definition.tasks))
    for name in sorted_ids:
        heads[name] = max((heads[each] + took[each] for each in needs[name]), default=0.0)
    for name in reversed(sorted_ids):
        for each in needs[name]:
            tails[each] = max(tails[each], tails[name] + took[name])
    simple = max(max(heads[name] + took[name] for name in took), sum(took.values()) / workers)
    tasks = sorted(((tails[name], heads[name], took[name]) for name in took), reverse=True)
    divided = max(_divided([each for each in tasks if each[1] >= a], workers) for a in set(heads.values()))
    return simple, max(simple, divided, _whole(tasks, workers))


def _divided(tasks: list[tuple[float, float, float]], workers: int) -> float:
    """The best of the bounds by mean; tasks are (tail, head, seconds), the longest tail first."""
    best = work = heads = tails = 0.0
    smallest: list[float] = []  # negated: the largest of them is the first
    for count, (tail, head, took) in enumerate(tasks, 1):
        work += took
        heads += head
        tails += tail
        heappush(smallest, -head)
        if count > workers:
            heads += heappop(smallest)
            tails -= tasks[count - 1 - workers][0]
        if count >= workers:
            best = max(best, (heads + work + tails) / workers)
    return best


def _whole(tasks: list[tuple[float, float, float]], workers: int) -> float:
    """The best of the bounds by tasks that are not cut up."""
    best = 0.0
    for a in some(head for _, head, _ in tasks):
        for b in some(tail for tail, _, _ in tasks):
            times = sorted((took for tail, head, took in tasks if head >= a and tail >= b), reverse=True)
            for k in range(1, (len(times) - 1) // workers + 1):
                best = max(best, a + b + sum(times[k * workers - k : k * workers + 1]))
    return best


def planned(definition: Definition, workers: int, turns: int = 5) -> float:
    """What a plan takes that is made for these workers before the run begins, and improved forwards and backwards.

    The engine has no such plan: workers come and go while it runs. Each turn schedules from the end, what ended last
    first, and then from the beginning, what begins first there first. Source: Li and Willis, "An iterative scheduling
    technique for resource-constrained project scheduling", 1992; Tormos and Lova, 2001.
    """
    took = {task.id: seconds(task.estimate) for task in definition.tasks}
    needs = {task.id: list(task.needs) for task in definition.tasks}
    children: dict[str, list[str]] = {name: [] for name in took}
    for name, above in needs.items():
        for each in above:
            children[each].append(name)
    rank: dict[str, float] = {}
    for name in reversed(order(waits(definition.tasks))):
        rank[name] = took[name] + max((rank[each] for each in children[name]), default=0.0)
    begins = listed(took, needs, children, rank, workers)
    best = max(begins[name] + took[name] for name in took)
    for _ in range(turns):
        ends = {name: begins[name] + took[name] for name in took}
        backwards = listed(took, children, needs, ends, workers)
        begins = listed(took, needs, children, {name: backwards[name] + took[name] for name in took}, workers)
        best = min(best, max(begins[name] + took[name] for name in took))
    return best


def listed(
    took: Mapping[str, float],
    needs: Mapping[str, list[str]],
    children: Mapping[str, list[str]],
    rank: Mapping[str, float],
    workers: int,
) -> dict[str, float]:
    """When each task begins, if the highest rank goes first."""
    left = {name: len(above) for name, above in needs.items()}
    ready = [(-rank[name], name) for name in took if not left[name]]
    heapify(ready)
    busy: list[tuple[float, str]] = []
    begins: dict[str, float] = {}
    now = 0.0
    while ready or busy:
        while ready and len(busy) < workers:
            _, name = heappop(ready)
            begins[name] = now
            heappush(busy, (now + took[name], name))
        now = busy[0][0]
        while busy and busy[0][0] == now:
            _, name = heappop(busy)
            for each in children[name]:
                left[each] -= 1
                if not left[each]:
                    heappush(ready, (-rank[each], each))
    return begins


def some(values: Iterable[float], most: int = 40) -> list[float]:
    """These values, or so many of them: fewer make a bound that is not as close, and still one."""
    found = sorted(set(values))
    return found if len(found) <= most else [found[len(found) * n // most] for n in range(most)]


def patient(definition: Definition) -> Definition:
    """The same with leases that last as long as it takes."""
    tasks = [msgspec.structs.replace(each, timeout=Timeout(heartbeat=1e9)) for each in definition.tasks]
    return msgspec.structs.replace(definition, tasks=tasks)


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def run(workers: int) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    started = time.process_time()
    for path in sorted(INSTANCES.rglob("*.json")):
        definition = patient(read_definition(path.read_text(), path.name))
        bound, closer = lower_bounds(definition, workers)
        ranked, fifo = (makespan(definition, workers, each) for each in (critical_path, first_come))
        plan = planned(definition, workers)
        row = {
            "critical": ranked / bound,
            "fifo": fifo / bound,
            "plan": plan / bound,
            "least": closer / bound,
            "closer": ranked / closer,
        }
        assert min(ranked, plan) >= closer * (1 - 1e-9), "a schedule that beats the bound: the bound is wrong"
        rows.append({"instance": path.stem, "tasks": len(definition.tasks), **row})
    if not rows:
        raise SystemExit(f"no instances under {INSTANCES}; name their directory with WFINSTANCES")
    result: dict[str, Any] = {"workers": workers, "instances": len(rows), "rows": rows}
    for name in ("critical", "fifo", "plan", "least", "closer"):
        ratios = [row[name] for row in rows]
        result[f"{name}_median"], result[f"{name}_p90"] = statistics.median(ratios), percentile(ratios, 0.9)
        result[f"{name}_max"] = max(ratios)
    result["cpu_seconds"] = time.process_time() - started
    return result


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"Makespan / max(critical path, work / {result['workers']}), {result['instances']} instances:",
        "",
        "| which task next | median | 90th percentile | worst |",
        "|---|---:|---:|---:|",
    ]
    shown_as = {
        "critical": "critical path (the engine's own)",
        "fifo": "first in, first out",
        "plan": "a plan for just these workers, improved forwards and backwards",
        "least": "any schedule at all: at least",
        "closer": "critical path, divided by that",
    }
    for name, shown in shown_as.items():
        figures = " | ".join(f"{result[f'{name}_{each}']:.3f}" for each in ("median", "p90", "max"))
        lines.append(f"| {shown} | {figures} |")
    lines += [
        "",
        "| instance | tasks | critical path | first in, first out | plan | at least |",
        "|---" + "|---:" * 5 + "|",
    ]
    lines += [
        "| {instance} | {tasks:,} | {critical:.3f} | {fifo:.3f} | {plan:.3f} | {least:.3f} |".format(**row)
        for row in result["rows"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    result = run(options.workers)
    report.publish_table("workflows", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
