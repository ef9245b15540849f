"""A `titan-node` that notes the long turns of its event loop: `python -m benchmarks.turns FILE ARGUMENTS...`.

A line for each turn: when it ended (unix seconds), its CPU time and its wall time (milliseconds). CPU time is what the
node itself has done: a machine that is busy with something else adds to the other.
"""

import sys
import time
from asyncio import events
from pathlib import Path
from typing import NamedTuple

LONG_MS = 2.0


class Turn(NamedTuple):
    """See the module."""

    ended: float
    cpu_ms: float
    wall_ms: float


def longest_cpu_ms(files: list[Path], begin: float, end: float) -> float:
    """Of all turns that ended within this time, the longest one's CPU time; at least what is noted."""
    turns = [Turn(*map(float, line.split())) for file in files for line in file.read_text().splitlines()]
    return max((turn.cpu_ms for turn in turns if begin <= turn.ended <= end), default=LONG_MS)


def watch(file: Path) -> None:
    """Notes long turns from now on. Turns of uvloop are not seen: of a node without doors, which has asyncio's loop."""
    run, cpu, wall = events.Handle._run, time.thread_time, time.perf_counter
    notes = file.open("w", buffering=1)

    def timed(handle: events.Handle) -> None:
        cpu_before, wall_before = cpu(), wall()
        run(handle)
        cpu_ms = (cpu() - cpu_before) * 1e3
        if cpu_ms > LONG_MS:
            notes.write(f"{time.time()} {cpu_ms} {(wall() - wall_before) * 1e3}\n")

    events.Handle._run = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    from titan_overlay.cli.node import main

    watch(Path(sys.argv.pop(1)))
    main()
