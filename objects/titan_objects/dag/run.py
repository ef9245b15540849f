"""A run as an object of the pool: its journal is its state, so it goes on whichever of its members die.

Workers come by themselves: one message (`Sync`) says what they have done, what they still do, and how much they could
take, and is answered with what to do next.
"""

from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag import views
from titan_objects.dag.definition import ELSEWHERE, SECTION, canonical
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import (
    Begin,
    Cancel,
    Child,
    Decide,
    Entry,
    Event,
    Failure,
    Lease,
    Order,
    Release,
    Renew,
    Report,
    Rerun,
    Resume,
    Spawn,
    Success,
    Suspend,
    Tick,
    Up,
)
from titan_objects.dag.keeping import Kept
from titan_objects.dag.leases import CANCELLED, TOLD_BYTES_MAX
from titan_objects.dag.memory import Learn, memory_of
from titan_objects.dag.messages import (
    ANSWER_BYTES_MAX,
    LINES_AT_ONCE,
    TASKS_AT_ONCE,
    Act,
    AskPlan,
    Ended,
    Export,
    Go,
    Halt,
    Line,
    Lines,
    Look,
    Ready,
    Result,
    Results,
    Spawned,
    Start,
    Started,
    Sync,
    Synced,
    TakeOver,
    Tell,
    Wake,
    portions,
)
from titan_objects.dag.queue import Close
from titan_objects.dag.steps import DONE, State
from titan_objects.dag.views import RunView

LOG_BYTES_MAX = 8 << 20
"""Kept of a run's logs: what is older is dropped, and counted."""
LINE_BYTES_MAX = 4 << 10
KEY_LENGTH_MAX = 200
ORDERS_AT_ONCE = 1000
SPARE = 64
JUDGED_AT_ONCE = 64
"""Results of workers that the owner's memory hears of with one message, while nobody lies."""
NAMED_MAX = 10
"""Tasks that one error names."""
BROKEN = frozenset((State.FAILED, State.CANCELLED))
EARLY_SECONDS = 0.001
"""By so much a timer may come too early: it was rounded."""


