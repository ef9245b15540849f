"""How long a mutable object stands still when the node that leads it is killed, and what is lost: nothing may be.

    python -m benchmarks.failover [--groups raft3,raft5,bft4] [--minutes 10] [--pause 5] [--clients 4] [--report]

Real `titan-node` processes on loopback, fsync on, under load: each client writes keys that nobody else writes, one
after the other, and remembers what was acknowledged. Every `--pause` seconds the leader gets kill -9, and is started
again a second later. A failover lasts from the kill to the first acknowledgement of a write that was begun after it. At
the end all nodes are killed at once and started again, and every key that was acknowledged is read.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import titan_overlay as titan
from benchmarks import report
from benchmarks.processes import invitation, start_node, stop
from titan_objects.cache import Get, Set

NAME = "cache/failover"
DOWN_SECONDS = 1.0
READY_SECONDS = 60.0
READERS = 64


class Nodes:
    """Nodes of one pool, each in a process that comes back at the same address.

    Args:
        flags: of each, by its number.
    """

    def __init__(self, count: int, directory: Path, flags: Callable[[int], Sequence[str]] = lambda number: ()) -> None:
        self._directory = directory
        self._flags = flags
        self._processes: list[subprocess.Popen[str]] = []
        self._ids: list[str] = []
        self._addresses: list[str] = []
        self._invited = ""
        for number in range(count):
            process, line = start_node(number, directory, self._invited, *flags(number))
            node, _, address = line.split("/")[3].partition("@")
            self._processes.append(process)
            self._ids.append(node)
            self._addresses.append(address)
            if not number:
                self.line = line
                self._invited = invitation(directory / "0")

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, node: str) -> int:
        """Of the node with this id."""
        return self._ids.index(node)

    def kill(self, number: int) -> None:
        """SIGKILL: no goodbye."""
        self._processes[number].kill()
        self._processes[number].wait()

    def start(self, number: int) -> None:
        """Starts a node that was killed."""
        bootstrap = self._invited if number else ""
        flags = self._flags(number)
        address = self._addresses[number]
        self._processes[number], _ = start_node(number, self._directory, bootstrap, *flags, listen=address)

    def power_cut(self) -> None:
        """Kills all at once, and starts them again."""
        for process in self._processes:
            process.kill()
        for number, process in enumerate(self._processes):
            process.wait()
            self.start(number)

    def stop(self) -> None:
        """For good."""
        stop(self._processes)


class Load:
    """Clients that write, and what they know to be written."""

    def __init__(self, pool: titan.Pool) -> None:
        self._pool = pool
        self._ended = asyncio.Event()
        self.acknowledged: list[bytes] = []
        self.unclear = 0
        """Writes that came to an error: they may have been executed, or not."""
        self._waiting: list[tuple[float, asyncio.Future[float]]] = []

    async def client(self, number: int) -> None:
        """Writes until `end`."""
        turn = 0
        while not self._ended.is_set():
            turn += 1
            key = b"%d-%d" % (number, turn)
            began = time.monotonic()
            try:
                done = await self._pool.send(NAME, Set(key, key), timeout=30)
            except titan.TitanError:
                self.unclear += 1
                continue
            if done:
                self.acknowledged.append(key)
                self._tell(began, time.monotonic())

    def _tell(self, began: float, ended: float) -> None:
        for since, waiting in self._waiting:
            if began >= since and not waiting.done():
                waiting.set_result(ended - since)
        self._waiting = [each for each in self._waiting if not each[1].done()]

    async def next(self) -> float:
        """Seconds until a write that begins after now is acknowledged."""
        waiting: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.monotonic(), waiting))
        return await asyncio.wait_for(waiting, READY_SECONDS)

    def end(self) -> None:
        """No more writes."""
        self._ended.set()

    async def missing(self) -> int:
        """How many of the acknowledged writes are not there."""
        room = asyncio.Semaphore(READERS)

        async def is_missing(key: bytes) -> bool:
            async with room:
                return await self._pool.read(NAME, Get(key), timeout=READY_SECONDS) != key

        return sum(await asyncio.gather(*map(is_missing, self.acknowledged)))


async def leader(pool: titan.Pool) -> str:
    """Who leads, once somebody does."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        try:
            health = await pool.group(NAME, timeout=5)
        except titan.TitanError:
            continue
        if health.leader and health.present == len(health.members):
            return health.leader
        await asyncio.sleep(0.2)
    raise SystemExit(f"{NAME} has not been whole again within {READY_SECONDS:g} s")


async def measure(
    nodes: Nodes, byzantine: bool, seconds: float, pause: float, clients: int, data: Path
) -> dict[str, Any]:
    """Kills leaders for so long, then all, and counts."""
    async with titan.connect(nodes.line, data=data) as pool:
        await pool.publish("cache", NAME, policy=titan.Policy(faults=faults(nodes, byzantine), byzantine=byzantine))
        load = Load(pool)
        writing = [asyncio.create_task(load.client(each)) for each in range(clients)]
        await load.next()
        failovers = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(pause)
            number = nodes.number(await leader(pool))
            await asyncio.to_thread(nodes.kill, number)
            failovers.append(await load.next())
            await asyncio.sleep(DOWN_SECONDS)
            await asyncio.to_thread(nodes.start, number)
        began = time.monotonic()
        await asyncio.to_thread(nodes.power_cut)
        started = time.monotonic() - began
        back = await load.next()
        load.end()
        await asyncio.gather(*writing)
        return {
            "acknowledged": len(load.acknowledged),
            "unclear": load.unclear,
            "missing": await load.missing(),
            "failovers": len(failovers),
            "median_seconds": round(statistics.median(failovers), 3),
            "longest_seconds": round(max(failovers), 3),
            "all_killed_seconds": round(started + back, 3),
        }


def faults(nodes: Nodes, byzantine: bool) -> int:
    """How many failures a group of all these nodes survives."""
    return (len(nodes) - 1) // (3 if byzantine else 2)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| group | acknowledged writes | of them missing | leaders killed | failover, median s | longest s "
        "| all killed at once: s until it writes again |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, each in results.items():
        lines.append(
            f"| {name} | {each['acknowledged']:,} | {each['missing']} | {each['failovers']} "
            f"| {each['median_seconds']:.2f} | {each['longest_seconds']:.2f} | {each['all_killed_seconds']:.1f} |"
        )
    lines += ["", f"Load average of the machine meanwhile: {os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores."]
    return "\n".join(lines)


def run(groups: Sequence[str], minutes: float, pause: float, clients: int) -> dict[str, dict[str, Any]]:
    results = {}
    for group in groups:
        byzantine = group.startswith("bft")
        size = int(group.removeprefix("bft").removeprefix("raft"))
        with tempfile.TemporaryDirectory(prefix="titan-failover-") as directory:
            nodes = Nodes(size, Path(directory))
            try:
                done = asyncio.run(measure(nodes, byzantine, minutes * 60, pause, clients, Path(directory) / "0"))
            finally:
                nodes.stop()
        results[f"{'BFT' if byzantine else 'Raft'}, n = {size}"] = done
        print(json.dumps({group: done}), file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", default="raft3,raft5,bft4", help="comma-separated: engine and number of members")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each group")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between a recovery and the next kill")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    results = run(options.groups.split(","), options.minutes, options.pause, options.clients)
    report.publish_table("failover", markdown(results), results, options)
    if any(each["missing"] for each in results.values()):
        raise SystemExit("acknowledged writes are missing")


if __name__ == "__main__":
    main()
