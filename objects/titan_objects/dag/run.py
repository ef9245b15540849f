"""A run as an object of the pool: its journal is its state, so it goes on whichever of its members die.

Workers come by themselves: one message (`Sync`) says what they have done, what they still do, and how much they could
take, and is answered with what to do next.
"""

from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import (
    Begin,
    Cancel,
    Decide,
    Entry,
    Event,
    Lease,
    Release,
    Renew,
    Report,
    Rerun,
    Resume,
    Spawn,
    Suspend,
    Tick,
)
from titan_objects.dag.messages import (
    LINES_AT_ONCE,
    Act,
    Export,
    Line,
    Lines,
    Look,
    Ready,
    Result,
    RunView,
    Spawned,
    Start,
    Started,
    Sync,
    Synced,
    TakeOver,
    TaskView,
    Wake,
    portions,
)
from titan_objects.dag.queue import Close
from titan_objects.dag.steps import DONE, Instance

LOG_BYTES_MAX = 8 << 20
"""Kept of a run's logs: what is older is dropped, and counted."""
LINE_BYTES_MAX = 4 << 10
KEY_LENGTH_MAX = 200
ORDERS_AT_ONCE = 1000
SPARE = 64
EARLY_SECONDS = 0.001
"""By so much a timer may come too early: it was rounded."""


class _Rest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A run's state, but for its journal and its logs: the first chunk of a snapshot."""

    owner: bytes
    voice: bytes
    started_by: bytes
    workers: list[str]
    next_line: int
    lines_of: dict[int, int]
    alarm: float
    queue: str
    told: str
    turns: dict[str, int] = {}


