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
    DeadlineExceeded,
    Forbidden,
    LinkError,
    Overloaded,
    RemotableError,
    from_wire,
)
from titan_overlay.identity.ids import ID_BYTES, NodeId, node_id
from titan_overlay.identity.keys import KEY_BYTES
from titan_overlay.links.connection import HELLO, OPEN, Connection, State
from titan_overlay.links.deadlines import Expired
from titan_overlay.links.inbound import MAX_CREDIT, Inbound, unexpected
from titan_overlay.links.replies import Replies
from titan_overlay.links.runner import Runner
from titan_overlay.links.shared import PROTOCOL_VERSION, Known, Peer, Shared
from titan_overlay.links.tls import Tls
from titan_overlay.wire import codec
from titan_overlay.wire.frames import Flags
from titan_overlay.wire.messages import Cancel, Credit, Data, Failure, Hello, Opcode, Send

# Plain integers: enum members are slow to compare, and these are met for every message.
_ACK, _ERROR, _DATA = int(Opcode.ACK), int(Opcode.ERROR), int(Opcode.DATA)
_HELLO, _SEND, _CANCEL, _CREDIT = int(Opcode.HELLO), int(Opcode.SEND), int(Opcode.CANCEL), int(Opcode.CREDIT)
_BYE, _PING, _PONG = int(Opcode.BYE), int(Opcode.PING), int(Opcode.PONG)
_MORE = int(Flags.MORE)

_TOO_DEEP = "the message is nested too deeply; put() it as data, or flatten it"
_decode_send: Callable[[bytes], Send] = codec.decoder(Send).decode
_decode_data: Callable[[bytes], Data] = codec.decoder(Data).decode
_NIL = msgspec.Raw(b"\xc0")

_MAX_TIMEOUT_MS = 30 * 24 * 3600 * 1000
_SMOOTHING = 1 / 8
"""Weight of the newest latency in the average."""


class Owner(Protocol):
    """What a link asks of the `Links` that it belongs to."""

    shared: Shared
    runner: Runner

    def connected(self, link: "Link") -> str | None:
        """An inbound connection came in; the reason to refuse it, if any."""

    def admitted(self, link: "Link", peer: Peer) -> Known:
        """The peer is who it should be; what is known of it.

        Raises:
            Forbidden: it may not have a link.
        """

    def leaving(self, link: "Link") -> None:
        """No new requests on it."""

    def closed(self, link: "Link", *, broken: bool) -> None:
        """It is gone; `broken`: the peer broke the protocol."""


