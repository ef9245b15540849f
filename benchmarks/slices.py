"""100,000 tasks: what the largest object of the run holds, and CPU per task. A map, in one object and in slices; and a
graph of layers, whose tasks each need two of the layer before, in sections.

    python -m benchmarks.slices [--items 100000] [--json FILE] [--report]

The objects are asked in this process as their groups ask them, without pool, network and disk; a worker takes and
reports 64 tasks with each message. Memory is that of a member that has been restored from its snapshot.
"""

import argparse
import asyncio
import sys
import time
import tracemalloc
from collections import deque
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec

import titan_overlay as titan
from benchmarks import report
from benchmarks.dag import shaped
from titan_objects.dag import children
from titan_objects.dag.children import planned
from titan_objects.dag.client import starting
from titan_objects.dag.definition import ITEMS_MAX, Definition, Map, Task
from titan_objects.dag.journal import Child, Success, Worker
from titan_objects.dag.messages import Done, Ended, Go, Halt, Sync, Tell
from titan_objects.dag.plans import Plan
from titan_objects.dag.run import Run
from titan_objects.dag.steps import DONE

AT_ONCE = 64
WIDTH = 100
"""Of a layer."""
MODULUS = 1_000_003
OWNER = sha256(b"owner").digest()
TOP = f"~{OWNER.hex()[:32]}/dag/1"


class Runs:
    """A run and those that do tasks of it, which tell one another things."""

    def __init__(self, plan: Plan) -> None:
        self.runs: dict[str, Run] = {}
        self.messages = self.told = 0
        self._mail: deque[tuple[str, str, Any]] = deque()
        self._random = Random(1)
        self._name(plan, TOP)
        self._start(plan, None)
        self._deliver()

    def _name(self, plan: Plan, name: str) -> None:
        plan.me = Child(name, sha256(name.encode()).digest())
        for task, plans in plan.children.items():
            for n, each in enumerate(plans):
                self._name(each, f"{name}-{task}-{n}")

    def _start(self, plan: Plan, parent: Child | None) -> None:
        for each in [each for plans in plan.children.values() for each in plans]:
            self._start(each, plan.run)
        name = plan.run.name
        self.runs[name] = Run()
        self.runs[name].start(starting(plan, [], "", parent, None), self._by(name, OWNER))

    def _by(self, run: str, who: bytes) -> Any:
        return SimpleNamespace(
            sender=SimpleNamespace(id=who, public=who),
            name=run,
            object_id=sha256(run.encode()).digest(),
            now=1000.0 + self.messages / 1000,
            random=self._random,
            send_later=lambda to, message: self._mail.append((run, to, message)),
            schedule=lambda seconds, message: None,
        )

    def _deliver(self) -> None:
        while self._mail:
            sender, to, message = self._mail.popleft()
            run = self.runs[to]
            handlers: dict[Any, Any] = {Go: run.go, Ended: run.ended, Halt: run.halt, Tell: run.tell}
            handlers[type(message)](message, self._by(to, sha256(sender.encode()).digest()))
            self.told += isinstance(message, Tell)

    def work(self) -> None:
        """One worker after the other does all that there is."""
        while any(run.engine.state not in DONE for run in self.runs.values()):
            for name, run in self.runs.items():
                done: list[Done] = []
                while run.engine.ready or done:
                    self.messages += 1
                    news = Sync(Worker("w", cores=float(AT_ONCE)), AT_ONCE, done, turn=self.messages)
                    orders = run.sync(news, self._by(name, OWNER)).orders
                    done = [Done(each.epoch, Success(_given(each.args))) for each in orders]
                self._deliver()


def _given(args: list[Any]) -> Any:
    """What a function gives for numbers, and a join for lists; a long list is data of the pool."""
    if all(isinstance(each, int) for each in args):
        return (1 + sum(args)) % MODULUS
    return {"$data": "sha256:" + "0" * 64}


def a_map(items: int, slice_items: int) -> dict[str, Any]:
    """What it comes to with slices of so many items."""
    children.SLICE_ITEMS, children.SLICE_BYTES = slice_items, max(children.SLICE_BYTES, slice_items * 8)
    definition = Definition(name="slices", tasks=[Task(id="m", call="m:f", map=Map(over=list(range(items))))])
    return measured(definition, items)


def a_graph(tasks: int) -> dict[str, Any]:
    """What a graph of layers comes to."""
    return measured(shaped(tasks // WIDTH, WIDTH), tasks)


def measured(definition: Definition, items: int) -> dict[str, Any]:
    """What a definition comes to that has so many tasks or items."""
    runs = Runs(asyncio.run(planned(cast(titan.Pool, None), definition, {})))
    began = time.process_time()
    runs.work()
    cpu = time.process_time() - began
    assert runs.runs[TOP].engine.state == "SUCCEEDED"
    largest = max(runs.runs.values(), key=lambda run: sum(len(step.instances) for step in run.engine.steps.values()))
    chunks = list(largest.snapshot())
    tracemalloc.start()
    member = Run()
    for chunk in chunks:
        member.restore(chunk)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "objects": len(runs.runs),
        "instances": max(sum(len(step.instances) for step in run.engine.steps.values()) for run in runs.runs.values()),
        "journal_bytes": len(msgspec.msgpack.encode(largest.engine.journal)),
        "top_journal_bytes": len(msgspec.msgpack.encode(runs.runs[TOP].engine.journal)),
        "memory_bytes": memory,
        "cpu_ms_per_task": 1000 * cpu / items,
        "told": runs.told,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{result['items']:,} tasks; of the largest object, in MB:",
        "",
        "| | objects | instances | journal | memory | journal of the run itself | told across | CPU ms per task |",
        "|---" + "|---:" * 7 + "|",
    ]
    for name in ("a map, in one object", "a map, in slices", "a graph, in sections"):
        row = result[name]
        sizes = [f"{row[each] / 1e6:.2f}" for each in ("journal_bytes", "memory_bytes", "top_journal_bytes")]
        cells = [name, row["objects"], f"{row['instances']:,}", *sizes, f"{row['told']:,}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['cpu_ms_per_task']:.3f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS_MAX)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    result = {
        "items": options.items,
        "a graph, in sections": a_graph(options.items),
        "a map, in slices": a_map(options.items, children.SLICE_ITEMS),
        "a map, in one object": a_map(options.items, options.items),
    }
    report.publish_table("slices", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
