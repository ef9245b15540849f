"""Calling an object of which any holder will do: data and services.

Once a message may have run, another holder is tried only where its type is idempotent; otherwise the sender gets
`Unavailable(maybe_executed=True)`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from hashlib import sha256

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    Overloaded,
    RemotableError,
    Unavailable,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor
from titan_overlay.links.links import Links
from titan_overlay.pool.finding.places import DIAL_PATIENCE, Place, Places, contact_of
from titan_overlay.pool.hosting.data import Read
from titan_overlay.wire import codec

HEDGE_SECONDS = (0.6, 2.0)
"""Shortest and longest wait for an answer before what is idempotent is also sent to another holder."""
QUICK_SECONDS = 0.2
"""A holder that has answered faster than this, on the average, is on the beaten path."""

_HARMLESS = frozenset({"titan.Ping", "titan.Info", "titan.Stats", "titan.Schema", "titan.Describe"})
"""Built-in messages that change nothing, whatever the object."""


class Request:
    """One message on its way."""

    __slots__ = ("body", "chain", "deadline", "object_id", "type")

    def __init__(self, object_id: ObjectId, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]) -> None:
        self.object_id = object_id
        self.type = type
        self.body = body
        self.deadline = deadline
        self.chain = chain


class Tries:
    """Holders that were asked for one message, and what to say if none answers."""

    __slots__ = ("_asked", "_name", "failure")

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: set[Contact] = set()
        self.failure: RemotableError = Unavailable(f"no holder of {name!r} answers; see: titan locate {name}")

    def next_of(self, holders: Sequence[Signed[Advertisement]]) -> Iterator[Contact]:
        """Those not asked yet."""
        for contact in map(contact_of, holders):
            if contact not in self._asked:  # a holder at a new address (its node was restarted) is asked again
                self._asked.add(contact)
                yield contact

    def note(self, contact: Contact, why: NotHere | Overloaded | LinkError) -> None:
        """A holder failed."""
        if isinstance(why, Overloaded):
            self.failure = why
        elif isinstance(why, LinkError):
            self.failure = Unavailable(
                f"the holder {contact.id.hex()[:12]} of {self._name!r} went silent: {why}",
                maybe_executed=why.maybe_executed,
            )


class AnyHolder:
    """The caller of data and services."""

    def __init__(self, places: Places, links: Links, ambient: Ambient) -> None:
        self._places = places
        self._links = links
        self._ambient = ambient
        self.on_read: Callable[[Place], None] | None = None
        """Told of every place that answered: the opportunistic cache listens."""

    async def beaten_path(self, place: Place, request: Request) -> bytes | None:
        """The way of nearly all messages: place known, link open, holder quick. None: the long way must be gone.

        Costs no task and no timer. What is idempotent is given up early here, for `_hedged` to do with care.
        """
        now = asyncio.get_running_loop().time()
        descriptor = place.descriptor.value
        contact = place.contact(self._better_of_two(place.holders))
        latency = self._links.latency(contact.id)
        if latency is None or latency > QUICK_SECONDS or not self._links.is_open(contact.id):
            return None
        deadline = request.deadline
        again = self._is_idempotent(descriptor, request.type)
        if again:
            deadline = min(deadline, now + self._patience(contact.id))
        try:
            answer = await self._links.request(
                contact, request.object_id, request.type, request.body, deadline=deadline, chain=request.chain
            )
            _check_content(descriptor, request, answer)
        except (NotHere, Overloaded):
            self._places.forget_holder(request.object_id, contact.id)
            return None
        except (LinkError, DeadlineExceeded) as why:
            self._places.forget_holder(request.object_id, contact.id)
            if deadline < request.deadline or (isinstance(why, LinkError) and (again or not why.maybe_executed)):
                return None
            if isinstance(why, DeadlineExceeded):
                raise
            raise Unavailable(
                f"the holder {contact.id.hex()[:12]} of {descriptor.name!r} went silent: {why}", maybe_executed=True
            ) from None
        if self.on_read is not None:
            self.on_read(place)
        return answer

    def _better_of_two(self, holders: Sequence[Signed[Advertisement]]) -> Signed[Advertisement]:
        """Power of two choices (Mitzenmacher 2001) by expected wait."""
        if len(holders) == 1:
            return holders[0]
        draw = self._ambient.random.random
        one, two = holders[int(draw() * len(holders))], holders[int(draw() * len(holders))]
        return two if self._cost(two.signer) < self._cost(one.signer) else one

    def by_preference(self, holders: Sequence[Signed[Advertisement]]) -> list[Signed[Advertisement]]:
        """The better of two first, the others in any order."""
        if len(holders) < 2:
            return list(holders)
        first = self._better_of_two(holders)
        rest = [each for each in holders if each is not first]
        self._ambient.random.shuffle(rest)
        return [first, *rest]

    def _cost(self, node: NodeId) -> float:
        latency = self._links.latency(node)
        return (0.1 if latency is None else latency) * (1 + self._links.in_flight(node))

    async def __call__(self, place: Place, request: Request) -> bytes:
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
        for contact in tries.next_of(self.by_preference(place.holders)):
            yield contact
        name = place.descriptor.value.name
        place = await self._places.find(request.object_id, name=name, deadline=request.deadline, fresh=True)
        for contact in tries.next_of(self.by_preference(place.holders)):
            yield contact

    async def _one_by_one(self, place: Place, request: Request, tries: "Tries") -> bytes | None:
        """What may run only once: the next holder is tried where the last one certainly did not begin.

        Raises:
            Unavailable: it may have begun, and nobody knows.
        """
        async for contact in self._candidates(place, request, tries):
            try:
                return await self._try(contact, place.descriptor.value, request)
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
                running[loop.create_task(self._try(contact, place.descriptor.value, request))] = contact
                answer = await self._first(running, request, tries, self._patience(contact.id))
                if answer is not None:
                    return answer
            return await self._first(running, request, tries, None)
        finally:
            for task, contact in running.items():
                # Another was faster, or time is up: the next message does not begin with this one.
                self._places.forget_holder(request.object_id, contact.id)
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
            self._places.forget_holder(object_id, contact.id)
        tries.note(contact, why)

    async def _try(self, contact: Contact, descriptor: Descriptor, request: Request) -> bytes:
        """One holder. Dialling is given up early: nothing was sent, so the next one may be asked."""
        await self._links.connect(
            contact, deadline=min(request.deadline, asyncio.get_running_loop().time() + DIAL_PATIENCE)
        )
        answer = await self._links.request(
            contact, request.object_id, request.type, request.body, deadline=request.deadline, chain=request.chain
        )
        _check_content(descriptor, request, answer)
        return answer


def _check_content(descriptor: Descriptor, request: Request, answer: bytes) -> None:
    """Data is believed for what it is, not for who sent it.

    Raises:
        NotHere: this holder sent something else.
    """
    if descriptor.kind != "data" or request.type != Read.wire_type:
        return
    try:
        genuine = sha256(codec.decode(answer, bytes)).digest() == request.object_id
    except BadMessage:
        genuine = False
    if not genuine:
        raise NotHere(f"a holder of {descriptor.name!r} sent other bytes")
