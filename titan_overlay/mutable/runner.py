"""What stands behind a mutable object on one of its members: takes what is said to the group, and brings it to life."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden, LinkError, NotHere, RemotableError, StorageError, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor
from titan_overlay.mutable import talk
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.code import LacksCode, NewCode, lacking
from titan_overlay.mutable.declare import MutableType, mutable_type
from titan_overlay.mutable.engine import GENESIS, Count
from titan_overlay.mutable.epochs import Chain, Charter, Confirmation, configuration_hash
from titan_overlay.mutable.founding import Founders, charter_of
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.groups import GroupPeers, PeerLinks, Vigil
from titan_overlay.mutable.letters import Letters
from titan_overlay.mutable.log import Log
from titan_overlay.mutable.machine import Later, Machine
from titan_overlay.mutable.makers import BftMaker, RaftMaker
from titan_overlay.mutable.mending import Mending
from titan_overlay.mutable.repair import Repair
from titan_overlay.mutable.requests import Request, decode_request
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.status import status_of
from titan_overlay.mutable.voting_keys import GroupKeys, VotingKeys
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.finding.any_holder import Origin
from titan_overlay.pool.hosting.bundles import BundleLoader, Code
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body, Runner
from titan_overlay.pool.keeping.recruiter import Recruiter
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.storage.disk import Disk
from titan_overlay.wire import codec

log = logging.getLogger("titan")

CHAIN_SECONDS = 3.0
CONCURRENCY = 8192
"""Requests of one object that wait for their place in the order."""


class GroupLog:
    """One epoch of one group in the node's log."""

    def __init__(self, log: Log, group: bytes) -> None:
        self._log = log
        self._group = group
        self.records = log.take(group)
        if group not in log.groups():
            log.replace(group, [])

    def append(self, records: list[Any]) -> "asyncio.Future[None]":
        return self._log.write(self._group, [codec.encode(each) for each in records])

    def compact(self, image: list[Any]) -> None:
        self._log.replace(self._group, [codec.encode(each) for each in image])

    def drop(self) -> None:
        self._log.drop(self._group)


class GroupLogs:
    """All epochs of one group in the node's log."""

    def __init__(self, log: Log, object_id: bytes) -> None:
        self._log = log
        self._object_id = object_id

    def open(self, epoch: int) -> GroupLog:
        return GroupLog(self._log, self.key(self._object_id, epoch))

    @staticmethod
    def key(object_id: bytes, epoch: int) -> bytes:
        """What the log knows an epoch of a group by."""
        return object_id + epoch.to_bytes(8, "big")

    def drop(self) -> None:
        """Nothing in them counts any more."""
        for group in self._log.groups():
            if group.startswith(self._object_id):
                self._log.take(group)
                self._log.drop(group)


