"""Workflows of other systems as definitions: WfFormat 1.5 (WfCommons), and the YAML of the Titan orchestrator."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

import titan_overlay as titan
from titan_objects.dag.definition import Approval, Definition, Requires, Retry, Service, Task

GENERAL = "GENERAL"
"""What the Titan orchestrator calls a worker of no special kind."""

_TASKS: Final = (("workflow", "specification", "tasks"), ("jobs",))
"""Where a file has them: of WfFormat, and of the orchestrator."""
_NAMED = re.compile(r"(?:task|job) '([^']+)'")


def imported(value: Any) -> Definition | None:
    """The definition that a file of another system describes; None: it is none of theirs.

    Raises:
        ValidationError: it is one of theirs, and a field is not what it must be.
        ConfigError: naming the task or job, it makes no sense.
    """
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("workflow"), dict):
        return from_wfformat(msgspec.convert(value, WfInstance))
    if isinstance(value.get("jobs"), list):
        return from_orchestrator(msgspec.convert(value, OrchestratorFile))
    return None


def place_of(value: Any, why: str) -> list[str | int]:
    """Where in a file the task or job stands that an error names first, by its id there or here; empty: nowhere."""
    named = _NAMED.search(why)
    if named is None:
        return []
    path = next(path for path in _TASKS if isinstance(value.get(path[0]), dict if len(path) > 1 else list))
    names = [each["id"] for each in reduce(getitem, path, value)]
    ids = _plain_ids(names)
    place = next((n for n, each in enumerate(names) if named[1] in (each, ids[each], f"{ids[each]}_approval")), None)
    return [] if place is None else [*path, place]


# --- WfFormat -------------------------------------------------------------------------------------------------


class WfTask(msgspec.Struct, rename="camel"):
    """A task as it was specified."""

    id: str
    parents: list[str] = []


class WfCommand(msgspec.Struct):
    """What it ran."""

    program: str = ""
    arguments: list[str] = []


class WfExecuted(msgspec.Struct, rename="camel"):
    """A task as it went."""

    id: str
    runtime_in_seconds: Annotated[float, Meta(le=1e9)]
    command: WfCommand | None = None


class WfSpecification(msgspec.Struct):
    """The workflow."""

    tasks: list[WfTask]


class WfExecution(msgspec.Struct):
    """One run of it."""

    tasks: list[WfExecuted] = []


class WfWorkflow(msgspec.Struct):
    """Both."""

    specification: WfSpecification
    execution: WfExecution = msgspec.field(default_factory=WfExecution)


class WfInstance(msgspec.Struct, rename="camel"):
    """An instance in WfFormat. Source: https://github.com/wfcommons/WfFormat, version 1.5."""

    name: str
    workflow: WfWorkflow
    schema_version: str = ""


def from_wfformat(instance: WfInstance) -> Definition:
    """The definition of an instance: its edges are `parents`, a recorded run time is the task's estimate."""
    went = {each.id: each for each in instance.workflow.execution.tasks}
    names = [each.id for each in instance.workflow.specification.tasks]
    _once(names, "task")
    ids = _plain_ids(names)
    tasks = []
    for task in instance.workflow.specification.tasks:
        executed = went.get(task.id)
        command = (executed.command if executed else None) or WfCommand()
        words = [command.program, *command.arguments] if command.program else ["true"]
        unknown = [each for each in task.parents if each not in ids]
        if unknown:
            raise titan.ConfigError(f"task {task.id!r} has the parent {unknown[0]!r}, and there is no such task")
        tasks.append(
            Task(
                id=ids[task.id],
                run=[_word(each) for each in words],
                needs=[ids[each] for each in task.parents],
                estimate=max(0.0, executed.runtime_in_seconds) if executed else 1.0,
            )
        )
    return Definition(name=instance.name[:200] or "workflow", tasks=tasks)


