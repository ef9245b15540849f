"""What a peer that breaks the rules gets: an error frame, a closed link, and nothing else is disturbed."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.net.linking import OBJECT, POOL, Pair, contact, key, links, now, pair, until
from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, LinkError
from titan_overlay.links.links import Peer
from titan_overlay.links.tls import Tls, TlsContexts
from titan_overlay.wire import codec, frames
from titan_overlay.wire.frames import HEADER, FrameReader
from titan_overlay.wire.messages import Cancel, Credit, Data, Failure, Hello, Opcode, Send

NIL = msgspec.Raw(codec.encode(None))


class Raw(asyncio.Protocol):
    """A peer that says whatever a test wants."""

    def __init__(self) -> None:
        self.reader = FrameReader()
        self.got: list[tuple[int, int, bytes]] = []
        self.lost = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += self.reader.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)

    def say(self, opcode: int, body: Any, flags: int = 0) -> None:
        out = bytearray()
        frames.append(out, opcode, flags, body)
        self.transport.write(bytes(out))

    def last_error(self) -> Failure:
        errors = [payload for opcode, _, payload in self.got if opcode == Opcode.ERROR]
        return codec.decode(errors[-1], Failure)


def hello(number: int = 3, **changes: Any) -> Hello:
    return msgspec.structs.replace(Hello(POOL, 1, False, key(number).public), **changes)


async def raw_peer(two: Pair, number: int = 3) -> Raw:
    """A plain connection to `two.b`, past the hello."""
    loop = asyncio.get_running_loop()
    _, raw = await loop.create_connection(Raw, "127.0.0.1", two.b.port)
    raw.say(Opcode.HELLO, hello(number))
    await until(lambda: raw.got and raw.got[0][0] == Opcode.HELLO)
    return raw


def send(id: int = 1, **changes: Any) -> Send:
    return msgspec.structs.replace(Send(id, 1000, OBJECT, "str", NIL), **changes)


OFFENCES: dict[str, Any] = {
    "bytes that are no frame": lambda raw: raw.transport.write(b"GET / HTTP/1.1\r\n\r\n"),
    "a frame over the limit": lambda raw: raw.transport.write(HEADER.pack(1, 0x52, 0, 0, 2 << 20)),
    "a body that is no msgpack": lambda raw: raw.transport.write(HEADER.pack(1, 0x81, 0, 0, 2) + b"\xc1\xc1"),
    "a body of another shape": lambda raw: raw.say(Opcode.SEND, {"id": 1}),
    "text that is no Unicode": lambda raw: raw.transport.write(HEADER.pack(1, 0x81, 0, 0, 5) + b"\x95\x01\x01\xa1\xff"),
    "nesting without end": lambda raw: raw.transport.write(HEADER.pack(1, 0x81, 0, 0, 9999) + b"\x91" * 9999),
    "an unknown opcode": lambda raw: raw.say(0x77, None),
    "a second hello": lambda raw: raw.say(Opcode.HELLO, hello()),
    "a short object id": lambda raw: raw.say(Opcode.SEND, send(object_id=b"short")),
    "a negative timeout": lambda raw: raw.say(Opcode.SEND, send(timeout_ms=-1)),
    "a negative request id": lambda raw: raw.say(Opcode.SEND, send(-1)),
    "credit of nothing": lambda raw: raw.say(Opcode.CREDIT, Credit(1, 0)),
    "a compressed frame that is none": lambda raw: raw.transport.write(HEADER.pack(1, 0x81, 1, 0, 3) + b"abc"),
    "a number too big for anything": lambda raw: raw.say(Opcode.CANCEL, [2**64 - 1]) or raw.say(0x99, None),
}


@pytest.mark.loops("real", "virtual")
@pytest.mark.parametrize("offence", OFFENCES)
async def test_a_peer_that_breaks_the_protocol_is_told_so_and_cut_off(offence: str) -> None:
    async with pair(secure=False, a_secure=False) as two:
        raw = await raw_peer(two)
        OFFENCES[offence](raw)
        async with asyncio.timeout(10):
            await raw.lost
        failure = raw.last_error()
        assert (failure.id, failure.error.code) == (0, "bad-message")
        assert two.b.counters.garbage == 1
        assert await two.ask() == "hello"


@pytest.mark.loops("real", "virtual")
async def test_a_request_id_in_use_is_an_offence() -> None:
    async def forever(peer: Peer, send: Send) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with pair(forever, secure=False, a_secure=False) as two:
        raw = await raw_peer(two)
        raw.say(Opcode.SEND, send(5))
        raw.say(Opcode.SEND, send(5))
        async with asyncio.timeout(10):
            await raw.lost
        assert "used id" in raw.last_error().error.text


@pytest.mark.loops("real", "virtual")
@pytest.mark.parametrize("first", ["the peer", "the deadline"])
async def test_a_handler_that_has_been_stopped_is_left_alone_at_its_end(first: str) -> None:
    stopping, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def items() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"\x01"
        finally:
            stopping.set()
            await go.wait()
            ended.set()

    async def counting(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return items()

    async with pair(counting, secure=False, a_secure=False) as two:
        raw = await raw_peer(two)
        raw.say(Opcode.SEND, send(credit=1, timeout_ms=100 if first == "the deadline" else 60_000))
        await until(lambda: raw.got[-1][0] == Opcode.DATA)
        if first == "the peer":
            raw.say(Opcode.CANCEL, Cancel(1))
        await stopping.wait()
        raw.say(Opcode.CANCEL, Cancel(1))
        raw.say(Opcode.PING, None)
        await until(lambda: raw.got[-1][0] == Opcode.PONG)
        raw.transport.close()
        await until(lambda: not two.b.peers())
        go.set()
        async with asyncio.timeout(10):
            await ended.wait()


@pytest.mark.loops("real", "virtual")
@pytest.mark.parametrize(
    "first",
    [
        send(),
        hello(pool=b"Q" * 32),
        hello(version=2),
        hello(public=b"short"),
        hello(port=70_000),
        hello(credentials=bytes(8193)),
        [1, 2],
        None,
    ],
)
async def test_a_first_frame_that_is_no_good_hello_ends_the_link(first: Any) -> None:
    async with pair(secure=False, a_secure=False) as two:
        _, raw = await asyncio.get_running_loop().create_connection(Raw, "127.0.0.1", two.b.port)
        raw.say(Opcode.SEND if isinstance(first, Send) else Opcode.HELLO, first)
        async with asyncio.timeout(10):
            await raw.lost
        assert raw.last_error().id == 0
        assert two.b.peers() == []
        assert two.b.gate.half_open == 0


@pytest.mark.loops("real", "virtual")
async def test_answers_that_nobody_waits_for_are_ignored() -> None:
    async with pair(secure=False, a_secure=False) as two:
        raw = await raw_peer(two)
        raw.say(Opcode.DATA, Data(77, NIL))
        raw.say(Opcode.DATA, Data(77, NIL), frames.Flags.MORE)
        raw.say(Opcode.ACK, Data(77, NIL))
        raw.say(Opcode.CANCEL, Cancel(77))
        raw.say(Opcode.CREDIT, Credit(77, 5))
        raw.say(Opcode.ERROR, Failure(77, BadMessage("?").to_wire()))
        raw.say(Opcode.SEND, send(1))
        await until(lambda: raw.got[-1][0] == Opcode.DATA)
        assert two.b.counters.garbage == 0


@pytest.mark.loops("real", "virtual")
async def test_a_sender_that_ignores_credit_is_cut_off() -> None:
    loop = asyncio.get_running_loop()
    served: list[Raw] = []

    class Flood(Raw):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for opcode, _, payload in self.got:
                if opcode == Opcode.HELLO:
                    self.say(Opcode.HELLO, hello(8))
                elif opcode == Opcode.SEND:
                    request = codec.decode(payload, Send)
                    for _ in range(request.credit + 1):
                        self.say(Opcode.DATA, Data(request.id, NIL), frames.Flags.MORE)
            self.got.clear()

    def accept() -> Flood:
        served.append(Flood())
        return served[-1]  # type: ignore[return-value]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    a = links(1, secure=False)
    a.port = server.sockets[0].getsockname()[1]
    there = contact(a)
    there.id = key(8).id
    stream = a.stream(there, OBJECT, "str", b"\xc0", deadline=now() + 10, credit=4)
    await anext(stream)
    await until(lambda: not a._links)
    for _ in range(3):
        await anext(stream)  # what it had credit for
    with pytest.raises(LinkError, match="beyond its credit"):
        await anext(stream)
    assert a.counters.garbage == 1
    await a.close()
    server.close()


@pytest.mark.loops("real", "virtual")
async def test_a_peer_that_keeps_breaking_the_protocol_is_shunned_for_a_while() -> None:
    async with pair(secure=False, a_secure=False, limits={"strikes": 2, "shun": 0.3}) as two:
        for _ in range(2):
            raw = await raw_peer(two)
            raw.say(0x77, None)
            async with asyncio.timeout(10):
                await raw.lost
        _, raw = await asyncio.get_running_loop().create_connection(Raw, "127.0.0.1", two.b.port)
        raw.say(Opcode.HELLO, hello())
        async with asyncio.timeout(10):
            await raw.lost
        assert raw.last_error().error.code == "forbidden"
        await asyncio.sleep(0.4)
        await raw_peer(two)  # its time is over
        assert await two.ask() == "hello"


@pytest.mark.loops("real", "virtual")
async def test_a_peer_that_does_not_read_what_it_asks_for_is_cut_off() -> None:
    noise = codec.encode(random.Random(5).randbytes(500_000))

    def handler(peer: Peer, send: Send) -> bytes:
        return noise

    async with pair(handler, secure=False, a_secure=False, limits={"unsent_bytes": 2 << 20}) as two:
        raw = await raw_peer(two)
        raw.transport.pause_reading()
        for id in range(1, 60):
            raw.say(Opcode.SEND, send(id))
        await until(lambda: two.b.peers() == [])
        assert two.b.counters.garbage == 0
        raw.transport.abort()


@pytest.mark.loops("real", "virtual")
async def test_replies_to_a_peer_that_does_not_read_wait_in_bounded_memory() -> None:
    noise = codec.encode(random.Random(5).randbytes(500_000))
    answered = 0

    async def handler(peer: Peer, send: Send) -> bytes:
        nonlocal answered
        answered += 1
        return noise

    async with pair(handler, secure=False, a_secure=False) as two:
        raw = await raw_peer(two)
        raw.transport.pause_reading()
        for id in range(1, 61):
            raw.say(Opcode.SEND, send(id, timeout_ms=60_000))
        await until(lambda: answered == 60)
        [link] = two.b._links
        assert link._transport.get_write_buffer_size() < 4 << 20
        raw.transport.resume_reading()
        await until(lambda: sum(opcode == Opcode.DATA for opcode, _, _ in raw.got) == 60)
        raw.transport.close()


@pytest.mark.loops("real", "virtual")
async def test_random_bytes_leave_a_node_serving() -> None:
    noise = random.Random(11)
    loop = asyncio.get_running_loop()
    async with pair(secure=False, a_secure=False) as two:
        for round in range(60):
            raw = (
                await raw_peer(two, 100 + round)
                if round % 3
                else (await loop.create_connection(Raw, "127.0.0.1", two.b.port))[1]
            )
            for _ in range(noise.randrange(1, 20)):
                if noise.random() < 0.5:
                    opcode = noise.choice([*Opcode, noise.randrange(256)])
                    body = noise.randbytes(noise.randrange(40))
                    raw.transport.write(HEADER.pack(1, opcode, noise.choice([0, 0, 1, 2, 4]), 0, len(body)) + body)
                else:
                    raw.transport.write(noise.randbytes(noise.randrange(200)))
            await asyncio.sleep(0)
            raw.transport.close()
        assert await two.ask() == "hello"
        await until(lambda: two.b.gate.half_open == 0 and len(two.b.peers()) == 1)


# --- TLS ------------------------------------------------------------------------------------------------------


async def test_random_bytes_instead_of_tls_leave_a_node_serving() -> None:
    noise = random.Random(12)
    loop = asyncio.get_running_loop()
    async with pair() as two:
        for _ in range(40):
            raw = (await loop.create_connection(asyncio.Protocol, "127.0.0.1", two.b.port))[0]
            # Every other one looks like the record of a handshake.
            raw.write((b"\x16\x03\x01" if noise.random() < 0.5 else b"") + noise.randbytes(noise.randrange(500)))
            await asyncio.sleep(0)
            raw.close()
        assert await two.ask() == "hello"
        await until(lambda: two.b.gate.half_open == 0)


def stranger(certificate: bool = True) -> ssl.SSLContext:
    """What a program that is not a node may come with."""
    if certificate:
        return TlsContexts(key(3), Ambient.system().token_bytes).client
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def open_tls(two: Pair, context: ssl.SSLContext) -> Raw:
    _, raw = await asyncio.get_running_loop().create_connection(
        Raw, "127.0.0.1", two.b.port, ssl=context, server_hostname=""
    )
    return raw


async def test_a_peer_without_a_certificate_is_refused() -> None:
    async with pair() as two:
        raw = await open_tls(two, stranger(certificate=False))
        async with asyncio.timeout(10):
            await raw.lost
        assert raw.got == []
        assert await two.ask() == "hello"


async def test_a_hello_that_names_another_key_than_the_certificate_is_refused() -> None:
    async with pair() as two:
        raw = await open_tls(two, stranger())
        raw.say(Opcode.HELLO, hello(4))
        async with asyncio.timeout(10):
            await raw.lost
        assert "another key" in raw.last_error().error.text
        assert two.b.peers() == []


async def test_a_link_ends_with_the_goodbye_of_tls_whatever_comes_after_it() -> None:
    async with pair() as two:
        engine = Tls(TlsContexts(key(3), Ambient.system().token_bytes), dialed=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", two.b.port)
        while not engine.handshake():
            writer.write(engine.outgoing())
            engine.feed(await reader.read(65536))
        frames.append(first := bytearray(), Opcode.HELLO, 0, hello())
        writer.write(engine.outgoing() + engine.seal(first))
        await until(two.b.peers)
        writer.write(engine.goodbye() + bytes(100_000))
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        writer.close()
        assert two.b.peers() == []


async def test_older_tls_is_refused() -> None:
    async with pair() as two:
        context = stranger()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await open_tls(two, context)


async def test_another_kind_of_key_is_refused() -> None:
    async with pair() as two:
        raw = await open_tls(two, elliptic())
        raw.say(Opcode.HELLO, hello())
        async with asyncio.timeout(10):
            await raw.lost
        assert raw.got == []
        assert two.b.counters.links_accepted == 0


def elliptic() -> ssl.SSLContext:
    """A certificate under the published CA key, for a P-256 key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from titan_overlay.links import tls

    private = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(tls._name("stranger"))
        .issuer_name(tls._name(tls._CA_NAME))
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(tls._NOT_BEFORE)
        .not_valid_after(tls._NOT_AFTER)
        .sign(tls._CA_KEY, None)
    )
    pem = serialization.Encoding.PEM
    chain = private.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(pem)
    context = stranger(certificate=False)
    with tls._as_file(chain, Ambient.system().token_bytes) as path:
        context.load_cert_chain(path)
    return context


async def test_certificates_hold_from_1970_to_9999_and_no_tickets_are_sent() -> None:
    contexts = TlsContexts(key(1), Ambient.system().token_bytes)
    assert contexts.server.num_tickets == 0
    assert contexts.server.verify_mode == contexts.client.verify_mode == ssl.CERT_REQUIRED
    async with pair() as two:
        await two.ask()
        [link] = two.a._links
        facts = link._tls._engine.getpeercert()
        assert facts["notBefore"].endswith("1970 GMT")
        assert facts["notAfter"].endswith("9999 GMT")
        assert link._tls._engine.version() == "TLSv1.3"


def test_a_key_goes_to_tls_through_a_private_file_that_is_gone_at_once(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import tempfile

    from titan_overlay.links import tls

    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[int] = []
    original = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, path: str) -> None:
        seen.append(os.stat(path).st_mode & 0o777)
        original(self, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    tls.TlsContexts(key(1), Ambient.system().token_bytes)
    assert seen == [0o600, 0o600]
    assert list(tmp_path.iterdir()) == []
