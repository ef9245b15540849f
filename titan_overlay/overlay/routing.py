"""The routing table: which contacts to keep, which to doubt, which to look at again. No I/O.

The table of Kademlia (Maymounkov and Mazieres, sections 2.2 and 2.4) over 256 bits: bucket i holds contacts that share
exactly i leading bits with this node, the last bucket all that share more. Old contacts are preferred: who has been up
for long will be (section 2.3), so a contact is looked at the less often the older it is. A newcomer never displaces
anybody, not even among those that wait for a place: whoever floods a table with fresh ids finds it full. Of one public
subnet there are few contacts in a bucket and in the table, and they enter one after the other (`subnets.py`).

**Who is a candidate.** Liars name liars. If all that were met on the way of some lookup could enter, then with each
generation of newcomers, half of whose introductions come from liars, a larger share of the tables would be theirs. So
contacts come into a bucket in two ways only:

- they were *found*: among the closest to a random point of it, when a lookup of that point had ended. What liars can
  do about this is be there: their share of such places is their share of all nodes. Where they crowd, one point finds
  them alone, so one point brings half of a bucket at most;
- they came as *guests*: they spoke first. Those are drawn by nobody, but a liar may call on everybody, so they get at
  most half of a bucket.

In the last bucket, the own neighbourhood, everybody is welcome: few ids lie there, and all of them are wanted. Of a
newcomer that is the whole table, so what splits off it keeps as many guests as it may have, those that came first.

Where this differs from the stock table: selection of the closest contacts is exact; a contact leaves only after it was
silent `SILENCES` times, with pauses between; a replacement enters only after it answered; nothing here starts
traffic by itself, `due` says what is worth a ping.
"""

from collections.abc import Callable, Iterator
from typing import Any

from kademlia.routing import KBucket
from kademlia.routing import RoutingTable as StockTable

from titan_overlay.ambient import Random
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS, ID_BYTES, NodeId
from titan_overlay.overlay.subnets import Subnets

SILENCES = 2
"""Failed calls (each with a retransmission) after which a contact leaves."""
DOUBT_SECONDS = (5.0, 30.0)
"""Pause before a silent contact is tried again, by silence."""
CHECK_SECONDS_MIN = 300.0
CHECK_SECONDS_MAX = 1800.0
CHECK_SHARE_OF_AGE = 0.5
"""A contact is pinged when it was not heard from for half of the time that it has been known."""
REFRESH_SECONDS = 3600.0
REPLACEMENTS = 8


class Entry:
    """A contact and what is known of its liveness."""

    __slots__ = ("contact", "long_id", "retry_at", "silences", "since")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.long_id: int = contact.long_id
        self.since = now
        self.silences = 0
        self.retry_at = 0.0


class Bucket(KBucket):
    """A stock bucket whose `nodes` are entries and whose replacements wait until they have answered."""

    nodes: dict[bytes, Entry]
    replacement_nodes: dict[bytes, Contact]

    def __init__(self, low: int, high: int, k: int) -> None:
        super().__init__(low, high, k)
        self.nodes = {}
        self.replacement_nodes = {}
        self.max_replacement_nodes = REPLACEMENTS
        self.refreshed = float("-inf")
        self.before = 0
        """Contacts when its last refresh began."""
        self.guests: set[bytes] = set()
        """Ids of those in it, or waiting, that came by themselves."""

    def touch_last_updated(self) -> None:
        """Time is handed in elsewhere (`RoutingTable.touch`); the stock bucket asks the system's clock."""

    def get_nodes(self) -> list[Contact]:
        return [entry.contact for entry in self.nodes.values()]

    def remember(self, contact: Contact, *, guest: bool = False) -> None:
        """A live contact for which there is no place now. It waits, if there is room; those before it stay."""
        waiting = self.replacement_nodes
        has_room = contact.id in waiting or len(waiting) < self.max_replacement_nodes
        if has_room and Subnets.fits(contact, waiting.values()):
            waiting[contact.id] = contact
            if guest:
                self.guests.add(contact.id)

    def admits(self, guest: bytes) -> bool:
        """Whether it has a place for somebody who came by itself."""
        return guest in self.guests or len(self.guests) < int(self.ksize) // 2

    def forget(self, node: bytes) -> Entry | None:
        """It is not there any more; gives back its entry, if it was more than waiting."""
        self.guests.discard(node)
        self.replacement_nodes.pop(node, None)
        return self.nodes.pop(node, None)

    def room(self, contact: Contact) -> int:
        """Places that are free and that nobody waits for longer than this contact."""
        free = int(self.ksize) - len(self.nodes)
        return free if contact.id in self.replacement_nodes else free - len(self.replacement_nodes)


