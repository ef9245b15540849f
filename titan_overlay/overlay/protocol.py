"""The shell around sessions: one UDP socket, authenticated calls, timers.

Subclass of the stock `KademliaProtocol` / `RPCProtocol`, of which it keeps the place in asyncio and replaces all that
trusts the sender. Everything happens within `datagram_received`, without tasks; one timer serves all deadlines.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from kademlia.protocol import KademliaProtocol
from rpcudp.protocol import RPCProtocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, LinkError, RemotableError, RemoteError, WireError, from_wire
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.bodies import MAX_BODY, contact
from titan_overlay.overlay.calls import Await, Call, Caller, Handler, refusal, refused_by
from titan_overlay.overlay.deadlines import Deadlines
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.handshake import Handshakes, Opening
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.sessions import (
    CHALLENGE,
    DATA,
    HEAD,
    MIN_BYTES,
    PROOF,
    PURPOSE_SHIFT,
    REFUSAL,
    REPLY,
    REQUEST,
    SERVING,
    TAG_BYTES,
    TIMEOUT_SECONDS,
    Session,
)
from titan_overlay.overlay.traffic import HANDSHAKE, OTHER, UDP_HEADER_BYTES, Traffic
from titan_overlay.wire import codec

log = logging.getLogger(__name__)

RESET = 0x11
"""`RESET | session id 4 | call id 4`: "I have no such session". A hint without a tag: it only starts a handshake."""
RESET_BYTES = 9

RECEIVE_BUFFER_BYTES = 2048
"""asyncio reads every datagram into a buffer of 256 KiB otherwise, which costs half the time."""

NEVER = float("inf")
MAX_WAITING = 64
"""Calls that may wait for one handshake."""
MAX_OUTSTANDING = 4096
MAX_FAULTS = 16
HANDSHAKE_SECONDS = 3.0
"""Without an answer to the first HELLO (sent twice) nobody is there."""
UNREACHABLE_SECONDS = 10.0
"""A contact that did not answer a handshake is not tried again for that long."""
MAX_UNREACHABLE = 512


class OverlayProtocol(KademliaProtocol):
    """Calls and handlers over one socket.

    Args:
        on_peer: a session was made with this contact, or its role or address has changed (now proven).
        on_silence: a call or handshake with this contact got no answer.
    """

    def __init__(
        self,
        me: NodeId,
        table: RoutingTable,
        directory: Directory,
        handshakes: Handshakes,
        ambient: Ambient,
        *,
        on_peer: Callable[[Session], None],
        on_silence: Callable[[Contact], None],
        on_observed: Callable[[tuple[str, int]], None],
    ) -> None:
        # The stock KademliaProtocol would build a table of 160 bits.
        RPCProtocol.__init__(self)
        self.router = table
        self.storage = directory
        self.source_node = Contact(me)
        self.handshakes = handshakes
        self.traffic = Traffic()
        self.serving_flag = 0
        self.transport: Any = None
        self.closed = False
        self._me = me
        self._ambient = ambient
        self._on_peer = on_peer
        self._on_silence = on_silence
        self._on_observed = on_observed
        self._sessions = handshakes.sessions
        self._handlers: dict[bytes, Handler] = {}
        self._calls: dict[int, Call] = {}
        self._last_id = 0
        self._unreachable: dict[Contact, float] = {}
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Call | Opening] = Deadlines(self._loop, self._on_due)

    def __getattr__(self, name: str) -> Any:
        """The stock class makes a remote call of every unknown name."""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # ---- asyncio's side --------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
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
        calls: list[Call | asyncio.Future[Session]] = list(self._calls.values())
        for opening in list(self.handshakes.openings.values()):
            self.handshakes.abandon(opening)
            calls += opening.waiting
        self._calls.clear()
        error = LinkError("this node is stopping")
        for call in calls:
            if not isinstance(call, asyncio.Future):
                call.caller.failed(call, error)
            elif not call.done():  # somebody waits for the session itself, see `open`
                call.set_exception(error)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Never raises, whatever the bytes."""
        try:
            size = len(data)
            if size >= MIN_BYTES and data[0] == DATA:
                session = self._sessions.get(data[1:5])
                _, _, counter, flags, call_id = HEAD.unpack_from(data)
                if session is None:
                    if not flags & 7:  # a request: the peer believes in a session that we have lost
                        self._send(bytes((RESET,)) + data[1:5] + data[10:14], addr[:2], HANDSHAKE)
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

    # ---- inside a session ------------------------------------------------------------------------------------

    def _accept(self, session: Session, flags: int, call_id: int, data: bytes, addr: Any) -> None:
        if session.watched or bool(flags & SERVING) != session.serving:
            self._noticed(session, flags)
        session.heard = now = self._loop.time()
        if addr[:2] != session.address:
            self._from_elsewhere(session, addr[:2], len(data))
        purpose = flags >> PURPOSE_SHIFT
        self.traffic.received[purpose] += len(data) + UDP_HEADER_BYTES
        what = flags & 7
        if what == REPLY:
            call = self._calls.get(call_id)
            if call is None or call.session is not session:
                self.traffic.count("late_replies")
                return
            del self._calls[call_id]
            call.id = 0
            call.due = NEVER
            if call.tries == 1:
                session.measured(now - call.sent_at)
            call.caller.answered(call, data[14:-TAG_BYTES])
        elif what == REQUEST:
            self._serve(session, purpose, call_id, data, addr[:2])
        elif what == REFUSAL:
            self._refused(session, call_id, data[14:-TAG_BYTES])
        elif what == CHALLENGE:
            self._send(session.seal(PROOF | self.serving_flag, 0, data[14:-TAG_BYTES]), addr[:2], HANDSHAKE)
        elif what == PROOF and addr[:2] == session.unproven and data[14:-TAG_BYTES] == session.challenge:
            session.address = addr[:2]
            session.contact = contact(session.contact.id, *session.address)
            session.unproven = None
            self._on_peer(session)

    def _noticed(self, session: Session, flags: int) -> None:
        """Seldom: the first datagram of a session, an answer after silence, or a change of role."""
        if session.watched:
            session.watched = False
            session.silent = 0
            self.handshakes.confirm(session, self._loop.time())
            self.router.alive(session.contact.id)
        if bool(flags & SERVING) != session.serving:
            session.serving = bool(flags & SERVING)
            self._on_peer(session)

    def _from_elsewhere(self, session: Session, address: tuple[str, int], size: int) -> None:
        if session.moved(address, size, self._ambient.token_bytes(8)):
            challenge = session.seal(CHALLENGE | self.serving_flag, 0, session.challenge)
            if session.may_send(address, len(challenge)):
                self._send(challenge, address, HANDSHAKE)

    def _serve(self, session: Session, purpose: int, call_id: int, data: bytes, address: tuple[str, int]) -> None:
        end = 15 + data[14] if len(data) > MIN_BYTES else 0
        handler = self._handlers.get(data[15:end])
        flags = self.serving_flag | purpose << PURPOSE_SHIFT
        try:
            if handler is None:
                raise BadMessage(f"no method {data[15:end]!r} here")
            reply = session.seal(REPLY | flags, call_id, handler(session.contact, data[end:-TAG_BYTES]))
        except RemotableError as error:
            if isinstance(error, BadMessage):
                self._fault(session)
            reply = session.seal(REFUSAL | flags, call_id, refusal(error))
        except Exception as problem:
            self.traffic.count("errors")
            log.exception("the handler of %r failed", data[15:end])
            remote = RemoteError("the handler failed", type=type(problem).__name__)
            reply = session.seal(REFUSAL | flags, call_id, refusal(remote))
        if session.may_send(address, len(reply)):
            self._send(reply, address, purpose)

    def _refused(self, session: Session, call_id: int, body: bytes) -> None:
        call = self._calls.get(call_id)
        if call is None or call.session is not session:
            return
        del self._calls[call_id]
        call.id = 0
        call.due = NEVER
        try:
            error = from_wire(codec.decode(body, WireError))
        except BadMessage as why:
            self._fault(session)
            error = why
        call.caller.failed(call, error)

    def _fault(self, session: Session) -> None:
        """The peer sent garbage in its own session, which nobody else can have done."""
        self.traffic.count("faults")
        session.faults += 1
        if session.faults >= MAX_FAULTS:
            self.traffic.count("shunned")
            self.handshakes.shun(session, self._loop.time())
            self.router.remove(session.contact.id)

    def blame(self, peer: NodeId) -> None:
        """A reply of this peer was garbage."""
        session = self.handshakes.by_peer.get(peer)
        if session is not None:
            self._fault(session)

    # ---- calls -----------------------------------------------------------------------------------------------

    def serve(self, method: str, handler: Handler) -> None:
        """`handler(contact, body) -> body` answers this method; a RemotableError that it raises is a refusal."""
        self._handlers[method.encode()] = handler

    async def call(
        self, to: Contact, method: str, body: bytes, *, timeout: float | None = None, purpose: int = OTHER
    ) -> bytes:
        """One request, one reply.

        Raises:
            LinkError: no answer, or this node is stopping.
            RemotableError: the peer refused. BadMessage: the body is too large.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()
        self.start(Await(future), to, method, body, timeout=timeout, purpose=purpose)
        return await future

    def start(
        self,
        caller: Caller,
        to: Contact,
        method: str,
        body: bytes,
        *,
        timeout: float | None = None,
        purpose: int = OTHER,
    ) -> None:
        """As `call`, telling `caller` how it went (never before this returns)."""
        if len(body) > MAX_BODY:
            raise BadMessage(f"a body has at most {MAX_BODY} bytes, this one {len(body)}; send it over a link")
        now = self._loop.time()
        call = Call(caller, to, method, body, purpose, now + (60.0 if timeout is None else timeout))
        session = self.handshakes.by_peer.get(to.id)
        if self.closed or len(self._calls) >= MAX_OUTSTANDING:
            self._later(call, "this node is stopping" if self.closed else "too many calls under way")
        elif to.id == self._me:
            self._later(call, "a node does not call itself")
        elif session is None:
            self._open(call, now)
        else:
            self.traffic.calls[purpose] += 1
            self._transmit(call, session, now)
            if session.worn(now):
                self._begin(to.address, to.id, now)

    def _later(self, call: Call, why: str) -> None:
        self._loop.call_soon(call.caller.failed, call, LinkError(why))

    def _transmit(self, call: Call, session: Session, now: float) -> None:
        self._last_id = call.id = self._last_id % 0xFFFFFFFF + 1
        call.session = session
        call.tries = 1
        call.sent_at = now
        self._calls[call.id] = call
        flags = self.serving_flag | call.purpose << PURPOSE_SHIFT
        self._send(session.seal(flags, call.id, call.body), session.address, call.purpose)
        self._deadlines.set(call, min(now + session.timeout(), call.deadline))

    def _send(self, datagram: bytes, address: tuple[str, int], purpose: int) -> None:
        self.traffic.sent[purpose] += len(datagram) + UDP_HEADER_BYTES
        self.transport.sendto(datagram, address)

    def _on_due(self, what: Call | Opening, now: float) -> None:
        if isinstance(what, Opening):
            self._overdue(what, now)
        elif what.id:
            self._late(what, now)
        elif what.tries == 0:
            what.tries = -1
            what.caller.failed(what, LinkError(f"no session with {what.contact} in time"))

    def _late(self, call: Call, now: float) -> None:
        """The answer is overdue: once more, then no more."""
        session = call.session
        assert session is not None
        if call.tries == 1 and now < call.deadline and not self.closed:
            call.tries = 2
            flags = self.serving_flag | call.purpose << PURPOSE_SHIFT
            self._send(session.seal(flags, call.id, call.body), session.address, call.purpose)
            self._deadlines.set(call, min(now + 2 * session.timeout(), call.deadline))
            call.caller.late(call)
            return
        del self._calls[call.id]
        call.id = 0
        self.traffic.count("timeouts")
        if call.tries > 1:
            session.silent += 1
            session.watched = True
            if session.silent > 1 and session.heard < call.sent_at:
                self.handshakes.drop(session)  # the next call begins with a handshake
            self._on_silence(call.contact)
        call.caller.failed(call, LinkError(f"no answer from {call.contact}", maybe_executed=True))

    # ---- handshakes ------------------------------------------------------------------------------------------

    def _open(self, call: Call, now: float) -> None:
        if self._unreachable.get(call.contact, 0.0) > now:
            self._later(call, f"{call.contact} did not answer a moment ago")
            return
        opening = self._begin(call.contact.address, call.contact.id, now)
        if opening is None or len(opening.waiting) >= MAX_WAITING:
            self._later(call, f"too many handshakes under way; {call.contact} was not asked")
            return
        self.traffic.calls[call.purpose] += 1
        opening.waiting.append(call)
        if call.deadline < now + HANDSHAKE_SECONDS:
            self._deadlines.set(call, call.deadline)

    def _begin(self, address: tuple[str, int], expected: NodeId | None, now: float) -> Opening | None:
        begun = self.handshakes.begin(address, expected, now)
        if begun is None:
            self.traffic.count("openings_refused")
            return None
        opening, new = begun
        if new:
            self.traffic.calls[HANDSHAKE] += 1
            self._send(opening.datagram, address, HANDSHAKE)
            self._deadlines.set(opening, now + TIMEOUT_SECONDS)
        return opening

    def _handshake(self, data: bytes, address: tuple[str, int]) -> None:
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
            if step.observed is not None:
                self._on_observed(step.observed)
            self._on_peer(session)
            if opening is not None:
                self._release(opening, session, now)
        elif step.failure and opening is not None:
            self._give_up(opening, refused_by(opening, step.failure, step.pool), now)
        elif opening is not None:
            self._deadlines.set(opening, now + max(2 * (now - opening.began), 0.2))

    def _release(self, opening: Opening, session: Session, now: float) -> None:
        waiting, opening.waiting = opening.waiting, []
        for call in waiting:
            if isinstance(call, asyncio.Future):
                if not call.done():
                    call.set_result(session)
            elif call.contact.id != session.contact.id:
                if not call.tries:
                    call.caller.failed(call, LinkError(f"another node answers at {call.contact}"))
            elif not call.tries or call.id:  # else it is over
                self._calls.pop(call.id, None)
                self._transmit(call, session, now)

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
        if now - opening.began >= HANDSHAKE_SECONDS - 1e-6:
            self.handshakes.abandon(opening)
            self.traffic.count("handshake_timeouts")
            host, port = opening.address
            self._give_up(opening, LinkError(f"no answer from {host}:{port}"), now)
            return
        opening.tries += 1
        self._send(opening.datagram, opening.address, HANDSHAKE)
        self._deadlines.set(opening, opening.began + HANDSHAKE_SECONDS)
        for call in opening.waiting:
            if isinstance(call, Call):
                call.caller.late(call)

    async def open(self, address: tuple[str, int], expected: NodeId | None) -> Session:
        """A session with who is at this address.

        Raises:
            LinkError: nobody answers, or it refuses (the text says why).
        """
        future: asyncio.Future[Session] = self._loop.create_future()
        known = self.handshakes.by_peer.get(expected) if expected is not None else None
        if known is not None and known.address == address:
            return known
        opening = None if self.closed else self._begin(address, expected, self._loop.time())
        if opening is None or len(opening.waiting) >= MAX_WAITING:
            raise LinkError("too many handshakes under way")
        opening.waiting.append(future)
        return await future

    def _reset(self, data: bytes, address: tuple[str, int]) -> None:
        """The peer says it has lost the session: shake hands anew; the old session stays until then."""
        self.traffic.received[HANDSHAKE] += len(data) + UDP_HEADER_BYTES
        call = self._calls.get(int.from_bytes(data[5:], "big"))
        if call is None or call.session is None:
            return
        if call.session.send_id != data[1:5] or call.session.address != address:
            return
        opening = self._begin(address, call.contact.id, self._loop.time())
        if opening is not None and len(opening.waiting) < MAX_WAITING and call not in opening.waiting:
            opening.waiting.append(call)
