"""Wires of the simulated world: hosts, datagrams, faults, traffic, and a hash over all that happened.

Every host has its own IP and its own ports. Which host a piece of code runs on is a context variable that tasks
inherit: `with network.on_host("10.0.0.7"): ...`. Outside of it, a local address names the host ("127.0.0.1" if there
is none), so plain tests need no ceremony.

A datagram may be lost, doubled, overtaken, delayed or stuck in a queue, as one does. Byte streams
(`titan_overlay.testing.streams`) are as TCP's: in order, whole, with back-pressure; loss there is delay.
Traffic counters count payload; the access lines also carry its headers.
"""

import asyncio
import contextlib
import contextvars
import errno
import hashlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from titan_overlay.ambient import Random
from titan_overlay.testing.dialling import MemoryServer, connect
from titan_overlay.testing.hosts import Address, DatagramTransport, Event, Host
from titan_overlay.testing.latency import Latency, Plane
from titan_overlay.testing.streams import StreamTransport

if TYPE_CHECKING:
    from titan_overlay.testing.loop import VirtualLoop

DATAGRAM_HEADER = 28
LOOPBACK_SECONDS = 50e-6
_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - names, nothing is bound
_TRACE_BATCH = 4_096
_RECORD = struct.Struct("<BdIHIHI")
_NOWHERE = 0xFFFFFFFF

SEND, DELIVER, LOST, BLOCKED, QUEUE_FULL, NO_HOST, NO_PORT, DOWN = range(8)
_FATES = ("send", "deliver", "lost", "blocked", "queue full", "no host", "no port", "down")


