"""What strangers may do to a real `titan-node`: it goes on serving, in bounded memory, and is not surprised."""

import asyncio
import random
import socket
from pathlib import Path

import msgspec
import pytest

import titan_overlay as titan
from tests.net import hostile
from tests.net.commands import NodeProcess
from tests.net.conftest import Start
from tests.net.hostile import dial, dial_link, wiretapped
from tests.net.nodes import Nodes
from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Failure, Opcode, Send

AWKWARD = Path(__file__).with_name("awkward.py")
MEMORY_BYTES = 200 << 20


def memory_bytes(node: NodeProcess) -> int:
    """Resident memory of a running node."""
    for row in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if row.startswith("VmRSS:"):
            return int(row.split()[1]) * 1024
    raise AssertionError("no such process")


async def still_serves(node: NodeProcess, line: str, home: Path) -> None:
    """A newcomer joins and is answered; nothing unforeseen is in the log."""
    assert node.process.poll() is None, node.log
    async with titan.connect(line, data=home / "newcomer") as pool:
        pong = await pool.send(f"node:{JoinLine.parse(line).node.hex()}", titan.Ping())
        assert pong.holder == JoinLine.parse(line).node.hex()
    assert "Traceback" not in node.log, node.log
    assert memory_bytes(node) < MEMORY_BYTES


async def bombard(line: str, seed: int, rounds: int) -> None:
    there = JoinLine.parse(line)
    _, made = await asyncio.gather(
        hostile.datagrams(there, random.Random(f"datagrams/{seed}"), rounds),
        hostile.connections(there, random.Random(f"connections/{seed}"), rounds),
    )
    assert made > 5 * rounds, "most of them came about, or this shows nothing"


async def test_random_bytes_at_both_sockets_leave_a_node_serving(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    await bombard(line, 1, 8)
    await still_serves(node, line, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_minute_of_random_bytes_at_both_sockets_leaves_a_node_serving(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    loop = asyncio.get_running_loop()
    end = loop.time() + 60
    seed = 0
    while loop.time() < end:
        seed += 1
        await bombard(line, seed, 5)
        await still_serves(node, line, tmp_path)


# --- datagrams ------------------------------------------------------------------------------------------------


async def test_a_datagram_that_is_sent_again_is_carried_out_once(start: Start) -> None:
    line = JoinLine.parse(start("a", "--puzzle-bits", "0").join_line())
    overlay = Overlay(SigningKey(b"v" * 32), Rights(), Ambient.system())
    calls: list[bytes] = []
    overlay.set_serving(True)
    await overlay.listen(0, "127.0.0.1")
    assert await overlay.bootstrap([line]) == 1
    overlay.serve("count", lambda contact, body: calls.append(body) or b"")  # type: ignore[func-returns-value]
    here = JoinLine("127.0.0.1", overlay.contact.port, overlay.pool, overlay.contact.id)
    caller, tap = await wiretapped(here, 77)
    before = len(tap.sent)
    await caller.call(overlay.contact, "count", b"once")
    [said] = [datagram for datagram in tap.sent[before:] if b"count" in datagram]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as eavesdropper:
        for _ in range(5):
            eavesdropper.sendto(said, overlay.contact.address)
            tap.sendto(said, overlay.contact.address)
    await caller.call(overlay.contact, "count", b"twice")
    assert calls == [b"once", b"twice"]
    assert overlay.counters["bad_tags"] == 10
    caller.stop()
    overlay.stop()


async def test_a_node_of_another_pool_gets_in_neither_by_udp_nor_by_tcp(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    there = JoinLine.parse(line)
    stranger = Overlay(SigningKey(b"x" * 32), Rights(PoolId(SigningKey(b"y" * 32).public)), Ambient.system())
    await stranger.listen(0, "127.0.0.1")
    with pytest.raises((titan.ConfigError, LinkError)):
        await stranger.bootstrap([there])
    stranger.stop()
    other = await dial_link(JoinLine(there.host, there.port, b"y" * 32, there.node), 5)
    async with asyncio.timeout(20):
        await other.lost
    [(opcode, _, payload)] = other.got
    assert opcode == Opcode.ERROR
    assert "belongs to pool" in codec.decode(payload, Failure).error.text
    await still_serves(node, line, tmp_path)


# --- connections ----------------------------------------------------------------------------------------------


async def test_500_links_that_say_nothing_lock_nobody_out(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    there = JoinLine.parse(line)
    silent = []
    for _ in range(10):
        silent += await asyncio.gather(*(dial(there) for _ in range(50)))
    assert sum(not each.lost.done() for each in silent) > 0, "some of them are there still, or this shows nothing"
    await still_serves(node, line, tmp_path)
    assert len(list(Path(f"/proc/{node.process.pid}/fd").iterdir())) < 200
    for each in silent:
        await each.hang_up()


async def test_a_message_nested_too_deeply_fails_alone(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    there = JoinLine.parse(line)
    stranger = await dial_link(there, 9)
    nested = msgspec.Raw(b"\x91" * 50_000 + b"\xc0")
    for number in range(1, 8):
        stranger.say(Opcode.SEND, Send(number, 5000, bytes(there.node), "titan.Ping", nested))
    stranger.say(Opcode.SEND, Send(8, 5000, bytes(there.node), "titan.Ping", msgspec.Raw(b"\x80")))
    async with asyncio.timeout(20):
        while len(stranger.got) < 9:
            await asyncio.sleep(0.01)
            assert not stranger.lost.done()
    answers = stranger.got[1:]
    assert [opcode for opcode, _, _ in answers].count(Opcode.ERROR) == 7
    failures = [codec.decode(payload, Failure) for opcode, _, payload in answers if opcode == Opcode.ERROR]
    assert [each.id for each in failures] == list(range(1, 8))
    assert {each.error.code for each in failures} == {"bad-message"}
    await stranger.hang_up()
    await still_serves(node, line, tmp_path)


async def test_a_flood_of_requests_is_refused_with_a_time_to_come_back_and_others_are_served(
    tmp_path: Path,
) -> None:
    with Nodes(tmp_path, 1, TITAN_MAILBOX_SIZE="100", TITAN_CONCURRENCY="8") as nodes:
        async with (
            titan.connect(nodes.line, data=nodes.user) as flooding,
            titan.connect(nodes.line, data=nodes.user) as other,
        ):
            flooded = (await flooding.publish(f"{AWKWARD}:Awkward", "flooded")).name
            quiet = (await other.publish(f"{AWKWARD}:Awkward", "quiet")).name
            sent = [asyncio.create_task(flooding.send(flooded, 3600.0, timeout=90)) for _ in range(1500)]
            async with asyncio.timeout(60):
                while sum(task.done() for task in sent) <= 500:
                    await asyncio.sleep(0.01)
            for number in range(20):
                assert await other.send(quiet, str(number)) == str(number)
                assert (await other.send(f"node:{nodes.ids[0]}", titan.Ping())).holder == nodes.ids[0]
            refused = [task.exception() for task in sent if task.done()]
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
        assert all(isinstance(each, titan.Overloaded) and each.retry_after > 0 for each in refused)
