"""The store beside Debian's redis-server, in one run: `redis-benchmark` against both, on loopback.

    python -m benchmarks.store [--requests 100000] [--rounds 3] [--fsync always] [--json FILE] [--report]

Each round measures the servers one after the other, in turns, with the same log settings: Redis, the store in plain
Python, and the store whose hot modules are compiled. The median of the rounds counts; a ratio is the median of those
within a round. Beside requests per second stands what a request costs the server in CPU, which a busy machine changes
less.
"""

import argparse
import csv
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.processes import cpu_seconds
from benchmarks.store_compiled import build
from tests.store.real import RealRedis, TitanStore

COMMANDS = ("SET", "GET", "SADD")
CASES = [(fsync, pipeline) for fsync in ("no", "always") for pipeline in (1, 16)]


def start(name: str, directory: Path, fsync: str, packages: Path | None = None) -> RealRedis | TitanStore:
    """`packages`: where the store's code is, unless it is here."""
    if name == "redis":
        settings = ("--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0")
        return RealRedis(directory, *settings)
    environment = {} if packages is None else {"PYTHONPATH": str(packages)}
    return TitanStore(directory, "--appendfsync", fsync, "--set", "auto-aof-rewrite-percentage=0", **environment)


def measure(process: Any, command: str, pipeline: int, requests: int) -> tuple[float, float, float]:
    """Requests per second, CPU microseconds per request, and the median latency in milliseconds."""
    before = cpu_seconds(process.process.pid)
    done = subprocess.run(
        f"redis-benchmark -p {process.port} -c 50 -P {pipeline} -n {requests} -t {command.lower()} --csv".split(),
        capture_output=True,
        text=True,
        check=True,
    )
    spent = cpu_seconds(process.process.pid) - before
    row = list(csv.DictReader(io.StringIO(done.stdout)))[-1]
    return float(row["rps"]), spent / requests * 1e6, float(row["p50_latency_ms"])


def run(options: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        compiled = build(place)
        for fsync, pipeline in CASES:
            if options.fsync in ("", fsync):
                rows += turns(place / f"{fsync}-{pipeline}", compiled, fsync, pipeline, options)
    return {"rows": rows, "requests": options.requests, "rounds": options.rounds}


def turns(
    place: Path, compiled: Path, fsync: str, pipeline: int, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One row for each command."""
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    place.mkdir()
    with (
        start("redis", place / "redis", fsync) as redis,
        start("plain", place / "plain", fsync) as plain,
        start("compiled", place / "compiled", fsync, compiled) as quick,
    ):
        servers = {"redis": redis, "plain": plain, "compiled": quick}
        for _ in range(options.rounds):
            for command in COMMANDS:
                for name, server in servers.items():
                    requests = options.requests if pipeline > 1 else options.requests // 4
                    found.setdefault((command, name), []).append(measure(server, command, pipeline, requests))
                    time.sleep(0.1)
    for command in COMMANDS:
        row: dict[str, Any] = {"fsync": fsync, "pipeline": pipeline, "command": command}
        for name in servers:
            rounds = found[command, name]
            row[f"{name}_rps"], row[f"{name}_cpu_us"], row[f"{name}_p50_ms"] = (
                statistics.median(column) for column in zip(*rounds, strict=True)
            )
            row[f"{name}_ratio"] = statistics.median(
                ours[0] / theirs[0] for ours, theirs in zip(rounds, found[command, "redis"], strict=True)
            )
        print(row, flush=True)
        yield row


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "| appendfsync | pipeline | command | Redis, requests/s | plain | compiled | plain / Redis | compiled / Redis "
        "| CPU µs/request: Redis | plain | compiled |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    form = (
        "| {fsync} | {pipeline} | {command} | {redis_rps:,.0f} | {plain_rps:,.0f} | {compiled_rps:,.0f} "
        "| {plain_ratio:.2f} | {compiled_ratio:.2f} | {redis_cpu_us:.1f} | {plain_cpu_us:.1f} | {compiled_cpu_us:.1f} |"
    )
    lines += [form.format(**row) for row in result["rows"]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="at a pipeline of 16; a quarter without")
    parser.add_argument("--fsync", choices=("no", "always"), default="", help="with this setting alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    if not all(map(shutil.which, ("redis-server", "redis-benchmark", "cc"))):
        print("redis-server, redis-benchmark and cc are needed: scripts/install-test-packages", file=sys.stderr)
        return 2
    result = run(options)
    report.publish_table("store", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
