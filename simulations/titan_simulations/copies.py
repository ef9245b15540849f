"""What more copies of an object are good for: shorter ways to it, and less load on each holder."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import msgspec

from titan_overlay.errors import TitanError
from titan_overlay.identity.statements import Policy
from titan_overlay.pool.questions import Ping
from titan_simulations.lookups import ask
from titan_simulations.results import Result, common_of
from titan_simulations.statistics import mean, median, quantile
from titan_simulations.world import Published, Report, World

AT_ONCE = 32
ASKERS = 5
"""One node in so many, at least, holds no copy of an object: somebody is to look for it."""


class CopiesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run."""

    nodes: int = 500
    copies: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    objects: int = 10
    """For each number of copies."""
    lookups: int = 1000
    """For each number of copies, over all its objects."""
    messages: int = 2000
    """For each number of copies, over all its objects, each from a random node."""
    loss: float = 0.0
    seed: int = 1
    settle_seconds: float = 120.0
    fake_crypto: bool = False

    def fitting(self) -> Self:
        """The same, without the numbers of copies that are too many for so few nodes."""
        return msgspec.structs.replace(self, copies=tuple(each for each in self.copies if room(each, self.nodes)))


def room(copies: int, nodes: int) -> bool:
    """Whether so many nodes hold so many copies and enough of them still have to look for one."""
    return copies <= nodes - -(-nodes // ASKERS)


async def run(config: CopiesConfig, report: Report, command: str) -> Result:
    """Objects with 1 to 64 copies in one pool without churn: requests and hops of look-ups, messages per holder."""
    world = World(config.nodes, seed=config.seed, report=report)
    async with world:
        groups: list[Sequence[Published]] = []
        for copies in config.copies:
            before = len(world.objects)
            # Caches in passing would be copies too: here only the policy's are to count.
            await world.publish(config.objects, Policy(min_copies=copies, max_copies=copies, cache=False))
            groups.append(world.objects[before:])
        report("settling", world.sim.now)
        await asyncio.sleep(config.settle_seconds)
        points = []
        for copies, group in zip(config.copies, groups, strict=True):
            report(f"{copies} copies", world.sim.now)
            found = await _look_up(world, group, config.lookups)
            points.append({"copies": copies, **found, **await _send(world, group, config.messages)})
        return {
            **common_of(world.sim, "copies", config, config.seed, command),
            "nodes": config.nodes,
            "points": points,
        }


async def _look_up(world: World, group: Sequence[Published], count: int) -> dict[str, Any]:
    slots = asyncio.Semaphore(AT_ONCE)
    answers = []

    async def one(target: Published) -> None:
        holders = world.truth.objects[target.object_id].holders
        node = world.random.choice([each for each in world.live() if each.number not in holders])
        async with slots:
            answers.append(await ask(world, node, target))

    await asyncio.gather(*(one(group[turn % len(group)]) for turn in range(count)))
    rpcs = [each.rpcs for each in answers]
    return {
        "lookups": len(answers),
        "lookups_found": sum(each.found for each in answers),
        "rpcs_median": median(rpcs),
        "rpcs_mean": mean(rpcs),
        "rpcs_p95": quantile(rpcs, 0.95),
        "hops_mean": mean([each.hops for each in answers]),
        "lookup_seconds_mean": mean([each.seconds for each in answers]),
    }


async def _send(world: World, group: Sequence[Published], count: int) -> dict[str, Any]:
    """Pings from random nodes; who answers says so. Senders that hold the object themselves are left out."""
    slots = asyncio.Semaphore(AT_ONCE)
    answered: dict[str, Counter[str]] = {each.name: Counter() for each in group}
    failed = 0

    async def one(target: Published) -> None:
        nonlocal failed
        holders = world.truth.objects[target.object_id].holders
        node = world.random.choice([each for each in world.live() if each.number not in holders])
        async with slots:
            try:
                pong = await world.sim.pool(node).send(target.name, Ping())
                answered[target.name][pong.holder] += 1
            except TitanError:
                failed += 1

    await asyncio.gather(*(one(group[turn % len(group)]) for turn in range(count)))
    shares = []
    held = []
    for each in group:
        total = sum(answered[each.name].values())
        held.append(world.truth.objects[each.object_id].copies)
        shares.append(max(answered[each.name].values()) / total)
    return {
        "messages": count,
        "messages_answered": count - failed,
        "holders_mean": mean(held),
        "load_max_share": mean(shares),
        "load_mean_share": mean([1 / each for each in held]),
        "load_max_over_mean": mean([share * each for share, each in zip(shares, held, strict=True)]),
    }