class RoutingTable(StockTable):
    """The contacts of one node.

    Args:
        me: id of this node, which never enters.
        k: contacts a bucket.
        refresh_seconds: a bucket through which no lookup went for about so long is stale.
    """

    buckets: list[Bucket]

    def __init__(self, me: NodeId, k: int, refresh_seconds: float = REFRESH_SECONDS) -> None:
        self._refresh_seconds = refresh_seconds
        self._me = int.from_bytes(me, "big")
        self._size = 0
        self._look_at = 0.0
        """Nothing is due before; hearing from contacts only makes it later."""
        super().__init__(None, k, Contact(me))

    def flush(self) -> None:
        """Forgets all contacts."""
        self._subnets = Subnets()
        self.buckets = [Bucket(0, 2**ID_BITS - 1, self.ksize)]
        self._size = 0
        self.deserted = True
        """Everybody has left, and this node has not joined anew: those in it since have come by themselves."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self.buckets:
            yield from bucket.get_nodes()

    def __contains__(self, node: object) -> bool:
        return isinstance(node, bytes) and node in self._bucket(node).nodes

    def get(self, node: bytes) -> Contact | None:
        """The contact with this id, if it is in the table."""
        entry = self._bucket(node).nodes.get(node)
        return entry.contact if entry else None

    def get_bucket_for(self, node: Any) -> int:
        """Index of the bucket for a (stock) node."""
        return self._index(node.long_id)

    def _index(self, target: int) -> int:
        shared = ID_BITS - (self._me ^ target).bit_length()
        last = len(self.buckets) - 1
        return shared if shared < last else last

    def _bucket(self, node: bytes) -> Bucket:
        return self.buckets[self._index(int.from_bytes(node, "big"))]

    # ---- who is in -------------------------------------------------------------------------------------------

    def add(self, contact: Contact, now: float, *, guest: bool = False) -> bool:
        """A contact that has just proven itself. Returns whether it is in the table now.

        guest: this node did not find it, it came by itself. A known id at a new (proven) address takes the place of the
        old one.
        """
        if contact.long_id == self._me:
            return False
        bucket = self.buckets[self._index(contact.long_id)]
        if not guest:
            bucket.guests.discard(contact.id)
        entry = bucket.nodes.get(contact.id)
        if entry is not None:
            return self._update(bucket, entry, contact, now)
        while len(bucket) >= self.ksize and bucket is self.buckets[-1] and len(self.buckets) < ID_BITS:
            self._split()
            bucket = self.buckets[self._index(contact.long_id)]
        if guest and contact.id in bucket.replacement_nodes:
            guest = contact.id in bucket.guests  # how it came first counts
        if guest and bucket is not self.buckets[-1] and not bucket.admits(contact.id):
            return False
        if not self._subnets.has_room(contact, bucket.get_nodes()):
            return False
        if bucket.room(contact) <= 0 or self._subnets.must_wait(contact, now):
            bucket.remember(contact, guest=guest)
            return False
        if guest:
            bucket.guests.add(contact.id)
        self._look_at = min(self._look_at, now + CHECK_SECONDS_MIN)
        bucket.replacement_nodes.pop(contact.id, None)
        bucket.nodes[contact.id] = Entry(contact, now)
        self._subnets.enter(contact, now)
        self._size += 1
        return True

    def _update(self, bucket: Bucket, entry: Entry, contact: Contact, now: float) -> bool:
        """A contact of the table has proven itself again, perhaps at another address."""
        if entry.contact.address != contact.address:
            self._subnets.leave(entry.contact)
            if not self._subnets.has_room(contact, (c for c in bucket.get_nodes() if c.id != contact.id)):
                bucket.forget(contact.id)
                self._size -= 1
                return False
            self._subnets.enter(contact, now)
        entry.contact = contact
        entry.silences = 0
        return True

    def _split(self) -> None:
        """The last bucket, which holds this node's own place, becomes two."""
        whole = self.buckets[-1]
        depth = len(self.buckets) - 1
        width = 1 << (ID_BITS - depth - 1)
        near = self._me & ~(width - 1)
        far = near ^ width
        here = Bucket(near, near + width - 1, self.ksize)
        there = Bucket(far, far + width - 1, self.ksize)
        here.refreshed = whole.refreshed  # nobody has looked for those farther away
        for entry in whole.nodes.values():
            (here if here.has_in_range(entry) else there).nodes[entry.contact.id] = entry
        for contact in whole.replacement_nodes.values():
            (here if here.has_in_range(contact) else there).remember(contact)
        for each in (here, there):
            each.guests = whole.guests & {*each.nodes, *each.replacement_nodes}
        self.buckets[-1:] = [there, here]
        guests = [node for node in (*there.nodes, *there.replacement_nodes) if node in there.guests]
        for node in guests[self.ksize // 2 :]:  # they were welcome while it was the neighbourhood
            self.remove(node)

    def silent(self, contact: Contact, now: float) -> bool:
        """A call to it got no answer. Returns whether it has left the table for that.

        Only id and address together count: a silent old address says nothing against the peer at its new one.
        """
        bucket = self._bucket(contact.id)
        if bucket.replacement_nodes.get(contact.id) == contact:
            bucket.forget(contact.id)
        entry = bucket.nodes.get(contact.id)
        if entry is None or entry.contact.address != contact.address:
            return False
        if entry.silences and now < entry.retry_at:
            return False  # several calls that failed together are one silence
        entry.silences += 1
        if entry.silences >= SILENCES:
            self.remove(contact.id)
            return True
        self._look_at = now
        entry.retry_at = now + DOUBT_SECONDS[min(entry.silences, len(DOUBT_SECONDS)) - 1]
        return False

    def alive(self, node: bytes) -> None:
        """It answered after all."""
        entry = self._bucket(node).nodes.get(node)
        if entry is not None:
            entry.silences = 0

    def remove(self, node: bytes) -> None:
        """It leaves, whatever is known of it."""
        bucket = self._bucket(node)
        entry = bucket.forget(node)
        if entry is not None:
            self._subnets.leave(entry.contact)
            self._size -= 1
            self.deserted |= not self._size
            if bucket.replacement_nodes:
                self._look_at = 0.0

    # ---- who is close ----------------------------------------------------------------------------------------

    def closest(self, target: bytes, count: int, exclude: bytes = b"") -> list[Contact]:
        """The `count` contacts closest to `target`, exactly, closest first; those in doubt are left out.

        The buckets lie in rings around the target: first the one that shares most bits with it, then all deeper ones
        together, then each shallower one. A ring is complete before the next is looked at.
        """
        wanted = int.from_bytes(target, "big")
        index = self._index(wanted)
        found: list[Contact] = []
        last = len(self.buckets) - 1
        if index < last:
            found += self._ring(index, index, wanted, exclude)
            if len(found) < count:
                found += self._ring(index + 1, last, wanted, exclude)
        else:
            found += self._ring(index, last, wanted, exclude)
        while len(found) < count and index:
            index -= 1
            found += self._ring(index, index, wanted, exclude)
        return found[:count]

    def _ring(self, first: int, last: int, target: int, exclude: bytes) -> list[Contact]:
        far = {
            entry.long_id ^ target: entry.contact
            for bucket in self.buckets[first : last + 1]
            for entry in bucket.nodes.values()
            if not entry.silences
        }
        return [contact for each in sorted(far) if (contact := far[each]).id != exclude]

    def find_neighbors(self, node: Any, k: int | None = None, exclude: Any = None) -> list[Contact]:
        """The stock name of `closest`."""
        return self.closest(node.id, k or self.ksize, exclude.id if exclude is not None else b"")

    def within(self, low: int, width: int, exclude: bytes = b"") -> list[Contact]:
        """All contacts with ids in this subtree (`low` a multiple of `width`, a power of two), the latest last."""
        first = last = self._index(low)
        if self._me // width == low // width:
            last = len(self.buckets) - 1
            first = min(last, ID_BITS + 1 - width.bit_length())
        entries = [
            entry
            for bucket in self.buckets[first : last + 1]
            for entry in bucket.nodes.values()
            if low <= entry.long_id < low + width and not entry.silences and entry.contact.id != exclude
        ]
        entries.sort(key=_since)
        return [entry.contact for entry in entries]

    def estimated_size(self) -> float:
        """Nodes in the overlay, from how densely they lie around this one (this one included).

        Least squares over the distances of the closest contacts: the i-th of n is expected at i / n of the space.
        """
        near = self.closest(self.node.id, self.ksize)
        if len(near) < self.ksize:
            return float(len(near) + 1)
        shares = [(contact.long_id ^ self._me) / 2.0**ID_BITS for contact in near]
        weighted: float = sum(i * share for i, share in enumerate(shares, 1))
        return float(sum(i * i for i in range(1, len(near) + 1))) / weighted

    # ---- what to look at -------------------------------------------------------------------------------------

    def due(self, now: float, heard: Callable[[bytes], float], limit: int) -> list[Contact]:
        """At most `limit` contacts worth a ping now: silent ones to try again, those not heard from for long,
        and replacements where a bucket has room.

        heard: when a valid datagram last came from this id (-inf: never, or no session any more).
        """
        if now < self._look_at:
            return []
        found: list[Contact] = []
        self._look_at = now + CHECK_SECONDS_MAX
        for bucket in self.buckets:
            for entry in bucket.nodes.values():
                when = entry.retry_at if entry.silences else _check_at(entry, heard(entry.contact.id))
                if when <= now:
                    found.append(entry.contact)
                    self._look_at = now
                elif when < self._look_at:
                    self._look_at = when
            room = self.ksize - len(bucket)
            if room > 0 and bucket.replacement_nodes:
                found += list(bucket.replacement_nodes.values())[:room]
            if len(found) >= limit:
                self._look_at = now
                break
        return found[:limit]

    def touch(self, target: bytes, now: float) -> None:
        """Whoever was found near `target` has been entered."""
        self._bucket(target).refreshed = now

    def stale(self, now: float, random: Random) -> bytes | None:
        """A random id in a bucket that is worth a look, if there is one; its refresh begins now.

        That is one with few contacts, while looking finds more: a point names but those next to it. Else it is the one
        that was refreshed longest ago, if that is too long. A full bucket has nothing to gain: its contacts are pinged,
        and nobody displaces them. The deepest bucket is refreshed by looking up an id next to this node's own.
        """
        *others, deepest = self.buckets
        open_ones = [each for each in others if len(each) < self.ksize]
        growing = [each for each in open_ones if each.before < len(each) < self.ksize // 2]
        bucket = growing[0] if growing else min([*open_ones, deepest], key=lambda each: each.refreshed)
        if not growing and now - bucket.refreshed < self._refresh_seconds * (0.8 + 0.4 * random.random()):
            return None
        bucket.refreshed, bucket.before = now, len(bucket)
        return random.randint(*bucket.range).to_bytes(ID_BYTES, "big")


def _check_at(entry: Entry, heard: float) -> float:
    """When to ping a contact that was last heard from then."""
    last = max(heard, entry.since)
    pause = (last - entry.since) * CHECK_SHARE_OF_AGE
    return last + min(max(pause, CHECK_SECONDS_MIN), CHECK_SECONDS_MAX)


def _since(entry: Entry) -> float:
    return entry.since
