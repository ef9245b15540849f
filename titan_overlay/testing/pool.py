"""A whole pool of simulated machines in one process, on virtual time: the place to test one's own objects.

async def scenario(sim: SimulatedPool) -> None:
    await sim.publish(Greeter, "greeter")
    sim.kill(sim.holders("greeter")[0])
    assert await sim.pool().send("greeter", "hello") == "hello, hello"

SimulatedPool.run(scenario, nodes=50, seed=7)

Every node is the node that `titan-node` runs, with its own simulated machine (IP, access line), memory disk and
memory database. Same seed, same run: `sim.trace_hash` covers every packet, its time and its bytes.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from titan_overlay.ambient import SIMULATED_EPOCH, Ambient, Random
from titan_overlay.client import Pool, Receipt
from titan_overlay.config import NodeConfig
from titan_overlay.connecting import opened
from titan_overlay.identity import grants, names, records
from titan_overlay.identity.contacts import IPV4, IPV6, family, format_address
from titan_overlay.identity.grants import JoinLine, Right
from titan_overlay.identity.ids import ObjectId, PoolId, solves_puzzle
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Policy
from titan_overlay.member import Member
from titan_overlay.node import Node
from titan_overlay.storage.rows import Database, MemoryDatabase
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.testing.hosts import Host
from titan_overlay.testing.loop import VirtualLoop, run
from titan_overlay.testing.network import MemoryNetwork
from titan_overlay.testing.there import PoolThere

T = TypeVar("T")

PORT = 4747
JOIN_GAP_SECONDS = 0.1
"""Pause between two nodes that join at the start."""
SETTLE_SECONDS = 30.0
JOIN_PATIENCE = 120.0
"""A node that has not joined by then is an error, not a wait for ever."""
YEAR = 365 * 86400.0
NODE_RIGHTS = Right.JOIN | Right.CALL | Right.HOST | Right.PUBLISH | Right.DELETE
RULES = PoolRecord(version=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a simulated machine is like.

    upload, download: bytes per second, or None for no limit.
    loss: probability of losing a packet to or from here.
    ip, key: address of the machine and key of its node, where they matter; None: the next free one, one of the seed.
    ip6: another address of the machine, of IPv6.
    prepare: called with each node made here, before it starts: the place to make a liar of it.
    """

    config: NodeConfig = field(default_factory=NodeConfig)
    upload: float | None = None
    download: float | None = None
    loss: float = 0.0
    ip: str | None = None
    ip6: str | None = None
    key: SigningKey | None = None
    prepare: Callable[[Node], object] = lambda node: None


class SimulatedNode:
    """One machine and the node on it; stays when the node is killed, so that it can be started again."""

    __slots__ = ("database", "disk", "grants", "host", "key", "machine", "node", "number", "started_at", "stopped_at")

    def __init__(self, number: int, host: Host, key: SigningKey, machine: Machine, database: Database) -> None:
        self.number = number
        self.host = host
        self.key = key
        self.machine = machine
        self.database = database
        self.disk = MemoryDisk()
        self.grants: list[bytes] = []
        """With which its node starts."""
        self.node: Node | None = None
        self.started_at = self.stopped_at = 0.0

    @property
    def ip(self) -> str:
        """Address of the machine."""
        return self.host.ip

    @property
    def alive(self) -> bool:
        """Whether a node runs here now."""
        return self.node is not None

    @property
    def name(self) -> str:
        """`node:<id>`, which answers messages like any object."""
        return names.node_name(self.key.id)

    @property
    def running(self) -> Node:
        """The node. RuntimeError: it was killed, or has not started yet."""
        if self.node is None:
            raise RuntimeError(f"node {self.number} does not run now")
        return self.node

    def __repr__(self) -> str:
        return f"SimulatedNode({self.number}, {self.ip}, {'alive' if self.alive else 'down'})"


