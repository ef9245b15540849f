"""How the steps of a run go from pending to their end, and the clock that they go by. The ground floor of the engine.

The way of a step:

    _consider   what it needs has been decided: it opens, or is skipped
    _open       its instances (one, or one for each item of its map) become ready
    _offer      an instance stands in the ready queue, once its delay is over
    _end        it has ended; all that waits for it is considered
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from titan_objects.dag.definition import ELSEWHERE, ITEMS_MAX, Definition, Task, seconds
from titan_objects.dag.expressions import parse, truth
from titan_objects.dag.journal import Child, Errand, Failure, Success
from titan_objects.dag.ready import ReadyQueue
from titan_objects.dag.references import data_of, inside, resolved
from titan_objects.dag.steps import DONE, Held, Instance, State, Step

NEVER = float("inf")


class Flow:
    """The steps of one run. See the module."""

    def __init__(self) -> None:
        self.definition: Definition | None = None
        self.params: dict[str, Any] = {}
        self.state = State.PENDING
        self.steps: dict[str, Step] = {}
        self.began = self.ended = 0.0
        self.children: dict[str, list[Child]] = {}
        """Runs that do a task of this one, by that task."""
        self._ready = ReadyQueue()
        self._for_children: list[tuple[Instance, int]] = []
        """Ready, and not for workers; with the number under which it became so."""
        self._aside = 0
        """Leases that keep nobody from having another task."""
        self._errands: list[Errand] = []
        """That nobody has been told of."""
        self.outlets: frozenset[str] = frozenset()
        """Tasks that others wait for in other sections."""
        self._passing: list[Step] = []
        """Of these, what nobody has been told of."""
        self._held: dict[int, Held] = {}
        self._by_worker: dict[str, dict[int, Held]] = {}
        self._adopted: dict[str, Success] = {}
        """Results from elsewhere, by key, of instances that are not there yet."""
        self._open_steps = 0
        """Steps that have not ended."""
        self._resumed = 0.0
        """When it went on last, after it was suspended."""
        self._cancelled = False
        """Somebody wanted an end of the whole run."""
        self._settled: deque[Step] = deque()
        self._timers: list[tuple[float, int, Callable[[], bool]]] = []
        self._number = self._serial = 0
        self._now = 0.0

    # ---- from pending to ready ---------------------------------------------------------------------------------

    def _consider_all(self) -> None:
        """What hangs on steps that have ended, and the end of the run. A queue, since chains may be long."""
        while self._settled:
            settled = self._settled.popleft()
            if settled.task.id in self.outlets:
                self._passing.append(settled)
            for child in settled.children:
                self._consider(child)
        if not self._open_steps and self.state in (State.RUNNING, State.SUSPENDED) and not self._only_serves():
            for step in self.steps.values():
                for instance in step.instances if step.up else ():
                    self._end(instance, State.SUCCEEDED)
            self.state = self._conclusion()
            self.ended = self._now

    def _only_serves(self) -> bool:
        """Whether there is nothing but services, one of which goes on: that is then what the run is for."""
        return all(each.task.service is not None for each in self.steps.values()) and any(
            each.up and each.done < len(each.instances) for each in self.steps.values()
        )

    def _conclusion(self) -> State:
        steps = self.steps.values()
        if not self._cancelled and any(s.state is State.FAILED and s.task.on_failure != "ignore" for s in steps):
            return State.FAILED
        return State.CANCELLED if any(s.state is State.CANCELLED for s in steps) else State.SUCCEEDED

    def _consider(self, step: Step) -> None:
        """Opens a step, or skips it, once what it needs has been decided."""
        if step.state is not State.PENDING:
            return
        decided = truth(step.condition, self._outcome)
        if decided and step.when is not None:
            decided = bool(truth(step.when, self._look))
        if decided:
            self._open(step)
        elif decided is False:
            gone = any(self.steps[each].state is State.CANCELLED for each in step.upstream)
            self._settle(step, State.CANCELLED if gone else State.SKIPPED)

    def _outcome(self, parts: tuple[str, ...]) -> bool | None:
        """Whether a step ended like this; None: it has not ended."""
        step = self.steps[parts[0]]
        if step.state not in DONE:
            return None
        kind = parts[1] if len(parts) > 1 else "Succeeded"
        if kind == "Succeeded" and step.state is State.FAILED:
            return step.task.on_failure == "ignore"
        return kind == "Done" or step.state.value == kind.upper()

    def _look(self, parts: tuple[str, ...]) -> Any:
        """What a reference refers to; None: nothing."""
        if parts[0] == "params":
            return inside(self.params, parts[1:])
        step = self.steps.get(parts[0])
        return inside(step.result, parts[1:]) if step is not None else None

    def _open(self, step: Step) -> None:
        if not step.approved:
            assert step.task.approval is not None
            step.state = State.AWAITING_APPROVAL
            step.asked = asked = self._now
            self._after(seconds(step.task.approval.expires), lambda: self._approval_expires(step, asked))
            return
        if step.task.uses == ELSEWHERE:
            step.instances, step.active, step.state = [Instance(step)], 1, State.RUNNING
            step.instances[0].state = State.RUNNING
            return
        if step.task.id in self.children:
            self._open_children(step)
        elif step.task.map is not None:
            items = resolved(step.task.map.over, self._look)
            if not isinstance(items, list | tuple) or len(items) > ITEMS_MAX:
                self._fail_step(step, Failure("BadMap", f"map.over gave no list of at most {ITEMS_MAX} items", False))
                return
            step.items = list(items)
            step.instances = [Instance(step, index) for index in range(len(items))]
        else:
            step.instances = [Instance(step)]
        step.state = State.READY
        if self._adopted:
            self._fill(step)
        if step.done == len(step.instances):
            self._settle(step, State.SUCCEEDED)
        elif not _does_something(step.task):
            step.instances[0].result = Success()
            self._end(step.instances[0], State.SUCCEEDED)
        self._admit_some(step)

    def _fill(self, step: Step) -> None:
        """Ends those of its instances whose results came from elsewhere."""
        for each in step.instances:
            each.result = self._adopted.pop(each.key, None)
            if each.result is not None:
                each.state, each.until = State.SUCCEEDED, self._now
                step.done += 1

    def _admit_some(self, step: Step) -> None:
        """As many of its instances as may run at once become ready, in their order."""
        at_once = step.task.map.max_parallel if step.task.map is not None else 1
        while step.active < at_once and step.next < len(step.instances):
            instance = step.instances[step.next]
            step.next += 1
            if instance.state is State.PENDING:
                self._admit(instance)

    def _open_children(self, step: Step) -> None:
        for number, child in enumerate(self.children[step.task.id]):
            step.instances.append(Instance(step, -1 if step.task.map is None else number))
            step.instances[-1].child = child

    def _admit(self, instance: Instance) -> None:
        """An instance becomes ready for the first time."""
        task = instance.step.task
        instance.step.active += 1
        instance.ready_since = self._now
        instance.target = task.verify.target if task.verify else 1
        instance.near = self._near(instance.step)
        if task.timeout.total is not None:
            self._after(seconds(task.timeout.total), lambda: self._over(instance))
        self._offer(instance, seconds(task.delay))

    def _near(self, step: Step) -> str:
        """The worker that it is to run at: where what it likes has run, or where large data lies that it needs."""
        if step.task.affinity:
            return next((each.worker for each in self.steps[step.task.affinity].instances), "")
        for need in step.upstream:
            for given in self.steps[need].instances[:1]:
                if given.result is not None and (given.result.files or data_of(given.result.value)):
                    return given.worker
        return ""

    def _offer(self, instance: Instance, delay: float) -> None:
        """An instance may be taken, after so many seconds."""
        if instance.state in DONE or instance.queued:
            return
        if not instance.held:
            instance.state = State.SUSPENDED if self.state is State.SUSPENDED else State.READY
            if instance.index < 0 and not instance.step.up:
                instance.step.state = instance.state
        self._number += 1
        instance.number = number = self._number
        if delay > 0:
            self._after(delay, lambda: self._enqueue(instance, number))
        else:
            self._enqueue(instance, number)

    def _enqueue(self, instance: Instance, number: int) -> bool:
        if instance.number != number or instance.state in DONE or instance.queued:
            return False
        task = instance.step.task
        if instance.child is not None:
            self._for_children.append((instance, number))
            return True
        assert self.definition is not None
        self._ready.put(instance, task.fairness_key or self.definition.fairness_key)
        self._bound_wait(instance)
        return True

    def _bound_wait(self, instance: Instance) -> None:
        """From now on it waits as long as it may for a worker."""
        bound, number, now = instance.step.task.timeout.queue, instance.number, self._now
        if bound is not None:
            self._after(seconds(bound), lambda: self._waited(instance, number, now))

    # ---- ends --------------------------------------------------------------------------------------------------

    def _fail(self, instance: Instance, failure: Failure) -> None:
        instance.error = failure
        self._end(instance, State.FAILED)

    def _fail_step(self, step: Step, failure: Failure) -> None:
        """A step fails that has no instances yet."""
        step.instances = [Instance(step)]
        self._fail(step.instances[0], failure)

    def _end(self, instance: Instance, state: State) -> None:
        """An instance has ended; with the last one, its step."""
        if instance.state in DONE:
            return
        step = instance.step
        step.active -= instance.state is not State.PENDING
        instance.state = state
        instance.until = self._now
        self._ready.drop(instance)
        for held in tuple(instance.held.values()):
            self._take_away(held)
        step.done += 1
        if step.done < len(step.instances):
            if state is not State.CANCELLED:
                self._admit_some(step)
            return
        states = {each.state for each in step.instances}
        worst = (State.CANCELLED, State.FAILED, State.SUCCEEDED)
        self._settle(step, next(each for each in worst if each in states))

    def _settle(self, step: Step, state: State) -> None:
        """A step has ended."""
        step.state = state
        self._open_steps -= not step.up
        if state is State.SUCCEEDED and self._loops(step):
            return
        self._settled.append(step)
        if state is State.FAILED and step.task.on_failure == "cancel":
            self._cancel_steps(self.steps.values())

    def _cancel_steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.state not in DONE and not step.instances:
                self._settle(step, State.CANCELLED)
            for instance in tuple(step.instances):
                self._end(instance, State.CANCELLED)

    def _loops(self, step: Step) -> bool:
        """Begins the next round of a bounded cycle, if there is one."""
        loop = step.task.loop
        if loop is None or step.rounds >= loop.max or not truth(parse(loop.when), self._look):
            return False
        behind = {each.task.id for each in self.steps[loop.to].below()}
        again = [each for each in self._above(step) if each.task.id in behind]
        rounds = step.rounds + 1
        for each in again:
            each.rounds = 1
        step.rounds = rounds
        self._reset(again)
        return True

    def _above(self, step: Step) -> Iterator[Step]:
        """All that it hangs on, itself first, each once."""
        seen, waiting = {step.task.id}, [step]
        for each in waiting:  # it grows meanwhile
            yield each
            for need in each.upstream:
                if need not in seen:
                    seen.add(need)
                    waiting.append(self.steps[need])

    def _reset(self, steps: Iterable[Step]) -> None:
        """These run again, as if they never had."""
        again = list(steps)
        for step in again:
            for instance in step.instances:
                self._ready.drop(instance)
                instance.number = 0  # a timer that offers it means nothing any more
                for held in tuple(instance.held.values()):
                    self._take_away(held)
            self._open_steps += step.state in DONE
            step.reset()
        if self.state in DONE:
            self.state = State.RUNNING
        for step in again:
            self._consider(step)

    def _take_away(self, held: Held) -> None:
        """This lease is over, before its time."""
        self._drop(held)
        if held.instance.child is not None:
            self._errands.append(Errand(held.instance.child, held.epoch, None))

    def _drop(self, held: Held) -> None:
        """This lease is over."""
        if self._held.pop(held.epoch, None) is not None:
            self._aside -= held.aside
        held.instance.held.pop(held.epoch, None)
        mine = self._by_worker.get(held.worker, {})
        mine.pop(held.epoch, None)
        if not mine:
            self._by_worker.pop(held.worker, None)

    # ---- time --------------------------------------------------------------------------------------------------

    def _after(self, delay: float, what: Callable[[], bool]) -> None:
        """Has something done later; it says whether that has changed anything."""
        self._serial += 1
        heappush(self._timers, (self._now + delay, self._serial, what))

    def _expire(self) -> bool:
        """Does what has come due, each at its own time; whether that has changed anything."""
        until = self._now
        changed = False
        while self._timers and self._timers[0][0] <= until:
            due, _, what = heappop(self._timers)
            self._now = due
            changed |= what()
            self._consider_all()
        self._now = until
        return changed

    def _waited(self, instance: Instance, number: int, since: float) -> bool:
        if not instance.queued or instance.number != number:
            return False
        if self.state is State.SUSPENDED or since < self._resumed:  # nobody could take it; it waits anew since then
            return False
        if instance.held:  # another worker is at it, whose result may be enough
            self._bound_wait(instance)
            return False
        self._fail(instance, Failure("Timeout", "no worker took it within timeout.queue", False))
        return True

    def _over(self, instance: Instance) -> bool:
        there = instance.step.instances[max(instance.index, 0) :][:1]
        if instance.state in DONE or there != [instance]:  # it has ended, or was begun anew
            return False
        self._fail(instance, Failure("Timeout", "it took longer than timeout.total", False))
        return True

    def _approval_expires(self, step: Step, asked: float) -> bool:
        if step.state is not State.AWAITING_APPROVAL or step.asked != asked:
            return False
        self._fail_step(step, Failure("Expired", "nobody approved of it in time", False))
        return True


def _does_something(task: Task) -> bool:
    return bool(task.run or task.call or task.reduce or task.join or task.uses)
