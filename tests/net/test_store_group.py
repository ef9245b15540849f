"""A store that three real nodes keep, asked by real Redis clients, while nodes are killed."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest
import redis
import redis.asyncio

import titan_overlay
from tests.net.commands import titan
from tests.net.nodes import QUICK, Nodes

pytest.importorskip("hiredis")

NAME = "store/main"


class Group(Nodes):
    """Three nodes that keep a store, and two more that have doors to it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, 3, **QUICK)
        try:
            here = {"TITAN_BOOTSTRAP": self.line}
            titan("store", "create", NAME, "--faults", "1", "--data", "node0", home=home, **here)
            self.ports = []
            for _ in range(2):
                door = self.by_id[self.add("--redis", "0", "--store", NAME, "--no-host")]
                door.wait_for_log("is served to Redis clients on")
                self.ports.append(int(door.log.partition("Redis clients on ")[2].split()[0].rpartition(":")[2]))
        except BaseException:
            self.close()
            raise

    def leader(self) -> str:
        """Id of the member that leads."""
        with titan_overlay.connect_sync(self.line, data=self.user) as pool:
            return pool.group(NAME).leader


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_redis_clients_find_a_store_that_has_no_master_to_lose(tmp_path: Path, seconds: int) -> None:
    with Group(tmp_path) as group:
        one, other = (redis.Redis(port=port, socket_timeout=60) for port in group.ports)
        assert one.set("lock:build", "me", nx=True, px=60_000) and not other.set("lock:build", "you", nx=True)
        with other.pipeline() as pipe:
            pipe.sadd("workers", "ann", "bob")
            pipe.srem("workers", "bob")
            pipe.smembers("workers")
            assert pipe.execute() == [2, 1, {b"ann"}]
        with one.lock("lock:deploy", timeout=10):
            assert other.incr("deploys") == 1
        with one.pubsub() as listener:
            listener.subscribe("news")
            assert listener.get_message(timeout=30)["type"] == "subscribe"
            other.publish("news", "hello")
            assert listener.get_message(timeout=30)["data"] == b"hello"
        cli = subprocess.run(
            ["redis-cli", "-p", str(group.ports[0]), "get", "deploys"], capture_output=True, timeout=60, check=True
        )
        assert cli.stdout == b"1\n"
        assert one.info("keyspace")["db0"]["keys"] == 3
        here = {"TITAN_BOOTSTRAP": group.line}
        titan("publish", "echo", "--name", "~me/echo", "--data", "node0", home=tmp_path, **here)
        words = ("store", "door", "--redis", "0", "--data", "node0")
        refused = titan(*words, "~me/echo", home=tmp_path, status=2, **here)
        assert b"is no store but a " in refused.stderr
        refused = titan(*words, "store/nowhere", home=tmp_path, status=1, **here)
        assert b"store/nowhere" in refused.stderr
        one.close()
        other.close()
        leader = group.leader()
        acknowledged, uncertain = asyncio.run(_under_load(group, leader, seconds))
        with redis.Redis(port=group.ports[0], socket_timeout=60) as client:
            found = {key: client.lrange(key, 0, -1) for key in acknowledged}
    assert sum(map(len, acknowledged.values())) > 50
    for key, words in acknowledged.items():
        there = found[key]
        assert [word for word in there if word in set(words)] == words, "each once, in order"
        assert set(there) <= {*words, *uncertain[key]}


async def _under_load(group: Group, leader: str, seconds: int) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """What eight clients were told is there, and that of which they do not know, by list."""
    acknowledged: dict[str, list[bytes]] = {f"list{number}": [] for number in range(8)}
    uncertain: dict[str, list[bytes]] = {key: [] for key in acknowledged}
    until = time.monotonic() + seconds

    async def write(number: int) -> None:
        key = f"list{number}"
        async with redis.asyncio.Redis(port=group.ports[number % 2], socket_timeout=60) as client:
            count = 0
            while time.monotonic() < until or count < 10:
                word = b"%d" % count
                count += 1
                try:
                    await client.rpush(key, word)
                    acknowledged[key].append(word)
                except redis.ResponseError:
                    uncertain[key].append(word)

    async def kill() -> None:
        await asyncio.sleep(seconds / 3)
        await asyncio.to_thread(group.kill, leader)

    await asyncio.gather(kill(), *map(write, range(8)))
    return acknowledged, uncertain
