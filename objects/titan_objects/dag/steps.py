"""What a run knows of each task: its state, its instances and their leases."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from titan_objects.dag.checking import Waits
from titan_objects.dag.definition import Task, seconds, size_bytes
from titan_objects.dag.expressions import parse
from titan_objects.dag.journal import Child, Failure, Success


class State(StrEnum):
    """Of a run, a task, or an instance of a mapped task.

    PENDING -> READY -> RUNNING -> SUCCEEDED | FAILED; a failed attempt goes back to READY while retries are left. A
    task that waits for a person is AWAITING_APPROVAL, one that would be READY in a suspended run SUSPENDED.
    """

    PENDING = "PENDING"
    READY = "READY"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"
    SUSPENDED = "SUSPENDED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"


TOGETHER = "$together"
"""Key of a value that stands for lists, one behind the other."""

RESULTS = "$results"
"""Key of a value that stands for the results of a map: name of the run that is asked for them, and of its task."""
MANY = 16
"""Results, each of which is small enough to travel, that are so together too."""

DONE = frozenset((State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SKIPPED))


class Decision(NamedTuple):
    """What somebody said who was asked for approval."""

    approved: bool
    who: str
    note: str
    time: float


class Held:
    """A lease."""

    __slots__ = ("aside", "epoch", "expires", "instance", "owner", "progress", "since", "worker")

    def __init__(self, epoch: int, worker: str, owner: str, instance: "Instance", since: float, expires: float) -> None:
        self.epoch = epoch
        self.worker = worker
        self.owner = owner
        self.instance = instance
        self.since = since
        self.expires = expires
        self.progress = 0.0
        self.aside = False
        """It keeps nobody from having another task."""


class Instance:
    """One thing to run: a task, or one item of a mapped task."""

    __slots__ = (
        "attempts", "child", "error", "held", "index", "lost", "memo", "near", "number", "queued", "ready_since",
        "result", "results", "since", "single", "state", "step", "target", "until", "worker",
    )  # fmt: skip

    def __init__(self, step: "Step", index: int = -1) -> None:
        self.step = step
        self.index = index
        """In its map; -1: there is no map."""
        self.state = State.PENDING
        self.child: Child | None = None
        """The run that does it, in the place of a worker."""
        self.held: dict[int, Held] = {}
        self.attempts = 0
        self.lost = 0
        """Leases that ran out."""
        self.ready_since = 0.0
        self.since = 0.0
        self.until = 0.0
        self.near = ""
        """The worker next to which it is to run."""
        self.number = 0
        """The order in which instances became ready."""
        self.queued = False
        self.worker = ""
        """That ran it last."""
        self.result: Success | None = None
        self.error: Failure | None = None
        self.target = 1
        self.single = False
        """One result of a trusted worker is enough."""
        self.results: dict[str, Success] = {}
        """By owner of the worker that gave it, until one is believed."""
        self.memo = ""
        """Under which its result is remembered."""

    @property
    def key(self) -> str:
        return self.step.task.id if self.index < 0 else f"{self.step.task.id}[{self.index}]"


class Step:
    """A task of a run."""

    __slots__ = (
        "active", "approved", "asked", "children", "condition", "decision", "done", "instances", "items", "next",
        "rank", "requirement", "rounds", "state", "task", "up", "upstream", "when",
    )  # fmt: skip

    def __init__(self, task: Task, waits: Waits) -> None:
        self.task = task
        self.upstream = waits.ids
        self.condition = waits.condition
        self.when = parse(task.when) if task.when else None
        self.children: list[Step] = []
        self.rank = 0.0
        self.rounds = 1
        requires = task.requires
        self.requirement = (
            tuple(sorted(requires.labels.items())),
            requires.cores,
            size_bytes(requires.memory),
            tuple(sorted(task.prefer.items())),
        )
        self.reset()

    def reset(self) -> None:
        """As if it had never run."""
        self.state = State.PENDING
        self.approved = self.task.approval is None
        self.asked = 0.0
        """When somebody was asked for approval."""
        self.decision: Decision | None = None
        self.instances: list[Instance] = []
        self.items: list[Any] | None = None
        self.done = 0
        """Instances that have ended."""
        self.up = False
        """It is a service, and was there: whoever needs it has begun, whatever becomes of it."""
        self.active = 0
        """Instances that are ready, or run."""
        self.next = 0
        """Instances before this one have been admitted, or need not be."""

    @property
    def result(self) -> Any:
        """What its function gave; of a map, the list of what it gave."""
        results = [each.result.value if each.result else None for each in self.instances]
        if self.task.map is not None and self.instances and self.instances[0].child:  # each gave its part of the list
            return together(results)
        return results if self.task.map is not None else results[0] if results else None

    def named(self, run: str) -> Any:
        """Its result, or where many results are to be had."""
        if self.task.map is None or len(self.instances) <= MANY:
            return self.result
        where = {RESULTS: [run, self.task.id]}
        return {TOGETHER: where} if self.instances[0].child else where

    def below(self) -> "Iterator[Step]":
        """All that hang on it, itself first, each once."""
        seen = {self.task.id}
        waiting = [self]
        for step in waiting:  # it grows meanwhile
            yield step
            for child in step.children:
                if child.task.id not in seen:
                    seen.add(child.task.id)
                    waiting.append(child)

    @property
    def estimate(self) -> float:
        return seconds(self.task.estimate)


def together(parts: list[Any]) -> Any:
    """Lists, one behind the other; where one of them is data of the pool, whoever wants the list fetches them."""
    if all(isinstance(each, list) for each in parts):
        return [item for each in parts for item in each]
    return {TOGETHER: parts}
