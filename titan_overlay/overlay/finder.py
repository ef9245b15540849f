"""Finding: nodes near an id, all nodes of a region, the holders of an object. Chooses how each is looked up."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import zip_longest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, distance
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay import traffic
from titan_overlay.overlay.answers import CONTACTS_PER_REPLY
from titan_overlay.overlay.bodies import FindNode
from titan_overlay.overlay.crawl import Crawl
from titan_overlay.overlay.density import SAMPLE_CLOSEST, Density
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.evidence import Evidence
from titan_overlay.overlay.lookup import BUDGET, PATHS, Lookup
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.overlay.regions import REGION_MAX, REGION_MIN, Region
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.search import PAGES, Found, HolderSearch
from titan_overlay.wire import codec

WALKED = 24
"""Contacts that answer on all paths together, about, before a lookup turns to the union."""
WALKED_MIN = 3
REFRESH_PATHS = 4
REFRESH_WANTED = 2
REGION_PATHS = PATHS
REGION_WANTED = 2
"""A region is read on so many paths, each to so many answers: enough to hear of everybody in it."""
REGION_SECONDS_MAX = 6.0
DOUBTFUL_BITS = 2
"""By so many bits others may see a region wider than this node does."""


class Finder:
    """Runs lookups for one node.

    Args:
        alpha: questions in flight. paths: disjoint paths of a lookup at most. budget: its questions at most.
        copies: nodes expected in an object's region.
        avoided: peers that are asked late, for what is remembered of them.
    """

    def __init__(
        self,
        me: NodeId,
        rights: Rights,
        protocol: OverlayProtocol,
        table: RoutingTable,
        directory: Directory,
        density: Density,
        ambient: Ambient,
        *,
        alpha: int,
        copies: int,
        paths: int = PATHS,
        budget: int = BUDGET,
        avoided: Callable[[NodeId], bool] = lambda node: False,
    ) -> None:
        self._me = me
        self._rights = rights
        self._protocol = protocol
        self._table = table
        self._directory = directory
        self._density = density
        self._ambient = ambient
        self._alpha = alpha
        self._copies = copies
        self._bits = -1
        """Of a region, last."""
        self.paths = paths
        self._budget = budget
        self._avoided = avoided
        self._loop = asyncio.get_running_loop()

    # ---- nodes -----------------------------------------------------------------------------------------------

    async def nodes(
        self,
        target: bytes,
        count: int,
        purpose: int = traffic.LOOKUP,
        *,
        first: int = 0,
        beside: Sequence[Contact] = (),
    ) -> list[Contact]:
        """The `count` closest nodes, closest first, each of which has just answered.

        first: paths that begin at once. beside: contacts to begin from, beside those in the table.
        """
        region = Region.around(target, self._density.region_bits(2 * count))
        with self._lookup(
            target,
            self._points(region) if count > CONTACTS_PER_REPLY else None,
            beside,
            first=first or self._alpha,
            wanted=max(WALKED_MIN, -(-count // self.paths)),
            union=count,
            budget=max(self._budget, 2 * count),
        ) as lookup:
            await self._crawl_nodes(lookup, purpose)
        return lookup.answered(count)

    async def introductions(self, reached: Sequence[Contact], count: int) -> list[Contact]:
        """Contacts from everywhere, for a node that knows nobody but these: what so many disjoint paths begin from.

        One of each reply in turn: the paths begin from the first, which must not all be of one liar.
        """
        askers = [
            self._protocol.call(
                reached[number % len(reached)],
                "find_node",
                codec.encode(FindNode(self._ambient.random.randbytes(ID_BYTES), CONTACTS_PER_REPLY)),
                purpose=traffic.ROUTING,
            )
            for number in range(count)
        ]
        named: list[list[Contact]] = []
        for number, reply in enumerate(await asyncio.gather(*askers, return_exceptions=True)):
            if isinstance(reply, bytes):
                with suppress(BadMessage):
                    told = self._protocol.heard_of(reached[number % len(reached)], reply)
                    named.append(told[:CONTACTS_PER_REPLY])
        return list(dict.fromkeys(each for turn in zip_longest(*named) for each in turn if each is not None))

    async def refresh(self, target: bytes) -> list[Contact]:
        """Walks to a random id: the density of nodes shows, and the closest, which are returned, are for its bucket.

        On several paths: what one liar names would fill the bucket for good. More of them begin only if something is in
        vain, for this is most of what a node sends when nothing else happens.
        """
        with self._lookup(
            target, None, first=REFRESH_PATHS, every=BUDGET, wanted=REFRESH_WANTED, union=SAMPLE_CLOSEST
        ) as lookup:
            await self._crawl_nodes(lookup, traffic.ROUTING)
        closest = lookup.answered(SAMPLE_CLOSEST)
        self._density.observe(target, closest, self._loop.time())
        return closest

    def region_of(self, object_id: ObjectId) -> Region:
        """Where statements about this object are kept, as the density of nodes is seen from here."""
        self._bits = self._density.region_bits(self._copies, self._bits)
        return Region.around(object_id, self._bits)

    def is_near(self, object_id: ObjectId) -> bool:
        """Whether others may take this node for one of the object's region: they see the density otherwise, and tell
        the closest beside it where few are in it.
        """
        return distance(self._me, object_id) < self.region_of(object_id).width << DOUBTFUL_BITS

    async def read_region(self, object_id: ObjectId, region: Region) -> list[Contact]:
        """All nodes of this region and the closest to the object; those that have not proven themselves come last."""
        with self._lookup(
            object_id, self._points(region), first=REGION_PATHS, wanted=REGION_WANTED, union=REGION_MIN
        ) as lookup:
            await self._crawl_nodes(lookup, traffic.ADVERTISE, self._loop.time() + REGION_SECONDS_MAX)
        proven = self._proven(lookup, region)
        others = [c for c in lookup.heard(region.width) if c.id not in proven]
        room = max(0, REGION_MAX - len(proven))
        if len(others) > room:  # far more than chance brings: any of them, for the closest may be the ground ones
            others = self._ambient.random.sample(others, room)
        return [*proven.values(), *others]

    def _proven(self, lookup: Lookup, region: Region) -> dict[bytes, Contact]:
        """Who has answered: of the closest, and of the region."""
        answered = lookup.answered(self._budget)
        return {c.id: c for n, c in enumerate(answered) if n < REGION_MIN or c.long_id in region}

    def _points(self, region: Region) -> Callable[[], bytes]:
        return lambda: region.point(self._ambient.random.random())

    def _lookup(
        self,
        target: bytes,
        aim: Callable[[], bytes] | None,
        beside: Sequence[Contact] = (),
        *,
        budget: int = 0,
        patient: bool = False,
        **shape: int,
    ) -> closing[Lookup]:
        """A lookup of this node, from the contacts in its table and those `beside`; to be entered."""
        lookup = Lookup(
            target,
            self._me,
            lambda near, count: [*self._table.closest(near, count), *beside],
            alpha=self._alpha,
            paths=self.paths,
            aim=aim,
            origin=lambda: self._ambient.random.randbytes(ID_BYTES),
            budget=budget or self._budget,
            patient=patient,
            avoided=self._avoided,
            **shape,
        )
        return closing(lookup)

    async def _crawl_nodes(self, lookup: Lookup, purpose: int, deadline: float | None = None) -> None:
        def ask(aim: bytes) -> bytes:
            return codec.encode(FindNode(aim, CONTACTS_PER_REPLY))

        await Crawl(self._protocol, lookup, "find_node", ask, purpose, self._contacts_in).run(deadline)

    def _contacts_in(self, contact: Contact, body: bytes) -> tuple[Iterable[Contact], bool]:
        return self._protocol.heard_of(contact, body), False

    # ---- holders ---------------------------------------------------------------------------------------------

    async def holders(
        self, object_id: ObjectId, deadline: float | None, everything: bool, avoid: Collection[NodeId]
    ) -> Found:
        """See `Overlay.find_holders`."""
        evidence = Evidence(object_id, self._rights, self._ambient.wall(), avoid)
        own = self._directory.get(object_id, self._ambient.wall())
        evidence.add(own.advertisements, own.tombstones)
        if evidence.conclusive and not everything:
            return Found(evidence.advertisements(), evidence.tombstones, 0, 0)
        region = self.region_of(object_id)
        with self._lookup(
            object_id,
            self._points(region),
            first=self._alpha,
            wanted=max(WALKED_MIN, -(-WALKED // self.paths)),
            expects=region.width,
            within=region.width,
            spare=PAGES if everything or avoid else 0,
            patient=True,
        ) as lookup:
            search = HolderSearch(
                self._protocol, lookup, evidence, object_id, self._ambient.random, everything=everything
            )
            found = await search.run(deadline, self._budget)
        if deadline is not None or lookup.paths < REGION_PATHS:
            return found
        return replace(found, region=tuple(self._proven(lookup, region).values()))