class SimulatedPool:
    """A pool of nodes on a virtual network.

    Used as `async with SimulatedPool(nodes=50, seed=7) as sim:` inside a virtual loop (`testing.run`, or a test on
    that loop), or through `SimulatedPool.run(scenario, nodes=50, seed=7)` without one.

    Args:
        nodes: how many start with the pool; `add_node` adds more.
        seed: of every key, delay and draw. The loop and the network have seeds of their own.
        config: settings of every node (address and trusted keys are filled in).
        machine: machine of the node with a number; overrides `config`.
        contacts: through which nodes that live one joins; two at random by default.
        database: makes the database of a node; one of your own may watch what is written.
        join_gap: seconds between two nodes that start.
        rules: what holds in the pool. By default anybody may join and send, and ids cost nothing.

    Every node has the right to join, call, host, publish and delete; `user` is the key that clients publish with, and
    every node accepts its code.
    """

    def __init__(
        self,
        nodes: int = 50,
        *,
        seed: int | str = 7,
        config: NodeConfig | None = None,
        machine: Callable[[int], Machine] | None = None,
        contacts: "Callable[[SimulatedNode], Sequence[SimulatedNode]] | None" = None,
        database: Callable[[int], Database] | None = None,
        join_gap: float = JOIN_GAP_SECONDS,
        rules: PoolRecord = RULES,
    ) -> None:
        if nodes < 1:
            raise ValueError("a pool has at least one node")
        self.seed = seed
        self.random = Random(f"titan/pool/{seed}")
        self.user = self._key("user")
        self.pool_key = self._key("pool")
        self.id = PoolId(self.pool_key.public)
        self.nodes: list[SimulatedNode] = []
        self._count = nodes
        plain = Machine(config=config or NodeConfig())
        self._machine = machine or (lambda number: plain)
        self._contacts = contacts or self._any_two
        self._database = database or (lambda number: MemoryDatabase())
        self._join_gap = join_gap
        self._clients = AsyncExitStack()
        self._client_count = 0
        self._stopping: set[asyncio.Task[None]] = set()
        self.rules = rules
        self._record = records.sign(rules, self.pool_key, self.id).raw
        self.loop: VirtualLoop
        self.network: MemoryNetwork

    @classmethod
    def run(
        cls,
        scenario: Callable[["SimulatedPool"], Coroutine[Any, Any, T]],
        nodes: int = 50,
        *,
        seed: int | str = 7,
        network: MemoryNetwork | None = None,
        **options: Any,
    ) -> T:
        """Runs `scenario(sim)` on a fresh virtual loop and gives back its result; `options` as for the class."""

        async def main() -> T:
            async with cls(nodes, seed=seed, **options) as sim:
                return await scenario(sim)

        return run(main, seed=seed, network=network)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(
                "SimulatedPool needs the virtual loop: use SimulatedPool.run(scenario, ...), titan_overlay.testing.run"
                '(main), or mark the test with @pytest.mark.loops("virtual")'
            )
        self.loop, self.network = loop, loop.network
        await self._found()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._clients.aclose()
        for each in self.live():
            self.kill(each)
        if self._stopping:
            await asyncio.wait(self._stopping)

    # ---- the pool as its users see it ------------------------------------------------------------------------

    def pool(self, node: "int | SimulatedNode | None" = None) -> Pool:
        """The pool as a node sees it: that node's own `Pool`, or of one drawn at random."""
        there = self.random.choice(self.live()) if node is None else self._of(node)
        return PoolThere(there.running, self.network, there.ip)

    async def client(
        self,
        *,
        user: SigningKey | None = None,
        through: "int | SimulatedNode | None" = None,
        grants: Sequence[bytes] | None = None,
    ) -> Pool:
        """A new light client on a machine of its own, closed with the pool. It publishes as `user`.

        Args:
            grants: of that user; None: one of all that nodes may do.
        """
        number, self._client_count = self._client_count, self._client_count + 1
        host = self.network.host()
        member = Member(
            self._key(f"client/{number}"),
            Rights(self.id),
            Ambient.seeded(f"{self.seed}/client/{number}", self.loop),
            NodeConfig(),
            user=user or self.user,
            client=True,
            grants=[self.grant(user or self.user)] if grants is None else list(grants),
            secure=False,
        )
        contact = self.random.choice(self.live()) if through is None else self._of(through)
        with self.network.on_host(host.ip):
            joined = opened(member, lambda: [self._line(contact)], JOIN_PATIENCE, [host.ip])
            await self._clients.enter_async_context(joined)
        return PoolThere(member, self.network, host.ip)

    async def publish(self, source: Any, name: str, *, policy: Policy | None = None) -> Receipt:
        """Publishes a service from a client of `user`: a class, `"file.py:Class"`, or an installed type."""
        return await (await self.client()).publish(source, name, policy=policy)

    def holders(self, name: str) -> list[SimulatedNode]:
        """Who holds a counted copy of the object at this moment: the truth, not what anybody knows of it."""
        object_id = names.object_id(self.id, names.resolve(name, self.user.public))
        return [each for each in self.live() if _holds(each.database, object_id)]

    # ---- what goes wrong -------------------------------------------------------------------------------------

    def kill(self, node: "int | SimulatedNode") -> SimulatedNode:
        """A power cut: the node is gone in the middle of whatever it did, and nobody is told."""
        there = self._of(node)
        running = there.running
        there.node = None
        there.stopped_at = self.now
        self.network.kill(there.ip)
        with self.network.on_host(there.ip):
            task = self.loop.create_task(running.close())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        return there

    async def stop(self, node: "int | SimulatedNode") -> SimulatedNode:
        """A clean stop, as with SIGTERM: hands replicas over where needed, withdraws, closes."""
        there = self._of(node)
        running = there.running
        with self.network.on_host(there.ip):
            await running.stop()
        there.node = None
        there.stopped_at = self.now
        self.network.kill(there.ip)
        return there

    async def restart(self, node: "int | SimulatedNode") -> SimulatedNode:
        """Starts the node of a machine again, with its key and what its disk kept through the power cut."""
        there = self._of(node)
        if there.alive:
            self.kill(there)
        if self._stopping:
            await asyncio.wait(self._stopping)
        self.network.revive(there.ip)
        there.disk = there.disk.power_loss(self.random)
        await self._start(there)
        return there

    async def add_node(self, machine: Machine | None = None) -> SimulatedNode:
        """A new machine with a new node, joined through a random live one."""
        there = self.make_node(machine)
        await self._start(there)
        return there

    def partition(self, *groups: "Sequence[int | SimulatedNode]") -> None:
        """Only nodes of one group reach each other; nodes (and clients) in no group form one more."""
        self.network.partition([[self._of(node).ip for node in group] for group in groups])

    def heal(self) -> None:
        """Ends the partition."""
        self.network.heal()

    def delay(self, node: "int | SimulatedNode", seconds: float) -> None:
        """Adds to the one-way delay of every packet to and from the node; 0 takes it away."""
        self.network.delay(self._of(node).ip, seconds)

    # ---- time and truth --------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Simulated seconds since the loop was made."""
        return self.loop.time()

    @property
    def trace_hash(self) -> str:
        """Hash over every packet so far; equal for equal seeds, in any process."""
        return self.network.trace_hash

    def live(self) -> list[SimulatedNode]:
        """The nodes that run now."""
        return [each for each in self.nodes if each.node is not None]

    async def settle(
        self, until: Callable[[], bool] | None = None, *, within: float = 600.0, seconds: float = SETTLE_SECONDS
    ) -> float:
        """Lets simulated time pass: `seconds`, or until a condition holds.

        Returns:
            Seconds that passed.

        Raises:
            TimeoutError: the condition does not hold after `within` seconds.
        """
        started = self.now
        if until is None:
            await asyncio.sleep(seconds)
            return seconds
        while not until():
            if self.now - started >= within:
                raise TimeoutError(f"still not so after {within:g} simulated seconds")
            await asyncio.sleep(0.5)
        return self.now - started

    # ---- inside ----------------------------------------------------------------------------------------------

    def rights(self) -> Rights:
        """The rights of the pool, as somebody knows them who knows nothing but its record."""
        return Rights(self.id, self._record)

    def grant(self, key: SigningKey, rights: Right = NODE_RIGHTS, names: str = "*", *, depth: int = 0) -> bytes:
        """A signed grant of the pool's key, from now on for a year. `depth`: times that it may be passed on."""
        now = SIMULATED_EPOCH + self.loop.time()
        return grants.issue(
            self.pool_key, self.id, key.id, rights, now=now, expires=now + YEAR, pattern=names, depth=depth
        ).raw

    def _key(self, what: str) -> SigningKey:
        return SigningKey(hashlib.sha256(f"titan/simulated/{self.seed}/{what}".encode()).digest())

    def _of(self, node: "int | SimulatedNode") -> SimulatedNode:
        return self.nodes[node] if isinstance(node, int) else node

    def _any_two(self, newcomer: SimulatedNode) -> Sequence[SimulatedNode]:
        others = self.live()
        return self.random.sample(others, min(2, len(others)))

    def _line(self, there: SimulatedNode, wanted: int = IPV4) -> JoinLine:
        ip = there.machine.ip6 if wanted == IPV6 and there.machine.ip6 else there.ip
        return JoinLine(ip, PORT, self.id, there.key.id)

    def key_of(self, number: int) -> SigningKey:
        """The key of the node with that number, whether it is there already or not, unless its machine has its own.

        It solves the pool's puzzle.
        """
        tries = (self._key(f"node/{number}" + "+" * more) for more in itertools.count())
        return next(key for key in tries if solves_puzzle(key.id, self.rules.puzzle_bits))

    def make_node(self, machine: Machine | None = None) -> SimulatedNode:
        """A machine without a running node; `start_node` starts it."""
        number = len(self.nodes)
        machine = machine or self._machine(number)
        host = self.network.host(machine.ip, upload=machine.upload, download=machine.download, loss=machine.loss)
        if machine.ip6 is not None:
            self.network.pair(host.ip, machine.ip6)
        key = machine.key or self.key_of(number)
        there = SimulatedNode(number, host, key, machine, self._database(number))
        there.grants.append(self.grant(there.key))
        self.nodes.append(there)
        return there

    async def _start(self, there: SimulatedNode, seeds: Sequence[JoinLine] | None = None) -> None:
        if seeds is None:
            seeds = [self._line(each, family(there.ip)) for each in self._contacts(there)]
        config = replace(
            there.machine.config,
            listen=tuple(format_address((ip, PORT)) for ip in (there.ip, there.machine.ip6) if ip),
            trust=(*there.machine.config.trust, self.user.public.hex()),
        )
        incarnation = f"{self.seed}/node/{there.number}/{self.now:.6f}"
        node = Node(
            there.key,
            self.rights(),
            Ambient.seeded(incarnation, self.loop),
            config,
            database=there.database,
            disk=there.disk,
            founder=there.number == 0,
            grants=there.grants,
            secure=False,
        )
        there.machine.prepare(node)
        with self.network.on_host(there.ip):
            try:
                async with asyncio.timeout(JOIN_PATIENCE):
                    await node.start(seeds)
            except BaseException:
                await node.close()
                raise
        there.node = node
        there.started_at = self.now

    async def _found(self) -> None:
        await self._start(self.make_node(), seeds=[])
        starting = []
        for _ in range(self._count - 1):
            await asyncio.sleep(self._join_gap)
            starting.append(self.loop.create_task(self._start(self.make_node())))
        await asyncio.gather(*starting)


def _holds(database: Database, object_id: ObjectId) -> bool:
    return any(row.object_id == object_id and not row.passing for row in database.replicas())
