"""Keeps the routing table fresh: a tick every quarter of a minute, at most one refresh at a time, never a storm."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from titan_overlay.ambient import Ambient
from titan_overlay.errors import TitanError
from titan_overlay.identity.ids import ID_BYTES
from titan_overlay.overlay.calls import Call
from titan_overlay.overlay.density import Density
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.handshake import Handshakes
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.traffic import ROUTING

TICK_SECONDS = 15.0
PINGS_PER_TICK = 8
SWEEP_TICKS = 4
EXPIRE_TICKS = 20
LOOK_BACK_TICKS = 240
"""An hour. As long a pool that was in two parts may stay so."""


class Upkeep:
    """The clockwork of one overlay.

    Args:
        refresh: looks up a random id, so that its bucket fills with live contacts and the density of nodes is seen.
        join_again: for when everybody has left.
        look_back: sees whether those who are known are but a part of the pool, and joins the rest.
    """

    def __init__(
        self,
        protocol: OverlayProtocol,
        table: RoutingTable,
        handshakes: Handshakes,
        directory: Directory,
        ambient: Ambient,
        density: Density,
        refresh: Callable[[bytes], Awaitable[object]],
        join_again: Callable[[], Awaitable[object]],
        look_back: Callable[[], Coroutine[object, object, None]],
    ) -> None:
        self._protocol = protocol
        self._table = table
        self._handshakes = handshakes
        self._directory = directory
        self._ambient = ambient
        self._density = density
        self._refresh = refresh
        self._join_again = join_again
        self._look_back = look_back
        self._loop = asyncio.get_running_loop()
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._looked_back = 0
        """At this tick."""

    def start(self) -> None:
        """From now on, until `stop`."""
        pause = TICK_SECONDS * (0.8 + 0.4 * self._ambient.random.random())
        self._timer = self._loop.call_later(pause, self._tick)

    def stop(self) -> None:
        """No tick any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._refreshing is not None:
            self._refreshing.cancel()

    def fill(self) -> None:
        """Looks now for what a new node lacks, instead of at the next ticks."""
        if self._is_busy():
            return
        target = self._worth_a_look()
        if target is not None:
            self._refreshing = self._loop.create_task(self._refresh_stale(target))

    def _is_busy(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    def _worth_a_look(self) -> bytes | None:
        """A random id of a stale bucket, or of anywhere while the density of nodes is in doubt."""
        now, random = self._loop.time(), self._ambient.random
        target = self._table.stale(now, random)
        return random.randbytes(ID_BYTES) if target is None and self._density.is_doubtful(now) else target

    def _tick(self) -> None:
        self.start()
        self._ticks += 1
        now = self._loop.time()
        if self._ticks % SWEEP_TICKS == 0:
            self._handshakes.sweep(now)
        if self._ticks % EXPIRE_TICKS == 0:
            self._directory.expire(self._ambient.wall())
        for contact in self._table.due(now, self._heard, PINGS_PER_TICK):
            self._protocol.start(self, contact, "ping", b"", purpose=ROUTING)
        if self._is_busy():
            return
        if self._table.deserted:
            self._refreshing = self._loop.create_task(self._rejoin())
        elif self._ticks - self._looked_back >= LOOK_BACK_TICKS:
            self._looked_back = self._ticks
            self._refreshing = self._loop.create_task(self._look_back())
        else:
            self.fill()

    def _heard(self, node: bytes) -> float:
        session = self._handshakes.by_peer.get(node)
        return session.heard if session is not None else float("-inf")

    async def _refresh_stale(self, target: bytes | None) -> None:
        while target is not None:
            await self._refresh(target)
            target = self._worth_a_look()

    async def _rejoin(self) -> None:
        """Whoever has called meanwhile is no way back: liars call first, and name liars."""
        await self._join_again()
        if len(self._table):
            await self._refresh_stale(self._worth_a_look())

    # ---- Caller ----------------------------------------------------------------------------------------------

    def answered(self, call: Call, body: bytes) -> None:
        session = self._handshakes.by_peer.get(call.contact.id)
        if session is not None and session.serving:
            session.kept = self._table.add(session.contact, self._loop.time(), guest=True)

    def failed(self, call: Call, error: TitanError) -> None:
        """The table has been told by the protocol."""

    def late(self, call: Call) -> None:
        pass
