"""The directory: statements that a node keeps for others, because it is near the object's id. No I/O.

Only signed statements are kept, each until it expires; the highest sequence of a holder wins, a withdrawal stays until
it expires, and a tombstone ends all advertisements of the versions that it covers. Everything is bounded; when full,
what is there stays (long-renewed holders before new ones) and the newcomer is refused.
"""

from typing import NamedTuple, TypeVar

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import (
    Advertisement,
    Tombstone,
    check_descriptor,
    check_may_delete,
    outranks,
    sweeps,
)
from titan_overlay.identity.subnets import public_subnet

MAX_ADVERTISEMENT_SECONDS = 86400.0
MAX_TOMBSTONE_SECONDS = 400 * 86400.0
MAX_PER_OBJECT = 64
MAX_TOMBSTONES_PER_OBJECT = 8
MAX_PER_HOLDER = 20_000
MAX_PER_SUBNET = 40_000
MAX_PER_OBJECT_AND_SUBNET = 8
"""Holders of one object in one public subnet: whoever has many ids has not as many subnets."""
MAX_STATEMENTS = 100_000
EXPIRE_SECONDS = 10.0
"""When full, a search for expired statements is made at most that often."""


_Key = TypeVar("_Key", NodeId, str)


class _Kept:
    """One statement. Tuples of these would do, but many nodes keep many."""

    __slots__ = ("expires", "passing", "raw", "sequence", "subnet", "version", "withdrawn")

    def __init__(self, raw: bytes, value: Advertisement, subnet: str) -> None:
        self.raw = raw
        self.subnet = subnet
        """From which it was sent: proven, unlike the address in it."""
        self.sequence = value.sequence
        self.expires = value.expires
        self.version = value.version
        self.withdrawn = value.withdrawn
        self.passing = value.passing


class _Grave(NamedTuple):
    """One publisher's deletion."""

    raw: bytes
    version: int
    expires: float
    sweeping: bool
    """It ends what others have published, too (`statements.sweeps`): not so of data, which may be held for others."""


class _Shelf:
    """All about one object."""

    __slots__ = ("graves", "holders")

    def __init__(self) -> None:
        self.holders: dict[NodeId, _Kept] = {}
        self.graves: dict[NodeId, _Grave] = {}
        """By publisher."""


class Statements(NamedTuple):
    """What the directory knows of one object, as it was signed."""

    advertisements: list[bytes]
    """Counted holders first, then passing caches, then withdrawals."""
    tombstones: list[bytes]


NOTHING = Statements([], [])


