"""What a DAG is: its tasks, what each needs, and what happens when one fails. The same as a file and as Python objects.

A definition is immutable. Durations are seconds, or a text such as `"90s"`, `"10m"`, `"1h"`; sizes are bytes, or a text
such as `"512M"`. Values that begin with `$` are references: `"${params.n}"`, `"${render}"` (the result of a task),
`"${item}"` (in a map). `"$$"` is a plain `$`.
"""

import re
from hashlib import sha256
from inspect import cleandoc
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

import titan_overlay as titan

TASKS_MAX = 100_000
ITEMS_MAX = 100_000
"""Of one map."""
COMPARATORS = ("bitwise", "numeric")
"""Those that have a name."""
AUTO = "auto"
"""The cache key that is made of code and inputs."""
SECTION = "$section"
"""What a task uses that stands for a section of a graph which lies in several runs (`sections.py`)."""
ELSEWHERE = "$elsewhere"
"""What a task uses that is done in another section of the same graph."""
ID = r"^[A-Za-z_][A-Za-z0-9_-]{0,127}$"

Id = Annotated[str, Meta(pattern=ID, description="letters, digits, `_` and `-`; begins with a letter")]
Duration = (
    Annotated[float, Meta(ge=0, le=1e9)]
    | Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,6})?(ms|s|m|h|d)$", description='such as "90s", "10m", "1h"')]
)
Size = (
    Annotated[int, Meta(ge=0, le=1 << 60)]
    | Annotated[str, Meta(pattern=r"^\d{1,9}[KMGT]?$", description='bytes, or such as "512M", "4G"')]
)
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Share = Annotated[float, Meta(ge=0, le=1)]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base: unknown fields are mistakes."""


class Map(_Part, frozen=True, kw_only=True):
    """One instance of the task for each item."""

    over: str | list[Any]
    """A list, or a reference to one."""
    max_parallel: Count = ITEMS_MAX
    """Instances that run at once."""


class Retry(_Part, frozen=True, kw_only=True):
    """When an attempt fails: wait `initial * backoff ** (attempts - 1)`, at most `max_interval`, and try again."""

    max_attempts: Count = 1
    initial: Duration = 1.0
    backoff: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_interval: Duration = 300.0
    jitter: Share = 0.2
    """The wait is drawn from this share around its length."""
    non_retryable: list[str] = []
    """Names of error types after which it is not tried again."""


class Timeout(_Part, frozen=True, kw_only=True):
    """How long things may take; without one, for ever (but for the heartbeat)."""

    queue: Duration | None = None
    """From ready to running."""
    run: Duration | None = None
    """One attempt."""
    total: Duration | None = None
    """From ready to the end, with all attempts."""
    heartbeat: Duration = 30.0
    """A worker that is silent for longer has lost the task."""


class Requires(_Part, frozen=True, kw_only=True):
    """What a worker must have; strictly."""

    labels: dict[str, str] = {}
    cores: Annotated[float, Meta(ge=0, le=4096)] = 1.0
    memory: Size = 0


class Verify(_Part, frozen=True, kw_only=True):
    """Results are compared before one is believed.

    Source: Anderson, "BOINC: A Platform for Volunteer Computing", J. Grid Computing 2020, section 3.4.
    """

    quorum: Count = 2
    """Results of distinct owners that must agree."""
    target: Count = 2
    """Instances at first."""
    max_error: Count = 5
    max_total: Count = 10
    comparator: Annotated[str, Meta(min_length=1, max_length=1000)] = "bitwise"
    """`bitwise`, `numeric`, or an expression about two results `a` and `b`, such as `"a.best == b.best"`, which sees
    inside of results that are small enough to travel with messages; larger ones agree bit by bit, or not.
    """
    tolerance: Annotated[float, Meta(ge=0)] = 1e-9
    """Of the numeric comparator: relative, and absolute near 0."""
    adaptive: bool = False
    """One result is enough from a worker whose last results were valid."""


class Approval(_Part, frozen=True, kw_only=True):
    """The task waits until somebody says yes."""

    message: str = ""
    expires: Duration = "48h"


class Loop(_Part, frozen=True, kw_only=True):
    """A bounded cycle: after this task, everything from `to` to it runs once more."""

    to: Id
    when: str = "true"
    max: Count
    """Rounds in all, the first one included."""


class Service(_Part, frozen=True, kw_only=True):
    """The task is a command that goes on until the run ends. It has succeeded once its port answers; its result is then
    `{"host": ..., "port": ...}`.
    """

    port: Annotated[int, Meta(ge=1, le=65535)]
    ready: Duration = 30.0
    """Until the port answers; else the attempt has failed."""
    restart: bool = True
    """An end of the command is a failed attempt, after which `retry` has it started again. If not, it fails for good,
    or is left so where it ended well after it was up.
    """


TriggerRule = Literal["all_success", "all_done", "all_failed", "one_success", "one_failed", "none_failed", "always"]


class Task(_Part, frozen=True, kw_only=True):
    """One step. It has one of `run`, `call`, `reduce` and `uses`, or, being a `join` or an `approval` only, none."""

    id: Id
    run: str | list[str] | None = None
    """A command: words, or a text that is split like a shell would, with no shell."""
    call: str = ""
    """`module:function`, in the code that travels with the DAG."""
    uses: str = ""
    """A definition that runs in this place, as a run of its own: `./etl.yaml`, `etl`, `etl@REVISION` or `~KEY/etl`. Its
    parameters are `inputs`.
    """
    reduce: str = ""
    """`module:function` that takes the list of results of the one task that is needed."""
    join: bool = False
    """Merges the results of all that it needs: maps, of which later ones win; lists, one behind the other; or a list of
    them, where they are neither."""
    type: Literal["task", "service"] = "task"
    service: Service | None = None
    args: list[Any] = []
    """Of the function; a command has its own words."""
    inputs: dict[str, Any] = {}
    """Of the function, by name."""
    outputs: list[str] = []
    """Files of the command's directory that are kept."""
    env: dict[str, str] = {}
    """Of the command."""
    secrets: list[str] = []
    """Of the command: environment variables that the worker's operator provides; values are never in the journal."""

    needs: list[Id] = []
    depends: str = ""
    """In place of `needs` and `trigger_rule`: `"A && (B.Succeeded || C.Failed)"`."""
    trigger_rule: TriggerRule = "all_success"
    when: str = ""
    """Decided once the task could run: `"params.n > 3 && score.result >= 0.5"`; else it is skipped."""
    map: Map | None = None
    loop: Loop | None = None
    retry: Retry = Retry()
    timeout: Timeout = Timeout()
    requires: Requires = Requires()
    prefer: dict[str, str] = {}
    """Labels that are liked, not required."""
    affinity: str = ""
    """A task that this one is to run next to: on the same worker, if it asks first."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    delay: Duration = 0.0
    """Between ready and running."""
    fairness_key: str = ""
    estimate: Duration = 1.0
    """How long it takes, for the critical path."""
    verify: Verify | None = None
    cache_key: str | list[Any] = ""
    """What has run under the same key in another run of yours does not run again. `auto`: the key is made of the code,
    and of what the task is given. Anything else, such as `["v2", "${params.day}"]`, stands in the place of these two.
    """
    on_failure: Literal["continue", "cancel", "ignore"] = "continue"
    """What its failure does to the others: all goes on that can; all is cancelled; it does not count."""
    approval: Approval | None = None


class Definition(_Part, frozen=True, kw_only=True):
    """A DAG."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    tasks: list[Task]
    params: dict[str, Any] = {}
    """Parameters with their defaults; null: must be given."""
    code: str = ""
    """Name of the signed code (`sha256:...`) that has the functions which tasks call."""
    result: str = ""
    """The task whose result is the run's; by default the last one that nothing needs."""
    description: str = ""
    store: Annotated[str, Meta(max_length=200)] = ""
    """Name of a store of the pool, which its tasks have as `task.store`, and in which it shows how they are."""
    fairness_key: str = ""
    max_parallel: Count = TASKS_MAX
    """Tasks of a run that run at once."""


