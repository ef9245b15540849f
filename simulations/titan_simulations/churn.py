"""Churn: nodes come and go, objects are to survive, messages to be answered.

The population is stable: whoever leaves does not return, and a new node with a new key comes in its place. By default
the pool is in balance when the clock starts (each node has been there for a while: residual sessions), departures are
crashes, and nodes keep nothing in passing, so that what is measured is the keeping of copies alone.
"""

import asyncio
import math
from collections import Counter

import msgspec

from titan_overlay.errors import TitanError
from titan_overlay.identity.statements import Policy
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations import lifetimes
from titan_simulations.accounts import difference
from titan_simulations.classes import Population
from titan_simulations.lifetimes import Lifetime
from titan_simulations.measure import cpu_seconds
from titan_simulations.series import Sample, Series
from titan_simulations.truth import Kept
from titan_simulations.turnover import Turnover
from titan_simulations.world import Popularity, Published, Report, World, poisson, while_alive


class ChurnConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run. Times in seconds, rates per second over the whole pool."""

    nodes: int = 1000
    seconds: float = 3600.0
    session: str = "weibull:0.6:1h"
    start: str = "balanced"
    """`balanced`: nodes of a pool in balance; `fresh`: all sessions begin with the clock."""
    classes: tuple[str, ...] = ("home", "server")
    objects: int = 2000
    kind: str = "data"
    """`data`, or `service`: the installed type `echo`."""
    object_bytes: int = 300
    min_copies: int = 3
    max_copies: int = 8
    cache: bool = False
    messages_per_second: float = 5.0
    lookups_per_second: float = 2.0
    zipf: float = 0.0
    """Exponent of the popularity of objects; 0: all alike."""
    clean_share: float = 0.0
    """Share of departures that are clean stops."""
    loss: float = 0.0
    seed: int = 1
    settle_seconds: float = 120.0
    """Between publishing and the start of the clock."""
    sample_seconds: float = 10.0
    fake_crypto: bool = False


class Log:
    """What happened to messages and look-ups since the clock started."""

    def __init__(self) -> None:
        self.messages = self.answered = self.wrong = self.to_lost = self.abandoned = 0
        self.failures: Counter[str] = Counter()
        self.message_seconds: list[float] = []
        self.lookups = self.found = self.found_live = 0
        self.rpcs: list[float] = []
        self.lookup_seconds: list[float] = []


class Churn:
    """One run; `await Churn(config, report).run()` inside a virtual loop."""

    def __init__(self, config: ChurnConfig, report: Report) -> None:
        self.config = config
        self.log = Log()
        self.population = Population(config.classes, lifetimes.parse(config.session))
        self.world = World(
            config.nodes, seed=config.seed, min_copies=config.min_copies, classes=self.population.draw, report=report
        )
        self.random = self.world.random
        self.turnover = Turnover(self.world, self._session, config.seconds, clean_share=config.clean_share)
        self.series = Series()
        self.kept: Kept
        self.traffic: dict[str, int] = {}
        """Since the clock started, until it ended."""
        self.traffic_at_start: dict[str, int] = {}
        self.started = self.cpu_at_start = 0.0

    async def run(self) -> None:
        """Joins, publishes, settles, runs the clock. The results are in the attributes."""
        config, world = self.config, self.world
        policy = Policy(min_copies=config.min_copies, max_copies=config.max_copies, cache=config.cache)
        async with world:
            await world.publish(config.objects, policy, kind=config.kind, size=config.object_bytes)
            world.report("settling", world.sim.now)
            await asyncio.sleep(config.settle_seconds)
            self._begin()
            popular = Popularity(world.objects, config.zipf)
            until = self.turnover.ends
            await asyncio.gather(
                poisson(config.messages_per_second, self.random, lambda: self._message(popular), until),
                poisson(config.lookups_per_second, self.random, lambda: self._lookup(popular), until),
                self._sample(),
            )
            self.turnover.end()

    def _begin(self) -> None:
        self.started = self.world.sim.now
        self.cpu_at_start = cpu_seconds()
        self.world.truth.begin()
        self.traffic_at_start = self.world.accounts.total()
        self.turnover.begin(fresh=self.config.start == "fresh")

    def _session(self, node: SimulatedNode) -> Lifetime:
        return self.population.sessions[self.world.class_of[node.number].name]

    # ---- users -----------------------------------------------------------------------------------------------

    async def _message(self, popular: Popularity) -> None:
        node = self.random.choice(self.world.live())
        target = popular.draw(self.random)
        lost_before = self._is_lost(target)
        loop, log = asyncio.get_running_loop(), self.log
        began = loop.time()
        failure = "died"
        try:
            with while_alive(node):
                reply = await self.world.sim.pool(node).send(target.name, target.message)
                log.wrong += reply != target.answer
                failure = ""
        except (TitanError, TimeoutError) as why:
            failure = type(why).__name__
        if failure and not node.alive:
            log.abandoned += 1  # its sender is gone: nobody was told anything
            return
        log.messages += 1
        log.to_lost += lost_before
        if failure:
            log.failures[failure] += 1
            self.series.message(None)
            return
        log.answered += 1
        log.message_seconds.append(loop.time() - began)
        self.series.message(loop.time() - began)

    async def _lookup(self, popular: Popularity) -> None:
        node = self.random.choice(self.world.live())
        target = popular.draw(self.random)
        tracked = self.world.truth.objects[target.object_id]
        if self._is_lost(target) or node.number in tracked.holders:
            return
        loop, log = asyncio.get_running_loop(), self.log
        began = loop.time()
        with while_alive(node):
            found = await node.running.overlay.find_holders(target.object_id)
        if not node.alive:
            return
        holders = [each for each in found.advertisements if not each.value.withdrawn]
        keys = {self.world.sim.nodes[number].key.id for number in tracked.holders}
        log.lookups += 1
        log.found += bool(holders)
        log.found_live += any(each.signer in keys for each in holders)
        log.rpcs.append(found.rpcs)
        log.lookup_seconds.append(loop.time() - began)
        self.series.lookup(loop.time() - began if holders else None)

    def _is_lost(self, target: Published) -> bool:
        return self.world.truth.objects[target.object_id].lost_at is not None

    # ---- over time -------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        config, world = self.config, self.world
        before, sampled = self.traffic_at_start, self.started
        steps = max(1, math.ceil(config.seconds / config.sample_seconds))
        for step in range(1, steps + 1):
            await asyncio.sleep(self.started + min(config.seconds, step * config.sample_seconds) - world.sim.now)
            total = world.accounts.total()
            copies = sorted(each.copies for each in world.truth.objects.values() if each.name)
            self.series.add(
                Sample.of(
                    world.sim.now - self.started,
                    nodes=len(world.live()),
                    copies=copies,
                    passing=world.truth.passing,
                    below=world.truth.below,
                    lost=len(world.truth.lost),
                    traffic=difference(total, before),
                    seconds=world.sim.now - sampled,
                    window=self.series.take(),
                )
            )
            before, sampled = total, world.sim.now
            world.report("churning", world.sim.now)
        # The last messages are still under way: what happens until they are answered, or all is torn down, is no churn.
        self.kept, self.traffic = world.truth.kept(), difference(before, self.traffic_at_start)
