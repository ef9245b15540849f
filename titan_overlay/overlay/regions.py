"""Regions: which nodes are closest to an object, remembered from one sweep of advertising to the next. No I/O.

A lookup for T that ended knows all nodes within some distance d of T, hence all nodes of the largest subtree around T
that is no wider than d. Every object in that subtree whose `copies` closest nodes lie in it needs no lookup of its own:
so a sweep costs about one lookup for each dozen *nodes*, however many objects there are.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS

MAX_REGIONS = 4096
REGION_SECONDS = 3600.0
"""After that a region is looked up anew; until then answers to stores keep it up to date."""
MAX_CONTACTS = 40


class _Region:
    __slots__ = ("contacts", "expires", "high", "low")

    def __init__(self, low: int, high: int, contacts: dict[bytes, Contact], expires: float) -> None:
        self.low = low
        self.high = high
        self.contacts = contacts
        self.expires = expires

    def __lt__(self, other: "_Region") -> bool:
        return self.low < other.low


class Regions:
    """Subtrees of the id space whose nodes are all known.

    Args:
        copies: how many of the closest nodes an object's statements go to.
    """

    def __init__(self, copies: int) -> None:
        self._copies = copies
        self._regions: list[_Region] = []
        """By lowest id. They do not overlap."""

    def __len__(self) -> int:
        return len(self._regions)

    def learn(self, target: bytes, closest: Sequence[Contact], now: float, *, everyone: bool = False) -> None:
        """A lookup for `target` found these, closest first, and none closer than the last is missing.

        everyone: there are no others in the whole overlay.
        """
        wanted = int.from_bytes(target, "big")
        if everyone:
            width_bits = ID_BITS
        elif closest:
            width_bits = (closest[-1].long_id ^ wanted).bit_length() - 1
        else:
            return
        width = 1 << max(width_bits, 0)
        low = wanted & ~(width - 1)
        inside: dict[bytes, Contact] = {c.id: c for c in closest if low <= c.long_id < low + width}
        if len(inside) < self._copies and not everyone:
            # Too few in the subtree to answer for its other objects: what is known of this one still holds.
            low, width, inside = wanted, 1, {c.id: c for c in closest[: self._copies]}
        # Subtrees are nested or apart: what the new one covers lies side by side.
        first = bisect_left(self._regions, low, key=lambda region: region.low)
        last = bisect_left(self._regions, low + width, key=lambda region: region.low)
        del self._regions[first:last]
        if first and self._regions[first - 1].high >= low:
            del self._regions[first - 1]
        if len(self._regions) >= MAX_REGIONS:
            del self._regions[min(range(len(self._regions)), key=lambda i: self._regions[i].expires)]
        insort(self._regions, _Region(low, low + width - 1, inside, now + REGION_SECONDS))

    def closest(self, object_id: bytes, now: float) -> list[Contact] | None:
        """The `copies` nodes closest to this id, closest first, if they are known without a lookup."""
        region = self._covering(object_id)
        if region is None:
            return None
        if region.expires <= now:
            self._regions.remove(region)
            return None
        wanted = int.from_bytes(object_id, "big")
        return sorted(region.contacts.values(), key=lambda c: c.long_id ^ wanted)[: self._copies]

    def add(self, object_id: bytes, contact: Contact) -> None:
        """Somebody says that this one is close to the object too."""
        region = self._covering(object_id)
        if region is None or contact.id in region.contacts:
            return
        if region.low == region.high or region.low <= contact.long_id <= region.high:
            region.contacts[contact.id] = contact
            if len(region.contacts) > MAX_CONTACTS:
                self._regions.remove(region)  # the overlay has grown: the next sweep finds narrower ones

    def remove(self, contact: Contact) -> None:
        """It does not answer. A region that has become too small is forgotten."""
        for region in list(self._regions):
            known = region.contacts.get(contact.id)
            if known is not None and known.address == contact.address:
                del region.contacts[contact.id]
                if len(region.contacts) < self._copies:
                    self._regions.remove(region)

    def _covering(self, object_id: bytes) -> _Region | None:
        wanted = int.from_bytes(object_id, "big")
        index = bisect_right(self._regions, wanted, key=lambda region: region.low) - 1
        if index < 0 or self._regions[index].high < wanted:
            return None
        return self._regions[index]
