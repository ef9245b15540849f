"""Who is asked to take a replica: nodes from random places of the pool, those near the object's id last.

Ids are chosen by whoever makes the keys, so where copies go must not follow from ids: who grinds the ids nearest to an
object would be asked first to hold it, and would have all of it. Here each turn begins at points that nobody else can
guess. Crowding around any point is of no use either: of all the ids that crowd there, about one is drawn as often as
any other contact, for a random id has to fall nearer to it than to the rest of the table.

The nodes of the object's region keep what is said about it. They are asked to hold it too when all others have
refused, so that whoever has bought the one has not the other with it. Last of all is the node that asks: in a pool of
one node there is no other.
"""

from collections.abc import Callable

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.overlay.overlay import Overlay

POINTS = 32
"""Random ids of the first turn."""
CORNERS = 4
"""Random corners of the pool that are looked up when those in the table have refused."""
NEAR = 20
"""Nodes of one corner."""


class Candidates:
    """Nodes to ask for one object, in turns: out of the routing table, random corners, and the object's region.

    Args:
        point: draws an id that nobody else can foresee.
    """

    def __init__(self, overlay: Overlay, object_id: ObjectId, point: Callable[[], bytes]) -> None:
        self._overlay = overlay
        self._object_id = object_id
        self._point = point
        self._region = overlay.region_of(object_id)
        self._turns = 0
        self._seen = {overlay.contact.id}
        self._kept_back: list[Contact] = []
        self._itself = [overlay.contact] if overlay.serving else []

    def __aiter__(self) -> "Candidates":
        return self

    async def __anext__(self) -> list[Contact]:
        self._turns += 1
        if self._turns > 1 + CORNERS:
            last = self._of_the_region() if self._turns == 2 + CORNERS else []
            if not last:
                last, self._itself = self._itself, []
            if not last:
                raise StopAsyncIteration
            return last
        found = self._from_table() if self._turns == 1 else await self._overlay.find_nodes(self._point(), NEAR)
        if self._turns > 1 and not found:
            self._turns = 1 + CORNERS  # nobody is reached
        fresh = [each for each in found if each.id not in self._seen]
        self._seen.update(each.id for each in fresh)
        if not self._region.bits:
            return fresh  # the whole pool is the region
        self._kept_back += [each for each in fresh if each.long_id in self._region]
        return [each for each in fresh if each.long_id not in self._region]

    def _of_the_region(self) -> list[Contact]:
        """Those that were met on the way, and those in the table, which random points may all have missed."""
        if not self._region.bits:
            return []
        known = self._overlay.neighbours(self._object_id, NEAR)
        return [
            *self._kept_back,
            *(each for each in known if each.long_id in self._region and each.id not in self._seen),
        ]

    def _from_table(self) -> list[Contact]:
        """No look-up, and the table's contacts are those that have been there for long and so will be."""
        drawn: dict[bytes, Contact] = {}
        for _ in range(POINTS):
            drawn |= {each.id: each for each in self._overlay.neighbours(self._point(), 1)}
        return list(drawn.values())
