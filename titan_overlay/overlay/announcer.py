"""Brings statements to the regions of the objects that they are about. In key order, in batches, from memory.

A receiver that knows of more nodes in a region than the sender does names the latest of them; one that is silent is
forgotten. So regions stay right from sweep to sweep without lookups.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from titan_overlay.errors import BadMessage, TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, distance
from titan_overlay.overlay import traffic
from titan_overlay.overlay.bodies import FIT, Store, Stored
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.overlay.regions import REGION_MIN, Region, Regions
from titan_overlay.wire import codec

PASSES = 3
"""A first one, and more for those whom the receivers name."""
IN_FLIGHT = 24
ITEM_BYTES = 8
"""What an item of a batch costs beside its raw bytes."""
NEWCOMERS_PER_REPLY = 2
NEWCOMERS_PER_SWEEP = 8
"""Nodes of one region that are taken on the word of others in one sweep: liars name nodes that do not exist."""
GRACE_SECONDS = 1.0
"""How long nodes that have never proven themselves are waited for when all others have answered."""


class _Item:
    """One statement on its way."""

    __slots__ = ("named", "object_id", "open", "raw", "region", "took", "tried")

    def __init__(self, object_id: ObjectId, raw: bytes, region: Region) -> None:
        self.object_id = object_id
        self.raw = raw
        self.region = region
        self.tried: set[bytes] = set()
        self.took = 0
        self.named = 0
        """Nodes that others have named."""
        self.open = True
        """There is somebody who has not been told."""


_Batch = list[tuple[int, _Item]]
"""For one node: its items, and how many nodes of each one's region are known."""


class Announcer:
    """Stores at the nodes of each object's region.

    Args:
        region: the region of an object. read: its nodes, by a lookup.
        keep: puts into this node's own directory. serving: whether others can find this node.
    """

    def __init__(
        self,
        me: NodeId,
        protocol: OverlayProtocol,
        region: Callable[[ObjectId], Region],
        read: Callable[[ObjectId, Region], Awaitable[list[Contact]]],
        keep: Callable[[bytes], bool],
        serving: Callable[[], bool],
    ) -> None:
        self._me = me
        self._protocol = protocol
        self._region = region
        self._read = read
        self._keep = keep
        self._serving = serving
        self._regions = Regions()
        self._telling: dict[asyncio.Task[None], None] = {}
        self._loop = asyncio.get_running_loop()

    def learn(self, object_id: ObjectId, members: Sequence[Contact]) -> None:
        """A look-up on as many paths as a reading has found these in the object's region, if nothing is known of it."""
        region, now = self._region(object_id), self._loop.time()
        if self._regions.members(object_id, region, now) is None:
            self._regions.learn(object_id, region, members, now)

    def hint(self, object_id: ObjectId, members: Sequence[Contact]) -> None:
        """Another says that these are in the object's region (see `Regions.hint`)."""
        self._regions.hint(object_id, self._region(object_id), members, self._loop.time())

    def read(self, object_id: ObjectId) -> list[Contact]:
        """Nodes of the object's region, as far as this node has lately looked them up."""
        return self._regions.read(self._region(object_id), self._loop.time())

    async def announce(self, statements: Sequence[tuple[ObjectId, bytes]]) -> list[int]:
        """For each statement, how many nodes took it."""
        items = [_Item(object_id, raw, self._region(object_id)) for object_id, raw in statements]
        ordered = sorted(items, key=lambda item: item.object_id)
        for _ in range(PASSES):
            batches = await self._plan([item for item in ordered if item.open])
            if not batches:
                break
            await self._deliver(batches)
        return [item.took for item in items]

    async def _plan(self, items: Iterable[_Item]) -> dict[Contact, _Batch]:
        """Whom to tell what."""
        batches: dict[Contact, _Batch] = {}
        for item in items:
            item.open = False
            members = self._regions.members(item.object_id, item.region, self._loop.time())
            if members is None:
                members = await self._read(item.object_id, item.region)
                self._regions.learn(item.object_id, item.region, members, self._loop.time())
            mine = self._is_mine(item, members)
            if mine and self._me not in item.tried:
                item.tried.add(self._me)
                item.took += self._keep(item.raw)
            for contact in members:
                if contact.id not in item.tried:
                    item.tried.add(contact.id)
                    batches.setdefault(contact, []).append((len(members) + mine, item))
        return batches

    def _is_mine(self, item: _Item, members: Sequence[Contact]) -> bool:
        """Whether this node is one of those to tell."""
        if not self._serving():
            return False
        mine = distance(self._me, item.object_id)
        return mine < item.region.width or sum(distance(c.id, item.object_id) < mine for c in members) < REGION_MIN

    async def _deliver(self, batches: dict[Contact, _Batch]) -> None:
        """To those that are known to be there; the others may answer meanwhile."""
        free = asyncio.Semaphore(IN_FLIGHT)

        async def tell(contact: Contact, batch: _Batch) -> None:
            async with free:
                for part in _datagrams(batch):
                    await self._store(contact, part)

        known = self._protocol.handshakes.by_peer
        ordered = sorted(batches, key=lambda contact: contact.id not in known)
        tasks = [self._loop.create_task(tell(contact, batches[contact])) for contact in ordered]
        proven = tasks[: sum(contact.id in known for contact in ordered)]
        self._telling.update(dict.fromkeys(tasks))
        for task in tasks:
            task.add_done_callback(self._telling.pop)
        if proven:
            await asyncio.wait(proven)
        if len(proven) < len(tasks):
            await asyncio.wait(tasks, timeout=GRACE_SECONDS if proven else None)

    async def _store(self, contact: Contact, batch: _Batch) -> None:
        items = [item for _, item in batch]
        body = codec.encode(Store([item.raw for item in items], items[0].region.bits, [count for count, _ in batch]))
        try:
            reply = await self._protocol.call(contact, "store", body, purpose=traffic.ADVERTISE)
            stored = codec.decode(reply, Stored)
            named = self._protocol.heard_of(contact, stored.contacts)
        except TitanError as why:
            if isinstance(why, BadMessage):
                self._protocol.blame(contact.id, why)
            if self._regions.remove(contact):
                for item in items:
                    item.open = True
            return
        for item, taken in zip(items, stored.taken, strict=False):
            item.took += taken
        for item in items:
            for other in [c for c in named if c.long_id in item.region and c.id != self._me][:NEWCOMERS_PER_REPLY]:
                if item.named == NEWCOMERS_PER_SWEEP or other.id in item.tried:
                    continue
                if self._regions.add(item.object_id, item.region, other):
                    item.named += 1
                    item.open = True


def _datagrams(batch: _Batch) -> list[_Batch]:
    """Parts that fit in a datagram each."""
    parts: list[_Batch] = []
    room = 0
    for count, item in batch:
        size = len(item.raw) + ITEM_BYTES
        if not parts or size > room:
            parts.append([])
            room = FIT
        parts[-1].append((count, item))
        room -= size
    return parts
