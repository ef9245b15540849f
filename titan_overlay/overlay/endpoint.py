"""The overlay's end of the network: its UDP sockets, the sessions on them, the handshakes that lead to them.

There is a socket for each family of addresses that this machine has, and one `Endpoint` on all of them: a session is
with a peer, whichever way its datagrams come.

Subclass of the stock `KademliaProtocol` / `RPCProtocol`, of which it keeps the place in asyncio and replaces all that
trusts the sender. Everything happens within `datagram_received`, without tasks; one timer serves all deadlines.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any

from kademlia.protocol import KademliaProtocol
from rpcudp.protocol import RPCProtocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity.conduct import Conduct, Offence
from titan_overlay.identity.contacts import IPV4, IPV6, Address, Contact, family, format_address
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.bodies import PRIVATE, PUBLIC, believable, contact, contact_at, is_public, reach, unpack_all
from titan_overlay.overlay.calls import Call, refused_by
from titan_overlay.overlay.deadlines import Deadlines
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.handshake import Handshakes
from titan_overlay.overlay.openings import Opening
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.sessions import (
    CHALLENGE,
    DATA,
    HEAD,
    MIN_BYTES,
    SERVING,
    TIMEOUT_SECONDS,
    RoundTrip,
    Session,
)
from titan_overlay.overlay.traffic import HANDSHAKE, UDP_HEADER_BYTES, Traffic

log = logging.getLogger(__name__)

RESET = 0x11
"""`RESET | session id 4 | call id 4`: "I have no such session". A hint without a tag: it only starts a handshake."""
RESET_FORM = struct.Struct(">BII")
RESET_BYTES = RESET_FORM.size

RECEIVE_BUFFER_BYTES = 2048
"""asyncio reads every datagram into a buffer of 256 KiB otherwise, which costs half the time."""

CHALLENGE_BYTES = MIN_BYTES + 8

MAX_WAITING = 64
"""Calls that may wait for one handshake."""
HANDSHAKE_SECONDS = 3.0
"""Of a handshake, at most."""
STRANGER_SECONDS_MIN = 0.35
"""Without an answer to the first HELLO after three times what handshakes take here (RFC 6298; it is sent twice, and
waited for twice as long the second time) nobody is there. So an invented contact costs little."""
UNREACHABLE_SECONDS = 10.0
"""A contact that did not answer a handshake is not tried again for that long."""
MAX_UNREACHABLE = 512


class Endpoint(KademliaProtocol):
    """Sessions over one socket of each family. What is said inside them is the subclass's: see the hooks.

    Args:
        on_peer: a session was made with this contact, or its role or address has changed (now proven).
        on_silence: a call or handshake with this contact got no answer.
        on_observed: at which address a peer sees this node, of those that can know.
    """

    def __init__(
        self,
        me: NodeId,
        table: RoutingTable,
        directory: Directory,
        handshakes: Handshakes,
        ambient: Ambient,
        conduct: Conduct,
        *,
        on_peer: Callable[[Session], None],
        on_silence: Callable[[Contact], None],
        on_observed: Callable[[Contact, Address], None],
    ) -> None:
        # The stock KademliaProtocol would build a table of 160 bits.
        RPCProtocol.__init__(self)
        self.router = table
        self.storage = directory
        self.source_node = Contact(me)
        self.handshakes = handshakes
        self.traffic = Traffic()
        self.serving_flag = 0
        self.transports: dict[int, Any] = {}
        """The sockets, by family: what has none here can neither be heard of nor called."""
        self.closed = False
        self._me = me
        self._ambient = ambient
        self._conduct = conduct
        self._on_peer = on_peer
        self._on_silence = on_silence
        self._on_observed = on_observed
        self._sessions = handshakes.sessions
        self._unreachable: dict[Contact, float] = {}
        self._strangers = RoundTrip()
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Call | Opening] = Deadlines(self._loop, self._on_due)

    def __getattr__(self, name: str) -> Any:
        """The stock class makes a remote call of every unknown name."""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- hooks -----------------------------------------------------------------------------------------------

    def _accept(self, session: Session, flags: int, call_id: int, data: bytes, addr: Any) -> None:
        """A datagram that the peer of this session sealed, seen for the first time."""
        raise NotImplementedError

    def _resume(self, call: Call, session: Session, now: float) -> None:
        """There is a session now for a call that waited for one."""
        raise NotImplementedError

    def _abandon_calls(self, error: LinkError) -> None:
        """This node is stopping."""
        raise NotImplementedError

    def _call_due(self, call: Call, now: float) -> None:
        """A call's deadline has come."""
        raise NotImplementedError

    def _reset(self, data: bytes, address: Address) -> None:
        """A peer says that it has no such session."""
        raise NotImplementedError

    # ---- asyncio's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transports[family(transport.get_extra_info("sockname")[0])] = transport
        if hasattr(transport, "max_size"):
            transport.max_size = RECEIVE_BUFFER_BYTES

    def error_received(self, exc: Exception) -> None:
        self.traffic.count("socket_errors")

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls; nothing is sent any more."""
        if self.closed:
            return
        self.closed = True
        self._deadlines.stop()
        error = LinkError("this node is stopping")
        self._abandon_calls(error)
        for opening in list(self.handshakes.openings.values()):
            self.handshakes.abandon(opening)
            for call in opening.waiting:
                if not isinstance(call, asyncio.Future):
                    call.caller.failed(call, error)
                elif not call.done():  # somebody waits for the session itself, see `open`
                    call.set_exception(error)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Never raises, whatever the bytes."""
        try:
            size = len(data)
            if size >= MIN_BYTES and data[0] == DATA:
                _, session_id, counter, flags, call_id = HEAD.unpack_from(data)
                session = self._sessions.get(session_id)
                if session is None:
                    if not flags & 7:  # a request: the peer believes in a session that we have lost
                        self._send(RESET_FORM.pack(RESET, session_id, call_id), addr[:2], HANDSHAKE)
                    return
                if not session.opens(data, counter):
                    self.traffic.count("bad_tags")
                    return
                self._accept(session, flags, call_id, data, addr)
            elif size == RESET_BYTES and data[0] == RESET:
                self._reset(data, addr[:2])
            elif size:
                self._handshake(data, addr[:2])
        except Exception:  # what a handler of another room raises must not end the socket
            self.traffic.count("errors")
            log.exception("a datagram from %s was not handled", addr)

    # ---- sessions --------------------------------------------------------------------------------------------

    def _noticed(self, session: Session, flags: int) -> None:
        """Seldom: the first datagram of a session, an answer after silence, or a change of role."""
        if session.watched:
            session.watched = False
            session.silent = 0
            self.handshakes.confirm(session, self._loop.time())
            self.router.alive(session.contact.id)
        serving = bool(flags & SERVING) and self.handshakes.rights.may_serve(session.contact.id)
        if serving != session.serving:
            session.serving = serving
            self._on_peer(session)

    def heard_of(self, by: Contact, packed: bytes) -> list[Contact]:
        """The contacts that a peer tells of, as far as this node can use them. BadMessage: these are none."""
        return believable(unpack_all(packed), self.transports, by=by.ip)

    def _doubt(self, session: Session) -> None:
        """Asks the session's unproven address for a proof: once, and when as many bytes have come from there."""
        unproven = session.unproven
        if unproven is None or unproven.challenge or not session.may_send(unproven.address, CHALLENGE_BYTES):
            return
        unproven.challenge = self._ambient.token_bytes(CHALLENGE_BYTES - MIN_BYTES)
        datagram = session.seal(CHALLENGE | self.serving_flag, 0, unproven.challenge)
        self._send(datagram, unproven.address, HANDSHAKE)

    def proven(self, session: Session, address: Address) -> None:
        """The peer has echoed what was sent there: it has moved, or has an address of the other family as well."""
        session.unproven = None
        if family(address[0]) == family(session.address[0]):
            session.address = address
        else:
            session.second = address
        both = [each for each in (session.address, session.second) if each is not None]
        session.contact = contact_at(session.contact.id, both)
        self._on_peer(session)

    def claims(self, session: Session, address: Address, size: int) -> None:
        """In a request of `size` bytes the peer says that it has this address as well: asked there, it must answer."""
        least = PUBLIC if is_public(session.address[0]) else PRIVATE
        other = family(address[0]) != family(session.address[0]) and family(address[0]) in self.transports
        if other and address[1] and reach(address[0]) >= least:
            session.unproven = None
            session.moved(address, size)
            self._doubt(session)

    def _fault(self, session: Session, why: Exception) -> None:
        """The peer sent garbage in its own session, which nobody else can have done."""
        self.traffic.count("faults")
        peer, now = session.contact.id, self._loop.time()
        self._conduct.blame(peer, Offence.GARBAGE, str(why), now)
        if self._conduct.guilty(peer, now):
            self.traffic.count("shunned")
            self.handshakes.shun(session, now)
            self.router.remove(peer)

    def blame(self, peer: NodeId, why: Exception) -> None:
        """A reply of this peer was garbage."""
        session = self.handshakes.by_peer.get(peer)
        if session is not None:
            self._fault(session, why)

    def _send(self, datagram: bytes, address: Address, purpose: int) -> None:
        self.traffic.sent[purpose] += len(datagram) + UDP_HEADER_BYTES
        transport = self.transports.get(IPV6 if ":" in address[0] else IPV4)
        if transport is not None:
            transport.sendto(datagram, address)

    def _on_due(self, what: Call | Opening, now: float) -> None:
        if isinstance(what, Opening):
            self._overdue(what, now)
        else:
            self._call_due(what, now)

    # ---- handshakes ------------------------------------------------------------------------------------------

    def _begin(self, address: Address, expected: NodeId | None, now: float) -> Opening | None:
        begun = self.handshakes.begin(address, expected, now)
        if begun is None:
            self.traffic.count("openings_refused")
            return None
        opening, new = begun
        if new:
            self.traffic.calls[HANDSHAKE] += 1
            self._send(opening.datagram, address, HANDSHAKE)
            patience = self._strangers.timeout(STRANGER_SECONDS_MIN, TIMEOUT_SECONDS)
            opening.until = now + 3 * patience
            self._deadlines.set(opening, now + patience)
        return opening

    def _handshake(self, data: bytes, address: Address) -> None:
        self.traffic.received[HANDSHAKE] += len(data) + UDP_HEADER_BYTES
        now = self._loop.time()
        step = self.handshakes.receive(data, address, now)
        if step.event:
            self.traffic.count(step.event)
        if step.reply:
            self._send(step.reply, address, HANDSHAKE)
        opening, session = step.opening, step.session
        if session is not None:
            self._unreachable.pop(session.contact, None)
            if session.round_trip is not None:
                self._strangers.measured(session.round_trip.seconds)
            seen = step.observed
            if seen is not None and (reach(seen[0]), family(seen[0])) == (reach(address[0]), family(address[0])):
                # Who is on the public internet does not see private addresses, nor the other way about.
                self._on_observed(session.contact, seen)
            self._on_peer(session)
            if opening is not None:
                self._release(opening, session, now)
        elif step.failure and opening is not None:
            self._give_up(opening, refused_by(opening, step.failure, step.pool), now)
        elif opening is not None:  # somebody is there
            opening.until = opening.began + HANDSHAKE_SECONDS
            self._deadlines.set(opening, now + max(2 * (now - opening.began), 0.2))

    def _release(self, opening: Opening, session: Session, now: float) -> None:
        waiting, opening.waiting = opening.waiting, []
        for call in waiting:
            if isinstance(call, asyncio.Future):
                if not call.done():
                    call.set_result(session)
            else:
                self._resume(call, session, now)

    def _give_up(self, opening: Opening, error: LinkError, now: float) -> None:
        if opening.expected is not None:
            gone = contact(opening.expected, *opening.address)
            if len(self._unreachable) >= MAX_UNREACHABLE:
                del self._unreachable[next(iter(self._unreachable))]
            self._unreachable[gone] = now + UNREACHABLE_SECONDS
            self._on_silence(gone)
        waiting, opening.waiting = opening.waiting, []
        for call in waiting:
            if isinstance(call, asyncio.Future):
                if not call.done():
                    call.set_exception(error)
            elif not call.tries:  # others wait for their own deadline
                call.caller.failed(call, error)

    def _overdue(self, opening: Opening, now: float) -> None:
        if self.handshakes.openings.get(opening.nonce) is not opening:
            return
        if now >= opening.until - 1e-6:
            self.handshakes.abandon(opening)
            self.traffic.count("handshake_timeouts")
            host, port = opening.address
            self._give_up(opening, LinkError(f"no answer from {host}:{port}"), now)
            return
        opening.tries += 1
        self._send(opening.datagram, opening.address, HANDSHAKE)
        self._deadlines.set(opening, opening.until)
        for call in opening.waiting:
            if isinstance(call, Call):
                call.caller.late(call)

    def meet_again(self, peer: Contact) -> None:
        """Shakes hands anew: so it says at which address it sees this node now."""
        self._begin(peer.address, peer.id, self._loop.time())

    async def open(self, address: Address, expected: NodeId | None) -> Session:
        """A session with who is at this address.

        Raises:
            LinkError: nobody answers, or it refuses (the text says why).
        """
        future: asyncio.Future[Session] = self._loop.create_future()
        known = self.handshakes.by_peer.get(expected) if expected is not None else None
        if known is not None and known.address == address:
            return known
        if family(address[0]) not in self.transports:
            raise LinkError(f"this node has no IPv{family(address[0])}, and so cannot reach {format_address(address)}")
        opening = None if self.closed else self._begin(address, expected, self._loop.time())
        if opening is None or len(opening.waiting) >= MAX_WAITING:
            raise LinkError("too many handshakes under way")
        opening.waiting.append(future)
        return await future
