"""The directory: statements that a node keeps for others, because it is near the object's id. No I/O.

Only signed statements are kept, each until it expires; the highest sequence of a holder wins, a withdrawal stays until
it expires, and a tombstone ends all advertisements of the versions that it covers. Everything is bounded, and what is
full is shared out (`shelves.py`).
"""

from collections.abc import Callable
from typing import NamedTuple

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import CLOCK_TOLERANCE
from titan_overlay.identity.ids import NodeId, ObjectId, distance
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import (
    Advertisement,
    Descriptor,
    Tombstone,
    check_descriptor,
    check_may_delete,
    outranks,
    sweeps,
    tombstone_seconds,
)
from titan_overlay.identity.subnets import subnet
from titan_overlay.overlay.shelves import MAX_PER_OBJECT, MAX_STATEMENTS, Bringer, Grave, Kept, Place, Shelf, Shelves

MAX_ADVERTISEMENT_SECONDS = 86400.0
MAX_TOMBSTONE_SECONDS = 400 * 86400.0
"""However long the object's policy lets a replica live."""


class Statements(NamedTuple):
    """What the directory knows of one object, as it was signed."""

    advertisements: list[bytes]
    """Counted holders first, then passing caches, then withdrawals."""
    holders: list[NodeId]
    """Who has signed each."""
    tombstones: list[bytes]
    """Those first that end the object, whoever has published it."""
    sweeping: int = 0
    """How many of them do. The others end what one publisher wanted: of data anybody may have such a deletion."""


ELDERS = 8
"""Of an object's holders, those that were advertised first; most objects have no more."""

NOTHING = Statements([], [], [])
NO_SHELF = Shelf()