class _Logged(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chunk of its logs."""

    lines: list[Line]


class _Happened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chunk of its journal."""

    entries: list[Entry]


@titan.mutable("*", policy=titan.Policy(faults=1))
class Run:
    """One run of a DAG."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.owner = b""
        self.voice = b""
        """Id of this object: under it, the run itself speaks to its queue."""
        self._started_by = b""
        """Digest of what began it."""
        self.workers: frozenset[str] = frozenset()
        self.lines: deque[Line] = deque()
        self.next_line = 0
        self._lines_of: dict[int, int] = {}
        """How many lines were taken under each epoch: what comes twice is kept once."""
        self._turns: dict[str, int] = {}
        """Of each worker that has something: the turn of what it said last."""
        self.queue = ""
        self._told = ""
        """The state that the queue knows."""
        self._log_bytes = 0
        self._alarm = float("inf")

    # ---- the owner -------------------------------------------------------------------------------------------

    def start(self, m: Start, ctx: titan.Context) -> Started:
        """Begins. Of the same again, from the same sender, it says how it is.

        Raises:
            Forbidden: the name is another's. Conflict: another run has begun here.
        """
        who = _who(ctx)
        if ctx.name.startswith("~") and not ctx.name.startswith(f"~{who}/"):
            raise titan.Forbidden(f"only the key in whose space {ctx.name!r} lies may begin it, and {who} is another")
        digest = sha256(msgspec.msgpack.encode([ctx.sender.id, m], order="deterministic")).digest()
        if self.engine.definition is None:
            self._step(Begin(m.definition, m.params, who), ctx)
            self.owner, self.workers, self.voice = ctx.sender.id, frozenset(m.workers), ctx.object_id
            self.queue, self._told, self._started_by = m.queue, self._openness, digest
        elif digest != self._started_by:
            raise titan.Conflict(f"another run has begun as {ctx.name!r}: its definition, code or parameters differ")
        return Started(self._openness, self.voice)

    def take_over(self, m: TakeOver, ctx: titan.Context) -> None:
        """Takes over what another run has come to."""
        self._check_owner(ctx)
        self._step(m.found, ctx)

    def act(self, m: Act, ctx: titan.Context) -> str:
        """Does what its owner wants."""
        self._check_owner(ctx)
        who, tasks = _who(ctx), tuple(m.tasks)
        events: dict[str, list[Event]] = {
            "cancel": [Cancel(who, tasks)],
            "suspend": [Suspend(who)],
            "resume": [Resume(who)],
            "rerun": [Rerun(who, tasks)],
            "approve": [Decide(each, True, who, m.note) for each in tasks],
            "reject": [Decide(each, False, who, m.note) for each in tasks],
        }
        if m.what not in events:
            raise titan.BadMessage(f"a run cannot {m.what!r}; it can {', '.join(events)}")
        for event in events[m.what]:
            self._step(event, ctx)
        return str(self.engine.state.value)

    def _check_owner(self, ctx: titan.Context) -> None:
        if ctx.sender.id != self.owner:
            raise titan.Forbidden(f"only {self.owner.hex()[:32]}, who submitted this run, may do that")

    # ---- workers ---------------------------------------------------------------------------------------------

    def sync(self, m: Sync, ctx: titan.Context) -> Synced:
        """Takes what a worker has done, and gives it more to do."""
        who = _who(ctx)
        if self.workers and who not in self.workers:
            raise titan.Forbidden(f"this run takes no workers of {who}")
        # Whose a worker is, and that nobody else speaks for it, the sender says, not the worker.
        worker = msgspec.structs.replace(m.worker, name=f"{who}/{m.worker.name}", owner=who, valid=0)
        self._keep(worker.name, m.lines, ctx.now)
        for done in m.done:
            self._step(Report(worker.name, done.epoch, done.outcome), ctx)
        last = self._turns.get(worker.name, 0)
        if m.turn < last:  # it was overtaken: what the worker has now, and whether it listens, a later one has said
            return Synced(state=self.engine.state.value, turn=last)
        lost = self._step(Renew(worker.name, tuple(m.holds), m.progress), ctx).lost if m.holds else []
        if unnamed := self.engine.held_by(worker.name).difference(m.holds):
            self._step(Release(worker.name, tuple(sorted(unnamed))), ctx)
        lease = Lease(worker, min(m.count, ORDERS_AT_ONCE), min(m.ahead, ORDERS_AT_ONCE))
        orders = self._step(lease, ctx).orders if m.count or m.ahead else []
        self._turns[worker.name] = m.turn
        self._forget()
        return Synced(orders, lost, self.engine.state.value, m.turn)

    def _forget(self) -> None:
        """What was kept beside leases goes once most of them are over: looked through now and then, not each time."""
        held = self.engine.leases
        if len(self._lines_of) > 2 * held + SPARE:
            self._lines_of = {epoch: said for epoch, said in self._lines_of.items() if self.engine.holds(epoch)}
        if len(self._turns) > 2 * held + SPARE:
            self._turns = {worker: turn for worker, turn in self._turns.items() if self.engine.held_by(worker)}

    def spawned(self, m: Spawned, ctx: titan.Context) -> None:
        """Adds the tasks of a running one. What a stranger's worker thinks of, nobody else should have to run."""
        who = _who(ctx)
        if ctx.sender.id != self.owner and who not in self.workers:
            raise titan.Forbidden(f"tasks on workers of {who} may add none; the run's owner names those that may")
        self._step(Spawn(f"{who}/{m.worker}", m.epoch, tuple(m.tasks)), ctx)

    def wake(self, m: Wake, ctx: titan.Context) -> None:
        """Something is due. Before that it changes nothing, whoever sends it: each would set one timer more."""
        if ctx.now >= self._alarm - EARLY_SECONDS:
            self._alarm = float("inf")
            self._step(Tick(), ctx)

    def _step(self, event: Event, ctx: titan.Context) -> Any:
        effects = self.engine.step(event, ctx.now, ctx.random.random)
        if self.engine.wakes_at < self._alarm:
            self._alarm = self.engine.wakes_at
            ctx.schedule(max(0.0, self._alarm - ctx.now), Wake())
        if self.queue and self._told != self._openness:
            self._told = self._openness
            ctx.send_later(self.queue, Close(ctx.name, self._told))
        return effects

    @property
    def _openness(self) -> str:
        """Its state as far as a queue cares: how it has ended, or that it has not."""
        return str(self.engine.state.value) if self.engine.state in DONE else "RUNNING"

    def _keep(self, worker: str, lines: list[tuple[int, int, str]], now: float) -> None:
        for epoch, number, text in lines[:LINES_AT_ONCE]:
            key = self.engine.key_of(worker, epoch)
            if key is None or number < self._lines_of.get(epoch, 0):
                continue
            self._lines_of[epoch] = number + 1
            line = Line(self.next_line, key[:KEY_LENGTH_MAX], text[:LINE_BYTES_MAX], now)
            self.next_line += 1
            self.lines.append(line)
            self._log_bytes += len(line.text) + 64
        while self._log_bytes > LOG_BYTES_MAX:
            self._log_bytes -= len(self.lines.popleft().text) + 64

    # ---- questions -------------------------------------------------------------------------------------------

    @titan.readonly
    def ready(self, m: Ready) -> int:
        """How many instances wait."""
        return -1 if self.engine.state in DONE else self.engine.ready

    @titan.readonly
    def look(self, m: Look) -> RunView:
        """How the run is."""
        engine = self.engine
        counts: dict[str, int] = {}
        views = []
        for name, step in engine.steps.items():
            for each in step.instances:
                counts[each.state.value] = counts.get(each.state.value, 0) + 1
                if m.tasks:
                    views.append(_view(each))
            if not step.instances:
                counts[step.state.value] = counts.get(step.state.value, 0) + 1
                if m.tasks:
                    views.append(TaskView(name, step.state.value))
        return RunView(
            engine.definition.name if engine.definition else "",
            engine.state.value,
            self.owner.hex()[:32],
            engine.began,
            engine.ended,
            counts,
            views,
            engine.executions,
            self.next_line,
            self.voice,
        )

    @titan.readonly
    def result(self, m: Result) -> tuple[str, Any, str]:
        """State, result, and what failed first."""
        failed = [each for step in self.engine.steps.values() for each in step.instances if each.error]
        first = min(failed, key=lambda each: each.until, default=None)
        why = f"{first.key}: {_error(first)}" if first is not None else ""
        done = self.engine.state in DONE
        return self.engine.state.value, self.engine.result if done else None, why

    @titan.readonly
    def log(self, m: Lines) -> list[Line]:
        """Lines from a number on."""
        if not self.lines:
            return []
        skipped = max(0, m.start - self.lines[0].number)
        found: list[Line] = []
        for place in range(skipped, len(self.lines)):
            line = self.lines[place]
            if not m.key or line.key == m.key or line.key.startswith(m.key + "["):
                found.append(line)
            if len(found) >= LINES_AT_ONCE // 4:
                break
        return found

    @titan.readonly
    def export(self, m: Export) -> list[Entry]:
        """The next part of the journal."""
        return next(portions(islice(self.engine.journal, m.start, None)), [])

    # ---- its state -------------------------------------------------------------------------------------------

    def snapshot(self) -> Iterator[bytes]:
        """The journal, in chunks, and what else there is."""
        lines, journal = list(self.lines), list(self.engine.journal)
        yield msgspec.msgpack.encode(
            _Rest(
                self.owner,
                self.voice,
                self._started_by,
                sorted(self.workers),
                self.next_line,
                self._lines_of,
                self._alarm,
                self.queue,
                self._told,
                self._turns,
            )
        )
        for kind, items in ((_Logged, lines), (_Happened, journal)):
            for chunk in portions(items):
                yield msgspec.msgpack.encode(kind(chunk))

    def restore(self, chunk: bytes) -> None:
        """Takes the next chunk."""
        part = msgspec.msgpack.decode(chunk, type=_Rest | _Logged | _Happened)
        match part:
            case _Rest():
                self.owner, self.voice, self._started_by = part.owner, part.voice, part.started_by
                self.workers, self.next_line, self._alarm = frozenset(part.workers), part.next_line, part.alarm
                self._lines_of = part.lines_of
                self.queue, self._told, self._turns = part.queue, part.told, part.turns
            case _Logged(lines):
                self.lines.extend(lines)
                self._log_bytes += sum(len(each.text) + 64 for each in lines)
            case _Happened(entries):
                self.engine.retake(entries)


def _who(ctx: titan.Context) -> str:
    return ctx.sender.id.hex()[:32]


def _view(instance: Instance) -> TaskView:
    progress = max((held.progress for held in instance.held.values()), default=0.0)
    return TaskView(
        instance.key,
        instance.state.value,
        instance.worker,
        instance.attempts,
        instance.since,
        instance.until,
        _error(instance),
        progress,
    )


def _error(instance: Instance) -> str:
    return f"{instance.error.kind}: {instance.error.text}" if instance.error else ""
