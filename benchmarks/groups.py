"""What idle groups cost: CPU of nodes that are members of a thousand mutable objects of which nobody asks anything.

    python -m benchmarks.groups [--groups 1000] [--nodes 3] [--seconds 60] [--json FILE] [--report]

Real `titan-node` processes on loopback; each is a member of every group (faults=1). What the nodes use without a group
is measured first, and shown apart.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import titan_overlay as titan
from benchmarks import report
from benchmarks.processes import Spent, invitation, memory, start_node, stop

SETTLE_SECONDS = 30.0
"""Groups that have just been founded elect, greet and fall asleep."""
AT_ONCE = 8
ROWS: list[report.Row] = [
    ("nodes, each a member of all groups", "nodes", "{}"),
    ("idle groups", "groups", "{}"),
    ("CPU of a node with them, percent of a core (limit 7)", "percent", "{:.2f}"),
    ("CPU of a node without, percent of a core", "percent_without", "{:.2f}"),
    ("memory of a node with them, MiB", "rss_mib", "{:.1f}"),
    ("answer of a group that slept, median, ms", "wake_ms", "{:.1f}"),
    ("load average of the machine meanwhile", "load", "{:.1f}"),
]


async def found(line: str, data: Path, groups: int) -> None:
    """Publishes them."""
    few = asyncio.Semaphore(AT_ONCE)
    async with titan.connect(line, data=data) as pool:

        async def one(number: int) -> None:
            async with few:
                for tries_left in reversed(range(5)):
                    try:
                        await pool.publish("cache", f"cache/{number}", policy=titan.Policy(faults=1), timeout=120.0)
                        return
                    except titan.Unavailable:  # a node was too busy founding others to answer
                        if not tries_left:
                            raise
                        await asyncio.sleep(2.0)

        await asyncio.gather(*(one(number) for number in range(groups)))


async def wake(line: str, data: Path, groups: int) -> list[float]:
    """Seconds to the first answer of some of them."""
    from titan_objects.cache import Set

    took = []
    async with titan.connect(line, data=data) as pool:
        for number in range(0, groups, max(1, groups // 50)):
            await pool.locate(f"cache/{number}")
            began = time.perf_counter()
            await pool.send(f"cache/{number}", Set(b"key", b"value"), timeout=30.0)
            took.append(time.perf_counter() - began)
    return took


def percent(processes: list["subprocess.Popen[str]"], seconds: float) -> float:
    """Percent of a core that a node uses, the median of them."""
    spent = Spent(processes)
    time.sleep(seconds)
    return median(spent.each()) / seconds * 100


def measure(groups: int, nodes: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="titan-groups-") as place:
        root = Path(place)
        processes: list[subprocess.Popen[str]] = []
        try:
            line = invited = ""
            for number in range(nodes):
                process, printed = start_node(number, root, invited)
                processes.append(process)
                if not number:
                    line = printed
                    invited = invitation(root / "0")
            time.sleep(SETTLE_SECONDS / 3)
            without = percent(processes, seconds / 3)
            asyncio.run(found(line, root / "0", groups))
            time.sleep(SETTLE_SECONDS)
            used = percent(processes, seconds)
            rss = median(memory(each.pid)[0] for each in processes)
            took = asyncio.run(wake(line, root / "0", groups))
        finally:
            stop(processes)
    return {
        "nodes": nodes,
        "groups": groups,
        "percent": used,
        "percent_without": without,
        "rss_mib": rss,
        "wake_ms": median(took) * 1000,
        "load": os.getloadavg()[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    report.publish("groups", ROWS, measure(options.groups, options.nodes, options.seconds), options)


if __name__ == "__main__":
    main()
