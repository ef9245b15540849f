"""Eight nodes, three objects, and a bad day: `make demo`.

Starts eight `titan-node` processes on this machine, publishes a service (examples/greeter.py, as a signed bundle), a
file and a sensor, sends messages to them from a program that is not a node, then kills with SIGKILL all holders but
one of the service, and measures how the pool takes it. Every figure is measured here and now.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import cryptography
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import titan_overlay as titan
from titan_objects.device import Read

NODES = 8
MIN_COPIES = 3
PROBE_SECONDS = 2.0
"""Holders look after each other this often here, so that the show is short; the default is 30 s."""
PATIENCE = 60.0
BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
console = Console()


class Show:
    """What is on the screen, and what was measured."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.alive: dict[str, str] = {}
        self.sent = 0
        self.answered = 0
        self.failures: list[str] = []
        self.latencies: list[float] = []
        self.copies = 0
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """One more event, with its time."""
        self.events.append(f"{time.monotonic() - self.started:5.1f} s  {text}")
        if not console.is_terminal:
            console.print(self.events[-1], highlight=False, markup=False)

    def __rich__(self) -> Group:
        nodes = Table.grid(padding=(0, 2))
        nodes.add_row(
            *(Text(node[:8], style="green" if state == "up" else "red strike") for node, state in self.alive.items())
        )
        line = f"messages {self.answered} answered of {self.sent} sent, copies of the greeter: {self.copies}"
        return Group(nodes, Text(line, style="bold"), *(Text(event) for event in self.events[-14:]))


