"""How a byte stream begins: listening ports, and the handshake that reaches them."""

import asyncio
import contextvars
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from titan_overlay.testing.hosts import MemorySocket
from titan_overlay.testing.streams import StreamTransport

if TYPE_CHECKING:
    from titan_overlay.testing.hosts import Host
    from titan_overlay.testing.network import MemoryNetwork

CONNECT_TRIES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Linux: tcp_syn_retries = 6, ETIMEDOUT after 127 s."""

NO_HOST_SECONDS = 3.0
"""An address that no machine has: ARP gives up (EHOSTUNREACH)."""


class MemoryServer(asyncio.AbstractServer):
    """A listening port."""

    def __init__(self, network: "MemoryNetwork", host: "Host", port: int, protocol_factory: Callable[[], Any]) -> None:
        if port in host.listeners:
            raise OSError(errno.EADDRINUSE, f"TCP port {port} of {host.ip} is in use")
        self.network, self.host, self.address = network, host, (host.ip, port)
        self.protocol_factory = protocol_factory
        self.context = contextvars.copy_context()
        self._serving = False
        self._closed: asyncio.Future[None] = network.loop.create_future()
        host.listeners[port] = self

    @property
    def sockets(self) -> tuple[Any, ...]:
        """One socket-like object with `getsockname`, or none once closed."""
        return () if self._closed.done() else (MemorySocket(self.address, socket.SOCK_STREAM),)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The virtual loop."""
        return self.network.loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Accepts connections from now on."""
        self._serving = not self._closed.done()

    async def serve_forever(self) -> None:
        """Until cancelled or closed."""
        await self.start_serving()
        try:
            await asyncio.shield(self._closed)
        finally:
            self.close()

    def close(self) -> None:
        """Frees the port; connections stay."""
        self._serving = False
        if not self._closed.done():
            self._closed.set_result(None)
            if self.host.listeners.get(self.address[1]) is self:
                del self.host.listeners[self.address[1]]

    async def wait_closed(self) -> None:
        """Until `close`."""
        await asyncio.shield(self._closed)


class _Dial:
    """One attempt to connect: SYN, retransmitted while unanswered; SYN-ACK or RST."""

    def __init__(
        self, network: "MemoryNetwork", source: "Host", local: tuple[str, int], there: "Host", remote: tuple[str, int]
    ) -> None:
        self.network, self.source, self.local, self.there, self.remote = network, source, local, there, remote
        self.answer: asyncio.Future[StreamTransport] = network.loop.create_future()
        self.accepted: StreamTransport | None = None

    def send_syn(self) -> None:
        network = self.network
        if not (network.is_open(self.source, self.there) and network.is_open(self.there, self.source)):
            return
        if network.is_lost(self.source, self.there) or network.is_lost(self.there, self.source):
            return
        network.loop.post_at(network.loop._now + network.way(self.source, self.there), self.arrive)

    def arrive(self) -> None:
        network, there = self.network, self.there
        if not there.is_up or self.answer.done() or self.accepted is not None:
            return
        back = network.loop._now + network.way(there, self.source)
        server = there.listeners.get(self.remote[1])
        if server is None or not server.is_serving():
            network.loop.post_at(back, self.refused)
            return
        protocol = server.context.run(server.protocol_factory)
        remote = (there.ip, self.remote[1])
        end = StreamTransport(network, there, remote, self.local, protocol)
        end._context = server.context.copy()
        # The dialling end exists from here on, so that what the server says first has somewhere to go.
        self.accepted = end.peer = StreamTransport(network, self.source, self.local, remote, _Nobody())
        end.peer.peer = end
        end.peer._reading_paused = True  # until the dialling program has its protocol
        end._last_arrival = back
        network.loop.call_soon(protocol.connection_made, end, context=end._context)
        network.loop.post_at(back, self.established)

    def established(self) -> None:
        assert self.accepted is not None
        if self.answer.done():
            self.accepted.abort()
        else:
            self.answer.set_result(self.accepted)

    def refused(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(
                ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {self.remote}: nobody listens")
            )


class _Nobody(asyncio.Protocol):
    """Stands in until the dialling program's own protocol is made."""


async def connect(
    network: "MemoryNetwork",
    source: "Host",
    port: int,
    there: "Host | None",
    remote: tuple[str, int],
    protocol_factory: Callable[[], Any],
) -> tuple[StreamTransport, Any]:
    """The dialling side of `create_connection`. OSError: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH."""
    if there is None:
        await asyncio.sleep(NO_HOST_SECONDS)
        raise OSError(errno.EHOSTUNREACH, f"Connect call failed {remote}: no such host")
    used = {connection.address[1]: None for connection in source.connections} if port == 0 else {}
    local = (source.ip, port or source.free_port(used))
    dial = _Dial(network, source, local, there, remote)
    try:
        for patience in CONNECT_TRIES_SECONDS:
            dial.send_syn()
            await asyncio.wait((dial.answer,), timeout=patience)
            if dial.answer.done():
                break
        else:
            raise TimeoutError(errno.ETIMEDOUT, f"Connect call failed {remote}: no answer")
        transport = dial.answer.result()
        protocol = protocol_factory()
    except BaseException:
        if not dial.answer.cancel() and dial.accepted is not None:
            dial.accepted.abort()
        raise
    if transport.is_closing():
        raise ConnectionResetError(errno.ECONNRESET, f"connection to {remote} was reset at once")
    transport.set_protocol(protocol)
    transport._context = contextvars.copy_context()
    transport._reading_paused = False
    transport._context.run(protocol.connection_made, transport)
    if not transport._reading_paused:
        transport.resume_reading()
    return transport, protocol
