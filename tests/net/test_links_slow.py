"""Peers that are slow on purpose, or in a hurry: they lose their link, or are told to wait, and cost little."""

import asyncio
import random
from typing import Any

import msgspec
import pytest

from tests.net.linking import OBJECT, POOL, key, pair, until
from titan_overlay import meters
from titan_overlay.errors import Overloaded
from titan_overlay.links import connection
from titan_overlay.links.links import Links, Peer
from titan_overlay.links.shared import PROTOCOL_VERSION
from titan_overlay.wire import codec, frames
from titan_overlay.wire.messages import Hello, Opcode, Send

NIL = codec.encode(None)


class Plain(asyncio.Protocol):
    """A peer without manners, on a plain connection."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.heard = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def raw_peer(to: Links) -> Plain:
    """One that has said hello, over a link without TLS."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(Plain, "127.0.0.1", to.port)
    hello = Hello(POOL, PROTOCOL_VERSION, False, key(9).public, 0, b"")
    out = bytearray()
    frames.append(out, int(Opcode.HELLO), 0, hello)
    peer.transport.write(bytes(out))
    await until(lambda: len(to.peers()) == 1)
    return peer


def begun(size: int) -> bytes:
    """The beginning of a frame of that size."""
    return frames.HEADER.pack(frames.VERSION, int(Opcode.SEND), 0, 0, size)


async def test_a_frame_that_comes_in_too_slowly_ends_the_link() -> None:
    async with pair(secure=False, a_secure=False, limits={"probe": 0.2}) as two:
        peer = await raw_peer(two.b)
        peer.transport.write(begun(1000))
        async with asyncio.timeout(10):
            while not peer.lost.done():
                peer.transport.write(b"x")
                await asyncio.sleep(0.05)
        assert two.b.peers() == []


async def test_a_frame_that_comes_in_slowly_but_steadily_is_waited_for() -> None:
    async with pair(secure=False, a_secure=False, limits={"probe": 0.2, "progress": 100.0}) as two:
        peer = await raw_peer(two.b)
        body = codec.encode(
            Send(1, 5000, OBJECT, "str", msgspec.Raw(codec.encode(random.Random(1).randbytes(2000))), 0, ())
        )
        peer.transport.write(begun(len(body)))
        for start in range(0, len(body), 200):
            peer.transport.write(body[start : start + 200])
            await asyncio.sleep(0.1)
        await until(lambda: len(peer.heard) > 2000)
        assert not peer.lost.done()
        peer.transport.abort()


async def test_a_peer_that_does_not_read_loses_the_link() -> None:
    async def much(peer: Peer, send: Send) -> bytes:
        return codec.encode(random.Random(2).randbytes(900_000))

    async with pair(much, secure=False, a_secure=False, limits={"probe": 0.2}) as two:
        peer = await raw_peer(two.b)
        peer.transport.pause_reading()
        out = bytearray()
        for number in range(1, 17):
            frames.append(out, int(Opcode.SEND), 0, Send(number, 60_000, OBJECT, "str", msgspec.Raw(NIL), 0, ()))
        peer.transport.write(bytes(out))
        await until(lambda: two.b.peers() == [])
        peer.transport.abort()


@pytest.mark.loops("real", "node")
async def test_a_peer_that_closes_its_side_and_does_not_read_keeps_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LINGER", 0.1)

    async def much(peer: Peer, send: Send) -> bytes:
        return codec.encode(random.Random(2).randbytes(900_000))

    async with pair(much, secure=False, a_secure=False, limits={"links_per_peer": 1}) as two:
        peer = await raw_peer(two.b)
        peer.transport.pause_reading()
        link = next(iter(two.b._links))
        out = bytearray()
        for number in range(1, 17):
            frames.append(out, int(Opcode.SEND), 0, Send(number, 60_000, OBJECT, "str", msgspec.Raw(NIL), 0, ()))
        peer.transport.write(bytes(out))
        await until(lambda: link.congested)
        peer.transport.write_eof()
        await until(lambda: link._transport.is_closing())
        another = await raw_peer(two.b)
        await until(lambda: link.ending == "the peer opened too many links")
        await asyncio.wait_for(link.gone, 10)
        peer.transport.abort()
        another.transport.abort()


async def test_frames_that_have_begun_take_only_so_much_memory_together() -> None:
    few = {"probe": 0.2, "progress": 0.0, "half_sent_bytes": 1000}
    async with pair(secure=False, a_secure=False, limits=few) as two:
        peer = await raw_peer(two.b)
        peer.transport.write(begun(5000) + bytes(900))
        peer.transport.write(bytes(500))
        async with asyncio.timeout(10):
            await peer.lost


async def test_a_peer_that_asks_too_fast_is_told_when_it_may_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "is_loopback", lambda ip: False)
    async with pair(limits={"messages_per_second": 2.0}) as two:
        answers = [await two.ask() for _ in range(4)]
        with pytest.raises(Overloaded, match=r"2 messages a second here \(messages_per_peer\)") as refused:
            await two.ask()
        assert answers == ["hello"] * 4
        assert 0 < refused.value.retry_after <= 0.5
