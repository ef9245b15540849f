"""Processes that benchmarks start, talk to by lines, and measure. Linux: figures are the kernel's, from /proc."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

BIN = Path(sys.executable).parent

# --- what they cost -----------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, to the nanosecond."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def memory(pid: int) -> tuple[float, float]:
    """(RSS, private part) in MiB, of a process."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("Rss", "VmRSS"))
    )
    kib = {key: int(value.split()[0]) for key, value in fields.items()}
    return kib["VmRSS"] / 1024, kib["RssAnon"] / 1024


class Spent:
    """CPU seconds of some processes, from now on."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"]) -> None:
        self._before = [(each.pid, cpu_seconds(each.pid)) for each in processes]

    def each(self) -> list[float]:
        """Of each of them so far, in their order."""
        return [cpu_seconds(pid) - before for pid, before in self._before]


# --- starting and stopping ----------------------------------------------------------------------------------------


def start_node(
    number: int,
    root: Path,
    bootstrap: str,
    *flags: str,
    listen: str = "127.0.0.1:0",
    program: Sequence[str] = (str(BIN / "titan-node"),),
) -> tuple["subprocess.Popen[str]", str]:
    """A `titan-node` with the directory `root/number`, and the join line that it prints."""
    words = [*program, "--data", str(root / str(number)), "--listen", listen, *flags]
    words += ["--bootstrap", bootstrap] if bootstrap else []
    log = (root / f"{number}.log").open("a")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line.startswith("titan://"):
        process.kill()
        raise SystemExit(f"node {number} did not start:\n{(root / f'{number}.log').read_text()}")
    return process, line


def invitation(data: Path) -> str:
    """A line with which nodes join that may host, and run the founder's code, from the founder's directory."""
    words = [str(BIN / "titan"), "invite", "--rights", "host", "--trust-me", "--data", str(data)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(processes: Iterable["subprocess.Popen[str]"]) -> None:
    """Asks them to end, and sees to it."""
    running = list(processes)
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


# --- orders and answers, a line each ------------------------------------------------------------------------------


def answer(process: "subprocess.Popen[str]") -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a measured process ended: {process.args!r}")
    return line


async def order() -> str:
    """The next line from the driver; empty: it is done."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


class Load(NamedTuple):
    """What callers that each wait for their answer got."""

    count: int
    rate: float
    """Answers per second."""
    p50: float
    """Seconds."""
    p99: float


async def load(calls: Sequence[Callable[[], Awaitable[object]]], seconds: float) -> Load:
    """Each of these is called again and again, at the same time, for so long."""
    took: list[float] = []
    clock = time.perf_counter
    began = clock()
    end = began + seconds

    async def caller(call: Callable[[], Awaitable[object]]) -> None:
        before = clock()
        while before < end:
            await call()
            after = clock()
            took.append(after - before)
            before = after

    await asyncio.gather(*map(caller, calls))
    elapsed = clock() - began
    took.sort()
    return Load(len(took), len(took) / elapsed, took[len(took) // 2], took[len(took) * 99 // 100])
