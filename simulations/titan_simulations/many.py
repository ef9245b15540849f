"""Many runs of `titan-sim`, each in a process of its own, and one result of them all.

So each has the memory and the trace that it would have alone.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from titan_simulations import points, results, runner, termination
from titan_simulations.results import Result


def each_seed(
    seeds: list[int], jobs: int, out: Path, *, once: tuple[str, ...] = ("--no-sweep",), ended: tuple[int, ...] = (0,)
) -> Result:
    """The same run with each of the seeds.

    Args:
        once: options of all but the first.
        ended: as for `_run_all`.
    """
    runner.make(out)
    arguments = _without(sys.argv[1:], ("--seeds", "--seed", "--out", "--jobs"))
    runs: dict[Path, list[str]] = {}
    for seed in seeds:
        own = [*arguments, "--seed", str(seed)]
        if seed != seeds[0]:
            own += [option for option in once if option not in own]
        runs[out / f"seed-{seed}"] = own
    result = results.combined(_run_all(out, runs, jobs, ended), command=command_line())
    results.write(result, out / "result.json")
    return result


def each_point(grid: list[tuple[str, float, int]], jobs: int, out: Path) -> Result:
    """Of an adversary: each attack, share of liars and seed."""
    figures = runner.ready(out)
    arguments = _without(sys.argv[1:], ("--attack", "--malicious", "--seeds", "--seed", "--out", "--jobs"))
    runs = {
        out / f"{kind.replace(':', '.')}-{share:g}-seed-{seed}": [
            *arguments, "--attack", kind, "--malicious", f"{share:g}", "--seed", str(seed)
        ]
        for kind, share, seed in grid
    }  # fmt: skip
    result = points.merged(_run_all(out, runs, jobs), command=command_line())
    results.write(result, out / "result.json")
    figures.adversary(result["points"], out)
    return result


def _run_all(out: Path, runs: dict[Path, list[str]], jobs: int, ended: tuple[int, ...] = (0,)) -> list[Result]:
    """Runs `titan-sim` with these arguments, into these directories, so many at a time. The results, in order.

    Args:
        out: where the result of them all will be.
        ended: statuses of a run that came to its end; after any other the rest is not run.
    """
    running: list[int] = []
    environment = {**os.environ, termination.PARENT: str(os.getpid())}
    (out / "result.json").unlink(missing_ok=True)  # of an earlier run: it would pass for this one's
    with termination.spread(running):
        try:
            for directory, arguments in runs.items():
                if len(running) >= jobs:
                    _finish(running, ended)
                (directory / "result.json").unlink(missing_ok=True)
                command = [sys.executable, "-m", "titan_simulations.cli", *arguments, "--out", str(directory)]
                with termination.held():
                    running.append(os.posix_spawn(sys.executable, command, environment, setsigmask=()))
            while running:
                _finish(running, ended)
        finally:
            termination.terminate(running)
    return [_result(directory / "result.json") for directory in runs]


def _result(path: Path) -> Result:
    """What a run wrote; one that wrote nothing has said why, and is the end of all."""
    if not path.exists():
        raise SystemExit(1)
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result


def _finish(running: list[int], ended: tuple[int, ...]) -> None:
    """Waits for the first of them."""
    status = os.waitstatus_to_exitcode(os.waitpid(running[0], 0)[1])
    del running[0]
    if status not in ended:
        raise SystemExit(status if status >= 0 else 128 - status)  # as a shell says that a signal ended it


def command_line() -> str:
    """What to type to get the same run again; where it writes is left out."""
    return shlex.join(["titan-sim", *_without(sys.argv[1:], ("--out", "--jobs"))])


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    skip = False
    for each in arguments:
        if skip:
            skip = False
        elif each in options:
            skip = True
        elif not each.startswith(tuple(f"{option}=" for option in options)):
            kept.append(each)
    return kept
