"""A store that a group of three keeps, beside a real etcd of three members: loopback, TLS and fsync on for both.

    python -m benchmarks.store_group [--requests 100000] [--rounds 3] [--json FILE] [--report]

Each member has a door. Through one of them: pipelined SETs of 50 connections (`redis-benchmark -c 50 -P 16`), and SETs
of one client that waits for each answer, beside one client's put into etcd. The systems take turns, and the median
round counts. CPU is what the kernel counted for all three members; a busy machine changes it less than the rate.
"""

import argparse
import csv
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.mutable import Running
from benchmarks.processes import Spent, invitation, start_node, stop
from tests.ports import free_port

NAME = "store/main"
ROWS: list[report.Row] = [
    ("SET/s, 50 connections, pipeline of 16", "rate", "{:,.0f}"),
    ("CPU µs of a SET, all three members", "cpu_us", "{:.1f}"),
    ("GET/s, linearizable, likewise", "get_rate", "{:,.0f}"),
    ("one client: SET p50, ms", "p50_ms", "{:.2f}"),
    ("one client: GET p50, ms", "get_p50_ms", "{:.2f}"),
    ("one client of etcd: put p50, ms", "etcd_p50_ms", "{:.2f}"),
    ("load average of the machine meanwhile", "load", "{:.1f}"),
]


def measure(port: int, command: str, clients: int, pipeline: int, requests: int) -> tuple[float, float]:
    """Requests per second, and the median latency in milliseconds."""
    words = f"redis-benchmark -p {port} -c {clients} -P {pipeline} -n {requests} -r 100000 -t {command} --csv"
    done = subprocess.run(words.split(), capture_output=True, text=True, check=True)
    row = list(csv.DictReader(io.StringIO(done.stdout[done.stdout.index('"test"') :])))[-1]
    return float(row["rps"]), float(row["p50_latency_ms"])


def run(requests: int, rounds: int) -> dict[str, Any]:
    from titan_overlay import Policy, connect_sync

    found: dict[str, list[float]] = {each: [] for _, each, _ in ROWS if each != "load"}
    with tempfile.TemporaryDirectory(prefix="titan-store-group-") as place:
        root = Path(place)
        etcd = Running("etcd", root / "etcd")
        nodes: list[subprocess.Popen[str]] = []
        try:
            etcd.start()
            port, *others = (free_port() for _ in range(3))
            line = invited = ""
            for number, door in enumerate((port, *others)):
                process, printed = start_node(number, root, invited, "--redis", str(door), "--store", NAME)
                nodes.append(process)
                if not number:
                    line, invited = printed, invitation(root / "0")
            with connect_sync(line, data=root / "0") as pool:
                pool.publish("store-group", NAME, policy=Policy(faults=1))
            measure(port, "set", 50, 16, requests // 10)
            for number in range(rounds):
                spent = Spent(nodes)
                found["rate"].append(measure(port, "set", 50, 16, requests)[0])
                found["cpu_us"].append(sum(spent.each()) / requests * 1e6)
                found["get_rate"].append(measure(port, "get", 50, 16, requests)[0])
                for _ in range(2):  # in turns: neither always runs in the other's wake
                    found["p50_ms"].append(measure(port, "set", 1, 1, requests // 400)[1])
                    found["etcd_p50_ms"].append(etcd.measure("put", 1, 2.0)["p50_ms"])
                found["get_p50_ms"].append(measure(port, "get", 1, 1, requests // 400)[1])
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
        finally:
            etcd.stop()
            stop(nodes)
    result: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    return {**result, "load": os.getloadavg()[1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    missing = [each for each in ("redis-benchmark", "etcd") if shutil.which(each) is None]
    if missing:
        print(f"{' and '.join(missing)} needed: scripts/install-test-packages", file=sys.stderr)
        return 2
    report.publish("store-group", ROWS, run(options.requests, options.rounds), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
