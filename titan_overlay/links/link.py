"""One link: a connection that carries many requests both ways at once.

Requests have ids; answers, cancellations and credit carry them. BYE ends a link without breaking a request: the side
that says it asks for no new ones, the other closes when all is answered.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from titan_overlay.errors import (
    BadMessage,
    Forbidden,
    LinkError,
    Overloaded,
    RemotableError,
)
from titan_overlay.identity.credentials import LINK_BYTES
from titan_overlay.identity.ids import ID_BYTES, NodeId, node_id
from titan_overlay.identity.keys import KEY_BYTES
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.links.connection import CLOSED, HELLO, OPEN, State
from titan_overlay.links.inbound import MAX_CREDIT, REQUEST_BYTES, Inbound, Promised, unexpected
from titan_overlay.links.requests import MAX_TIMEOUT_MS, TOO_DEEP, Requests, request_id
from titan_overlay.links.runner import Runner
from titan_overlay.links.shared import PROTOCOL_VERSION, Known, Peer, Shared
from titan_overlay.links.tls import Tls
from titan_overlay.meters import PEERS_OF_A_SUBNET, UNMETERED
from titan_overlay.wire import codec
from titan_overlay.wire.frames import Flags
from titan_overlay.wire.messages import Cancel, Credit, Data, Hello, Opcode, Send

# Plain integers: enum members are slow to compare, and these are met for every message.
_ACK, _ERROR, _DATA = int(Opcode.ACK), int(Opcode.ERROR), int(Opcode.DATA)
_HELLO, _SEND, _CANCEL, _CREDIT = int(Opcode.HELLO), int(Opcode.SEND), int(Opcode.CANCEL), int(Opcode.CREDIT)
_BYE, _PING, _PONG = int(Opcode.BYE), int(Opcode.PING), int(Opcode.PONG)
_MORE = int(Flags.MORE)

_FRAME = 1 / 8
"""Of a message: what a frame costs that asks for nothing, or for nothing that it is given."""

_decode_send: Callable[[bytes], Send] = codec.decoder(Send).decode
_NIL = msgspec.Raw(b"\xc0")


class Owner(Protocol):
    """What a link asks of the `Links` that it belongs to."""

    shared: Shared
    runner: Runner

    def connected(self, link: "Link") -> str:
        """An inbound connection came in; the reason to refuse it, or empty."""

    def admitted(self, link: "Link", peer: Peer) -> Known:
        """The peer is who it should be; what is known of it.

        Raises:
            Forbidden: it may not have a link.
        """

    def leaving(self, link: "Link") -> None:
        """No new requests on it."""

    def closed(self, link: "Link", *, broken: bool) -> None:
        """It is gone; `broken`: the peer broke the protocol."""


class Link(Requests):
    """See the module. What is asked over it is in `Requests`; here is who is at the other end, and what it asks."""

    __slots__ = ("_inbound", "_inbound_bytes", "_owner", "meter", "opened", "peer", "subnet")

    def __init__(self, owner: Owner, tls: Tls | None, expected: NodeId | None) -> None:
        super().__init__(owner.shared, tls, expected)
        self._owner = owner
        self.peer: Peer | None = None
        self.meter = UNMETERED
        """What the peer may still ask for; set by the owner when it admits the peer."""
        self.subnet = ""
        """Of an inbound link: where it comes from."""
        self.opened: asyncio.Future[None] = self.shared.loop.create_future()
        """Done when requests may be sent; not with the link itself, which then would hold itself and its buffers."""
        self._inbound: dict[int, Inbound | Promised] = {}
        self._inbound_bytes = 0

    # --- life -------------------------------------------------------------------------------------------------

    def _accepting(self) -> str:
        self.subnet = subnet(*self._address())
        return self._owner.connected(self)

    def _greet(self) -> None:
        self._write(_HELLO, 0, self.shared.hello())

    def _ended(self, was: State, reason: str, broken: bool) -> None:
        text = reason
        if self.peer is not None:
            text = f"the link to node {self.peer.id.hex()[:12]} at {self._address()[0]} ended: {reason}"
        if not self.opened.done():
            self.opened.set_exception(LinkError(text))
            self.opened.exception()  # looked at: nobody may be waiting for it
        self._fail_requests(text)
        for job in self._inbound.values():
            job.called_off()
        self._owner.closed(self, broken=broken)

    def leave(self) -> None:
        """Say goodbye: what is under way is answered, then the link ends."""
        if self.state is OPEN and self.leaving_since is None:
            self._write(_BYE, 0, None)
            self._begin_leaving()

    def _begin_leaving(self) -> None:
        if self.leaving_since is None:
            self.leaving_since = self.shared.loop.time()
        self._update_usable()
        self._owner.leaving(self)

    def _part_if_done(self) -> None:
        """The peer said goodbye; whoever hears it closes, once nothing is under way."""
        if self.quiet:
            self.flush()
            self.fail("the peer said goodbye")

    def ping(self) -> None:
        """Ask whether the peer lives; anything it sends is an answer."""
        self.probed = True
        self._write(_PING, 0, None)

    @property
    def away(self) -> bool:
        """The peer is on another machine."""
        return self.peer is not None and not is_loopback(self.peer.ip)

    @property
    def quiet(self) -> bool:
        """Nothing is under way in either direction."""
        return not self._calls and not self._streams and not self._inbound

    # --- answers to the peer ----------------------------------------------------------------------------------

    def answer(self, id: int, body: bytes) -> None:
        try:
            self._write(_DATA, 0, Data(id, msgspec.Raw(body)))
        except BadMessage as why:
            raise _too_big(why) from None

    def answer_item(self, id: int, body: bytes) -> None:
        try:
            self._write(_DATA, _MORE, Data(id, msgspec.Raw(body)))
        except BadMessage as why:
            raise _too_big(why) from None

    def answer_end(self, id: int) -> None:
        self._write(_ACK, 0, Data(id, _NIL))

    def finished(self, job: Inbound | Promised) -> None:
        if self._inbound.pop(job.id, None) is not None:
            self._inbound_bytes -= job.size
            self.shared.inbound_bytes -= job.size
            if not self._inbound and not self.shared.corked:
                self.flush()  # likewise a lone answer
        if self._bye_received:
            self._part_if_done()

    # --- what comes in ----------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> None:
        for opcode, flags, payload in self._reader.feed(data):
            if self.state is OPEN:
                if opcode == _DATA:
                    self._on_data(flags, payload)
                elif opcode == _SEND:
                    self._on_send(payload)
                else:
                    self._on_other(opcode, payload)
            elif self.state is HELLO:
                self._on_first(opcode, payload)
            else:
                return

    def _on_first(self, opcode: int, payload: bytes) -> None:
        if opcode == _ERROR:
            self._on_error(payload)
            return
        if opcode != _HELLO:
            raise BadMessage(f"the first frame has opcode {opcode:#04x}; it must be a hello")
        hello = codec.decode(payload, Hello)
        mine = self.shared.hello()
        if hello.version != PROTOCOL_VERSION:
            raise Forbidden(f"the peer speaks version {hello.version}; this node speaks {PROTOCOL_VERSION}")
        if hello.pool != mine.pool:
            raise Forbidden(f"the peer belongs to pool {hello.pool.hex()[:12]}, this node to {mine.pool.hex()[:12]}")
        if len(hello.public) != KEY_BYTES or (self._tls is not None and hello.public != self._public):
            raise BadMessage("the hello names another key than the certificate")
        if len(hello.credentials) > LINK_BYTES:  # they are remembered as long as the link lives, and longer
            raise BadMessage(f"credentials of {len(hello.credentials)} bytes; {LINK_BYTES} is the limit")
        if not 0 <= hello.port <= 65535:
            raise BadMessage(f"no such port: {hello.port}")
        id = node_id(hello.public)
        self._check_id(id)
        host, _ = self._address()
        port = hello.port if hello.serving else 0
        peer = Peer(id, hello.public, host, port, hello.serving, hello.credentials)
        self.known = self._owner.admitted(self, peer)
        self.peer = peer
        self._opened()
        if not self.dialed:
            self._greet()
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_send(self, payload: bytes) -> None:
        try:
            send = _decode_send(payload)
        except RecursionError:
            # Not the peer's fault: it may have passed on what somebody else made just deep enough for it.
            self.write_error(request_id(payload), BadMessage(TOO_DEEP))
            return
        shared, inbound = self.shared, self._inbound
        id = send.id
        if id in inbound or len(send.object_id) != ID_BYTES or send.timeout_ms < 0 or id < 0:
            raise BadMessage("a request with a used id, a malformed object id or a negative timeout")
        if send.timeout_ms > MAX_TIMEOUT_MS:
            send.timeout_ms = MAX_TIMEOUT_MS
        size = len(payload)
        limits = shared.limits
        wait = self.meter.take(1 + size // limits.message_bytes, self.heard)
        if wait:
            self._charge(size)
        if not id:
            self._on_told(send, wait)
            return
        if wait:
            shared.counters.overloaded += 1
            most = limits.messages_per_second
            why = (
                f"one peer may send {most:g} messages a second here (messages_per_peer), "
                f"all peers of its network {PEERS_OF_A_SUBNET * most:g}"
            )
            self.write_error(id, Overloaded(why, retry_after=wait))
            return
        size += REQUEST_BYTES
        own = self._inbound_bytes + size
        crowded = (
            shared.inbound_bytes + size > limits.request_bytes and own > limits.request_bytes // limits.inbound_links
        )
        if len(inbound) >= limits.requests_per_peer or own > limits.request_bytes_per_peer or crowded:
            shared.counters.overloaded += 1
            why = f"{len(inbound)} requests of yours are under way here, as many as may be (requests_per_peer_max)"
            self.write_error(id, Overloaded(why, retry_after=0.1))
            return
        shared.counters.requests_received += 1
        self.used = self.heard
        assert self.peer is not None
        try:
            reply = shared.handler(self.peer, send)
            if type(reply) is bytes:
                self.answer(id, reply)
                return
        except RemotableError as error:
            self.write_error(id, error)
            return
        except Exception as error:
            self.write_error(id, unexpected(error))
            return
        assert not isinstance(reply, bytes)
        self._inbound_bytes += size
        shared.inbound_bytes += size
        if isinstance(reply, asyncio.Future):
            inbound[id] = Promised(self, send, size, reply)
            return
        job = inbound[id] = Inbound(self, send, size, reply)
        self._owner.runner.run(job)

    def _on_told(self, send: Send, wait: float) -> None:
        """It is not to be answered, so nothing is begun that goes on after this; what goes wrong is not told either."""
        shared = self.shared
        if wait:
            shared.counters.overloaded += 1
            return
        shared.counters.requests_received += 1
        self.used = self.heard
        assert self.peer is not None
        try:
            begun = shared.handler(self.peer, send)
        except RemotableError:
            return
        except Exception as error:
            unexpected(error)
            return
        if isinstance(begun, asyncio.Future):
            begun.cancel()
        elif not isinstance(begun, bytes):
            begun.close()

    def _charge(self, size: int) -> None:
        amount = _FRAME + size / self.shared.limits.message_bytes
        if self.meter.charge(amount, self.heard) and self._resting is None:
            self._transport.pause_reading()
            self._rest()

    def _rest(self) -> None:
        wait = 0.0 if self.state is CLOSED else self.meter.charge(0.0, self.shared.loop.time())
        self._resting = self.shared.loop.call_later(wait, self._rest) if wait else None
        if not wait:
            self._transport.resume_reading()

    def _on_other(self, opcode: int, payload: bytes) -> None:
        self._charge(len(payload))
        if opcode == _ERROR:
            self._on_error(payload)
        elif opcode == _ACK:
            self._on_end(payload)
        elif opcode == _CANCEL:
            job = self._inbound.get(codec.decode(payload, Cancel).id)
            if job is not None:
                job.called_off()
        elif opcode == _CREDIT:
            credit = codec.decode(payload, Credit)
            if not 0 < credit.items <= MAX_CREDIT:
                raise BadMessage(f"a credit of {credit.items} items")
            job = self._inbound.get(credit.id)
            if job is not None:
                job.give_credit(credit.items)
        elif opcode == _PING:
            self._write(_PONG, 0, None)
        elif opcode == _BYE:
            self._bye_received = True
            self._begin_leaving()
            self._part_if_done()
        elif opcode != _PONG:
            raise BadMessage(f"unknown opcode {opcode:#04x}")

    def __repr__(self) -> str:
        return f"Link({self.peer.id.hex()[:12] if self.peer else '?'} {self.state.name.lower()})"


def _too_big(why: BadMessage) -> BadMessage:
    return BadMessage(f"the reply does not fit: {why}: stream it or put it as data", maybe_executed=True)
