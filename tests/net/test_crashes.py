"""Ends of all kinds: SIGKILL at any instant loses nothing that was acknowledged; SIGTERM is clean and quiet."""

import asyncio
import contextlib
import hashlib
import os
import random
import resource
import signal
import subprocess
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.net.commands import BIN, SECONDS, NodeProcess, environment
from tests.net.conftest import Start
from tests.net.nodes import Nodes
from titan_overlay.errors import TitanError
from titan_overlay.identity.grants import JoinLine

AWKWARD = Path(__file__).with_name("awkward.py")
ONE = titan.Policy(min_copies=1, max_copies=1, cache=False)
CHUNK_BYTES = 256 << 10


async def publish_until(line: str, user: Path, deaths: asyncio.Event, acknowledged: dict[str, bytes]) -> None:
    """Puts data, one after the other, until the node is gone, and notes what was acknowledged, by name."""
    number = 0
    async with titan.connect(line, data=user) as pool:
        while True:
            number += 1
            data = number.to_bytes(4, "big") * (number % 7 * 40_000 + 10)
            try:
                async with asyncio.timeout(10 if not deaths.is_set() else 0.5):
                    if number % 4:
                        acknowledged[await pool.put(data, policy=ONE)] = data
                    else:
                        receipt = await pool.publish(f"{AWKWARD}:Awkward", f"thing/{number}", policy=ONE)
                        acknowledged[receipt.name] = b""
            except (TitanError, TimeoutError):
                assert deaths.is_set(), "only the death of the node is a reason to fail"
                return


@pytest.mark.parametrize("seed", range(2))
async def test_sigkill_at_any_instant_loses_nothing_that_was_acknowledged(
    start: Start, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(f"sigkill/{seed}")
    acknowledged: dict[str, bytes] = {}
    for _ in range(2):
        node = start("a")
        line = node.join_line()
        dead = asyncio.Event()
        work = asyncio.create_task(publish_until(line, tmp_path / "a", dead, acknowledged))
        enough = len(acknowledged) + chance.randint(2, 6)
        while len(acknowledged) < enough and not work.done():
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.2))
        dead.set()
        node.process.kill()
        await work
    again = start("a")
    async with titan.connect(again.join_line(), data=tmp_path / "a") as pool:
        for name, data in acknowledged.items():
            if data:
                assert await pool.get(name) == data
            else:
                assert await pool.send(name, "still there") == "still there"
    assert "Traceback" not in again.log
    assert "damaged" not in again.log


