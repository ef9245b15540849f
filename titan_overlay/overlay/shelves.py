"""Shelves: the statements that a node keeps for others, in a bounded room that is shared out. No I/O.

What is full goes by max-min fairness. Addresses are what a stranger cannot have many of, so the subnet that has brought
most gives way to those that have brought less, and within a subnet the key that has; of those, what is farthest from
this node, for it is near to others. Who would then have as much as they have is refused: what came first stays.
"""

from collections import Counter
from collections.abc import Iterator
from heapq import nlargest
from typing import NamedTuple, TypeVar

from titan_overlay.identity.ids import NodeId, ObjectId, distance
from titan_overlay.identity.statements import Advertisement

MAX_PER_OBJECT = 64
MAX_PER_KEY = 20_000
MAX_PER_SUBNET = 40_000
MAX_GRAVES_PER_OBJECT = 8
MAX_PER_OBJECT_AND_SUBNET = 8
"""Holders of one object in one public subnet, however much room there is."""
MAX_STATEMENTS = 100_000
EXPIRE_SECONDS = 10.0
"""When full, a search for expired statements is made at most that often."""
SURPLUS = 1 / 64
"""Of the room: what is to go next, if others come, is looked for at once for so much of it. That takes a while, and is
fair to within as much."""

_Key = TypeVar("_Key", NodeId, str)


class Bringer(NamedTuple):
    """Who has brought a statement: proven, unlike the address in it."""

    key: NodeId
    subnet: str
    """As of port 0: a machine is one, however many programs listen there. Empty: nobody knows."""

    @property
    def is_public(self) -> bool:
        return "/" in self.subnet


class Kept:
    """One advertisement. Tuples of these would do, but many nodes keep many."""

    __slots__ = ("expires", "passing", "raw", "sequence", "subnet", "version", "withdrawn")

    def __init__(self, raw: bytes, value: Advertisement, subnet: str) -> None:
        self.raw = raw
        self.subnet = subnet
        """From which its holder has brought it."""
        self.sequence = value.sequence
        self.expires = value.expires
        self.version = value.version
        self.withdrawn = value.withdrawn
        self.passing = value.passing


class Grave(NamedTuple):
    """One publisher's deletion."""

    raw: bytes
    version: int
    expires: float
    sweeping: bool
    """It ends what others have published, too (`statements.sweeps`): not so of data, which may be held for others."""
    bringer: Bringer


class Shelf:
    """All about one object."""

    __slots__ = ("graves", "holders")

    def __init__(self) -> None:
        self.holders: dict[NodeId, Kept] = {}
        self.graves: dict[NodeId, Grave] = {}
        """By publisher."""


class Place(NamedTuple):
    """Where a statement is kept: an advertisement by holder, a deletion by publisher."""

    object_id: ObjectId
    key: NodeId
    is_grave: bool = False


