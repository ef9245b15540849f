"""A world in which some nodes lie, from the first on.

Honest nodes have public addresses, each in a subnet of its own; so have liars, unless their attack places them
elsewhere. Who joins was invited by somebody: an honest node has `CONTACTS_HONEST` honest contacts among the `CONTACTS`
that it joins through. Whoever knows liars only when it joins cannot be helped by any protocol.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256

from titan_overlay.ambient import Random
from titan_overlay.client import Pool
from titan_overlay.errors import TitanError
from titan_overlay.identity import records
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.statements import Descriptor
from titan_overlay.node import Node
from titan_overlay.testing.loop import VirtualLoop
from titan_overlay.testing.pool import Machine, SimulatedNode
from titan_simulations.attacks.attack import Attack, Place
from titan_simulations.attacks.gang import Gang, Known, Liar
from titan_simulations.truth import Tracked
from titan_simulations.world import Published, Report, World

CONTACTS = 2
CONTACTS_HONEST = 1

PROGRAMS = 20
"""Through so many the author of the code publishes. A program asks those whom it knows to hold its objects: the hosts
of one program's objects are few, and say little of what may be expected of another's."""
PROGRAM_SETTLES = 30.0
"""Seconds until the routing table of a program that has joined is full."""


class HostileWorld(World):
    """Honest nodes and a gang of liars. The founder is honest.

    Args:
        malicious: share of liars, of all nodes.
        attack: what they do.
        contents: of the data that will be published: liars that aim at objects aim at these.
    """

    def __init__(
        self,
        nodes: int,
        *,
        malicious: float,
        attack: type[Attack],
        contents: Sequence[bytes],
        seed: int,
        min_copies: int,
        report: Report = lambda what, now: None,
    ) -> None:
        super().__init__(nodes, seed=seed, min_copies=min_copies, contacts=self._contacts, report=report)
        random = self._draws = Random(f"titan/hostile/{seed}")
        self._attack = attack
        liars = random.sample(range(1, nodes), round(malicious * nodes))
        self.attacks: dict[int, type[Attack]] = {number: attack.draw(random) for number in liars}
        """Of each liar, by number."""
        self.number_of: dict[NodeId, int] = {}
        self.liars: dict[int, Liar] = {}
        self.unpublished: Counter[str] = Counter()
        self._programs: Iterator[Pool] | None = None
        honest = [self.sim.key_of(number).id for number in range(nodes) if number not in self.attacks]
        targets = [ObjectId(sha256(each).digest()) for each in contents]
        self.gang = Gang(Random(f"titan/gang/{seed}"), self.sim.id, honest, targets)
        self._subnets: set[str] = set()
        self._turns: Counter[str] = Counter()
        self._places = {number: self._placed(each) for number, each in self.attacks.items()}

    async def __aenter__(self) -> "HostileWorld":
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.network.blocked = self.gang.swallows
        await super().__aenter__()
        return self

    # ---- who is where ----------------------------------------------------------------------------------------

    def _placed(self, attack: type[Attack]) -> Place:
        self._turns[attack.name] += 1
        return attack.place(self.gang, self._turns[attack.name] - 1)

    def _machine(self, number: int) -> Machine:
        place = self._places.get(number, Place())
        machine = replace(super()._machine(number), ip=place.ip or self._address(), key=place.key)
        attack = self.attacks.get(number)
        if attack is None:
            return machine

        def corrupt(node: Node) -> None:
            self.liars[number] = Liar(self.gang, number, node, attack)

        return replace(machine, prepare=corrupt)

    def _address(self) -> str:
        """A public address in a subnet (/24) of its own."""
        while True:
            subnet = ".".join(str(self._draws.randrange(low, high)) for low, high in ((20, 96), (0, 256), (0, 256)))
            if subnet not in self._subnets:
                self._subnets.add(subnet)
                return f"{subnet}.{self._draws.randrange(1, 255)}"

    def _contacts(self, newcomer: SimulatedNode) -> Sequence[SimulatedNode]:
        """Through whom it joins; a liar, through anybody."""
        live, draw = self.live(), self.sim.random.sample
        trusted = [] if self.is_liar(newcomer.number) else draw(self.users(), min(CONTACTS_HONEST, len(self.users())))
        others = [each for each in live if each not in trusted]
        return [*trusted, *draw(others, min(CONTACTS - len(trusted), len(others)))]

    def is_liar(self, number: int) -> bool:
        """Whether the node with this number lies."""
        return number in self.attacks

    def users(self) -> list[SimulatedNode]:
        """The honest nodes: whether liars find anything is their own affair."""
        return [each for each in self.live() if each.number not in self.attacks]

    def set_paths(self, paths: int) -> None:
        """The look-ups of honest nodes, those to come too, go over at most so many disjoint paths from now on."""
        self.machine = replace(self.machine, config=replace(self.machine.config, paths=paths))
        for node in self.users():
            node.running.overlay.set_paths(paths)

    # ---- coming and going ------------------------------------------------------------------------------------

    def joined(self, node: SimulatedNode) -> None:
        super().joined(node)
        self.number_of[node.key.id] = node.number
        liar = self.liars.get(node.number)
        if liar is not None:
            self.gang.joined(liar)
            with self.sim.network.on_host(node.ip):
                node.running.spawn(liar.acting(), "lying")

    def kill(self, node: SimulatedNode) -> None:
        if node.number in self.liars:
            self.gang.left(self.liars[node.number])
        super().kill(node)

    async def successor(self, node: SimulatedNode) -> SimulatedNode:
        if self.is_liar(node.number):
            self.attacks[len(self.sim.nodes)] = attack = self._attack.draw(self._draws)
            self._places[len(self.sim.nodes)] = self._placed(attack)
        return await super().successor(node)

    # ---- objects ---------------------------------------------------------------------------------------------

    def publisher(self) -> Pool:
        return next(self._programs) if self._programs else super().publisher()

    @asynccontextmanager
    async def code_author(self) -> AsyncIterator[None]:
        """Inside, objects are published by programs of the one whose code all nodes accept, in turn."""
        through = self.sim.random.sample(self.users(), min(PROGRAMS, len(self.users())))
        programs = [await self.sim.client(through=each) for each in through]
        await asyncio.sleep(PROGRAM_SETTLES)
        self._programs = itertools.cycle(programs)
        try:
            yield
        finally:
            self._programs = None

    def not_published(self, why: TitanError) -> None:
        self.unpublished[type(why).__name__] += 1

    def tell_gang(self, published: Sequence[Published], kind: str) -> None:
        """The liars know the objects."""
        for each in published:
            holders = self.tracked(each).holders
            if holders:
                rows = self.sim.nodes[next(iter(holders))].database.replicas()
                raw = next(row.descriptor for row in rows if row.object_id == each.object_id)
                version = records.check(raw, Descriptor, self.sim.id).value.version
                self.gang.objects[each.object_id] = Known(
                    each.name, each.object_id, kind, version, raw, len(each.answer)
                )

    def tracked(self, published: Published) -> Tracked:
        """The truth about an object."""
        return self.truth.objects[published.object_id]

    def honest_holders(self, object_id: ObjectId) -> list[int]:
        """Numbers of the honest nodes that hold it."""
        return [number for number in self.truth.objects[object_id].holders if number not in self.attacks]
