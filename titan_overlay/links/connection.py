"""One authenticated, framed connection: bytes, TLS, limits of time, what is queued to be written.

    connection_made -> [TLS handshake, peer's key] -> hello each way -> open -> closed

What the frames of an open connection mean is `Link`'s business. Whatever comes in, nothing is raised into the loop: a
peer that breaks the protocol gets an error frame and loses the connection.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgspec

from titan_overlay.errors import BadMessage, Forbidden, LinkError, RemotableError, WireError
from titan_overlay.identity.ids import NodeId, node_id
from titan_overlay.links.shared import Shared
from titan_overlay.links.tls import Tls
from titan_overlay.wire import frames
from titan_overlay.wire.frames import Flags, FrameReader
from titan_overlay.wire.messages import Failure, Opcode

_log = logging.getLogger(__name__)

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)

_READ_BYTES = 64 * 1024
_FLUSH_BYTES = 64 * 1024
"""A turn of the loop that writes more than this does not wait for its end."""
_HIGH_WATER_BYTES = 256 * 1024
_LINGER = 5.0
"""Seconds in which the peer may still read our last words."""
_MAX_ERROR_TEXT = 4096
_ERROR, _ERROR_FLAG = int(Opcode.ERROR), int(Flags.ERROR)


class State(IntEnum):
    """In order; it never goes back."""

    CONNECTING = 0
    TLS = 1
    HELLO = 2
    OPEN = 3
    CLOSED = 4


# Bound once: reading a member of an enumeration takes 0.3 us in Python 3.11, several times for every message.
CONNECTING, TLS, HELLO, OPEN, CLOSED = State


class Connection(asyncio.Protocol):
    """See the module. Subclasses say what to do in the hooks `_arrived`, `_accepting`, `_frame` and `_ended`.

    Args:
        tls: the engine, or None for a plain connection (simulations).
        expected: the id that was dialed; None for inbound connections.
    """

    # Slots: an instance with more than 30 attributes in a dictionary is slow in CPython.
    __slots__ = (
        "_expected",
        "_flushed_id",
        "_future",
        "_out",
        "_paused",
        "_public",
        "_reader",
        "_resting",
        "_seen_partial",
        "_seen_sizes",
        "_time",
        "_timer",
        "_tls",
        "_transport",
        "_waiters",
        "dialed",
        "ending",
        "gone",
        "heard",
        "leaving_since",
        "probed",
        "shared",
        "state",
        "usable",
    )

    def __init__(self, shared: Shared, tls: Tls | None, expected: NodeId | None) -> None:
        self.shared = shared
        self._time = shared.loop.time
        self._future = shared.loop.create_future
        self.dialed = expected is not None
        self.state = CONNECTING
        self.usable = False
        """Requests may be written now: open, not leaving, not congested."""
        self.ending = ""
        """Why it is closed."""
        self.leaving_since: float | None = None
        self.heard = self._time()
        self.probed = False
        self.gone: asyncio.Future[None] = shared.loop.create_future()
        """Done when the socket is closed."""
        self._tls = tls
        self._expected = expected
        self._public = b""
        """The peer's key as TLS proved it."""
        self._reader = FrameReader()
        self._resting: asyncio.TimerHandle | None = None
        """Until it runs out, nothing is read."""
        self._seen_partial = 0
        self._seen_sizes = (0, 0)
        """What `stuck` saw last: the frame that was begun; its size, and what was unsent."""
        self._out = bytearray()
        self._flushed_id = 0
        """Requests below this id have been handed to the transport."""
        self._paused = False
        self._waiters: list[asyncio.Future[None]] = []  # most links have none, and an empty deque takes 760 bytes
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    # --- hooks ------------------------------------------------------------------------------------------------

    def _accepting(self) -> str:
        """An inbound connection came in; the reason to refuse it, or empty."""
        raise NotImplementedError

    def _frames(self, data: bytes) -> None:
        """Plaintext came in; act on the frames that the reader cuts it into."""
        raise NotImplementedError

    def _greet(self) -> None:
        """Say hello."""
        raise NotImplementedError

    def _ended(self, was: State, reason: str, broken: bool) -> None:
        """The connection ends; `broken`: because the peer broke the protocol."""
        raise NotImplementedError

    # --- the connection ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES  # asyncio would allocate 256 KiB for every read
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        if not self.dialed:
            refusal = self._accepting()
            if refusal:
                self.fail(refusal, abort=True)
                return
        self._timer = self.shared.loop.call_later(self.shared.limits.handshake, self._too_slow)
        if self._tls is None:
            self._guarded(self._say_hello)
        else:
            self.state = TLS
            if self.dialed:
                self._guarded(self._shake_hands)

    def _too_slow(self) -> None:
        what = "the TLS handshake" if self.state is TLS else "the first frame"
        self.fail(f"{what} took longer than {self.shared.limits.handshake:g} s", abort=True)

    def data_received(self, data: bytes) -> None:
        shared = self.shared
        shared.counters.bytes_received += len(data)
        self.heard = self._time()
        self.probed = False
        if self.state is CLOSED:
            return
        # What is answered at once leaves in one write, before the loop turns.
        shared.corked = True
        try:
            self._take(data)
        except Exception as why:
            self._give_up(why)
        shared.corked = False
        if shared.dirty:
            shared.flush()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as why:
            self._give_up(why)

    def _give_up(self, why: Exception) -> None:
        """Whatever went wrong ends the connection and nothing else."""
        if isinstance(why, BadMessage):
            self._violated(str(why))
        elif isinstance(why, _MALFORMED):
            self._violated(f"a malformed body: {why}")
        elif isinstance(why, Forbidden):
            self._say(why)
            self.fail(str(why))
        elif isinstance(why, LinkError):
            self.fail(str(why))
        else:
            _log.error("%s failed", self, exc_info=why)
            self.fail("an internal error")

    def _take(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            self._frames(data)
            return
        tls.feed(data)
        if self.state is TLS:
            self._shake_hands()
            if self.state is TLS:
                return
        for piece in tls.read():
            self._frames(piece)
            if self.state is CLOSED:
                return
        answer = tls.outgoing()
        if answer:
            self._put(answer)

    def _shake_hands(self) -> None:
        assert self._tls is not None
        complete = self._tls.handshake()
        answer = self._tls.outgoing()
        if answer:
            self._put(answer)
        if not complete:
            return
        self._public = self._tls.peer_public()
        self._check_id(node_id(self._public))
        self._stop_timer()
        self._timer = self.shared.loop.call_later(self.shared.limits.handshake, self._too_slow)
        self._say_hello()

    def _say_hello(self) -> None:
        self.state = HELLO
        # The acceptor says hello once it has admitted the dialer: then an open link is one that both ends want.
        if self.dialed:
            self._greet()
            self.flush()

    def _opened(self) -> None:
        """The peer's hello was good."""
        self.state = OPEN
        self._stop_timer()
        self._update_usable()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_id(self, found: NodeId) -> None:
        if self._expected is not None and found != self._expected:
            raise LinkError(
                f"the node at {self._address()} is {found.hex()[:12]}, not {self._expected.hex()[:12]} as expected"
            )

    def _put(self, data: bytes) -> None:
        self.shared.counters.bytes_sent += len(data)
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection was lost{f': {exc}' if exc else ''}")
        self._stop_timer()
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True
        self.usable = False

    def resume_writing(self) -> None:
        self._paused = False
        self._update_usable()
        self._wake_writer()

    def _update_usable(self) -> None:
        self.usable = self.state is OPEN and self.leaving_since is None and not self._paused

    # --- ends -------------------------------------------------------------------------------------------------

    def fail(self, reason: str, *, abort: bool = False, broken: bool = False) -> None:
        """The connection ends now, and everything that depends on it. `abort`: without waiting for what is unsent."""
        if self.state is CLOSED:
            return
        was, self.state = self.state, CLOSED
        self.ending = reason
        self.usable = False
        self._stop_timer()
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
        self._out.clear()
        self._close_transport(abort)
        self._ended(was, reason, broken)

    def _close_transport(self, abort: bool) -> None:
        if self._transport is None:
            if not self.gone.done():
                self.gone.set_result(None)
            return
        if abort:
            self._transport.abort()
            return
        if not self._transport.is_closing():
            last_words = self._tls.goodbye() if self._tls is not None else b""
            if last_words:
                self._put(last_words)
            self._transport.close()
        # A peer that does not read would keep the socket open for ever, also where it has closed its own side before.
        self._timer = self.shared.loop.call_later(_LINGER, self._transport.abort)

    def _violated(self, reason: str) -> None:
        self.shared.counters.garbage += 1
        self._say(BadMessage(reason))
        self.fail(reason, broken=True)

    def _say(self, error: RemotableError) -> None:
        """Why the connection ends, as its last frame, where frames can be sent."""
        if self.state is HELLO or self.state is OPEN:
            self.write_error(0, error)
            self.flush()

    # --- writing ----------------------------------------------------------------------------------------------

    def _write(self, opcode: int, flags: int, body: Any) -> None:
        """Queue one frame; all frames of one turn of the loop leave in one write.

        Raises:
            BadMessage: it is over the limit of a frame.
        """
        if self.state is CLOSED:
            return
        out = self._out
        if not out:
            self.shared.mark(self)
        frames.append(out, opcode, flags, body)
        if len(out) >= _FLUSH_BYTES:
            self.flush()

    def _write_now(self, opcode: int, flags: int, body: Any) -> None:
        """As `_write`, for a frame that has no company to wait for."""
        if self.state is not CLOSED:
            frames.append(self._out, opcode, flags, body)
            self.flush()

    def flush(self) -> None:
        """Hand what is queued to the transport."""
        out = self._out
        if not out or self.state is CLOSED:
            return
        self._flushed_id = self.shared.next_id
        try:
            data = bytes(out) if self._tls is None else self._tls.seal(out)
        except LinkError as why:
            self.fail(str(why))
            return
        out.clear()
        self.shared.counters.bytes_sent += len(data)
        self._transport.write(data)
        if self._paused and self._transport.get_write_buffer_size() > self.shared.limits.unsent_bytes:
            self.fail("the peer does not read what it asks for", abort=True)

    @property
    def half_received(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return self._reader.pending_bytes

    def stuck(self, least: float) -> str:
        """Why the peer is too slow to be served, or empty. Asked again and again, at equal intervals.

        Args:
            least: bytes by which, since the last time, a frame that was begun must have grown, and what it does not
                read must have shrunk.
        """
        partial, received = self._reader.partial, self._reader.pending_bytes
        unsent = self._transport.get_write_buffer_size() if self._paused else 0
        before, (was_received, was_unsent) = self._seen_partial, self._seen_sizes
        self._seen_partial, self._seen_sizes = partial, (received, unsent)
        if partial and partial == before and self._resting is None and received - was_received < least:
            return "the peer sends a frame too slowly"
        if unsent and was_unsent and was_unsent - unsent < least:
            return "the peer reads too slowly"
        return ""

    @property
    def congested(self) -> bool:
        """The peer reads more slowly than we write: wait for `drained` before writing more."""
        return self._paused

    async def drained(self) -> None:
        """Returns when it is this caller's turn to write, first come first served; or when the link is gone."""
        while self._paused and self.state is not CLOSED:
            waiter = self.shared.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:  # then the next one's, whatever this one does with its own
                self.shared.loop.call_soon(self._wake_writer)

    def _wake_writer(self) -> None:
        # One at a time: each may write enough to be congested again.
        while self._waiters and not self._paused:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def write_error(self, id: int, error: RemotableError) -> None:
        """An ERROR frame about a request, or with id 0 about the connection. Never too big, never unsayable."""
        wire = error.to_wire()
        if len(wire.text) > _MAX_ERROR_TEXT:
            wire = WireError(wire.code, wire.text[:_MAX_ERROR_TEXT] + "...", wire.maybe_executed, wire.fields)
        try:
            self._write(_ERROR, _ERROR_FLAG, Failure(id, wire))
        except Exception as why:  # fields of a user's own error: too many bytes, or nothing that msgpack can say
            _log.warning("an error of code %s cannot be sent whole: %s", wire.code, why)
            self._write(_ERROR, _ERROR_FLAG, Failure(id, WireError(wire.code, wire.text, wire.maybe_executed)))

    def _address(self) -> tuple[str, int]:
        found = self._transport.get_extra_info("peername") if self._transport is not None else None
        return (str(found[0]), int(found[1])) if found else ("", 0)
