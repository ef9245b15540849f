"""A map of 100,000 items: what the largest object of the run holds, and CPU per task, in one object and in slices.

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
from titan_objects.dag import children
from titan_objects.dag.children import planned
from titan_objects.dag.definition import ITEMS_MAX, Definition, Map, Task
from titan_objects.dag.journal import Child, Success, Worker
from titan_objects.dag.messages import Done, Ended, Go, Start, Sync
from titan_objects.dag.plans import Plan
from titan_objects.dag.run import Run
from titan_objects.dag.steps import DONE

AT_ONCE = 64
OWNER = sha256(b"owner").digest()
TOP = f"~{OWNER.hex()[:32]}/dag/1"


class Runs:
    """A run and those that do tasks of it, which tell one another things."""

    def __init__(self, plan: Plan) -> None:
        self.runs: dict[str, Run] = {}
        self.messages = 0
        self._mail: deque[tuple[str, str, Any]] = deque()
        self._random = Random(1)
        self._start(plan, TOP, None)
        self._deliver()

    def _start(self, plan: Plan, name: str, parent: Child | None) -> Child:
        me = Child(name, sha256(name.encode()).digest())
        below = {
            task: [self._start(each, f"{name}-{task}-{n}", me) for n, each in enumerate(plans)]
            for task, plans in plan.children.items()
        }
        self.runs[name] = Run()
        self.runs[name].start(Start(plan.definition, plan.params, children=below, parent=parent), self._by(name, OWNER))
        return me

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
            handler = {Go: self.runs[to].go, Ended: self.runs[to].ended}[type(message)]
            handler(message, self._by(to, sha256(sender.encode()).digest()))

    def work(self) -> None:
        """One worker after the other does all that there is."""
        while any(run.engine.state not in DONE for run in self.runs.values()):
            for name, run in self.runs.items():
                done: list[Done] = []
                while run.engine.ready or done:
                    self.messages += 1
                    news = Sync(Worker("w", cores=float(AT_ONCE)), AT_ONCE, done, turn=self.messages)
                    orders = run.sync(news, self._by(name, OWNER)).orders
                    done = [Done(each.epoch, Success(_given(each.args[0]))) for each in orders]
                self._deliver()


def _given(value: Any) -> Any:
    """What a function gives for a number, and a join for lists; a long list is data of the pool."""
    return value + 1 if isinstance(value, int) else {"$data": "sha256:" + "0" * 64}


def measured(items: int, slice_items: int) -> dict[str, Any]:
    """What it comes to with slices of so many items."""
    children.SLICE_ITEMS, children.SLICE_BYTES = slice_items, max(children.SLICE_BYTES, slice_items * 8)
    definition = Definition(name="slices", tasks=[Task(id="m", call="m:f", map=Map(over=list(range(items))))])
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
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"A map of {result['items']:,} items; of the largest object, in MB:",
        "",
        "| | objects | instances | journal | memory | journal of the run itself | CPU ms per task |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in ("in one object", "in slices"):
        row = result[name]
        sizes = [f"{row[each] / 1e6:.2f}" for each in ("journal_bytes", "memory_bytes", "top_journal_bytes")]
        lines.append(
            f"| {name} | {row['objects']} | {row['instances']:,} | {' | '.join(sizes)} | {row['cpu_ms_per_task']:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS_MAX)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    sliced = measured(options.items, children.SLICE_ITEMS)
    result = {"items": options.items, "in slices": sliced, "in one object": measured(options.items, options.items)}
    report.publish_table("slices", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
