"""Machines of the simulated world: their addresses, ports, access lines and counters."""

import asyncio
import contextvars
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from titan_overlay.testing.dialling import MemoryServer
    from titan_overlay.testing.network import MemoryNetwork
    from titan_overlay.testing.streams import StreamTransport

Address = tuple[str, int]

DATAGRAM_MAX = 65_507
_FIRST_EPHEMERAL, _LAST_PORT = 32_768, 65_535


class Event(NamedTuple):
    """What an observer is told: a packet was sent, delivered, or dropped (any other `fate` says why)."""

    fate: str
    time: float
    stream: bool
    source: Address
    destination: Address
    data: bytes


class Traffic(NamedTuple):
    """Payload that one host sent and received, in datagrams and bytes; streams apart."""

    datagrams_sent: int
    datagrams_received: int
    bytes_sent: int
    bytes_received: int
    stream_bytes_sent: int
    stream_bytes_received: int


class Host:
    """One machine: its ports, its access line and what was counted there. Made by `MemoryNetwork.host`.

    upload, download: bytes per second, or None for no limit.
    queue_bytes: how much may wait for the line before datagrams are dropped.
    loss: probability of losing a packet to or from here, on top of the network's.
    delay: seconds added to each packet to or from here.
    place: what the latency model knows of the host.
    """

    __slots__ = (
        "bytes_received", "bytes_sent", "connections", "datagrams_received", "datagrams_sent", "delay", "download",
        "download_free_at", "endpoints", "group", "ip", "is_up", "listeners", "loss", "next_ephemeral", "number",
        "place", "queue_bytes", "stream_bytes_received", "stream_bytes_sent", "upload", "upload_free_at",
    )  # fmt: skip

    def __init__(self, ip: str, number: int, place: Any) -> None:
        self.ip, self.number, self.place = ip, number, place
        self.is_up = True
        self.group = 0
        self.loss = self.delay = 0.0
        self.upload: float | None = None
        self.download: float | None = None
        self.queue_bytes = 256 * 1024
        self.upload_free_at = self.download_free_at = 0.0
        self.endpoints: dict[int, DatagramTransport] = {}
        self.listeners: dict[int, MemoryServer] = {}
        self.connections: dict[StreamTransport, None] = {}
        self.next_ephemeral = _FIRST_EPHEMERAL
        self.datagrams_sent = self.datagrams_received = self.bytes_sent = self.bytes_received = 0
        self.stream_bytes_sent = self.stream_bytes_received = 0

    @property
    def traffic(self) -> Traffic:
        """The counters as one value."""
        return Traffic(
            self.datagrams_sent,
            self.datagrams_received,
            self.bytes_sent,
            self.bytes_received,
            self.stream_bytes_sent,
            self.stream_bytes_received,
        )

    def free_port(self, taken: dict[int, Any]) -> int:
        """The next ephemeral port, round robin as kernels do, so that a port is not reused at once."""
        for _ in range(_LAST_PORT - _FIRST_EPHEMERAL + 1):
            port = self.next_ephemeral
            self.next_ephemeral = port + 1 if port < _LAST_PORT else _FIRST_EPHEMERAL
            if port not in taken:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"no free port on {self.ip}")


class MemorySocket:
    """What `get_extra_info("socket")` and `Server.sockets` give: an address, and options that are ignored."""

    __slots__ = ("_name", "family", "type")

    def __init__(self, name: Address, kind: int) -> None:
        self._name = name
        self.type = kind
        self.family = _family(name[0])

    def getsockname(self) -> Address:
        """(ip, port)."""
        return self._name

    def setsockopt(self, *args: Any) -> None:
        """Accepted and ignored."""

    def fileno(self) -> int:
        """-1: there is no file behind it."""
        return -1


class DatagramTransport(asyncio.DatagramTransport):
    """One bound UDP port of a simulated host."""

    __slots__ = ("_closing", "_context", "_network", "_protocol", "_remote", "address", "host")

    def __init__(
        self, network: "MemoryNetwork", host: Host, address: Address, protocol: Any, remote: Address | None
    ) -> None:
        super().__init__()
        self._network, self.host, self.address, self._protocol, self._remote = network, host, address, protocol, remote
        self._context = contextvars.copy_context()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """sockname, peername (if connected) and socket."""
        if name == "sockname":
            return self.address
        if name == "socket":
            return MemorySocket(self.address, socket.SOCK_DGRAM)
        if name == "peername" and self._remote is not None:
            return self._remote
        return default

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Sends one datagram; too large a one goes to `error_received` (EMSGSIZE), as a socket's would."""
        if self._closing:
            return
        if type(data) is not bytes:
            data = bytes(data)
        if self._remote is not None:
            if addr is not None and tuple(addr[:2]) != self._remote:
                raise ValueError(f"this endpoint is connected to {self._remote}")
            addr = self._remote
        elif addr is None:
            raise ValueError("an endpoint without remote_addr needs an address to send to")
        if len(data) > DATAGRAM_MAX:
            self._protocol.error_received(OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))
            return
        self._network._send(self, addr, data)

    def refused(self) -> None:
        """Called by the network: nobody listens where a connected endpoint sent to."""
        if not self._closing:
            self._context.run(self._protocol.error_received, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))

    @property
    def is_connected(self) -> bool:
        """Whether it was made with remote_addr."""
        return self._remote is not None

    def is_closing(self) -> bool:
        """Whether it is closed or its host is gone."""
        return self._closing

    def close(self) -> None:
        """Frees the port at once; `connection_lost(None)` follows."""
        if not self._closing:
            self.vanish()
            self._network.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    def abort(self) -> None:
        """As `close`: datagrams are not buffered."""
        self.close()

    def vanish(self) -> None:
        """Ends without a word to anyone, as in a power cut."""
        self._closing = True
        if self.host.endpoints.get(self.address[1]) is self:
            del self.host.endpoints[self.address[1]]

    def set_protocol(self, protocol: Any) -> None:
        """Replaces the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol in use."""
        return self._protocol


def _family(ip: str) -> int:
    return int(socket.AF_INET6 if ":" in ip else socket.AF_INET)