class Nodes:
    """The node processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.environment = {**os.environ, "TITAN_PROBE_INTERVAL": str(PROBE_SECONDS), "TITAN_RECRUIT_DELAY": "1"}

    async def start(self, number: int, *flags: str) -> str:
        """Starts a node; the join line that it prints when it serves."""
        data = self.root / f"node{number}"
        process = await asyncio.create_subprocess_exec(
            str(BIN / "titan-node"), "--data", str(data), "--listen", "127.0.0.1:0", *flags,
            stdout=asyncio.subprocess.PIPE, stderr=(self.root / f"node{number}.log").open("wb"), env=self.environment,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while line := (await process.stdout.readline()).decode():
                found = next((word for word in line.split() if word.startswith("titan://")), "")
                if found:
                    self.processes[found.split("/")[3].partition("@")[0]] = process
                    return found
        raise SystemExit(f"node {number} did not start:\n{(self.root / f'node{number}.log').read_text()}")

    async def run(self, *words: str) -> str:
        """What a command of `titan` prints."""
        process = await asyncio.create_subprocess_exec(
            str(BIN / "titan"), *words, stdout=asyncio.subprocess.PIPE, env=self.environment
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"titan {' '.join(words)} failed")
        return out.decode()

    def kill(self, node: str) -> None:
        """SIGKILL: no goodbye."""
        self.processes[node].send_signal(signal.SIGKILL)

    async def stop_all(self) -> None:
        """SIGTERM to all that live; SIGKILL to those that take too long."""
        living = [each for each in self.processes.values() if each.returncode is None]
        for process in living:
            process.terminate()
        try:
            async with asyncio.timeout(12):
                await asyncio.gather(*(process.wait() for process in living))
        except TimeoutError:
            for process in living:
                if process.returncode is None:
                    process.kill()
        await asyncio.gather(*(process.wait() for process in self.processes.values()))


async def send_all_the_time(pool: titan.Pool, show: Show, enough: asyncio.Event) -> None:
    """Twenty messages a second to the greeter, whatever happens."""
    while not enough.is_set():
        began = time.monotonic()
        show.sent += 1
        try:
            reply = await pool.send("greeter", "world", timeout=10)
            assert "world" in reply
            show.answered += 1
            show.latencies.append(time.monotonic() - began)
        except titan.TitanError as why:
            show.failures.append(str(why))
        await asyncio.sleep(0.05)


async def count_copies(pool: titan.Pool, nodes: Nodes, name: str) -> int:
    """Live copies, counted by asking every living node what it holds."""

    async def holds(node: str) -> bool:
        try:
            return any(
                each.name == name and not each.passing
                for each in await pool.send(f"node:{node}", titan.Holdings(), timeout=2)
            )
        except titan.TitanError:
            return False

    living = [node for node, process in nodes.processes.items() if process.returncode is None]
    return sum(await asyncio.gather(*(holds(node) for node in living)))


async def founding(nodes: Nodes, show: Show) -> str:
    """All nodes up: the first founds the pool, the others come by its invitation."""
    show.say("the first node founds a pool")
    await nodes.start(1)
    data = str(nodes.root / "node1")
    line = (await nodes.run("invite", "--data", data, "--rights", "host", "--trust-me")).split()
    invitation = next(word for word in line if word.startswith("titan://"))
    config = nodes.root / "node2"
    config.mkdir()
    (config / "config.toml").write_text(
        '[[device]]\nname = "~me/load"\nkind = "sensor"\nfile = "/proc/loadavg"\n'
        'value = "text"\nunit = "load averages"\n'
    )
    await asyncio.gather(*(nodes.start(number, "--bootstrap", invitation) for number in range(2, NODES + 1)))
    show.alive = dict.fromkeys(nodes.processes, "up")
    show.say(f"{NODES} nodes are up, each a process of its own")
    return data


async def bad_day(pool: titan.Pool, nodes: Nodes, show: Show, holders: list[str]) -> float:
    """Kills all holders but one; seconds until `MIN_COPIES` live again."""
    show.say(f"kill -9: {', '.join(node[:8] for node in holders)}; one holder is left")
    killed = time.monotonic()
    for node in holders:
        nodes.kill(node)
        show.alive[node] = "killed"
    await asyncio.gather(*(nodes.processes[node].wait() for node in holders))
    show.copies = await count_copies(pool, nodes, "greeter")
    while show.copies < MIN_COPIES and time.monotonic() - killed < PATIENCE:
        await asyncio.sleep(0.2)
        show.copies = await count_copies(pool, nodes, "greeter")
    back = time.monotonic() - killed
    show.say(f"{show.copies} copies live again after {back:.1f} s")
    return back


async def main() -> int:
    show = Show()
    with tempfile.TemporaryDirectory(prefix="titan-demo-") as root:
        nodes = Nodes(Path(root))
        try:
            with Live(show, console=console, refresh_per_second=8, transient=True) if console.is_terminal else _Quiet():
                return await story(nodes, show)
        finally:
            await nodes.stop_all()


async def story(nodes: Nodes, show: Show) -> int:
    """The whole show; the exit status."""
    data = await founding(nodes, show)
    async with titan.connect(data=data) as pool:
        receipt = await pool.publish(
            f"{HERE / 'greeter.py'}:Greeter", "greeter", policy=titan.Policy(min_copies=MIN_COPIES)
        )
        show.say(f"published examples/greeter.py as 'greeter': {len(receipt.holders)} copies")
        file = max(Path(cryptography.__file__).parent.rglob("*.so"), key=lambda each: each.stat().st_size)
        content = file.read_bytes()
        name = await pool.put(file)
        show.say(f"put {file.name} ({len(content) / 1e6:.1f} MB): {name[:19]}...")
        device = json.loads(await nodes.run("id", "--data", str(nodes.root / "node2"), "--json"))["prefix"] + "load"
        pong = await pool.send(device, titan.Ping())
        show.say(f"the sensor at node {pong.holder[:8]} answers")
        enough = asyncio.Event()
        sender = asyncio.create_task(send_all_the_time(pool, show, enough))
        await asyncio.sleep(2)
        show.copies = await count_copies(pool, nodes, "greeter")
        device_node = pong.holder
        holders = sorted(receipt.holders, key=lambda node: node == device_node)
        before = len(show.latencies)
        back = await bad_day(pool, nodes, show, holders[:-1])
        await asyncio.sleep(1)
        during = show.latencies[before:]
        same = hashlib.sha256(await pool.get(name)).digest() == hashlib.sha256(content).digest()
        show.say(f"the file is {'unharmed' if same else 'DAMAGED'}")
        reading = await pool.send(device, Read())
        show.say(f"the sensor says: {reading.value} {reading.unit} ({reading.age:.1f} s old)")
        enough.set()
        await sender
    return summary(show, len(holders) - 1, back, during, same)


def summary(show: Show, killed: int, back: float, during: list[float], same: bool) -> int:
    """The table at the end, and the exit status."""
    recovered = show.copies >= MIN_COPIES
    table = Table(title="What was measured", show_header=False)
    table.add_row("nodes started / killed with SIGKILL", f"{NODES} / {killed}")
    table.add_row("messages answered / sent", f"{show.answered} / {show.sent}")
    table.add_row(
        "median / 99 % latency",
        f"{median(show.latencies) * 1e3:.1f} / {quantiles(show.latencies, n=100)[98] * 1e3:.1f} ms",
    )
    table.add_row("longest answer after the kill", f"{max(during, default=0) * 1e3:.0f} ms")
    table.add_row(
        f"copies back at min_copies={MIN_COPIES} after",
        f"{back:.1f} s" if recovered else f"not within {PATIENCE:.0f} s",
    )
    table.add_row("holders probe each other every", f"{PROBE_SECONDS:g} s here, 30 s by default")
    table.add_row("file read back", "same bytes" if same else "DAMAGED")
    table.add_row("the whole show", f"{time.monotonic() - show.started:.0f} s")
    console.print(table)
    for text in sorted(set(show.failures))[:3]:
        console.print(f"a message failed: {text}", style="red", markup=False)
    return 0 if recovered and same and not show.failures else 1


class _Quiet:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
