"""What one node knows about the other holders of what it holds: `Roster`. No I/O; time comes as an argument.

Liveness belongs to a pair of nodes (`Peer`: an unanswered probe says something about all objects that both hold);
holding is proven object by object (`Partner`).
"""

from collections.abc import Iterator
from math import inf

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, rank
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor
from titan_overlay.identity.subnets import public_subnet
from titan_overlay.pool.keeping import lifecycle
from titan_overlay.pool.keeping.lifecycle import Holder, Pace, Standing, View

SHORT_BYTES = 8
"""Objects are named by a prefix in probes; another object with the same prefix costs 2**64 hashes to make."""
LOST_MAX = 32
"""Holders found gone that are remembered, for each object: their old advertisements are still in the directory."""
PARTNERS_MAX = 128
"""Other holders known of one object; policies allow at most 64 copies."""


class Peer:
    """Another node with which this one shares objects."""

    __slots__ = ("asked", "busy", "contact", "due", "heard", "misses", "shared", "watched")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.misses = 0
        self.heard = -inf
        """When a datagram of its own last proved that it lives."""
        self.asked = -inf
        self.due = inf
        """When to probe it next."""
        self.busy = False
        """A probe to it is under way."""
        self.shared: dict[ObjectId, None] = {}
        """Objects that it holds too, or is said to (an ordered set)."""
        self.watched: dict[ObjectId, None] = {}
        """Those of them in which it is a neighbour on the ring of ranks."""

    @property
    def id(self) -> NodeId:
        return self.contact.id


class Partner:
    """Another holder of one object."""

    __slots__ = ("ends_soon", "mark", "peer", "proven", "recruited", "standing", "until")

    def __init__(self, peer: Peer, object_id: ObjectId) -> None:
        self.peer = peer
        self.standing = Standing.CLAIMED
        self.proven = -inf
        self.ends_soon = False
        self.until = inf
        """While arriving: how long it is waited for."""
        self.recruited = False
        """This node asked it to hold the object."""
        self.mark = mark(object_id, peer.id)


def mark(object_id: ObjectId, node: NodeId) -> int:
    """32 bits that stand for a holder in the digest of a set of holders."""
    return int.from_bytes(rank(object_id, node)[:4], "big")


