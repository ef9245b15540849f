"""Calling an object of which any holder will do: data and services.

Once a message may have run, another holder is tried only where its type is idempotent; otherwise the sender gets
`Unavailable(maybe_executed=True)`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Literal

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    Overloaded,
    RemotableError,
    TitanError,
    Unavailable,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor
from titan_overlay.links.links import Links
from titan_overlay.pool.finding.hedging import hedged
from titan_overlay.pool.finding.places import DIAL_PATIENCE, Place, Places, contact_of
from titan_overlay.pool.finding.witness import Witness, WrongBytes
from titan_overlay.pool.hosting.data import Read
from titan_overlay.wire import codec

HEDGE_SECONDS = (0.6, 2.0)
"""Shortest and longest wait for an answer before what is idempotent is also sent to another holder."""
QUICK_SECONDS = 0.2
"""A holder that has answered faster than this, on the average, is on the beaten path."""

ASKED_MAX = 2
"""One holder, for one message."""

HARMLESS = frozenset({"titan.Ping", "titan.Info", "titan.Stats", "titan.Schema", "titan.Describe"})
"""Built-in messages that change nothing, whatever the object."""


Freshness = Literal["latest", "stale"]
Origin = tuple[bytes, int, bytes]
"""Object in whose outbox a message stands, its number there, and what proves that (`mutable/letters.py`)."""


class Request:
    """One message on its way."""

    __slots__ = ("body", "chain", "deadline", "object_id", "once", "origin", "read", "tally", "type")

    def __init__(
        self,
        object_id: ObjectId,
        type: str,
        body: bytes,
        deadline: float,
        chain: tuple[bytes, ...],
        *,
        once: str = "",
        read: Freshness | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.origin = origin
        """None: it comes from no outbox."""
        self.once = once
        """The sender's own key: a mutable object executes it at most once, whoever sends it again."""
        self.read = read
        """It is a question that must change nothing; `stale`: an earlier state will do. None: a message."""
        self.object_id = object_id
        self.type = type
        self.body = body
        self.deadline = deadline
        self.chain = chain
        self.tally = ALONE
        """How the answer came about, once it is there."""


class Tally(msgspec.Struct, frozen=True):
    """How an answer came about."""

    asked: int = 1
    """Holders that were asked, those in place of silent ones included."""
    answered: int = 1
    """Votes that had come when the answer stood."""
    agreed: int = 1
    """Of them, how many are equal to the answer, itself included."""
    needed: int = 1


ALONE = Tally()
"""Of what one holder answers."""


class Tries:
    """Holders that were asked for one message, and what to say if none answers."""

    __slots__ = ("_asked", "_name", "failure")

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: dict[Contact, list[int]] = {}
        """And on the word of which statements: their sequences."""
        self.failure: RemotableError = Unavailable(f"no holder of {name!r} answers; see: titan locate {name}")

    @property
    def asked(self) -> frozenset[NodeId]:
        """Whom to look beyond."""
        return frozenset(contact.id for contact in self._asked)

    def next_of(self, holders: Sequence[Signed[Advertisement]]) -> Iterator[Contact]:
        """Those not asked yet; and once more who says since then that it holds the object, which may have come back."""
        for each in holders:
            contact, sequence = contact_of(each), each.value.sequence
            # A holder at a new address (its node was restarted) is another contact.
            before = self._asked.setdefault(contact, [])
            if not before or (len(before) < ASKED_MAX and sequence > before[-1]):
                before.append(sequence)
                yield contact

    def note(self, contact: Contact, why: TitanError) -> None:
        """A holder failed."""
        if isinstance(why, RemotableError) and not isinstance(why, NotHere):
            self.failure = why
        elif isinstance(why, LinkError):
            self.failure = Unavailable(
                f"the holder {contact.id.hex()[:12]} of {self._name!r} went silent: {why}",
                maybe_executed=why.maybe_executed,
            )


