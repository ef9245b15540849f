"""Leases: which worker has which instance, under which epoch, and whether what it reports is believed."""

from collections.abc import Callable
from typing import Any

from titan_objects.dag.checking import words
from titan_objects.dag.definition import Retry, seconds, size_bytes
from titan_objects.dag.flow import Flow
from titan_objects.dag.journal import Effects, Failure, Lease, Order, Release, Renew, Report, Worker
from titan_objects.dag.references import inside, resolved
from titan_objects.dag.steps import Held, Instance, State
from titan_objects.dag.verifying import Records, verdict

LOST_MAX = 8
"""Leases of one instance that may run out: a task that takes its workers down with it ends some day."""


class Leases(Flow):
    """A lease is fenced by its epoch: what comes under any other than the present ones changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.records = Records()
        self.executions = 0
        """Leases that were given."""
        self._epoch = 0
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
        if len(self._held) >= self.definition.max_parallel:
            return None
        free = Worker(worker.name, worker.labels, cores, memory, worker.owner)
        return self._ready.take(free, lambda each: _may_have(each, worker))

    def _grant(self, instance: Instance, worker: Worker) -> Order:
        task = instance.step.task
        self.records.meet(worker.name, worker.valid)
        self._epoch += 1
        self.executions += 1
        epoch = self._epoch
        held = Held(epoch, worker.name, worker.owner, instance, self._now, self._now + seconds(task.timeout.heartbeat))
        instance.held[epoch] = self._held[epoch] = held
        self._by_worker.setdefault(worker.name, {})[epoch] = held
        if instance.state is not State.RUNNING:
            instance.since = self._now
        instance.state = instance.step.state = State.RUNNING
        instance.worker = worker.name
        if task.verify is not None:
            self._replicate(instance, worker)
        self._after(seconds(task.timeout.heartbeat), lambda: self._silent(held))
        if task.timeout.run is not None:
            self._after(seconds(task.timeout.run), lambda: self._too_long(held))
        return self._order(instance, epoch)

    def _replicate(self, instance: Instance, worker: Worker) -> None:
        """Offers it to others too, unless this worker is believed alone."""
        verify = instance.step.task.verify
        assert verify is not None
        first = not instance.results and len(instance.held) == 1
        instance.single = first and verify.adaptive and self.records.believed_alone(worker.name, self._chance)
        if not instance.single and len(instance.results) + len(instance.held) < instance.target:
            self._offer(instance, 0.0)

    def _order(self, instance: Instance, epoch: int) -> Order:
        task, step = instance.step.task, instance.step

        def look(parts: tuple[str, ...]) -> Any:
            if parts[0] == "item":
                return inside(step.items[instance.index], parts[1:]) if step.items is not None else None
            return instance.index if parts[0] == "index" else self._look(parts)

        args = resolved(task.args, look)
        if task.reduce:
            args = [self.steps[step.upstream[0]].result, *args]
        elif task.join:
            args = [self.steps[each].result for each in step.upstream]
        elif task.map is not None and not task.args and not task.inputs:
            args = [look(("item",))]
        assert self.definition is not None
        return Order(
            instance.key,
            epoch,
            call=task.call or task.reduce,
            run=[str(each) for each in resolved(words(task), look)],
            join=task.join,
            args=args,
            inputs=resolved(task.inputs, look),
            env={name: str(value) for name, value in resolved(task.env, look).items()},
            secrets=task.secrets,
            outputs=task.outputs,
            code=self.definition.code,
            store=self.definition.store,
            timeout=0.0 if task.timeout.run is None else seconds(task.timeout.run),
            heartbeat=seconds(task.timeout.heartbeat),
            cores=task.requires.cores,
            memory=size_bytes(task.requires.memory),
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
        if isinstance(event.outcome, Failure):
            self._failed_attempt(instance, event.outcome)
        elif instance.step.task.verify is None or instance.single:
            if instance.single:  # as in BOINC, what is believed counts as valid
                self.records.judge(held.worker, True)
            instance.result, instance.worker = event.outcome, held.worker
            self._end(instance, State.SUCCEEDED)
        else:
            instance.results.append((held.worker, held.owner, event.outcome))
            self._compare(instance)
        return True

    def _compare(self, instance: Instance) -> None:
        """Believes a result that enough agree on, else asks more workers."""
        verify = instance.step.task.verify
        assert verify is not None
        found = verdict(verify, instance.results)
        if found.believed is not None:
            for worker in found.valid:
                self.records.judge(worker, True)
            for worker in found.invalid:
                self.records.judge(worker, False)
            instance.result = found.believed
            self._end(instance, State.SUCCEEDED)
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

    def _silent(self, held: Held) -> bool:
        if held.epoch not in self._held:
            return False
        if held.expires > self._now:  # it was renewed
            self._after(held.expires - self._now, lambda: self._silent(held))
            return False
        self._drop(held)
        instance = held.instance
        instance.lost += 1
        if instance.lost >= LOST_MAX:
            self._fail(instance, Failure("Lost", f"{LOST_MAX} workers fell silent over it", False))
        else:
            self._offer(instance, 0.0)
        return True

    def _too_long(self, held: Held) -> bool:
        if held.epoch not in self._held:
            return False
        self._drop(held)
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


def _may_have(instance: Instance, worker: Worker) -> bool:
    """Of one owner, one result of a verified task."""
    if instance.step.task.verify is None:
        return True
    owner = worker.owner or worker.name
    others = [held.owner or held.worker for held in instance.held.values()]
    return owner not in others and all(owner != (theirs or name) for name, theirs, _ in instance.results)
