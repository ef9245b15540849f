"""Puts and linearizable reads of a mutable object beside a real etcd of three members. TLS and fsync on for all.

    python -m benchmarks.mutable [--seconds 3] [--rounds 3] [--systems raft,bft,etcd] [--json FILE] [--report]

Keys of 16 bytes, values of 64. Each client has a connection of its own and waits for each answer; all clients of a
system live in one process. Ours are real `titan-node` processes, three for Raft and four for BFT, that hold the cache
that comes with the project; etcd (Debian: `apt-get install etcd-server`) is called as cheaply as Python can. Rounds of
the systems take turns. CPU is what the kernel counted for all members, divided by the operations; the client's own is
apart.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import etcd, report
from benchmarks.echoes import Certificate
from benchmarks.processes import Spent, answer, invitation, listens, load, order, start_node, stop
from benchmarks.send import make_certificate
from tests.ports import free_port

CLIENTS = (1, 64)
KEYS = 1000
VALUE = b"v" * 64
NAME = "cache/bench"
READY_SECONDS = 60.0

TITLES = {"raft": "Titan, Raft, n = 3", "bft": "Titan, BFT, n = 4, signed", "etcd": "etcd, n = 3"}
MEMBERS = {"raft": 3, "bft": 4, "etcd": 3}

Operation = Callable[[bytes], Awaitable[object]]


def key(number: int) -> bytes:
    return b"key-%012d" % (number % KEYS)


# --- the process of the clients ---------------------------------------------------------------------------------


async def serve_clients(system: str, where: str, directory: str) -> None:
    """Connects all clients, then runs what the driver asks for: `operation clients seconds`, answered with JSON."""
    async with AsyncExitStack() as stack:
        made = await (_etcd if system == "etcd" else _titan)(stack, where, directory)
        for start in range(0, KEYS, len(made)):
            await asyncio.gather(*(put(key(start + number)) for number, (put, _) in enumerate(made)))
        print("ready", flush=True)
        while line := await order():
            operation, clients, seconds, first = line.split()
            chosen = [pair[operation == "get"] for pair in made[int(first) :][: int(clients)]]
            print(json.dumps(await _load(chosen, float(seconds))), flush=True)


async def _etcd(stack: AsyncExitStack, where: str, directory: str) -> list[tuple[Operation, Operation]]:
    context = Certificate(Path(directory) / "chain.pem", Path(directory) / "key.pem").client()
    context.set_alpn_protocols(["h2"])
    ports = [int(each) for each in where.split(",")]
    made: list[tuple[Operation, Operation]] = []
    for number in range(max(CLIENTS)):
        client = await etcd.EtcdClient.connect(ports[number % len(ports)], context)

        async def put(k: bytes, client: etcd.EtcdClient = client) -> None:
            await client.put(k, VALUE)

        async def get(k: bytes, client: etcd.EtcdClient = client) -> None:
            assert VALUE in await client.get(k)

        made.append((put, get))
    return made


async def _titan(stack: AsyncExitStack, where: str, directory: str) -> list[tuple[Operation, Operation]]:
    import titan_overlay as titan
    from titan_objects.cache import Get, Set

    made: list[tuple[Operation, Operation]] = []

    for _ in range(max(CLIENTS)):
        pool = await stack.enter_async_context(titan.connect(where, data=directory))

        async def put(k: bytes, pool: titan.Pool = pool) -> None:
            assert await pool.send(NAME, Set(k, VALUE))

        async def get(k: bytes, pool: titan.Pool = pool) -> None:
            assert await pool.read(NAME, Get(k)) == VALUE

        await get(key(0)) if made else await put(key(0))
        made.append((put, get))
    return made


async def _load(operations: Sequence[Operation], seconds: float) -> dict[str, float]:
    def calls(operation: Operation, first: int) -> Callable[[], Awaitable[object]]:
        turns = count(first)
        return lambda: operation(key(next(turns)))

    done = await load([calls(each, number * 7919) for number, each in enumerate(operations)], seconds)
    return {"count": done.count, "rate": done.rate, "p50_ms": done.p50 * 1e3, "p99_ms": done.p99 * 1e3}


# --- the driver -------------------------------------------------------------------------------------------------


class Running:
    """A system with its members and its clients."""

    def __init__(self, system: str, directory: Path) -> None:
        self.system = system
        self.members: list[subprocess.Popen[str]] = []
        self.client: subprocess.Popen[str] | None = None
        self._directory = directory
        directory.mkdir()

    def start(self) -> None:
        where = self._start_etcd() if self.system == "etcd" else self._start_titan()
        data = self._directory if self.system == "etcd" else self._directory / "0"
        self.client = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.mutable", "--clients-of", self.system, where, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=report.ROOT,
        )
        assert answer(self.client) == "ready"

    def _start_etcd(self) -> str:
        certificate = make_certificate(self._directory)
        ports = [(free_port(), free_port()) for _ in range(MEMBERS["etcd"])]
        self.members = etcd.start(self._directory, certificate, ports)
        until = time.monotonic() + READY_SECONDS
        for client, _ in ports:
            while not listens(client):
                if time.monotonic() > until or any(each.poll() is not None for each in self.members):
                    raise RuntimeError("etcd has not started; see its log")
                time.sleep(0.1)
        return ",".join(str(client) for client, _ in ports)

    def _start_titan(self) -> str:
        from titan_overlay import Policy, connect_sync

        line = invited = ""
        for number in range(MEMBERS[self.system]):
            process, printed = start_node(number, self._directory, invited)
            self.members.append(process)
            if not number:
                line = printed
                invited = invitation(self._directory / "0")
        with connect_sync(line, data=self._directory / "0") as pool:
            pool.publish("cache", NAME, policy=Policy(faults=1, byzantine=self.system == "bft"))
        return line

    def measure(self, operation: str, clients: int, seconds: float, first: int = 0) -> dict[str, float]:
        """So many clients, from the one with this number on; the n-th is connected to member n mod their number."""
        assert self.client is not None and self.client.stdin is not None
        cpu = Spent([*self.members, self.client])
        self.client.stdin.write(f"{operation} {clients} {seconds} {first}\n")
        self.client.stdin.flush()
        measured: dict[str, float] = json.loads(answer(self.client))
        spent = cpu.each()
        measured["cpu_us"] = sum(spent[:-1]) / measured["count"] * 1e6
        measured["client_cpu_us"] = spent[-1] / measured["count"] * 1e6
        return measured

    def stop(self) -> None:
        stop(each for each in (self.client, *self.members) if each is not None)


Results = dict[str, dict[str, list[dict[str, float]]]]
"""By system, by `operation clients`: one measurement a round."""


def measure(systems: Sequence[str], rounds: int, seconds: float, directory: Path) -> Results:
    loads = [(operation, clients) for clients in CLIENTS for operation in ("put", "get")]
    results: Results = {system: {f"{o} {c}": [] for o, c in loads} for system in systems}
    running = [Running(system, directory / system) for system in systems]
    try:
        for system in running:
            system.start()
        for system in running:
            for operation, clients in loads:
                system.measure(operation, clients, seconds / 4)  # warm
        for number in range(rounds):
            for operation, clients in loads:
                # Each round begins with another system: none always runs in another's wake.
                for system in running[number % len(running) :] + running[: number % len(running)]:
                    measured = system.measure(operation, clients, seconds)
                    results[system.system][f"{operation} {clients}"].append(measured)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    finally:
        for system in running:
            system.stop()
    return results


def summarize(results: Results) -> dict[str, Any]:
    """Medians over the rounds; ratios to etcd are medians of the ratios within a round."""
    summary: dict[str, Any] = {}
    for system, loads in results.items():
        summary[system] = {}
        for name, measured in loads.items():
            figures = {each: statistics.median(m[each] for m in measured) for each in measured[0]}
            if "etcd" in results:
                base = results["etcd"][name]
                for each in ("rate", "cpu_us"):
                    ratios = [m[each] / b[each] for m, b in zip(measured, base, strict=True)]
                    figures[f"{each}_of_etcd"] = statistics.median(ratios)
            summary[system][name] = {each: round(value, 3) for each, value in figures.items()}
    return summary


def markdown(summary: dict[str, Any]) -> str:
    lines = []
    for clients in CLIENTS:
        plural = "" if clients == 1 else "s"
        lines += [
            f"{clients} client{plural}:",
            "",
            "| system | operation | per second | p50 ms | p99 ms | CPU µs of all members | of the client | rate / etcd "
            "| CPU / etcd |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for system, loads in summary.items():
            for operation in ("put", "get"):
                m = loads[f"{operation} {clients}"]
                ratios = [f"{m[each]:.2f}" if each in m else "" for each in ("rate_of_etcd", "cpu_us_of_etcd")]
                title = {"put": "put", "get": "linearizable read"}[operation]
                lines.append(
                    f"| {TITLES[system]} | {title} | {m['rate']:,.0f} | {m['p50_ms']:.2f} | {m['p99_ms']:.2f} "
                    f"| {m['cpu_us']:.0f} | {m['client_cpu_us']:.0f} | {ratios[0]} | {ratios[1]} |"
                )
        lines.append("")
    lines.append(f"Load average of the machine meanwhile: {os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", default="raft,bft,etcd", help="comma-separated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--clients-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.clients_of:
        asyncio.run(serve_clients(*options.clients_of))
        return
    systems = options.systems.split(",")
    if "etcd" in systems and shutil.which("etcd") is None:
        print("etcd is not installed: its rows are left out", file=sys.stderr)
        systems.remove("etcd")
    with tempfile.TemporaryDirectory(prefix="titan-mutable-") as directory:
        summary = summarize(measure(systems, options.rounds, options.seconds, Path(directory)))
    report.publish_table("mutable", markdown(summary), summary, options)


if __name__ == "__main__":
    main()
