"""What an idle node costs: memory, and CPU time while nobody asks anything of it.

    python -m benchmarks.idle [--nodes 4] [--seconds 60] [--json FILE] [--report]

Starts a small pool of `titan-node` processes on loopback, lets them settle, and reads what the kernel counted.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.processes import Spent, memory, start_node, stop

SETTLE_SECONDS = 20.0
ROWS: list[report.Row] = [
    ("idle nodes", "nodes", "{}"),
    ("memory of a node (RSS), median, MiB (limit 45)", "rss_mib", "{:.1f}"),
    ("of it private, MiB", "private_mib", "{:.1f}"),
    ("CPU of a node, milliseconds a second", "cpu_ms_per_second", "{:.2f}"),
]


def measure(nodes: int, seconds: float) -> dict[str, Any]:
    """Figures of a pool of idle nodes."""
    with tempfile.TemporaryDirectory(prefix="titan-idle-") as place:
        processes: list[subprocess.Popen[str]] = []
        line = ""
        try:
            for number in range(nodes):
                process, printed = start_node(number, Path(place), line)
                line = line or printed
                processes.append(process)
            time.sleep(SETTLE_SECONDS)
            spent = Spent(processes)
            time.sleep(seconds)
            used = spent.each()
            sizes = [memory(each.pid) for each in processes]
        finally:
            stop(processes)
    return {
        "nodes": nodes,
        "rss_mib": median(rss for rss, _ in sizes),
        "private_mib": median(private for _, private in sizes),
        "cpu_ms_per_second": median(used) / seconds * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    report.publish("idle", ROWS, measure(options.nodes, options.seconds), options)


if __name__ == "__main__":
    main()
