"""Strangers who mean it, at a real `titan-node`: others are answered all the while, and its memory stays bounded."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import zstandard

import titan_overlay as titan
from tests.net import hostile
from tests.net.commands import NodeProcess
from tests.net.conftest import Start
from tests.net.hostile import dial, dial_link, dial_tls, wiretapped
from tests.net.test_hostile_bytes import memory_bytes
from tests.unit.test_keys import BOMB
from titan_overlay.identity.grants import JoinLine
from titan_overlay.overlay.packets import HELLO, HELLO_BYTES, HELLO_FORM, VERSION
from titan_overlay.wire import codec
from titan_overlay.wire.frames import HEADER, MAX_PAYLOAD_BYTES
from titan_overlay.wire.messages import Opcode, Send

GROWTH_BYTES = 96 << 20
"""What a node may grow by under attack: its buffers and tables, all of them filled."""

ANSWERED_MIN = 10

Attack = Callable[[JoinLine, random.Random], Awaitable[None]]


@asynccontextmanager
async def served_throughout(node: NodeProcess, home: Path) -> AsyncIterator[tuple[JoinLine, Callable[[], int]]]:
    """Customers who send all the while: every message is answered, and nothing unforeseen is in the log. Beside the
    line, how many messages were.
    """
    line = node.join_line()
    there = JoinLine.parse(line)
    name = f"node:{there.node.hex()}"
    over = asyncio.Event()
    answered = 0

    async with titan.connect(line, data=home / "customer") as pool:

        async def customer() -> None:
            nonlocal answered
            while not over.is_set():
                pong = await pool.send(name, titan.Ping(), timeout=20)
                assert f"node:{pong.holder}" == name
                answered += 1
                await asyncio.sleep(0.01)

        await pool.send(name, titan.Ping())
        before = memory_bytes(node)
        customers = [asyncio.create_task(customer()) for _ in range(3)]
        try:
            yield there, lambda: answered
        finally:
            over.set()
            await asyncio.gather(*customers)
    assert answered >= ANSWERED_MIN
    async with titan.connect(line, data=home / "newcomer") as pool:
        await pool.send(name, titan.Ping(), timeout=20)
    assert node.process.poll() is None and "Traceback" not in node.log, node.log
    assert memory_bytes(node) - before < GROWTH_BYTES


async def valid_then_garbage(line: JoinLine, noise: random.Random) -> None:
    """Strangers who keep to the protocol for a while, and then do not."""
    for number in range(12):
        stranger = await dial_link(line, noise.randrange(1, 1 << 60))
        for request in range(1, 20):
            body = msgspec.Raw(b"\x80")
            stranger.say(Opcode.SEND, Send(request, 5000, bytes(line.node), "titan.Ping", body))
        stranger.transport.write(noise.randbytes(1000) if number % 2 else HEADER.pack(1, 0x81, 0, 0, 2) + b"\xc1\xc1")
        await stranger.lost


async def huge_lengths(line: JoinLine, noise: random.Random) -> None:
    """Frames that claim to be gigabytes, and frames of a megabyte that never end."""
    unfinished = []
    for number in range(40):
        stranger = await dial_link(line, noise.randrange(1, 1 << 60))
        if number % 2:
            stranger.transport.write(HEADER.pack(1, 0x81, 0, 0, 0xFFFFFFFF))
            await stranger.lost
        else:
            stranger.transport.write(HEADER.pack(1, 0x81, 0, 0, MAX_PAYLOAD_BYTES) + bytes(MAX_PAYLOAD_BYTES - 1))
            unfinished.append(stranger)
    for each in unfinished:
        await each.hang_up()


async def bombs(line: JoinLine, noise: random.Random) -> None:
    """A few bytes that would be many megabytes, nesting without end, maps whose keys all collide."""
    zeros = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    sly = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))
    small = zstandard.ZstdCompressor().compress(bytes(MAX_PAYLOAD_BYTES))
    collide = codec.encode([1, ["remote", "x", False, {"": [BOMB]}]])
    assert len(collide) < MAX_PAYLOAD_BYTES
    frames = [
        HEADER.pack(1, 0x81, 1, 0, len(zeros)) + zeros,
        HEADER.pack(1, 0x81, 1, 0, len(sly)) + sly,
        HEADER.pack(1, 0x81, 1, 0, len(small)) + small,
        HEADER.pack(1, 0x51, 2, 0, len(collide)) + collide,
        HEADER.pack(1, 0x51, 2, 0, 900_000) + b"\x91" * 900_000,
        HEADER.pack(1, 0x81, 0, 0, 900_000) + b"\x90" * 900_000,
    ]
    for frame in frames:
        stranger = await dial_link(line, noise.randrange(1, 1 << 60))
        stranger.transport.write(frame)
        async with asyncio.timeout(60):
            await stranger.lost


async def handshakes(line: JoinLine, noise: random.Random) -> None:
    """From one address: halves of handshakes on both sockets, and whole ones by the dozen."""
    address = (line.host, line.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        for _ in range(3000):
            hello = HELLO_FORM.pack(HELLO, VERSION, noise.randbytes(8), line.pool)
            stranger.sendto(hello.ljust(HELLO_BYTES, b"\0"), address)
            if noise.random() < 0.05:
                await asyncio.sleep(0)
    halves = []
    for _ in range(120):
        with contextlib.suppress(OSError):
            half = await dial(line)
            half.transport.write(hostile.client_hello(noise.randrange(1, 1 << 60))[: noise.randrange(1, 200)])
            halves.append(half)
    for _ in range(30):
        overlay, _ = await wiretapped(line, noise.randrange(1, 1 << 60))
        overlay.stop()
        with contextlib.suppress(OSError):
            await (await dial_tls(line, noise.randrange(1, 1 << 60))).hang_up()
    for each in halves:
        await each.hang_up()


async def replays(line: JoinLine, noise: random.Random) -> None:
    """All that somebody has ever said, said again, in any order and from anywhere."""
    address = (line.host, line.port)
    heard: list[bytes] = []
    for _ in range(5):
        overlay, tap = await wiretapped(line, noise.randrange(1, 1 << 60))
        heard += tap.sent
        overlay.stop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as eavesdropper:
        for _ in range(100):
            noise.shuffle(heard)
            for each in heard:
                eavesdropper.sendto(each, address)
            await asyncio.sleep(0)
            eavesdropper.sendto(struct.pack(">B4sI", 0x11, noise.randbytes(4), noise.randrange(1 << 32)), address)


async def byte_by_byte(line: JoinLine, noise: random.Random) -> None:
    """A slow loris on each floor: TLS, the first frame, a frame."""
    slow = [*[await dial(line) for _ in range(10)], *[await dial_tls(line, 1 + number) for number in range(10)]]
    slow += [await dial_link(line, 100 + number) for number in range(10)]
    said = HEADER.pack(1, 0x80, 0, 0, 5000) + bytes(5000)
    for at in range(60):
        for each in slow:
            each.transport.write(said[at : at + 1])
        await asyncio.sleep(0.02)
    for each in slow:
        await each.hang_up()


ATTACKS: list[Attack] = [valid_then_garbage, huge_lengths, bombs, handshakes, replays, byte_by_byte]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_others_are_answered_while_somebody_attacks(attack: Attack, start: Start, tmp_path: Path) -> None:
    node = start("a")
    async with served_throughout(node, tmp_path) as (line, answered):
        noise = random.Random(attack.__name__)
        await attack(line, noise)
        while answered() < ANSWERED_MIN:  # some attacks are over in no time
            await attack(line, noise)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_others_are_answered_while_all_attack_at_once_for_a_minute(start: Start, tmp_path: Path) -> None:
    node = start("a")
    loop = asyncio.get_running_loop()
    end = loop.time() + 60

    async def again_and_again(attack: Attack, line: JoinLine) -> None:
        noise = random.Random(attack.__name__)
        while loop.time() < end:
            with contextlib.suppress(OSError, TimeoutError, AssertionError):  # turned away at the door, for once
                async with asyncio.timeout(30):
                    await attack(line, noise)

    async with served_throughout(node, tmp_path) as (line, _):
        await asyncio.gather(*(again_and_again(attack, line) for attack in ATTACKS))
