"""All links of one node: dialed when they are needed, shared by all requests, closed when nobody uses them."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

from titan_overlay.ambient import Ambient
from titan_overlay.buckets import Limit
from titan_overlay.errors import DeadlineExceeded, Forbidden, LinkError
from titan_overlay.identity.contacts import IPV4, IPV6, Address, Contact, family, format_address
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.connection import OPEN
from titan_overlay.links.gate import Gate
from titan_overlay.links.link import Link
from titan_overlay.links.runner import Runner
from titan_overlay.links.shared import (
    PROTOCOL_VERSION,
    Budget,
    Counters,
    Handler,
    Here,
    Known,
    Limits,
    Peer,
    Shared,
    close_stream,
)
from titan_overlay.links.sweep import sweep
from titan_overlay.links.tls import Tls, TlsContexts
from titan_overlay.meters import Meters
from titan_overlay.wire.messages import Hello

__all__ = ["Counters", "Handler", "Limits", "Links", "Peer"]

_MAX_KNOWN = 4096


class _NoConnectionError(Exception):
    """Nobody listens at that address."""


class Links:
    """Requests to peers, and the answers to theirs.

    Args:
        key: this node's key; its id is what peers expect to find.
        pool: peers of other pools are refused.
        handler: answers requests; see `Handler`.
        secure: TLS 1.3. False: plain connections where a peer's word is believed, for simulations only.
        serving: whether peers may open links to this node (told in the first frame).
        admit: asked about each peer (its key is proven); gives the reason to refuse it, or None.
        families: of the addresses that this node can dial.
        on_breach: told of peers that broke the protocol on their link, and how.
    """

    def __init__(
        self,
        key: SigningKey,
        pool: PoolId,
        ambient: Ambient,
        handler: Handler,
        *,
        secure: bool = True,
        serving: bool = True,
        limits: Limits | None = None,
        families: Collection[int] = (IPV4, IPV6),
        admit: Callable[[Peer], str | None] = lambda peer: None,
        on_breach: Callable[[NodeId, str], None] = lambda peer, why: None,
    ) -> None:
        self.key = key
        self.pool = pool
        self.serving = serving
        self.credentials = b""
        """For whom this node speaks and its grants, told in the first frame of each link."""
        self.port = 0
        self.here: Here | None = None
        """Answers what this node asks of itself, to which it has no link."""
        self.budget: Budget | None = None
        """For what this side asks and tells; what it answers is the handler's business."""
        self.limits = limits or Limits()
        self._admit = admit
        self._on_breach = on_breach
        self._families = families
        self._loop = asyncio.get_running_loop()
        self.shared = Shared(self._loop, handler, self.limits, self._hello)
        self.runner = Runner(self._loop)
        self._contexts = TlsContexts(key, ambient.token_bytes) if secure else None
        self._servers: list[asyncio.AbstractServer] = []
        self._best: dict[NodeId, Link] = {}
        """The link to use for each peer."""
        self._links: dict[Link, None] = {}
        """All that are not closed, oldest first."""
        self._dials: dict[tuple[NodeId, tuple[Address, ...]], asyncio.Task[Link]] = {}
        self._known: OrderedDict[NodeId, Known] = OrderedDict()
        self.gate = Gate(self.limits, self.counters)
        rate = self.limits.messages_per_second
        self._meters = Meters(Limit(rate, 2 * rate), _MAX_KNOWN)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def counters(self) -> Counters:
        return self.shared.counters

    # --- life -------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int) -> int:
        """Accept links here (too); returns the port (useful where `port` is 0).

        Raises:
            OSError: the address is taken or not this machine's.
        """
        server = await self._loop.create_server(self._accepted, host, port, backlog=256)
        self._servers.append(server)
        self.port = port or server.sockets[0].getsockname()[1]
        return self.port

    def _accepted(self) -> Link:
        return Link(self, self._engine(dialed=False), None)

    def _engine(self, *, dialed: bool) -> Tls | None:
        return None if self._contexts is None else Tls(self._contexts, dialed=dialed)

    def _hello(self) -> Hello:
        return Hello(self.pool, PROTOCOL_VERSION, self.serving, self.key.public, self.port, self.credentials)

    async def close(self) -> None:
        """End all links; requests under way fail, handlers are cancelled. Returns when all sockets are closed."""
        self._closed = True
        for server in self._servers:
            server.close()
        for dial in list(self._dials.values()):
            dial.cancel()
        self.shared.flush()
        links = list(self._links)
        for link in links:
            link.fail("this node is closing its links")
        await self.runner.close()
        if links:
            await asyncio.wait([link.gone for link in links], timeout=self.limits.handshake)
        for dial in list(self._dials.values()):
            with contextlib.suppress(asyncio.CancelledError, LinkError):
                await dial
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.shared.deadlines.close()

    async def drain(self, timeout: float) -> None:
        """Say goodbye to all peers and let what is under way finish, at most `timeout` seconds. Then `close`."""
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.leave()
        busy = [link.gone for link in self._links if not link.quiet]
        if busy:
            await asyncio.wait(busy, timeout=timeout)

    # --- requests ---------------------------------------------------------------------------------------------

    async def request(
        self,
        contact: Contact,
        object_id: bytes,
        type: str,
        body: bytes,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
    ) -> bytes:
        """Send a message to an object that the peer holds; its reply, an encoded msgpack body.

        A link that exists is used, whoever dialed it; otherwise the contact is dialed. `deadline` is a loop time. A
        caller that is cancelled cancels the handler at the other end.

        Raises:
            RemotableError: what the peer answered.
            DeadlineExceeded: no answer in time.
            BadMessage: message or reply is over 1 MiB.
            LinkError: no link, or it was lost; `maybe_executed` says whether the request had been sent.
        """
        if (here := self._here(contact)) is not None:
            answer = await here(object_id, type, body, deadline, chain, False)
            assert isinstance(answer, bytes), "a stream was not asked for"
            return answer
        link = self._best.get(contact.id)
        if link is None or not link.usable:
            link = await self._usable(contact, deadline)
        if self.budget is not None and link.away:
            link = await self._paid(self.budget, link, contact, len(body), deadline)
        return await link.request(object_id, type, body, deadline, chain)

    def tell(self, node: NodeId, object_id: bytes, type: str, body: bytes) -> bool:
        """Sends a message that is not answered, if there is a link just now. False: there is none."""
        link = self._best.get(node)
        if link is None or not link.usable:
            return False
        if self.budget is not None and link.away:
            self.budget.tell(len(body))
        link.tell(object_id, type, body)
        return True

    async def stream(
        self,
        contact: Contact,
        object_id: bytes,
        type: str,
        body: bytes,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
        credit: int = 64,
    ) -> AsyncGenerator[bytes, None]:
        """As `request`, for a stream of replies, of which at most `credit` wait here. Closing the iterator cancels."""
        if (here := self._here(contact)) is not None:
            answers = await here(object_id, type, body, deadline, chain, True)
            assert not isinstance(answers, bytes), "a stream was asked for"
            try:
                async for each in answers:
                    yield each
            finally:
                await close_stream(answers)
            return
        link = await self._usable(contact, deadline)
        if self.budget is not None and link.away:
            link = await self._paid(self.budget, link, contact, len(body), deadline)
        replies = link.open_stream(object_id, type, body, deadline, chain, credit)
        try:
            while (item := await link.next_reply(replies)) is not None:
                yield item
        finally:
            link.end_stream(replies)

    async def connect(self, contact: Contact, *, deadline: float) -> None:
        """Make sure that there is a link to the peer: nothing is sent to it, so another one may be tried instead.

        Raises:
            LinkError: there is none by the deadline (a loop time).
        """
        link = self._best.get(contact.id)
        if self._here(contact) is None and (link is None or not link.usable):
            try:
                await self._usable(contact, deadline)
            except DeadlineExceeded as why:
                raise LinkError(f"node {contact.id.hex()[:12]} at {contact.ip}:{contact.port}: {why}") from None

    def _here(self, contact: Contact) -> Here | None:
        """What answers where the contact is this very node."""
        return self.here if contact.id == self.key.id else None

    async def can_dial(self, contact: Contact) -> bool:
        """Whether this node reaches that contact by dialing it, even if there is a link already (a dial-back)."""
        had = self._best.get(contact.id)
        try:
            link = await self._dialed(contact)
        except LinkError:
            return False
        if had is not None and had.usable and link is not had:
            link.leave()
        return True

    async def _usable(self, contact: Contact, deadline: float) -> Link:
        """An open, uncongested link to the peer."""
        link = self._best.get(contact.id)
        if link is not None and link.usable:
            return link
        try:
            async with asyncio.timeout_at(deadline):
                if link is None or link.state is not OPEN:
                    link = await self._dialed(contact)
                while not link.usable:
                    if link.state is not OPEN or link.leaving_since is not None:
                        raise LinkError(
                            f"the link to node {contact.id.hex()[:12]} ended: {link.ending or 'it said goodbye'}"
                        )
                    await link.drained()
        except TimeoutError:
            what = "the peer reads too slowly" if link is not None else "no link to the peer"
            raise DeadlineExceeded(f"{what} within the deadline; the request was not sent") from None
        return link

    async def _paid(self, budget: Budget, link: Link, contact: Contact, size: int, deadline: float) -> Link:
        """The link, or one that has taken its place, when so much may be sent on it."""
        if budget.may(size):
            return link
        await budget.turn(size, deadline)
        return await self._usable(contact, deadline)

    # --- dialing ----------------------------------------------------------------------------------------------

    def _dialed(self, contact: Contact) -> Awaitable[Link]:
        """One dial per peer and where it is said to be, however many requests wait for it: others may say otherwise."""
        whom = contact.id, contact.addresses
        dial = self._dials.get(whom)
        if dial is None:
            dial = self._dials[whom] = self._loop.create_task(self._dial(contact))
            dial.add_done_callback(lambda done: self._dial_done(whom, done))
        return asyncio.shield(dial)

    def _dial_done(self, whom: tuple[NodeId, tuple[Address, ...]], dial: asyncio.Task[Link]) -> None:
        self._dials.pop(whom, None)
        if not dial.cancelled():
            dial.exception()  # looked at: those who waited may be gone

    async def _dial(self, contact: Contact) -> Link:
        whom = f"node {contact.id.hex()[:12]}"
        if self._closed:
            raise LinkError("the links of this node are closed")
        if contact.id == self.key.id:
            raise LinkError("a node has no link to itself")
        if not contact.port:
            raise LinkError(f"{whom} cannot be dialed and has no link to this node")
        failures = []
        for address in contact.addresses:
            if family(address[0]) not in self._families:
                failures.append(f"{format_address(address)}: this node has no IPv{family(address[0])}")
                continue
            try:
                return await self._connected(contact.id, address)
            except _NoConnectionError as why:
                failures.append(f"{format_address(address)}: {why}")
        raise LinkError(f"{whom} cannot be reached at {'; '.join(failures)}")

    async def _connected(self, id: NodeId, address: Address) -> Link:
        """A link over a new connection. LinkError: who answers is not that node, or does not want this one."""
        link = Link(self, self._engine(dialed=True), id)
        self._links[link] = None
        try:
            async with asyncio.timeout(self.limits.handshake):
                await self._loop.create_connection(lambda: link, *address)
        except (OSError, ValueError, OverflowError) as why:  # or an address that none can be
            link.fail("never connected")
            raise _NoConnectionError(str(why) or f"no answer within {self.limits.handshake:g} s") from None
        except asyncio.CancelledError:
            link.fail("the dial was cancelled", abort=True)
            raise
        self.counters.links_dialed += 1
        self._sweep_later()
        try:
            await link.opened
            return link
        except asyncio.CancelledError:
            link.fail("the dial was cancelled", abort=True)
            raise

    # --- what links ask of their owner ------------------------------------------------------------------------

    def connected(self, link: Link) -> str:
        refusal = "this node is closing" if self._closed else self.gate.arrived(link, self._loop.time())
        self._links[link] = None
        self._sweep_later()
        return refusal

    def admitted(self, link: Link, peer: Peer) -> Known:
        known = self._remember(peer)
        reason = self._admit(peer) if link.dialed else self._reason_to_refuse(peer, known)
        if reason is not None:
            self.counters.links_refused += 1
            raise Forbidden(reason)
        link.meter = self._meters.of(peer.id, (peer.ip, peer.port))
        if not link.dialed:
            self.gate.admitted(link)
            self.counters.links_accepted += 1
        mine = [other for other in self._links if other.peer is not None and other.peer.id == peer.id]
        if len(mine) >= self.limits.links_per_peer:
            min(mine, key=lambda other: other.used).fail("the peer opened too many links")
        # The newest: a peer that dials although there is a link has probably lost the other end of it. Two that dial
        # each other at once have two links for a while; both work, and what is not used goes.
        self._best[peer.id] = link
        return known

    def _reason_to_refuse(self, peer: Peer, known: Known) -> str | None:
        if peer.id == self.key.id:
            return "that is this node's own key"
        if known.shunned_until > self._loop.time():
            return "the peer broke the protocol too often; it may try again in a minute"
        return self._admit(peer)

    def _remember(self, peer: Peer) -> Known:
        id, known = peer.id, self._known.get(peer.id)
        if known is None:
            known = self._known[id] = Known()
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(id)
        return known

    def leaving(self, link: Link) -> None:
        self._replace(link)

    def _replace(self, link: Link) -> None:
        """Another link to the same peer takes over, if there is one."""
        peer = link.peer
        if peer is None or self._best.get(peer.id) is not link:
            return
        del self._best[peer.id]
        for other in self._links:
            if other.peer is not None and other.peer.id == peer.id and other.leaving_since is None:
                self._best[peer.id] = other
                return

    def closed(self, link: Link, *, broken: bool) -> None:
        self._links.pop(link, None)
        self.gate.gone(link)
        self._replace(link)
        if broken and link.peer is not None:
            known = link.known
            self._on_breach(link.peer.id, link.ending)
            known.strikes += 1
            if known.strikes >= self.limits.strikes:
                known.strikes = 0
                known.shunned_until = self._loop.time() + self.limits.shun

    def revise(self) -> None:
        """Rights have changed: links to peers that would not be admitted now end."""
        for link in list(self._links):
            reason = self._admit(link.peer) if link.peer is not None else None
            if reason is not None:
                link.fail(reason)

    def reintroduce(self) -> None:
        """Peers are shown something else from now on: what was opened before takes no new requests, and ends."""
        for link in list(self._links):
            link.leave()

    # --- upkeep -----------------------------------------------------------------------------------------------

    def _sweep_later(self) -> None:
        if self._sweeper is None and self._links and not self._closed:
            self._sweeper = self._loop.call_later(self.limits.probe, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        sweep(list(self._links), self.limits, self._loop.time())
        self._sweep_later()

    # --- what is known ----------------------------------------------------------------------------------------

    def peer_of(self, id: NodeId) -> Peer | None:
        """Who is at the other end, if there is a link to that node."""
        link = self._best.get(id)
        return None if link is None else link.peer

    def doubt(self, id: NodeId) -> None:
        """That peer keeps somebody waiting: if it is not even there, its link is soon given up."""
        link = self._best.get(id)
        if link is not None and not link.probed:
            link.ping()

    def heard(self, id: NodeId) -> float | None:
        """Loop time at which anything last came from that peer over the link to it; None: there is no link."""
        link = self._best.get(id)
        return None if link is None else link.heard

    def ping(self, id: NodeId) -> None:
        """Asks a peer for a sign of life (see `heard`), if there is a link to it."""
        link = self._best.get(id)
        if link is not None:
            link.ping()

    def is_open(self, id: NodeId) -> bool:
        """Whether a request to that node could be written at once."""
        link = self._best.get(id)
        return link is not None and link.usable

    def peers(self) -> list[Peer]:
        """All peers with a link."""
        return [link.peer for link in self._best.values() if link.peer is not None]

    def latency(self, id: NodeId) -> float | None:
        """Seconds from request to reply, smoothed; None where nothing was ever asked."""
        known = self._known.get(id)
        return None if known is None else known.latency

    def in_flight(self, id: NodeId) -> int:
        """Requests to that peer that it has not answered yet."""
        link = self._best.get(id)
        return 0 if link is None else link.in_flight
