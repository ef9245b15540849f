"""The systems that benchmarks/send.py compares: each an echo server, and a way to call it. TLS on for all.

A system is up to three processes: a server that is a program of its own (`command`), a server or responder in Python
(`serve(port, certificate) -> port`), and the client (`connect(port, certificate) -> call`); `await call(payload)` is
one round trip.
"""

import asyncio
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Call = Callable[[bytes], Awaitable[Any]]


@dataclass(frozen=True)
class Certificate:
    """PEM files for `localhost`, for the systems that bring none of their own."""

    chain: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.chain, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.chain))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


# --- the bare echo: what TLS over asyncio costs before anything else is done ------------------------------------

_HEAD = struct.Struct(">II")
"""Length of the payload, request id."""


class _Framed(asyncio.Protocol):
    def __init__(self) -> None:
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self, id: int, payload: bytes) -> None:
        self.transport.write(_HEAD.pack(len(payload), id) + payload)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        at, end = 0, len(data)
        while end - at >= 8:
            size, id = _HEAD.unpack_from(data, at)
            if end - at < 8 + size:
                break
            self.received(id, data[at + 8 : at + 8 + size])
            at += 8 + size
        self.buffer = data[at:]

    def received(self, id: int, payload: bytes) -> None:
        raise NotImplementedError


class _Coalesced(_Framed):
    """As `_Framed`, but what is sent in one turn of the loop leaves in one write."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []
        self.loop = asyncio.get_running_loop()

    def send(self, id: int, payload: bytes) -> None:
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(_HEAD.pack(len(payload), id))
        self.out.append(payload)

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))
        self.out.clear()


def _bare(base: type[_Framed]) -> tuple[Any, Any]:
    class Server(base):  # type: ignore[misc,valid-type]
        def received(self, id: int, payload: bytes) -> None:
            self.send(id, payload)

    class Client(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.waiting: dict[int, asyncio.Future[bytes]] = {}
            self.next_id = 0
            self.futures = asyncio.get_running_loop().create_future

        def received(self, id: int, payload: bytes) -> None:
            self.waiting.pop(id).set_result(payload)

        async def call(self, payload: bytes) -> bytes:
            self.next_id = id = self.next_id + 1
            self.waiting[id] = future = self.futures()
            self.send(id, payload)
            return await future

    async def serve(_: int, certificate: Certificate) -> int:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=certificate.server())
        return int(server.sockets[0].getsockname()[1])

    async def connect(port: int, certificate: Certificate) -> Call:
        _, client = await asyncio.get_running_loop().create_connection(
            Client, "127.0.0.1", port, ssl=certificate.client(), server_hostname="localhost"
        )
        call: Call = client.call
        return call

    return connect, serve


# --- Titan: links alone ------------------------------------------------------------------------------------------

_SERVER_SEED, _CLIENT_SEED, _POOL, _OBJECT = b"S" * 32, b"C" * 32, b"P" * 32, b"O" * 32


def _links(seed: bytes, handler: Any) -> Any:
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.keys import SigningKey
    from titan_overlay.links.links import Links

    return Links(SigningKey(seed), PoolId(_POOL), Ambient.system(), handler)


async def _serve_links(_: int, certificate: Certificate) -> int:
    async def echo(peer: Any, send: Any) -> bytes:
        return bytes(send.body)

    _kept.append(_links(_SERVER_SEED, echo))
    return int(await _kept[-1].listen("127.0.0.1", 0))


async def _connect_links(port: int, certificate: Certificate) -> Call:
    from titan_overlay.identity.contacts import Contact
    from titan_overlay.identity.keys import SigningKey
    from titan_overlay.wire import codec

    async def nobody(peer: Any, send: Any) -> bytes:
        raise NotImplementedError

    links = _links(_CLIENT_SEED, nobody)
    _kept.append(links)
    contact = Contact(SigningKey(_SERVER_SEED).id, "127.0.0.1", port)
    time = asyncio.get_running_loop().time

    async def call(payload: bytes) -> Any:
        reply = await links.request(contact, _OBJECT, "bytes", codec.encode(payload), deadline=time() + 10)
        return codec.decode(reply, bytes)

    return call


_kept: list[Any] = []
"""Servers and connections live as long as their process."""


# --- Titan as programs use it: a node, and a light client that sends to a name ---------------------------------


def _node_data(certificate: Certificate) -> Path:
    return certificate.chain.parent / "node"


def _node_command(port: int, certificate: Certificate) -> list[str]:
    data = str(_node_data(certificate))
    budgets = ["--max-cpu", "4", "--max-upload", "1GB/s"]
    program = "from titan_overlay.cli.node import main; main()"
    return [sys.executable, "-c", program, "--listen", f"127.0.0.1:{port}", "--data", data, *budgets]


async def _connect_titan(port: int, certificate: Certificate) -> Call:
    import titan_overlay as titan

    opened = titan.connect(f"127.0.0.1:{port}", data=_node_data(certificate))
    pool = await opened.__aenter__()
    _kept.append(opened)
    await pool.publish("echo", "bench/echo", policy=titan.Policy(min_copies=1, max_copies=1))

    async def call(payload: bytes) -> Any:
        return await pool.send("bench/echo", payload)

    return call


# --- nats-py and a real nats-server -----------------------------------------------------------------------------


async def _nats(port: int, certificate: Certificate) -> Any:
    import nats

    client = await nats.connect(
        f"tls://localhost:{port}", tls=certificate.client(), tls_hostname="localhost", allow_reconnect=False
    )
    _kept.append(client)
    return client


def _nats_command(port: int, certificate: Certificate) -> list[str]:
    files = ["--tlscert", str(certificate.chain), "--tlskey", str(certificate.key)]
    return ["nats-server", "-a", "127.0.0.1", "-p", str(port), "--tls", *files]


async def _serve_nats(port: int, certificate: Certificate) -> int:
    """The process that answers; the broker is a third."""
    client = await _nats(port, certificate)

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    await client.subscribe("echo", cb=echo)
    await client.flush()
    return port


async def _connect_nats(port: int, certificate: Certificate) -> Call:
    client = await _nats(port, certificate)

    async def call(payload: bytes) -> Any:
        return (await client.request("echo", payload, timeout=10)).data

    return call


# --- grpc.aio ---------------------------------------------------------------------------------------------------


async def _serve_grpc(_: int, certificate: Certificate) -> int:
    import grpc

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
    pair = (certificate.key.read_bytes(), certificate.chain.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    _kept.append(server)
    return int(port)


async def _connect_grpc(port: int, certificate: Certificate) -> Call:
    import grpc

    channel = grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(certificate.chain.read_bytes()))
    _kept.append(channel)
    method = channel.unary_unary("/bench/Echo")

    async def call(payload: bytes) -> Any:
        return await method(payload, timeout=10)

    return call


@dataclass(frozen=True)
class System:
    """One row of the table."""

    name: str
    title: str
    connect: Callable[[int, Certificate], Awaitable[Call]]
    serve: Callable[[int, Certificate], Awaitable[int]] | None = None
    command: Callable[[int, Certificate], list[str]] | None = None


SYSTEMS = {
    system.name: system
    for system in (
        System("titan", "Titan `pool.send`", _connect_titan, command=_node_command),
        System("links", "Titan links alone", _connect_links, _serve_links),
        System("bare", "bare asyncio TLS echo", *_bare(_Framed)),
        System("bare-coalesced", "the same, writes coalesced", *_bare(_Coalesced)),
        System("nats", "nats-py + nats-server", _connect_nats, _serve_nats, _nats_command),
        System("grpc", "grpc.aio", _connect_grpc, _serve_grpc),
    )
}
