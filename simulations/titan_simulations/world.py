"""A simulated pool with the truth about it: what every scenario starts from."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from titan_overlay.ambient import Random
from titan_overlay.client import Pool
from titan_overlay.config import NodeConfig
from titan_overlay.errors import TitanError
from titan_overlay.identity import names
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.statements import Policy
from titan_overlay.pool.hosting.data import Read
from titan_overlay.testing import MemoryNetwork
from titan_overlay.testing.loop import VirtualLoop
from titan_overlay.testing.pool import Machine, SimulatedNode, SimulatedPool
from titan_simulations.accounts import Accounts
from titan_simulations.classes import NodeClass
from titan_simulations.truth import Truth, WatchedDatabase

PUBLISHING_AT_ONCE = 32
PUBLISH_TRIES = 3

Report = Callable[[str, float], None]
"""Told what the simulation is at, and the simulated clock."""


@dataclass(frozen=True, slots=True)
class Published:
    """One object of the world."""

    name: str
    object_id: ObjectId
    message: Any
    """What users send to it."""
    answer: bytes
    """What it has to answer."""


class World:
    """Nodes, objects, truth and accounts.

    Args:
        classes: draws the class of each node; None: every node has the default settings and an unlimited line.
        contacts: as for `SimulatedPool`.
    """

    def __init__(
        self,
        nodes: int,
        *,
        seed: int,
        min_copies: int = 3,
        classes: Callable[[Random], NodeClass] | None = None,
        contacts: Callable[[SimulatedNode], Sequence[SimulatedNode]] | None = None,
        join_gap: float = 0.1,
        report: Report = lambda what, now: None,
    ) -> None:
        self.random = Random(f"titan/world/{seed}")
        self.report = report
        self._classes = classes
        self.class_of: dict[int, NodeClass] = {}
        self.truth = Truth(min_copies, self._clock)
        self.objects: list[Published] = []
        self._numbers = itertools.count()
        """Of what is published, in order: makes the names of services."""
        self.machine = Machine(config=NodeConfig())
        """Of every node that has no class."""
        self.sim = SimulatedPool(
            nodes,
            seed=seed,
            machine=self._machine,
            contacts=contacts,
            database=lambda number: WatchedDatabase(self.truth, number),
            join_gap=join_gap,
        )
        self.accounts: Accounts

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _machine(self, number: int) -> Machine:
        if self._classes is None:
            return self.machine
        drawn = self.class_of.setdefault(number, self._classes(self.random))
        return self.machine_of(drawn)

    def machine_of(self, drawn: NodeClass) -> Machine:
        """A machine of that class."""
        return Machine(config=drawn.config(), upload=drawn.upload, download=drawn.download)

    async def __aenter__(self) -> "World":
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        tell = loop.create_task(self._tell())
        await self.sim.__aenter__()
        tell.cancel()
        self.accounts = Accounts(self.sim.network)
        for each in self.sim.nodes:
            self.joined(each)
        settle_memory()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.sim.__aexit__(*exc)

    async def _tell(self) -> None:
        while True:
            self.report(f"{len(self.sim.live())} nodes have joined", self._clock())
            await asyncio.sleep(5.0)

    # ---- nodes -----------------------------------------------------------------------------------------------

    def live(self) -> list[SimulatedNode]:
        """The nodes that run now."""
        return self.sim.live()

    def users(self) -> list[SimulatedNode]:
        """The nodes from which objects are published, looked up and sent to."""
        return self.live()

    def joined(self, node: SimulatedNode) -> None:
        """A node is in the pool: its books are opened."""
        self.accounts.open(node.number, node.running)

    def kill(self, node: SimulatedNode) -> None:
        """A crash, in the books too."""
        self.accounts.close(node.number)
        self.truth.died(node.number)
        self.sim.kill(node)

    async def leave(self, node: SimulatedNode) -> None:
        """A clean stop, in the books too."""
        await self.sim.stop(node)
        self.accounts.close(node.number)
        self.truth.died(node.number)

    async def back(self, node: SimulatedNode) -> None:
        """A node that was killed starts again, with its key and its disk."""
        await self.sim.restart(node)
        self.joined(node)
        self.truth.returned(node.number, node.database.replicas())

    async def arrive(self, drawn: NodeClass | None = None) -> SimulatedNode:
        """A new node joins."""
        number = len(self.sim.nodes)
        if drawn is not None:
            self.class_of[number] = drawn
        there = await self.sim.add_node(None if drawn is None else self.machine_of(drawn))
        self.joined(there)
        return there

    async def successor(self, node: SimulatedNode) -> SimulatedNode:
        """A new node of the kind of one that has left."""
        return await self.arrive(self.class_of.get(node.number))

    # ---- objects ---------------------------------------------------------------------------------------------

    async def publish(self, count: int, policy: Policy, *, kind: str = "data", size: int = 300) -> None:
        """Random objects, each published by a random user; watched from then on.

        Args:
            kind: `data`: random bytes, which users read; `service`: the installed type `echo`, which repeats them;
                another service that does, as `file.py:Class`.

        Raises:
            TitanError: one could not be published after a few tries.
        """
        contents = [self.random.randbytes(size) for _ in range(count)]
        await self.publish_these(contents, policy, kind=kind)

    async def publish_these(self, contents: Sequence[bytes], policy: Policy, *, kind: str = "data") -> list[Published]:
        """As `publish`, with these contents. Returns what was published."""
        slots = asyncio.Semaphore(PUBLISHING_AT_ONCE)
        done = 0

        async def one(number: int, content: bytes) -> Published | None:
            nonlocal done
            async with slots:
                try:
                    name = await self._publish(number, content, policy, kind)
                except TitanError as why:
                    self.not_published(why)
                    return None
            object_id = names.object_id(self.sim.id, name)
            self.truth.watch(object_id, name)
            done += 1
            if done % 50 == 0:
                self.report(f"{done} objects are published", self._clock())
            return Published(name, object_id, Read() if kind == "data" else content, content)

        made = await asyncio.gather(*(one(next(self._numbers), content) for content in contents))
        published = [each for each in made if each is not None]
        self.objects.extend(published)
        return published

    def not_published(self, why: TitanError) -> None:
        """An object could not be published."""
        raise why

    async def _publish(self, number: int, content: bytes, policy: Policy, kind: str) -> str:
        for turn in range(PUBLISH_TRIES):
            try:
                if kind == "data":
                    return await self.publisher().put(content, policy=policy)
                source = "echo" if kind == "service" else kind
                return (await self.publisher().publish(source, f"simulated/{number}", policy=policy)).name
            except TitanError:
                if turn == PUBLISH_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def publisher(self) -> Pool:
        """Through whom the next object is published."""
        return self.sim.pool(self.sim.random.choice(self.users()))


@contextmanager
def while_alive(node: SimulatedNode) -> Iterator[None]:
    """What a node asks for inside may end in any way once the node is gone: whoever asked is gone, too."""
    try:
        yield
    except (Exception, asyncio.CancelledError):
        if node.alive:
            raise


async def poisson(rate: float, random: Random, work: Callable[[], Awaitable[None]], until: float) -> None:
    """Starts `work` at the times of a Poisson process of `rate` per second; waits for all of it at the end.

    Raises what any of it raised: a request that ends in no way that is counted would be missing from every figure.
    """
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Future[None]] = []
    while rate > 0:
        pause = random.expovariate(rate)
        if loop.time() + pause >= until:
            break
        await asyncio.sleep(pause)
        begun.append(asyncio.ensure_future(work()))
    await asyncio.gather(*begun)


class Popularity:
    """Draws objects: evenly, or by Zipf's law with an exponent (Breslau et al., INFOCOM 1999: 0.6 to 0.9)."""

    def __init__(self, objects: Sequence[Published], exponent: float) -> None:
        self._objects = objects
        self._cumulated: list[float] = []
        reached = 0.0
        for place in range(1, len(objects) + 1):
            reached += place**-exponent
            self._cumulated.append(reached)

    def draw(self, random: Random) -> Published:
        """One object."""
        return random.choices(self._objects, cum_weights=self._cumulated)[0]


def settle_memory() -> None:
    """What lives now will live to the end: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


def network(*, loss: float, trace: bool = True) -> MemoryNetwork:
    """The wires of all scenarios: the default latencies, and loss."""
    return MemoryNetwork(loss=loss, trace=trace)