class Link(Connection):
    """See the module."""

    __slots__ = (
        "_bye_received",
        "_calls",
        "_inbound",
        "_inbound_bytes",
        "_owner",
        "_streams",
        "known",
        "opened",
        "peer",
        "used",
    )

    def __init__(self, owner: Owner, tls: Tls | None, expected: NodeId | None) -> None:
        super().__init__(owner.shared, tls, expected)
        self._owner = owner
        self.peer: Peer | None = None
        self.known = Known()
        self.opened: asyncio.Future[Link] = self.shared.loop.create_future()
        self.used = self.heard
        """When the last request began, in either direction."""
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, Replies] = {}
        self._inbound: dict[int, Inbound] = {}
        self._inbound_bytes = 0
        self._bye_received = False

    # --- life -------------------------------------------------------------------------------------------------

    def _accepting(self) -> str | None:
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
        for id, future in self._calls.items():
            if not future.done():
                future.set_exception(LinkError(text, maybe_executed=id < self._flushed_id))
        for id, replies in self._streams.items():
            replies.finish(LinkError(text, maybe_executed=id < self._flushed_id))
        self._streams.clear()
        for job in self._inbound.values():
            job.cancel()
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
    def in_flight(self) -> int:
        """Requests to the peer that are not answered yet."""
        return len(self._calls) + len(self._streams)

    @property
    def quiet(self) -> bool:
        """Nothing is under way in either direction."""
        return not self._calls and not self._streams and not self._inbound

    # --- requests to the peer ---------------------------------------------------------------------------------

    async def request(
        self, object_id: bytes, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]
    ) -> bytes:
        """One request, one reply. The link must be usable. Errors: see `Links.request`."""
        shared = self.shared
        began = self.used = self._time()
        left = deadline - began
        if left <= 0:
            raise _no_time()
        id = shared.next_id
        shared.next_id = id + 1
        # Known before it is written: if writing ends the link, this future fails with the others.
        future: asyncio.Future[bytes] = self._future()
        self._calls[id] = future
        slot = shared.deadlines.slot(deadline)
        slot[id] = future
        try:
            self._write_send(Send(id, _milliseconds(left), object_id, type, msgspec.Raw(body), 0, chain))
            shared.counters.requests_sent += 1
            reply = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                future.exception()  # looked at: it came too late
            self._cancel(id)
            raise
        except Expired:
            self._cancel(id)
            raise DeadlineExceeded(f"no reply within {left:g} s", maybe_executed=True) from None
        finally:
            slot.pop(id, None)
            del self._calls[id]
            if self._bye_received:
                self._part_if_done()
        took = self.heard - began
        known = self.known
        known.latency = took if known.latency is None else known.latency + (took - known.latency) * _SMOOTHING
        return reply

    def _write_send(self, send: Send) -> None:
        try:
            if self.in_flight == 1:
                self._write_now(_SEND, 0, send)
            else:
                self._write(_SEND, 0, send)
        except BadMessage as why:
            raise BadMessage(f"the message of type {send.type!r} does not fit: {why}: put it as data") from None

    def open_stream(
        self, object_id: bytes, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], credit: int
    ) -> Replies:
        """One request, many replies. The link must be usable. Take them with `next_reply`."""
        shared = self.shared
        self.used = self._time()
        left = deadline - self.used
        if left <= 0:
            raise _no_time()
        id = shared.next_id
        shared.next_id = id + 1
        self._streams[id] = replies = Replies(id, credit, shared.deadlines.slot(deadline), shared.loop)
        try:
            self._write_send(Send(id, _milliseconds(left), object_id, type, msgspec.Raw(body), credit, chain))
        except BadMessage:
            del self._streams[id]
            replies.finish()
            raise
        shared.counters.requests_sent += 1
        return replies

    async def next_reply(self, replies: Replies) -> bytes | None:
        """The next item, or None after the last."""
        item = await replies.next()
        due = replies.credit_due()
        if due:
            self._write(_CREDIT, 0, Credit(replies.id, due))
        return item

    def end_stream(self, replies: Replies) -> None:
        """The caller wants no more of it."""
        if self._streams.pop(replies.id, None) is not None:
            self._cancel(replies.id)
        replies.finish()
        if self._bye_received:
            self._part_if_done()

    def _cancel(self, id: int) -> None:
        self._write(_CANCEL, 0, Cancel(id))

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

    def finished(self, job: Inbound) -> None:
        if self._inbound.pop(job.id, None) is not None:
            self._inbound_bytes -= job.size
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
        if not 0 <= hello.port <= 65535:
            raise BadMessage(f"no such port: {hello.port}")
        id = node_id(hello.public)
        self._check_id(id)
        host, _ = self._address()
        port = hello.port if hello.serving else 0
        peer = Peer(id, hello.public, host, port, hello.serving, hello.grant)
        self.known = self._owner.admitted(self, peer)
        self.peer = peer
        self._opened()
        if not self.dialed:
            self._greet()
        if not self.opened.done():
            self.opened.set_result(self)

    def _on_data(self, flags: int, payload: bytes) -> None:
        try:
            data = _decode_data(payload)
        except RecursionError:
            self._failed(_request_id(payload), BadMessage(_TOO_DEEP, maybe_executed=True))
            return
        future = self._calls.get(data.id)
        if future is not None:
            if flags & _MORE:
                raise BadMessage("a stream of replies where one was asked for")
            if not future.done():
                future.set_result(bytes(data.body))
            return
        replies = self._streams.get(data.id)
        if replies is None:
            return  # answered too late, or cancelled
        if not replies.put(bytes(data.body)):
            raise BadMessage("a stream of replies beyond its credit")
        if not flags & _MORE:
            del self._streams[data.id]
            replies.finish()

    def _on_send(self, payload: bytes) -> None:
        try:
            send = _decode_send(payload)
        except RecursionError:
            # Not the peer's fault: it may have passed on what somebody else made just deep enough for it.
            self.write_error(_request_id(payload), BadMessage(_TOO_DEEP))
            return
        shared, inbound = self.shared, self._inbound
        id = send.id
        if id in inbound or len(send.object_id) != ID_BYTES or send.timeout_ms < 0 or id <= 0:
            raise BadMessage("a request with a used id, a malformed object id or a negative timeout")
        if send.timeout_ms > _MAX_TIMEOUT_MS:
            send.timeout_ms = _MAX_TIMEOUT_MS
        size = len(payload)
        limits = shared.limits
        if len(inbound) >= limits.requests_per_peer or self._inbound_bytes + size > limits.request_bytes_per_peer:
            shared.counters.overloaded += 1
            self.write_error(id, Overloaded(f"{len(inbound)} requests of yours are under way here", retry_after=0.1))
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
        job = inbound[id] = Inbound(self, send, size, reply)
        self._inbound_bytes += size
        self._owner.runner.run(job)

    def _on_other(self, opcode: int, payload: bytes) -> None:
        if opcode == _ERROR:
            self._on_error(payload)
        elif opcode == _ACK:
            replies = self._streams.pop(codec.decode(payload, Data).id, None)
            if replies is not None:
                replies.finish()
        elif opcode == _CANCEL:
            job = self._inbound.get(codec.decode(payload, Cancel).id)
            if job is not None:
                job.cancel()
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

    def _on_error(self, payload: bytes) -> None:
        failure = codec.decode(payload, Failure)
        error = from_wire(failure.error)
        if failure.id == 0:
            self.fail(f"the peer ended it: {error}")
            return
        self._failed(failure.id, error)

    def _failed(self, id: int, error: RemotableError) -> None:
        """What was asked for with this id has failed."""
        future = self._calls.get(id)
        if future is not None:
            if not future.done():
                future.set_exception(error)
            return
        replies = self._streams.pop(id, None)
        if replies is not None:
            replies.finish(error)

    def __repr__(self) -> str:
        return f"Link({self.peer.id.hex()[:12] if self.peer else '?'} {self.state.name.lower()})"


def _request_id(payload: bytes) -> int:
    """The number that a body begins with, where the rest of it cannot be decoded.

    Raises:
        BadMessage: there is none.
    """
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(payload[1], 0) if 0x90 <= payload[0] <= 0x9F else -1
    id = int.from_bytes(payload[2 : 2 + size]) if size > 0 else payload[1]
    if size < 0 or id <= 0 or (size == 0 and id > 0x7F):
        raise BadMessage("a malformed body: nested too deeply, and about no request")
    return id


def _no_time() -> DeadlineExceeded:
    return DeadlineExceeded("the time given had run out before the request could be sent")


def _milliseconds(left: float) -> int:
    """What travels as the time that is left; at least 1."""
    return int(left * 1000) or 1 if left < _MAX_TIMEOUT_MS / 1000 else _MAX_TIMEOUT_MS


def _too_big(why: BadMessage) -> BadMessage:
    return BadMessage(f"the reply does not fit: {why}: stream it or put it as data", maybe_executed=True)
