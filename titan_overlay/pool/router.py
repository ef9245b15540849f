"""The way of a message: from a name to a live copy and back, within one deadline.

    name -> ObjectId -> held here?            deliver, without a socket
                     -> place known?          (holder cache, invalidated by what holders say)
                     -> look up               (overlay: first verified advertisements)
                     -> verify the descriptor (asked of a holder once, then remembered)
                     -> caller of its kind    (`callers`: data, service; node.py may add more)

A caller tries holders one after the other. Once a request may have run, another holder is tried only where the
message's type is idempotent; otherwise the sender gets `Unavailable(maybe_executed=True)`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    DeadlineExceeded,
    Gone,
    LinkError,
    NotFound,
    NotHere,
    Overloaded,
    RemotableError,
    Unavailable,
)
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right, allows
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor, check_descriptor, newer
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Found, Overlay
from titan_overlay.pool.host import Host, Sender
from titan_overlay.wire import codec

PLACES_MAX = 4096
"""Objects whose holders are remembered."""
DIAL_PATIENCE = 1.5
"""Seconds after which a holder that cannot be dialled is left aside for the next."""
HEDGE_SECONDS = (0.6, 2.0)
"""Shortest and longest wait for an answer before what is idempotent is also sent to another holder."""
DESCRIBE_PATIENCE = 2.0
PLACE_SECONDS = 60.0
"""How long a place is believed before the directory is asked again."""
HINTS_MAX = 2


class Place:
    """Where an object lives, as far as this node knows."""

    __slots__ = ("descriptor", "holders", "learned")

    def __init__(self, descriptor: Signed[Descriptor], holders: list[Signed[Advertisement]], learned: float) -> None:
        self.descriptor = descriptor
        self.holders = holders
        self.learned = learned


class Request:
    """One message on its way."""

    __slots__ = ("body", "chain", "deadline", "object_id", "type")

    def __init__(self, object_id: ObjectId, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]) -> None:
        self.object_id = object_id
        self.type = type
        self.body = body
        self.deadline = deadline
        self.chain = chain


class Caller(Protocol):
    """How objects of one kind are called."""

    async def __call__(self, place: Place, request: Request) -> bytes: ...


def contact_of(advertisement: Signed[Advertisement]) -> Contact:
    """Where the holder that signed this can be reached."""
    return Contact(advertisement.signer, advertisement.value.host, advertisement.value.port)


class Router:
    """Brings messages to objects by name."""

    def __init__(self, overlay: Overlay, links: Links, host: Host, me: Sender, ambient: Ambient) -> None:
        self._overlay = overlay
        self._links = links
        self._host = host
        self._me = me
        self._ambient = ambient
        self._places: OrderedDict[ObjectId, Place] = OrderedDict()
        self._looking: dict[ObjectId, asyncio.Future[Place]] = {}
        self.callers: dict[str, Caller] = {"data": self._call_any, "service": self._call_any}
        self.on_read: Callable[[Place], None] | None = None
        """Told of every place that answered: the opportunistic cache listens."""

    # ---- names -----------------------------------------------------------------------------------------------

    def object_id(self, name: str) -> ObjectId:
        """The id of a name in this pool; `~me/...` is this key's."""
        return names.object_id(self._overlay.pool, names.resolve(name, self._me.public))

    # ---- one message, one reply ------------------------------------------------------------------------------

    async def call(self, name: str, type: str, body: bytes, *, deadline: float, chain: tuple[bytes, ...] = ()) -> bytes:
        """The encoded reply of the object with this name.

        Args:
            deadline: absolute loop time; all tries share it.

        Raises:
            RemotableError: `NotFound`, `Gone`, `Unavailable`, `DeadlineExceeded`, or what the object answered.
        """
        request = Request(self.object_id(name), type, body, deadline, chain)
        try:
            async with asyncio.timeout_at(deadline):
                if self._host.get(request.object_id) is not None:
                    return await self._deliver_here(request)
                if names.space(name) is names.Space.NODE:
                    return await self._call_node(request)
                place = await self.place(request.object_id, name=name, deadline=deadline)
                return await self.callers[place.descriptor.value.kind](place, request)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from {name!r} in the time given; pass a longer timeout or see: titan locate {name}",
                maybe_executed=True,
            ) from None

    async def stream(
        self, name: str, type: str, body: bytes, *, deadline: float, chain: tuple[bytes, ...] = ()
    ) -> AsyncIterator[bytes]:
        """The encoded items that the object answers with, in order. Another holder is tried until the first item."""
        request = Request(self.object_id(name), type, body, deadline, chain)
        if self._host.get(request.object_id) is not None:
            answer = await self._host.deliver(
                self._me, request.object_id, type, body, deadline=deadline, chain=chain, stream=True
            )
            async for item in _items(answer):
                yield item
            return
        if names.space(name) is names.Space.NODE:
            contacts = [await self._node_contact(request.object_id, deadline)]
        else:
            place = await self.place(request.object_id, name=name, deadline=deadline)
            contacts = [contact_of(each) for each in self._order(place)]
        failure: Exception = Unavailable(f"no holder of {name!r} answers")
        for contact in contacts:
            begun = False
            try:
                await self._links.connect(contact, deadline=self._patient(deadline, DIAL_PATIENCE))
                async for item in self._links.stream(
                    contact, request.object_id, type, body, deadline=deadline, chain=chain
                ):
                    begun = True
                    yield item
                return
            except (LinkError, NotHere, Overloaded) as why:
                self.forget_holder(request.object_id, contact.id)
                failure = why
                if begun:
                    raise Unavailable(f"the stream from {name!r} broke: {why}", maybe_executed=True) from None
        raise failure if isinstance(failure, RemotableError) else Unavailable(f"no holder of {name!r}: {failure}")

    async def _deliver_here(self, request: Request) -> bytes:
        answer = await self._host.deliver(
            self._me,
            request.object_id,
            request.type,
            request.body,
            deadline=request.deadline,
            chain=request.chain,
        )
        assert isinstance(answer, bytes), "a stream was not asked for"
        return answer

    # ---- nodes -----------------------------------------------------------------------------------------------

    async def _node_contact(self, node: ObjectId, deadline: float) -> Contact:
        peer = self._links.peer_of(NodeId(node))
        if peer is not None:
            return Contact(peer.id, peer.ip, peer.port)
        nearest = await self._overlay.find_nodes(node, 4)
        for contact in nearest:
            if contact.id == NodeId(node):
                return contact
        raise NotFound(f"node:{node.hex()} is not in this pool now", asked=len(nearest))

    async def _call_node(self, request: Request) -> bytes:
        contact = await self._node_contact(request.object_id, request.deadline)
        return await self.ask(contact, request)

    async def ask(self, contact: Contact, request: Request) -> bytes:
        """One try at one peer; link errors become `Unavailable`."""
        try:
            return await self._links.request(
                contact, request.object_id, request.type, request.body, deadline=request.deadline, chain=request.chain
            )
        except LinkError as why:
            raise Unavailable(
                f"node {contact.id.hex()[:12]} does not answer: {why}", maybe_executed=why.maybe_executed
            ) from None

    # ---- places ----------------------------------------------------------------------------------------------

    async def place(self, object_id: ObjectId, *, name: str = "", deadline: float, fresh: bool = False) -> Place:
        """Where the object lives: remembered, or looked up (concurrent callers share one look-up).

        Raises:
            NotFound, Gone
        """
        now = asyncio.get_running_loop().time()
        known = self._places.get(object_id)
        if known is not None and known.holders and not fresh and now - known.learned < PLACE_SECONDS:
            self._places.move_to_end(object_id)
            return known
        looking = self._looking.get(object_id)
        if looking is None:
            task = asyncio.ensure_future(self._look_up(object_id, name, deadline, everything=fresh))
            looking = self._looking[object_id] = task
            task.add_done_callback(lambda done: self._looked_up(object_id, done))
        return await asyncio.shield(looking)

    def _looked_up(self, object_id: ObjectId, done: asyncio.Future[Place]) -> None:
        self._looking.pop(object_id, None)
        if not done.cancelled():
            done.exception()  # each waiter sees it; nobody left waiting is no error

    async def _look_up(self, object_id: ObjectId, name: str, deadline: float, *, everything: bool) -> Place:
        what = repr(name) if name else object_id.hex()[:12]
        found = await self._overlay.find_holders(object_id, deadline=deadline, everything=everything)
        holders = self._living(found)
        if not holders and not everything:
            found = await self._overlay.find_holders(object_id, deadline=deadline, everything=True)
            holders = self._living(found)
        if not holders and found.tombstone is not None:
            raise Gone(f"{what} was deleted")
        if not holders:
            raise NotFound(
                f"nobody here holds {what} ({found.asked} nodes asked); is it published? see: titan ls",
                asked=found.asked,
            )
        known = self._places.get(object_id)
        descriptor = await self._describe(object_id, holders, known.descriptor if known else None, deadline)
        holders = [each for each in holders if self.may_host(each, descriptor)]
        if not holders:
            raise NotFound(f"{what} has no holder with the right to host it", asked=found.asked)
        place = Place(descriptor, holders, asyncio.get_running_loop().time())
        self._places[object_id] = place
        self._places.move_to_end(object_id)
        while len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
        return place

    def _living(self, found: Found) -> list[Signed[Advertisement]]:
        """Holders of what is not deleted. Data lives while anyone pins it: a proof of deletion ends one pin."""
        holders = [each for each in found.advertisements if not each.value.withdrawn]
        if found.tombstone is None:
            return holders
        pool = self._overlay.pool
        if records.check(found.tombstone.value.descriptor, Descriptor, pool).value.kind == "data":
            return holders
        return [each for each in holders if each.value.version > found.tombstone.value.version]

    def may_host(self, advertisement: Signed[Advertisement], descriptor: Signed[Descriptor]) -> bool:
        """Whether this holder has the right to hold this object. Data verifies itself; the owner's own node may."""
        value = descriptor.value
        if value.policy.bound:
            return value.policy.requires.get("node") in (None, advertisement.signer.hex())
        if value.kind == "data" or value.policy.hosts == "anyone" or advertisement.public == descriptor.public:
            return True
        return advertisement.public == self._overlay.pool or allows(
            advertisement.value.grant,
            self._overlay.pool,
            advertisement.signer,
            Right.HOST,
            value.name,
            self._ambient.wall(),
        )

    async def _describe(
        self,
        object_id: ObjectId,
        holders: Sequence[Signed[Advertisement]],
        known: Signed[Descriptor] | None,
        deadline: float,
    ) -> Signed[Descriptor]:
        """The verified descriptor, from the first holder that has one. Never older than the one known."""
        newest = max(each.value.version for each in holders)
        if known is not None and known.value.version >= newest:
            return known
        failure = "no holder answered"
        for holder in self._by_preference(holders):
            try:
                contact = contact_of(holder)
                await self._links.connect(contact, deadline=self._patient(deadline, DIAL_PATIENCE))
                body = await self._links.request(
                    contact, object_id, "titan.Describe", _EMPTY, deadline=self._patient(deadline, DESCRIBE_PATIENCE)
                )
                raw = codec.decode(body, bytes)
                fresh = check_descriptor(raw, object_id, self._overlay.pool, self._ambient.wall())
            except (LinkError, RemotableError) as why:
                failure = str(why)
                continue
            return fresh if known is None or newer(fresh, known) else known
        raise Unavailable(f"{len(holders)} holders are advertised, none could describe the object: {failure}")

    def remember(self, descriptor: Signed[Descriptor], holders: list[Signed[Advertisement]]) -> None:
        """What was just published is found without a look-up."""
        object_id = names.object_id(self._overlay.pool, descriptor.value.name)
        self._places[object_id] = Place(descriptor, holders, asyncio.get_running_loop().time())

    def forget(self, object_id: ObjectId) -> None:
        """The next message looks the object up anew."""
        self._places.pop(object_id, None)

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

    # ---- any holder will do: data and services ---------------------------------------------------------------

    def _by_preference(self, holders: Sequence[Signed[Advertisement]]) -> list[Signed[Advertisement]]:
        """Power of two choices (Mitzenmacher 2001) by expected wait: of two drawn at random the better comes first."""
        order = list(holders)
        self._ambient.random.shuffle(order)
        if len(order) > 1 and self._cost(order[1].signer) < self._cost(order[0].signer):
            order[0], order[1] = order[1], order[0]
        return order

    def _order(self, place: Place) -> list[Signed[Advertisement]]:
        return self._by_preference(place.holders)

    def _cost(self, node: NodeId) -> float:
        latency = self._links.latency(node)
        return (0.1 if latency is None else latency) * (1 + self._links.in_flight(node))

    async def _call_any(self, place: Place, request: Request) -> bytes:
        """Try holders until one answers; look up anew once when none of those known did."""
        descriptor = place.descriptor.value
        tries = Tries(descriptor.name)
        call = self._hedged if self._is_idempotent(descriptor, request.type) else self._one_by_one
        answer = await call(place, request, tries)
        if answer is None:
            raise tries.failure
        if self.on_read is not None:
            self.on_read(place)
        return answer

    def _is_idempotent(self, descriptor: Descriptor, type: str) -> bool:
        declared = descriptor.idempotent
        return descriptor.kind == "data" or type in declared or type in _HARMLESS or "*" in declared

    async def _candidates(self, place: Place, request: Request, tries: "Tries") -> AsyncIterator[Contact]:
        """The holders known, then those that a fresh look-up brings."""
        for contact in tries.next_of(self._order(place)):
            yield contact
        name = place.descriptor.value.name
        place = await self.place(request.object_id, name=name, deadline=request.deadline, fresh=True)
        for contact in tries.next_of(self._order(place)):
            yield contact

    async def _one_by_one(self, place: Place, request: Request, tries: "Tries") -> bytes | None:
        """What may run only once: the next holder is tried where the last one certainly did not begin.

        Raises:
            Unavailable: it may have begun, and nobody knows.
        """
        async for contact in self._candidates(place, request, tries):
            try:
                return await self._try(contact, request)
            except (NotHere, Overloaded, LinkError) as why:
                self._failed(request.object_id, contact, why, tries)
                if isinstance(why, LinkError) and why.maybe_executed:
                    raise tries.failure from None
        return None

    async def _hedged(self, place: Place, request: Request, tries: "Tries") -> bytes | None:
        """What may run more than once: a holder that keeps us waiting is not given up, but another is asked as well."""
        running: dict[asyncio.Task[bytes], Contact] = {}
        loop = asyncio.get_running_loop()
        try:
            async for contact in self._candidates(place, request, tries):
                running[loop.create_task(self._try(contact, request))] = contact
                answer = await self._first(running, request, tries, self._patience(contact.id))
                if answer is not None:
                    return answer
            return await self._first(running, request, tries, None)
        finally:
            for task, contact in running.items():
                # Another was faster, or time is up: the next message does not begin with this one.
                self.forget_holder(request.object_id, contact.id)
                task.cancel()

    def _patience(self, node: NodeId) -> float:
        """Seconds to wait for one holder before another is asked as well."""
        shortest, longest = HEDGE_SECONDS
        latency = self._links.latency(node)
        return shortest if latency is None else min(longest, max(shortest, 8 * latency))

    async def _first(
        self, running: dict[asyncio.Task[bytes], Contact], request: Request, tries: "Tries", patience: float | None
    ) -> bytes | None:
        """The first answer; None where all have failed, or nobody answered within `patience` seconds."""
        while running:
            done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return None
            for task in [each for each in running if each in done]:
                contact = running.pop(task)
                try:
                    return task.result()
                except (NotHere, Overloaded, LinkError) as why:
                    self._failed(request.object_id, contact, why, tries)
        return None

    def _failed(
        self, object_id: ObjectId, contact: Contact, why: NotHere | Overloaded | LinkError, tries: "Tries"
    ) -> None:
        if not isinstance(why, Overloaded):
            self.forget_holder(object_id, contact.id)
        tries.note(contact, why)

    async def _try(self, contact: Contact, request: Request) -> bytes:
        """One holder. Dialling is given up early: nothing was sent, so the next one may be asked."""
        await self._links.connect(contact, deadline=self._patient(request.deadline, DIAL_PATIENCE))
        return await self._links.request(
            contact, request.object_id, request.type, request.body, deadline=request.deadline, chain=request.chain
        )

    def _patient(self, deadline: float, patience: float) -> float:
        return min(deadline, asyncio.get_running_loop().time() + patience)


class Tries:
    """Holders that were asked for one message, and what to say if none answers."""

    __slots__ = ("_asked", "_name", "failure")

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: set[NodeId] = set()
        self.failure: RemotableError = Unavailable(f"no holder of {name!r} answers; see: titan locate {name}")

    def next_of(self, holders: Sequence[Signed[Advertisement]]) -> Iterator[Contact]:
        """Those not asked yet."""
        for holder in holders:
            if holder.signer not in self._asked:
                self._asked.add(holder.signer)
                yield contact_of(holder)

    def note(self, contact: Contact, why: NotHere | Overloaded | LinkError) -> None:
        """A holder failed."""
        if isinstance(why, Overloaded):
            self.failure = why
        elif isinstance(why, LinkError):
            self.failure = Unavailable(
                f"the holder {contact.id.hex()[:12]} of {self._name!r} went silent: {why}",
                maybe_executed=why.maybe_executed,
            )


_EMPTY = codec.encode({})
_HARMLESS = frozenset({"titan.Ping", "titan.Info", "titan.Stats", "titan.Schema", "titan.Describe"})
"""Built-in messages that change nothing, whatever the object."""


async def _items(answer: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(answer, bytes):
        yield answer
        return
    async for item in answer:
        yield item
