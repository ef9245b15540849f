"""Groups under churn: mutable objects are to answer, and to forget nothing, while their members go and come back.

Nodes crash, stay off for a while, and return with their disks under the same identity; some never return, and a new
node comes in their place. Groups replace members that are missing by themselves, with the defaults that are shipped.
Programs that stay up write and read all the while.
"""

import asyncio
import math
from collections.abc import Sequence

import msgspec

from titan_overlay.client import Pool
from titan_overlay.errors import TitanError
from titan_overlay.identity import names
from titan_overlay.identity.statements import Policy
from titan_simulations import lifetimes, markov
from titan_simulations.interruptions import Interruptions
from titan_simulations.journal import Journal
from titan_simulations.measure import cpu_seconds
from titan_simulations.membership import Membership, Watched
from titan_simulations.operations import Book, Operations
from titan_simulations.results import Result, common_of
from titan_simulations.statistics import mean, median, quantile
from titan_simulations.world import PUBLISH_TRIES, PUBLISHING_AT_ONCE, Report, World, poisson

LOOK_SECONDS = 1.0
END_PATIENCE_SECONDS = 180.0
"""All who will return have returned: by then every group that ever will has answered."""


class GroupsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run. Times in seconds, rates per second over the whole pool."""

    nodes: int = 1000
    """All up when the clock starts."""
    seconds: float = 7200.0
    groups: int = 200
    sizes: tuple[int, ...] = (5, 7)
    """Members of a group, one size after the other; odd: 2t + 1 for t crashes."""
    session: str = "weibull:0.6:1h"
    downtime: str = "weibull:0.6:20m"
    gone_share: float = 0.05
    """Of the departures; nobody returns from them."""
    operations_per_second: float = 5.0
    write_share: float = 0.5
    clients: int = 8
    loss: float = 0.0
    seed: int = 1
    settle_seconds: float = 60.0
    sample_seconds: float = 10.0
    fake_crypto: bool = False

    def check(self) -> None:
        """Raises ValueError saying what cannot be run."""
        lifetimes.parse(self.session)
        lifetimes.parse(self.downtime)
        for size in self.sizes:
            if size < 1 or size % 2 == 0:
                raise ValueError(f"a group has 2t + 1 members for t crashes: an odd number, not {size}")
            if size >= self.nodes:
                raise ValueError(f"groups of {size} need more than {self.nodes} nodes: others take a member's place")


class Sample(msgspec.Struct, frozen=True):
    """One row of series.csv: the interval that ends at `seconds`."""

    seconds: float
    nodes: int
    """That are up."""
    operations: int
    answered: int
    write_seconds_median: float
    read_seconds_median: float
    groups_incomplete: int
    """Not all of their members are up."""
    groups_without_quorum: int
    members_replaced: int


class Groups:
    """One run; `await Groups(config, report).run()` inside a virtual loop."""

    def __init__(self, config: GroupsConfig, report: Report) -> None:
        config.check()
        self.config = config
        self.world = World(config.nodes, seed=config.seed, min_copies=1, report=report)
        self.session, self.downtime = lifetimes.parse(config.session), lifetimes.parse(config.downtime)
        self.interruptions = Interruptions(
            self.world, self.session, self.downtime, config.seconds, gone_share=config.gone_share
        )
        self.books: list[Book] = []
        self.rows: list[Sample] = []
        self.silent: list[Book] = []
        """Objects that answered nothing at the end."""
        self.deaths: list[tuple[float, float]] = []
        self.outages: list[float] = []
        """Seconds that each lasted, within the clock."""
        self.started = self.cpu_at_start = self.cpu_of_clock = 0.0
        self.operations: Operations
        self.membership: Membership

    async def run(self) -> None:
        """Joins, publishes, settles, runs the clock, asks all at the end. The results are in the attributes."""
        config, world = self.config, self.world
        async with world:
            clients = [await world.sim.client() for _ in range(config.clients)]
            await self._publish(clients)
            world.report("settling", world.sim.now)
            await asyncio.sleep(config.settle_seconds)
            self._begin(clients)
            until = self.interruptions.ends
            looking = asyncio.ensure_future(self._look())
            await asyncio.gather(
                poisson(config.operations_per_second, world.random, self.operations.one, until),
                self._sample(),
            )
            self._end_clock()
            world.report("all return", world.sim.now)
            await self.interruptions.end()
            world.report("asking all groups", world.sim.now)
            self.silent = await self.operations.ask_all(END_PATIENCE_SECONDS)
            looking.cancel()
            self.membership.look()

    def _begin(self, clients: Sequence[Pool]) -> None:
        self.started, self.cpu_at_start = self.world.sim.now, cpu_seconds()
        self.operations = Operations(self.books, clients, self.world.random, self.config.write_share)
        self.membership = Membership(self.world, self.books, self.interruptions)
        self.membership.look()
        self.world.truth.begin()
        self.interruptions.begin()

    def _end_clock(self) -> None:
        self.cpu_of_clock = cpu_seconds() - self.cpu_at_start
        self.deaths = self.world.truth.death_rates()
        self.outages = [lasted for each in self.books for lasted in each.outages(self.world.sim.now)]

    async def _publish(self, clients: Sequence[Pool]) -> None:
        slots = asyncio.Semaphore(PUBLISHING_AT_ONCE)

        async def one(number: int) -> Book:
            name, size = f"simulated/{number}", self.config.sizes[number % len(self.config.sizes)]
            async with slots:
                await _published(clients[number % len(clients)], name, Policy(faults=size // 2))
            object_id = names.object_id(self.world.sim.id, name)
            self.world.truth.watch(object_id, name)
            return Book(name, object_id, size)

        self.books = await asyncio.gather(*map(one, range(self.config.groups)))

    # ---- over time -------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.membership.look()

    async def _sample(self) -> None:
        config, world = self.config, self.world
        before = (0, 0, 0, 0, 0)
        for step in range(1, max(1, math.ceil(config.seconds / config.sample_seconds)) + 1):
            await asyncio.sleep(self.started + min(config.seconds, step * config.sample_seconds) - world.sim.now)
            operations, membership = self.operations, self.membership
            now = (
                sum(each.operations for each in self.books),
                sum(each.answered for each in self.books),
                len(operations.write_seconds),
                len(operations.read_seconds),
                membership.replaced,
            )
            self.rows.append(
                Sample(
                    seconds=round(world.sim.now - self.started, 3),
                    nodes=len(world.live()),
                    operations=now[0] - before[0],
                    answered=now[1] - before[1],
                    write_seconds_median=median(operations.write_seconds[before[2] :]),
                    read_seconds_median=median(operations.read_seconds[before[3] :]),
                    groups_incomplete=membership.incomplete(),
                    groups_without_quorum=membership.without_quorum(),
                    members_replaced=now[4] - before[4],
                )
            )
            before = now
            world.report("churning", world.sim.now)


async def _published(client: Pool, name: str, policy: Policy) -> None:
    for turn in range(PUBLISH_TRIES):
        try:
            await client.publish(Journal, name, policy=policy)
            return
        except TitanError:
            if turn == PUBLISH_TRIES - 1:
                raise


def result_of(run: Groups, command: str) -> Result:
    """The figures of a finished run.

    What is expected is the Markov model's, for the rates at which members died, measured over time, and the measured
    mean repair time.
    """
    config, world, operations, membership = run.config, run.world, run.operations, run.membership
    interruptions = run.interruptions
    asked, answered = sum(each.operations for each in run.books), sum(each.answered for each in run.books)
    gone = {each.book.name for each in membership.unrecoverable()}
    silent = {each.name for each in run.silent}
    return {
        **common_of(world.sim, "groups", config, config.seed, command),
        "nodes": config.nodes,
        "nodes_up_mean": interruptions.node_seconds / config.seconds,
        "groups": config.groups,
        "churn_seconds": config.seconds,
        "cpu_seconds_per_churn_minute": run.cpu_of_clock / (config.seconds / 60),
        "departures": interruptions.departures,
        "departures_for_good": len(interruptions.gone),
        "returns": interruptions.returns,
        "arrivals": interruptions.arrivals,
        "join_failures": interruptions.join_failures,
        "operations": asked,
        "operations_answered": answered,
        "availability": answered / asked if asked else math.nan,
        "availability_by_size": {str(size): _availability(run.books, size) for size in sorted(set(config.sizes))},
        "unavailable_by_error": dict(sorted(operations.failures.items())),
        "write_seconds_median": median(operations.write_seconds),
        "write_seconds_p99": quantile(operations.write_seconds, 0.99),
        "read_seconds_median": median(operations.read_seconds),
        "read_seconds_p99": quantile(operations.read_seconds, 0.99),
        "outages": len(run.outages),
        "longest_outage_seconds": max(run.outages, default=0.0),
        "outage_seconds_median": median(run.outages),
        "outage_seconds": sorted(round(each, 3) for each in run.outages),
        "members_replaced": membership.replaced,
        "members_replaced_alive": membership.replaced_alive,
        "repair_seconds_median": median(membership.repair_seconds),
        "repair_seconds_mean": mean(membership.repair_seconds),
        "repair_seconds_p95": quantile(membership.repair_seconds, 0.95),
        "groups_that_lost_their_quorum": sum(each.lost_quorum > 0 for each in membership.groups),
        "groups_that_lost_their_quorum_expected": _expected(run, for_good=False),
        "groups_unrecoverable": len(gone | silent),
        "groups_unrecoverable_expected": _expected(run, for_good=True),
        "groups_silent_with_a_quorum": len(silent - gone),
        "groups_silent": [_story(run, each) for each in membership.groups if each.book.name in silent],
        "lost_writes": sum(len(each.lost) for each in run.books),
        "writes_acknowledged": sum(len(each.acknowledged) for each in run.books),
        "writes_unchecked": sum(len(each.acknowledged) for each in run.books if each.name in silent),
        "writes_executed_twice": sum(each.twice for each in run.books),
    }


def _availability(books: Sequence[Book], size: int) -> float:
    own = [each for each in books if each.size == size]
    asked = sum(each.operations for each in own)
    return sum(each.answered for each in own) / asked if asked else math.nan


def _expected(run: Groups, *, for_good: bool) -> float:
    """Groups that the model has lose their quorum; where nobody was replaced, without repair."""
    config = run.config
    repair_mean = mean(run.membership.repair_seconds)
    return math.fsum(
        sum(each.size == size for each in run.books)
        * markov.quorum_loss_probability(
            size,
            run.deaths,
            gone_share=config.gone_share,
            down_seconds=run.downtime.mean,
            repair_seconds=math.inf if math.isnan(repair_mean) else repair_mean,
            for_good=for_good,
        )
        for size in sorted(set(config.sizes))
    )


def _story(run: Groups, each: Watched) -> dict[str, object]:
    """Of a group that is silent at the end: what to look into."""
    gone = run.interruptions.gone
    return {
        "name": each.book.name,
        "epoch": each.epoch,
        "members": {
            str(number): "gone" if number in gone else "up" if run.world.sim.nodes[number].alive else "down"
            for number in sorted(each.members)
        },
    }
