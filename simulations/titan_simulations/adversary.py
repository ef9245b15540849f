"""The adversary: some nodes lie, from bootstrap on. Is what honest nodes look up found, and what they send for right?

One point is one attack, one share of liars and one seed: a pool of real nodes joins, objects are published, and then
honest nodes look them up and send to them for a while. With several settings of `paths`, each begins from the very same
pool (see `branches.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.errors import TitanError
from titan_overlay.identity.statements import Policy
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations import attacks, lifetimes, mirror
from titan_simulations.branches import branched
from titan_simulations.hostile import HostileWorld
from titan_simulations.measure import cpu_seconds
from titan_simulations.postmortem import why_not_found, why_not_right
from titan_simulations.statistics import majority_of_liars
from titan_simulations.turnover import Turnover
from titan_simulations.world import Published, Report, while_alive

SHIPPED = "shipped"
"""Paths as the defaults of a node say."""
ALL = "all"
"""As many paths as there are contacts to begin from."""
PATHS_MAX = 64
VOTES_MAX = 31
"""Of a service with twice as many copies and two more, of which a policy allows 64."""


class AdversaryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a point. Times in seconds."""

    nodes: int = 1000
    malicious: float = 0.2
    """Share of liars, of all nodes."""
    attack: str = "all"
    paths: tuple[str, ...] = (SHIPPED,)
    """Of look-ups by honest nodes: `shipped`, a number, or `all`."""
    objects: int = 100
    """Data."""
    object_bytes: int = 300
    services: int = 30
    min_copies: int = 8
    votes: tuple[int, ...] = (5, 7)
    """For each, as many voted services as there are services, with twice as many copies as votes."""
    lookups: int = 1000
    sends: int = 1000
    """To data; as many to services, and to voted services of each kind."""
    seconds: float = 60.0
    """In which they begin, each at a time drawn evenly."""
    settle_seconds: float = 30.0
    """Between publishing and measuring."""
    session: str = ""
    """Churn while it is measured, as `weibull:0.6:1h`; nothing: nobody comes or goes."""
    loss: float = 0.0
    seed: int = 1
    fake_crypto: bool = False


class Sends(msgspec.Struct, kw_only=True):
    """What came of messages to one kind of object."""

    sends: int = 0
    right: int = 0
    wrong: int = 0
    unavailable: int = 0
    """Errors: the sender knows that it has no answer."""
    seconds: list[float] = []
    failures: dict[str, int] = {}
    liars_among_hosts: float = 0.0
    bound: float = 0.0
    """Of votes: how often liars have the majority of those asked, drawn from these very hosts."""


