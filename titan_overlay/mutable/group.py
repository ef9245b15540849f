"""One member of one group: the shell around an engine and a state machine.

    what is asked -> `front.py`: Proposed, ReadAsked
    a peer's Step -> Received
    the disk      -> Persisted, and only then what may not be said before
    committed     -> executed, in order; replies and reads, changes for those who watch, the outbox, a snapshot

Everything runs in turns of the loop, in one place (`step`). What the engine says is done in its order; nothing here
decides what is committed. Each epoch has an engine and a log of its own (`drive.py`); `succession.py` leads from one to
the next.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import Forbidden, NotHere
from titan_overlay.mutable import talk
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.alarm import Alarm
from titan_overlay.mutable.clock import Clock
from titan_overlay.mutable.code import LacksCode, lacking
from titan_overlay.mutable.demand import Demand
from titan_overlay.mutable.drive import Drive
from titan_overlay.mutable.engine import (
    Checkpoint,
    Configuration,
    Engine,
    Entry,
    EntryKind,
    Event,
    LearnersChanged,
    PeerSilent,
    Ready,
    Received,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.epochs import Chain, Charter
from titan_overlay.mutable.feed import Feed
from titan_overlay.mutable.front import Front
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.outbox import Deliver, Outbox
from titan_overlay.mutable.recollection import Promise, promised
from titan_overlay.mutable.restart import Restart
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.states import States
from titan_overlay.mutable.succession import Succession
from titan_overlay.mutable.surroundings import Logs, Maker, Peers
from titan_overlay.mutable.voting_keys import GroupKeys
from titan_overlay.wire import codec

log = logging.getLogger("titan")

RESIGN_AGAIN_SECONDS = 5.0
STOPPED = "its owner gives up its epoch, whose quorum is lost"
"""Why a member takes no part."""


class Group:
    """See the module.

    Args:
        keys: with which this node votes in this group.
        head: the snapshot that `machine` has been restored to.
        descriptor: of the object, as signed.
        deliver: brings what is in the outbox.
    """

    def __init__(
        self,
        me: bytes,
        keys: GroupKeys,
        charter: Charter,
        descriptor: bytes,
        head: Head,
        machine: Machine,
        *,
        ambient: Ambient,
        maker: Maker,
        logs: Logs,
        peers: Peers,
        snapshots: Snapshots,
        absences: Absences,
        deliver: Deliver,
    ) -> None:
        self.me = me
        self.machine = machine
        self.feed = Feed(machine.changes)
        self.trouble = ""
        """Why this member takes no part any more, or empty."""
        self.absences = absences
        self.size = charter.size
        """Members that the group should have."""
        self.peers = peers
        self.loop = asyncio.get_running_loop()
        self.ambient = ambient
        self.clock = Clock(ambient)
        self.byzantine = charter.byzantine
        """Members are not believed."""
        self._led = False
        self.succession = Succession(self, keys, charter, head.chain)
        self.states = States(self, snapshots, head.checkpoint)
        self.outbox = Outbox(self, charter, descriptor, deliver)
        self._restart = Restart(self, charter)
        self._unfit = ""
        self._broken = False
        """An entry was executed by half: its state is none."""
        self._asks = False
        """It has been started again, and has yet to hear what it has promised."""
        self._maker = maker
        self._logs = logs
        self.front = Front(self, maker)
        self._demand = Demand()
        self.alarm = Alarm(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_replaced = False
        """Another node is a member in this one's place."""
        self.has_stopped = head.stopped == me
        """The owner gives its epoch up: it never takes part in that again."""
        self.on_replaced: Callable[[], object] = lambda: None
        """Called once another node is a member in this one's place."""
        self.configuration: Configuration
        self._drive: Drive

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self, restarted: bool, unfit: str = "") -> None:
        """Takes part from now on; one that did before, once it has asked the others what it promised.

        Args:
            unfit: why it cannot, or empty.
        """
        self._asks = restarted
        self._unfit = unfit
        self._begin(self.succession.current(), self.states.checkpoint)

    def wake_up(self) -> None:
        """It remembers all that it has promised."""
        self._asks = False
        self.step(TimerDue())
        self.outbox.drain()

    def begin_epoch(self, configuration: Configuration, checkpoint: Checkpoint) -> None:
        """A new engine and a new log, from a state that is on disk."""
        self.has_stopped = self._broken = False
        self._begin(configuration, checkpoint)

    def _begin(self, configuration: Configuration, checkpoint: Checkpoint) -> None:
        changed = NotHere(f"the members of {self.machine.name!r} have just changed", maybe_executed=True)
        self.front.intake.send_away(changed)
        self._led = False
        self.absences.begin_epoch()
        stopped = STOPPED if self.has_stopped else ""
        self.trouble = self._unfit or self.succession.reason_to_retire(configuration) or stopped
        if self.me not in configuration.members:
            configuration = msgspec.structs.replace(configuration, learners=(self.me,))
        self.configuration = configuration
        self.clock.keep(configuration.members)
        wal = self._logs.open(configuration.epoch)
        engine = self._maker.engine(configuration, checkpoint, wal.records)
        self._drive = Drive(self, engine, configuration.epoch, wal)
        if self.trouble:
            self.resign(self.trouble)
        else:
            self.feed.open()
            self.spawn(self.succession.erase_old_keys())
            if self._asks:
                self.spawn(self._restart.run())
            self.step(TimerDue())
            self.outbox.begin_epoch()

    def write_anew(self) -> None:
        """What it has in old segments of the node's log goes into the latest; much of it waits for a snapshot."""
        if not self.trouble and self.states.log_is_short:
            self._drive.compact()

    def end_epoch(self) -> None:
        """What the old epoch has on disk may go."""
        self._drive.end()

    async def close(self) -> None:
        """Takes no part any more; who waits is sent elsewhere."""
        self.retire("this member has stopped")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def retire(self, why: str) -> None:
        """Takes no part from now on."""
        self.trouble = self.trouble or why
        self._drive.stop()
        self.alarm.stop()
        self.succession.close()
        self.front.close(self.absent())
        self.feed.close()

    def resign(self, why: str) -> None:
        """Takes no part from now on, and asks to be replaced."""
        log.warning("%s: this node takes no part: %s", self.machine.name, why)
        self.retire(why)
        self.spawn(self._say_resigned())

    async def _say_resigned(self) -> None:
        epoch = self.configuration.epoch
        while self.trouble and self.configuration.epoch == epoch:
            for each in self.others:
                self.peers.post(each, talk.RESIGN, codec.encode(epoch))
            await asyncio.sleep(RESIGN_AGAIN_SECONDS)

    def stop(self) -> None:
        """The owner gives the epoch up: executes what the log has beyond what is known to be agreed, and ends it here.

        Raises:
            NotHere: it cannot execute that.
        """
        if self._broken:
            raise self.absent()
        for entry in self.engine.remains():
            if entry.index > self.machine.height:
                try:
                    self.feed.add(self.machine.execute(entry).changes)
                except LacksCode as why:
                    self.lacks(why)
                    raise self.absent() from None
                except Exception as why:
                    self._breaks(entry, why)
                    raise self.absent() from None
        if not self.has_stopped:
            self.has_stopped = True
            self.resign(STOPPED)

    def lacks(self, why: LacksCode) -> None:
        """It cannot run what the others run."""
        self._unfit = lacking(why)
        self.resign(self._unfit)

    def replaced(self, epoch: int) -> None:
        """Another node is a member in this one's place."""
        if not self.is_replaced:
            self.is_replaced = True
            self.retire(f"it is no member any more since epoch {epoch}")
            self.spawn(self._go())

    async def _go(self) -> None:
        """Nobody seals or signs with its keys what it might have."""
        await self.succession.forget_keys()
        self.on_replaced()

    @property
    def is_member(self) -> bool:
        """It is one, and does not only learn."""
        return self.me in self.configuration.members

    @property
    def is_absent(self) -> bool:
        """It takes no part: not any more, or not yet."""
        return self._asks or bool(self.trouble)

    def absent(self) -> NotHere:
        """For whoever asks a member that takes no part."""
        why = self.trouble or "it has just been started again, and asks the others what it has promised"
        return NotHere(f"this member of {self.machine.name!r} takes no part: {why}")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work in the background until `close`."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a member failed", self.machine.name, exc_info=task.exception())

    # ---- the engine ------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """Of this epoch."""
        return self._drive.engine

    @property
    def is_crowded(self) -> bool:
        """Its disk does not keep up."""
        return self._drive.crowded

    @property
    def others(self) -> list[bytes]:
        """The other members, and those who learn."""
        return [each for each in (*self.configuration.members, *self.configuration.learners) if each != self.me]

    @property
    def leads(self) -> bool:
        """Whether this member is the leader, as far as it knows."""
        return not self.is_absent and self.engine.leader == self.me

    def receive(self, sender: bytes, body: bytes | msgspec.Raw) -> None:
        """A `Step` from another member.

        Raises:
            BadMessage: it is none. Forbidden: the sender is no member.
        """
        step = codec.decode(body, talk.Step)
        if step.epoch != self.configuration.epoch:
            self.succession.other_epoch(sender, step.epoch)
            return
        if sender not in self.configuration.members and sender not in self.configuration.learners:
            raise Forbidden(f"only members of {self.machine.name!r} agree on its order")
        if self.is_absent:
            return
        self.absences.back(sender)
        if sender in self.configuration.members:
            self.clock.heard(sender, step.shows, self.loop.time())
        if self.is_crowded:
            return  # as if it were lost: what others have on their disks may be more than this one has room for
        for raw in step.messages:
            self.step(Received(sender, self._maker.decode(raw)))

    def silent(self, peer: bytes) -> None:
        """Nothing was heard of that node for a while, in any group."""
        self.step(PeerSilent(peer))

    def resigned(self, sender: bytes, epoch: int) -> None:
        """Another member says that it takes no part in that epoch any more."""
        if epoch != self.configuration.epoch:
            self.succession.other_epoch(sender, epoch)
        elif sender in self.configuration.members:
            self.absences.resigned(sender)

    def promised(self, sender: bytes, epoch: int) -> Promise:
        """What another member has told this one.

        Raises:
            NotHere: that epoch is over.
        """
        if epoch != self.configuration.epoch:
            self.succession.other_epoch(sender, epoch)
        if epoch < self.configuration.epoch:
            raise NotHere(f"epoch {epoch} of {self.machine.name!r} is over")
        return promised(self.engine.status(), sender) if epoch == self.configuration.epoch else Promise()

    def set_learners(self, learners: tuple[bytes, ...]) -> None:
        """Who learns from now on."""
        self.configuration = msgspec.structs.replace(self.configuration, learners=learners)
        self.step(LearnersChanged(learners))

    def disown(self, why: str) -> None:
        """This member must never vote again under its key."""
        self.resign(why)
        self.spawn(self.succession.forget_keys())

    def asked_through(self, node: bytes) -> None:
        """A request has come, by way of that node: if most do, and it is a member, it should lead."""
        if self.byzantine or not self.leads:
            return
        most = self._demand.note(node)
        if most is not None and most != self.me and most in self.configuration.members:
            self.step(TransferAsked(most))

    def hand_over_lead(self) -> None:
        """This member is about to leave: another should lead."""
        if self.leads:
            self.step(TransferAsked())

    def step(self, event: Event) -> None:
        """One event for the engine, and what follows from it."""
        if self.is_absent:
            return
        self._follow(self._drive.step(event))
        if self.leads != self._led:
            self._led = not self._led
            self._demand.forget()
            self.front.leads(self._led)
            if self._led:
                self.outbox.drain()

    def _follow(self, ready: Ready) -> None:
        self.front.take(ready)
        for entry in ready.committed:
            if self.trouble:
                return
            try:
                self._execute(entry)
            except Exception as why:
                self._breaks(entry, why)
                return
            if entry.index in ready.checkpoints:
                self.states.take(entry)
        self.front.readable(ready)
        if ready.fetch is not None:
            self.states.fetch(ready.fetch)
        if ready.shrunk:
            self._drive.compact()
        for proof in ready.evidence:
            log.warning("%s: a member has lied: %r", self.machine.name, proof)

    # ---- executing -------------------------------------------------------------------------------------------

    def _breaks(self, entry: Entry, why: Exception) -> None:
        """By half, or not at all: what follows must not be executed on top of that, and nobody go on from it."""
        self._broken = True
        log.error("%s: entry %d cannot be executed", self.machine.name, entry.index, exc_info=why)
        self.resign(f"it cannot execute entry {entry.index}: {type(why).__name__}: {why}")

    def _execute(self, entry: Entry) -> None:
        try:
            done = self.machine.execute(entry)
        except LacksCode as why:
            self.lacks(why)
            return
        self.feed.add(done.changes)
        self.front.executed(entry, done)
        self.outbox.drain()
        self.alarm.set()
        if entry.kind is EntryKind.RECONFIG:
            self.succession.ended(entry)
        else:
            self.states.executed(entry)

    # ---- states ----------------------------------------------------------------------------------------------

    def snapshot_taken(self, checkpoint: Checkpoint) -> None:
        """A snapshot is on disk."""
        self.step(SnapshotTaken(checkpoint))

    def installed(self, chain: Chain, checkpoint: Checkpoint) -> None:
        """A state from another member is on disk, and is this one's now: goes on from there."""
        self.feed.restart(self.machine.changes)
        self.front.jumped(checkpoint.index)
        if self.succession.is_news(chain):
            self.succession.adopt(chain, checkpoint)
        else:
            self.step(SnapshotInstalled(checkpoint))
            self._drive.compact()
        self.front.reached()
        self.outbox.drain()
