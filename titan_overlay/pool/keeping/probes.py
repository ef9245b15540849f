"""Probes: how two nodes show each other that they still hold the objects they share. No I/O.

One exchange serves a pair of nodes and all objects between them. The request carries proofs of the one who asks, the
reply proofs of the one who answers, and either side may begin: the lower NodeId does, the other only after some
silence. Per object 21 bytes go out and 9 come back.

With each object goes a digest of the holders that the sender counts. Only where the digests differ do lists travel,
and what they say is a reason to ask, not to believe.
"""

from collections.abc import Sequence
from hashlib import sha256
from math import inf

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import Contact, pack_addresses
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.keeping.lifecycle import Standing
from titan_overlay.pool.keeping.probe_bodies import (
    ANSWER_BYTES,
    ANSWER_ENDS_SOON,
    ARRIVES,
    BODY_BYTES_MAX,
    BURIED,
    COUNTS,
    DIFFERENT,
    DIGEST_BYTES,
    ENDS_SOON,
    ENTRIES_MAX,
    ENTRY_BYTES,
    HELD,
    LEAVING,
    LOST,
    MEMBERS_MAX,
    NO_PROOF,
    NONCE_BYTES,
    NOT_HERE,
    NOT_READY,
    STATUS,
    UNREADY,
    VIEWS_DIFFER,
    Listing,
    Member,
    Reply,
    Request,
    Version,
)
from titan_overlay.pool.keeping.proofs import PROOF_BYTES, proof, service_digest
from titan_overlay.pool.keeping.roster import SHORT_BYTES, Peer, Replica, Roster
from titan_overlay.wire import codec

UPGRADE_SECONDS = 20.0
"""A holder of an older version has this long to take the newer one."""
LOST_TOLD_SECONDS = 120.0
"""Holders that went are mentioned this long."""


class Changed(msgspec.Struct, frozen=True):
    """What is known about the holders of this object has changed."""

    object_id: ObjectId


class AskSoon(msgspec.Struct, frozen=True):
    """There is reason to probe this node."""

    node: NodeId


class Sample(msgspec.Struct, frozen=True):
    """Read the chunk of this epoch."""

    object_id: ObjectId
    epoch: int


class Buried(msgspec.Struct, frozen=True):
    """That node says the object is deleted."""

    object_id: ObjectId
    contact: Contact


class Newer(msgspec.Struct, frozen=True):
    """That node holds a descriptor that replaces ours."""

    object_id: ObjectId
    contact: Contact
    version: int


class Unentitled(msgspec.Struct, frozen=True):
    """That node holds the object, and has not shown yet that it may."""

    object_id: ObjectId
    contact: Contact


class Unproven(msgspec.Struct, frozen=True):
    """That node says that it holds the object, and its proof does not hold."""

    object_id: ObjectId
    contact: Contact


Effect = Changed | AskSoon | Sample | Buried | Newer | Unentitled | Unproven


class Asked:
    """A request on its way: what is needed to read its reply."""

    __slots__ = ("body", "digests", "nonce", "replicas")

    def __init__(self, body: bytes, nonce: bytes, replicas: list[Replica], digests: list[bytes | None]) -> None:
        self.body = body
        self.nonce = nonce
        self.replicas = replicas
        self.digests = digests


