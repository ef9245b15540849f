"""How long a client of a group's store waits while the members make a snapshot of a million keys, beside Redis' BGSAVE.

    python -m benchmarks.store_snapshot [--keys 1000000] [--snapshots 3] [--json FILE] [--report]

Three members on nodes of their own, and a door on a fourth; loopback, TLS and fsync on. A writer makes the log grow, so
that all three make a snapshot, at the same entry, on the cores of this one machine. Meanwhile one client sets a key of
the million every millisecond, or as soon as it has its answer; each wait counts under whether a snapshot was under way
at any member. Redis, with an append-only file that is synced always, goes through the same with BGSAVE. Waits tell of
the machine as well; what the members do themselves is told by the CPU time of their longest turn (`turns.py`).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.processes import invitation, start_node, stop
from benchmarks.store import start
from benchmarks.store_keys import fill, percentile
from benchmarks.turns import longest_cpu_ms
from tests.ports import free_port
from tests.store.real import Wire

NAME = "store/main"
MEMBERS = (1, 2, 3)
EVERY_SECONDS = 0.001
LARGE = b"l" * (60 << 10)
LARGE_KEYS = 100
LARGE_EVERY_SECONDS = 0.01
QUIET_SECONDS = 5.0
"""At least so long without a snapshot, before each of them; and before the first, so that those of the filling end."""

Under = Callable[[], bool]
"""Whether a snapshot is under way."""


def write_on(port: int) -> None:
    """Lets the log grow by some 6 MB a second, until this process is killed."""
    with Wire(port) as wire:
        due = time.perf_counter()
        for number in count():
            wire.ask("SET", f"large:{number % LARGE_KEYS}", LARGE)
            due = max(due + LARGE_EVERY_SECONDS, time.perf_counter() - 1)
            time.sleep(max(0.0, due - time.perf_counter()))


@contextmanager
def writer(port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.store_snapshot", "--writer", str(port)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Client:
    """One that sets a key each millisecond. `waits_ms`: by whether there was a snapshot; `spans`: of the snapshots."""

    def __init__(self, port: int, keys: int) -> None:
        self.waits_ms: dict[bool, list[float]] = {False: [], True: []}
        self.spans: list[tuple[float, float]] = []
        self._port = port
        self._keys = keys

    def run(self, snapshots: int, under: Under, begin: Callable[[], object]) -> None:
        """Until there were so many; `begin` asks for one, where one may."""
        began, asked = 0.0, False
        with Wire(self._port) as wire:
            due = quiet_since = time.perf_counter()
            for number in count():
                time.sleep(max(0.0, due - time.perf_counter()))
                begun = max(due, time.perf_counter())
                wire.ask("SET", f"key:{number * 700_001 % self._keys:012d}", "w" * 32)
                now = time.perf_counter()
                due = max(due + EVERY_SECONDS, now)
                is_under = under()
                self.waits_ms[is_under or bool(began)].append((now - begun) * 1e3)
                if is_under and not began:
                    began = time.time()
                elif began and not is_under:
                    self.spans.append((began, time.time()))
                    began, asked, quiet_since = 0.0, False, now
                    if len(self.spans) == snapshots:
                        return
                elif not is_under and not asked and now > quiet_since + QUIET_SECONDS:
                    begin()
                    asked = True

    def figures(self) -> dict[str, float]:
        found = {"seconds": statistics.median(end - begin for begin, end in self.spans)}
        for when, waits in (("quiet", self.waits_ms[False]), ("snapshot", self.waits_ms[True])):
            found[f"{when}_p50_ms"] = statistics.median(waits)
            found[f"{when}_p999_ms"] = percentile(waits, 0.999)
            found[f"{when}_max_ms"] = max(waits)
        return found


def of_group(root: Path, options: argparse.Namespace) -> dict[str, float]:
    from titan_overlay import Policy, connect_sync

    nodes: list[subprocess.Popen[str]] = []
    port, turns = free_port(), [root / f"{number}.turns" for number in MEMBERS]
    groups = [root / str(number) / "groups" for number in MEMBERS]

    def under() -> bool:
        return any(path.name.endswith(".new") for group in groups for path in group.glob("*/*"))

    try:
        process, line = start_node(0, root, "", "--no-host", "--redis", str(port), "--store", NAME)
        nodes.append(process)
        invited = invitation(root / "0")
        for number, file in zip(MEMBERS, turns, strict=True):
            program = (sys.executable, "-m", "benchmarks.turns", str(file))
            nodes.append(start_node(number, root, invited, program=program)[0])
        with connect_sync(line, data=root / "0") as pool:
            pool.publish("store-group", NAME, policy=Policy(faults=1))
            with Wire(port) as wire:
                fill(wire, options.keys)
        quiet_at = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < quiet_at:
            if under():
                quiet_at = time.monotonic() + QUIET_SECONDS
            time.sleep(0.1)
        client = Client(port, options.keys)
        with writer(port):
            client.run(options.snapshots, under, lambda: None)
        turn_ms = max(longest_cpu_ms(turns, begin, end + 0.5) for begin, end in client.spans)
        return {**client.figures(), "turn_cpu_ms": turn_ms}
    finally:
        stop(nodes)


def of_redis(root: Path, options: argparse.Namespace) -> dict[str, float]:
    with start("redis", root, "always") as server, Wire(server.port) as wire, Wire(server.port) as other:
        fill(wire, options.keys)
        client = Client(server.port, options.keys)
        with writer(server.port):
            client.run(
                options.snapshots,
                lambda: b"rdb_bgsave_in_progress:1" in other.ask("INFO", "persistence"),
                lambda: other.ask("BGSAVE"),
            )
        return client.figures()


ROWS = (
    ("one client's SET, p50, ms", "quiet_p50_ms", "{:.2f}"),
    ("one client's SET, p99.9, ms", "quiet_p999_ms", "{:.1f}"),
    ("one client's SET, longest, ms", "quiet_max_ms", "{:.1f}"),
    ("during a snapshot, p50, ms", "snapshot_p50_ms", "{:.2f}"),
    ("during a snapshot, p99.9, ms", "snapshot_p999_ms", "{:.1f}"),
    ("during a snapshot, longest, ms", "snapshot_max_ms", "{:.1f}"),
    ("longest turn of a member meanwhile, CPU ms", "turn_cpu_ms", "{:.1f}"),
    ("from the first member's beginning to the last one's end, s", "seconds", "{:.1f}"),
    ("load average of the machine then", "load", "{:.1f}"),
)


def markdown(result: dict[str, Any]) -> str:
    lines = ["| {keys:,} keys | group | Redis |".format(**result), "|---|---:|---:|"]
    for label, key, form in ROWS:
        cells = [form.format(result[name][key]) if key in result[name] else "" for name in ("group", "redis")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--snapshots", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--writer", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        write_on(options.writer)
    if shutil.which("redis-server") is None:
        print("redis-server needed: scripts/install-test-packages", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"keys": options.keys}
    for name, measure in (("redis", of_redis), ("group", of_group)):
        with tempfile.TemporaryDirectory(prefix="titan-store-snapshot-") as place:
            result[name] = {**measure(Path(place), options), "load": os.getloadavg()[0]}
    report.publish_table("store-snapshot", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
