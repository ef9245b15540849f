"""Brings statements to the nodes closest to the objects they are about. In key order, in batches, from memory.

A receiver that knows more nodes closer to an object than the sender does says so, and names them; one that is silent is
replaced. So regions stay right from sweep to sweep without lookups.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from titan_overlay.errors import BadMessage, TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, distance
from titan_overlay.overlay import traffic
from titan_overlay.overlay.bodies import FIT, Store, Stored
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.overlay.regions import Regions
from titan_overlay.wire import codec

PASSES = 4
"""A first one, and more for what changed since the last sweep: each finds substitutes for those that were silent."""
IN_FLIGHT = 16
ITEM_BYTES = 8
"""What an item of a batch costs beside its raw bytes."""


class _Item:
    """One statement on its way."""

    __slots__ = ("object_id", "open", "raw", "took", "tried")

    def __init__(self, object_id: ObjectId, raw: bytes) -> None:
        self.object_id = object_id
        self.raw = raw
        self.tried: set[bytes] = set()
        self.took = 0
        self.open = True
        """Its region changed: look again whom to tell."""


class Announcer:
    """Stores at the `copies` nodes closest to each object.

    Args:
        find: the nodes closest to an id by a lookup, and whether these are all nodes there are.
        keep: puts into this node's own directory; None while it does not serve.
    """

    def __init__(
        self,
        me: NodeId,
        copies: int,
        protocol: OverlayProtocol,
        find: Callable[[ObjectId], Awaitable[tuple[list[Contact], bool]]],
        keep: Callable[[bytes], bool],
        serving: Callable[[], bool],
    ) -> None:
        self._me = me
        self._copies = copies
        self._protocol = protocol
        self._find = find
        self._keep = keep
        self._serving = serving
        self._regions = Regions(copies)
        self._loop = asyncio.get_running_loop()

    async def announce(self, statements: Sequence[tuple[ObjectId, bytes]]) -> list[int]:
        """For each statement, how many nodes took it."""
        items = [_Item(object_id, raw) for object_id, raw in statements]
        ordered = sorted(items, key=lambda item: item.object_id)
        for _ in range(PASSES):
            batches = await self._plan([item for item in ordered if item.open])
            if not batches:
                break
            await self._deliver(batches)
        return [item.took for item in items]

    async def _plan(self, items: Iterable[_Item]) -> dict[Contact, list[tuple[int, _Item]]]:
        """Whom to tell what: for each node its items and its rank in the region of each."""
        batches: dict[Contact, list[tuple[int, _Item]]] = {}
        for item in items:
            item.open = False
            near = await self._region(item.object_id)
            if self._serving():
                mine = distance(self._me, item.object_id)
                closer = sum(1 for contact in near if distance(contact.id, item.object_id) < mine)
                if closer < self._copies:
                    near = near[: self._copies - 1]
                    if self._me not in item.tried:
                        item.tried.add(self._me)
                        item.took += self._keep(item.raw)
            else:
                closer = self._copies
            for rank, contact in enumerate(near):
                if contact.id not in item.tried:
                    item.tried.add(contact.id)
                    batches.setdefault(contact, []).append((rank + (rank >= closer), item))
        return batches

    async def _region(self, object_id: ObjectId) -> list[Contact]:
        known = self._regions.closest(object_id, self._loop.time())
        if known is None:
            found, everyone = await self._find(object_id)
            self._regions.learn(object_id, found, self._loop.time(), everyone=everyone)
            known = found[: self._copies]
        return known

    async def _deliver(self, batches: dict[Contact, list[tuple[int, _Item]]]) -> None:
        free = asyncio.Semaphore(IN_FLIGHT)

        async def one(contact: Contact, batch: list[tuple[int, _Item]]) -> None:
            async with free:
                await self._store(contact, batch)

        await asyncio.gather(*(one(contact, part) for contact, whole in batches.items() for part in _datagrams(whole)))

    async def _store(self, contact: Contact, batch: list[tuple[int, _Item]]) -> None:
        body = codec.encode(Store([item.raw for _, item in batch], [rank for rank, _ in batch]))
        try:
            reply = await self._protocol.call(contact, "store", body, purpose=traffic.ADVERTISE)
            stored = codec.decode(reply, Stored)
            closer = self._protocol.heard_of(contact, stored.contacts)
        except TitanError as why:
            if isinstance(why, BadMessage):
                self._protocol.blame(contact.id, why)
            self._regions.remove(contact)
            for _, item in batch:
                item.open = True
            return
        for (_, item), taken in zip(batch, stored.taken, strict=False):
            item.took += taken
        for _, item in batch:
            mine = distance(contact.id, item.object_id)
            for other in closer:
                # A neighbour can vouch for those that are closer than itself; it does not know its own rivals.
                if other.id not in item.tried and other.id != self._me and distance(other.id, item.object_id) < mine:
                    self._regions.add(item.object_id, other)
                    item.open = True


def _datagrams(batch: list[tuple[int, _Item]]) -> list[list[tuple[int, _Item]]]:
    """Parts that fit in a datagram each."""
    parts: list[list[tuple[int, _Item]]] = []
    room = 0
    for rank, item in batch:
        size = len(item.raw) + ITEM_BYTES
        if not parts or size > room:
            parts.append([])
            room = FIT
        parts[-1].append((rank, item))
        room -= size
    return parts
