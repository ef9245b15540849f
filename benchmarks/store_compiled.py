"""What compiling the store's hot modules adds to the dispatch of commands alone, without a socket or a log.

    python -m benchmarks.store_compiled [--rounds 3] [--json FILE] [--report]

A wheel with compiled modules is built in a temporary directory (`scripts/compile_store.py`); both are asked in turns,
and the quickest of many slices counts. What it adds to a whole server `benchmarks.store` measures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
BATCH, SLICES = 50, 1500

CASES: dict[str, list[str]] = {
    "SET": ["SET", "key:{at}", "v"],
    "GET": ["GET", "key:{at}"],
    "SADD": ["SADD", "set", "key:{at}"],
    "HSET": ["HSET", "hash", "key:{at}", "v"],
    "HGET": ["HGET", "hash", "key:{at}"],
    "HMGET": ["HMGET", "hash", "key:{at}", "key:1"],
    "INCR": ["INCR", "count"],
    "SET with PX": ["SET", "key:{at}", "v", "PX", "100000"],
}


def measure() -> dict[str, float]:
    """Nanoseconds for a command, by name, of the store that this process finds."""
    from titan_objects.store.commands import all_commands
    from titan_objects.store.engine import Engine

    engine = Engine(all_commands(), Random(1))
    session = engine.connect(1)
    found = {}
    for name, words in CASES.items():
        commands = [[word.format(at=at).encode() for word in words] for at in range(BATCH)]
        quickest = float("inf")
        for _ in range(SLICES):
            begun = time.perf_counter()
            engine.run(session, commands, 4_000_000_000_000)
            quickest = min(quickest, time.perf_counter() - begun)
            session.out.clear()
            engine.effects.clear()
        found[name] = quickest / BATCH * 1e9
    return found


def build(place: Path) -> Path:
    """Builds a wheel whose hot modules are compiled, and unpacks it there; returns what is to be put on the path."""
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    environment = os.environ | {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = place.glob("*.whl")
    packages = place / "packages"
    zipfile.ZipFile(wheel).extractall(packages)
    return packages


def asked(objects: Path) -> dict[str, float]:
    """`measure` in a process that finds the store there."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(objects), str(ROOT)))}
    words = [sys.executable, "-m", "benchmarks.store_compiled", "--measure"]
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def markdown(result: dict[str, Any]) -> str:
    lines = ["| command | plain, ns | compiled, ns | ratio |", "|---|---:|---:|---:|"]
    lines += [
        "| {command} | {plain:,.0f} | {compiled:,.0f} | {ratio:.2f} |".format(
            **row, ratio=row["compiled"] / row["plain"]
        )
        for row in result["rows"]
    ]
    return "\n".join(lines)


def run(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        begun = time.monotonic()
        packages = build(Path(directory))
        seconds = time.monotonic() - begun
        places = {"plain": ROOT / "objects", "compiled": packages}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in places}
        for _ in range(rounds):
            for name, place in places.items():
                found[name].append(asked(place))
    rows = [{"command": case, **{name: min(each[case] for each in found[name]) for name in places}} for case in CASES]
    return {"rows": rows, "rounds": rounds, "build_seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure()))
        return 0
    result = run(options.rounds)
    report.publish_table("store-compiled", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
