"""Workers that are started and ended by the length of a queue, as an operator runs them; and a run with a store."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

import titan_overlay as titan
from tests.net import films
from tests.net.commands import BIN, environment
from tests.net.nodes import Nodes
from titan_objects.dag.queue import Workers
from titan_objects.store.group.serving import door_to


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not await what():
            await asyncio.sleep(0.1)


async def talks(pool: titan.Pool) -> None:
    """Two tasks share a store, and a Redis client sees there how they are."""
    async with door_to("store/main", "0")(pool) as where:
        client = redis.asyncio.Redis(port=int(where.rpartition(":")[2]))
        async with client, client.pubsub() as logs:
            await logs.psubscribe("logs:*")
            run = await films.talk.submit(pool, store="store/main")
            assert await run.result() == ["store", "store"], "one waits for the other: there were two workers"
            assert await pool.send("store/main", ["SMEMBERS", "heard"]) == [b"hello"]
            short = run.name.rpartition("/")[2]
            while not (said := await logs.get_message(ignore_subscribe_messages=True, timeout=60)):
                pass
            assert (said["channel"], said["data"]) == (f"logs:{short}/listen".encode(), b"heard hello")
            for key in ("listen", "speak"):
                while await client.get(f"task:{short}/{key}") != b"COMPLETED":
                    await asyncio.sleep(0.1)
            assert await client.keys(f"worker:{pool.id}/*")


@pytest.mark.slow
async def test_a_scaler_has_workers_for_a_run_and_none_before_and_after(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        words = [sys.executable, str(BIN / "titan"), "dag", "scale", "--least", "1", "--most", "2", "--slots", "1"]
        words += ["--cool-down", "1", "--data", str(nodes.user), "--bootstrap", nodes.line]
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish("dag", "dag")
            await pool.publish("store-group", "store/main", policy=titan.Policy(faults=0))
            scaler = await asyncio.create_subprocess_exec(
                *words, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

            async def there(count: int) -> bool:
                return len(await pool.read("dag", Workers())) == count

            try:
                await until(lambda: there(1))
                await talks(pool)
                await until(lambda: there(1))
                scaler.send_signal(signal.SIGTERM)
                assert await scaler.wait() == 0
                await until(lambda: there(0))
            finally:
                if scaler.returncode is None:
                    os.kill(scaler.pid, signal.SIGKILL)
                    await scaler.wait()
