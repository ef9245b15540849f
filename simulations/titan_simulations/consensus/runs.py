"""Many seeds, one after the other or side by side, and what they say together."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path

import msgspec

from titan_simulations import results, termination
from titan_simulations.consensus.engines import KINDS
from titan_simulations.consensus.world import ConsensusConfig, Outcome, World
from titan_simulations.results import Result


def run_seed(engine: str, seed: int, config: ConsensusConfig) -> Outcome:
    """One seed."""
    return World(KINDS[engine], seed, config).run()


def run_seeds(engine: str, seeds: Sequence[int], config: ConsensusConfig, jobs: int) -> Iterator[Outcome]:
    """The outcomes in the order of the seeds, each as soon as it is there."""
    if jobs == 1:
        for seed in seeds:
            yield run_seed(engine, seed, config)
        return
    with ProcessPoolExecutor(jobs, initializer=termination.end_with, initargs=(os.getpid(),)) as pool:
        yield from pool.map(run_seed, [engine] * len(seeds), seeds, [config] * len(seeds))


def failed(outcome: Outcome) -> bool:
    """Whether something happened that never should."""
    return bool(outcome.violations) or outcome.stalled


def replay(engine: str, seed: int, config: ConsensusConfig, out: Path) -> list[str]:
    """The same seed again, told in words: the lines, which are also in `out`/seed-N.txt."""
    world = World(KINDS[engine], seed, config, transcript=True)
    outcome = world.run()
    assert world.transcript is not None
    command = f"titan-sim consensus --engine {engine} --seed {seed} --operations {config.operations} --transcript"
    lines = [command, *world.transcript]
    lines += [f"VIOLATION: {violation}" for violation in outcome.violations]
    if outcome.stalled:
        lines.append("STALLED: not every client had an answer in time after the faults had stopped")
    out.mkdir(parents=True, exist_ok=True)
    (out / f"seed-{seed}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


def summary(engine: str, outcomes: Sequence[Outcome], config: ConsensusConfig, command: str) -> Result:
    """What is written to result.json. Violations, undecided and stalled are numbers of seeds."""
    faults: Counter[str] = Counter()
    for outcome in outcomes:
        faults.update(outcome.faults)
    bad = [msgspec.to_builtins(outcome) for outcome in outcomes if failed(outcome)]
    return {
        **results.common(
            "consensus",
            config=config,
            command=command,
            seed=outcomes[0].seed,
            trace_hash=sha256("".join(outcome.trace_hash for outcome in outcomes).encode()).hexdigest(),
            simulated=sum(outcome.simulated_seconds for outcome in outcomes),
        ),
        "engine": engine,
        "seeds": len(outcomes),
        "violations": sum(bool(outcome.violations) for outcome in outcomes),
        "undecided": sum(outcome.undecided > 0 for outcome in outcomes),
        "stalled": sum(outcome.stalled for outcome in outcomes),
        "operations": sum(outcome.operations for outcome in outcomes),
        "operations_least": min(outcome.operations for outcome in outcomes),
        "epochs": sum(outcome.epochs for outcome in outcomes),
        "events": sum(outcome.events for outcome in outcomes),
        "faults": dict(sorted(faults.items())),
        "failed": bad,
    }
