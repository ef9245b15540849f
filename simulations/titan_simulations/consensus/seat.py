"""A machine's seat in one epoch: it does what the engine's `Ready` says."""

from typing import TYPE_CHECKING, Any

import msgspec

from titan_overlay.mutable.engine import (
    Checkpoint,
    Configuration,
    Event,
    Persisted,
    Proposed,
    ReadAsked,
    Ready,
    RequestsWait,
    Send,
    TimerDue,
)
from titan_simulations.consensus.bodies import ForEngine, encode
from titan_simulations.consensus.disk import Written
from titan_simulations.consensus.store import Action, Request

if TYPE_CHECKING:
    from titan_simulations.consensus.machine import Machine

GATHER_SECONDS = 0.0003
"""Requests that come within it become one batch."""


class Seat:
    """One engine and its shell."""

    def __init__(
        self, machine: "Machine", configuration: Configuration, checkpoint: Checkpoint, records: list[Any]
    ) -> None:
        self.machine = machine
        self.epoch = configuration.epoch
        self.base = checkpoint.index
        self.engine = machine.make(machine.id, configuration, checkpoint, records, machine.random)
        self._due: float | None = None
        self._armed: float | None = None
        self._refs = 0
        self._unhurried: list[Any] = []
        """For the disk, with what is written next."""
        self._gathered: list[Request] = []
        self._proposed: dict[int, list[Request]] = {}
        self._reads: dict[int, Request] = {}
        self._ready_reads: list[tuple[int, Request]] = []
        self._oldest: tuple[int, int] | None = None
        self._leads = False
        self._role = ""

    def begin(self) -> None:
        """The engine's first event."""
        self.step(TimerDue())

    def step(self, event: Event) -> None:
        """One event in, its effects out."""
        self._obey(self.engine.step(event, self.machine.clock()))

    # ---- requests ----------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """A client's request: a read of its own, or one that joins the next batch."""
        machine = self.machine
        machine.asked.setdefault((request.client, request.sequence), request)
        if request.action is Action.READ and machine.kind.reads_apart:
            ref = self._next_ref()
            self._reads[ref] = request
            self.step(ReadAsked(ref))
            return
        self._gathered.append(request)
        if len(self._gathered) == 1:
            machine.after(GATHER_SECONDS, self._propose)
        self._tell_of_waiting()

    def propose(self, proposed: Proposed) -> None:
        """Something of the shell's own."""
        self.step(proposed)

    def _propose(self) -> None:
        batch, self._gathered = self._gathered, []
        if not batch:
            return
        ref = self._next_ref()
        self._proposed[ref] = batch
        self.step(Proposed(encode(batch), ref))

    def _tell_of_waiting(self) -> None:
        """A leader is measured by the request that has waited longest."""
        oldest = next(iter(self.machine.asked), None)
        if self.machine.kind.everybody and oldest != self._oldest:
            self._oldest = oldest
            self.step(RequestsWait(oldest is not None))

    def _take_over(self) -> None:
        """A new leader orders what the old one has left, where clients have asked everybody."""
        leads = self.engine.leader == self.machine.id
        if leads and not self._leads and self.machine.kind.everybody and self.machine.asked:
            self._gathered = [*self.machine.asked.values()]
            self.machine.after(GATHER_SECONDS, self._propose)
        self._leads = leads

    def _next_ref(self) -> int:
        self._refs += 1
        return self._refs

    # ---- effects -----------------------------------------------------------------------------------------------

    def _obey(self, ready: Ready) -> None:
        machine = self.machine
        self._send(ready.send_now)
        self._unhurried += ready.unhurried
        if ready.persist or ready.send_after_persist:
            records = [encode(record) for record in (*self._unhurried, *ready.persist)] if ready.persist else []
            self._unhurried = [] if ready.persist else self._unhurried
            life = machine.life
            machine.disk.write(
                Written(self.epoch, False, records), lambda: machine.live(life, lambda: self._persisted(ready))
            )
        for accepted in ready.accepted:
            self._proposed.pop(accepted.ref, None)
        for refused in ready.refused:
            self._refused(refused.ref, refused.leader)
        for entry in ready.committed:
            machine.execute(self, entry, entry.index in ready.checkpoints)
        self._ready_reads += [
            (read.index, self._reads.pop(read.ref)) for read in ready.reads if read.ref in self._reads
        ]
        if self._ready_reads:
            self._read()
        if ready.committed:
            self._tell_of_waiting()
        if ready.fetch is not None and machine.seats.get(self.epoch) is self:
            machine.transfer.begin(machine.random.choice(ready.fetch.sources))
        if ready.committed and self.epoch == machine.epoch:
            machine.seats.pop(self.epoch - 1, None)  # this epoch works
        self._take_over()
        self._due = ready.timer
        self._arm()
        if machine.world.transcript is not None:
            self._tell()

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            self.machine.transmit(send.to, ForEngine(self.epoch, msgspec.Raw(encode(send.message))))

    def _persisted(self, ready: Ready) -> None:
        self._send(ready.send_after_persist)
        if ready.persist and self.machine.seats.get(self.epoch) is self:
            self.step(Persisted(ready.number))

    def _refused(self, ref: int, leader: bytes | None) -> None:
        requests = self._proposed.pop(ref, [])
        read = self._reads.pop(ref, None)
        if read is not None:
            self.machine.refuse(read, leader)
        elif not self.machine.kind.everybody:
            for request in requests:
                self.machine.refuse(request, leader)

    def _read(self) -> None:
        machine = self.machine
        later = []
        for index, request in self._ready_reads:
            if index <= machine.executed:
                machine.answer(request, machine.store.read(request.key))
            else:
                later.append((index, request))
        self._ready_reads = later

    # ---- time --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        # A timer that was set too early looks again when it goes off; only an earlier one needs a new one.
        if self._due is not None and (self._armed is None or self._due < self._armed):
            due = self._armed = self._due
            self.machine.after(max(1e-6, due - self.machine.clock()), lambda: self._timer(due))

    def _timer(self, due: float) -> None:
        if self._armed != due or self.machine.seats.get(self.epoch) is not self:
            return
        self._armed = None
        if self._due is not None and self.machine.clock() >= self._due:
            self.step(TimerDue())
        else:
            self._arm()

    def _tell(self) -> None:
        status = self.engine.status()
        role = f"{status.role} of term {status.term}" + (", asleep" if status.asleep else "")
        if role != self._role:
            self._role = role
            self.machine.world.say(self.machine, f"is {role} in epoch {self.epoch}")
