"""The groups of which a node is a member: each is opened from disk or from its other members, and all share one log."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError, RemotableError, StorageError, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor
from titan_overlay.mutable import talk
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.code import LacksCode, NewCode, lacking
from titan_overlay.mutable.declare import MutableType, mutable_type
from titan_overlay.mutable.engine import GENESIS
from titan_overlay.mutable.epochs import Chain, Charter, configuration_hash
from titan_overlay.mutable.founding import Founders, charter_of
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.groups import GroupPeers, PeerLinks, Vigil
from titan_overlay.mutable.letters import Letters
from titan_overlay.mutable.log import Log
from titan_overlay.mutable.machine import Later, Machine
from titan_overlay.mutable.makers import BftMaker, RaftMaker
from titan_overlay.mutable.mending import Mending
from titan_overlay.mutable.repair import Repair
from titan_overlay.mutable.runner import GroupRunner
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.voting_keys import GroupKeys, VotingKeys
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.any_holder import Origin
from titan_overlay.pool.hosting.bundles import BundleLoader, Code
from titan_overlay.pool.keeping.recruiter import Recruiter
from titan_overlay.storage.disk import Disk
from titan_overlay.wire import codec

log = logging.getLogger("titan")

CHAIN_SECONDS = 3.0


class GroupLog:
    """One epoch of one group in the node's log."""

    def __init__(self, log: Log, group: bytes) -> None:
        self._log = log
        self._group = group
        self.records = log.take(group)
        if group not in log.groups():
            log.replace(group, [])

    @property
    def crowded(self) -> bool:
        return self._log.crowded

    def append(self, records: list[Any]) -> "asyncio.Future[None]":
        return self._log.write(self._group, [codec.encode(each) for each in records])

    def compact(self, image: Iterable[Any]) -> bool:
        if self._log.crowded:
            return False
        self._log.replace(self._group, map(codec.encode, image))
        return True

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
    ) -> GroupRunner:
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
