"""What strangers send: noise, halves of handshakes, true datagrams bent out of shape. Drawn from a seed."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from titan_overlay.ambient import Ambient
from titan_overlay.errors import TitanError
from titan_overlay.identity.contacts import IPV4
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.links.tls import TlsContexts
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.wire import frames
from titan_overlay.wire.frames import HEADER, FrameReader
from titan_overlay.wire.messages import Hello, Opcode

KINDS = (0x01, 0x02, 0x03, 0x04, 0x05, 0x10, 0x11)
"""First bytes that a node's socket knows."""


def bent(noise: random.Random, true: bytes) -> bytes:
    """Bytes that were true: bits flipped, cut, lengthened, or begun anew in the middle."""
    data = bytearray(true)
    match noise.randrange(4):
        case 0:
            for _ in range(noise.randrange(1, 8)):
                data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        case 1:
            del data[noise.randrange(len(data)) :]
        case 2:
            data += noise.randbytes(noise.randrange(1, 400))
        case _:
            at = noise.randrange(len(data))
            data[at:] = noise.randbytes(len(data) - at)
    return bytes(data)


class Wiretap:
    """Stands between a node and its UDP socket, and keeps a copy of all that it sends."""

    def __init__(self, overlay: Overlay) -> None:
        self.sent: list[bytes] = []
        self._transport = overlay.protocol.transports[IPV4]
        overlay.protocol.transports[IPV4] = self

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        self.sent.append(bytes(data))
        self._transport.sendto(data, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def wiretapped(line: JoinLine, number: int) -> tuple[Overlay, Wiretap]:
    """A client of the pool that has shaken hands and asked something, and what it sent."""
    overlay = Overlay(SigningKey(number.to_bytes(32, "big")), Rights(), Ambient.system(), client=True)
    await overlay.listen(0, "127.0.0.1")
    tap = Wiretap(overlay)
    assert await overlay.bootstrap([line]) == 1
    await overlay.find_nodes(b"t" * 32)
    return overlay, tap


async def datagrams(line: JoinLine, noise: random.Random, rounds: int) -> None:
    """Noise and bent truths at the UDP socket, some of them from the address of who has a session."""
    address = (line.host, line.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        for _ in range(rounds):
            overlay, tap = await wiretapped(line, noise.randrange(1, 1 << 60))
            truths = list(tap.sent)
            [contact] = overlay.neighbours(line.node, 1)
            for _ in range(100):
                data = bent(noise, noise.choice(truths))
                kind = bytes((noise.choice(KINDS),)) if noise.random() < 0.5 else b""
                stranger.sendto(data, address)
                tap.sendto(data, address)
                stranger.sendto(kind + noise.randbytes(noise.randrange(1400)), address)
                await asyncio.sleep(0)
            # Inside a session: right tag, wrong content. For that a peer is shunned, and only for that.
            for method in ("find_node", "find_holders", "store", "probe", "?" * 200):
                with contextlib.suppress(TitanError):
                    await overlay.call(contact, method, noise.randbytes(noise.randrange(1000)), timeout=0.2)
            overlay.stop()


class Stranger(asyncio.Protocol):
    """One end of a TCP connection that says what it is told to."""

    def __init__(self) -> None:
        self.reader = FrameReader()
        self.got: list[tuple[int, int, bytes]] = []
        self.lost = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        with contextlib.suppress(TitanError):  # before the handshake it is no frame
            self.got += self.reader.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    async def hang_up(self) -> None:
        """Without a goodbye."""
        self.transport.abort()
        await self.lost

    def say(self, opcode: int, body: Any, flags: int = 0) -> None:
        out = bytearray()
        frames.append(out, opcode, flags, body)
        self.transport.write(bytes(out))


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


async def dial(line: JoinLine) -> Stranger:
    """A connection on which nothing was said yet."""
    _, stranger = await asyncio.get_running_loop().create_connection(Stranger, line.host, line.port)
    return stranger


async def dial_tls(line: JoinLine, number: int) -> Stranger:
    """The same, past the TLS handshake, with the certificate of a key of one's own."""
    context = TlsContexts(key(number), Ambient.system().token_bytes).client
    _, stranger = await asyncio.get_running_loop().create_connection(
        Stranger, line.host, line.port, ssl=context, server_hostname=""
    )
    return stranger


async def dial_link(line: JoinLine, number: int) -> Stranger:
    """The same, past the hello: an open link."""
    stranger = await dial_tls(line, number)
    stranger.say(Opcode.HELLO, Hello(line.pool, 1, False, key(number).public))
    async with asyncio.timeout(20):
        while not stranger.got and not stranger.lost.done():
            await asyncio.sleep(0.005)
    return stranger


def client_hello(number: int) -> bytes:
    """The first flight of a true TLS handshake."""
    context = TlsContexts(key(number), Ambient.system().token_bytes).client
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _frame(noise: random.Random) -> bytes:
    """A frame that is wrong in its own way."""
    body = noise.randbytes(noise.randrange(60))
    opcode = noise.choice([*map(int, Opcode), noise.randrange(256)])
    flags = noise.choice([0, 0, 0, 1, 2, 4, 8, 255])
    match noise.randrange(6):
        case 0:
            return HEADER.pack(1, opcode, flags, 0, 0xFFFFFFFF)
        case 1:
            return HEADER.pack(1, opcode, flags, 0, len(body) + noise.randrange(1, 5000)) + body
        case 2:
            return HEADER.pack(1, opcode, flags, 0, 50_000) + b"\x91" * 50_000
        case 3:
            return HEADER.pack(noise.randrange(256), opcode, flags, noise.randrange(256), len(body)) + body
        case 4:
            return noise.randbytes(noise.randrange(300))
        case _:
            return HEADER.pack(1, opcode, flags, 0, len(body)) + body


def _ways(noise: random.Random, line: JoinLine) -> Iterator[Callable[[], Coroutine[Any, Any, Stranger]]]:
    """Ways to be a bad stranger, one after the other, for ever."""

    async def noisy() -> Stranger:
        stranger = await dial(line)
        stranger.transport.write(noise.randbytes(noise.randrange(1, 4000)))
        return stranger

    async def half_tls() -> Stranger:
        stranger = await dial(line)
        stranger.transport.write(bent(noise, client_hello(noise.randrange(1, 1 << 60))))
        await asyncio.sleep(noise.choice([0, 0, 0.01]))
        if noise.random() < 0.5:
            stranger.transport.write(noise.randbytes(100))
        return stranger

    async def tls_then_noise() -> Stranger:
        stranger = await dial_tls(line, noise.randrange(1, 1 << 60))
        stranger.transport.write(_frame(noise))
        return stranger

    async def broken_records() -> Stranger:
        stranger = await dial_tls(line, noise.randrange(1, 1 << 60))
        beneath = stranger.transport.get_extra_info("socket").fileno()  # past TLS
        with contextlib.suppress(OSError):
            os.write(beneath, b"\x17\x03\x03\x40\x00" + noise.randbytes(200))
        return stranger

    async def link_then_noise() -> Stranger:
        stranger = await dial_link(line, noise.randrange(1, 1 << 60))
        for _ in range(noise.randrange(1, 10)):
            stranger.transport.write(_frame(noise))
        return stranger

    while True:
        yield from (noisy, half_tls, tls_then_noise, broken_records, link_then_noise)


async def connections(line: JoinLine, noise: random.Random, rounds: int) -> int:
    """All kinds of bad connections, ten at once; how many of them came about."""
    ways = _ways(noise, line)
    made = 0

    async def one() -> None:
        nonlocal made
        with contextlib.suppress(OSError, ssl.SSLError):
            stranger = await next(ways)()
            made += 1
            await asyncio.sleep(0)
            await stranger.hang_up()

    for _ in range(rounds):
        await asyncio.gather(*(one() for _ in range(10)))
    return made
