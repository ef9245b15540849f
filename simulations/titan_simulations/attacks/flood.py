"""Flood: recruits, stores, sends and shakes hands as fast as it can."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from titan_overlay.errors import TitanError
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.statements import Content, Descriptor, Policy
from titan_overlay.links.links import Peer
from titan_overlay.overlay.bodies import Store
from titan_overlay.pool.orders import Recruit
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, HonestAnswer
from titan_simulations.attacks.gang import Known

PER_SECOND = 2.0
"""Deeds of each liar, about. A thousand liars could do more, and the simulator less."""
UNDER_WAY = 16
"""Deeds of each liar at the same time; the next waits."""
JUNK_BYTES = 200_000
PATIENCE_SECONDS = 5.0


class Flood(Attack):
    """Fills directories with holders that hold nothing, recruits' time with contents that never come, and lines."""

    name = "flood"

    async def act(self) -> None:
        random, node = self.liar.random, self.liar.node
        free = asyncio.Semaphore(UNDER_WAY)
        deeds: tuple[Callable[[Known], Awaitable[object]], ...] = (
            self._recruit, self._store, self._send, self._shake_hands,
        )  # fmt: skip

        async def one(deed: Callable[[Known], Awaitable[object]], known: Known) -> None:
            async with free:
                with suppress(TitanError, OSError):
                    await deed(known)

        while True:
            await asyncio.sleep(random.expovariate(PER_SECOND))
            known = self.gang.any_object()
            if known is not None and not free.locked():
                self.gang.counts["deeds"] += 1
                node.spawn(one(random.choice(deeds), known), "flooding")

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        """Who was recruited for junk waits for it."""
        return honest() if self.liar.node.host.get(send.object_id) is not None else None

    def _victim(self, target: bytes) -> Contact | None:
        """Somebody honest near the object: there its directory is kept and its holders are looked for."""
        members = self.gang.members
        near = [each for each in self.liar.node.overlay.neighbours(target, 20) if each.id not in members]
        return self.liar.random.choice(near) if near else None

    async def _recruit(self, known: Known) -> None:
        node, victim = self.liar.node, self._victim(known.object_id)
        if victim is None:
            return
        now = node.ambient.wall()
        digest = self.liar.random.randbytes(32)
        junk = Descriptor(
            name=names.content_name(digest),
            kind="data",
            type="",
            version=int(now * 1000),
            created=now,
            policy=Policy(min_copies=1),
            content=Content(JUNK_BYTES, 256 * 1024, digest),
        )
        order = Recruit(records.sign(junk, node.key, node.overlay.pool).raw, source=node.key.id)
        await self._request(victim, victim.id, "titan.Recruit", codec.encode(order))

    async def _store(self, known: Known) -> None:
        victim = self._victim(known.object_id)
        if victim is not None:
            await self.liar.node.overlay.call(victim, "store", codec.encode(Store([self.liar.claim(known)], 0, [1])))

    async def _send(self, known: Known) -> None:
        victim = self._victim(known.object_id)
        if victim is not None:
            await self._request(victim, known.object_id, "bytes", codec.encode(bytes(JUNK_BYTES // 10)))

    async def _shake_hands(self, known: Known) -> None:
        victim = self._victim(known.object_id)
        if victim is not None:
            await self.liar.node.overlay.protocol.open(victim.address, None)

    async def _request(self, victim: Contact, object_id: bytes, type: str, body: bytes) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        await self.liar.node.links.request(victim, object_id, type, body, deadline=deadline)
