"""The store beside Debian's redis-server, in one run: `redis-benchmark` against both, on loopback.

    python -m benchmarks.store [--requests 100000] [--rounds 3] [--json FILE] [--report]

Each round measures both servers one after the other, in turns, with the same log settings; the median round counts.
Beside requests per second stands what a request costs the server in CPU, which a busy machine changes less.
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
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.processes import cpu_seconds
from tests.store.real import RealRedis, TitanStore

COMMANDS = ("SET", "GET", "SADD")
CASES = [(fsync, pipeline) for fsync in ("no", "always") for pipeline in (1, 16)]


def start(name: str, directory: Path, fsync: str) -> RealRedis | TitanStore:
    if name == "redis":
        settings = ("--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0")
        return RealRedis(directory, *settings)
    return TitanStore(directory, "--appendfsync", fsync, "--set", "auto-aof-rewrite-percentage=0")


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
    for fsync, pipeline in CASES:
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            with start("redis", place / "redis", fsync) as redis, start("titan", place / "titan", fsync) as titan:
                for _ in range(options.rounds):
                    for command in COMMANDS:
                        for name, server in (("redis", redis), ("titan", titan)):
                            slow = fsync == "always" and pipeline == 1 and command != "GET"
                            requests = (
                                options.requests * pipeline // 16
                                if pipeline > 1
                                else options.requests // (20 if slow else 4)
                            )
                            found.setdefault((command, name), []).append(measure(server, command, pipeline, requests))
                            time.sleep(0.1)
        for command in COMMANDS:
            ours, theirs = (
                [statistics.median(column) for column in zip(*found[command, name], strict=True)]
                for name in ("titan", "redis")
            )
            rows.append(
                {
                    "fsync": fsync,
                    "pipeline": pipeline,
                    "command": command,
                    "rps": ours[0],
                    "redis_rps": theirs[0],
                    "ratio": ours[0] / theirs[0],
                    "cpu_us": ours[1],
                    "redis_cpu_us": theirs[1],
                    "p50_ms": ours[2],
                    "redis_p50_ms": theirs[2],
                }
            )
            print(rows[-1], flush=True)
    return {"rows": rows, "requests": options.requests, "rounds": options.rounds}


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "| appendfsync | pipeline | command | requests/s | Redis | ratio | CPU µs/request | Redis |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        "| {fsync} | {pipeline} | {command} | {rps:,.0f} | {redis_rps:,.0f} | {ratio:.2f} | {cpu_us:.1f} | "
        "{redis_cpu_us:.1f} |".format(**row)
        for row in result["rows"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="at a pipeline of 16; fewer without")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        print("redis-server and redis-benchmark are needed: scripts/install-test-packages", file=sys.stderr)
        return 2
    result = run(options)
    report.publish_table("store", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
