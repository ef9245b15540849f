"""One search for the holders of an object: asks along a lookup, weighs what is told, turns the page where need be."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from titan_overlay.ambient import Random
from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Tombstone
from titan_overlay.overlay import traffic
from titan_overlay.overlay.answers import CONTACTS_PER_REPLY
from titan_overlay.overlay.bodies import FindHolders, Holders
from titan_overlay.overlay.crawl import Crawl
from titan_overlay.overlay.evidence import Evidence
from titan_overlay.overlay.lookup import Lookup
from titan_overlay.overlay.protocol import OverlayProtocol
from titan_overlay.wire import codec

PAGES = 4
"""Of the budget, what is kept for directories that have more to tell than fits in one datagram.

No more: where the budget comes to its end, liars have eaten it up, and they would have promised the pages, too.
"""


@dataclass(slots=True)
class _Unread:
    """What one node has to tell that did not fit."""

    contact: Contact
    named: dict[int, bytes]
    """Place in its directory -> beginning of the holder's id."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup of holders brought."""

    advertisements: tuple[Signed[Advertisement], ...]
    """Verified, live, one per holder (its latest); counted holders before passing caches."""
    tombstones: tuple[Signed[Tombstone], ...]
    """Proofs that the object (of data: some publisher's pin) was deleted, the highest version first."""
    asked: int
    """Nodes that answered."""
    rpcs: int
    """Requests that were sent."""
    hops: int = 0
    """Requests one after the other up to the first node that knew a holder; 0: known here, or nobody did."""
    paths: int = 0
    """Disjoint paths that were begun."""
    region: tuple[Contact, ...] = ()
    """Of a walk that was as broad as a reading of the region: who has answered, of the region and of the closest."""


class HolderSearch:
    """One search. Ends with the first conclusive answer, unless `everything` is wanted."""

    def __init__(
        self,
        protocol: OverlayProtocol,
        lookup: Lookup,
        evidence: Evidence,
        object_id: ObjectId,
        random: Random,
        *,
        everything: bool,
    ) -> None:
        self._protocol = protocol
        self._lookup = lookup
        self._evidence = evidence
        self._object_id = object_id
        self._random = random
        self._everything = everything
        self._hops = 0
        self._unread: list[_Unread] = []

    async def run(self, deadline: float | None, budget: int) -> Found:
        """At most `budget` requests, until `deadline` (loop time)."""
        lookup, evidence = self._lookup, self._evidence
        crawl = Crawl(self._protocol, lookup, "find_holders", self._request, traffic.LOOKUP, self._read)
        await crawl.run(deadline)
        rpcs = lookup.questions + await self._read_on(budget - lookup.questions, deadline)
        return Found(evidence.advertisements(), evidence.tombstones, crawl.asked, rpcs, self._hops, lookup.paths)

    @property
    def _is_over(self) -> bool:
        return self._evidence.conclusive and not self._everything

    def _request(self, aim: bytes) -> bytes:
        return codec.encode(FindHolders(self._object_id, 0, CONTACTS_PER_REPLY, aim))

    def _read(self, contact: Contact, body: bytes) -> tuple[Iterable[Contact], bool]:
        holders = codec.decode(body, Holders)
        told = self._evidence.add(holders.raws, holders.tombstones, contact.ip)
        if not self._hops and self._evidence.conclusive:
            self._hops = self._lookup.depth(contact)
        if holders.further:
            self._unread.append(_Unread(contact, dict(enumerate(holders.named, len(holders.raws)))))
        if self._is_over:
            self._lookup.finish()
        return self._protocol.heard_of(contact, holders.contacts), told

    async def _read_on(self, budget: int, deadline: float | None) -> int:
        """Further pages of directories, while they have news: one of each in turn, in any order, for some lie.

        Returns the number of requests.
        """
        loop, evidence = asyncio.get_running_loop(), self._evidence
        rpcs = 0
        waiting = deque(self._random.sample(self._unread, len(self._unread)))
        while waiting and rpcs < budget and not self._is_over and (deadline is None or loop.time() < deadline):
            unread = waiting.popleft()
            place = evidence.first_unknown(unread.named)
            if place is None:
                continue
            known = evidence.size
            rpcs += 1
            try:
                body = codec.encode(FindHolders(self._object_id, place, 0))
                reply = await self._protocol.call(unread.contact, "find_holders", body, purpose=traffic.LOOKUP)
                holders = codec.decode(reply, Holders)
            except (LinkError, RemotableError):  # whatever it says: it proves nothing
                continue
            evidence.add(holders.raws, holders.tombstones, unread.contact.ip)
            if evidence.size > known:  # else it names whom it has nothing of
                unread.named |= enumerate(holders.named, place + len(holders.raws))
                waiting.append(unread)
        return rpcs