class Measured(msgspec.Struct, kw_only=True):
    """One point under one setting of paths."""

    paths: str
    lookups: int = 0
    """Of objects that have an honest holder."""
    lookups_right: int = 0
    """An honest holder was found."""
    lookups_without_honest_holder: int = 0
    """Of objects that liars alone hold; not counted above."""
    rpcs: list[int] = []
    lookup_seconds: list[float] = []
    lookup_failures: dict[str, int] = {}
    data: Sends
    services: Sends
    voted: dict[int, Sends] = {}
    bytes_sent_per_node_second: float = 0.0
    """Of honest nodes, over UDP and links."""
    bytes_received_per_node_second: float = 0.0
    departures: int = 0
    attack_counts: dict[str, int] = {}
    trace_hash: str = ""
    simulated_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of measuring."""


class Adversary:
    """One point; `await Adversary(config, report).run()` inside a virtual loop."""

    def __init__(self, config: AdversaryConfig, report: Report) -> None:
        self.config = config
        contents = Random(f"titan/contents/{config.seed}")
        self._contents = [contents.randbytes(config.object_bytes) for _ in range(config.objects)]
        self.attack = attacks.find(config.attack)
        self.world = HostileWorld(
            config.nodes,
            malicious=config.malicious,
            attack=self.attack,
            contents=self._contents,
            seed=config.seed,
            min_copies=config.min_copies,
            report=report,
        )
        self.data: list[Published] = []
        self.services: list[Published] = []
        self.voted: dict[int, list[Published]] = {}
        self.cpu_of_pool = 0.0

    async def run(self) -> list[Measured]:
        """Joins, publishes, settles, measures."""
        config, world = self.config, self.world
        async with world:
            await self._publish()
            world.report("settling", world.sim.now)
            await asyncio.sleep(config.settle_seconds)
            self.cpu_of_pool = cpu_seconds()
            if len(config.paths) == 1:
                return [await self.measure(config.paths[0])]
            return [await branched(partial(self.measure, each), Measured) for each in config.paths]

    async def _publish(self) -> None:
        config, world = self.config, self.world
        plain = Policy(min_copies=config.min_copies, cache=False)
        self.data = await world.publish_these(self._contents, plain)
        world.tell_gang(self.data, "data")
        self.services = await self._publish_services("service", plain)
        for votes in config.votes:
            policy = Policy(min_copies=2 * votes, max_copies=2 * votes + 2, votes=votes)
            async with world.code_author():
                self.voted[votes] = await self._publish_services(f"{mirror.__file__}:Mirror", policy)

    async def _publish_services(self, kind: str, policy: Policy) -> list[Published]:
        draw = self.world.random.randbytes
        messages = [draw(self.config.object_bytes) for _ in range(self.config.services)]
        made = await self.world.publish_these(messages, policy, kind=kind)
        self.world.tell_gang(made, "service")
        return made

    # ---- measuring -------------------------------------------------------------------------------------------

    async def measure(self, paths: str) -> Measured:
        """What honest nodes find and get, with their look-ups on so many paths."""
        config, world = self.config, self.world
        before, began = cpu_seconds(), world.sim.now
        traffic = self._traffic()
        measured = Measured(paths=paths, data=Sends(), services=Sends(), voted={v: Sends() for v in self.voted})
        if paths != SHIPPED:
            world.set_paths(PATHS_MAX if paths == ALL else int(paths))
        turnover = Turnover(world, lambda node: lifetimes.parse(config.session), config.seconds)
        if config.session:
            turnover.begin()
        aimed = [each for each in self.data if each.object_id in world.gang.aimed] if self.attack.aims else self.data
        kinds = [(aimed, measured.data), (self.services, measured.services)]
        kinds += [(self.voted[votes], sends) for votes, sends in measured.voted.items()]
        work: list[Callable[[], Awaitable[None]]] = []
        if aimed:
            work += [partial(self._look_up, aimed, measured)] * config.lookups
        for objects, sends in kinds:
            if objects:
                work += [partial(self._send, objects, sends)] * config.sends
        await self._spread(work)
        for votes, sends in measured.voted.items():
            self._judge_votes(self.voted[votes], votes, sends)
        turnover.end()
        seconds = world.sim.now - began
        after = self._traffic()
        honest = max(1, len(world.users()))
        measured.bytes_sent_per_node_second = (after[0] - traffic[0]) / seconds / honest
        measured.bytes_received_per_node_second = (after[1] - traffic[1]) / seconds / honest
        measured.departures = turnover.departures
        measured.attack_counts = dict(sorted(world.gang.counts.items()))
        measured.trace_hash = world.sim.trace_hash
        measured.simulated_seconds = world.sim.now
        measured.cpu_seconds = cpu_seconds() - before
        return measured

    async def _spread(self, work: Sequence[Callable[[], Awaitable[None]]]) -> None:
        """Begins each at a time of its own, drawn evenly, in any order; returns when all are done."""
        config, world = self.config, self.world
        began = world.sim.now
        times = sorted(world.random.uniform(0, config.seconds) for _ in work)
        mixed = world.random.sample(work, len(work))
        running = []
        for number, (at, each) in enumerate(zip(times, mixed, strict=True)):
            await asyncio.sleep(began + at - world.sim.now)
            running.append(asyncio.ensure_future(each()))
            if number % 200 == 0:
                world.report(f"{number} of {len(work)} requests", world.sim.now)
        await asyncio.gather(*running)
        await asyncio.sleep(max(0.0, began + config.seconds - world.sim.now))

    def _asker(self, target: Published) -> SimulatedNode | None:
        """A user that does not hold the object."""
        holders = self.world.tracked(target).holders
        askers = [each for each in self.world.users() if each.number not in holders]
        return self.world.random.choice(askers) if askers else None

    async def _look_up(self, objects: Sequence[Published], measured: Measured) -> None:
        world = self.world
        target = world.random.choice(objects)
        asker = self._asker(target)
        if asker is None:
            return
        if not world.honest_holders(target.object_id):
            measured.lookups_without_honest_holder += 1
            return
        began = world.sim.now
        with while_alive(asker):
            answer = await asker.running.overlay.find_holders(target.object_id, everything=True)
        if not asker.alive:
            return
        found = [world.number_of[each.signer] for each in answer.advertisements]
        right = any(number in found for number in world.honest_holders(target.object_id))
        measured.lookups += 1
        measured.lookups_right += right
        measured.rpcs.append(answer.rpcs)
        measured.lookup_seconds.append(world.sim.now - began)
        if not right:
            _count(measured.lookup_failures, why_not_found(world, asker, target, found))

    async def _send(self, objects: Sequence[Published], sends: Sends) -> None:
        world = self.world
        target = world.random.choice(objects)
        asker = self._asker(target)
        if asker is None:
            return
        began = world.sim.now
        failure: Exception | None = None
        reply: object = None
        try:
            with while_alive(asker):
                reply = await world.sim.pool(asker).send(target.name, target.message)
        except (TitanError, TimeoutError) as why:
            failure = why
        if not asker.alive:
            return
        sends.sends += 1
        sends.seconds.append(world.sim.now - began)
        if failure is not None:
            sends.unavailable += 1
            _count(sends.failures, why_not_right(world, asker, target, failure))
        elif reply == target.answer:
            sends.right += 1
        else:
            sends.wrong += 1

    def _judge_votes(self, objects: Sequence[Published], votes: int, sends: Sends) -> None:
        """What may be expected of these hosts, if the voters are drawn evenly among them."""
        hosts = liars = 0
        bounds = []
        for each in objects:
            numbers = list(self.world.tracked(each).holders)
            lying = sum(map(self.world.is_liar, numbers))
            hosts, liars = hosts + len(numbers), liars + lying
            bounds.append(majority_of_liars(len(numbers), lying, votes))
        sends.liars_among_hosts = liars / max(1, hosts)
        sends.bound = sum(bounds) / max(1, len(bounds))

    def _traffic(self) -> tuple[int, int]:
        """Bytes sent and received by the honest, over UDP (with headers) and links."""
        sent = received = 0
        for node in self.world.sim.nodes:
            if not self.world.is_liar(node.number):
                each = node.host.traffic
                sent += each.bytes_sent + 28 * each.datagrams_sent + each.stream_bytes_sent
                received += each.bytes_received + 28 * each.datagrams_received + each.stream_bytes_received
        return sent, received


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1