@titan.mutable("*", policy=titan.Policy(faults=1))
class Run(Kept):
    """One run of a DAG."""

    # ---- the owner -------------------------------------------------------------------------------------------

    def start(self, m: Start, ctx: titan.Context) -> Started:
        """Begins. Of the same again, from the same sender, it says how it is.

        Raises:
            Forbidden: the name is another's. Conflict: another run has begun here.
        """
        who = _who(ctx)
        if ctx.name.startswith("~") and not ctx.name.startswith(f"~{who}/"):
            raise titan.Forbidden(f"only the key in whose space {ctx.name!r} lies may begin it, and {who} is another")
        same = msgspec.structs.replace(m, records=None)
        digest = sha256(canonical([ctx.sender.id, same])).digest()
        if not self._started_by:
            if m.parent is None:
                self._step(begin(m, ctx.name, who), ctx)
            self.owner, self.workers, self.voice = ctx.sender.id, frozenset(m.workers), ctx.object_id
            self.remembers, self.plan = m.records is not None, m if m.parent else None
            self.queue, self._told, self._started_by = m.queue, self._openness, digest
        elif digest != self._started_by:
            raise titan.Conflict(f"another run has begun as {ctx.name!r}: its definition, code or parameters differ")
        return Started(self._openness, self.voice)

    def take_over(self, m: TakeOver, ctx: titan.Context) -> None:
        """Takes over what another run has come to."""
        self._check_owner(ctx)
        if self.plan is not None and self.engine.definition is None:
            self.waiting.append(m.found)
        else:
            self._step(m.found, ctx)

    def act(self, m: Act, ctx: titan.Context) -> str:
        """Does what its owner wants."""
        parent = self.plan and self.plan.parent
        if not (parent and ctx.sender.public == parent.voice):
            self._check_owner(ctx)
            if parent and self.engine.definition is None:
                raise titan.BadMessage(
                    f"{ctx.name} has not begun: it does a task of {parent.name}; until then, {m.what} that "
                    "task there, or all of that run (titan dag show says which task it is)"
                )
        if m.what == "rerun" and self._is_of_sections:
            raise titan.BadMessage(
                f"the graph of {ctx.name} lies in several objects, and does not run again in its place: export the run "
                "(titan dag export), and submit the file, which runs what has failed"
            )
        if m.what in ("approve", "reject") and not m.tasks:
            raise titan.BadMessage(f"{m.what} which task? {self._waiting_for_people()}")
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
        if m.what in ("suspend", "resume"):
            for child in self.engine.errands_under_way():
                ctx.send_later(child.name, m)
        return str(self.engine.state.value)

    # ---- other runs: none of these raises, or what was sent would be sent for ever -------------------------------

    def go(self, m: Go, ctx: titan.Context) -> None:
        """Does a task of its parent: begins anew, or goes on where it had failed."""
        plan = self.plan
        if plan is None or plan.parent is None or ctx.sender.public != plan.parent.voice or m.epoch <= self.errand:
            return
        self.errand = m.epoch
        before = self.engine
        again = begin(plan, ctx.name, self.owner.hex()[:32], m.params, before.epoch)
        self._told = ""
        try:
            if before.state in BROKEN and before.params == {**plan.definition.params, **again.params}:
                self._step(Rerun(again.who), ctx)
            else:
                self.engine = Engine()
                self._step(again, ctx)
                waiting, self.waiting = self.waiting, []
                for each in waiting:
                    self._step(each, ctx)
        except titan.BadMessage as why:
            self.engine = before
            ctx.send_later(plan.parent.name, Ended(m.epoch, Failure("BadParameters", str(why), False)))

    def halt(self, m: Halt, ctx: titan.Context) -> None:
        """Ends what it does for its parent, which has ended where it has not been told to begin."""
        parent = self.plan and self.plan.parent
        if not parent or ctx.sender.public != parent.voice or m.epoch != self.errand:
            return
        if self.engine.definition is None:
            self._tell_queue("CANCELLED", ctx)
            self._release(self.plan.children if self.plan else {}, ctx)
        elif self.engine.state not in DONE:
            self._step(Cancel(parent.name), ctx)

    def ended(self, m: Ended, ctx: titan.Context) -> None:
        """A child says what came of its task."""
        child = self.engine.child_under(m.epoch)
        if child is not None and child.voice == ctx.sender.public:
            self._step(Report(child.name, m.epoch, m.outcome), ctx)

    def tell(self, m: Tell, ctx: titan.Context) -> None:
        """Another section of the graph says what came of a task."""
        source = self.plan.inlets.get(m.came.task) if self.plan else None
        if source is None or source.voice != ctx.sender.public:
            return
        if self.engine.definition is None:
            self.waiting.append(m.came)
        else:
            self._step(m.came, ctx)

    @property
    def _is_of_sections(self) -> bool:
        tasks = (step.task for step in self.engine.steps.values())
        return bool(self.engine.outlets) or any(each.uses in (SECTION, ELSEWHERE) for each in tasks)

    def _release(self, children: dict[str, list[Child]], ctx: titan.Context) -> None:
        """These were never told to begin, and need wait for that no longer."""
        for each in (child for several in children.values() for child in several):
            ctx.send_later(each.name, Halt(0))

    def _waiting_for_people(self) -> str:
        waiting = [name for name, step in self.engine.steps.items() if step.state is State.AWAITING_APPROVAL]
        return "; ".join(f"{name!r} waits for it" for name in waiting[:NAMED_MAX]) or "nothing waits for it"

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
        worker = msgspec.structs.replace(m.worker, name=f"{who}/{m.worker.name}", owner=who)
        self._keep(worker.name, m.lines, ctx.now)
        for done in m.done:
            self._step(Report(worker.name, done.epoch, done.outcome), ctx)
        for epoch, value in m.up.items():
            self._step(Up(worker.name, epoch, value), ctx)
        last = self._turns.get(worker.name, 0)
        if m.turn < last:  # it was overtaken: what the worker has now, and whether it listens, a later one has said
            return Synced(state=self.engine.state.value, turn=last)
        lost = self._step(Renew(worker.name, tuple(m.holds), m.progress), ctx).lost if m.holds else []
        if unnamed := self.engine.held_by(worker.name).difference(m.holds):
            self._step(Release(worker.name, tuple(sorted(unnamed))), ctx)
        lease = Lease(worker, min(m.count, ORDERS_AT_ONCE), min(m.ahead, ORDERS_AT_ONCE))
        orders = self._step(lease, ctx).orders if m.count or m.ahead else []
        if len(msgspec.msgpack.encode(orders)) > ANSWER_BYTES_MAX:
            orders = self._fitting(orders, worker.name, ctx)
        self._turns[worker.name] = m.turn
        self._forget()
        self._remember(ctx)
        return Synced(orders, lost, self.engine.state.value, m.turn)

    def _fitting(self, orders: list[Order], worker: str, ctx: titan.Context) -> list[Order]:
        """Of these, as many as an answer has room for. Others may have the rest; what is too large alone has failed."""
        found: list[Order] = []
        room = ANSWER_BYTES_MAX
        for each in orders:
            size = len(msgspec.msgpack.encode(each))
            if size > ANSWER_BYTES_MAX:
                text = f"it is told {size} bytes, and a message has {ANSWER_BYTES_MAX} at most: put it as data"
                self._step(Report(worker, each.epoch, Failure("TooLarge", text, False)), ctx)
            elif size > room:
                self._step(Release(worker, (each.epoch,)), ctx)
            else:
                found.append(each)
                room -= size
        return found

    def _remember(self, ctx: titan.Context) -> None:
        """Tells the owner's memory what was learned: results and broken trust at once, all else in heaps."""
        learned, judged = self.engine.learned, self.engine.records.news
        urgent = learned or self.engine.state in DONE or any(each.broken for each in judged.values())
        if not judged and not learned:
            return
        if urgent or sum(each.valid for each in judged.values()) >= JUDGED_AT_ONCE:
            if self.remembers:
                ctx.send_later(memory_of(ctx.name), Learn(learned, judged))
            self.engine.learned, self.engine.records.news = {}, {}

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
            while ctx.now >= self._alarm - EARLY_SECONDS:
                self._alarms.pop()
            self._step(Tick(), ctx)

    def _step(self, event: Event, ctx: titan.Context) -> Any:
        effects = self.engine.step(event, ctx.now, lambda: ctx.random.random())  # made only if something is drawn
        if self.engine.wakes_at < self._alarm:
            self._alarms.append(self.engine.wakes_at)
            ctx.schedule(max(0.0, self._alarm - ctx.now), Wake())
        for errand in effects.errands:
            message = Halt(errand.epoch) if errand.params is None else Go(errand.epoch, errand.params)
            ctx.send_later(errand.child.name, message)
        for came in effects.passed:
            for other in self.plan.outlets[came.task] if self.plan else ():
                ctx.send_later(other.name, Tell(came))
        if self._told != self._openness:
            self._told = self._openness
            self._tell_queue(self._told, ctx)
            if self.engine.state in DONE:
                self._release(self.engine.idle_children, ctx)
            if self.plan and self.plan.parent and self.engine.state in DONE:
                ctx.send_later(self.plan.parent.name, Ended(self.errand, self._outcome))
        return effects

    def _tell_queue(self, state: str, ctx: titan.Context) -> None:
        if self.queue:
            ctx.send_later(self.queue, Close(ctx.name, state))

    @property
    def _outcome(self) -> Success | Failure:
        state, value, why = views.result(self.engine)
        if state == "CANCELLED":
            return Failure(CANCELLED, "the run that does it was cancelled", False)
        return Success(value) if state == "SUCCEEDED" else Failure("RunFailed", why or f"the run is {state}")

    @property
    def _openness(self) -> str:
        """Its state as far as a queue cares: how it has ended, or that it has not."""
        if self.engine.definition is None:
            return "PENDING"
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
    def look(self, m: Look, ctx: titan.Context) -> RunView:
        """How the run is."""
        seen = views.view(self.engine, tasks=m.tasks, start=max(0, m.start), states=m.states, most=TASKS_AT_ONCE)
        if len(msgspec.msgpack.encode(seen)) > ANSWER_BYTES_MAX:
            seen = msgspec.structs.replace(seen, tasks=[views.short(each) for each in seen.tasks])
        owner = self.owner.hex()[:32]
        return msgspec.structs.replace(seen, owner=owner, lines=self.next_line, voice=ctx.object_id)

    @titan.readonly
    def ask_plan(self, m: AskPlan) -> Start | None:
        """What it was started with, where that is more than its journal says."""
        return self.plan

    @titan.readonly
    def result(self, m: Result) -> tuple[str, Any, str]:
        """State, result, and what failed first."""
        return views.result(self.engine)

    @titan.readonly
    def list_results(self, m: Results) -> list[Any]:
        """As many as fit."""
        step = self.engine.steps.get(m.task)
        found: list[Any] = []
        size = 0
        for each in step.instances[max(0, m.start) :] if step is not None else ():
            value = each.result.value if each.result else None
            size += len(msgspec.msgpack.encode(value))
            if found and size > TOLD_BYTES_MAX:
                break
            found.append(value)
        return found

    @titan.readonly
    def log(self, m: Lines) -> list[Line]:
        """Lines from a number on."""
        return self._lines_from(max(0, m.start), m.key)

    @titan.readonly
    def export(self, m: Export) -> list[Entry]:
        """The next part of the journal."""
        return next(portions(islice(self.engine.journal, m.start, None)), [])


def begin(plan: Start, name: str, who: str, given: dict[str, Any] | None = None, after: int = 0) -> Begin:
    """What the run begins with.

    Args:
        given: by the run that it does a task of.
        after: the last epoch, where it begins anew.
    """
    return Begin(
        plan.definition,
        {**plan.params, **(given or {})},
        who,
        tuple(plan.workers),
        plan.records or {},
        plan.children,
        max(after, plan.after),
        name,
        tuple(plan.outlets),
        plan.found,
    )


def _who(ctx: titan.Context) -> str:
    return ctx.sender.id.hex()[:32]
