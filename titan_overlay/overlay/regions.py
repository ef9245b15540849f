"""Regions: the nodes that keep what is said about an object. No I/O.

The region of an id are all ids that share its first bits: a subtree, and a ball of the XOR metric. How many bits
follows from the density of nodes (`density.py`), so that about `directory_copies` nodes lie in it, wherever it is and
whoever crowds into it. All objects in one subtree have the same region; so a sweep of advertising costs about one
lookup for each dozen *nodes*, however many objects there are, and answers to stores keep the regions true in between.
"""

from collections.abc import Iterable
from typing import NamedTuple

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS, ID_BYTES

COPIES = 16
"""Nodes expected in a region: where every second one lies, an honest one is in it in all but 4 of 1,000 cases."""
MAX_REGIONS = 4096
REGION_SECONDS = 3600.0
"""After that a region is looked up anew; until then answers to stores keep it up to date."""
HINT_SECONDS = 60.0
"""What another has told of a region is good for the first advertisement, and for no later one."""
REGION_MIN = 8
"""Statements go to that many of the closest nodes, also where the region holds fewer."""
REGION_MAX = 64
"""Nodes of one region that are told: well above what chance brings, so that ground ids push nobody out."""


class Region(NamedTuple):
    """All ids that share their first `bits` bits with an id."""

    low: int
    bits: int

    @classmethod
    def around(cls, target: bytes, bits: int) -> "Region":
        """The one that this id lies in."""
        return cls(int.from_bytes(target, "big") >> (ID_BITS - bits) << (ID_BITS - bits), bits)

    @property
    def width(self) -> int:
        """Ids in it. Whoever is nearer than that to any of them lies in it too."""
        return 1 << (ID_BITS - self.bits)

    def __contains__(self, long_id: object) -> bool:
        return isinstance(long_id, int) and self.low <= long_id < self.low + self.width

    def point(self, fraction: float) -> bytes:
        """The id that lies so far (0 <= fraction < 1) into it."""
        return (self.low + (int(fraction * (1 << 52)) * self.width >> 52)).to_bytes(ID_BYTES, "big")


class _Known:
    __slots__ = ("contacts", "expires")

    def __init__(self, contacts: dict[bytes, Contact], expires: float) -> None:
        self.contacts = contacts
        self.expires = expires


class Regions:
    """Whom to tell, remembered from one sweep to the next."""

    def __init__(self) -> None:
        self._regions: dict[Region, _Known] = {}
        """Where a region holds too few, what is known of one object is kept under the object's id alone."""

    def __len__(self) -> int:
        return len(self._regions)

    def learn(self, target: bytes, region: Region, contacts: Iterable[Contact], now: float) -> None:
        """A lookup found these: all in the region of `target`, and the closest to it."""
        known: dict[bytes, Contact] = {contact.id: contact for contact in contacts}
        inside = {node: contact for node, contact in known.items() if contact.long_id in region}
        key = region if region.bits == 0 or len(inside) >= REGION_MIN else Region.around(target, ID_BITS)
        self._put(key, _Known(inside if key is region else known, now + REGION_SECONDS))

    def hint(self, target: bytes, region: Region, contacts: Iterable[Contact], now: float) -> None:
        """Another says that these lie in the region. It is believed about this object alone, for a short while, and
        where nothing better is known: what is said of one object must not hide the others of its region.
        """
        inside: dict[bytes, Contact] = {each.id: each for each in contacts if each.long_id in region}
        if len(inside) >= REGION_MIN and self.members(target, region, now) is None:
            some = dict(list(inside.items())[:REGION_MAX])
            self._put(Region.around(target, ID_BITS), _Known(some, now + HINT_SECONDS))

    def _put(self, key: Region, known: _Known) -> None:
        self._regions.pop(key, None)
        if len(self._regions) >= MAX_REGIONS:
            del self._regions[next(iter(self._regions))]
        self._regions[key] = known

    def read(self, region: Region, now: float) -> list[Contact]:
        """All nodes of a region that this node has itself looked up; else nobody."""
        known = self._regions.get(region)
        return list(known.contacts.values()) if known is not None and known.expires > now else []

    def members(self, target: bytes, region: Region, now: float) -> list[Contact] | None:
        """Whom to tell of an object with this id, if that is known without a lookup.

        That there is nobody is not remembered: nobody would tell who has come since.
        """
        if region not in self._regions and region.bits:
            self._narrow(Region.around(target, region.bits - 1), region)
        for key in (region, Region.around(target, ID_BITS)):
            known = self._regions.get(key)
            if known is not None and known.expires > now and known.contacts:
                return list(known.contacts.values())
        return None

    def _narrow(self, wider: Region, region: Region) -> None:
        """More nodes are seen than before: of a region that was read, this half is in use now."""
        known = self._regions.get(wider)
        if known is not None:
            inside = {node: contact for node, contact in known.contacts.items() if contact.long_id in region}
            if len(inside) >= REGION_MIN:
                self._put(region, _Known(inside, known.expires))

    def add(self, target: bytes, region: Region, contact: Contact) -> bool:
        """Somebody says that this one belongs there too. False: that is known, or there is no room for it."""
        for key in (region, Region.around(target, ID_BITS)):
            known = self._regions.get(key)
            if known is not None:
                if contact.id in known.contacts or len(known.contacts) >= REGION_MAX:
                    return False
                known.contacts[contact.id] = contact
                return True
        return False

    def remove(self, contact: Contact) -> bool:
        """It does not answer. Returns whether a region was forgotten for that: too few are left."""
        forgotten = False
        for key, known in list(self._regions.items()):
            held = known.contacts.get(contact.id)
            if held is not None and held.address == contact.address:
                del known.contacts[contact.id]
                if len(known.contacts) < (REGION_MIN if key.bits else 1):
                    del self._regions[key]
                    forgotten = True
        return forgotten
