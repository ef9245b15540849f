"""A simulated world for tests: virtual time, in-memory wires and disks, the same every time for the same seed.

from titan_overlay import testing

async def main() -> None:
    await asyncio.sleep(3600)  # takes no time

testing.run(main, seed=7)

A whole pool of nodes on it, for tests of one's own objects:

async def scenario(sim: testing.SimulatedPool) -> None:
    await sim.publish(Greeter, "greeter")
    sim.kill(sim.holders("greeter")[0])
    assert await sim.pool().send("greeter", "you") == "hello, you"

testing.SimulatedPool.run(scenario, nodes=50, seed=7)
"""

from typing import TYPE_CHECKING, Any

from titan_overlay.identity.grants import Right
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.testing.hosts import Event, Host, Traffic
from titan_overlay.testing.latency import Fixed, Latency, Plane, Uniform
from titan_overlay.testing.loop import Deadlock, Livelock, VirtualLoop, run
from titan_overlay.testing.network import MemoryNetwork
from titan_overlay.testing.seal import OutsideWorld

if TYPE_CHECKING:
    from titan_overlay.testing.pool import Machine, SimulatedNode, SimulatedPool

__all__ = [
    "Deadlock",
    "Event",
    "Fixed",
    "Host",
    "Latency",
    "Livelock",
    "Machine",
    "MemoryDisk",
    "MemoryNetwork",
    "OutsideWorld",
    "Plane",
    "PoolRecord",
    "Right",
    "SimulatedNode",
    "SimulatedPool",
    "Traffic",
    "Uniform",
    "VirtualLoop",
    "run",
]


def __getattr__(name: str) -> Any:
    # Later than the rest: a pool needs the whole package, the loop and the wires need none of it.
    if name in ("Machine", "SimulatedNode", "SimulatedPool"):
        from titan_overlay.testing import pool

        return getattr(pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
