"""Look-ups in a pool without churn: are all found, and in how many requests?"""

import asyncio
from collections import Counter

import msgspec

from titan_overlay.identity.statements import Policy
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations.results import Result, common_of
from titan_simulations.statistics import mean, median, quantile
from titan_simulations.world import Published, Report, World

AT_ONCE = 64


class LookupsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run. Times in seconds."""

    nodes: int = 1000
    objects: int = 1000
    copies: int = 3
    lookups: int = 10_000
    loss: float = 0.0
    seed: int = 1
    settle_seconds: float = 120.0
    fake_crypto: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What came of one look-up. `live`: a node that was found does hold the object."""

    found: bool
    live: bool
    rpcs: int
    hops: int
    seconds: float


async def ask(world: World, node: SimulatedNode, target: Published) -> Answer:
    """One look-up from a node."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await node.running.overlay.find_holders(target.object_id)
    holders = [each for each in found.advertisements if not each.value.withdrawn]
    keys = {world.sim.nodes[number].key.id for number in world.truth.objects[target.object_id].holders}
    live = any(each.signer in keys for each in holders)
    return Answer(bool(holders), live, found.rpcs, found.hops, loop.time() - began)


async def run(config: LookupsConfig, report: Report, command: str) -> Result:
    """Random nodes look random objects up, `AT_ONCE` at a time; no node looks for what it holds itself."""
    world = World(config.nodes, seed=config.seed, min_copies=config.copies, report=report)
    async with world:
        await world.publish(config.objects, Policy(min_copies=config.copies, max_copies=config.copies, cache=False))
        report("settling", world.sim.now)
        await asyncio.sleep(config.settle_seconds)
        answers: list[Answer] = []
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(node: SimulatedNode, target: Published) -> None:
            async with slots:
                answers.append(await ask(world, node, target))
                if len(answers) % 200 == 0:
                    report(f"{len(answers)} look-ups", world.sim.now)

        pairs: list[tuple[SimulatedNode, Published]] = []
        nodes = world.live()
        while len(pairs) < config.lookups:
            node, target = world.random.choice(nodes), world.random.choice(world.objects)
            if node.number not in world.truth.objects[target.object_id].holders:
                pairs.append((node, target))
        await asyncio.gather(*(one(node, target) for node, target in pairs))
        rpcs = [each.rpcs for each in answers]
        seconds = [each.seconds for each in answers]
        return {
            **common_of(world.sim, "lookups", config, config.seed, command),
            "nodes": config.nodes,
            "objects": config.objects,
            "lookups": len(answers),
            "lookups_found": sum(each.found for each in answers),
            "lookups_found_live_holder": sum(each.live for each in answers),
            "rpcs_per_lookup_median": median(rpcs),
            "rpcs_per_lookup_mean": mean(rpcs),
            "rpcs_per_lookup_p95": quantile(rpcs, 0.95),
            "rpcs_per_lookup_max": max(rpcs),
            "hops_per_lookup_mean": mean([each.hops for each in answers]),
            "rpcs_histogram": dict(sorted(Counter(rpcs).items())),
            "lookup_seconds_median": median(seconds),
            "lookup_seconds_p95": quantile(seconds, 0.95),
        }