def tasks_of(said: list[Any]) -> tuple[Task, ...]:
    """Tasks that one which runs adds. Raises BadMessage: they are none."""
    try:
        return tuple(msgspec.convert(said, list[Task]))
    except msgspec.ValidationError as why:
        raise titan.BadMessage(str(why)) from None


def seconds(value: float | str) -> float:
    """A duration as seconds."""
    if not isinstance(value, str):
        return float(value)
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", value).groups()  # type: ignore[union-attr]
    return float(number) * _SECONDS[unit]


def size_bytes(value: int | str) -> int:
    """A size as bytes."""
    if not isinstance(value, str):
        return value
    unit = value[-1:] if value[-1:].isalpha() else ""
    return int(value.removesuffix(unit)) * _BYTES[unit]


def revision(definition: Definition) -> str:
    """SHA-256 of the definition: the same for the same one, however its file was written."""
    try:
        data = msgspec.json.encode(definition, order="deterministic")
    except TypeError:  # keys that are no text, which JSON does not tell apart from text
        data = canonical(definition)
    return sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """The value as msgpack, the same for equal ones: maps are in an order of their own, whatever their keys are."""
    try:
        return msgspec.msgpack.encode(value, order="deterministic")
    except TypeError:
        return msgspec.msgpack.encode(_ordered(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = ((msgspec.msgpack.encode(key), _ordered(each)) for key, each in value.items())
        return {"$map": sorted(pairs, key=lambda pair: pair[0])}
    return [_ordered(each) for each in value] if isinstance(value, list | tuple) else value


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of definition files."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_dedented(msgspec.json.schema(Definition))}


def _dedented(part: Any) -> Any:
    """Descriptions without the indentation that they have in the code, which msgspec leaves in before 0.23."""
    if isinstance(part, list):
        return [_dedented(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        key: cleandoc(each) if key == "description" and isinstance(each, str) else _dedented(each)
        for key, each in part.items()
    }