class Conversation:
    """Both sides of probing, over one `Roster`. What follows from a message gathers in `effects`."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.effects: list[Effect] = []
        self.buried: dict[bytes, ObjectId] = {}
        """Deleted objects, by the prefix of their id."""
        self.wrong_proofs = 0

    # ---- asking ----------------------------------------------------------------------------------------------

    def ask(
        self, peer: Peer, replicas: Sequence[Replica], nonce: bytes, epoch: int, now: float, *, leaving: bool = False
    ) -> Asked:
        """A probe of `peer` over at most `ENTRIES_MAX` replicas."""
        ready = [self._digest(each, epoch, epoch) is not None for each in replicas]
        if not all(ready) and all(_had_sample(each, epoch - 1) for each in replicas):
            epoch -= 1  # a new epoch has just begun, and its samples are being read: the last ones serve
        entries = bytearray()
        digests: list[bytes | None] = []
        listings: list[Listing] = []
        room = BODY_BYTES_MAX - 32 - ENTRY_BYTES * len(replicas)
        for index, replica in enumerate(replicas):
            digest = self._digest(replica, epoch, epoch)
            digests.append(digest)
            flags = LEAVING * leaving | UNREADY * (digest is None) | ENDS_SOON * _ends_soon(replica, now)
            shown = proof(digest, nonce, self.roster.me, peer.id) if digest is not None else NO_PROOF
            entries += replica.object_id[:SHORT_BYTES] + shown
            entries += replica.digest().to_bytes(DIGEST_BYTES, "big") + bytes([flags])
            if peer.id in replica.tell:
                listing = self._listing(replica, index, peer.id, now, room)
                if listing is not None:
                    room -= len(codec.encode(listing))
                    listings.append(listing)
                    del replica.tell[peer.id]
        body = codec.encode(Request(epoch, nonce, bytes(entries), tuple(listings)))
        return Asked(body, nonce, list(replicas), digests)

    def absorb(self, contact: Contact, asked: Asked, body: bytes, now: float) -> None:
        """Reads the reply.

        Raises:
            BadMessage: it is none.
        """
        reply = codec.decode(body, Reply)
        if len(reply.answers) != ANSWER_BYTES * len(asked.replicas):
            raise BadMessage("the reply answers another number of objects than were asked for")
        versions = {each.index: each for each in reply.versions}
        listings = {each.index: each for each in reply.listings}
        for index, (replica, digest) in enumerate(zip(asked.replicas, asked.digests, strict=True)):
            if self.roster.replicas.get(replica.object_id) is not replica:
                continue  # dropped or replaced meanwhile
            at = index * ANSWER_BYTES
            status, shown = reply.answers[at], reply.answers[at + 1 : at + ANSWER_BYTES]
            self._judge(contact, replica, digest, asked.nonce, status, shown, versions.get(index), now)
            if status & VIEWS_DIFFER:
                self._compare(contact, replica, listings.get(index), now)

    def _judge(
        self,
        contact: Contact,
        replica: Replica,
        digest: bytes | None,
        nonce: bytes,
        status: int,
        shown: bytes,
        theirs: Version | None,
        now: float,
    ) -> None:
        kind = status & STATUS
        if kind == HELD and digest is not None:
            if shown == proof(digest, nonce, contact.id, self.roster.me):
                self._proven(replica, contact, now, ends_soon=bool(status & ANSWER_ENDS_SOON))
                return
            self.wrong_proofs += 1
            self.effects.append(Unproven(replica.object_id, contact))
        elif kind in (HELD, NOT_READY):
            return  # alive, and nothing shown yet
        if kind == BURIED:
            self.effects.append(Buried(replica.object_id, contact))
        partner = replica.partners.get(contact.id)
        if kind == DIFFERENT and theirs is not None:
            if _replaces(theirs, replica.descriptor):
                self.effects.append(Newer(replica.object_id, contact, theirs.version))
            elif theirs.version < replica.descriptor.value.version and partner is not None:
                # It has just learned so itself, and gets the newer one: nobody else need be recruited.
                partner.until = min(partner.until, now + UPGRADE_SECONDS)
                if now < partner.until:
                    partner.standing = Standing.ARRIVING
                    self.effects.append(Changed(replica.object_id))
                    return
        if self.roster.lose(replica, contact.id, now):
            self.effects.append(Changed(replica.object_id))

    def _compare(self, contact: Contact, replica: Replica, listing: Listing | None, now: float) -> None:
        """Views differ: learn theirs, and tell ours once for each state of it."""
        if listing is not None:
            self._learn(contact, replica, listing, now)
        ours = replica.digest()
        if contact.id in replica.partners and replica.told.get(contact.id, (None, 0))[0] != ours:
            replica.note_told(contact.id, (ours, 0))
            replica.tell[contact.id] = None
            self.effects.append(AskSoon(contact.id))

    # ---- answering -------------------------------------------------------------------------------------------

    def answer(self, contact: Contact, body: bytes, epoch: int, now: float) -> bytes:
        """The reply to a probe of `contact`, whose session has proven its id.

        Raises:
            BadMessage: it is no probe.
        """
        request = codec.decode(body, Request)
        count, rest = divmod(len(request.entries), ENTRY_BYTES)
        if rest or count > ENTRIES_MAX or len(request.nonce) != NONCE_BYTES or not -(2**62) < request.epoch < 2**62:
            raise BadMessage("a probe has a nonce of 8 bytes and at most 40 entries of 21 bytes")
        listings = {each.index: each for each in request.listings}
        answers = bytearray()
        replies: list[Listing] = []
        versions: list[Version] = []
        room = BODY_BYTES_MAX - 16 - ANSWER_BYTES * count
        for index in range(count):
            entry = request.entries[index * ENTRY_BYTES : (index + 1) * ENTRY_BYTES]
            replica = self.roster.by_short(entry[:SHORT_BYTES])
            if replica is None or replica.passing or not replica.settled:
                buried = replica is None and entry[:SHORT_BYTES] in self.buried
                answers += bytes([BURIED if buried else NOT_HERE]) + NO_PROOF
                continue
            status, shown = self._answer_one(contact, replica, request, entry, epoch, now)
            if status & STATUS == DIFFERENT:
                versions.append(_version(index, replica.descriptor))
                room -= 48
            elif not entry[-1] & LEAVING:
                if index in listings:
                    self._learn(contact, replica, listings[index], now)
                theirs = int.from_bytes(entry[SHORT_BYTES + PROOF_BYTES : -1], "big")
                ours = replica.digest()
                if ours != theirs:
                    status |= VIEWS_DIFFER
                    if replica.told.get(contact.id) != (ours, theirs):
                        listing = self._listing(replica, index, contact.id, now, room)
                        if listing is not None:
                            room -= len(codec.encode(listing))
                            replies.append(listing)
                            replica.note_told(contact.id, (ours, theirs))
            answers += bytes([status]) + shown
        return codec.encode(Reply(bytes(answers), tuple(replies), tuple(versions)))

    def _answer_one(
        self, contact: Contact, replica: Replica, request: Request, entry: bytes, epoch: int, now: float
    ) -> tuple[int, bytes]:
        flags = entry[-1]
        if flags & LEAVING:
            if self.roster.lose(replica, contact.id, now):
                self.effects.append(Changed(replica.object_id))
            return HELD, NO_PROOF
        digest = self._digest(replica, request.epoch, epoch)
        if digest is None:
            return NOT_READY, NO_PROOF
        if not flags & UNREADY:
            shown = entry[SHORT_BYTES : SHORT_BYTES + PROOF_BYTES]
            if shown != proof(digest, request.nonce, contact.id, self.roster.me):
                self.wrong_proofs += 1
                self._doubt(replica, contact, now)
                return DIFFERENT, NO_PROOF
            self._proven(replica, contact, now, ends_soon=bool(flags & ENDS_SOON))
        status = HELD | (ANSWER_ENDS_SOON if _ends_soon(replica, now) else 0)
        return status, proof(digest, request.nonce, self.roster.me, contact.id)

    def _proven(self, replica: Replica, contact: Contact, now: float, *, ends_soon: bool) -> None:
        """It holds the object. To hold a service is worth nothing without the right to."""
        if replica.by_right and not ends_soon and replica.entitled.get(contact.id, -inf) <= now:
            self.roster.doubt(replica, contact)
            self.effects.append(Unentitled(replica.object_id, contact))
        elif self.roster.prove(replica, contact, now, ends_soon=ends_soon):
            self.effects.append(Changed(replica.object_id))

    def _doubt(self, replica: Replica, contact: Contact, now: float) -> None:
        """A wrong proof: asks back, to hear which version it holds, unless that was just done."""
        gone = replica.lost.get(contact.id)
        if gone is None or now - gone >= self.roster.pace.probe_interval:
            self.roster.claim(replica, contact)
            self.effects.append(AskSoon(contact.id))

    # ---- both ------------------------------------------------------------------------------------------------

    def _digest(self, replica: Replica, epoch: int, current: int) -> bytes | None:
        """What a proof of this replica is made of; None while the sample is being read."""
        descriptor = replica.descriptor.value
        wanted = epoch if descriptor.kind == "data" else 0
        if wanted in replica.digests:
            return replica.digests[wanted]
        if descriptor.kind != "data":
            replica.digests[0] = service_digest(replica.descriptor)
            return replica.digests[0]
        if abs(epoch - current) <= 1:
            replica.digests[epoch] = None
            for old in sorted(replica.digests)[:-3]:
                del replica.digests[old]
            self.effects.append(Sample(replica.object_id, epoch))
        return None

    def _listing(self, replica: Replica, index: int, to: NodeId, now: float, room: int) -> Listing | None:
        """As many of the known holders as fit."""
        members: list[Member] = []
        for node, partner in replica.partners.items():
            if node != to and partner.standing is not Standing.CLAIMED:
                state = ARRIVES if partner.standing is Standing.ARRIVING else COUNTS
                members.append(Member(node, pack_addresses(partner.peer.contact), state))
        for node, at in replica.lost.items():
            if node != to and now - at < LOST_TOLD_SECONDS:
                members.append(Member(node, b"", LOST))
        start = int(now) % len(members) if len(members) > MEMBERS_MAX else 0
        chosen = (members[start:] + members[:start])[:MEMBERS_MAX]
        while len(codec.encode(Listing(index, tuple(chosen)))) > room:
            if not chosen:
                return None
            chosen.pop()
        return Listing(index, tuple(chosen))

    def _learn(self, by: Contact, replica: Replica, listing: Listing, now: float) -> None:
        """Takes what another holder says as a reason to ask."""
        for member in listing.members[:MEMBERS_MAX]:
            if len(member.id) != ID_BYTES or member.id == self.roster.me:
                continue
            node = NodeId(member.id)
            partner = replica.partners.get(node)
            if member.state == LOST:
                if partner is not None and now - partner.proven > self.roster.pace.probe_retry:
                    # Our first miss is theirs.
                    partner.peer.misses = max(partner.peer.misses, 1)
                    self.effects.append(AskSoon(node))
            elif partner is None and (contact := member.contact(by.ip)) is not None:
                gone = replica.lost.get(node)
                if gone is not None and now - gone < self.roster.pace.probe_interval:
                    continue  # we know better
                if self.roster.claim(replica, contact) is not None:
                    self.effects += (Changed(replica.object_id), AskSoon(node))


def _ends_soon(replica: Replica, now: float) -> bool:
    return now >= replica.counts_until or replica.expires - now <= min(replica.pace.ends_soon, replica.policy.ttl / 10)


def _had_sample(replica: Replica, epoch: int) -> bool:
    return replica.descriptor.value.kind != "data" or replica.digests.get(epoch) is not None


def _version(index: int, descriptor: Signed[Descriptor]) -> Version:
    return Version(index, descriptor.value.version, sha256(descriptor.raw).digest())


def _replaces(theirs: Version, ours: Signed[Descriptor]) -> bool:
    """As `statements.newer`, from the hash alone."""
    mine = sha256(ours.raw).digest()
    if theirs.version != ours.value.version:
        return theirs.version > ours.value.version
    return theirs.descriptor < mine
