"""Lookups in a simulated overlay: how many are found, and how many requests each takes.

    python -m benchmarks.lookups --nodes 1000 --objects 2000 --lookups 10000 --seed 1 [--json FILE] [--report]

The overlay's own code, unmodified, on the virtual loop: real handshakes, sessions, directories and records; no churn.
Keys are fake unless `--real-crypto` (a hash instead of Ed25519 and X25519: it changes no count).
"""

import argparse
import asyncio
import contextlib
import gc
import resource
import statistics
import time
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import report
from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.identity import records
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.testing.crypto import fake_crypto
from titan_overlay.testing.loop import VirtualLoop, run
from titan_overlay.testing.network import MemoryNetwork

COPIES = 3
ADVERTISE_SECONDS = NodeConfig().advertise_interval
SEEKERS = 20


class World:
    """Overlay nodes, each on a host of its own. `settings`: what is set for all of them."""

    def __init__(self, seed: int, **settings: Any) -> None:
        self.settings = settings
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.network = loop.network
        self.seed = seed
        self.random = Random(f"world/{seed}")
        self.pool = PoolId(SigningKey(sha256(b"pool").digest()).public)
        self.nodes: list[Overlay] = []
        self.ambients: list[Ambient] = []

    async def start(self, key: SigningKey | None = None) -> Overlay:
        """One more node, not joined yet."""
        number = len(self.nodes)
        ambient = Ambient.seeded(f"{self.seed}/{number}", self.loop)
        key = SigningKey(ambient.token_bytes(32)) if key is None else key
        node = Overlay(key, Rights(self.pool), ambient, **self.settings)
        node.set_serving(True)
        ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self.network.host(ip)
        with self.network.on_host(ip):
            await node.listen(4747, ip)
        self.nodes.append(node)
        self.ambients.append(ambient)
        return node

    async def join(self, node: Overlay) -> None:
        through = self.random.choice([n for n in self.nodes[:-1] if n is not node])
        assert await node.bootstrap([JoinLine(through.contact.ip, through.contact.port)]) == 1

    async def grow(self, count: int, seconds_between: float = 0.5) -> None:
        """That many nodes, one every half second."""
        joining: list[asyncio.Task[None]] = []
        for _ in range(count):
            node = await self.start()
            if len(self.nodes) > 1:
                joining.append(asyncio.create_task(self.join(node)))
            await asyncio.sleep(seconds_between)
        await asyncio.gather(*joining)

    def advertisement(self, holder: Overlay, object_id: bytes, lives: float = 2.5 * ADVERTISE_SECONDS) -> bytes:
        now = self.ambients[0].wall()
        contact = holder.contact
        statement = Advertisement(object_id, contact.ip, contact.port, int(now * 1000), now + lives)
        return records.sign(statement, holder.key, self.pool).raw

    def total(self, name: str) -> int:
        return sum(node.counters.get(name, 0) for node in self.nodes)


