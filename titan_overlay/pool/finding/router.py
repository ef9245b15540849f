"""The way of a message: from a name to a live copy and back, within one deadline.

name -> ObjectId -> held here?                deliver, without a socket
                 -> a node?                   ask it
                 -> places: known, looked up  (`places.py`)
                 -> caller of its kind        (`any_holder.py`: data, service; node.py may add more)
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotFound,
    NotHere,
    Overloaded,
    RemotableError,
    Unavailable,
)
from titan_overlay.identity import names
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.any_holder import AnyHolder, Request, Tally
from titan_overlay.pool.finding.places import DIAL_PATIENCE, PLACES_MAX, Place, Places, contact_of
from titan_overlay.pool.finding.votes import Votes
from titan_overlay.pool.finding.witness import Witness
from titan_overlay.pool.hosting.host import Host


class Caller(Protocol):
    """How objects of one kind are called."""

    async def __call__(self, place: Place, request: Request) -> bytes: ...


class Router:
    """Brings messages to objects by name."""

    def __init__(
        self,
        overlay: Overlay,
        links: Links,
        host: Host,
        me: Sender,
        ambient: Ambient,
        conduct: Conduct,
        *,
        places_max: int = PLACES_MAX,
    ) -> None:
        self._overlay = overlay
        self._links = links
        self._host = host
        self._me = me
        self.witness = Witness(conduct, links)
        self.places = Places(overlay, links, ambient, self.witness, places_max)
        self.any_holder = AnyHolder(self.places, links, ambient, self.witness)
        self.votes = Votes(self.places, self.any_holder, ambient, self.witness, overlay.pool)
        self.callers: dict[str, Caller] = {"data": self.any_holder, "service": self.any_holder}

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
        return await self._call(name, Request(self.object_id(name), type, body, deadline, chain))

    async def ask(self, name: str, type: str, body: bytes, *, deadline: float) -> tuple[bytes, Tally]:
        """As `call`, and how the answer came about."""
        request = Request(self.object_id(name), type, body, deadline, ())
        return await self._call(name, request), request.tally

    async def _call(self, name: str, request: Request) -> bytes:
        deadline = request.deadline
        if self._host.get(request.object_id) is not None:
            return await self._deliver_here(request)
        known = self.places.known(request.object_id)
        if known is not None and self._caller(known) is self.any_holder:
            answer = await self.any_holder.beaten_path(known, request)
            if answer is not None:
                return answer
        try:
            async with asyncio.timeout_at(deadline):
                if names.space(name) is names.Space.NODE:
                    return await self._call_node(request)
                place = await self.places.find(request.object_id, name=name, deadline=deadline)
                return await self._caller(place)(place, request)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from {name!r} in the time given; pass a longer timeout or see: titan locate {name}",
                maybe_executed=True,
            ) from None

    def _caller(self, place: Place) -> Caller:
        """Who calls objects of this kind; services that are voted on are called in a way of their own."""
        descriptor = place.descriptor.value
        if descriptor.kind == "service" and descriptor.policy.votes > 1:
            return self.votes
        return self.callers[descriptor.kind]

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
            place = await self.places.find(request.object_id, name=name, deadline=deadline)
            if self._caller(place) is self.votes:
                raise BadMessage(f"{name!r} is voted on: a stream of replies cannot be; send the message")
            contacts = [contact_of(each) for each in self.any_holder.by_preference(place.holders)]
        failure: Exception = Unavailable(f"no holder of {name!r} answers")
        for contact in contacts:
            begun = False
            try:
                await self._links.connect(
                    contact, deadline=min(deadline, asyncio.get_running_loop().time() + DIAL_PATIENCE)
                )
                async for item in self._links.stream(
                    contact, request.object_id, type, body, deadline=deadline, chain=chain
                ):
                    begun = True
                    yield item
                return
            except (LinkError, NotHere, Overloaded) as why:
                self.places.forget_holder(request.object_id, contact.id)
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
        return await self._ask_node(contact, request)

    async def _ask_node(self, contact: Contact, request: Request) -> bytes:
        """One try at one peer; link errors become `Unavailable`."""
        try:
            return await self._links.request(
                contact, request.object_id, request.type, request.body, deadline=request.deadline, chain=request.chain
            )
        except LinkError as why:
            raise Unavailable(
                f"node {contact.id.hex()[:12]} does not answer: {why}", maybe_executed=why.maybe_executed
            ) from None


async def _items(answer: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(answer, bytes):
        yield answer
        return
    async for item in answer:
        yield item