class Replica:
    """One object that this node holds, and who else does."""

    __slots__ = (
        "advertisements",
        "asked",
        "asked_right",
        "below_since",
        "by_right",
        "confirming",
        "counts_until",
        "descriptor",
        "digests",
        "due",
        "entitled",
        "expires",
        "last_proof_of_lost",
        "looked_up",
        "looking",
        "lost",
        "me",
        "neighbours",
        "object_id",
        "pace",
        "partners",
        "passing",
        "pinned",
        "policy",
        "recruit_after",
        "recruit_pause",
        "recruiting",
        "settled",
        "short_since",
        "since",
        "subnet",
        "tell",
        "told",
    )

    def __init__(
        self,
        object_id: ObjectId,
        descriptor: Signed[Descriptor],
        me: NodeId,
        pace: Pace,
        now: float,
        *,
        expires: float = inf,
        passing: bool = False,
        pinned: bool = False,
        settled: bool = True,
    ) -> None:
        self.object_id = object_id
        self.descriptor = descriptor
        self.policy = descriptor.value.policy
        """How its copies are kept: of data, for all who want it kept (`pins.united`)."""
        self.me = me
        self.subnet = ""
        """Of this node's address, where that is a public one."""
        self.pace = pace
        self.since = now
        self.expires = expires
        self.counts_until = inf
        self.passing = passing
        self.asked = False
        """This node can show by whom it was asked to hold it."""
        self.pinned = pinned
        self.settled = settled
        self.partners: dict[NodeId, Partner] = {}
        self.lost: dict[NodeId, float] = {}
        """Holders that went, and when; oldest first."""
        self.neighbours: list[NodeId] = []
        self.below_since: float | None = None
        self.short_since: float | None = None
        self.last_proof_of_lost = now
        """Last sign of life of the latest holder that was lost."""
        self.confirming = False
        """Others were asked for fresh proofs."""
        self.recruiting = 0
        self.recruit_after = -inf
        self.recruit_pause = pace.retry_recruit
        self.looked_up = -inf
        self.looking = False
        self.due = inf
        self.advertisements: dict[NodeId, Signed[Advertisement]] = {}
        """As found in the directory: a recruit is told of its co-holders with these."""
        self.by_right = False
        """Holders need a right: one counts only once that was seen."""
        self.entitled: dict[NodeId, float] = {}
        """Holders whose right was seen, and until when it lasts."""
        self.asked_right: dict[NodeId, float] = {}
        """When holders were last asked to show it."""
        self.digests: dict[int, bytes | None] = {}
        """Of samples of the content, by probing epoch; None: being read."""
        self.told: dict[NodeId, tuple[int, int]] = {}
        """To whom the holders known here were listed, at which two differing digests."""
        self.tell: dict[NodeId, None] = {}
        """Who shall be sent that list with the next probe."""

    def note_told(self, node: NodeId, digests: tuple[int, int]) -> None:
        """The holders known here were listed to it. Anybody may ask: those that were told last are remembered."""
        self.told.pop(node, None)
        if len(self.told) >= PARTNERS_MAX:
            del self.told[next(iter(self.told))]
        self.told[node] = digests

    def digest(self) -> int:
        """32 bits that are equal at two holders who know of the same holders."""
        total = mark(self.object_id, self.me)
        for partner in self.partners.values():
            if partner.standing is Standing.PROVEN:
                total ^= partner.mark
        return total

    def view(self) -> View:
        """What `lifecycle.decide` wants to know."""
        holders = tuple(
            Holder(
                p.peer.id,
                p.standing,
                p.proven,
                p.peer.misses,
                p.ends_soon,
                asked=self._was_asked(p.peer.id),
                subnet=public_subnet(p.peer.contact.ip),
            )
            for p in self.partners.values()
        )
        return View(
            object_id=self.object_id,
            kind=self.descriptor.value.kind,
            policy=self.policy,
            me=self.me,
            holders=holders,
            subnet=self.subnet,
            since=self.since,
            expires=self.expires,
            counts_until=self.counts_until,
            passing=self.passing,
            asked=self.asked,
            pinned=self.pinned,
            settled=self.settled,
            below_since=self.below_since,
            short_since=self.short_since,
            recruiting=self.recruiting,
            recruit_after=self.recruit_after,
            looked_up=self.looked_up,
            pace=self.pace,
        )

    def _was_asked(self, node: NodeId) -> bool:
        advertisement = self.advertisements.get(node)
        return advertisement is not None and bool(advertisement.value.lineage)

    def refresh(self, now: float) -> View:
        """Notes since when copies are missing, and gives up on recruits that never arrived."""
        for partner in [p for p in self.partners.values() if p.standing is Standing.ARRIVING and now >= p.until]:
            partner.standing = Standing.CLAIMED
            partner.peer.misses = max(partner.peer.misses, 1)
        view = self.view()
        if lifecycle.counted(view, now) >= view.policy.min_copies:
            self.below_since = None
        elif self.below_since is None:
            self.below_since = now
        view = self.view()
        if lifecycle.needed(view, now) <= 0:
            self.short_since = None
        elif self.short_since is None:
            self.short_since = now
        return self.view()


