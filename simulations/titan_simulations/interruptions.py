"""Nodes that go off for a while and return with their disks; some never return, and a new node comes in their place."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from titan_overlay.errors import TitanError
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations.lifetimes import Lifetime
from titan_simulations.world import World

TRY_AGAIN_SECONDS = 10.0
"""A node that could not join tries again, as its machine's service manager has it do."""
RETURN_GAP_SECONDS = 0.1


class Interruptions:
    """Departures and returns in a world, for some seconds from `begin` on. All departures are crashes.

    Args:
        session: how long a node stays up.
        downtime: how long it is off.
        gone_share: share of departures from which nobody returns.
    """

    def __init__(
        self, world: World, session: Lifetime, downtime: Lifetime, seconds: float, *, gone_share: float
    ) -> None:
        self.departures = self.returns = self.arrivals = self.join_failures = 0
        self.node_seconds = 0.0
        """Of nodes that are up."""
        self.ends = 0.0
        self.departed_at: dict[int, float] = {}
        """Node -> when it last went off."""
        self.gone: set[int] = set()
        """For good."""
        self._away: dict[int, SimulatedNode] = {}
        """Those that will return, in the order in which they went."""
        self._world = world
        self._session = session
        self._downtime = downtime
        self._seconds = seconds
        self._gone_share = gone_share
        self._counted_at, self._counted = 0.0, 0
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """The clock starts, in a pool in which each node has been up for a while."""
        self._counted_at, self._counted = self._world.sim.now, len(self._world.live())
        self.ends = self._counted_at + self._seconds
        for node in self._world.live():
            self._departs_after(node, self._session.residual(self._world.random))

    async def end(self) -> None:
        """Nobody leaves any more, and all who would return later return now. Done when they are back."""
        self._count_nodes()
        for node in list(self._away.values()):
            self._spawn(self._return(node))
            await asyncio.sleep(RETURN_GAP_SECONDS)
        while self._under_way:
            await asyncio.wait(set(self._under_way))

    def _departs_after(self, node: SimulatedNode, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() + seconds < self.ends:
            loop.call_later(seconds, self._depart, node)

    def _depart(self, node: SimulatedNode) -> None:
        world = self._world
        self.departures += 1
        self.departed_at[node.number] = world.sim.now
        world.kill(node)
        self._count_nodes()
        if world.random.random() < self._gone_share:
            self.gone.add(node.number)
            self._spawn(self._succeed(node))
        else:
            self._away[node.number] = node
            asyncio.get_running_loop().call_later(
                self._downtime.draw(world.random), lambda: self._spawn(self._return(node))
            )

    async def _return(self, node: SimulatedNode) -> None:
        if self._away.pop(node.number, None) is None:
            return  # it is back already
        while not node.alive:
            try:
                await self._world.back(node)
            except (TitanError, TimeoutError, OSError):
                self.join_failures += 1
                await asyncio.sleep(TRY_AGAIN_SECONDS)
        self.returns += 1
        self._up(node)

    async def _succeed(self, left: SimulatedNode) -> None:
        try:
            node = await self._world.successor(left)
        except (TitanError, TimeoutError, OSError):
            self.join_failures += 1
            return
        self.arrivals += 1
        self._up(node)

    def _up(self, node: SimulatedNode) -> None:
        self._count_nodes()
        self._departs_after(node, self._session.draw(self._world.random))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _count_nodes(self) -> None:
        """After each change: so many were up until now, so many are from now on."""
        now = max(self._counted_at, min(self._world.sim.now, self.ends))
        self.node_seconds += self._counted * (now - self._counted_at)
        self._counted_at, self._counted = now, len(self._world.live())
