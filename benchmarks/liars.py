"""Lookups among liars: how many find an honest holder, and in how many requests.

    python -m benchmarks.liars --nodes 1000 --share 0.5 --attack misroute --lookups 2000 --seed 1 [--json FILE]

The overlay's own code, unmodified, on the virtual loop. Liars are there from the beginning and keep to the protocol
where that keeps them in tables (honest nodes join through honest ones). They lie in what they answer to `find_node`
and `find_holders`, and store nothing. Each object has one holder, an honest one: the hardest case. A holder found
that is a liar is avoided, and the object looked up again: the requests are added up. `--ground 20` adds liars whose
ids were ground next to the objects; they join last, when the statements are there already, which are then brought
again.
"""

import argparse
import asyncio
import statistics
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import report
from benchmarks.lookups import SEEKERS, World
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import ID_BITS, NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FindHolders, FindNode, Holders, Store, Stored
from titan_overlay.overlay.lookup import PATHS
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.testing.crypto import fake_crypto
from titan_overlay.testing.loop import run
from titan_overlay.testing.network import MemoryNetwork
from titan_overlay.wire import codec

ROUNDS = 8
"""Lookups for one holder that is honest, at most."""
ATTACKS = ("none", "empty", "drop", "misroute", "invent", "false")


class Liars:
    """Those who lie, together."""

    def __init__(self, world: World, attack: str) -> None:
        self.attack = attack
        self.contacts: list[Contact] = []
        self.ids: set[bytes] = set()
        self._world = world
        self._random = Random(f"liars/{world.seed}")

    def convert(self, node: Overlay) -> None:
        """From now on it lies."""
        self.contacts.append(node.contact)
        self.ids.add(node.key.id)
        if self.attack == "drop":
            _mute(node)
        elif self.attack != "none":
            node.serve("find_node", self._find_node)
            node.serve("find_holders", lambda contact, body: self._find_holders(node, body))
            node.serve("store", _pretend_to_store)

    def _near(self, target: bytes) -> list[Contact]:
        """What a liar names: nobody, its friends closest to the target, or nodes that do not exist, closer still."""
        wanted = int.from_bytes(target, "big")
        if self.attack == "empty":
            return []
        if self.attack == "invent":
            ids = [wanted ^ self._random.getrandbits(ID_BITS - 16) for _ in range(8)]
            return [
                bodies.contact(NodeId(i.to_bytes(32, "big")), f"10.250.{n}.{i & 127}", 9) for n, i in enumerate(ids)
            ]
        return sorted(self.contacts, key=lambda c: c.long_id ^ wanted)[:8]

    def _find_node(self, contact: Contact, body: bytes) -> bytes:
        return bodies.pack_all(self._near(codec.decode(body, FindNode).target))

    def _find_holders(self, node: Overlay, body: bytes) -> bytes:
        request = codec.decode(body, FindHolders)
        near = self._near(request.aim or request.object_id)
        raws = [self._world.advertisement(node, request.object_id)] if self.attack == "false" else []
        return codec.encode(Holders(bodies.pack_all(near), raws, []))


def _pretend_to_store(contact: Contact, body: bytes) -> bytes:
    return codec.encode(Stored([True] * len(codec.decode(body, Store).raws), b""))


def _mute(node: Overlay) -> None:
    """It answers pings, and nothing else."""
    answer = node.protocol._serve

    def serve(session: Any, purpose: int, call_id: int, data: bytes, address: Any) -> None:
        if data[15 : 15 + data[14]] == b"ping":
            answer(session, purpose, call_id, data, address)

    node.protocol._serve = serve  # type: ignore[method-assign]


