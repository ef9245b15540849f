"""What a node does when it is asked as an object (`node_object.py`): the part of `Node` that answers others."""

import asyncio
import os
from collections.abc import Sequence
from itertools import islice

from msgspec.structs import replace

from titan_overlay.errors import Forbidden
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact, format_address
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor, check_descriptor
from titan_overlay.member import Member
from titan_overlay.mutable.log import Log
from titan_overlay.mutable.voting_keys import VotingKeys
from titan_overlay.pool.context import Sender
from titan_overlay.pool.keeping.admission import Admission
from titan_overlay.pool.keeping.graves import object_in
from titan_overlay.pool.keeping.keeper import Keeper
from titan_overlay.pool.orders import PINS_MAX, Accepted, Holding, News, NodeInfo, Pins, Recruit, Rules, StepDown
from titan_overlay.reachability import Dialler
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.rows import ReplicaRow
from titan_overlay.version import VERSION


class Answering(Member):
    """A member that holds replicas, as others meet it. `Node` builds its rooms, starts and stops it."""

    owner: SigningKey
    """Of the user who runs it."""
    blobs: Blobs
    keeper: Keeper
    admission: Admission
    groups_log: Log
    voting_keys: VotingKeys
    dialler: Dialler
    started: float
    """Loop time."""
    stopping: asyncio.Event

    @property
    def reason(self) -> str:
        """Why this node does not serve, or empty."""
        raise NotImplementedError

    @property
    def groupless(self) -> str:
        """Why this node takes no part in mutable objects now, or empty."""
        raise NotImplementedError

    async def take(self, order: Recruit, sender: Sender) -> Accepted:
        if order.passing:
            raise Forbidden("what this node keeps in passing is what is read here, and not what others ask for")
        peer = self.links.peer_of(NodeId(order.source))
        # Nobody answers for another: neither with a place of its share, nor with its line.
        asker = peer if peer is not None and self._sender(peer).id == sender.id else None
        contact = Contact(asker.id, asker.ip, asker.port) if asker else Contact(self.key.id, "", 0)
        region = self.overlay.heard_of(contact, order.region) if asker else []
        if asker is None and sender.subnet:  # nobody sends this node anywhere without saying from where
            order = replace(order, holders=())

        async def hold(
            descriptor: Signed[Descriptor], holders: Sequence[Signed[Advertisement]], row: ReplicaRow
        ) -> Accepted:
            self.overlay.hint(row.object_id, region)
            return await self.keeper.hold(descriptor, holders, row)

        return await self.admission.recruit(order, contact, hold)

    def may_host(self, descriptor: bytes) -> bytes:
        signed = check_descriptor(descriptor, None, self.rights)
        object_id = names.object_id(self.overlay.pool, signed.value.name)
        self.admission.check(signed, object_id)
        return self.voting_keys.offer(object_id) if signed.value.kind == "mutable" else b""

    async def bury(self, tombstone: bytes) -> str:
        outcome, proven = await self.admission.bury(tombstone)
        if outcome == "deleted" and proven is not None:
            await self.keeper.deleted(proven)
        elif outcome == "unpinned" and proven is not None:
            self.keeper.unite(object_in(proven.raw, self.overlay.pool))
        return "deleted" if outcome == "unpinned" else outcome

    def pins(self, order: Pins) -> list[bytes]:
        found = (
            pin.raw
            for pin in self.admission.pins(ObjectId(order.object_id))
            if order.publisher in (b"", pin.public) and order.token_hash in (b"", pin.value.token_hash)
        )
        return list(islice(found, PINS_MAX))

    async def step_down(self, order: StepDown, sender: Sender) -> bool:
        object_id = ObjectId(order.object_id)
        held = self.host.get(object_id)
        if held is None:
            return False
        if not self.may_administer(sender, held.descriptor, order.grant):
            name = held.descriptor.value.name
            raise Forbidden(f"only who published {name!r}, or has a grant to administer it, may move it")
        await self.keeper.let_go(object_id)
        return True

    def may_administer(self, sender: Sender, descriptor: Signed[Descriptor], grant: bytes) -> bool:
        """Whether that user has a say in where the copies of an object are: as its publisher, or by a grant."""
        name, now = descriptor.value.name, self.ambient.wall()
        by_right = self.rights.allows((grant,), sender.id, Right.ADMINISTER, name, now)
        return sender.public == descriptor.public or by_right

    async def dial_back(self, agent: NodeId, address: str) -> bool:
        return await self.dialler.dial(agent, address)

    def rules(self, question: Rules) -> News:
        return self.gossip.answer(question)

    def learn(self, news: News) -> int:
        return self.gossip.learn(news)

    def hold_grant(self, raw: bytes) -> bool:
        grantee = self.rights.check_grant(raw, self.ambient.wall())[-1].value.grantee
        if grantee not in (self.key.id, self.owner.id):
            return False
        if raw not in self.grants:
            self.grants.append(raw)
            self.revise()
        return True

    def is_owner(self, public: bytes) -> bool:
        return public in (self.owner.public, self.key.public)

    def leave(self) -> None:
        self.stopping.set()

    def neighbours(self, count: int) -> list[Contact]:
        return self.overlay.neighbours(self.key.id, count)

    def info(self) -> NodeInfo:
        contact = self.overlay.contact
        cores = os.cpu_count() or 1
        return NodeInfo(
            id=self.key.id.hex(),
            address=format_address(contact.address),
            version=VERSION,
            labels=dict(self.config.labels),
            cores=cores,
            memory_bytes=_memory_bytes(),
            load=round(os.getloadavg()[0] / cores, 3),
            uptime=asyncio.get_running_loop().time() - self.started,
            objects=len(self.host.ids()) - 1,
            used_bytes=self.blobs.used(),
            max_bytes=self.config.max_bytes,
            serving=self.overlay.serving,
            hosting=not (self.config.no_host or self.admission.read_only),
            peers=len(self.overlay.table),
            pool_size=self.overlay.estimated_size(),
            reason=self.reason or self.admission.read_only or self.groupless,
            counters=self.host.counters(),
        )

    def holdings(self) -> list[Holding]:
        return self.keeper.holdings()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
