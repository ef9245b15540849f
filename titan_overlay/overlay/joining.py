"""Joining: from the addresses that a node was given into the overlay, and again when everybody it knew is gone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from titan_overlay.errors import ConfigError, LinkError, TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay import udp
from titan_overlay.overlay.calls import HandshakeRefused
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.overlay.whereabouts import Whereabouts

log = logging.getLogger(__name__)

MAX_SEEDS = 64
SEEDS_AT_ONCE = 4
SEEDS_ENOUGH = 8
JOIN_AGAIN_SECONDS = 2.0
"""Pause between two tries to join again."""


class Joining:
    """Reaches seeds.

    Args:
        settle: makes this node known to its neighbours, through those reached.
        find_seeds: where to join again when nobody that is known answers.
        explain: why a handshake was refused, and what helps.
    """

    def __init__(
        self,
        protocol: OverlayProtocol,
        rights: Rights,
        whereabouts: Whereabouts,
        *,
        settle: Callable[[Sequence[Contact]], Awaitable[object]],
        find_seeds: Callable[[], Sequence[JoinLine]],
        explain: Callable[[HandshakeRefused], str],
    ) -> None:
        self._protocol = protocol
        self._rights = rights
        self._whereabouts = whereabouts
        self._settle = settle
        self._find_seeds = find_seeds
        self._explain = explain
        self.through: list[JoinLine] = []
        """The seeds that have answered, last time."""
        self._again: asyncio.Task[bool] | None = None
        self._again_at = 0.0

    def stop(self) -> None:
        """Tries no more."""
        if self._again is not None:
            self._again.cancel()

    async def join(self, seeds: Sequence[JoinLine]) -> int:
        """See `Overlay.bootstrap`."""
        pools = {seed.pool for seed in seeds if seed.pool} | ({self._rights.known_pool} - {None})
        if len(pools) > 1:
            names = ", ".join(sorted(pool.hex()[:12] for pool in pools if pool))
            raise ConfigError(f"these join lines are of different pools ({names}); a node is in one pool")
        if pools:
            self._rights.found(PoolId(next(iter(pools)) or b""))
        reached: list[Contact] = []
        through: list[JoinLine] = []
        refusals: list[HandshakeRefused] = []
        waiting = list(seeds[:MAX_SEEDS])
        while waiting and len(reached) < SEEDS_ENOUGH:
            now, waiting = waiting[:SEEDS_AT_ONCE], waiting[SEEDS_AT_ONCE:]
            outcomes = await asyncio.gather(*(self._reach(seed) for seed in now))
            for seed, outcome in zip(now, outcomes, strict=True):
                if isinstance(outcome, Contact):
                    reached.append(outcome)
                    through.append(seed)
                elif isinstance(outcome, HandshakeRefused):
                    refusals.append(outcome)
        if not reached:
            if refusals:
                raise ConfigError(f"cannot join: {self._explain(refusals[0])}")
            return 0
        self.through = through
        await self._settle(reached)
        return len(reached)

    async def _reach(self, seed: JoinLine) -> Contact | Exception:
        try:
            address = await udp.resolve(seed.host, seed.port, self._whereabouts.families)
            expected = NodeId(seed.node) if seed.node else None
            me = self._whereabouts.contact
            if expected == me.id or address in me.addresses:
                return LinkError("a node does not join through itself")
            return (await self._protocol.open(address, expected)).contact
        except (LinkError, OSError) as why:
            log.info("seed %s:%d: %s", seed.host, seed.port, why)
            return why

    async def join_again(self, deadline: float | None = None) -> bool:
        """Nobody answers: joins through the seeds anew. False: none answers either, or that was tried just now; or it
        goes on after the deadline (loop time).
        """
        if self._again is None or self._again.done():
            loop = asyncio.get_running_loop()
            if loop.time() < self._again_at:
                return False
            self._again = loop.create_task(self._try_again())
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._again)
        except TimeoutError:
            return False

    async def _try_again(self) -> bool:
        try:
            seeds = self._find_seeds()
            if seeds and await self.join(seeds):
                return True
        except TitanError as why:
            log.info("cannot join again: %s", why)
        self._again_at = asyncio.get_running_loop().time() + JOIN_AGAIN_SECONDS
        return False