class Members:
    """The groups of which this node is a member, and what they share.

    Args:
        rights: who may publish what, and so speak for an object.
        check_caller: raises Forbidden where that user may not call that object (any more).
        may_administer: (who, object, grant) -> whether that user has a say in who its members are.
        forward: brings a message of an outbox: (where it comes from, name, type, body).
        let_go: gives up the replica of an object in which this node was replaced.
    """

    def __init__(
        self,
        me: NodeId,
        pool: PoolId,
        ambient: Ambient,
        peers: PeerLinks,
        disk: Disk,
        log: Log,
        keys: VotingKeys,
        *,
        rights: Rights,
        check_caller: Callable[[Sender, Signed[Descriptor]], None],
        may_administer: Callable[[Sender, Signed[Descriptor], bytes], bool],
        forward: Callable[[Origin, str, str, bytes], Awaitable[None]],
        founders: Founders,
        recruiter: Recruiter,
        bundles: BundleLoader,
        let_go: Callable[[ObjectId], None],
    ) -> None:
        self._bundles = bundles
        self._founders = founders
        self._recruiter = recruiter
        self._let_go = let_go
        self.me = me
        self.pool = pool
        self.ambient = ambient
        self.peers = peers
        self.letters = Letters(rights)
        self.check_caller = check_caller
        self.may_administer = may_administer
        self._disk = disk
        self._log = log
        self._keys = keys
        self._forward = forward
        self.vigil = Vigil(peers)
        self.runners: dict[ObjectId, GroupRunner] = {}
        """Of all groups that this node has a part in."""
        self._mending = Mending(disk, self._begin_anew)
        self._watch(log)

    def _watch(self, log: Log) -> None:
        log.on_held_back = self._write_anew
        log.on_full = self._mending.begin

    @property
    def trouble(self) -> str:
        """Why this node can be no member of any group now, or empty."""
        return self._log.failed

    async def _begin_anew(self) -> bool:
        """Each group is closed, and opened from what the log has on disk; whether that can be written.

        Raises:
            StorageError: the disk is full, or broken; the groups take no part.
        """
        runners = list(self.runners.values())
        for each in runners:
            await each.pause()
        await self._log.close()
        self._log = await Log.open(self._disk, self.me, self.ambient, self._log.settings)
        self._watch(self._log)
        for each in runners:
            await each.go_on()
        return not self._log.failed

    def _write_anew(self, key: bytes) -> None:
        group = self.vigil.group(ObjectId(key[:ID_BYTES]))
        if group is not None and key == GroupLogs.key(group.machine.object_id, group.configuration.epoch):
            group.write_anew()

    def load(self, new: NewCode) -> MutableType:
        """The class that is to take an object over. LacksCode: it does not run on this node."""
        try:
            return mutable_type(self._bundles.code(new.bundle, new.type, new.owner).cls)
        except (RemotableError, TypeError) as why:
            raise LacksCode(str(why)) from None

    def runner(
        self, code: Code, descriptor: Signed[Descriptor], object_id: ObjectId, sources: Sequence[Contact]
    ) -> "GroupRunner":
        """For the table of runners by kind."""
        return GroupRunner(self, code, descriptor, object_id, sources)

    async def open(
        self, object_id: ObjectId, descriptor: Signed[Descriptor], kind: MutableType, sources: Sequence[Contact]
    ) -> tuple[Group, Repair]:
        """Brings this node's part in a group to life: from its disk, or, if it is new there, from who the members are.

        Raises:
            Unavailable: nobody shows who the members are. StorageError: what is on the disk is damaged.
        """
        value = descriptor.value
        snapshots = Snapshots(self._disk, object_id)
        charter = charter_of(descriptor, object_id, self.pool)
        machine = Machine(
            kind,
            kind.cls(),
            value.name,
            object_id,
            owner=descriptor.public,
            load=self.load,
            arrivals=charter.most_liars + 1,
        )
        lacks = ""
        logs = GroupLogs(self._log, object_id)
        kept = await snapshots.newest()
        if kept is not None and await self._is_over(kept.head.chain, charter, sources):
            await snapshots.remove()
            logs.drop()
            kept = None
        # Before there are keys: what comes to nothing leaves none behind.
        chain = await self._chain(charter, sources) if kept is None else kept.head.chain
        keys = await self._keys.open(object_id)
        if kept is None:
            head = Head(object_id, GENESIS, chain)
            await snapshots.write(head, machine.snapshot())
        else:
            restoring = machine.restoring()
            try:
                async for chunk in snapshots.chunks(kept):
                    restoring.add(chunk)
                restoring.finish()
            except LacksCode as why:
                lacks = lacking(why)
            head = kept.head
            if charter.byzantine and head.checkpoint != GENESIS:
                head = msgspec.structs.replace(head, checkpoint=kept.checkpoint)

        async def deliver(later: Later, seal: bytes) -> None:
            await self._forward((object_id, later.number, seal), later.name, later.type, later.body)

        absences = Absences(self.vigil)
        group = Group(
            self.me,
            keys,
            charter,
            descriptor.raw,
            head,
            machine,
            ambient=self.ambient,
            maker=self._maker(charter, keys, absences),
            logs=logs,
            peers=GroupPeers(self.peers, object_id),
            snapshots=snapshots,
            absences=absences,
            deliver=deliver,
        )
        group.start(restarted=kept is not None, unfit=lacks)
        group.on_replaced = partial(self._let_go, object_id)
        self.vigil.add(object_id, group)
        repair = Repair(
            group,
            descriptor,
            object_id,
            absences=absences,
            founders=self._founders,
            recruiter=self._recruiter,
        )
        group.spawn(repair.run())
        return group, repair

    async def _is_over(self, chain: Chain, charter: Charter, sources: Sequence[Contact]) -> bool:
        """What is on disk is of an object that had this name earlier, or of a membership that has ended.

        A node that was replaced may be chosen again. Were it to go on from what it has, it would find that it has been
        replaced, and leave.
        """
        if configuration_hash(chain.genesis) != charter.genesis:
            return True
        mine = charter.current(chain)
        if not sources or self.me not in mine.members:
            return False
        try:
            now = charter.current(await self._chain(charter, sources))
        except RemotableError:
            return False
        return now.epoch > mine.epoch and self.me not in now.members

    def _maker(self, charter: Charter, keys: GroupKeys, absences: Absences) -> "RaftMaker | BftMaker":
        if charter.byzantine:
            return BftMaker(self.me, keys, charter, self.ambient, absences, self.letters)
        return RaftMaker(self.me, self.ambient)

    async def _chain(self, charter: Charter, sources: Sequence[Contact]) -> Chain:
        """Who the members are, from whoever asked this node to be one, or from one of them."""
        failure = "nobody to ask"
        for source in sources:
            try:
                answer = await self.peers.ask_at(
                    source, ObjectId(charter.object_id), talk.EPOCHS, talk.NOTHING, CHAIN_SECONDS
                )
                chain = codec.decode(answer, Chain)
                charter.current(chain)
            except (LinkError, RemotableError) as why:
                failure = str(why)
                continue
            return chain
        raise Unavailable(f"nobody shows who the members are: {failure}")

    def left(self, object_id: ObjectId) -> None:
        """This node takes no part in that group for now."""
        self.vigil.remove(object_id)
        self._keys.close(object_id)

    async def discard(self, object_id: ObjectId) -> None:
        """This node is no member of that group any more. What its log had of it would keep all that came after."""
        try:
            await Snapshots(self._disk, object_id).remove()
            GroupLogs(self._log, object_id).drop()
            await self._keys.remove(object_id)
        except StorageError as why:
            log.warning("what is left of %s stays on disk: %s", object_id.hex()[:12], why)

    async def close(self) -> None:
        await self._mending.close()
        await self.vigil.close()
        await self.peers.close()
        await self._log.close()