async def simulate(options: argparse.Namespace) -> dict[str, Any]:
    world = World(options.seed, paths=options.paths)
    random = Random(f"lookups/{options.seed}")
    liars = Liars(world, options.attack)
    bad = set(random.sample(range(1, options.nodes), int(options.share * options.nodes)))
    await _grow(world, options.nodes, bad, liars)
    honest = [node for number, node in enumerate(world.nodes) if number not in bad]
    objects = [ObjectId(sha256(b"object %d" % number).digest()) for number in range(options.objects)]
    holders = {each: random.choice(honest) for each in objects}
    took: list[float] = []
    result: dict[str, Any] = {}
    await _sweep(world, holders, took)
    if options.ground:
        result["keys_ground"] = await _grind(world, objects, options.ground, liars)
        await asyncio.sleep(300)
        await _sweep(world, holders, took)
    seen = await _look_up(world, options.lookups, honest, objects, liars, random)
    wall = world.ambients[0].wall()
    keepers = [sum(bool(node.directory.get(each, wall).advertisements) for node in honest) for each in objects]
    sizes = sorted(node.estimated_size() for node in honest)
    result |= {
        "publish_seconds_p50": sorted(took)[len(took) // 2],
        "publish_seconds_max": max(took),
        "honest_directories_min": min(keepers),
        "honest_directories_mean": statistics.mean(keepers),
        "estimated_size_p5_p50_p95": [sizes[len(sizes) * p // 100] for p in (5, 50, 95)],
        "honest_contacts_share": statistics.mean(
            sum(c.id not in liars.ids for c in node.table) / max(1, len(node.table)) for node in honest[:50]
        ),
        "handshake_timeouts": world.total("handshake_timeouts"),
        "openings_refused": world.total("openings_refused"),
    }
    for node in world.nodes:
        node.stop()
    return result | seen


async def _grow(world: World, count: int, bad: set[int], liars: Liars) -> None:
    joining: list[asyncio.Task[int]] = []
    for number in range(count):
        node = await world.start()
        if number in bad:
            liars.convert(node)
        if number:
            through = world.random.choice([n for i, n in enumerate(world.nodes[:-1]) if i not in bad])
            line = JoinLine(through.contact.ip, through.contact.port)
            joining.append(asyncio.create_task(node.bootstrap([line])))
        await asyncio.sleep(0.5)
    await asyncio.gather(*joining)
    await asyncio.sleep(200)


async def _grind(world: World, objects: list[ObjectId], count: int, liars: Liars) -> int:
    """Nodes with ids closer to each object than any honest one, as many as that. Returns how many keys were tried."""
    bits = len(world.nodes).bit_length() + 3
    wanted = {int.from_bytes(each, "big") >> (ID_BITS - bits): count for each in objects}
    entropy = Random(f"grinder/{world.seed}")
    tried = 0
    while any(wanted.values()):
        key = SigningKey(entropy.randbytes(32))
        tried += 1
        prefix = int.from_bytes(key.id, "big") >> (ID_BITS - bits)
        if wanted.get(prefix):
            wanted[prefix] -= 1
            node = await world.start(key)
            liars.convert(node)
            await node.bootstrap([JoinLine(world.nodes[0].contact.ip, world.nodes[0].contact.port)])
    return tried


async def _sweep(world: World, holders: dict[ObjectId, Overlay], took: list[float]) -> None:
    """Each holder advertises what it holds."""

    async def advertise(object_id: ObjectId, holder: Overlay) -> None:
        await asyncio.sleep(world.random.random() * 60)
        begun = world.loop.time()
        await holder.announce(object_id, [world.advertisement(holder, object_id)])
        took.append(world.loop.time() - begun)

    await asyncio.gather(*(advertise(*each) for each in holders.items()))


async def _look_up(
    world: World, lookups: int, honest: list[Overlay], objects: list[ObjectId], liars: Liars, random: Random
) -> dict[str, Any]:
    rpcs: list[int] = []
    seconds: list[float] = []
    rounds: list[int] = []
    found = 0

    async def seek(count: int) -> None:
        nonlocal found
        for _ in range(count):
            node, object_id = random.choice(honest), random.choice(objects)
            at, spent, avoid = world.loop.time(), 0, set[NodeId]()
            turn = 0
            while turn < ROUNDS:
                turn += 1
                answer = await node.find_holders(object_id, avoid=avoid)
                spent += answer.rpcs
                holders = {each.signer for each in answer.advertisements}
                if holders - liars.ids or holders <= avoid:
                    break
                avoid |= holders
            found += bool(holders - liars.ids)
            seconds.append(world.loop.time() - at)
            rpcs.append(spent)
            rounds.append(turn)

    await asyncio.gather(*(seek(lookups // SEEKERS) for _ in range(SEEKERS)))
    rpcs.sort()
    seconds.sort()
    return {
        "lookups": len(rpcs),
        "lookups_found": found,
        "found_share": found / len(rpcs),
        "rpcs_per_lookup_median": statistics.median(rpcs),
        "rpcs_per_lookup_mean": statistics.mean(rpcs),
        "rpcs_per_lookup_p99": rpcs[len(rpcs) * 99 // 100],
        "rpcs_per_lookup_max": rpcs[-1],
        "lookup_seconds_p50": seconds[len(seconds) // 2],
        "lookup_seconds_p99": seconds[len(seconds) * 99 // 100],
        "rounds_mean": statistics.mean(rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--lookups", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.2, help="of the nodes that lie")
    parser.add_argument("--attack", choices=ATTACKS, default="misroute")
    parser.add_argument("--ground", type=int, default=0, help="liars next to each object")
    parser.add_argument("--paths", type=int, default=PATHS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.report = False
    with fake_crypto():
        result = run(lambda: simulate(options), seed=options.seed, network=MemoryNetwork(trace=False))
    asked = ("nodes", "objects", "share", "attack", "ground", "paths", "seed")
    report.publish("liars", (), {name: getattr(options, name) for name in asked} | result, options)


if __name__ == "__main__":
    main()
