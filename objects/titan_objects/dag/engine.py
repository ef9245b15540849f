"""The state machine of one run: events in, effects out. No I/O, no clock, no chance of its own.

    engine = Engine()
    engine.step(Begin(definition), now)
    orders = engine.step(Lease(worker), now).orders
    engine.step(Report(worker.name, orders[0].epoch, Success(42)), now)

On three floors: `flow.py` (steps from pending to their end, and the clock), `leases.py` (who runs what, and what is
believed), and here what comes from outside. All that changes something is written into `journal`, with its time and
the chance that it used, so `Engine.replay(journal)` is the same engine. But for one thing: that a worker was heard,
every few seconds, is not kept; that it was not, is. Until when leases last stands beside it (`leases_kept`).
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import check, given, order, waits
from titan_objects.dag.definition import ELSEWHERE, TASKS_MAX, Definition, Task
from titan_objects.dag.flow import NEVER
from titan_objects.dag.journal import (
    Adopt,
    Begin,
    Cancel,
    Decide,
    Effects,
    Ending,
    Entry,
    Errand,
    Event,
    Failure,
    Lease,
    Passed,
    Release,
    Renew,
    Report,
    Rerun,
    Resume,
    Silence,
    Spawn,
    Success,
    Suspend,
    Tick,
    Up,
)
from titan_objects.dag.leases import TOLD_BYTES_MAX, Leases
from titan_objects.dag.ready import critical_path
from titan_objects.dag.steps import DONE, MANY, Decision, Instance, State, Step

_KEY = re.compile(r"[^\[]+(\[[0-9]{1,9}\])?")
"""`render`, or `render[3]`."""
Ranking = Callable[[dict[str, Step], list[str]], None]


class Engine(Leases):
    """See the module.

    Args:
        ranking: sets the rank of each step.
        keep_journal: whether events are kept; a run that nobody replays does without.
    """

    def __init__(self, *, ranking: Ranking = critical_path, keep_journal: bool = True) -> None:
        super().__init__()
        self.journal: list[Entry] = []
        self._ranking = ranking
        self._keep = keep_journal
        self._retaking = False

    # ---- events ------------------------------------------------------------------------------------------------

    def step(self, event: Event, now: float, draw: Callable[[], float] = lambda: 0.5) -> Effects:
        """Takes an event at a time, and says what it leads to.

        Args:
            draw: gives numbers in [0, 1).

        Raises:
            BadMessage: the event makes no sense, and has changed nothing.
        """
        self._now = max(now, self._now)
        self._draw = draw
        self._drawn = []
        if self._expire():
            self._note(Tick())
        errands = self._send_children()  # before the event, as when the tick is taken again by itself
        self._drawn = []
        if not self._retaking and (silent := self._fallen_silent()):
            errands += self._take(Silence(silent))
        effects = self._handle(event)
        self._consider_all()
        effects.errands = errands + self._send_children()
        effects.passed = [self._passed(each) for each in self._passing]
        self._passing.clear()
        if effects.orders or not isinstance(event, Lease | Renew | Tick):
            self._note(event)
        return effects

    def _take(self, event: Silence) -> list[Errand]:
        """Takes what the engine has found out itself, as when it is taken again."""
        self._lose(event)
        self._consider_all()
        errands = self._send_children()
        self._note(event)
        self._drawn = []
        return errands

    def _note(self, event: Event) -> None:
        if self._keep:
            self.journal.append(Entry(self._now, event, tuple(self._drawn)))

    @classmethod
    def replay(cls, journal: Iterable[Entry], *, ranking: Ranking = critical_path) -> "Engine":
        """The engine that has taken these events."""
        engine = cls(ranking=ranking)
        engine.retake(journal)
        return engine

    def retake(self, journal: Iterable[Entry]) -> None:
        """Takes events as they were taken before, with their time and chance."""
        self._retaking = True  # which leases have run out, the journal says
        try:
            for entry in journal:
                draws = iter(entry.draws)
                self.step(entry.event, entry.time, lambda draws=draws: next(draws, 0.5))  # type: ignore[misc]
        finally:
            self._retaking = False

    @property
    def wakes_at(self) -> float:
        """When time alone may change something next: a `Tick` is wanted then. Infinity: never."""
        if self.state in DONE:
            return NEVER
        return min(self._timers[0][0] if self._timers else NEVER, self._next_silence())

    @property
    def ready(self) -> int:
        """Instances that wait for a worker."""
        return 0 if self.state is State.SUSPENDED else self._ready.length

    @property
    def result(self) -> Any:
        """What the run has given; of too much for a message, where it is to be had."""
        if not self.result_task:
            return None
        step = self.steps[self.result_task]
        many = len(step.instances) > MANY and len(msgspec.msgpack.encode(step.result)) > TOLD_BYTES_MAX
        return step.named(self.name) if many else step.result

    @property
    def result_task(self) -> str:
        """The task whose result is the run's: the one that the definition names, else the last that nothing needs."""
        assert self.definition is not None
        return self.definition.result or next(
            (each.id for each in reversed(self.definition.tasks) if not self.steps[each.id].children), ""
        )

    @property
    def epoch(self) -> int:
        """Of the lease that was given last."""
        return self._epoch

    def _handle(self, event: Event) -> Effects:
        if (self.definition is None) != isinstance(event, Begin):
            raise titan.BadMessage("a run begins once, and before all else")
        match event:
            case Begin():
                self._begin(event)
            case Adopt():
                self._adopt(event)
            case Lease():
                return self._lease(event)
            case Renew():
                return self._renew(event)
            case Report():
                return Effects(accepted=self._report(event))
            case Up():
                self._come_up(event)
            case Release():
                self._release(event)
            case Silence():
                self._lose(event)
            case Cancel(_, tasks):
                self._cancel(tasks)
            case Suspend():
                self._suspend()
            case Resume():
                self._resume()
            case Rerun(_, tasks):
                self._rerun(tasks)
            case Decide():
                self._decide(event)
            case Spawn():
                self._spawn(event)
            case Passed():
                self._hear(event)
            case Tick():
                pass
        return Effects()

    # ---- the beginning -----------------------------------------------------------------------------------------

    def _begin(self, event: Begin) -> None:
        definition = event.definition
        self._check(definition)
        self.definition, self.params = definition, given(definition, event.params)
        self.state = State.RUNNING
        self.began = self._now
        self.name = event.name
        self.workers, self.children, self._epoch = event.workers, event.children, event.after
        self.outlets = frozenset(event.outlets)
        if event.found is not None:
            self._adopted = dict(event.found.results)
        self.records.take(event.records)
        self._add(definition.tasks, definition)

    def _check(self, definition: Definition) -> None:
        # What was taken once stays so: a later version, which refuses more, must not lose the runs of an earlier one.
        if not self._retaking:
            check(definition)

    def _add(self, tasks: Iterable[Task], whole: Definition) -> None:
        for task in tasks:
            if task.uses and task.uses != ELSEWHERE and task.id not in self.children:
                raise titan.BadMessage(
                    f"task '{task.id}' uses {task.uses!r}, and no run was prepared for it: submit it"
                )
        waiting = waits(whole.tasks)
        new = [Step(task, waiting[task.id]) for task in tasks]
        self.steps.update((each.task.id, each) for each in new)
        for each in new:
            for need in each.upstream:
                self.steps[need].children.append(each)
        self._open_steps += len(new)
        self._ranking(self.steps, order(waiting))
        for each in new:
            self._consider(each)

    def _adopt(self, event: Adopt) -> None:
        for key in (*event.results, *event.approved, *event.rounds):
            self._named(key)
        for key in event.results:
            if (_index(key) is None) != (self._named(key).task.map is None):
                raise titan.BadMessage(f"a map has results by item, as in render[3], and others have one: not {key!r}")
        self._epoch = max(self._epoch, event.epoch)
        for name, rounds in event.rounds.items():
            self.steps[name].rounds = rounds
        for name in event.approved:
            step = self.steps[name]
            step.approved = True
            if step.state is State.AWAITING_APPROVAL:
                self._open(step)
        for key, result in event.results.items():
            instances, index = self._named(key).instances, _index(key) or 0
            if index >= len(instances):
                self._adopted[key] = result
            elif instances[index].state not in DONE:
                instances[index].result = result
                self._end(instances[index], State.SUCCEEDED)

    # ---- other sections of the same graph ------------------------------------------------------------------------

    def _hear(self, event: Passed) -> None:
        """Something has ended elsewhere. What comes twice, or of nothing that is waited for, changes nothing."""
        step = self.steps.get(event.task)
        if step is None or step.task.uses != ELSEWHERE or step.state in DONE:
            return
        if event.state == "SKIPPED":
            step.instances = []
            self._settle(step, State.SKIPPED)
        else:
            step.instances[0].result = event.result
            self._end(step.instances[0], State(event.state))

    def _passed(self, step: Step) -> Passed:
        """What others hear of a task."""
        result = Success(step.named(self.name)) if step.state is State.SUCCEEDED else None
        return Passed(step.task.id, cast(Ending, step.state.value), result)

    # ---- what people want --------------------------------------------------------------------------------------

    def _cancel(self, tasks: tuple[str, ...]) -> None:
        chosen = [self._chosen(each) for each in tasks]
        for step, instance in chosen:
            if instance is None:
                self._cancel_steps([step])
            else:
                self._end(instance, State.CANCELLED)
                self._admit_some(step)
        if not chosen:
            self._cancelled = True
            self._cancel_steps(self.steps.values())

    def _suspend(self) -> None:
        if self.state is State.RUNNING:
            self._turn_ready(State.READY, State.SUSPENDED)
            self.state = State.SUSPENDED

    def _resume(self) -> None:
        if self.state is State.SUSPENDED:
            self._turn_ready(State.SUSPENDED, State.READY)
            self.state = State.RUNNING
            self._resumed = self._now
            for instance in (each for step in self.steps.values() for each in step.instances if each.queued):
                self._bound_wait(instance)

    def _turn_ready(self, before: State, after: State) -> None:
        for step in self.steps.values():
            for instance in step.instances:
                if instance.state is before:
                    instance.state = after

    def _rerun(self, tasks: tuple[str, ...]) -> None:
        if not tasks:
            failed = (State.FAILED, State.CANCELLED)
            tasks = tuple(
                each.key for step in self.steps.values() for each in step.instances if each.state in failed
            ) + tuple(name for name, step in self.steps.items() if step.state in failed and not step.instances)
        chosen: dict[str, Step] = {}
        alone: list[Instance] = []
        for name in tasks:
            step, instance = self._chosen(name)
            if instance is not None:
                alone.append(instance)
                chosen.update((each.task.id, each) for each in step.below() if each is not step)
            else:
                chosen.update((each.task.id, each) for each in step.below())
        self._cancelled = False
        self._adopted.clear()  # what has found no place by now is of a run that went another way
        if self.state in DONE:  # services have ended with the run; those who need them have long begun
            chosen.update((name, step) for name, step in self.steps.items() if step.up)
        for instance in dict.fromkeys(alone):  # each once, however often it is named
            if instance.step.task.id not in chosen:
                self._again(instance)
        for step in chosen.values():
            step.rounds = 1
        self._reset(chosen.values())

    def _again(self, instance: Instance) -> None:
        """One instance of a map runs again; the others keep their results."""
        step = instance.step
        if instance.state not in DONE:
            return
        if step.state in DONE:
            self._open_steps += 1
            step.state = State.RUNNING
            if self.state in DONE:
                self.state = State.RUNNING
        step.done -= 1
        instance.number = 0
        step.instances[instance.index] = fresh = Instance(step, instance.index)
        fresh.child = instance.child
        step.next = min(step.next, instance.index)
        self._admit_some(step)

    def _decide(self, event: Decide) -> None:
        step, _ = self._chosen(event.task)
        if step.state is not State.AWAITING_APPROVAL:
            raise titan.BadMessage(f"{event.task!r} is {step.state.value}, and waits for nobody's approval")
        step.decision = Decision(event.approved, event.who, event.note, self._now)
        if event.approved:
            step.approved = True
            self._open(step)
        else:
            self._fail_step(step, Failure("Rejected", event.note or f"rejected by {event.who or 'somebody'}", False))

    def _spawn(self, event: Spawn) -> None:
        held = self._held.get(event.epoch)
        if held is None or held.worker != event.worker:
            raise titan.BadMessage("only a task that runs, under its lease, may spawn others")
        if len(self.steps) + len(event.tasks) > TASKS_MAX:
            raise titan.BadMessage(f"a run has at most {TASKS_MAX} tasks")
        assert self.definition is not None
        tasks = [*(each.task for each in self.steps.values()), *event.tasks]
        grown = Definition(name=self.definition.name, tasks=tasks, params=self.definition.params)
        self._check(grown)
        self._add(event.tasks, grown)

    def _named(self, key: str) -> Step:
        step = self.steps.get(key.partition("[")[0])
        if step is None or not _KEY.fullmatch(key):
            raise titan.BadMessage(f"the run has no task {key!r}")
        return step

    def _chosen(self, key: str) -> tuple[Step, Instance | None]:
        """A task, or one instance of a map."""
        step, index = self._named(key), _index(key)
        if index is None:
            return step, None
        if step.task.map is None:
            raise titan.BadMessage(f"{step.task.id!r} is no map, and has no {key!r}")
        if index >= len(step.instances):
            raise titan.BadMessage(f"{step.task.id!r} has {len(step.instances)} instances, and no {key!r}")
        return step, step.instances[index]


def _index(key: str) -> int | None:
    inner = key.partition("[")[2]
    return int(inner[:-1]) if inner else None