class Directory:
    """Statements by object.

    Args:
        rights: of the pool whose statements to keep; while it is not known which, none are.
        me: this node's id; what is near to it is kept first.
        max_statements: of all objects together. max_per_object: holders of one.
        near: whether this node may be one of those that are to be told of an object. A tombstone of others is kept only
            where the object is advertised: it costs nothing to delete for a year what never was.
    """

    def __init__(
        self,
        rights: Rights,
        me: bytes = b"",
        *,
        max_statements: int = MAX_STATEMENTS,
        max_per_object: int = MAX_PER_OBJECT,
        near: Callable[[ObjectId], bool] = lambda object_id: True,
    ) -> None:
        self._rights = rights
        self._me = me
        self._near = near
        self._shelves = Shelves(me, max_statements, max_per_object)

    def __len__(self) -> int:
        return self._shelves.size

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
            return self._put_tombstone(records.check(raw, Tombstone, pool), now, sender)
        return self._put_advertisement(signed, now, sender)

    def _put_advertisement(self, signed: Signed[Advertisement], now: float, sender: Contact | None) -> ObjectId | None:
        value, holder = signed.value, signed.signer
        if (sender is not None and holder != sender.id) or not self._rights.may_serve(holder):
            return None
        if not now < value.expires <= now + MAX_ADVERTISEMENT_SECONDS:
            return None
        if sender is not None and not value.may_be_told(sender.ip):
            return None
        object_id = ObjectId(value.object_id)
        shelf = self._shelves.by_object.get(object_id, NO_SHELF)
        if any(g.version >= value.version and g.expires > now and g.sweeping for g in shelf.graves.values()):
            return None
        known = shelf.holders.get(holder)
        if known is not None:
            if not outranks(value.sequence, signed.raw, known.sequence, known.raw):
                return object_id if known.raw == signed.raw else None
            who = Bringer(holder, known.subnet)
        elif value.withdrawn and shelf is NO_SHELF:
            return None  # takes back what nobody here has heard of
        else:
            who = _bringer(holder, sender)
            if not self._shelves.has_room_beside(object_id, value, who, now):
                return None
        self._shelves.keep(object_id, who, Kept(signed.raw, value, who.subnet), holder)
        return object_id

    def _put_tombstone(self, signed: Signed[Tombstone], now: float, sender: Contact | None) -> ObjectId | None:
        value, descriptor = signed.value, proven(signed, self._rights, now)
        name, publisher = descriptor.value.name, descriptor.signer
        object_id = names.object_id(self._rights.pool, name)
        longest = min(tombstone_seconds(descriptor.value.policy) + CLOCK_TOLERANCE, MAX_TOMBSTONE_SECONDS)
        if not now < value.expires <= now + longest:
            return None
        shelf = self._shelves.by_object.get(object_id, NO_SHELF)
        known = shelf.graves.get(publisher)
        if known is not None and (known.version, known.expires) >= (value.version, value.expires):
            return object_id
        if shelf is NO_SHELF and not self._near(object_id):
            return None
        sweeping = sweeps(signed, self._rights, now)
        for holder in [h for h, kept in shelf.holders.items() if sweeping and kept.version <= value.version]:
            self._shelves.remove(Place(object_id, holder))
        who = _bringer(signed.signer, sender) if known is None else known.bringer
        if known is None and not self._shelves.has_room_for_grave(object_id, who, sweeping, now):
            return None
        grave = Grave(signed.raw, value.version, value.expires, sweeping, who)
        self._shelves.keep(object_id, who, grave, publisher)
        return object_id

    def get(self, object_id: bytes, now: float, asker: bytes = b"") -> Statements:
        """What is known of this object and has not expired; counted holders first, then caches, then withdrawals.

        Each asker is given the holders from another one on, and by each node from another one on: only the first few
        fit in a datagram, the load is to spread over all of them, and who asks several nodes is to hear of all. At one
        node the order stays, so that an asker can read on where it stopped. The first is one of those that are known
        longest: whoever falsely says that it holds an object does so after it was published, and there may be many.
        """
        shelf = self._shelves.by_object.get(ObjectId(object_id))
        if shelf is None:
            return NOTHING
        kept = [(holder, each) for holder, each in shelf.holders.items() if each.expires > now]
        kept.sort(key=lambda pair: (pair[1].withdrawn, pair[1].passing))
        counted = sum(not (each.withdrawn or each.passing) for _, each in kept)
        if asker and counted > 1:
            turns, turn = divmod(distance(asker[:8], self._me[:8]), counted)
            elder = kept[turns % min(counted, ELDERS)]
            others = kept[turn:counted] + kept[:turn]
            others.remove(elder)
            kept[:counted] = [elder, *others]
        graves = [grave for grave in shelf.graves.values() if grave.expires > now]
        sweeping = [grave.raw for grave in graves if grave.sweeping]
        of_pins = [grave.raw for grave in graves if not grave.sweeping]
        if asker and of_pins:
            turn = distance(asker[:8], self._me[:8]) % len(of_pins)
            of_pins = of_pins[turn:] + of_pins[:turn]
        raws = [each.raw for _, each in kept]
        return Statements(raws, [holder for holder, _ in kept], sweeping + of_pins, len(sweeping))

    def expire(self, now: float) -> int:
        """Removes what has expired; returns how many. To be called every few minutes."""
        return self._shelves.expire(now)

    def revise(self, now: float) -> None:
        """Rights were taken back: what is kept is looked at again."""
        for object_id, shelf in self._shelves.by_object.items():
            for holder in [h for h in shelf.holders if not self._rights.may_serve(h)]:
                self._shelves.remove(Place(object_id, holder))
            for publisher, grave in list(shelf.graves.items()):
                try:
                    proven(records.check(grave.raw, Tombstone, self._rights.pool), self._rights, now)
                except (BadMessage, Forbidden):
                    self._shelves.remove(Place(object_id, publisher, is_grave=True))


def _bringer(signer: NodeId, sender: Contact | None) -> Bringer:
    return Bringer(signer, "") if sender is None else Bringer(sender.id, subnet(sender.ip, 0))


def proven(tombstone: Signed[Tombstone], rights: Rights, now: float) -> Signed[Descriptor]:
    """The descriptor that this tombstone ends.

    Raises:
        BadMessage, Forbidden: whoever signed it may not delete that.
    """
    descriptor = check_descriptor(tombstone.value.descriptor, None, rights)
    check_may_delete(tombstone, descriptor, rights, now)
    return descriptor
