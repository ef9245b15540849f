"""Nodes that come and go: whoever leaves does not return, and a new node with a new key comes in its place."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from titan_overlay.errors import TitanError
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations.lifetimes import Lifetime
from titan_simulations.world import World


class Turnover:
    """Departures and arrivals in a world, for some seconds from `begin` on.

    Args:
        session: how long a node stays.
        clean_share: share of departures that are clean stops; the others are crashes.
    """

    def __init__(
        self, world: World, session: Callable[[SimulatedNode], Lifetime], seconds: float, *, clean_share: float = 0.0
    ) -> None:
        self.departures = self.clean = self.arrivals = self.join_failures = 0
        self.node_seconds = 0.0
        self.ends = 0.0
        self._world = world
        self._session = session
        self._seconds = seconds
        self._clean_share = clean_share
        self._counted_at, self._counted = 0.0, 0
        self._under_way: set[asyncio.Task[None]] = set()

    def begin(self, *, fresh: bool = False) -> None:
        """The clock starts: in a pool in balance, where nodes have been there for a while, or with newborns only."""
        self._counted_at, self._counted = self._world.sim.now, len(self._world.live())
        self.ends = self._counted_at + self._seconds
        for node in self._world.live():
            session = self._session(node)
            self._leaves_after(node, (session.draw if fresh else session.residual)(self._world.random))

    def end(self) -> None:
        """Whoever is just coming or going is left alone."""
        self._count_nodes()
        for task in list(self._under_way):
            task.cancel()

    def _leaves_after(self, node: SimulatedNode, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() + seconds < self.ends:
            loop.call_later(seconds, self._depart, node)

    def _depart(self, node: SimulatedNode) -> None:
        if not node.alive or self._world.sim.now >= self.ends:
            return
        self.departures += 1
        if self._world.random.random() < self._clean_share:
            self.clean += 1
            self._spawn(self._leave(node))
        else:
            self._world.kill(node)
            self._count_nodes()
        self._spawn(self._succeed(node))

    async def _leave(self, node: SimulatedNode) -> None:
        await self._world.leave(node)
        self._count_nodes()

    async def _succeed(self, left: SimulatedNode) -> None:
        try:
            node = await self._world.successor(left)
        except (TitanError, TimeoutError, OSError):
            self.join_failures += 1
            return
        self._count_nodes()
        self.arrivals += 1
        self._leaves_after(node, self._session(node).draw(self._world.random))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _count_nodes(self) -> None:
        """After each change: so many were up until now, so many are from now on."""
        now = min(self._world.sim.now, self.ends)
        self.node_seconds += self._counted * (now - self._counted_at)
        self._counted_at, self._counted = now, len(self._world.live())