class MemoryNetwork:
    """All hosts and the wires between them.

    latency: one-way delay between two hosts (`Plane`, `Uniform`, `Fixed`, or one's own `Latency`).
    loss, duplicate, reorder: probabilities per datagram (loss also delays streams).
    blocked: one-way filter on IPs, (source, destination) -> True if nothing gets through; assign it at any time.
    observers: called with an `Event` for every packet sent, delivered or dropped; costs nothing while empty.
    names: host names for getaddrinfo.
    trace: False saves the hash (about a microsecond a packet).
    seed: the loop's if not given.
    """

    def __init__(
        self,
        *,
        latency: Latency | None = None,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        blocked: Callable[[str, str], bool] | None = None,
        trace: bool = True,
        seed: int | str | None = None,
    ) -> None:
        self.latency: Latency = Plane() if latency is None else latency
        self.loss, self.duplicate, self.reorder, self.blocked = loss, duplicate, reorder, blocked
        self.observers: list[Callable[[Event], object]] = []
        self.names: dict[str, str] = {}
        self.hosts: dict[str, Host] = {}
        self._twins: dict[str, str] = {}
        self.delivered = self.dropped = 0
        self._trace: hashlib.blake2b | None = hashlib.blake2b(digest_size=16) if trace else None
        self._pending: list[bytes] = []
        self._seed = seed
        self._partitioned = False
        self._here: contextvars.ContextVar[str | None] = contextvars.ContextVar("titan_simulated_host", default=None)
        self.loop: VirtualLoop
        self.random: Random

    def attach(self, loop: "VirtualLoop", seed: int | str) -> None:
        """Called by the loop that this network serves. RuntimeError: it serves one already."""
        if hasattr(self, "loop"):
            raise RuntimeError("a MemoryNetwork serves one loop: make a new one for each run")
        self.loop = loop
        if self._seed is None:
            self._seed = seed
        self.random = Random(f"titan/network/{self._seed}")

    # -- hosts -----------------------------------------------------------------------------------------------

    def host(
        self,
        ip: str | None = None,
        *,
        upload: float | None = None,
        download: float | None = None,
        queue_bytes: int | None = None,
        loss: float | None = None,
    ) -> Host:
        """The host with this IP, made if need be (the next free 10.x.y.z without one); arguments set its line."""
        if ip is None:
            ip = self._free_ip()
        found = self.hosts.get(ip)
        if found is None:
            ipaddress.ip_address(ip)
            found = Host(ip, len(self.hosts), self.latency.place(Random(f"titan/place/{self._seed}/{ip}")))
            self.hosts[ip] = found
            if self._trace is not None:
                self._pending.append(f"host {found.number} {ip}\n".encode())
        found.upload = found.upload if upload is None else upload
        found.download = found.download if download is None else download
        found.queue_bytes = found.queue_bytes if queue_bytes is None else queue_bytes
        found.loss = found.loss if loss is None else loss
        return found

    def pair(self, ip: str, other: str) -> None:
        """One machine with two addresses, one of each family: code on `ip` may use `other` as well."""
        self.host(other)
        self._twins[ip], self._twins[other] = other, ip

    def _addresses(self, ip: str) -> list[str]:
        twin = self._twins.get(ip)
        return [ip] if twin is None else [ip, twin]

    def _free_ip(self) -> str:
        number = len(self.hosts) + 1
        while True:
            ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            if ip not in self.hosts:
                return ip
            number += 1

    @property
    def here(self) -> str | None:
        """IP of the host that the running code is on, if it was said."""
        return self._here.get()

    @contextlib.contextmanager
    def on_host(self, ip: str) -> Iterator[Host]:
        """What runs inside, and every task made inside, runs on that host."""
        host = self.host(ip)
        token = self._here.set(ip)
        try:
            yield host
        finally:
            self._here.reset(token)

    def resolve(self, name: str) -> str:
        """The IP that a name stands for; an IP stands for itself. socket.gaierror: no such name."""
        ip = self.names.get(name, "127.0.0.1" if name == "localhost" else name)
        try:
            ipaddress.ip_address(ip)
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, f"simulated network: no such name: {name!r}") from None
        return ip

    def tasks_on(self, ip: str) -> list["asyncio.Task[Any]"]:
        """The unfinished tasks that were made on a host, oldest first: what to cancel with `kill`."""
        return [task for task in self.loop.tasks() if task.host == ip]

    def local(self, name: str | None) -> Host:
        """The host that a local address means to the running code. OSError: EADDRNOTAVAIL, ENETDOWN."""
        here = self._here.get()
        name = self.resolve(name) if name else None
        if here is not None and name in ("0.0.0.0", "::"):  # noqa: S104 - names, nothing is bound
            host = self._facing(self.host(here), name)
        elif name is None or name in _LOCAL:
            host = self.host(here or "127.0.0.1")
        elif here is not None and name not in self._addresses(here):
            raise OSError(errno.EADDRNOTAVAIL, f"this code runs on host {here}, which has no address {name}")
        else:
            host = self.host(name)
        if not host.is_up:
            raise OSError(errno.ENETDOWN, f"host {host.ip} is down")
        return host

    def remote(self, name: str, source: Host) -> Host | None:
        """The host that a destination means to a host, or None if no such host was ever there."""
        host = self.hosts.get(name)
        if name in _LOCAL:
            return source if source.ip not in _LOCAL or host is None else host
        return host if host is not None else self.hosts.get(self.names.get(name, name))

    # -- faults ----------------------------------------------------------------------------------------------

    def kill(self, ip: str, *, reset: bool = False) -> None:
        """A power cut: the host's sockets vanish, nobody is told, packets to it are swallowed until `revive`.

        With `reset`, only the process dies: the machine stays up, peers see a reset and new connections are refused.
        Code that runs there is not stopped (cancel its tasks), but its closed sockets say nothing any more.
        """
        for each in self._addresses(ip):
            self._kill(self.host(each), reset)

    def _kill(self, host: Host, reset: bool) -> None:
        host.is_up = reset
        for endpoint in list(host.endpoints.values()):
            endpoint.vanish()
        for server in list(host.listeners.values()):
            server.close()
        for connection in list(host.connections):
            connection.vanish(tell_peer=reset)

    def revive(self, ip: str) -> None:
        """Power is back. The host has no sockets; peers that still send on old connections are told so by a reset."""
        for each in self._addresses(ip):
            self.host(each).is_up = True

    def reset(self, ip: str) -> None:
        """Every connection of the host breaks with a reset at both ends."""
        for connection in list(self.host(ip).connections):
            connection.break_off()

    def partition(self, groups: Iterable[Iterable[str]]) -> None:
        """Only hosts of one group reach each other; hosts in no group form one more."""
        self.heal()
        self._partitioned = True
        for number, group in enumerate(groups, 1):
            for ip in group:
                self.host(ip).group = number

    def heal(self) -> None:
        """Ends the partition. `blocked` and `delay` stay."""
        self._partitioned = False
        for host in self.hosts.values():
            host.group = 0

    def delay(self, ip: str, seconds: float) -> None:
        """Adds to the one-way delay of every packet to and from the host; 0 takes it away."""
        self.host(ip).delay = seconds

    def is_open(self, source: Host, destination: Host) -> bool:
        """Whether the way is free of partitions and filters (one direction)."""
        if source is destination:
            return True
        if self._partitioned and source.group != destination.group:
            return False
        return self.blocked is None or not self.blocked(source.ip, destination.ip)

    def is_lost(self, source: Host, destination: Host) -> bool:
        """Draws whether one packet is lost on the way."""
        chance = self.loss + source.loss + destination.loss
        return chance > 0.0 and source is not destination and self.random.random() < chance

    def way(self, source: Host, destination: Host) -> float:
        """Draws the one-way delay of one packet, without queues."""
        if source is destination:
            return LOOPBACK_SECONDS
        return self.latency.draw(source.place, destination.place, self.random) + source.delay + destination.delay

    # -- what happened ---------------------------------------------------------------------------------------

    def note(self, fate: int, source: Host, sport: int, destination: Host | None, dport: int, data: bytes) -> None:
        """Folds one packet's fate into the trace."""
        if fate > DELIVER:
            self.dropped += 1
        elif fate == DELIVER:
            self.delivered += 1
        if self._trace is not None:
            number = _NOWHERE if destination is None else destination.number
            pending = self._pending
            pending.append(_RECORD.pack(fate, self.loop._now, source.number, sport, number, dport, len(data)))
            if fate == SEND:
                pending.append(data)
            if len(pending) > _TRACE_BATCH:
                self._trace.update(b"".join(pending))
                pending.clear()

    def tell(self, fate: int, source: Address, destination: Address, data: bytes, *, stream: bool = False) -> None:
        """Tells the observers, if there are any."""
        for observer in self.observers:
            observer(Event(_FATES[fate], self.loop._now, stream, source, destination, data))

    @property
    def trace_hash(self) -> str:
        """Hash over every send, delivery and drop so far, with time, ends and bytes; "" with `trace=False`."""
        if self._trace is None:
            return ""
        self._trace.update(b"".join(self._pending))
        self._pending.clear()
        return self._trace.hexdigest()

    # -- datagrams -------------------------------------------------------------------------------------------

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        sock: Any = None,
        **_options: Any,
    ) -> tuple[DatagramTransport, Any]:
        """As `loop.create_datagram_endpoint`. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        if sock is not None:
            raise ValueError("a simulated endpoint has no socket: pass local_addr")
        name, port = (None, 0) if local_addr is None else local_addr[:2]
        host = self.local(name)
        if port in host.endpoints:
            raise OSError(errno.EADDRINUSE, f"UDP port {port} of {host.ip} is in use")
        port = port or host.free_port(host.endpoints)
        remote = None if remote_addr is None else (remote_addr[0], remote_addr[1])
        protocol = protocol_factory()
        endpoint = DatagramTransport(self, host, (host.ip, port), protocol, remote)
        host.endpoints[port] = endpoint
        ready = self.loop.create_future()
        self.loop.call_soon(protocol.connection_made, endpoint, context=endpoint._context)
        self.loop.call_soon(_set, ready)
        await ready
        return endpoint, protocol

    def _send(self, endpoint: DatagramTransport, address: Any, data: bytes) -> None:
        source, port, size = endpoint.host, address[1], len(data)
        destination = self.hosts.get(address[0])
        if destination is None or address[0] in _LOCAL:
            destination = self.remote(address[0], source)
        source.datagrams_sent += 1
        source.bytes_sent += size
        self._datagram_fate(SEND, endpoint.address, source, destination, port, data)
        if destination is None:
            self._datagram_fate(NO_HOST, endpoint.address, source, None, port, data)
            return
        when = now = self.loop._now
        if source.upload is not None:
            start = source.upload_free_at if source.upload_free_at > now else now
            if (start - now) * source.upload + size > source.queue_bytes:
                self._datagram_fate(QUEUE_FULL, endpoint.address, source, destination, port, data)
                return
            when = source.upload_free_at = start + (size + DATAGRAM_HEADER) / source.upload
        if source is destination:
            self.loop.post_at(when + LOOPBACK_SECONDS, self._arrive, endpoint, source, destination, port, data)
            return
        if not self.is_open(source, destination):
            self._datagram_fate(BLOCKED, endpoint.address, source, destination, port, data)
            return
        if self.is_lost(source, destination):
            self._datagram_fate(LOST, endpoint.address, source, destination, port, data)
            return
        way = self.way(source, destination)
        if self.reorder and self.random.random() < self.reorder:
            way += 2.0 * way * self.random.random()
        self.loop.post_at(when + way, self._arrive, endpoint, source, destination, port, data)
        if self.duplicate and self.random.random() < self.duplicate:
            again = when + self.way(source, destination)
            self.loop.post_at(again, self._arrive, endpoint, source, destination, port, data)

    def _arrive(self, endpoint: DatagramTransport, source: Host, destination: Host, port: int, data: bytes) -> None:
        if destination.download is None:
            self._deliver(endpoint, source, destination, port, data)
            return
        now = self.loop._now
        start = destination.download_free_at if destination.download_free_at > now else now
        if (start - now) * destination.download + len(data) > destination.queue_bytes:
            self._datagram_fate(QUEUE_FULL, endpoint.address, source, destination, port, data)
            return
        done = destination.download_free_at = start + (len(data) + DATAGRAM_HEADER) / destination.download
        self.loop.post_at(done, self._deliver, endpoint, source, destination, port, data)

    def _deliver(self, endpoint: DatagramTransport, source: Host, destination: Host, port: int, data: bytes) -> None:
        receiver = destination.endpoints.get(port)
        if receiver is None or (receiver._remote is not None and receiver._remote != endpoint.address):
            fate = NO_PORT if destination.is_up else DOWN
            self._datagram_fate(fate, endpoint.address, source, destination, port, data)
            if fate == NO_PORT and endpoint.is_connected:
                self.loop.post_at(self.loop._now + self.way(destination, source), endpoint.refused)
            return
        destination.datagrams_received += 1
        destination.bytes_received += len(data)
        self._datagram_fate(DELIVER, endpoint.address, source, destination, port, data)
        receiver._context.run(receiver._protocol.datagram_received, data, endpoint.address)

    def _datagram_fate(
        self, fate: int, address: Address, source: Host, destination: Host | None, port: int, data: bytes
    ) -> None:
        self.note(fate, source, address[1], destination, port, data)
        if self.observers:
            self.tell(fate, address, ("?" if destination is None else destination.ip, port), data)

    # -- streams ---------------------------------------------------------------------------------------------

    async def create_server(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **options: Any
    ) -> MemoryServer:
        """As `loop.create_server`. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        _refuse_options(options)
        name = host if host is None or isinstance(host, str) else next(iter(host))
        here = self.local(name)
        server = MemoryServer(self, here, port or here.free_port(here.listeners), protocol_factory)
        if options.get("start_serving", True):
            await server.start_serving()
        return server

    def _facing(self, source: Host, there: str) -> Host:
        """The address of a machine that packets to `there` leave by. OSError: it has none of that family."""
        if (":" in source.ip) == (":" in there):
            return source
        if source.ip not in self._twins:
            raise OSError(errno.ENETUNREACH, f"host {source.ip} has no address to reach {there} from")
        return self.hosts[self._twins[source.ip]]

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **options: Any
    ) -> tuple[StreamTransport, Any]:
        """As `loop.create_connection`. OSError: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH."""
        _refuse_options(options)
        name, local_port = (options.get("local_addr") or (None, 0))[:2]
        there = self.resolve(host or "localhost")
        source = self.local(name)
        if there not in _LOCAL:
            source = self._facing(source, there)
        destination = self.remote(there, source)
        return await connect(self, source, local_port, destination, (str(host), int(port)), protocol_factory)


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _refuse_options(options: dict[str, Any]) -> None:
    if options.get("ssl"):
        raise ValueError("simulated streams carry no TLS: pass ssl=None")
    if options.get("sock") is not None:
        raise ValueError("simulated streams have no socket: pass host and port")
