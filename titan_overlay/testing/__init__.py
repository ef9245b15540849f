"""A simulated world for tests: virtual time, in-memory wires and disks, the same every time for the same seed.

from titan_overlay import testing

async def main() -> None:
    await asyncio.sleep(3600)  # takes no time

testing.run(main, seed=7)
"""

from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.testing.hosts import Event, Host, Traffic
from titan_overlay.testing.latency import Fixed, Latency, Plane, Uniform
from titan_overlay.testing.loop import Deadlock, Livelock, VirtualLoop, run
from titan_overlay.testing.network import MemoryNetwork
from titan_overlay.testing.seal import OutsideWorld

__all__ = [
    "Deadlock",
    "Event",
    "Fixed",
    "Host",
    "Latency",
    "Livelock",
    "MemoryDisk",
    "MemoryNetwork",
    "OutsideWorld",
    "Plane",
    "Traffic",
    "Uniform",
    "VirtualLoop",
    "run",
]
