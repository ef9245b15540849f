"""A store with a million keys beside Debian's redis-server: memory, replay, expiry, and latency during a rewrite.

    python -m benchmarks.store_keys [--keys 1000000] [--expiring 20000] [--json FILE] [--report]

One server after the other goes through the same: it is filled, its log is rewritten while one client goes on, keys
expire, and it is started again on its log. A replay is told in CPU seconds as well, less what an empty start takes:
a busy machine changes that less. For the same reason a client's waits without a rewrite stand beside those with one.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.processes import cpu_seconds, memory
from benchmarks.store import start
from tests.store.real import Wire

BATCH = 500
VALUE = b"v" * 32
ROUNDS_MIN = 2_000
"""Of the client that is asked how long it waits."""


def encoded(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def send_many(wire: Wire, commands: list[bytes]) -> None:
    for at in range(0, len(commands), BATCH):
        batch = commands[at : at + BATCH]
        wire.socket.sendall(b"".join(batch))
        for _ in batch:
            reply = wire.reply()
            if reply.startswith(b"-"):
                raise RuntimeError(f"refused: {reply!r}")


def fill(wire: Wire, keys: int) -> None:
    for begin in range(0, keys, 10_000):
        numbers = range(begin, min(begin + 10_000, keys))
        send_many(wire, [encoded(b"SET", b"key:%012d" % number, VALUE) for number in numbers])


def waits_ms(wire: Wire, goes_on: Callable[[int], bool]) -> list[float]:
    """How long each of many SETs took, one after the other."""
    taken: list[float] = []
    while goes_on(len(taken)):
        begun = time.perf_counter()
        wire.ask("SET", f"key:{len(taken):012d}", "w" * 32)
        taken.append((time.perf_counter() - begun) * 1e3)
    return taken


def is_rewriting(wire: Wire) -> bool:
    info = wire.ask("INFO", "persistence")
    return b"aof_rewrite_in_progress:1" in info or b"aof_rewrite_scheduled:1" in info


def lateness_ms(port: int, count: int) -> list[float]:
    """By how much the events of keys that expire come too late; their ends are spread over two seconds."""
    with Wire(port) as wire, Wire(port) as listener:
        wire.ask("CONFIG", "SET", "notify-keyspace-events", "Ex")
        listener.ask("SUBSCRIBE", "__keyevent@0__:expired")
        first = int(time.time() * 1000) + 2_000 + count // 10
        ends = [first + 2_000 * number // count for number in range(count)]
        send_many(
            wire, [encoded(b"SET", b"end:%d:%d" % (at, n), b"", b"PXAT", b"%d" % at) for n, at in enumerate(ends)]
        )
        late = []
        for _ in range(count):
            key = listener.reply().split(b"\r\n")[-2]
            late.append(time.time() * 1000 - int(key.split(b":")[1]))
    return late


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def measure(name: str, directory: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures of one server."""
    found: dict[str, float] = {}
    with start(name, directory, "no") as server:
        pid, port = server.process.pid, server.port
        empty_start, empty = cpu_seconds(pid), memory(pid)[1]
        with Wire(port) as wire, Wire(port) as other:
            fill(wire, options.keys)
            found["bytes_per_key"] = (memory(pid)[1] - empty) * (1 << 20) / options.keys
            quiet = waits_ms(wire, lambda count: count < ROUNDS_MIN)
            other.ask("BGREWRITEAOF")
            rewriting = waits_ms(wire, lambda count: count % 100 != 0 or count == 0 or is_rewriting(other))
        for when, waits in (("quiet", quiet), ("rewrite", rewriting)):
            found[f"{when}_p50_ms"] = statistics.median(waits)
            found[f"{when}_p999_ms"] = percentile(waits, 0.999)
            found[f"{when}_max_ms"] = max(waits)
        late = lateness_ms(port, options.expiring)
        found |= {
            "late_p50_ms": statistics.median(late),
            "late_p99_ms": percentile(late, 0.99),
            "late_max_ms": max(late),
        }
        server.stop(signal.SIGTERM)
    shutil.rmtree(directory)
    with start(name, directory, "no") as server, Wire(server.port) as wire:
        fill(wire, options.keys)
        server.stop(signal.SIGTERM)
    begun = time.perf_counter()
    with start(name, directory, "no") as server, Wire(server.port) as wire:
        found["start_s"] = time.perf_counter() - begun
        found["replay_cpu_s"] = cpu_seconds(server.process.pid) - empty_start
        if wire.ask("DBSIZE") != b":%d\r\n" % options.keys:
            raise RuntimeError("keys are missing after the start")
    return found


ROWS = (
    ("memory, bytes per key", "bytes_per_key", "{:.0f}"),
    ("start on a log of all keys, s", "start_s", "{:.2f}"),
    ("replay of that log, CPU s", "replay_cpu_s", "{:.2f}"),
    ("lateness of expiry, p50, ms", "late_p50_ms", "{:.1f}"),
    ("lateness of expiry, p99, ms", "late_p99_ms", "{:.1f}"),
    ("lateness of expiry, longest, ms", "late_max_ms", "{:.1f}"),
    ("one client's SET, p50, ms", "quiet_p50_ms", "{:.2f}"),
    ("one client's SET, p99.9, ms", "quiet_p999_ms", "{:.2f}"),
    ("one client's SET during a rewrite, p50, ms", "rewrite_p50_ms", "{:.2f}"),
    ("one client's SET during a rewrite, p99.9, ms", "rewrite_p999_ms", "{:.2f}"),
    ("one client's SET during a rewrite, longest, ms", "rewrite_max_ms", "{:.2f}"),
)


def markdown(result: dict[str, Any]) -> str:
    lines = ["| {keys:,} keys | store | Redis |".format(**result), "|---|---:|---:|"]
    lines += [
        f"| {label} | {form.format(result['titan'][key])} | {form.format(result['redis'][key])} |"
        for label, key, form in ROWS
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--expiring", type=int, default=20_000, help="keys that expire within two seconds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    if shutil.which("redis-server") is None:
        print("redis-server is needed: scripts/install-test-packages", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"keys": options.keys, "expiring": options.expiring}
    with tempfile.TemporaryDirectory() as directory:
        for name in ("redis", "titan"):
            result[name] = measure(name, Path(directory) / name, options)
            print(name, result[name], flush=True)
    report.publish_table("store-keys", markdown(result), result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