class AnyHolder:
    """The caller of data and services."""

    def __init__(self, places: Places, links: Links, ambient: Ambient, witness: Witness) -> None:
        self._places = places
        self._links = links
        self._ambient = ambient
        self._witness = witness
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
        if self._witness.avoids(contact.id):
            return None
        deadline = request.deadline
        again = is_idempotent(descriptor, request.type)
        if again:
            deadline = min(deadline, now + self.patience(contact.id))
        try:
            answer = await self._links.request(
                contact, request.object_id, request.type, request.body, deadline=deadline, chain=request.chain
            )
            _check_content(descriptor, request, answer)
        except (NotHere, Overloaded) as why:
            self._places.forget_holder(request.object_id, contact.id)
            self._witness.failed(contact.id, descriptor.name, why)
            if why.maybe_executed and not again:  # its handler had begun, and says so
                raise
            return None
        except (LinkError, DeadlineExceeded) as why:
            self._places.forget_holder(request.object_id, contact.id)
            if isinstance(why, LinkError):
                self._witness.failed(contact.id, descriptor.name, why)
            elif again:
                self._witness.late(contact.id, descriptor.name)
            sent_again = isinstance(why, LinkError) and (again or not why.maybe_executed)
            if deadline < request.deadline or sent_again or _proves_itself(descriptor, request):
                return None
            if isinstance(why, DeadlineExceeded):
                raise
            raise Unavailable(
                f"the holder {contact.id.hex()[:12]} of {descriptor.name!r} went silent: {why}", maybe_executed=True
            ) from None
        except RemotableError:
            if not _proves_itself(descriptor, request):
                raise
            self._places.forget_holder(request.object_id, contact.id)
            return None
        self._answered(place, contact)
        return answer

    def _answered(self, place: Place, contact: Contact) -> None:
        self._witness.good(contact.id)
        if self.on_read is not None:
            self.on_read(place)

    def _better_of_two(self, holders: Sequence[Signed[Advertisement]]) -> Signed[Advertisement]:
        """Power of two choices (Mitzenmacher 2001) by expected wait."""
        if len(holders) == 1:
            return holders[0]
        draw = self._ambient.random.random
        one, two = holders[int(draw() * len(holders))], holders[int(draw() * len(holders))]
        return two if self._cost(two.signer) < self._cost(one.signer) else one

    def by_preference(self, holders: Sequence[Signed[Advertisement]]) -> list[Signed[Advertisement]]:
        """The better of two first, the others in any order; those that behaved badly last."""
        if len(holders) < 2:
            return list(holders)
        first = self._better_of_two(holders)
        rest = [each for each in holders if each is not first]
        self._ambient.random.shuffle(rest)
        return sorted([first, *rest], key=lambda each: self._witness.avoids(each.signer))

    def _cost(self, node: NodeId) -> float:
        latency = self._links.latency(node)
        wait = (0.1 if latency is None else latency) * (1 + self._links.in_flight(node))
        return wait * (1.0 + self._witness.burden(node))

    async def __call__(self, place: Place, request: Request) -> bytes:
        """Try holders until one answers; look up anew when none of those known did."""
        descriptor = place.descriptor.value
        tries = Tries(descriptor.name)
        call = self._hedged if is_idempotent(descriptor, request.type) else self._one_by_one
        answer = await call(place, request, tries)
        if answer is None:
            raise tries.failure
        return answer

    def stream(self, place: Place, request: Request) -> AsyncIterator[bytes]:
        """The items that a holder answers with. Another is tried until the first item."""
        contacts = [contact_of(each) for each in self.by_preference(place.holders)]
        return self.stream_from(contacts, place.descriptor.value.name, request)

    async def stream_from(self, contacts: Sequence[Contact], name: str, request: Request) -> AsyncIterator[bytes]:
        """The same, from these alone.

        Raises:
            Unavailable: none answers, or the stream broke (`maybe_executed`).
        """
        failure: Exception = Unavailable(f"no holder of {name!r} answers")
        object_id = request.object_id
        for contact in contacts:
            begun = False
            patience = asyncio.get_running_loop().time() + DIAL_PATIENCE
            try:
                await self._links.connect(contact, deadline=min(request.deadline, patience))
                async for item in self._links.stream(
                    contact,
                    request.object_id,
                    request.type,
                    request.body,
                    deadline=request.deadline,
                    chain=request.chain,
                ):
                    begun = True
                    yield item
                return
            except (LinkError, NotHere, Overloaded) as why:
                self._places.forget_holder(object_id, contact.id)
                failure = why
                if begun:
                    raise Unavailable(f"the stream from {name!r} broke: {why}", maybe_executed=True) from None
        raise failure if isinstance(failure, RemotableError) else Unavailable(f"no holder of {name!r}: {failure}")

    async def _candidates(self, place: Place, request: Request, tries: "Tries") -> AsyncIterator[Contact]:
        """The holders known, then those that look-ups bring, for as long as each brings news."""
        for contact in tries.next_of(self.by_preference(place.holders)):
            yield contact
        name = place.descriptor.value.name
        news = True
        while news:
            news = False
            try:
                place = await self._places.find(
                    request.object_id, name=name, deadline=request.deadline, fresh=True, avoid=tries.asked
                )
            except RemotableError as why:  # those who were asked before may still answer
                if isinstance(tries.failure, Unavailable):  # who is there, and busy, says more than who is not
                    tries.failure = why
                return
            for contact in tries.next_of(self.by_preference(place.holders)):
                news = True
                yield contact

    async def _one_by_one(self, place: Place, request: Request, tries: "Tries") -> bytes | None:
        """What may run only once: the next holder is tried where the last one certainly did not begin.

        Raises:
            Unavailable: it may have begun, and nobody knows.
        """
        async for contact in self._candidates(place, request, tries):
            try:
                answer = await self.ask(contact, place.descriptor.value, request)
            except (NotHere, Overloaded, LinkError) as why:
                self._failed(place, request, contact, why, tries)
                if why.maybe_executed:
                    raise (tries.failure if isinstance(why, LinkError) else why) from None
            else:
                self._answered(place, contact)
                return answer
        return None

    async def _hedged(self, place: Place, request: Request, tries: "Tries") -> bytes | None:
        """What may run more than once: a holder that keeps us waiting is not given up, but others are asked as well."""
        descriptor = place.descriptor.value

        def late(contact: Contact) -> None:
            self._places.forget_holder(request.object_id, contact.id)  # the next message does not begin with this one
            self._witness.late(contact.id, descriptor.name)

        outcomes = hedged(
            self._candidates(place, request, tries),
            lambda contact: self.ask(contact, descriptor, request),
            lambda contact: self.patience(contact.id),
            on_late=late,
        )
        async with aclosing(outcomes):
            async for contact, outcome in outcomes:
                if isinstance(outcome, bytes):
                    self._answered(place, contact)
                    return outcome
                of_itself = isinstance(outcome, NotHere | Overloaded | LinkError)
                if not (of_itself or _proves_itself(descriptor, request)):
                    raise outcome
                self._failed(place, request, contact, outcome, tries)
        return None

    def patience(self, node: NodeId) -> float:
        """Seconds to wait for one holder before another is asked as well."""
        shortest, longest = HEDGE_SECONDS
        latency = self._links.latency(node)
        return shortest if latency is None else min(longest, max(shortest, 8 * latency))

    def _failed(self, place: Place, request: Request, contact: Contact, why: TitanError, tries: "Tries") -> None:
        if not isinstance(why, Overloaded):
            self._places.forget_holder(request.object_id, contact.id)
        self._witness.failed(contact.id, place.descriptor.value.name, why)
        tries.note(contact, why)

    async def ask(self, contact: Contact, descriptor: Descriptor, request: Request) -> bytes:
        """One holder. Dialling is given up early: nothing was sent, so the next one may be asked."""
        await self._links.connect(
            contact, deadline=min(request.deadline, asyncio.get_running_loop().time() + DIAL_PATIENCE)
        )
        answer = await self._links.request(
            contact, request.object_id, request.type, request.body, deadline=request.deadline, chain=request.chain
        )
        _check_content(descriptor, request, answer)
        return answer


def is_idempotent(descriptor: Descriptor, type: str) -> bool:
    """Whether a message of this type may run more than once."""
    declared = descriptor.idempotent
    return descriptor.kind == "data" or type in declared or type in HARMLESS or "*" in declared


def _proves_itself(descriptor: Descriptor, request: Request) -> bool:
    """Whether a right answer shows that it is: an error is then the word of one holder, and the next is asked."""
    return descriptor.kind == "data" and request.type == Read.wire_type


def _check_content(descriptor: Descriptor, request: Request, answer: bytes) -> None:
    """Data is believed for what it is, not for who sent it.

    Raises:
        WrongBytes: this holder sent something else.
    """
    if not _proves_itself(descriptor, request):
        return
    try:
        genuine = sha256(codec.decode(answer, bytes)).digest() == request.object_id
    except BadMessage:
        genuine = False
    if not genuine:
        raise WrongBytes(f"a holder of {descriptor.name!r} sent other bytes")
