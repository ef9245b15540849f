"""Workers of a run, without processes: they ask, work for a while in virtual time, and report, die or lie."""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from hypothesis import strategies as st

from titan_objects.dag.definition import Definition
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Begin, Failure, Lease, Order, Report, Success, Tick, Up, Worker
from titan_objects.dag.steps import DONE


def definition(*tasks: dict[str, Any], **more: Any) -> Definition:
    import msgspec

    return msgspec.convert({"name": "it", "tasks": [{"call": "m:f", **each} for each in tasks], **more}, Definition)


@st.composite
def dags(draw: st.DrawFn, *, services: bool = False) -> list[dict[str, Any]]:
    """Tasks that need some of those before them, in all the ways that there are."""
    tasks: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 9))):
        before = [each["id"] for each in tasks]
        task: dict[str, Any] = {"id": f"t{number}", "retry": {"max_attempts": draw(st.integers(1, 3)), "initial": 0.5}}
        needs = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        if needs and draw(st.booleans()):
            task["depends"] = draw(st.sampled_from([" && ", " || "])).join(
                each + draw(st.sampled_from(["", ".Failed", ".Done", ".Skipped"])) for each in needs
            )
        else:
            task["needs"] = needs
        if draw(st.integers(0, 3)) == 0:
            task["map"] = {"over": list(range(draw(st.integers(0, 4)))), "max_parallel": draw(st.integers(1, 3))}
        elif needs and draw(st.integers(0, 4)) == 0:
            task["loop"] = {"to": needs[0], "max": draw(st.integers(1, 3))}
        elif services and draw(st.integers(0, 4)) == 0:
            task |= {"call": "", "run": "serve", "type": "service"}
            task["service"] = {"port": 80, "restart": draw(st.booleans())}
        task["on_failure"] = draw(st.sampled_from(["continue", "continue", "ignore", "cancel"]))
        task["timeout"] = {"heartbeat": 5}
        tasks.append(task)
    return tasks


def states(engine: Engine) -> dict[str, str]:
    return {name: step.state.value for name, step in engine.steps.items()}


def dump(engine: Engine) -> Any:
    """All that there is to see of a run."""
    return (
        engine.state,
        engine.wakes_at,
        engine.ready,
        [
            (
                name, step.state, step.rounds, step.done,
                [
                    (each.state, each.attempts, each.lost, each.worker, each.result, each.error, sorted(each.held))
                    for each in step.instances
                ],
            )
            for name, step in engine.steps.items()
        ],
    )  # fmt: skip


class Desk:
    """Drives a run by hand, with a clock of its own."""

    def __init__(self, made: Definition, **params: Any) -> None:
        self.engine = Engine()
        self.now = 0.0
        self.step(Begin(made, params))

    def step(self, event: Any, after: float = 0.0) -> Any:
        self.now += after
        return self.engine.step(event, self.now)

    def lease(self, worker: str | Worker = "w", count: int = 100) -> list[Order]:
        asking = Worker(worker, cores=1000.0) if isinstance(worker, str) else worker
        return list(self.step(Lease(asking, count)).orders)

    def run(self, give: Callable[[Order], Any] = lambda order: order.key, worker: str = "w") -> list[str]:
        """One worker runs all that can be run; gives the keys in the order in which they ran."""
        ran = []
        while orders := self.lease(worker, 1):
            ran.append(orders[0].key)
            result = give(orders[0])
            outcome = result if isinstance(result, Failure | Success) else Success(result)
            assert self.step(Report(worker, orders[0].epoch, outcome)).accepted
        return ran

    def wait(self, seconds: float) -> None:
        self.step(Tick(), seconds)


class World:
    """Workers by chance. A worker's report may come late, never, or twice.

    Args:
        events: asked now and then for something else that happens.
    """

    def __init__(self, engine: Engine, seed: int, workers: int, *, death: float = 0.0, failing: float = 0.0) -> None:
        self.engine = engine
        self.random = Random(seed)
        self.now = 0.0
        self.workers = [Worker(f"w{n}", cores=1.0) for n in range(workers)]
        self.death, self.failing = death, failing
        self.begun: list[str] = []
        self.ended: list[tuple[str, bool]] = []
        """Keys of instances whose report was believed, and whether it was a success."""

    def step(self, event: Any) -> Any:
        return self.engine.step(event, self.now, self.random.random)

    def run(self, rounds: int = 3000, check: Callable[[Order], None] = lambda order: None) -> None:
        """Until the run has ended."""
        work: list[tuple[float, int, Worker, Order]] = []
        for turn in range(rounds):
            if self.engine.state in DONE:
                return
            self.now += self.random.random()
            for worker in self.random.sample(self.workers, len(self.workers)):
                if self.random.random() < 0.5:
                    for order in self.step(Lease(worker, self.random.randint(1, 2))).orders:
                        check(order)
                        self.begun.append(order.key)
                        if order.port and self.random.random() < 0.7:
                            self.step(Up(worker.name, order.epoch, order.key))
                        if self.random.random() >= (0.7 if order.port else self.death):
                            work.append((self.now + self.random.random() * 3, turn, worker, order))
            self._report([each for each in work if each[0] <= self.now])
            work = [each for each in work if each[0] > self.now]
            if not work:
                self.now = max(self.now, min(self.engine.wakes_at, self.now + 30))
                self.step(Tick())
        raise AssertionError(f"it has not ended: {self.engine.state} {states(self.engine)}")

    def _report(self, due: Iterable[tuple[float, int, Worker, Order]]) -> None:
        for _, _, worker, order in due:
            good = self.random.random() >= self.failing and not order.port
            outcome = Success(order.key) if good else Failure("Bad", "luck")
            for _ in range(1 + (self.random.random() < 0.2)):
                if self.step(Report(worker.name, order.epoch, outcome)).accepted:
                    self.ended.append((order.key, good))
