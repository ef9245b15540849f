"""What an idle node costs: memory, and CPU time while nobody asks anything of it.

    python -m benchmarks.idle [--nodes 4] [--seconds 60] [--json FILE] [--report]

Starts a small pool of `titan-node` processes on loopback, lets them settle, and reads what the kernel counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report

SETTLE_SECONDS = 20.0
ROWS: list[report.Row] = [
    ("idle nodes", "nodes", "{}"),
    ("memory of a node (RSS), median, MiB (limit 45)", "rss_mib", "{:.1f}"),
    ("of it private, MiB", "private_mib", "{:.1f}"),
    ("CPU of a node, milliseconds a second", "cpu_ms_per_second", "{:.2f}"),
]


def start(number: int, root: Path, bootstrap: str) -> tuple[subprocess.Popen[str], str]:
    """A node process, and the join line that it prints."""
    words = [
        str(Path(sys.executable).parent / "titan-node"),
        "--data",
        str(root / str(number)),
        "--listen",
        "127.0.0.1:0",
    ]
    words += ["--bootstrap", bootstrap] if bootstrap else []
    log = (root / f"{number}.log").open("w")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line.startswith("titan://"):
        process.kill()
        raise SystemExit(f"node {number} did not start:\n{(root / f'{number}.log').read_text()}")
    return process, line


def memory(pid: int) -> tuple[float, float]:
    """(RSS, private part) in MiB, of a process on Linux."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("Rss", "VmRSS"))
    )
    kib = {key: int(value.split()[0]) for key, value in fields.items()}
    return kib["VmRSS"] / 1024, kib["RssAnon"] / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(nodes: int, seconds: float) -> dict[str, Any]:
    """Figures of a pool of idle nodes."""
    with tempfile.TemporaryDirectory(prefix="titan-idle-") as place:
        processes: list[subprocess.Popen[str]] = []
        line = ""
        try:
            for number in range(nodes):
                process, printed = start(number, Path(place), line)
                line = line or printed
                processes.append(process)
            time.sleep(SETTLE_SECONDS)
            before = [cpu_seconds(each.pid) for each in processes]
            time.sleep(seconds)
            used = [cpu_seconds(each.pid) - then for each, then in zip(processes, before, strict=True)]
            sizes = [memory(each.pid) for each in processes]
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
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
