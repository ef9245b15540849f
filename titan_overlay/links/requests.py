"""What this side asks over a connection: requests under way, their replies, streams and cancellations."""

import asyncio
from collections.abc import Callable

import msgspec

from titan_overlay.errors import BadMessage, DeadlineExceeded, LinkError, RemotableError, from_wire
from titan_overlay.identity.ids import NodeId
from titan_overlay.links.connection import Connection
from titan_overlay.links.deadlines import Expired
from titan_overlay.links.replies import Replies
from titan_overlay.links.shared import Known, Shared
from titan_overlay.links.tls import Tls
from titan_overlay.wire import codec
from titan_overlay.wire.frames import Flags
from titan_overlay.wire.messages import Cancel, Credit, Data, Failure, Opcode, Send

# Plain integers: enum members are slow to compare, and these are met for every message.
_SEND, _CANCEL, _CREDIT, _MORE = int(Opcode.SEND), int(Opcode.CANCEL), int(Opcode.CREDIT), int(Flags.MORE)

_decode_data: Callable[[bytes], Data] = codec.decoder(Data).decode

TOO_DEEP = "the message is nested too deeply; put() it as data, or flatten it"

MAX_TIMEOUT_MS = 30 * 24 * 3600 * 1000
_TOLD_MS = 5000
"""Time given to what is not answered. It is handled at once, or not at all."""
_SMOOTHING = 1 / 8
"""Weight of the newest latency in the average."""


class Requests(Connection):
    """A connection as the side that asks sees it."""

    __slots__ = ("_bye_received", "_calls", "_streams", "known", "used")

    def __init__(self, shared: Shared, tls: Tls | None, expected: NodeId | None) -> None:
        super().__init__(shared, tls, expected)
        self.known: Known
        """Set when the peer has said who it is."""
        self.used = self.heard
        """When the last request began, in either direction."""
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, Replies] = {}
        self._bye_received = False

    def _charge(self, size: int) -> None:
        """A frame of so many bytes gets nothing done here: it costs its sender a little, who is read later if it sends
        too many of them.
        """
        raise NotImplementedError

    def _part_if_done(self) -> None:
        """The peer said goodbye; whoever hears it closes, once nothing is under way."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Requests to the peer that are not answered yet."""
        return len(self._calls) + len(self._streams)

    def _fail_requests(self, text: str) -> None:
        """The connection has ended, and with it all that was asked on it."""
        for id, future in self._calls.items():
            if not future.done():
                future.set_exception(LinkError(text, maybe_executed=id < self._flushed_id))
        for id, replies in self._streams.items():
            replies.finish(LinkError(text, maybe_executed=id < self._flushed_id))
        self._streams.clear()

    # --- asking -----------------------------------------------------------------------------------------------

    async def request(
        self, object_id: bytes, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]
    ) -> bytes:
        """One request, one reply. The link must be usable. Errors: see `Links.request`."""
        shared = self.shared
        began = self.used = self._time()
        left = deadline - began
        if not left > 0:  # nor NaN
            raise _no_time()
        id = shared.next_id
        shared.next_id = id + 1
        # Known before it is written: if writing ends the link, this future fails with the others.
        future: asyncio.Future[bytes] = self._future()
        self._calls[id] = future
        slot = shared.deadlines.slot(deadline)
        slot[future] = None
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
            slot.pop(future, None)
            del self._calls[id]
            if self._bye_received:
                self._part_if_done()
        took = self.heard - began
        known = self.known
        known.latency = took if known.latency is None else known.latency + (took - known.latency) * _SMOOTHING
        return reply

    def tell(self, object_id: bytes, type: str, body: bytes) -> None:
        """A message that nobody answers. The link must be usable; a lost one is lost.

        Raises:
            BadMessage: it does not fit into a frame.
        """
        self.used = self._time()
        self._write(_SEND, 0, Send(0, _TOLD_MS, object_id, type, msgspec.Raw(body)))
        self.shared.counters.requests_sent += 1

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
        if not left > 0:  # nor NaN
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

    # --- what comes back --------------------------------------------------------------------------------------

    def _on_data(self, flags: int, payload: bytes) -> None:
        try:
            data = _decode_data(payload)
        except RecursionError:
            self._failed(request_id(payload), BadMessage(TOO_DEEP, maybe_executed=True))
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
            self._charge(len(payload))  # answered too late, or cancelled
            return
        if not replies.put(bytes(data.body)):
            raise BadMessage("a stream of replies beyond its credit")
        if not flags & _MORE:
            del self._streams[data.id]
            replies.finish()

    def _on_end(self, payload: bytes) -> None:
        """The end of a stream of replies."""
        replies = self._streams.pop(codec.decode(payload, Data).id, None)
        if replies is not None:
            replies.finish()

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


def request_id(payload: bytes) -> int:
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
    return int(left * 1000) or 1 if left < MAX_TIMEOUT_MS / 1000 else MAX_TIMEOUT_MS