def _plain_ids(names: list[str]) -> dict[str, str]:
    """Ids of our own for names of theirs, each once."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:120]
        found[name] = _unused(plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}", used)
    return found


def _unused(id: str, used: set[str]) -> str:
    """An id like this one, which it adds to those that are used."""
    found, number = id, len(used)
    while found in used:
        found, number = f"{id[:110]}_{number}", number + 1
    used.add(found)
    return found


def _once(names: list[str], what: str) -> None:
    """Raises ConfigError: two are called the same."""
    if len(set(names)) < len(names):
        twice = next(each for each, count in Counter(names).items() if count > 1)
        raise titan.ConfigError(f"{what} {twice!r} is there twice; ids are unique")


def _word(text: str) -> str:
    """The same as a word of a command, where what begins with `$` would be a reference."""
    return f"${text}" if text.startswith("$") else text


# --- the Titan orchestrator -----------------------------------------------------------------------------------


class OrchestratorJob(msgspec.Struct):
    """A job of its YAML."""

    id: str
    file: str = ""
    type: str = "run"
    depends_on: list[str] = []
    requirement: str = GENERAL
    priority: int = 1
    delay: Annotated[int, Meta(ge=0, le=10**12)] = 0
    """Milliseconds."""
    affinity: bool = False
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    args: str | Sequence[str | int | float | bool] = ""
    hitl_message: str = ""
    max_wait_seconds: Annotated[int, Meta(ge=0, le=10**9)] = 172_800


class OrchestratorFile(msgspec.Struct):
    """Its file."""

    jobs: list[OrchestratorJob]
    name: str = "dag"


def from_orchestrator(file: OrchestratorFile) -> Definition:
    """The definition of a file: a job is a Python script, tried three times; a requirement is a label of that name.

    A job with a message for a person becomes two: the job, and an approval that those wait for who need the job.
    """
    names = [each.id for each in file.jobs]
    _once(names, "job")
    ids = _plain_ids(names)
    used = set(ids.values())
    gates = {each.id: _unused(f"{ids[each.id][:110]}_approval", used) for each in file.jobs if each.hitl_message}
    tasks = []
    for job in file.jobs:
        unknown = [each for each in job.depends_on if each not in ids]
        if unknown:
            raise titan.ConfigError(f"job {job.id!r} depends on {unknown[0]!r}, and there is no such job")
        tasks.append(_task(job, ids, [gates.get(each) or ids[each] for each in job.depends_on]))
        if job.id in gates:
            approval = Approval(message=job.hitl_message, expires=float(job.max_wait_seconds))
            tasks.append(Task(id=gates[job.id], needs=[ids[job.id]], approval=approval))
    return Definition(name=file.name[:200] or "dag", tasks=tasks)


def _task(job: OrchestratorJob, ids: Mapping[str, str], needs: list[str]) -> Task:
    if not job.file:
        raise titan.ConfigError(f"job {job.id!r} names no file")
    kind = job.type.lower()
    if kind not in ("run", "service"):
        raise titan.ConfigError(f"job {job.id!r} has the type {job.type!r}; run and service are known")
    if kind == "service" and not job.port:
        raise titan.ConfigError(f"job {job.id!r} is a service, and names no port at which it answers")
    try:
        words = shlex.split(job.args) if isinstance(job.args, str) else job.args
    except ValueError as why:
        raise titan.ConfigError(f"job {job.id!r}: args {job.args[:100]!r}: {str(why).lower()}") from None
    labels = {} if job.requirement.upper() in ("", GENERAL) else {job.requirement.lower(): "1"}
    return Task(
        id=ids[job.id],
        run=["python", *(_word(str(each)) for each in (job.file, *words))],
        type="service" if job.port else "task",
        service=Service(port=job.port) if job.port else None,
        needs=needs,
        requires=Requires(labels=labels),
        priority=max(-1000, min(job.priority, 1000)),
        delay=job.delay / 1000,
        affinity=ids[job.depends_on[0]] if job.affinity and job.depends_on else "",
        retry=Retry(max_attempts=3),
    )
