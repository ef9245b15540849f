"""What is asked of one member of a group: requests, which wait for their place in the order, and reads, which do not.

    a request     -> waits for this turn's batch -> Proposed -> Accepted (its place) -> committed -> executed -> reply
    a read        -> this turn's ReadAsked       -> ReadReady (an index) -> executed that far -> reply

What comes together in one turn of the loop is handed to the engine at its end.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from titan_overlay.errors import NotHere, Overloaded, RemotableError
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Entry, EntryKind, Proposed, Ready
from titan_overlay.mutable.epochs import Turnover
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.reads import Reads
from titan_overlay.mutable.requests import Batch, Reply, Request, failed
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group
    from titan_overlay.mutable.surroundings import Maker


class Front:
    """See the module."""

    def __init__(self, group: "Group", maker: "Maker") -> None:
        self._group = group
        self._flushing = False
        self._refs = 0
        self._reads = Reads(group, self)
        self.intake = maker.intake(group, self)

    # ---- asking ------------------------------------------------------------------------------------------------

    def submit(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        """Has a request ordered and executed; its encoded `Reply`.

        Args:
            teller: public key of the user who brings it.

        Raises (by the future too):
            NotHere: another member leads (`hint`); asking it with the same session and sequence is safe.
            Overloaded: too many wait.
        """
        if self._group.is_absent:
            raise self._group.absent()
        if self._group.is_crowded:
            name = self._group.machine.name
            raise Overloaded(f"the disk of this member of {name!r} does not keep up", retry_after=0.5)
        future = self.intake.add(request, teller)
        self.flush_soon()
        return future

    def told(self, type: str, body: Body, sender: Sender) -> Begun:
        """What groups of one kind alone are told: see `Intake`."""
        return self.intake.told(type, body, sender)

    def read(self, question: talk.Read, sender: bytes) -> "asyncio.Future[bytes]":
        """Answers a read-only handler's question, linearizable unless `stale_ok`, with an encoded `Answer`.

        Raises (by the future too):
            NotHere: this member takes no part.
        """
        group = self._group
        if group.trouble or (group.is_absent and not question.stale_ok):
            raise group.absent()
        if question.stale_ok:
            answer = group.loop.create_future()
            answer.set_result(self._answer(question, sender))
            return answer
        self.flush_soon()
        return self._reads.add(partial(self._answer, question, sender))

    def _answer(self, question: talk.Read, sender: bytes) -> bytes:
        """What the state says now."""
        request = Request(sender, 0, 0, 0, "", question.type, question.body)
        try:
            reply = Reply(self._group.machine.read(request))
        except RemotableError as why:
            reply = failed(why)
        return codec.encode(talk.Answer(reply, self._group.configuration.epoch, self._group.machine.height))

    # ---- handing on --------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """What comes together in this turn of the loop is proposed, and asked for, at its end."""
        if not self._flushing:
            self._flushing = True
            self._group.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._group.trouble:
            self.intake.flush()
            self._reads.flush()

    def new_ref(self) -> int:
        """By which the engine speaks of a proposal or a question."""
        self._refs += 1
        return self._refs

    def propose(self, requests: Sequence[Request], ref: int | None = None) -> None:
        """Hands requests to the engine, stamped with what all members must agree on."""
        group = self._group
        stamped = Batch(group.clock.time(group.loop.time()), group.ambient.token_bytes(16), tuple(requests))
        group.step(Proposed(codec.encode(stamped), ref or self.new_ref()))

    def propose_turnover(self, turnover: Turnover) -> None:
        """Ends the epoch, if the engine takes it."""
        self._group.step(Proposed(codec.encode(turnover), self.new_ref(), EntryKind.RECONFIG))

    # ---- what becomes of it ------------------------------------------------------------------------------------

    def leads(self, now: bool) -> None:
        """This member has become the leader, or is it no more."""
        if now:
            self.intake.leads_now()
            self.flush_soon()
        else:
            self.intake.leads_no_more()

    def take(self, ready: Ready) -> None:
        """What the engine says of what it was handed."""
        for refused in ready.refused:
            why = self._why_refused(refused.leader)
            self.intake.refused(refused.ref, why)
            self._reads.refused(refused.ref, why)
        for accepted in ready.accepted:
            self.intake.accepted(accepted.ref, accepted.index, accepted.term)

    def _why_refused(self, leader: bytes | None) -> RemotableError:
        if leader == self._group.me:
            name = self._group.machine.name
            return Overloaded(f"{name!r} has as much under way as it may", retry_after=0.05)
        return self._led_by(leader)

    def elsewhere(self) -> NotHere:
        """For whose request another member can answer."""
        leader = self._group.engine.leader
        return self._led_by(leader if leader != self._group.me else None, maybe_executed=True)

    def _led_by(self, leader: bytes | None, *, maybe_executed: bool = False) -> NotHere:
        name = self._group.machine.name
        if not leader:
            return NotHere(f"no member of {name!r} leads just now", maybe_executed=maybe_executed)
        return NotHere(
            f"another member of {name!r} leads",
            hint=leader,
            at=self._group.peers.where(leader),
            maybe_executed=maybe_executed,
        )

    def executed(self, entry: Entry, done: Executed) -> None:
        """An entry was executed."""
        self.intake.executed(entry, done)
        self._reads.reached(entry.index)

    def readable(self, ready: Ready) -> None:
        """What was committed has been executed: reads have an index at which they may be."""
        self._reads.ready(ready.reads, self._group.machine.height)

    def jumped(self, height: int) -> None:
        """The state is another member's, of this height."""
        self.intake.passed_over(height, self.elsewhere())

    def reached(self) -> None:
        """Reads that wait for the state as it is now."""
        self._reads.reached(self._group.machine.height)

    def close(self, why: NotHere) -> None:
        """All who wait go elsewhere."""
        self.intake.send_away(why)
        self._reads.close(why)
