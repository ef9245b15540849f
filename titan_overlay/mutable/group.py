"""One member of one group: the shell around an engine and a state machine.

    a request     -> waits for this turn's batch -> Proposed -> Accepted (its place) -> committed -> executed -> reply
    a read        -> this turn's ReadAsked       -> ReadReady (an index) -> executed that far -> reply
    a peer's Step -> Received
    the disk      -> Persisted, and only then what may not be said before

Everything runs in turns of the loop, in one place (`step`). What the engine says is done in its order; nothing here
decides what is committed. Each epoch has an engine and a log of its own (`drive.py`); `succession.py` leads from one to
the next.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import Forbidden, NotHere, Overloaded, RemotableError
from titan_overlay.mutable import talk
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.code import LacksCode, lacking
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
    Proposed,
    Ready,
    Received,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.epochs import Chain, Charter, Confirmation, Turnover
from titan_overlay.mutable.feed import Feed
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.outbox import Deliver, Outbox
from titan_overlay.mutable.reads import Reads
from titan_overlay.mutable.recollection import Promise, promised
from titan_overlay.mutable.requests import Batch, Reply, Request, failed
from titan_overlay.mutable.restart import Restart
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.mutable.states import States
from titan_overlay.mutable.succession import Succession
from titan_overlay.mutable.surroundings import Logs, Maker, Peers
from titan_overlay.mutable.voting_keys import GroupKeys
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body
from titan_overlay.wire import codec

log = logging.getLogger("titan")

RESIGN_AGAIN_SECONDS = 5.0
TIMER_SECONDS_MIN = 0.05
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
        self.byzantine = charter.byzantine
        """Members are not believed."""
        self._led = False
        self.succession = Succession(self, keys, charter, head.chain)
        self.states = States(self, snapshots, head.checkpoint)
        self.outbox = Outbox(self, charter, descriptor, deliver)
        self._restart = Restart(self, charter)
        self._unfit = ""
        self._asks = False
        """It has been started again, and has yet to hear what it has promised."""
        self._maker = maker
        self._logs = logs
        self._flushing = False
        self._refs = 0
        self._intake = maker.intake(self)
        self._reads = Reads(self)
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._replaced = False
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
        self.has_stopped = False
        self._begin(configuration, checkpoint)

    def _begin(self, configuration: Configuration, checkpoint: Checkpoint) -> None:
        changed = NotHere(f"the members of {self.machine.name!r} have just changed", maybe_executed=True)
        self._intake.send_away(changed)
        self._led = False
        self.absences.begin_epoch()
        stopped = STOPPED if self.has_stopped else ""
        self.trouble = self._unfit or self.succession.reason_to_retire(configuration) or stopped
        if self.me not in configuration.members:
            configuration = msgspec.structs.replace(configuration, learners=(self.me,))
        self.configuration = configuration
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
        if self._wake is not None:
            self._wake.cancel()
        self.succession.close()
        self._intake.send_away(self.absent())
        self._reads.close(self.absent())
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
        try:
            for entry in self.engine.remains():
                if entry.index > self.machine.height:
                    self.feed.add(self.machine.execute(entry).changes)
        except LacksCode as why:
            self.lacks(why)
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
        if not self._replaced:
            self._replaced = True
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

    def elsewhere(self) -> NotHere:
        """For whose request another member can answer."""
        leader = self.engine.leader
        hint = leader if leader is not None and leader != self.me else b""
        return NotHere(f"another member of {self.machine.name!r} leads", hint=hint, maybe_executed=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work in the background until `close`."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a member failed", self.machine.name, exc_info=task.exception())

    # ---- requests and reads ------------------------------------------------------------------------------------

    def submit(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        """Has a request ordered and executed; its encoded `Reply`.

        Args:
            teller: public key of the user who brings it.

        Raises (by the future too):
            NotHere: another member leads (`hint`); asking it with the same session and sequence is safe.
            Overloaded: too many wait.
        """
        if self.is_absent:
            raise self.absent()
        future = self._intake.add(request, teller)
        self.flush_soon()
        return future

    def told(self, type: str, body: Body, sender: Sender) -> Begun:
        """What groups of one kind alone are told: see `Intake`."""
        return self._intake.told(type, body, sender)

    def read(self, question: talk.Read, sender: bytes) -> "asyncio.Future[bytes]":
        """Answers a read-only handler's question, linearizable unless `stale_ok`, with an encoded `Answer`.

        Raises (by the future too):
            NotHere: this member takes no part.
        """
        if self.trouble or (self.is_absent and not question.stale_ok):
            raise self.absent()
        if question.stale_ok:
            answer = self.loop.create_future()
            answer.set_result(self._answer(question, sender))
            return answer
        self.flush_soon()
        return self._reads.add(partial(self._answer, question, sender))

    def _answer(self, question: talk.Read, sender: bytes) -> bytes:
        """What the state says now."""
        request = Request(sender, 0, 0, 0, "", question.type, question.body)
        try:
            reply = Reply(self.machine.read(request))
        except RemotableError as why:
            reply = failed(why)
        return codec.encode(talk.Answer(reply, self.configuration.epoch, self.machine.height))

    def flush_soon(self) -> None:
        """What comes together in this turn of the loop is proposed, and asked for, at its end."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self.trouble:
            self._intake.flush()
            self._reads.flush()

    def new_ref(self) -> int:
        """By which the engine speaks of a proposal or a question."""
        self._refs += 1
        return self._refs

    def propose(self, requests: Sequence[Request], ref: int | None = None) -> None:
        """Hands requests to the engine, stamped with what all members must agree on."""
        stamped = Batch(self.ambient.wall(), self.ambient.token_bytes(16), tuple(requests))
        self.step(Proposed(codec.encode(stamped), ref or self.new_ref()))

    def propose_turnover(self, turnover: Turnover) -> None:
        """Ends the epoch, if the engine takes it."""
        self.step(Proposed(codec.encode(turnover), self.new_ref(), EntryKind.RECONFIG))

    # ---- the engine ------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """Of this epoch."""
        return self._drive.engine

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
            if self._led:
                self._intake.leads_now()
                self.flush_soon()
                self.outbox.drain()
            else:
                self._intake.leads_no_more()

    def _follow(self, ready: Ready) -> None:
        for refused in ready.refused:
            why = self._why_refused(refused.leader)
            self._intake.refused(refused.ref, why)
            self._reads.refused(refused.ref, why)
        for accepted in ready.accepted:
            self._intake.accepted(accepted.ref, accepted.index, accepted.term)
        for entry in ready.committed:
            if self.trouble:
                return
            self._execute(entry)
            if entry.index in ready.checkpoints:
                self.states.agree(entry)
        self._reads.ready(ready.reads, self.machine.height)
        if ready.fetch is not None:
            self.states.fetch(ready.fetch)
        for proof in ready.evidence:
            log.warning("%s: a member has lied: %r", self.machine.name, proof)

    def _why_refused(self, leader: bytes | None) -> RemotableError:
        name = self.machine.name
        if leader == self.me:
            return Overloaded(f"{name!r} has as much under way as it may", retry_after=0.05)
        return NotHere(
            f"another member of {name!r} leads" if leader else f"no member of {name!r} leads just now",
            hint=leader or b"",
        )

    # ---- executing -------------------------------------------------------------------------------------------

    def _execute(self, entry: Entry) -> None:
        try:
            done = self.machine.execute(entry)
        except LacksCode as why:
            self.lacks(why)
            return
        self.feed.add(done.changes)
        self._intake.executed(entry, done)
        self._reads.reached(self.machine.height)
        self.outbox.drain()
        self._set_wake()
        if entry.kind is EntryKind.RECONFIG:
            self.succession.ended(entry)
        else:
            self.states.executed(entry)

    def _set_wake(self) -> None:
        """Agreed timers need somebody to say what time it is: whoever leads, with an empty batch."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        due = self.machine.due()
        if due is not None and not self.trouble:
            pause = max(TIMER_SECONDS_MIN, due - self.ambient.wall())
            self._wake = self.loop.call_later(pause, self._tell_time)

    def _tell_time(self) -> None:
        self._wake = None
        if self.leads:
            self.propose(())
        else:
            self._intake.timer_waits()
        self._set_wake()

    # ---- states ----------------------------------------------------------------------------------------------

    @property
    def chain(self) -> Chain:
        """Who has been a member, from the founding on."""
        return self.succession.chain

    def learn(self, chain: Chain) -> None:
        """Somebody shows that there are later epochs. BadMessage: it does not hold."""
        self.succession.learn(chain)

    def confirmed(self, sender: bytes, confirmation: Confirmation) -> None:
        """A member's signature under the next epoch. BadMessage: it does not hold."""
        self.succession.confirmed(sender, confirmation)

    def snapshot_taken(self, checkpoint: Checkpoint) -> None:
        """A snapshot is on disk: the log before it may go."""
        self.step(SnapshotTaken(checkpoint))
        self._drive.compact()

    def installed(self, chain: Chain, checkpoint: Checkpoint) -> None:
        """A state from another member is on disk, and is this one's now: goes on from there."""
        self.feed.restart(self.machine.changes)
        self._intake.passed_over(checkpoint.index, self.elsewhere())
        if self.succession.is_news(chain):
            self.succession.adopt(chain, checkpoint)
        else:
            self.step(SnapshotInstalled(checkpoint))
            self._drive.compact()
        self._reads.reached(self.machine.height)
        self.outbox.drain()

    def status(self) -> talk.MemberStatus:
        """How this member sees its group."""
        status = self.engine.status()
        return talk.MemberStatus(
            member=self.me.hex(),
            role=talk.GIVEN_UP if self.has_stopped else status.role,
            leader=status.leader.hex() if status.leader else "",
            epoch=self.configuration.epoch,
            term=status.term,
            members=tuple(each.hex() for each in self.configuration.members),
            learners=tuple(each.hex() for each in self.configuration.learners),
            first=status.first,
            last=status.last,
            committed=status.committed,
            executed=self.machine.height,
            snapshot=self.states.checkpoint.index,
            trouble=self.trouble or ("" if not self._asks else "it asks the others what it has promised"),
        )
