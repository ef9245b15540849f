"""Votes of a DAG among volunteers who lie: wrong results that were believed, and executions for each task.

    python -m benchmarks.verification [--tasks 20000] [--workers 100] [--share 0.2] [--seed 1] [--json FILE] [--report]

The engine's own code, in virtual time: one run whose only task is a map, each worker with an owner of its own. The
"long run" is the second half of the tasks, when the engine knows its workers. Liars give, instead of the right result:

    independent   always a wrong one that nobody else gives
    careless      a wrong one of their own in one of ten
    colluding     always the same wrong one
    sleepers      the right one for the first 50 tasks, then a wrong one of their own
    conspirators  the right one for the first 50 tasks, then the same wrong one
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import report
from titan_objects.dag.definition import Definition, Map, Task, Timeout, Verify
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Begin, Lease, Report, Success, Worker
from titan_objects.dag.steps import DONE, State

RIGHT = "right"
SLEEP = 50
POLICIES = {
    "no votes": None,
    "quorum 2": Verify(quorum=2),
    "quorum 2, adaptive": Verify(quorum=2, adaptive=True),
}
Liar = Callable[[int, Random], str]
"""What one says as its nth result, from 0 on."""


def own(chance: Random) -> str:
    """A wrong result that nobody else gives."""
    return f"{chance.getrandbits(64):x}"


LIARS: dict[str, Liar] = {
    "independent": lambda n, chance: own(chance),
    "careless": lambda n, chance: own(chance) if chance.random() < 0.1 else RIGHT,
    "colluding": lambda n, chance: "wrong",
    "sleepers": lambda n, chance: RIGHT if n < SLEEP else own(chance),
    "conspirators": lambda n, chance: RIGHT if n < SLEEP else "wrong",
}


def simulate(
    verify: Verify | None, liar: Liar, options: argparse.Namespace, *, runs: int = 1, remembers: bool = False
) -> dict[str, Any]:
    """Does all tasks on workers of which a share are liars of this kind.

    Args:
        runs: over which the tasks are spread, one after the other.
        remembers: whether the owner's memory tells each run what the ones before have learned of workers.
    """
    chance = Random(f"verification/{options.seed}")
    free = [Worker(f"w{number:04}", owner=f"o{number:04}") for number in range(options.workers)]
    liars = {each.name for each in chance.sample(free, round(options.share * options.workers))}
    given: Counter[str] = Counter()
    records: dict[str, int] = {}
    found = []
    for _ in range(runs):
        items = list(range(options.tasks // runs))
        work = Task(id="work", call="m:f", map=Map(over=items), timeout=Timeout(heartbeat=1e9), verify=verify)
        definition = Definition(name="votes", tasks=[work], max_parallel=options.workers)
        engine = Engine(keep_journal=False)
        engine.step(Begin(definition, records=records if remembers else {}), 0.0)
        executions = _work(engine, free, lambda name: liar if name in liars else _honest, given, chance)
        found += [(each, executions[each.key]) for each in engine.steps["work"].instances]
        records = {**records, **{who: told.behind(records.get(who, 0)) for who, told in engine.records.news.items()}}
    return {"whole": tally(found), "late": tally(found[len(found) // 2 :])}


def _honest(number: int, chance: Random) -> str:
    return RIGHT


def _work(
    engine: Engine, free: list[Worker], of: Callable[[str], Liar], given: Counter[str], chance: Random
) -> Counter[str]:
    """Has workers do a run; how often each instance was executed."""
    free = list(free)
    executions: Counter[str] = Counter()
    busy: list[tuple[float, str, int, Worker]] = []
    now = 0.0
    while engine.state not in DONE:
        chance.shuffle(free)
        waiting: list[Worker] = []
        for worker in free:
            orders = engine.step(Lease(worker), now, chance.random).orders
            if orders:
                executions[orders[0].key] += 1
                heappush(busy, (now + chance.uniform(0.5, 1.5), worker.name, orders[0].epoch, worker))
            else:
                waiting.append(worker)
        now, name, epoch, worker = heappop(busy)
        said = of(name)(given[name], chance)
        given[name] += 1
        engine.step(Report(name, epoch, Success(said, said.encode())), now, chance.random)
        free = [*waiting, worker]
    return executions


def tally(done: list[tuple[Any, int]]) -> dict[str, float]:
    """Of instances and how often each ran: the share whose believed result is wrong, that with none, and executions."""
    wrong = sum(each.result is not None and each.result.value != RIGHT for each, _ in done)
    return {
        "wrong": wrong / len(done),
        "undecided": sum(each.state is not State.SUCCEEDED for each, _ in done) / len(done),
        "executions": sum(times for _, times in done) / len(done),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    rows = [
        {"liars": name, "policy": policy, **simulate(verify, liar, options)}
        for name, liar in LIARS.items()
        for policy, verify in POLICIES.items()
    ]
    adaptive = "quorum 2, adaptive"
    for remembers in (False, True):
        said = f"{adaptive}; {options.runs} runs, {'each knows those before' if remembers else 'each begins anew'}"
        for name in ("independent", "conspirators"):
            made = simulate(POLICIES[adaptive], LIARS[name], options, runs=options.runs, remembers=remembers)
            rows.append({"liars": name, "policy": said, **made})
    asked = {name: getattr(options, name) for name in ("tasks", "workers", "share", "runs", "seed")}
    return {**asked, "rows": rows, "cpu_seconds": time.process_time() - began}


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"{result['tasks']:,} tasks, {result['workers']} workers, {result['share']:.0%} of them liars:",
        "",
        "| liars | votes | wrong results believed | in the long run | executions per task | in the long run "
        "| undecided |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        whole, late = row["whole"], row["late"]
        lines.append(
            f"| {row['liars']} | {row['policy']} | {whole['wrong']:.3%} | {late['wrong']:.3%} "
            f"| {whole['executions']:.2f} | {late['executions']:.2f} | {whole['undecided']:.3%} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.2, help="of the workers that lie")
    parser.add_argument("--runs", type=int, default=20, help="over which the tasks are spread, in the last rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    result = run(options)
    report.publish_table("verification", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