class GroupRunner(Runner):
    """See the module."""

    types = talk.TYPES
    plain = frozenset(
        {
            talk.STEP,
            talk.EPOCHS,
            talk.CHAIN,
            talk.CONFIRM,
            talk.PROMISED,
            talk.RESIGN,
            talk.STATUS,
            talk.CATCH_UP,
            talk.VOUCH,
            talk.SHARED_KEY,
            talk.SEALS,
            talk.ARRIVED,
        }
    )
    promises = frozenset({talk.SUBMIT, talk.ENTRUST, talk.FORWARD, talk.READ})
    streams = frozenset({talk.WATCH})
    concurrency = CONCURRENCY
    mailbox = CONCURRENCY

    def __init__(
        self,
        members: Members,
        code: Code,
        descriptor: Signed[Descriptor],
        object_id: ObjectId,
        sources: Sequence[Contact],
    ) -> None:
        self._sources = sources
        self._members = members
        self._kind = mutable_type(code.cls)
        self._descriptor = descriptor
        self._object_id = object_id
        self.bundle = code.origin.bundle
        self.group: Group
        self._repair: Repair

    def schema(self) -> dict[str, MessageSchema]:
        return self.group.machine.kind.schema()

    async def start(self, context: Context) -> None:
        await self._open()
        self._members.runners[self._object_id] = self

    async def _open(self) -> None:
        opened = await self._members.open(self._object_id, self._descriptor, self._kind, self._sources)
        self.group, self._repair = opened

    async def pause(self) -> None:
        """Takes no part until `go_on`."""
        self._members.left(self._object_id)
        await self.group.close()

    async def go_on(self) -> None:
        """Takes part again, from what is on disk, unless it was closed meanwhile."""
        if not self._is_held():
            return
        try:
            await self._open()
        except (RemotableError, StorageError) as why:
            log.warning("%s: takes no part until this node is started again: %s", self.group.machine.name, why)
        if not self._is_held():
            await self.pause()

    def _is_held(self) -> bool:
        return self._members.runners.get(self._object_id) is self

    async def close(self) -> None:
        if self._is_held():
            del self._members.runners[self._object_id]
        await self.pause()

    async def discard(self, *, deleted: bool) -> None:
        # Whoever is let go for another reason may be a member still, and the group need what it has on disk.
        if deleted or self.group.is_replaced:
            await self._members.discard(self._object_id)

    def call(self, type: str, body: Body, context: Context) -> Begun:
        if type == talk.STEP:
            self.group.receive(context.sender.id, body)
            return talk.NOTHING
        if type == talk.SUBMIT:
            return self._submit(decode_request(body), context)
        if type in talk.BYZANTINE:
            return self.group.front.told(type, body, context.sender)
        if type == talk.READ:
            return self.group.front.read(codec.decode(body, talk.Read), context.sender.public)
        if type == talk.FORWARD:
            return self._forwarded(decode_request(body))
        if type == talk.EPOCHS:
            return codec.encode(self.group.succession.chain)
        if type == talk.CHAIN:
            self.group.succession.learn(codec.decode(body, Chain))
            return talk.NOTHING
        if type == talk.CONFIRM:
            self.group.succession.confirmed(context.sender.id, codec.decode(body, Confirmation))
            return talk.NOTHING
        if type == talk.PROMISED:
            return codec.encode(self.group.promised(context.sender.id, codec.decode(body, Count)))
        if type == talk.RESIGN:
            self.group.resigned(context.sender.id, codec.decode(body, Count))
            return talk.NOTHING
        if type == talk.NEXT_KEY:
            return self._next_key(context)
        if type == talk.CATCH_UP:
            self.group.succession.catch_up(codec.decode(body, talk.Recover))
            return talk.NOTHING
        if type == talk.RECOVER:
            return self._lay_down(codec.decode(body, talk.Recover))
        if type == talk.CAN_RUN:
            return self._can_run(codec.decode(body, NewCode), context)
        if type == talk.STATE:
            return self._piece(codec.decode(body, talk.StateWanted), context)
        if type == talk.ADMIT:
            return self._admit(codec.decode(body, talk.Admit), context)
        if type == talk.WATCH:
            return self._watch(codec.decode(body, talk.Watch).start, context.sender)
        return codec.encode(status_of(self.group))

    def _submit(self, request: Request, context: Context) -> "asyncio.Future[bytes]":
        if not self.group.byzantine and request.sender != context.sender.public:
            # Who asks is what the link has proven, whatever the request says.
            request = msgspec.structs.replace(request, sender=context.sender.public)
        return self.group.front.submit(request, context.sender.public)

    def _forwarded(self, letter: Request) -> "asyncio.Future[bytes]":
        """To members that are believed; others are sent a letter as any request, and each looks at the seal itself."""
        if self.group.byzantine or not letter.is_letter:
            raise BadMessage("this is no letter to members that are believed")
        self._members.letters.receive(letter, self._object_id)
        return self.group.front.submit(msgspec.structs.replace(letter, proof=b""), letter.sender)

    async def _next_key(self, context: Context) -> bytes:
        if context.sender.id not in self.group.configuration.members or self.group.is_absent:
            raise Forbidden(f"only members of {context.name!r} end its epoch")
        return codec.encode(await self.group.succession.offer())

    async def _lay_down(self, recover: talk.Recover) -> bytes:
        return codec.encode(await self.group.succession.lay_down(recover))

    async def _can_run(self, new: NewCode, context: Context) -> bytes:
        if context.sender.public != self._descriptor.public:
            raise Forbidden(f"only the key that published {context.name!r} replaces its code")
        try:
            self._members.load(new)
        except LacksCode as why:
            return codec.encode(str(why))
        return codec.encode("")

    async def _piece(self, wanted: talk.StateWanted, context: Context) -> bytes:
        if not self.group.succession.knows(context.sender.id):
            raise Forbidden(f"only members of {context.name!r} fetch its state")
        return codec.encode(await self.group.states.piece(wanted))

    async def _admit(self, order: talk.Admit, context: Context) -> bytes:
        if not self._members.may_administer(context.sender, self._descriptor, order.grant):
            raise Forbidden(f"only who published {context.name!r}, or has a grant to administer it, names its members")
        if self.group.byzantine:
            raise BadMessage(
                f"{context.name!r} has as many members as its policy says: how many may lie follows from it"
            )
        if len(order.node) != ID_BYTES:
            raise BadMessage("a node's id has 32 bytes")
        await self._repair.admit(NodeId(order.node))
        return talk.NOTHING

    async def _watch(self, start: int, sender: Sender) -> AsyncIterator[bytes]:
        """A right may end long before a stream does; who has got another meanwhile shows it by asking again."""
        async for change in self.group.feed.watch(start):
            try:
                self._members.check_caller(sender, self._descriptor)
            except Forbidden as why:
                raise NotHere(f"the right to watch has ended ({why}); whoever has another may watch on") from None
            yield codec.encode(change)