class Shelves:
    """All shelves of one node.

    Args:
        me: the node's id. room: for statements of all objects together. room_per_object: for holders of one.
    """

    def __init__(self, me: bytes, room: int, room_per_object: int) -> None:
        self.by_object: dict[ObjectId, Shelf] = {}
        self.size = 0
        self._me = me
        self._room = room
        self._surplus_max = max(1, int(room * SURPLUS))
        self._room_per_object = room_per_object
        self._by_key: dict[NodeId, int] = {}
        self._by_subnet: dict[str, int] = {}
        self._expired_at = 0.0
        self._surplus: list[Place] = []
        """What is given up next; the last of it first."""

    def keep(self, object_id: ObjectId, who: Bringer, what: Kept | Grave, key: NodeId) -> None:
        """What is there already of this holder or publisher is replaced, and counts for who had brought it."""
        shelf = self.by_object.get(object_id)
        if shelf is None:
            shelf = self.by_object[object_id] = Shelf()
        if self._brought(Place(object_id, key, isinstance(what, Grave))) is None:
            self._count(who, 1)
        if isinstance(what, Grave):
            shelf.graves[key] = what
        else:
            shelf.holders[key] = what

    def remove(self, place: Place) -> None:
        """Forgets a statement that is kept there; not its shelf."""
        brought = self._brought(place)
        assert brought is not None
        shelf = self.by_object[place.object_id]
        if place.is_grave:
            del shelf.graves[place.key]
        else:
            del shelf.holders[place.key]
        self._count(brought, -1)

    def expire(self, now: float) -> int:
        """Removes what has expired, and empty shelves; returns how many statements."""
        before = self.size
        self._expired_at = now
        self._surplus = []
        for object_id, shelf in list(self.by_object.items()):
            for holder in [h for h, kept in shelf.holders.items() if kept.expires <= now]:
                self.remove(Place(object_id, holder))
            for publisher in [p for p, grave in shelf.graves.items() if grave.expires <= now]:
                self.remove(Place(object_id, publisher, is_grave=True))
            if not shelf.holders and not shelf.graves:
                del self.by_object[object_id]
        return before - self.size

    # ---- room ------------------------------------------------------------------------------------------------

    def has_room_for_grave(self, object_id: ObjectId, who: Bringer, sweeping: bool, now: float) -> bool:
        """Whether they may have one deletion more; for which another may be given up, also of the same object."""
        return not self._has_most(who) and self._yard_has_room(object_id, who, sweeping) and self._has_room(who, now)

    def has_room_beside(self, object_id: ObjectId, value: Advertisement, who: Bringer, now: float) -> bool:
        """The same of an advertisement, for which also another holder of the object may be given up."""
        return (
            not self._has_most(who)
            and self._shelf_has_room(object_id, who, value.passing, now)
            and self._has_room(who, now)
        )

    def _has_most(self, who: Bringer) -> bool:
        """Whether they have as much as anybody may, however much room there is."""
        if self._by_key.get(who.key, 0) >= MAX_PER_KEY:
            return True
        return who.is_public and self._by_subnet.get(who.subnet, 0) >= MAX_PER_SUBNET

    def _shelf_has_room(self, object_id: ObjectId, who: Bringer, passing: bool, now: float) -> bool:
        shelf = self.by_object.get(object_id)
        if shelf is None:
            return True
        crowds = Counter(kept.subnet for kept in shelf.holders.values())
        if who.is_public and crowds[who.subnet] >= MAX_PER_OBJECT_AND_SUBNET:
            return False
        if len(shelf.holders) < self._room_per_object:
            return True
        if passing:
            return False
        useless = (h for h, kept in shelf.holders.items() if kept.expires <= now or kept.withdrawn or kept.passing)
        least = next(useless, None)
        if least is None:
            [(largest, count)] = crowds.most_common(1)
            if count <= crowds[who.subnet] + 1:
                return False
            least = next(h for h in reversed(shelf.holders) if shelf.holders[h].subnet == largest)
        self.remove(Place(object_id, least))
        return True

    def _yard_has_room(self, object_id: ObjectId, who: Bringer, sweeping: bool) -> bool:
        """What does not sweep gives way to what does, for of data anybody may have it; else the largest crowd does."""
        shelf = self.by_object.get(object_id)
        if shelf is None or len(shelf.graves) < MAX_GRAVES_PER_OBJECT:
            return True
        graves = {key: grave for key, grave in shelf.graves.items() if sweeping or not grave.sweeping}
        least = next((key for key in reversed(graves) if sweeping and not graves[key].sweeping), None)
        if least is None:
            crowds = Counter(grave.bringer.subnet for grave in graves.values())
            largest = max(crowds, key=crowds.__getitem__, default="")
            if crowds[largest] <= crowds[who.subnet] + 1:
                return False
            least = next(key for key in reversed(graves) if graves[key].bringer.subnet == largest)
        self.remove(Place(object_id, least, is_grave=True))
        return True

    def _has_room(self, who: Bringer, now: float) -> bool:
        if self.size >= self._room and now - self._expired_at >= EXPIRE_SECONDS:
            self.expire(now)
        while self.size >= self._room:
            if not self._surplus:
                self._surplus = self._most_crowded()
            place = self._surplus.pop()
            brought = self._brought(place)
            if brought is None:
                continue  # it has gone already
            if not self._gives_way(brought, who):
                self._surplus.append(place)
                return False
            self.remove(place)
        return True

    def _gives_way(self, one: Bringer, newcomer: Bringer) -> bool:
        """Whether they will still not have less than the newcomer."""
        if one.subnet != newcomer.subnet:
            return self._by_subnet[one.subnet] > self._by_subnet.get(newcomer.subnet, 0) + 1
        return self._by_key[one.key] > self._by_key.get(newcomer.key, 0) + 1

    def _most_crowded(self) -> list[Place]:
        """What the largest subnets have brought; of it what their largest keys have, and the farthest. Largest last."""
        largest: set[str] = set()
        found = 0
        for subnet, count in sorted(self._by_subnet.items(), key=lambda each: -each[1]):
            if found >= self._surplus_max:
                break
            largest.add(subnet)
            found += count
        return [place for *_, place in nlargest(self._surplus_max, self._weighed(largest))][::-1]

    def _weighed(self, subnets: set[str]) -> Iterator[tuple[int, int, int, Place]]:
        """All that these have brought. As there may be very much else, nothing is made of that."""
        for object_id, shelf in self.by_object.items():
            for holder, kept in shelf.holders.items():
                if kept.subnet in subnets:
                    yield self._weigh(Place(object_id, holder), Bringer(holder, kept.subnet))
            for publisher, grave in shelf.graves.items():
                if grave.bringer.subnet in subnets:
                    yield self._weigh(Place(object_id, publisher, is_grave=True), grave.bringer)

    def _weigh(self, place: Place, who: Bringer) -> tuple[int, int, int, Place]:
        """The largest goes first."""
        distant = distance(place.object_id, self._me)
        return self._by_subnet[who.subnet], self._by_key[who.key], distant, place

    def _brought(self, place: Place) -> Bringer | None:
        """Who has brought what is there; None: nothing is."""
        shelf = self.by_object.get(place.object_id)
        if shelf is None:
            return None
        if place.is_grave:
            grave = shelf.graves.get(place.key)
            return None if grave is None else grave.bringer
        kept = shelf.holders.get(place.key)
        return None if kept is None else Bringer(place.key, kept.subnet)

    def _count(self, who: Bringer, change: int) -> None:
        self.size += change
        _add(self._by_key, who.key, change)
        _add(self._by_subnet, who.subnet, change)


def _add(counts: dict[_Key, int], key: _Key, change: int) -> None:
    left = counts.get(key, 0) + change
    if left:
        counts[key] = left
    else:
        del counts[key]
