"""The way of a message: from a name to a live copy and back, within one deadline.

name -> ObjectId -> held here?                deliver, without a socket
                 -> a node?                   ask it
                 -> places: known, looked up  (`places.py`)
                 -> caller of its kind        (`any_holder.py`: data, service; node.py may add more)
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotFound,
    Unavailable,
)
from titan_overlay.identity import names
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.links.links import Links
from titan_overlay.links.shared import close_stream
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.any_holder import AnyHolder, Freshness, Origin, Request, Tally
from titan_overlay.pool.finding.places import PLACES_MAX, Place, Places
from titan_overlay.pool.finding.witness import Witness
from titan_overlay.pool.hosting.host import Host

if TYPE_CHECKING:
    from titan_overlay.pool.finding.votes import Votes


class Caller(Protocol):
    """How objects of one kind are called."""

    async def __call__(self, place: Place, request: Request) -> bytes: ...

    def stream(self, place: Place, request: Request) -> AsyncIterator[bytes]: ...


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
        others: Mapping[str, Callable[[], Caller]],
        *,
        places_max: int = PLACES_MAX,
    ) -> None:
        """
        Args:
            others: by kind, what makes the caller of objects of which not just any copy may answer.
        """
        self._overlay = overlay
        self._links = links
        self._host = host
        self._me = me
        self.witness = Witness(conduct, links)
        self.places = Places(overlay, links, ambient, self.witness, places_max, self._own)
        self.any_holder = AnyHolder(self.places, links, ambient, self.witness)
        self._ambient = ambient
        self._others = others
        self._made: dict[str, Caller] = {}

    @cached_property
    def votes(self) -> "Votes":
        """How services are called that are voted on; in memory once there is one."""
        from titan_overlay.pool.finding.votes import Votes

        return Votes(self.places, self.any_holder, self._ambient, self.witness, self._overlay.pool)

    def _own(self, object_id: ObjectId) -> Signed[Descriptor] | None:
        here = self._host.get(object_id)
        return None if here is None else here.descriptor

    # ---- names -----------------------------------------------------------------------------------------------

    def object_id(self, name: str) -> ObjectId:
        """The id of a name in this pool; `~me/...` is this key's."""
        return names.object_id(self._overlay.pool, names.resolve(name, self._me.public))

    # ---- one message, one reply ------------------------------------------------------------------------------

    async def call(
        self,
        name: str,
        type: str,
        body: bytes,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
        once: str = "",
        read: Freshness | None = None,
        origin: Origin | None = None,
    ) -> bytes:
        """The encoded reply of the object with this name.

        Args:
            deadline: absolute loop time; all tries share it.
            once, read, origin: as in `Request`.

        Raises:
            RemotableError: `NotFound`, `Gone`, `Unavailable`, `DeadlineExceeded`, or what the object answered.
        """
        how = Request(self.object_id(name), type, body, deadline, chain, once=once, read=read, origin=origin)
        return await self._call(name, how)

    async def ask(self, name: str, type: str, body: bytes, *, deadline: float) -> tuple[bytes, Tally]:
        """As `call`, and how the answer came about."""
        request = Request(self.object_id(name), type, body, deadline, ())
        return await self._call(name, request), request.tally

    async def _call(self, name: str, request: Request) -> bytes:
        deadline = request.deadline
        if self._answered_here(request):
            return await self._deliver_here(request)
        known = self.places.known(request.object_id)
        if known is not None and self._caller(known, request) is self.any_holder:
            answer = await self.any_holder.beaten_path(known, request)
            if answer is not None:
                return answer
        try:
            async with asyncio.timeout_at(deadline):
                if names.space(name) is names.Space.NODE:
                    _refuse_order(request, name, "a node")
                    return await self._call_node(request)
                place = await self.places.find(request.object_id, name=name, deadline=deadline)
                return await self._caller(place, request)(place, request)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from {name!r} in the time given; pass a longer timeout or see: titan locate {name}",
                maybe_executed=True,
            ) from None

    def _answered_here(self, request: Request) -> bool:
        """Whether it is held here, and this copy may answer for all."""
        here = self._host.get(request.object_id)
        if here is None or here.descriptor.value.kind in self._others:
            return False
        _refuse_order(request, here.descriptor.value.name, f"a {here.descriptor.value.kind}")
        return True

    def _caller(self, place: Place, request: Request) -> Caller:
        """Who calls objects of this kind; services that are voted on are called in a way of their own."""
        descriptor = place.descriptor.value
        if descriptor.kind in self._others:
            if descriptor.kind not in self._made:
                self._made[descriptor.kind] = self._others[descriptor.kind]()
            return self._made[descriptor.kind]
        _refuse_order(request, descriptor.name, f"a {descriptor.kind}")
        return self.votes if descriptor.kind == "service" and descriptor.policy.votes > 1 else self.any_holder

    async def stream(
        self, name: str, type: str, body: bytes, *, deadline: float, chain: tuple[bytes, ...] = ()
    ) -> AsyncGenerator[bytes, None]:
        """The encoded items that the object answers with, in order. Another holder is tried until the first item."""
        request = Request(self.object_id(name), type, body, deadline, chain)
        if self._answered_here(request):
            answer = await self._host.deliver(
                self._me, request.object_id, type, body, deadline=deadline, chain=chain, stream=True
            )
            items = _items(answer)
        elif names.space(name) is names.Space.NODE:
            items = self.any_holder.stream_from([await self.node_contact(request.object_id, deadline)], name, request)
        else:
            place = await self.places.find(request.object_id, name=name, deadline=deadline)
            items = self._caller(place, request).stream(place, request)
        async for item in items:
            yield item

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

    async def node_contact(self, node: ObjectId, deadline: float) -> Contact:
        """Where a node can be reached. NotFound: it is not in the pool now."""
        peer = self._links.peer_of(NodeId(node))
        if peer is not None:
            return Contact(peer.id, peer.ip, peer.port)
        nearest = await self._overlay.find_nodes(node, 4)
        for contact in nearest:
            if contact.id == NodeId(node):
                return contact
        visited = self._overlay.visited(NodeId(node))
        if visited is not None:
            return visited
        raise NotFound(f"node:{node.hex()} is not in this pool now", asked=len(nearest))

    async def _call_node(self, request: Request) -> bytes:
        contact = await self.node_contact(request.object_id, request.deadline)
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


def _refuse_order(request: Request, name: str, what: str) -> None:
    if request.once or request.read:
        raise BadMessage(f"{name!r} is {what}: only mutable objects know once, read and watch")


async def _items(answer: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(answer, bytes):
        yield answer
        return
    try:
        async for item in answer:
            yield item
    finally:  # it is no generator, which would end where nobody has it any more
        await close_stream(answer)