async def test_a_put_that_a_crash_cut_short_resumes_where_it_was(start: Start, tmp_path: Path) -> None:
    size = 48 << 20
    content = random.Random(3).randbytes(size)
    (tmp_path / "big").write_bytes(content)
    name = hashlib.sha256(content).hexdigest()
    blobs = tmp_path / "a" / "blobs" / name[:2]
    partial = blobs / f"{name}.partial"
    node = start("a")
    line = node.join_line()
    async with titan.connect(line, data=tmp_path / "a") as pool:
        putting = asyncio.create_task(pool.put(tmp_path / "big", policy=ONE))
        while not (partial.exists() and partial.stat().st_size > size // 4):
            await asyncio.sleep(0.001)
            assert not putting.done(), "it was faster than this test looks; make it bigger"
        node.process.kill()
        node.process.wait()
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
    left = os.stat(partial)
    assert not (blobs / name).exists()

    again = start("a")
    sent: list[int] = []
    async with titan.connect(again.join_line(), data=tmp_path / "a") as pool:
        # It is kept for whoever begins again, and nobody is told that it is here.
        with pytest.raises(titan.NotFound):
            await pool.get(f"sha256:{name}")
        await pool.put(tmp_path / "big", policy=ONE, progress=lambda done, total: sent.append(done))
        assert hashlib.sha256(await pool.get(f"sha256:{name}")).hexdigest() == name
    assert os.stat(blobs / name).st_ino == left.st_ino, "the same file, completed"
    assert max(sent) <= size - size // 8, "what was there was not sent again"


async def test_a_get_that_is_cut_short_resumes(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(24 << 20)
    with Nodes(tmp_path, 1) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            name = await pool.put(content, policy=ONE)
        target = tmp_path / "copy"
        getting = subprocess.Popen(
            [BIN / "titan", "get", name, "-o", str(target), "--data", "node0"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        part = tmp_path / "copy.part"
        while not (part.exists() and part.stat().st_size > len(content) // 4):
            await asyncio.sleep(0.001)
            assert getting.poll() is None, "it was faster than this test looks; make it bigger"
        getting.kill()
        getting.wait()
        inode = part.stat().st_ino
        assert not target.exists()
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.get(name, target)
        assert target.read_bytes() == content
        assert target.stat().st_ino == inode


# --- SIGTERM --------------------------------------------------------------------------------------------------


async def test_sigterm_withdraws_so_that_nobody_asks_a_node_that_has_left(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            receipt = await pool.publish(f"{AWKWARD}:Awkward", "leaving", policy=titan.Policy(min_copies=2))
            leaver = next(each for each in receipt.holders if each != nodes.ids[0])
            assert nodes.by_id[leaver].stop(signal.SIGTERM) == 0
            log = nodes.by_id.pop(leaver).log
            assert log.rstrip().endswith("left")
            assert "Traceback" not in log
            assert "too long" not in log
            holders = {each.node for each in await pool.locate("leaving")}
            assert leaver not in holders
            assert len(holders) >= 2, "handed over before it left"
            assert await pool.send("leaving", "hello") == "hello"


async def test_a_handler_that_never_returns_does_not_keep_a_node_from_ending(tmp_path: Path) -> None:
    with Nodes(tmp_path, 1) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish(f"{AWKWARD}:Awkward", "hanging")
            with pytest.raises(titan.DeadlineExceeded):
                await pool.send("hanging", 3600.0, timeout=0.5)
        node = nodes.by_id[nodes.ids[0]]
        node.process.send_signal(signal.SIGTERM)
        # stop_timeout and what closing takes: the service manager's patience is far longer.
        assert node.process.wait(30) == 0
        assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
async def test_a_second_signal_ends_it_at_once_and_quietly(tmp_path: Path, first: int, second: int) -> None:
    with Nodes(tmp_path, 2) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish(f"{AWKWARD}:Awkward", "leaving", policy=titan.Policy(min_copies=2))
        node = nodes.by_id[nodes.ids[1]]
        node.process.send_signal(first)
        node.wait_for_log("leaving")
        node.process.send_signal(second)
        # It may have ended before the second signal came.
        assert node.process.wait(SECONDS) in (0, 130, -second)
        assert "Traceback" not in node.log
        assert "never retrieved" not in node.log


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.4])
def test_a_signal_while_it_starts_is_quiet(start: Start, pause: float) -> None:
    node = start("a")
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.process.wait(pause)
    assert node.stop(signal.SIGTERM) in (0, -signal.SIGTERM), "before it listens for signals, the system ends it"
    assert "Traceback" not in node.log


# --- a full disk ----------------------------------------------------------------------------------------------


def limit_files(node: NodeProcess, size: int) -> None:
    """From now on the node can make no file longer than this: what a full disk is like, without one."""
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit a process that runs")
async def test_a_disk_that_fills_up_takes_nothing_away(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    async with titan.connect(line, data=tmp_path / "a") as pool:
        kept = await pool.put(b"kept" * 50_000, policy=ONE)
        await pool.publish(f"{AWKWARD}:Awkward", "kept", policy=ONE)
        limit_files(node, (tmp_path / "a" / "node.db-wal").stat().st_size)  # long enough for the log
        for attempt in (
            pool.put(b"new" * 50_000, policy=ONE),
            pool.put(b"n", policy=ONE),
            pool.publish("echo", "new", policy=ONE),
        ):
            with pytest.raises(titan.Unavailable, match="read-only"):
                await attempt
        assert await pool.get(kept) == b"kept" * 50_000
        assert await pool.send("kept", "hello") == "hello"
        info = await pool.describe(f"node:{JoinLine.parse(line).node.hex()}")
        assert isinstance(info, titan.NodeInfo)
        assert info.reason and not info.hosting
    node.process.kill()
    node.process.wait()
    again = start("a")
    async with titan.connect(again.join_line(), data=tmp_path / "a") as pool:
        assert await pool.get(kept) == b"kept" * 50_000
        assert await pool.send("kept", "hello") == "hello"
        assert await pool.get(await pool.put(b"new" * 50_000, policy=ONE)) == b"new" * 50_000
    assert "read-only from now on, what is here stays and is served" in node.log
    assert "Traceback" not in node.log
