"""How a run looks to people: its state, its tasks, who decided what, and what failed first."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import msgspec

from titan_objects.dag.definition import ELSEWHERE, SECTION
from titan_objects.dag.engine import Engine
from titan_objects.dag.steps import DONE, Instance, Step

SHORT = 200
"""Characters."""


class TaskView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance of a task as people see it."""

    key: str
    state: str
    worker: str = ""
    attempts: int = 0
    since: float = 0.0
    until: float = 0.0
    error: str = ""
    progress: float = 0.0
    child: str = ""
    """The run that does it, in the place of a worker."""
    recalled: bool = False
    """Its result was known from another run."""
    decided: str = ""
    """Of a task that waited for approval: whether it was given, by whom and why."""
    decided_at: float = 0.0
    section: bool = False
    """It stands for a section of the graph, which its child does."""


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run as people see it."""

    name: str
    state: str
    owner: str
    began: float = 0.0
    ended: float = 0.0
    counts: dict[str, int] = {}
    tasks: list[TaskView] = []
    executions: int = 0
    lines: int = 0
    voice: bytes = b""
    """Id of the run as an object."""
    children: int = 0
    """Runs that do tasks of it."""


def view(
    engine: Engine, *, tasks: bool, start: int = 0, states: Collection[str] = (), most: int | None = None
) -> RunView:
    """The run without what its object knows beside the engine.

    Args:
        tasks: whether each instance is shown, or their number in each state alone.
        start: the first one that is shown, of those in these states; none: in any.
        most: that are shown; None: all.
    """
    steps = [step for step in engine.steps.values() if step.task.uses != ELSEWHERE]
    counts = Counter((each or step).state.value for step in steps for each in _instances(step))
    wanted = (
        (step, each)
        for step in (steps if tasks else ())
        for each in _instances(step)
        if not states or (each or step).state in states
    )
    shown = [_of(step, each) for step, each in islice(wanted, start, None if most is None else start + most)]
    title = engine.definition.name if engine.definition else ""
    seen = RunView(title, engine.state.value, "", engine.began, engine.ended, dict(counts), shown, engine.executions)
    return msgspec.structs.replace(seen, children=sum(map(len, engine.children.values())))


def _instances(step: Step) -> Sequence[Instance | None]:
    """Those that it has; None stands for the step itself, where it has none yet."""
    return step.instances or [None]


def result(engine: Engine) -> tuple[str, Any, str]:
    """State, result, and what failed first."""
    failed = [each for step in engine.steps.values() for each in step.instances if each.error]
    first = min(failed, key=lambda each: each.until, default=None)
    why = f"{first.key}: {_error(first)}" if first is not None else ""
    return engine.state.value, engine.result if engine.state in DONE else None, why


def _of(step: Step, instance: Instance | None = None) -> TaskView:
    """A step that has no instances yet, or one of those that it has."""
    decision = step.decision
    decided = f"{'approved' if decision.approved else 'rejected'} by {decision.who}" if decision else ""
    note = f": {decision.note}" if decision and decision.note else ""
    at = decision.time if decision else 0.0
    if instance is None:
        return TaskView(step.task.id, step.state.value, decided=decided + note, decided_at=at)
    return TaskView(
        instance.key,
        instance.state.value,
        instance.worker,
        instance.attempts,
        instance.since,
        instance.until,
        _error(instance),
        max((held.progress for held in instance.held.values()), default=0.0),
        instance.child.name if instance.child else "",
        instance.result is not None and instance.result.recalled,
        decided + note,
        at,
        step.task.uses == SECTION,
    )


def short(seen: TaskView) -> TaskView:
    """The same with so much of its texts as a thousand of them may have in one message."""
    return msgspec.structs.replace(
        seen, worker=seen.worker[:SHORT], error=seen.error[:SHORT], decided=seen.decided[:SHORT]
    )


def _error(instance: Instance) -> str:
    return f"{instance.error.kind}: {instance.error.text}" if instance.error else ""