class Roster:
    """All replicas of this node and all peers that share one with it."""

    def __init__(self, me: NodeId, pace: Pace) -> None:
        self.me = me
        self.pace = pace
        self.replicas: dict[ObjectId, Replica] = {}
        self.peers: dict[NodeId, Peer] = {}
        self._by_short: dict[bytes, Replica] = {}

    def add(self, replica: Replica) -> None:
        self.replicas[replica.object_id] = replica
        self._by_short[replica.object_id[:SHORT_BYTES]] = replica

    def remove(self, object_id: ObjectId) -> Replica | None:
        """The replica is gone, and so are peers with whom nothing else was shared."""
        replica = self.replicas.pop(object_id, None)
        if replica is None:
            return None
        self._by_short.pop(object_id[:SHORT_BYTES], None)
        for node in list(replica.partners):
            self._unlink(replica, node)
        return replica

    def by_short(self, short: bytes) -> Replica | None:
        return self._by_short.get(short)

    def claim(self, replica: Replica, contact: Contact) -> Peer | None:
        """Somebody says that `contact` holds it too. The peer to ask, or None if that is known already."""
        if contact.id == self.me or contact.id in replica.partners or len(replica.partners) >= PARTNERS_MAX:
            return None
        return self._link(replica, contact).peer

    def expect(self, replica: Replica, contact: Contact, until: float) -> Peer | None:
        """`contact` has promised to hold it."""
        if contact.id == self.me:
            return None
        partner = replica.partners.get(contact.id) or self._link(replica, contact)
        partner.recruited = True
        if partner.standing is Standing.CLAIMED:
            partner.standing = Standing.ARRIVING
            partner.until = until
        return partner.peer

    def prove(self, replica: Replica, contact: Contact, now: float, *, ends_soon: bool) -> bool:
        """`contact` has shown that it holds it. Whether that is news: it did not count, or was asked to confirm."""
        partner = replica.partners.get(contact.id)
        if partner is None:
            if len(replica.partners) >= PARTNERS_MAX and not self._make_room(replica):
                return False
            partner = self._link(replica, contact)
        news = partner.standing is not Standing.PROVEN or partner.ends_soon != ends_soon
        partner.standing = Standing.PROVEN
        partner.proven = now
        partner.until = inf
        partner.ends_soon = ends_soon
        replica.lost.pop(contact.id, None)
        if news:
            self._watch(replica)
        return news or replica.confirming

    def _make_room(self, replica: Replica) -> bool:
        """Who is only said to hold it makes way for who does: anybody may say so, of holders that there are not."""
        said = next((node for node, each in replica.partners.items() if each.standing is Standing.CLAIMED), None)
        if said is not None:
            self._unlink(replica, said)
        return said is not None

    def doubt(self, replica: Replica, contact: Contact) -> None:
        """`contact` holds it, but has not shown that it may: it does not count."""
        self.claim(replica, contact)
        partner = replica.partners.get(contact.id)
        if partner is not None and partner.standing is Standing.PROVEN:
            partner.standing = Standing.CLAIMED
            self._watch(replica)

    def lose(self, replica: Replica, node: NodeId, now: float) -> bool:
        """`node` holds it no longer. Whether it was known to."""
        partner = replica.partners.get(node)
        if partner is None:
            return False
        if partner.standing is Standing.PROVEN:
            replica.last_proof_of_lost = partner.proven
        replica.lost[node] = now
        while len(replica.lost) > LOST_MAX:
            del replica.lost[next(iter(replica.lost))]
        self._unlink(replica, node)
        self._watch(replica)
        return True

    def shared_with(self, peer: Peer) -> Iterator[Replica]:
        for object_id in list(peer.shared):
            replica = self.replicas.get(object_id)
            if replica is not None and not replica.passing:
                yield replica

    def _link(self, replica: Replica, contact: Contact) -> Partner:
        peer = self.peers.get(contact.id)
        if peer is None:
            peer = self.peers[contact.id] = Peer(contact)
        peer.shared[replica.object_id] = None
        partner = replica.partners[contact.id] = Partner(peer, replica.object_id)
        return partner

    def _unlink(self, replica: Replica, node: NodeId) -> None:
        partner = replica.partners.pop(node, None)
        replica.tell.pop(node, None)
        replica.told.pop(node, None)
        replica.advertisements.pop(node, None)
        replica.entitled.pop(node, None)
        if partner is None:
            return
        peer = partner.peer
        peer.shared.pop(replica.object_id, None)
        peer.watched.pop(replica.object_id, None)
        if not peer.shared:
            peer.due = inf
            self.peers.pop(node, None)

    def _watch(self, replica: Replica) -> None:
        proven = [node for node, partner in replica.partners.items() if partner.standing is Standing.PROVEN]
        replica.neighbours = lifecycle.neighbours(replica.object_id, replica.me, proven)
        for node, partner in replica.partners.items():
            if node in replica.neighbours:
                partner.peer.watched[replica.object_id] = None
            else:
                partner.peer.watched.pop(replica.object_id, None)
