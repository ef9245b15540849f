"""A village of keepers for tests: real keepers and advertisers on the virtual loop.

Overlay, directory and recruiting are played. Every message has a latency, dead nodes do not answer, and the village
can be cut in two.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256

from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.errors import LinkError
from titan_overlay.identity import names, records
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId, distance
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import STRANGER, PoolRecord
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Policy, Tombstone, check_tombstone
from titan_overlay.pool.keeping.keeper import Keeper
from titan_overlay.pool.orders import Accepted, Recruit
from titan_overlay.storage.rows import MemoryDatabase, ReplicaRow

POOL_KEY = SigningKey(bytes(31) + b"\1")
POOL = PoolId(POOL_KEY.public)
RIGHTS = Rights(POOL, records.sign(PoolRecord(1, strangers=int(STRANGER | Right.HOST)), POOL_KEY, POOL).raw)
"""Anybody may host here."""
OWNER = SigningKey(bytes(31) + b"\2")
OVERHEAD = 28 + 32
"""IP, UDP and session header around a body, in bytes."""


class Found:
    def __init__(self, advertisements: Sequence[Signed[Advertisement]], tombstone: Signed[Tombstone] | None) -> None:
        self.advertisements = advertisements
        self.tombstones = () if tombstone is None else (tombstone,)
        self.asked = 8


class Recruited:
    def __init__(self) -> None:
        self.accepted: list[Signed[Advertisement]] = []


class Home:
    """One node of the village: what its keeper sees as overlay, recruiter and admission."""

    def __init__(self, village: "Village", number: int, config: NodeConfig) -> None:
        self.village = village
        self.key = SigningKey(sha256(b"home %d" % number).digest())
        self.id: NodeId = self.key.id
        self.contact = Contact(self.id, f"10.0.{number // 256}.{number % 256}", 4747)
        self.alive = True
        self.full = False
        self.handlers: dict[str, Callable[[Contact, bytes], bytes]] = {}
        self.database = MemoryDatabase()
        self.released: list[ObjectId] = []
        self.lost_chunks = False
        self.conduct = Conduct()
        self.ambient = Ambient.seeded(f"{village.seed}/{number}", asyncio.get_running_loop())
        self.keeper = Keeper(
            me=self.key,
            rights=RIGHTS,
            ambient=self.ambient,
            overlay=self,
            database=self.database,
            recruiter=self,
            admission=self,
            config=config,
            read_chunk=self.read_chunk,
        )

    # ---- overlay ---------------------------------------------------------------------------------------------

    def serve(self, method: str, handler: Callable[[Contact, bytes], bytes]) -> None:
        self.handlers[method] = handler

    async def call(self, contact: Contact, method: str, body: bytes, *, purpose: int) -> bytes:
        village = self.village
        village.count(method, len(body))
        assert len(body) <= 1100, "a body must fit in a datagram"
        await asyncio.sleep(village.latency())
        there = village.by_id[contact.id]
        lost = village.random.random() < village.loss
        if lost or not there.alive or not self.alive or village.is_cut(self.id, there.id):
            await asyncio.sleep(village.timeout)
            raise LinkError("no answer")
        reply = there.handlers[method](self.contact, body)
        village.count(method, len(reply))
        assert len(reply) <= 1100
        await asyncio.sleep(village.latency())
        if not self.alive:
            raise LinkError("dead")
        return reply

    async def find_holders(self, object_id: ObjectId, *, everything: bool = False) -> Found:
        village = self.village
        await asyncio.sleep(5 * village.latency())
        wall = self.ambient.wall()
        found = [
            each
            for each in village.directory.get(object_id, {}).values()
            if not each.value.withdrawn and each.value.expires > wall and not village.is_cut(self.id, each.signer)
        ]
        return Found(found, village.tombstones.get(object_id))

    async def announce(self, object_id: ObjectId, raws: Sequence[bytes]) -> int:
        await asyncio.sleep(5 * self.village.latency())
        if not self.alive:
            raise LinkError("dead")
        for raw in raws:
            self.village.store(object_id, raw)
        return 8

    async def announce_many(self, items: Sequence[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
        await asyncio.sleep(5 * self.village.latency())
        if not self.alive:
            raise LinkError("dead")
        for object_id, raw in items:
            self.village.store(object_id, raw)
        return {object_id: 8 for object_id, _ in items}

    def estimated_size(self) -> float:
        return float(len(self.village.homes))

    # ---- recruiter -------------------------------------------------------------------------------------------

    async def recruit(self, *args: object, **named: object) -> object:
        """Both rooms call it `recruit`: the recruiter with a descriptor, the admission with an order."""
        if isinstance(args[0], Recruit):
            return await self.take(*args, **named)  # type: ignore[arg-type]
        return await self.seek(*args, **named)  # type: ignore[arg-type]

    async def seek(
        self,
        descriptor: Signed[Descriptor],
        *,
        count: int,
        exclude: Sequence[NodeId] = (),
        holders: Sequence[Signed[Advertisement]] = (),
    ) -> Recruited:
        village, result = self.village, Recruited()
        object_id = names.object_id(POOL, descriptor.value.name)
        order = sorted(village.homes, key=lambda home: distance(home.id, object_id))
        for home in order:
            if len(result.accepted) >= count or not self.alive:
                break
            if home.id in exclude or home is self or home.full or village.is_cut(self.id, home.id):
                continue
            await asyncio.sleep(4 * village.latency())
            if not home.alive:
                await asyncio.sleep(village.timeout)
                continue
            known = tuple(each.raw for each in [*holders, *result.accepted])
            answer = await home.take(Recruit(descriptor.raw, known), self.contact, home.keeper.hold)
            result.accepted.append(records.check(answer.advertisement, Advertisement, POOL))
        return result

    # ---- admission -------------------------------------------------------------------------------------------

    def host_grant(self, name: str) -> bytes:
        return b""

    async def take(self, order: Recruit, sender: Contact, taken: object = None) -> Accepted:
        descriptor = records.check(order.descriptor, Descriptor, POOL)
        object_id = names.object_id(POOL, descriptor.value.name)
        wall, ttl = self.ambient.wall(), descriptor.value.policy.ttl
        row = ReplicaRow(object_id, descriptor.raw, wall, wall + ttl if ttl else 0.0)
        self.database.put_replica(row)
        holders = [records.check(raw, Advertisement, POOL) for raw in order.holders]
        return await self.keeper.hold(descriptor, [each for each in holders if each.signer != self.id], row)

    async def release(self, object_id: ObjectId) -> None:
        self.database.drop_replica(object_id)
        self.released.append(object_id)

    def pins(self, object_id: ObjectId) -> list[Signed[Descriptor]]:
        return []

    async def bury(self, raw: bytes) -> tuple[str, Signed[Tombstone] | None]:
        tombstone = check_tombstone(raw, RIGHTS, self.ambient.wall())
        object_id = names.object_id(POOL, records.check(tombstone.value.descriptor, Descriptor, POOL).value.name)
        if self.database.setting(object_id.hex()) == raw:
            return "already gone", None
        self.database.put_setting(object_id.hex(), raw)
        return "deleted", tombstone

    async def read_chunk(self, content: bytes, index: int) -> bytes:
        from titan_overlay.errors import StorageError

        if self.lost_chunks:
            raise StorageError("the disk is broken")
        return sha256(content + bytes([index])).digest()

    # ---- fate ------------------------------------------------------------------------------------------------

    async def die(self) -> None:
        self.alive = False
        await self.keeper.close()

    def holds(self, object_id: ObjectId) -> bool:
        return self.alive and any(row.object_id == object_id for row in self.database.replicas())


class Village:
    def __init__(self, homes: int, *, seed: int = 1, **settings: float) -> None:
        self.seed = seed
        self.timeout = 2.0
        self.loss = 0.0
        """Probability that a call gets no answer, retransmissions included."""
        self.directory: dict[ObjectId, dict[NodeId, Signed[Advertisement]]] = {}
        self.tombstones: dict[ObjectId, Signed[Tombstone]] = {}
        self.bytes: dict[str, int] = {}
        self.messages: dict[str, int] = {}
        self.sides: dict[NodeId, int] = {}
        self.random = Ambient.seeded(f"village {seed}", asyncio.get_running_loop()).random
        self.config = NodeConfig(**settings)  # type: ignore[arg-type]
        self.homes = [Home(self, number, self.config) for number in range(homes)]
        self.by_id = {home.id: home for home in self.homes}
        for home in self.homes:
            home.keeper.start()

    def rebuild(self, number: int) -> Home:
        """The same node, started again with an empty memory."""
        home = Home(self, number, self.config)
        self.homes[number] = self.by_id[home.id] = home
        home.keeper.start()
        return home

    def latency(self) -> float:
        return 0.01 + 0.05 * self.random.random()

    def count(self, method: str, size: int) -> None:
        self.bytes[method] = self.bytes.get(method, 0) + size + OVERHEAD
        self.messages[method] = self.messages.get(method, 0) + 1

    def is_cut(self, a: NodeId, b: NodeId) -> bool:
        return self.sides.get(a, 0) != self.sides.get(b, 0)

    def cut(self, some: Sequence[Home]) -> None:
        self.sides = {home.id: 1 for home in some}

    def heal(self) -> None:
        self.sides = {}

    def store(self, object_id: ObjectId, raw: bytes) -> None:
        try:
            tombstone = check_tombstone(raw, RIGHTS, self.homes[0].ambient.wall())
        except Exception:
            each = records.check(raw, Advertisement, POOL)
            known = self.directory.setdefault(object_id, {})
            if each.signer not in known or known[each.signer].value.sequence < each.value.sequence:
                known[each.signer] = each
        else:
            self.tombstones[object_id] = tombstone

    async def publish(
        self,
        name: str,
        on: Sequence[int],
        policy: Policy,
        *,
        data: bool = False,
        version: int = 1,
        token_hash: bytes = b"",
    ) -> ObjectId:
        descriptor = describe(
            name, policy, self.homes[0].ambient.wall(), data=data, version=version, token_hash=token_hash
        )
        return await self.place(descriptor, on)

    async def place(self, descriptor: Signed[Descriptor], on: Sequence[int]) -> ObjectId:
        known: list[bytes] = []
        for number in on:
            home = self.homes[number]
            answer = await home.take(Recruit(descriptor.raw, tuple(known)), home.contact)
            known.append(answer.advertisement)
        return names.object_id(POOL, descriptor.value.name)

    def holders(self, object_id: ObjectId) -> list[Home]:
        return [home for home in self.homes if home.holds(object_id)]

    async def until(self, condition: Callable[[], bool], within: float) -> float:
        """Seconds of virtual time until it holds; fails after `within`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < within, f"not within {within} s"
            await asyncio.sleep(0.25)
        return loop.time() - began

    async def close(self) -> None:
        for home in self.homes:
            await home.keeper.close()


def describe(
    name: str, policy: Policy, wall: float, *, data: bool = False, version: int = 1, token_hash: bytes = b""
) -> Signed[Descriptor]:
    if data:
        content = Content(3 * 1024, 1024, bytes(32))
        value = Descriptor(
            names.content_name(sha256(name.encode()).digest()),
            "data",
            "",
            version,
            wall,
            policy,
            content=content,
            token_hash=token_hash,
        )
    else:
        value = Descriptor(name, "service", "echo", version, wall, policy, token_hash=token_hash)
    return records.sign(value, POOL_KEY if not data else OWNER, POOL)
