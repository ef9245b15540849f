"""Byte streams of the simulated world: what TCP promises, without its packets.

Bytes arrive whole and in order. What is written waits in the transport's buffer while `WINDOW` bytes are on the way
or unread at the other end, or while the sender's line is busy; that is what `pause_writing` sees. A lost segment
arrives late by a retransmission; a way that is blocked, or a peer without power, stalls the stream until a
retransmission gets through or `GIVE_UP_SECONDS` have passed (ETIMEDOUT). A segment for a connection that the other
machine no longer knows is answered with a reset.

`close` sends what is buffered, then an end of file; `abort` drops it and resets the peer.
"""

import asyncio
import contextvars
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from titan_overlay.testing.hosts import MemorySocket

if TYPE_CHECKING:
    from titan_overlay.testing.hosts import Host
    from titan_overlay.testing.network import MemoryNetwork

WINDOW = 256 * 1024
SEGMENT = 16 * 1024
SEGMENT_HEADER = 0.03
"""Share of a stream's bandwidth that goes into headers (40 of 1,500 bytes)."""

LINE_AHEAD_SECONDS = 0.05
"""How far ahead of the line a stream may send: it leaves room in the queue for others."""

RETRANSMIT_SECONDS, RETRANSMIT_SECONDS_MAX = 0.2, 60.0
GIVE_UP_SECONDS = 924.0
"""Linux: tcp_retries2 = 15."""

_SEND, _DELIVER, _LOST, _BLOCKED, _DOWN = 0, 1, 2, 3, 7


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))  # OSError picks the subclass: ConnectionResetError, TimeoutError, ...


class StreamTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(
        self, network: "MemoryNetwork", host: "Host", address: tuple[str, int], remote: tuple[str, int], protocol: Any
    ) -> None:
        super().__init__()
        self.network, self.host, self.address, self.remote = network, host, address, remote
        self.peer: StreamTransport
        self._context = contextvars.copy_context()
        self._protocol: Any
        self.set_protocol(protocol)
        # Sending. `_outbox` is the transport's buffer, `_on_the_way` what "the kernels" hold; None is the end of file.
        self._outbox: list[bytes | memoryview | None] = []  # short, and empty mostly: a deque takes 760 bytes then
        self._outbox_bytes = self._on_the_way = 0
        self._last_arrival = 0.0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._writing_paused = self._eof_written = self._pump_posted = False
        self._stalled_since: float | None = None
        self._backoff = RETRANSMIT_SECONDS
        # Receiving.
        self._inbox: list[bytes | None] = []
        self._reading_paused = self._drain_posted = self._eof_received = False
        # Ending. `_closing`: the program let go of it; `_gone`: connection_lost was or will never be called.
        self._closing = self._gone = False
        host.connections[self] = None

    # -- what a program sees -----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """sockname, peername and socket."""
        if name == "sockname":
            return self.address
        if name == "peername":
            return self.remote
        if name == "socket":
            return MemorySocket(self.address, socket.SOCK_STREAM)
        return default

    def set_protocol(self, protocol: Any) -> None:
        """Replaces the protocol."""
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> Any:
        """The protocol in use."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closing, closed or gone."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes not yet handed to the wire."""
        return self._outbox_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high)."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's. ValueError: not high >= low >= 0."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._check_high()

    def write(self, data: Any) -> None:
        """Sends bytes; after `write_eof` a RuntimeError, after the connection is lost nothing."""
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or not data:
            return
        if type(data) is not bytes:
            data = bytes(data)
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        if len(self._outbox) == 1:
            self._pump()
        self._check_high()

    def writelines(self, list_of_data: Any) -> None:
        """As one write."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """True."""
        return True

    def write_eof(self) -> None:
        """Sends the end of file after what is buffered; receiving goes on."""
        if not self._closing and not self._eof_written:
            self._eof_written = True
            self._outbox.append(None)
            self._pump()

    def is_reading(self) -> bool:
        """Whether data_received may be called."""
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        """What arrives waits; the other end feels it when the window is full."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Delivers what waited, from the loop's next round on."""
        self._reading_paused = False
        self._post_drain()

    def close(self) -> None:
        """Sends what is buffered and the end of file, then `connection_lost(None)`; delivers nothing more."""
        if self._closing:
            return
        self._closing = True
        unread = sum(len(segment) for segment in self._inbox if segment)
        self._inbox.clear()
        if unread:
            self.peer._on_the_way -= unread
            self._refuse_more()
        if not self._eof_written:
            self._eof_written = True
            self._outbox.append(None)
        self._pump()

    def abort(self) -> None:
        """Drops what is buffered and resets the peer."""
        if not self._gone:
            self._reset_peer()
            self._lose(None)

    # -- ends that nobody chose --------------------------------------------------------------------------------

    def vanish(self, *, tell_peer: bool) -> None:
        """The process behind this end is gone: no callback here; a reset at the peer if its kernel lives to send it."""
        if tell_peer:
            self._reset_peer()
        self._closing = self._gone = True
        self._outbox.clear()
        self._inbox.clear()
        self.host.connections.pop(self, None)

    def break_off(self) -> None:
        """A reset at both ends (a middlebox forgot the connection)."""
        self._reset_peer()
        self._lose(_error(errno.ECONNRESET))

    def _reset_peer(self) -> None:
        network = self.network
        if network.is_open(self.host, self.peer.host):
            arrival = max(network.loop._now + network.way(self.host, self.peer.host), self._last_arrival)
            network.loop.post_at(arrival, self.peer._lose, _error(errno.ECONNRESET))

    def _refuse_more(self) -> None:
        """Nobody will read what the peer sent: a reset, at the latest when the peer's retransmissions get through."""
        if not self.peer._gone:
            if self.host.is_up and self.network.is_open(self.host, self.peer.host):
                self._reset_peer()
            else:
                self.peer._stall()

    def _lose(self, error: BaseException | None) -> None:
        if self._gone or not self.host.is_up:
            return
        self._closing = self._gone = True
        self._outbox.clear()
        self._inbox.clear()
        self._outbox_bytes = 0
        self.host.connections.pop(self, None)
        self.network.loop.call_soon(self._protocol.connection_lost, error, context=self._context)
        self._protocol = None  # as asyncio's transports do: else the two are garbage in a circle

    # -- sending -----------------------------------------------------------------------------------------------

    def _check_high(self) -> None:
        if self._outbox_bytes > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _pump_later(self, when: float) -> None:
        if not self._pump_posted:
            self._pump_posted = True
            self.network.loop.post_at(when, self._pump_posted_now)

    def _pump_posted_now(self) -> None:
        self._pump_posted = False
        if self._gone:
            return
        if self._stalled_since is None or self._retry():
            self._pump()
        if self._writing_paused and self._outbox_bytes <= self._low and not self._closing:
            self._writing_paused = False
            self._context.run(self._protocol.resume_writing)

    def _pump(self) -> None:
        """Hands the wire as much of the outbox as window and line allow."""
        if self._stalled_since is not None or self._pump_posted:
            return
        outbox, host, there = self._outbox, self.host, self.peer.host
        slow = host.upload is not None or there.download is not None
        while outbox:
            if self._on_the_way >= WINDOW:
                return  # the peer's reading pumps again
            now = self.network.loop._now
            if host.upload is not None and host.upload_free_at > now + LINE_AHEAD_SECONDS:
                self._pump_later(host.upload_free_at - LINE_AHEAD_SECONDS / 2)
                return
            if not self.network.is_open(host, there):
                self._stall()
                return
            segment = outbox.pop(0)
            if segment is not None:
                limit = SEGMENT if slow else WINDOW
                if len(segment) > limit:
                    view = memoryview(segment)  # or a long write would be copied once for each of its segments
                    outbox.insert(0, view[limit:])
                    segment = view[:limit]
                segment = bytes(segment)
                self._outbox_bytes -= len(segment)
                self._on_the_way += len(segment)
            self._transmit(segment)
        if self._closing:
            self._lose(None)

    def _transmit(self, segment: bytes | None) -> None:
        network, host, there = self.network, self.host, self.peer.host
        data = segment or b""
        host.stream_bytes_sent += len(data)
        self._note(_SEND, data)
        depart = network.loop._now
        if host.upload is not None:
            start = host.upload_free_at if host.upload_free_at > depart else depart
            depart = host.upload_free_at = start + len(data) * (1.0 + SEGMENT_HEADER) / host.upload
        way = network.way(host, there)
        if network.is_lost(host, there):
            self._note(_LOST, data)
            way += RETRANSMIT_SECONDS + 2.0 * way
        arrival = depart + way
        if arrival < self._last_arrival:
            arrival = self._last_arrival
        if there.download is not None and there is not host:
            # Streams queue for the peer's line without loss: their windows bound the queue.
            start = there.download_free_at if there.download_free_at > arrival else arrival
            arrival = there.download_free_at = start + len(data) * (1.0 + SEGMENT_HEADER) / there.download
        self._last_arrival = arrival
        network.loop.post_at(arrival, self.peer._arrive, segment)

    def _stall(self) -> None:
        """The way is blocked: try again later and later, as retransmission does."""
        now = self.network.loop._now
        self._note(_BLOCKED, b"")
        if self._stalled_since is None:
            self._stalled_since, self._backoff = now, RETRANSMIT_SECONDS
        self._pump_later(now + self._backoff)

    def _retry(self) -> bool:
        """One retransmission on a stalled stream; whether it got through."""
        assert self._stalled_since is not None
        now, peer = self.network.loop._now, self.peer
        if self.network.is_open(self.host, peer.host) and peer.host.is_up:
            self._stalled_since = None
            if not peer._gone:
                return True
            self._lose(_error(errno.ECONNRESET))
            return False
        if now - self._stalled_since >= GIVE_UP_SECONDS:
            self._lose(_error(errno.ETIMEDOUT))
            return False
        self._backoff = min(2.0 * self._backoff, RETRANSMIT_SECONDS_MAX)
        self._pump_later(now + self._backoff)
        return False

    # -- receiving ---------------------------------------------------------------------------------------------

    def _arrive(self, segment: bytes | None) -> None:
        sender = self.peer
        if self._gone:
            sender._note(_DOWN, segment or b"")
            if segment is not None:
                sender._on_the_way -= len(segment)
                self._refuse_more()
            return
        sender._note(_DELIVER, segment or b"")
        if segment is not None:
            self.host.stream_bytes_received += len(segment)
        if self._reading_paused or self._inbox:
            self._inbox.append(segment)
        else:
            self._consume(segment)

    def _post_drain(self) -> None:
        if self._inbox and not self._drain_posted:
            self._drain_posted = True
            self.network.loop.post_at(self.network.loop._now, self._drain)

    def _drain(self) -> None:
        self._drain_posted = False
        while self._inbox and not self._reading_paused and not self._closing:
            self._consume(self._inbox.pop(0))

    def _consume(self, segment: bytes | None) -> None:
        """Hands one segment to the protocol; a protocol that raises loses its connection, as on a real loop."""
        if segment is not None:
            sender = self.peer
            sender._on_the_way -= len(segment)
            if sender._outbox and sender._stalled_since is None:
                sender._pump_later(self.network.loop._now)
        try:
            if self._closing:
                return  # between `close` and the last byte sent, what arrives is thrown away
            if segment is None:
                self._eof_received = True
                if not self._context.run(self._protocol.eof_received):
                    self.close()
            elif self._buffered:
                self._fill(segment)
            else:
                self._context.run(self._protocol.data_received, segment)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.network.loop.call_exception_handler(
                {
                    "message": "Fatal error: protocol callback failed.",
                    "exception": error,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
            self._reset_peer()
            self._lose(error)

    def _fill(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._closing:
            buffer = memoryview(self._context.run(self._protocol.get_buffer, len(view)))
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            self._context.run(self._protocol.buffer_updated, count)
            view = view[count:]

    def _note(self, fate: int, data: bytes) -> None:
        network = self.network
        network.note(fate, self.host, self.address[1], self.peer.host, self.remote[1], data)
        if network.observers:
            network.tell(fate, self.address, self.remote, data, stream=True)
