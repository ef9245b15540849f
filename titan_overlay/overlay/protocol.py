"""The overlay's remote calls: requests and replies inside sessions, with adaptive timeouts and one retransmission."""

import asyncio
import logging
from typing import Any

from titan_overlay.errors import BadMessage, LinkError, Overloaded, RemotableError, RemoteError, WireError, from_wire
from titan_overlay.identity.contacts import PACKED_BYTES, Address, Contact, unpack_address
from titan_overlay.overlay.bodies import MAX_BODY
from titan_overlay.overlay.calls import Await, Call, Caller, Handler, refusal
from titan_overlay.overlay.endpoint import HANDSHAKE_SECONDS, MAX_WAITING, RESET_FORM, Endpoint
from titan_overlay.overlay.sessions import (
    CHALLENGE,
    MIN_BYTES,
    PROOF,
    PURPOSE_SHIFT,
    REFUSAL,
    REPLY,
    REQUEST,
    REQUESTS,
    SERVING,
    TAG_BYTES,
    Session,
)
from titan_overlay.overlay.traffic import HANDSHAKE, OTHER, UDP_HEADER_BYTES
from titan_overlay.wire import codec

log = logging.getLogger(__name__)

ALSO_AT = "also_at"
"""Method: "I have this address, of the other family, as well". It counts once it has echoed a challenge."""
NEVER = float("inf")
MAX_OUTSTANDING = 4096


class OverlayProtocol(Endpoint):
    """Calls and handlers over the sessions of an `Endpoint`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._handlers: dict[bytes, Handler] = {}
        self._calls: dict[int, Call] = {}
        self._last_id = 0
        self.serve(ALSO_AT, self._also_at)

    # ---- inside a session ------------------------------------------------------------------------------------

    def _accept(self, session: Session, flags: int, call_id: int, data: bytes, addr: Any) -> None:
        if session.watched or bool(flags & SERVING) != session.serving:
            self._noticed(session, flags)
        session.heard = now = self._loop.time()
        what = flags & 7
        if addr[:2] != session.address and addr[:2] != session.second:
            session.moved(addr[:2], len(data))
            if what != CHALLENGE:  # it is answered with a proof, which takes as many bytes
                self._doubt(session)
        purpose = flags >> PURPOSE_SHIFT
        self.traffic.received[purpose] += len(data) + UDP_HEADER_BYTES
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
            if session.may_send(addr[:2], len(data)):
                self._send(session.seal(PROOF | self.serving_flag, 0, data[14:-TAG_BYTES]), addr[:2], HANDSHAKE)
        elif what == PROOF and session.proves(addr[:2], data[14:-TAG_BYTES]):
            self.proven(session, addr[:2])

    def _serve(self, session: Session, purpose: int, call_id: int, data: bytes, address: Address) -> None:
        end = 15 + data[14] if len(data) > MIN_BYTES else 0
        handler = self._handlers.get(data[15:end])
        flags = self.serving_flag | purpose << PURPOSE_SHIFT
        try:
            wait = self.handshakes.admit(session)
            if wait:
                self.traffic.count("overloaded")
                raise Overloaded(f"one peer may ask {REQUESTS.rate:g} times a second here", retry_after=wait)
            if handler is None:
                raise BadMessage(f"no method {data[15:end]!r} here")
            reply = session.seal(REPLY | flags, call_id, handler(session.contact, data[end:-TAG_BYTES]))
        except RemotableError as error:
            if isinstance(error, BadMessage):
                self._fault(session, error)
            reply = session.seal(REFUSAL | flags, call_id, refusal(error))
        except Exception as problem:
            self.traffic.count("errors")
            log.exception("the handler of %r failed", data[15:end])
            remote = RemoteError("the handler failed", type=type(problem).__name__)
            reply = session.seal(REFUSAL | flags, call_id, refusal(remote))
        if session.may_send(address, len(reply)):
            self._send(reply, address, purpose)

    def _also_at(self, peer: Contact, body: bytes) -> bytes:
        session = self.handshakes.by_peer.get(peer.id)
        if session is not None and len(body) in PACKED_BYTES.values():
            self.claims(session, unpack_address(body), MIN_BYTES + len(body))
        return b""

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
            self._fault(session, why)
            error = why
        call.caller.failed(call, error)

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
                self._begin(session.address, to.id, now)

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

    # ---- when no answer comes --------------------------------------------------------------------------------

    def _call_due(self, call: Call, now: float) -> None:
        if call.id:
            self._late(call, now)
        elif call.tries == 0:
            call.tries = -1
            call.caller.failed(call, LinkError(f"no session with {call.contact} in time"))

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

    # ---- calls that wait for a session -----------------------------------------------------------------------

    def _open(self, call: Call, now: float) -> None:
        if self._unreachable.get(call.contact, 0.0) > now:
            self._later(call, f"{call.contact} did not answer a moment ago")
            return
        way = call.contact.within(self.transports)
        if way is None:
            self._later(call, f"{call.contact} has no address of a family that this node has")
            return
        opening = self._begin(way.address, call.contact.id, now)
        if opening is None or len(opening.waiting) >= MAX_WAITING:
            self._later(call, f"too many handshakes under way; {call.contact} was not asked")
            return
        self.traffic.calls[call.purpose] += 1
        opening.waiting.append(call)
        if call.deadline < now + HANDSHAKE_SECONDS:
            self._deadlines.set(call, call.deadline)

    def _resume(self, call: Call, session: Session, now: float) -> None:
        if call.contact.id != session.contact.id:
            if not call.tries:
                call.caller.failed(call, LinkError(f"another node answers at {call.contact}"))
        elif not call.tries or call.id:  # else it is over
            self._calls.pop(call.id, None)
            self._transmit(call, session, now)

    def _abandon_calls(self, error: LinkError) -> None:
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.caller.failed(call, error)

    def _reset(self, data: bytes, address: Address) -> None:
        """The peer says it has lost the session: shake hands anew; the old session stays until then.

        Once for each call: a peer that says so again and again would keep it from ever being late.
        """
        self.traffic.received[HANDSHAKE] += len(data) + UDP_HEADER_BYTES
        _, session_id, call_id = RESET_FORM.unpack(data)
        call = self._calls.get(call_id)
        if call is None or call.session is None or call.renewed:
            return
        if call.session.send_id != session_id or call.session.address != address:
            return
        opening = self._begin(address, call.contact.id, self._loop.time())
        if opening is not None and len(opening.waiting) < MAX_WAITING and call not in opening.waiting:
            call.renewed = True
            opening.waiting.append(call)
