"""What this node answers to others: contacts, statements, receipts. No I/O."""

from collections.abc import Callable, Sequence

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS, ID_BYTES, NodeId, ObjectId
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import (
    FIT,
    FURTHER_MAX,
    NAMED_BY,
    FindHolders,
    FindNode,
    Holders,
    Store,
    Stored,
)
from titan_overlay.overlay.directory import Directory, Statements
from titan_overlay.overlay.regions import Region
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.wire import codec

CONTACTS_PER_REPLY = 8
"""Nobody takes more from one reply (`lookup.ACCEPTED`)."""
NEWCOMERS_PER_REPLY = 4
MAX_ITEMS = 64
"""Statements in one `store`."""


class Answers:
    """Handlers of `find_node`, `find_holders` and `store`.

    serving: nobody stores at a node that cannot be found.
    """

    def __init__(
        self,
        me: NodeId,
        table: RoutingTable,
        directory: Directory,
        ambient: Ambient,
        hints: Callable[[ObjectId], Sequence[bytes]],
    ) -> None:
        self.serving = False
        self._me = me
        self._table = table
        self._directory = directory
        self._ambient = ambient
        self._hints = hints

    def find_node(self, contact: Contact, body: bytes) -> bytes:
        """The closest contacts in the table; never the asker itself."""
        request = codec.decode(body, FindNode)
        if len(request.target) != ID_BYTES:
            raise BadMessage("a target has 32 bytes")
        count = min(max(request.count, 0), CONTACTS_PER_REPLY)
        return bodies.fitting(self._table.closest(request.target, count, contact.id), FIT)

    def find_holders(self, contact: Contact, body: bytes) -> bytes:
        """What the directory keeps and what this node can vouch for, and the closest contacts."""
        request = codec.decode(body, FindHolders)
        if len(request.object_id) != ID_BYTES or len(request.aim) not in (0, ID_BYTES) or request.skip < 0:
            raise BadMessage("an id has 32 bytes")
        known = self._directory.get(request.object_id, self._ambient.wall(), contact.id)
        hints = [raw for raw in self._hints(ObjectId(request.object_id)) if raw not in known.advertisements]
        count = min(max(request.count, 0), CONTACTS_PER_REPLY)
        near = self._table.closest(request.aim or request.object_id, count, contact.id) if count else []
        return _fit(known, hints, request.skip, near)

    def store(self, contact: Contact, body: bytes) -> bytes:
        """Keeps what verifies; names nodes of the same regions that the sender seems not to know."""
        request = codec.decode(body, Store)
        if len(request.raws) != len(request.members) or len(request.raws) > MAX_ITEMS:
            raise BadMessage("a store says for each statement how many know of it")
        if not 0 <= request.bits <= ID_BITS:
            raise BadMessage("a region has 0 to 256 bits")
        taken: list[bool] = []
        told: dict[Region, int] = {}
        now = self._ambient.wall()
        for raw, members in zip(request.raws, request.members, strict=True):
            try:
                object_id = self._directory.put(raw, now, sender=contact) if self.serving else None
            except Forbidden:
                object_id = None
            taken.append(object_id is not None)
            if object_id is not None:
                told[Region.around(object_id, request.bits)] = members
        return codec.encode(Stored(taken, bodies.pack_all(self._newcomers(told, contact))))

    def _newcomers(self, told: dict[Region, int], sender: Contact) -> list[Contact]:
        """The latest contacts in these regions, where this node knows more of them than the sender."""
        found: list[Contact] = []
        for region, members in told.items():
            inside = self._table.within(region.low, region.width, exclude=sender.id)
            me = int.from_bytes(self._me, "big") in region
            if len(inside) + me > members:
                found += inside[-NEWCOMERS_PER_REPLY:]
        return found[:CONTACTS_PER_REPLY]


def _fit(known: Statements, hints: list[bytes], skip: int, near: list[Contact]) -> bytes:
    """A reply that fits in a datagram: the proof of deletion first, then statements, whose are left, and contacts.

    Anybody may publish data and delete it again: of what ends no more than that, one is told, beside the first holder
    and the names of the others.
    """
    raws = known.advertisements + hints
    room = FIT - 24
    others = NAMED_BY * min(FURTHER_MAX, max(0, len(known.holders) - 1))
    spared = len(raws[0]) + 3 + others if raws else 0
    graves: list[bytes] = []
    for number, raw in enumerate(known.tombstones[: known.sweeping + 1] if skip == 0 else []):
        if len(raw) + 3 <= room - (spared if number >= known.sweeping else 0):
            graves.append(raw)
            room -= len(raw) + 3
    fitting: list[bytes] = []
    for raw in raws[skip:]:
        if len(raw) + 3 > room:
            break
        fitting.append(raw)
        room -= len(raw) + 3
    left = known.holders[skip + len(fitting) :][: min(FURTHER_MAX, room // NAMED_BY)]
    further = b"".join(holder[:NAMED_BY] for holder in left)
    contacts = bodies.fitting(near, room - len(further))
    return codec.encode(Holders(contacts, fitting, graves, further))
