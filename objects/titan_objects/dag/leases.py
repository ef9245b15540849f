"""Leases: which worker has which instance, under which epoch, and whether what it reports is believed."""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from heapq import heappop, heappush
from typing import Any

import msgspec

from titan_objects.dag.checking import words
from titan_objects.dag.definition import AUTO, Retry, Service, Task, canonical, seconds, size_bytes
from titan_objects.dag.flow import NEVER, Flow
from titan_objects.dag.journal import (
    Child,
    Effects,
    Errand,
    Failure,
    Lease,
    Order,
    Release,
    Renew,
    Report,
    Silence,
    Success,
    Up,
    Worker,
)
from titan_objects.dag.references import inside, resolved
from titan_objects.dag.steps import DONE, MANY, Held, Instance, State, Step
from titan_objects.dag.verifying import Records, verdict

TOLD_BYTES_MAX = 256 << 10
"""Of what a task is told; if it is more, its worker asks for it, a piece at a time."""
CANCELLED = "Cancelled"
"""Kind of the failure that a run which does a task of this one tells of, where somebody has cancelled it."""
LOST_MAX = 8
"""Leases of one instance that may run out: a task that takes its workers down with it ends some day."""


class Leases(Flow):
    """A lease is fenced by its epoch: what comes under any other than the present ones changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        """Of the run, as an object."""
        self.records = Records()
        self.workers: tuple[str, ...] = ()
        """Owners of those whose results count; of none: anybody's."""
        self.learned: dict[str, Success] = {}
        """Results that another run may want, by their memo, since it was last cleared."""
        self.executions = 0
        """Leases that were given."""
        self._epoch = 0
        self._expiring: list[tuple[float, int]] = []
        """Leases by when they run out, or earlier: those that were renewed meanwhile are put back."""
        self._draw: Callable[[], float] = lambda: 0.5
        self._drawn: list[float] = []

    def holds(self, epoch: int) -> bool:
        """Whether somebody works under it."""
        return epoch in self._held

    def held_by(self, worker: str) -> frozenset[int]:
        """Epochs under which a worker works."""
        return frozenset(self._by_worker.get(worker, ()))

    @property
    def leases(self) -> int:
        """That are given now."""
        return len(self._held)

    def key_of(self, worker: str, epoch: int) -> str | None:
        """Of the instance that this worker has under this epoch; None: it has none."""
        held = self._held.get(epoch)
        return None if held is None or held.worker != worker else held.instance.key

    def _lease(self, event: Lease) -> Effects:
        effects = Effects()
        assert self.definition is not None
        if self.state is not State.RUNNING:
            return effects
        worker = event.worker
        cores, memory = worker.cores, worker.memory
        while len(effects.orders) < event.count and (instance := self._next(worker, cores, memory)) is not None:
            cores -= instance.step.task.requires.cores
            memory -= size_bytes(instance.step.task.requires.memory)
            effects.orders.append(self._grant(instance, worker))
        most = len(effects.orders) + event.ahead
        # What waits at a worker must fit in wherever something small has ended.
        while len(effects.orders) < most and (instance := self._next(worker, 1.0, 0)) is not None:
            effects.orders.append(self._grant(instance, worker))
        return effects

    def _next(self, worker: Worker, cores: float, memory: int) -> Instance | None:
        """What a worker with so much left should run next."""
        assert self.definition is not None
        if len(self._held) - self._aside >= self.definition.max_parallel:
            return None
        free = Worker(worker.name, worker.labels, cores, memory, worker.owner)
        return self._ready.take(free, lambda each: _may_have(each, worker))

    def _grant(self, instance: Instance, worker: Worker) -> Order:
        task = instance.step.task
        self.executions += 1
        owner = worker.owner or worker.name
        held = self._hold(instance, worker.name, owner, self._now + seconds(task.timeout.heartbeat))
        if task.verify is not None:
            self._replicate(instance, owner)
        heappush(self._expiring, (held.expires, held.epoch))
        return self._order(instance, held.epoch)

    def _hold(self, instance: Instance, worker: str, owner: str, expires: float) -> Held:
        self._epoch += 1
        held = Held(self._epoch, worker, owner, instance, self._now, expires)
        instance.held[held.epoch] = self._held[held.epoch] = held
        self._by_worker.setdefault(worker, {})[held.epoch] = held
        if instance.state is not State.RUNNING:
            instance.since = self._now
        instance.state = State.RUNNING
        if not instance.step.up:
            instance.step.state = State.RUNNING
        instance.worker = worker
        timeout = instance.step.task.timeout.run
        if timeout is not None:
            self._after(seconds(timeout), lambda: self._too_long(held))
        return held

    def _send_children(self) -> list[Errand]:
        """What the runs are to be told that do tasks of this one. Such a lease does not run out: they do not die."""
        ready, self._for_children = self._for_children, []
        for instance, number in ready:
            if instance.number != number or instance.state in DONE:
                continue
            if self.state is not State.RUNNING:
                self._for_children.append((instance, number))
                continue
            child = instance.child
            assert child is not None
            _, params = self._told(instance, lambda step: step.result)
            if self._too_much(instance.step, params):
                _, params = self._told(instance, lambda step: step.named(self.name))
            held = self._hold(instance, child.name, child.name, NEVER)
            held.aside = True
            self._aside += 1
            self._errands.append(Errand(child, held.epoch, params))
        errands, self._errands = self._errands, []
        return errands

    def errands_under_way(self) -> list[Child]:
        """The runs that do something for this one."""
        return [each.instance.child for each in self._held.values() if each.instance.child is not None]

    @property
    def idle_children(self) -> dict[str, list[Child]]:
        """Runs that were to do a task of this one, and have not been told to."""
        idle: dict[str, list[Child]] = {}
        for name, several in self.children.items():
            begun = {each.child for each in self.steps[name].instances if each.since}
            idle[name] = [each for each in several if each not in begun]
        return idle

    def child_under(self, epoch: int) -> Child | None:
        """The run that does something under this epoch; None: there is none."""
        held = self._held.get(epoch)
        return held.instance.child if held is not None else None

    def _replicate(self, instance: Instance, owner: str) -> None:
        """Offers it to others too, unless this worker's owner is believed alone."""
        verify = instance.step.task.verify
        assert verify is not None
        first = not instance.results and len(instance.held) == 1
        instance.single = first and verify.adaptive and self.records.believed_alone(owner, self._chance)
        if not instance.single and len(instance.results) + len(instance.held) < instance.target:
            self._offer(instance, 0.0)

    def _told(self, instance: Instance, whole: Callable[[Step], Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of its function.

        Args:
            whole: gives the result of a task that is handed on as it is.
        """
        task, step = instance.step.task, instance.step

        def look(parts: tuple[str, ...]) -> Any:
            if len(parts) == 1 and parts[0] in self.steps:
                return whole(self.steps[parts[0]])
            return self._look_from(instance, parts)

        args = resolved(task.args, look)
        if task.reduce:
            args = [whole(self.steps[step.upstream[0]]), *args]
        elif task.join:
            args = [whole(self.steps[each]) for each in step.upstream]
        elif task.map is not None and not task.args and not task.inputs:
            args = [look(("item",))]
        return args, resolved(task.inputs, look)

    def _look_from(self, instance: Instance, parts: tuple[str, ...]) -> Any:
        """What a reference in an instance refers to."""
        items = instance.step.items
        if parts[0] == "item":
            return inside(items[instance.index], parts[1:]) if items is not None else None
        return instance.index if parts[0] == "index" else self._look(parts)

    def _too_much(self, step: Step, told: Any) -> bool:
        """Whether it does not fit into a message, what a task is told."""
        many = any(len(self.steps[each].instances) > MANY for each in step.upstream)
        return many and len(msgspec.msgpack.encode(told)) > TOLD_BYTES_MAX

    def _order(self, instance: Instance, epoch: int) -> Order:
        task = instance.step.task
        look = partial(self._look_from, instance)
        args, inputs = self._told(instance, lambda step: step.result)
        assert self.definition is not None
        run = [str(each) for each in resolved(words(task), look)]
        env = {name: str(value) for name, value in resolved(task.env, look).items()}
        if task.cache_key:
            key = resolved(task.cache_key, look)
            does = [run, args, inputs, env, self.definition.code] if key == AUTO else [task.run, key]
            instance.memo = memo(task, does, self.workers)
        if self._too_much(instance.step, [args, inputs]):
            args, inputs = self._told(instance, lambda step: step.named(self.name))
        return Order(
            instance.key,
            epoch,
            call=task.call or task.reduce,
            run=run,
            join=task.join,
            args=args,
            inputs=inputs,
            env=env,
            secrets=task.secrets,
            outputs=task.outputs,
            code=self.definition.code,
            store=self.definition.store,
            timeout=0.0 if task.timeout.run is None else seconds(task.timeout.run),
            heartbeat=seconds(task.timeout.heartbeat),
            cores=task.requires.cores,
            memory=size_bytes(task.requires.memory),
            memo=instance.memo,
            port=task.service.port if task.service else 0,
            ready=seconds(task.service.ready) if task.service else 0.0,
        )

    def _release(self, event: Release) -> None:
        mine = self._by_worker.get(event.worker, {})
        for held in [mine[epoch] for epoch in event.epochs or tuple(mine) if epoch in mine]:
            self._drop(held)
            self._offer(held.instance, 0.0)

    def _renew(self, event: Renew) -> Effects:
        held = self._by_worker.get(event.worker, {})
        for epoch in event.epochs:
            if epoch in held:
                each = held[epoch]
                each.expires = self._now + seconds(each.instance.step.task.timeout.heartbeat)
                told = event.progress.get(epoch, -1.0)
                each.progress = told if 0 <= told <= 1 else each.progress
        return Effects(lost=[epoch for epoch in event.epochs if epoch not in held])

    # ---- results -----------------------------------------------------------------------------------------------

    def _report(self, event: Report) -> bool:
        """Whether the report came under a lease that its worker has."""
        held = self._held.get(event.epoch)
        if held is None or held.worker != event.worker:
            return False
        self._drop(held)
        instance = held.instance
        service = instance.step.task.service
        if service is not None:
            self._service_ended(instance, service, event.outcome)
        elif held.aside and isinstance(event.outcome, Failure) and event.outcome.kind == CANCELLED:
            self._end(instance, State.CANCELLED)
            self._admit_some(instance.step)
        elif isinstance(event.outcome, Failure):
            self._failed_attempt(instance, event.outcome)
        elif instance.step.task.verify is None or instance.single:
            if instance.single:  # as in BOINC, what is believed counts as valid
                self.records.judge(held.owner, True)
            instance.worker = held.worker
            self._believe(instance, event.outcome)
        else:
            instance.results[held.owner] = event.outcome
            self._compare(instance)
        return True

    def _come_up(self, event: Up) -> None:
        """A service is there. What needs it may begin; if it is there again, that has long begun."""
        held = self._held.get(event.epoch)
        if held is None or held.worker != event.worker or held.aside or held.instance.step.task.service is None:
            return
        held.aside = True
        self._aside += 1
        held.instance.result = Success(event.value)
        step = held.instance.step
        if not step.up:
            self._settle(step, State.SUCCEEDED)
            step.up = True

    def _service_ended(self, instance: Instance, service: Service, outcome: Success | Failure) -> None:
        if service.restart:
            ended = Failure("Ended", "the service ended before the run did")
            self._failed_attempt(instance, outcome if isinstance(outcome, Failure) else ended)
        elif isinstance(outcome, Success) and instance.step.up:
            self._end(instance, State.SUCCEEDED)
        else:
            self._fail(instance, outcome if isinstance(outcome, Failure) else Failure("Ended", "it was never there"))

    def _believe(self, instance: Instance, result: Success) -> None:
        instance.result = result
        if instance.memo and not result.recalled:
            self.learned[instance.memo] = result
        self._end(instance, State.SUCCEEDED)

    def _compare(self, instance: Instance) -> None:
        """Believes a result that enough agree on, else asks more workers."""
        verify = instance.step.task.verify
        assert verify is not None
        found = verdict(verify, instance.results)
        if found.believed is not None:
            for owner in found.valid:
                self.records.judge(owner, True)
            for owner in found.invalid:
                self.records.judge(owner, False)
            self._believe(instance, found.believed)
        elif len(instance.results) + instance.attempts >= verify.max_total:
            text = f"{len(instance.results)} results, and no {verify.quorum} of them agree"
            self._fail(instance, Failure("NoQuorum", text, False))
        elif not instance.queued and len(instance.held) < found.missing:
            instance.target = len(instance.results) + found.missing
            self._offer(instance, 0.0)

    def _failed_attempt(self, instance: Instance, failure: Failure) -> None:
        """Tries again after a while, or not."""
        instance.attempts += 1
        instance.error = failure
        task = instance.step.task
        most = task.retry.max_attempts if task.verify is None else max(task.retry.max_attempts, task.verify.max_error)
        if instance.attempts >= most or not failure.retryable or failure.kind in task.retry.non_retryable:
            self._fail(instance, failure)
        else:
            self._offer(instance, pause(task.retry, instance.attempts, self._chance()))

    # ---- silence -----------------------------------------------------------------------------------------------

    def leases_kept(self) -> dict[int, tuple[float, float]]:
        """By epoch until when a lease lasts, and how much of it is done: what the journal does not have."""
        return {epoch: (held.expires, held.progress) for epoch, held in self._held.items()}

    def take_leases(self, kept: dict[int, tuple[float, float]]) -> None:
        """Leases are as they were when they were kept."""
        for epoch, (expires, progress) in kept.items():
            if epoch in self._held:
                self._held[epoch].expires, self._held[epoch].progress = expires, progress

    def _next_silence(self) -> float:
        """When the first lease runs out, unless its worker is heard."""
        while self._expiring:
            due, epoch = self._expiring[0]
            held = self._held.get(epoch)
            if held is not None and held.expires == due:
                return due
            heappop(self._expiring)
            if held is not None:  # it was renewed
                heappush(self._expiring, (held.expires, epoch))
        return NEVER

    def _fallen_silent(self) -> tuple[int, ...]:
        """Epochs of leases that have run out."""
        found = []
        while self._next_silence() <= self._now:
            found.append(heappop(self._expiring)[1])
        return tuple(found)

    def _lose(self, event: Silence) -> None:
        for epoch in event.epochs:
            held = self._held.get(epoch)
            if held is None:  # it went with one before
                continue
            self._drop(held)
            instance = held.instance
            instance.lost += 1
            if instance.lost >= LOST_MAX:
                self._fail(instance, Failure("Lost", f"{LOST_MAX} workers fell silent over it", False))
            else:
                self._offer(instance, 0.0)

    def _too_long(self, held: Held) -> bool:
        if held.epoch not in self._held:
            return False
        self._take_away(held)
        self._failed_attempt(held.instance, Failure("Timeout", "the attempt took longer than timeout.run"))
        return True

    def _chance(self) -> float:
        drawn = self._draw()
        self._drawn.append(drawn)
        return drawn


def pause(retry: Retry, attempts: int, chance: float) -> float:
    """Seconds until the next attempt, after so many."""
    longest = seconds(retry.max_interval)
    grown = min(seconds(retry.initial) * min(retry.backoff, 1e6) ** min(attempts - 1, 64), longest)
    return grown * (1 + retry.jitter * (2 * chance - 1))


def memo(task: Task, does: list[Any], workers: tuple[str, ...]) -> str:
    """Under which a result is remembered: what was done, and on whose word it is believed.

    Args:
        does: what it was told, or what stands for that.
        workers: owners of those whose results count.
    """
    what = [task.call or task.reduce, does, task.outputs, sorted(workers), task.verify]
    return sha256(canonical(what)).hexdigest()


def _may_have(instance: Instance, worker: Worker) -> bool:
    """Of one owner, one result of a verified task."""
    if instance.step.task.verify is None:
        return True
    owner = worker.owner or worker.name
    return owner not in instance.results and all(owner != held.owner for held in instance.held.values())