class Directory:
    """Statements by object.

    Args:
        rights: of the pool whose statements to keep; while it is not known which, none are.
        max_statements: of all objects together. max_per_object: holders of one.
    """

    def __init__(
        self, rights: Rights, *, max_statements: int = MAX_STATEMENTS, max_per_object: int = MAX_PER_OBJECT
    ) -> None:
        self._rights = rights
        self._max = max_statements
        self._max_per_object = max_per_object
        self._shelves: dict[ObjectId, _Shelf] = {}
        self._by_holder: dict[NodeId, int] = {}
        self._by_subnet: dict[str, int] = {}
        self._size = 0
        self._expired_at = 0.0

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True  # the stock server replaces storage that is "false"

    def put(self, raw: bytes, now: float, *, sender: Contact | None = None) -> ObjectId | None:
        """Keeps a statement, if it is valid, news, and there is room.

        Args:
            now: unix seconds.
            sender: who sent it, proven; an advertisement is taken from its holder only. None: nobody knows.

        Returns:
            The object's id if the statement is kept now or was already; None if it was not taken.

        Raises:
            BadMessage: no statement of this pool at all (only a liar sends those).
        """
        pool = self._rights.known_pool
        if pool is None:
            return None
        try:
            signed = records.check(raw, Advertisement, pool)
        except BadMessage:
            return self._put_tombstone(raw, now)
        return self._put_advertisement(signed, now, sender)

    def _put_advertisement(self, signed: Signed[Advertisement], now: float, sender: Contact | None) -> ObjectId | None:
        value = signed.value
        if (sender is not None and signed.signer != sender.id) or not self._rights.may_serve(signed.signer):
            return None
        net = public_subnet(sender.ip) if sender is not None else ""
        if not now < value.expires <= now + MAX_ADVERTISEMENT_SECONDS:
            return None
        object_id = ObjectId(value.object_id)
        shelf = self._shelves.get(object_id)
        if shelf is not None and any(version >= value.version for version in self._ended(shelf, now)):
            return None
        known = shelf.holders.get(signed.signer) if shelf is not None else None
        if known is not None and not outranks(value.sequence, signed.raw, known.sequence, known.raw):
            return object_id if known.raw == signed.raw else None
        if known is None and not self._room(shelf, signed.signer, net, value, now):
            return None
        if shelf is None:
            shelf = self._shelves.setdefault(object_id, _Shelf())
        if known is None:
            self._size += 1
            _count(self._by_holder, signed.signer, 1)
            _count(self._by_subnet, net, 1)
        shelf.holders[signed.signer] = _Kept(signed.raw, value, net if known is None else known.subnet)
        return object_id

    def _put_tombstone(self, raw: bytes, now: float) -> ObjectId | None:
        pool = self._rights.pool
        signed = records.check(raw, Tombstone, pool)
        name, publisher = proven(signed, self._rights, now)
        object_id = names.object_id(pool, name)
        if not now < signed.value.expires <= now + MAX_TOMBSTONE_SECONDS:
            return None
        shelf = self._shelves.get(object_id)
        known = shelf.graves.get(publisher) if shelf is not None else None
        if known is not None and (known.version, known.expires) >= (signed.value.version, signed.value.expires):
            return object_id
        if known is None:
            if self._full(now):
                return None
            if shelf is not None and len(shelf.graves) >= MAX_TOMBSTONES_PER_OBJECT:
                return None
            self._size += 1
        shelf = self._shelves.setdefault(object_id, _Shelf())
        sweeping = sweeps(signed, self._rights, now)
        shelf.graves[publisher] = _Grave(raw, signed.value.version, signed.value.expires, sweeping)
        for version in self._ended(shelf, now):
            for holder in [h for h, kept in shelf.holders.items() if kept.version <= version]:
                self._remove(shelf, holder)
        return object_id

    def _ended(self, shelf: _Shelf, now: float) -> list[int]:
        """Versions up to which the object is deleted."""
        return [grave.version for grave in shelf.graves.values() if grave.expires > now and grave.sweeping]

    def _room(self, shelf: _Shelf | None, holder: NodeId, net: str, value: Advertisement, now: float) -> bool:
        if value.withdrawn and shelf is None:
            return False  # takes back what nobody here has heard of
        if self._by_holder.get(holder, 0) >= MAX_PER_HOLDER:
            return False
        if net and not self._subnet_has_room(shelf, net):
            return False
        if self._full(now):
            return False
        if shelf is not None and len(shelf.holders) >= self._max_per_object:
            useless = (h for h, kept in shelf.holders.items() if kept.expires <= now or kept.withdrawn or kept.passing)
            least = next(useless, None)
            if least is None or value.passing:
                return False
            self._remove(shelf, least)
        return True

    def _subnet_has_room(self, shelf: _Shelf | None, net: str) -> bool:
        if self._by_subnet.get(net, 0) >= MAX_PER_SUBNET:
            return False
        return shelf is None or sum(k.subnet == net for k in shelf.holders.values()) < MAX_PER_OBJECT_AND_SUBNET

    def _full(self, now: float) -> bool:
        if self._size >= self._max and now - self._expired_at >= EXPIRE_SECONDS:
            self.expire(now)
        return self._size >= self._max

    def get(self, object_id: bytes, now: float, asker: bytes = b"") -> Statements:
        """What is known of this object and has not expired; counted holders first, then caches, then withdrawals.

        Each asker is given the holders from another one on: only the first few fit in a datagram, and the load is to
        spread over all of them. The order for one asker stays, so that it can read on where it stopped.
        """
        shelf = self._shelves.get(ObjectId(object_id))
        if shelf is None:
            return NOTHING
        kept = [each for each in shelf.holders.values() if each.expires > now]
        kept.sort(key=lambda each: (each.withdrawn, each.passing))
        counted = sum(not (each.withdrawn or each.passing) for each in kept)
        if asker and counted > 1:
            turn = int.from_bytes(asker[:8], "big") % counted
            kept[:counted] = kept[turn:counted] + kept[:turn]
        graves = [grave.raw for grave in shelf.graves.values() if grave.expires > now]
        return Statements([each.raw for each in kept], graves)

    def expire(self, now: float) -> int:
        """Removes what has expired; returns how many. To be called every few minutes."""
        before = self._size
        self._expired_at = now
        for object_id, shelf in list(self._shelves.items()):
            for holder in [h for h, kept in shelf.holders.items() if kept.expires <= now]:
                self._remove(shelf, holder)
            for publisher in [p for p, grave in shelf.graves.items() if grave.expires <= now]:
                del shelf.graves[publisher]
                self._size -= 1
            if not shelf.holders and not shelf.graves:
                del self._shelves[object_id]
        return before - self._size

    def revise(self, now: float) -> None:
        """Rights were taken back: what is kept is looked at again."""
        for shelf in self._shelves.values():
            for holder in [h for h in shelf.holders if not self._rights.may_serve(h)]:
                self._remove(shelf, holder)
            for publisher, grave in list(shelf.graves.items()):
                try:
                    proven(records.check(grave.raw, Tombstone, self._rights.pool), self._rights, now)
                except (BadMessage, Forbidden):
                    del shelf.graves[publisher]
                    self._size -= 1

    def _remove(self, shelf: _Shelf, holder: NodeId) -> None:
        kept = shelf.holders.pop(holder)
        self._size -= 1
        _count(self._by_holder, holder, -1)
        _count(self._by_subnet, kept.subnet, -1)


def _count(counts: dict[_Key, int], key: _Key, change: int) -> None:
    left = counts.get(key, 0) + change
    if left:
        counts[key] = left
    else:
        del counts[key]


def proven(tombstone: Signed[Tombstone], rights: Rights, now: float) -> tuple[str, NodeId]:
    """Name of the object that this tombstone ends, and the publisher of the descriptor in it.

    Raises:
        BadMessage, Forbidden: whoever signed it may not delete that.
    """
    descriptor = check_descriptor(tombstone.value.descriptor, None, rights)
    check_may_delete(tombstone, descriptor, rights, now)
    return descriptor.value.name, descriptor.signer
