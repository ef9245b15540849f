"""Where objects live: remembered, or looked up, and what they are, verified.

ObjectId -> place known?            believed for `PLACE_SECONDS`, corrected by what holders say
         -> look up                 overlay: verified advertisements, first or all
         -> verify the descriptor   asked of several holders at once, then remembered; never an older one
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import aclosing

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, DeadlineExceeded, Forbidden, Gone, NotFound, Unavailable
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import (
    Advertisement,
    Content,
    Descriptor,
    check_descriptor,
    is_in_force,
    may_host,
    prevails,
    sweeps,
)
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Found, Overlay
from titan_overlay.pool.finding.hedging import each_of, hedged
from titan_overlay.pool.finding.witness import Witness
from titan_overlay.wire import codec

PLACES_MAX = 4096
"""Objects whose holders are remembered."""
PLACE_SECONDS = 60.0
"""How long a place is believed before the directory is asked again."""
DIAL_PATIENCE = 1.5
"""Seconds after which a holder that cannot be dialled is left aside for the next."""
SHARED_SECONDS = 0.5
"""So much longer than a look-up will take at most a caller may have time, and still shares it: a thousand messages that
were sent one after the other make one look-up, not a thousand."""
DESCRIBE_PATIENCE = 2.0
"""Seconds that one holder may take to say what the object is."""
DESCRIBE_AT_ONCE = 3
DESCRIBE_LATE = 0.6
"""Seconds after which more of them are asked."""
DESCRIBE_GRACE = 0.3
"""Where others claim to know a newer version, or this one was doubted: they may take this much longer to show it."""
DESCRIBED_SECONDS = 600.0
"""A descriptor that was seen this long ago is asked for anew: of one version, too, there may be another that wins."""
DOUBTED_MAX = 256
HINTS_MAX = 2
_EMPTY = codec.encode({})


def contact_of(advertisement: Signed[Advertisement]) -> Contact:
    """Where the holder that signed this can be reached."""
    return advertisement.value.contact(advertisement.signer)


class Place:
    """Where an object lives, as far as this node knows."""

    __slots__ = ("_contacts", "described", "descriptor", "holders", "learned")

    def __init__(self, descriptor: Signed[Descriptor], holders: list[Signed[Advertisement]], learned: float) -> None:
        self.descriptor = descriptor
        self.holders = holders
        self.learned = learned
        self.described = learned
        """When a holder last showed the descriptor."""
        self._contacts: dict[NodeId, Contact] = {}

    def contact(self, holder: Signed[Advertisement]) -> Contact:
        """Where that holder can be reached."""
        known = self._contacts.get(holder.signer)
        if known is None:
            known = self._contacts[holder.signer] = contact_of(holder)
        return known


class Places:
    """Knows, or finds out, where objects live.

    Args:
        own: the descriptor of what is held here.
    """

    def __init__(
        self,
        overlay: Overlay,
        links: Links,
        ambient: Ambient,
        witness: Witness,
        remembered_max: int = PLACES_MAX,
        own: Callable[[ObjectId], Signed[Descriptor] | None] = lambda object_id: None,
    ) -> None:
        self._own = own
        self._remembered_max = remembered_max
        self._witness = witness
        self._overlay = overlay
        self._links = links
        self._ambient = ambient
        self._places: OrderedDict[ObjectId, Place] = OrderedDict()
        self._looking: dict[ObjectId, tuple[float, asyncio.Future[Place]]] = {}
        """Look-ups under way, and until when."""
        self._doubted: OrderedDict[tuple[ObjectId, Content], None] = OrderedDict()

    def known(self, object_id: ObjectId) -> Place | None:
        """A place that is still believed; no network."""
        place = self._places.get(object_id)
        if place is None or not place.holders:
            return None
        return place if asyncio.get_running_loop().time() - place.learned < PLACE_SECONDS else None

    async def find(
        self,
        object_id: ObjectId,
        *,
        name: str = "",
        deadline: float,
        fresh: bool = False,
        avoid: frozenset[NodeId] = frozenset(),
    ) -> Place:
        """Where the object lives: remembered, or looked up (callers whose time is up about then share a look-up).

        Args:
            fresh: the whole region is asked, whatever is remembered.
            avoid: holders that have failed: the look-up does not end with them.

        Raises:
            NotFound, Gone
        """
        known = None if fresh else self.known(object_id)
        if known is not None:
            self._places.move_to_end(object_id)
            return known
        until, looking = self._looking.get(object_id, (0.0, None))
        if looking is None or until + SHARED_SECONDS < deadline:
            looking = asyncio.ensure_future(self._look_up(object_id, name, deadline, avoid, everything=fresh))
            self._looking[object_id] = deadline, looking
            looking.add_done_callback(lambda done: self._looked_up(object_id, done))
        return await asyncio.shield(looking)

    def _looked_up(self, object_id: ObjectId, done: asyncio.Future[Place]) -> None:
        if self._looking.get(object_id, (0.0, None))[1] is done:
            del self._looking[object_id]
        if not done.cancelled():
            done.exception()  # each waiter sees it; nobody left waiting is no error

    async def _look_up(
        self, object_id: ObjectId, name: str, deadline: float, avoid: frozenset[NodeId], *, everything: bool
    ) -> Place:
        known = self._places.get(object_id)
        tried: set[Contact] = set()
        while True:
            found, holders = await self._holders(object_id, name, deadline, avoid, everything=everything)
            untried = [each for each in holders if contact_of(each) not in tried]
            descriptor = await self._describe(object_id, untried, known, deadline)
            if descriptor is not None:
                break
            if everything and found.tombstones:
                raise Gone(f"{_what(object_id, name)} was deleted")
            if everything:
                raise Unavailable(f"{len(holders)} holders are advertised, none could describe the object")
            # Those heard of first may all have gone since they said so; the whole region knows of others.
            everything = True
            tried.update(map(contact_of, untried))
            avoid |= {each.signer for each in untried}
        holders = [each for each in holders if self.may_host(each, descriptor)]
        if not holders:
            raise NotFound(f"{_what(object_id, name)} has no holder with the right to host it", asked=found.asked)
        self._remember(object_id, descriptor, holders)
        if known is not None and descriptor is known.descriptor:
            self._places[object_id].described = known.described
        return self._places[object_id]

    async def _holders(
        self, object_id: ObjectId, name: str, deadline: float, avoid: frozenset[NodeId], *, everything: bool
    ) -> tuple[Found, list[Signed[Advertisement]]]:
        """Who says that it holds the object; the whole region is asked where nobody else knows."""
        what = _what(object_id, name)
        found = await self._overlay.find_holders(object_id, deadline=deadline, everything=everything, avoid=avoid)
        holders = self._living(found)
        if not holders and not everything:
            found = await self._overlay.find_holders(object_id, deadline=deadline, everything=True, avoid=avoid)
            holders = self._living(found)
        if not holders and found.tombstones:
            raise Gone(f"{what} was deleted")
        if not holders and not found.asked and asyncio.get_running_loop().time() >= deadline:
            raise DeadlineExceeded(f"no time was left to look {what} up; pass a longer timeout")
        if not holders and not found.asked and self._overlay.client:
            raise Unavailable("no node of the pool answers; is your network up, and does a node run?")
        if not holders:
            raise NotFound(
                f"nobody here holds {what} ({found.asked} nodes asked); is it published? see: titan ls",
                asked=found.asked,
            )
        return found, holders

    def _remember(
        self, object_id: ObjectId, descriptor: Signed[Descriptor], holders: list[Signed[Advertisement]]
    ) -> Place:
        place = self._places[object_id] = Place(descriptor, holders, asyncio.get_running_loop().time())
        self._places.move_to_end(object_id)
        while len(self._places) > self._remembered_max:
            self._places.popitem(last=False)
        return place

    def _living(self, found: Found) -> list[Signed[Advertisement]]:
        """Holders of what is not deleted. Data lives while anyone pins it: a proof of deletion ends one pin."""
        holders = [each for each in found.advertisements if not each.value.withdrawn]
        rights, now = self._overlay.rights, self._ambient.wall()
        ended = max((each.value.version for each in found.tombstones if sweeps(each, rights, now)), default=-1)
        return [each for each in holders if each.value.version > ended]

    def may_host(self, advertisement: Signed[Advertisement], descriptor: Signed[Descriptor]) -> bool:
        """Whether this holder has the right to hold this object."""
        return may_host(advertisement, descriptor, self._overlay.rights, self._ambient.wall())

    def revise(self) -> None:
        """Rights were taken back: places that stood on them are looked up anew."""
        for object_id, place in list(self._places.items()):
            try:
                if place.descriptor.value.grant:
                    check_descriptor(place.descriptor.raw, object_id, self._overlay.rights)
            except (BadMessage, Forbidden):
                self._places.pop(object_id)
                continue
            place.holders = [each for each in place.holders if self.may_host(each, place.descriptor)]

    async def _describe(
        self,
        object_id: ObjectId,
        holders: Sequence[Signed[Advertisement]],
        place: Place | None,
        deadline: float,
    ) -> Signed[Descriptor] | None:
        """The verified descriptor, from the first that shows one; None: nobody does. Never older than the one known.

        A holder may show an old version, or of data somebody's false description. So while others claim to hold a newer
        one, or what was shown is doubted or by a right that has ended, those get a little longer.
        """
        newest = max((each.value.version for each in holders), default=0)
        known = place.descriptor if place is not None else self._own(object_id)
        if known is not None and self._is_doubted(object_id, known):
            known = None
        current = known is not None and known.value.version >= newest
        now = asyncio.get_running_loop().time()
        if current and (place is None or now - place.described < DESCRIBED_SECONDS):
            return known
        self._ambient.random.shuffle(order := list(holders))
        order.sort(key=lambda each: self._witness.avoids(each.signer))
        best = known
        shown = False
        outcomes = hedged(
            each_of([contact_of(each) for each in order]),
            lambda contact: self._describe_at(contact, object_id, deadline),
            lambda contact: DESCRIBE_LATE,
            at_once=DESCRIBE_AT_ONCE,
            on_late=lambda contact: self._witness.late(contact.id, f"describing {object_id.hex()[:12]}"),
        )
        try:
            async with aclosing(outcomes), asyncio.timeout_at(deadline) as limit:
                async for contact, outcome in outcomes:
                    if not isinstance(outcome, Signed):
                        self._witness.failed(contact.id, f"describing {object_id.hex()[:12]}", outcome)
                        continue
                    if best is None or self._better(object_id, outcome, best):
                        best = outcome
                    if not shown:
                        limit.reschedule(min(deadline, asyncio.get_running_loop().time() + DESCRIBE_GRACE))
                    shown = True
                    in_force = is_in_force(best, self._overlay.rights, self._ambient.wall())
                    if best.value.version >= newest and in_force and not self._is_doubted(object_id, best):
                        break
        except TimeoutError:
            pass
        return best if shown or current else None

    async def _describe_at(self, contact: Contact, object_id: ObjectId, deadline: float) -> Signed[Descriptor]:
        await self._links.connect(contact, deadline=_patient(deadline, DIAL_PATIENCE))
        body = await self._links.request(
            contact, object_id, "titan.Describe", _EMPTY, deadline=_patient(deadline, DESCRIBE_PATIENCE)
        )
        try:
            return check_descriptor(codec.decode(body, bytes), object_id, self._overlay.rights)
        except (BadMessage, Forbidden) as why:
            self._witness.unproven(contact.id, f"describing {object_id.hex()[:12]}: {why}")
            raise

    def _better(self, object_id: ObjectId, one: Signed[Descriptor], other: Signed[Descriptor]) -> bool:
        doubts = self._is_doubted(object_id, one), self._is_doubted(object_id, other)
        if doubts[0] != doubts[1]:
            return doubts[1]
        return prevails(one, other, self._overlay.rights, self._ambient.wall())

    def doubt(self, object_id: ObjectId, descriptor: Signed[Descriptor]) -> None:
        """Data could not be read as this describes it: other descriptions go first, for anybody may sign one."""
        if descriptor.value.content is None:
            return
        self._doubted[object_id, descriptor.value.content] = None
        while len(self._doubted) > DOUBTED_MAX:
            self._doubted.popitem(last=False)

    def _is_doubted(self, object_id: ObjectId, descriptor: Signed[Descriptor]) -> bool:
        content = descriptor.value.content
        return content is not None and (object_id, content) in self._doubted

    def remember(self, descriptor: Signed[Descriptor], holders: list[Signed[Advertisement]]) -> None:
        """What was just published is found without a look-up."""
        object_id = names.object_id(self._overlay.pool, descriptor.value.name)
        self._remember(object_id, descriptor, holders)

    def forget(self, object_id: ObjectId) -> None:
        """The next message looks the object up anew. What it is stays known: readers never go back."""
        place = self._places.get(object_id)
        if place is not None:
            place.holders = []

    def forget_holder(self, object_id: ObjectId, holder: NodeId) -> None:
        """That holder did not answer, or said that it holds the object no longer."""
        place = self._places.get(object_id)
        if place is not None:
            place.holders = [each for each in place.holders if each.signer != holder]

    def hints(self, object_id: ObjectId) -> list[bytes]:
        """Advertisements of holders known here: a node on somebody's way says so at once."""
        place = self._places.get(object_id)
        if place is None:
            return []
        now = self._ambient.wall()
        return [each.raw for each in place.holders[:HINTS_MAX] if each.value.expires > now]


def _what(object_id: ObjectId, name: str) -> str:
    return repr(name) if name else object_id.hex()[:12]


def _patient(deadline: float, patience: float) -> float:
    return min(deadline, asyncio.get_running_loop().time() + patience)
