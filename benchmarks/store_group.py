"""A store that a group of three keeps, beside a real etcd of three members: loopback, TLS and fsync on for both.

    python -m benchmarks.store_group [--requests 100000] [--rounds 3] [--json FILE] [--report]

Each member has a door. Through the leader's: pipelined SETs of 50 connections (`redis-benchmark -c 50 -P 16`). Through
each of them: SETs of one client that waits for each answer, beside puts of one client of each member of etcd; who leads
is left to chance in both, and who does not has to pass on what it is sent. The systems take turns, and the median round
counts. CPU is what the kernel counted for all three members; a busy machine changes it less than the rate.
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
    ("one client: SET p50, ms, mean of the three doors", "p50_ms", "{:.2f}"),
    ("one client of etcd: put p50, ms, mean of the three members", "etcd_p50_ms", "{:.2f}"),
    ("SET p50, ms, through the leader's door", "leader_p50_ms", "{:.2f}"),
    ("put p50, ms, through etcd's quickest member", "etcd_leader_p50_ms", "{:.2f}"),
    ("of it CPU of etcd's client, which is written in Python, ms", "etcd_client_ms", "{:.2f}"),
    ("one client: GET p50, ms, mean of the three doors", "get_p50_ms", "{:.2f}"),
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

    found: dict[str, list[float]] = {"rate": [], "cpu_us": [], "get_rate": [], "etcd_client_ms": []}
    members = range(3)
    sets, gets, puts = ([[] for _ in members] for _ in range(3))
    with tempfile.TemporaryDirectory(prefix="titan-store-group-") as place:
        root = Path(place)
        etcd = Running("etcd", root / "etcd")
        nodes: list[subprocess.Popen[str]] = []
        try:
            etcd.start()
            doors = [free_port() for _ in members]
            ids = []
            line = invited = ""
            for number, door in enumerate(doors):
                process, printed = start_node(number, root, invited, "--redis", str(door), "--store", NAME)
                nodes.append(process)
                ids.append(printed)
                if not number:
                    line, invited = printed, invitation(root / "0")
            with connect_sync(line, data=root / "0") as pool:
                pool.publish("store-group", NAME, policy=Policy(faults=1))
                for door in doors:
                    measure(door, "set", 50, 16, requests // 10)
                leader = pool.group(NAME).leader
            leads = next(number for number, printed in enumerate(ids) if leader in printed)
            for number in range(rounds):
                spent = Spent(nodes)
                found["rate"].append(measure(doors[leads], "set", 50, 16, requests)[0])
                found["cpu_us"].append(sum(spent.each()) / requests * 1e6)
                found["get_rate"].append(measure(doors[leads], "get", 50, 16, requests)[0])
                for _ in range(2):  # in turns: neither always runs in the other's wake
                    for member in members:
                        sets[member].append(measure(doors[member], "set", 1, 1, requests // 400)[1])
                        put = etcd.measure("put", 1, 0.5, first=member)
                        puts[member].append(put["p50_ms"])
                        found["etcd_client_ms"].append(put["client_cpu_us"] / 1000)
                for member in members:
                    gets[member].append(measure(doors[member], "get", 1, 1, requests // 400)[1])
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
        finally:
            etcd.stop()
            stop(nodes)
    through = [statistics.median(each) for each in sets]
    etcd_through = [statistics.median(each) for each in puts]
    return {
        **{name: statistics.median(values) for name, values in found.items()},
        "p50_ms": statistics.mean(through),
        "leader_p50_ms": through[leads],
        "etcd_p50_ms": statistics.mean(etcd_through),
        "etcd_leader_p50_ms": min(etcd_through),
        "get_p50_ms": statistics.mean(statistics.median(each) for each in gets),
        "load": os.getloadavg()[1],
    }


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