async def simulate(options: argparse.Namespace) -> dict[str, Any]:
    world = World(options.seed)
    begun = time.process_time()
    await world.grow(options.nodes, options.spacing)
    await asyncio.sleep(120)
    result: dict[str, Any] = {"join_cpu_seconds": time.process_time() - begun}
    gc.collect()
    result["rss_bytes_per_node"] = (_rss() - options.rss_before) // options.nodes
    result["table_mean"] = statistics.mean(len(node.table) for node in world.nodes)
    result["sessions_mean"] = statistics.mean(len(node._handshakes.sessions) for node in world.nodes)
    sizes = sorted(node.estimated_size() for node in world.nodes)
    for share in (5, 50, 95):
        result[f"estimated_size_p{share}"] = sizes[len(sizes) * share // 100]

    objects = [ObjectId(sha256(b"object %d" % number).digest()) for number in range(options.objects)]
    held: dict[int, list[ObjectId]] = {}
    for object_id in objects:
        for holder in world.random.sample(range(len(world.nodes)), COPIES):
            held.setdefault(holder, []).append(object_id)
    shortest: list[int] = []

    async def sweep(number: int, ids: list[ObjectId]) -> None:
        await asyncio.sleep(world.random.random() * ADVERTISE_SECONDS)
        node = world.nodes[number]
        counts = await node.announce_many([(i, world.advertisement(node, i)) for i in ids])
        shortest.append(min(counts.values()))

    for _ in range(2):  # the second sweep shows what a periodic advertiser costs
        before = {k: world.total(k) for k in ("advertise_bytes_sent", "advertise_rpcs")}
        await asyncio.gather(*(sweep(number, ids) for number, ids in held.items()))
    replicas = options.objects * COPIES
    result["directory_nodes_min"] = min(shortest)
    result["advertise_rpcs_per_replica"] = (world.total("advertise_rpcs") - before["advertise_rpcs"]) / replicas
    result["advertise_bytes_per_replica_second"] = (
        (world.total("advertise_bytes_sent") - before["advertise_bytes_sent"]) / replicas / ADVERTISE_SECONDS
    )

    before_calls = world.total("handshake_rpcs")
    rpcs: list[int] = []
    seconds: list[float] = []
    found = 0
    cpu = time.process_time()

    async def seek(count: int) -> None:
        nonlocal found
        for _ in range(count):
            node = world.random.choice(world.nodes)
            object_id = world.random.choice(objects)
            at = world.loop.time()
            answer = await node.find_holders(object_id)
            seconds.append(world.loop.time() - at)
            rpcs.append(answer.rpcs)
            found += bool(answer.advertisements)

    await asyncio.gather(*(seek(options.lookups // SEEKERS) for _ in range(SEEKERS)))
    result["lookups"] = options.lookups
    result["lookups_found"] = found
    result["rpcs_per_lookup_median"] = statistics.median(rpcs)
    result["rpcs_per_lookup_mean"] = statistics.mean(rpcs)
    result["rpcs_per_lookup_p99"] = sorted(rpcs)[int(len(rpcs) * 0.99)]
    result["lookup_seconds_median"] = statistics.median(seconds)
    result["lookup_cpu_microseconds"] = (time.process_time() - cpu) / options.lookups * 1e6
    result["handshakes_per_lookup"] = (world.total("handshake_rpcs") - before_calls) / options.lookups

    names = [f"{purpose}_bytes_{way}" for purpose in ("routing", "handshake") for way in ("sent", "received")]
    quiet = {name: world.total(name) for name in names}
    cpu = time.process_time()
    await asyncio.sleep(options.quiet)
    if options.quiet:
        result["quiet_cpu_seconds_per_minute"] = (time.process_time() - cpu) / options.quiet * 60
    for name in names if options.quiet else ():
        result[f"quiet_{name}_per_node_second"] = (world.total(name) - quiet[name]) / options.nodes / options.quiet
    result["events"] = {
        k: sum(node.counters.get(k, 0) for node in world.nodes)
        for k in sorted({k for node in world.nodes for k in node.counters if "_bytes_" not in k})
    }
    for node in world.nodes:
        node.stop()
    return result


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--lookups", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spacing", type=float, default=0.5, help="seconds between two joins")
    parser.add_argument("--quiet", type=float, default=3600.0, help="seconds to watch upkeep for, at the end")
    parser.add_argument("--real-crypto", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    with contextlib.nullcontext() if options.real_crypto else fake_crypto():
        options.rss_before = _rss()
        result = run(lambda: simulate(options), seed=options.seed, network=MemoryNetwork(trace=False))
    result |= {"nodes": options.nodes, "objects": options.objects, "seed": options.seed}
    result["real_crypto"] = options.real_crypto
    report.publish("lookups", TABLE, result, options)


TABLE = (
    ("nodes", "nodes", "{}"),
    ("lookups that found what was published", "lookups_found", "{} of {lookups}"),
    ("requests per lookup, median", "rpcs_per_lookup_median", "{:g}"),
    ("requests per lookup, mean", "rpcs_per_lookup_mean", "{:.2f}"),
    ("requests per lookup, 99th percentile", "rpcs_per_lookup_p99", "{}"),
    ("contacts in a routing table, mean", "table_mean", "{:.0f}"),
    ("advertising, bytes per replica and second (second sweep)", "advertise_bytes_per_replica_second", "{:.1f}"),
    ("routing traffic sent by a quiet node, bytes per second", "quiet_routing_bytes_sent_per_node_second", "{:.1f}"),
    ("handshakes sent by a quiet node, bytes per second", "quiet_handshake_bytes_sent_per_node_second", "{:.1f}"),
    ("memory per node, bytes", "rss_bytes_per_node", "{}"),
)

if __name__ == "__main__":
    main()
