"""Rescue files: how far a run has come, for another run to go on from, in this pool or in any other.

    found = rescue_of(left)                what is there of a run amounts to
    data = written(found)                  a file
    found = read_rescue(data, "it.rescue")     the same, checked in all that a run would check

What has succeeded is taken over; what has failed or was cancelled runs again, with all behind it. Inside is msgpack, so
results are what they were: bytes are no text, and keys may be numbers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import waits
from titan_objects.dag.definition import ELSEWHERE, SECTION, Definition, Task
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Adopt, Begin, Child, Rerun, Success
from titan_objects.dag.messages import portions
from titan_objects.dag.projects import archive_of
from titan_objects.dag.steps import State, Step

MAGIC = b"titan-dag-rescue 1\n"
DATA_BYTES_MAX = 1 << 30
"""Of all data that travels in a file; a run with more is rescued within its pool, `--without-data`."""
DEPTH_MAX = 20
PART_BYTES_MAX = 255
"""Of the name of a file or a directory: more than that no file system takes."""
_NAME = re.compile(r"sha256:[0-9a-f]{64}")


class Rescue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """See the module."""

    origin: str
    """Name of the run that it was."""
    definition: Definition
    """With the tasks that others have spawned; its code is beside it."""
    params: dict[str, Any] = {}
    found: Adopt = Adopt()
    code: dict[str, bytes] = {}
    """Files of the bundle that tasks call functions of. Who submits the run anew signs them anew."""
    data: dict[str, bytes] = {}
    """Data of the pool that results name, by their names; what is missing the pool must have."""
    children: dict[str, list["Rescue"]] = {}
    """What runs that do tasks of this one have come to, by the task; their data is here, and code that is not this."""


class Left(NamedTuple):
    """What is there of a run, and of those that do tasks of it."""

    name: str
    engine: Engine
    children: dict[str, list["Left"]] = {}


def rescue_of(left: Left) -> Rescue:
    """What a run has come to; sections of its graph are one graph again.

    Raises:
        BadMessage: it has not begun.
    """
    begun = left.engine.definition
    if begun is None:
        raise titan.BadMessage(f"{left.name} has not begun, so there is nothing to rescue")
    sections = [each for name, (each, *_) in left.children.items() if left.engine.steps[name].task.uses == SECTION]
    parts = sections or [left]
    steps = {name: step for each in parts for name, step in each.engine.steps.items() if step.task.uses != ELSEWHERE}
    tasks = [step.task for step in steps.values()]
    below = _below(tasks, [name for name, step in steps.items() if step.state in (State.FAILED, State.CANCELLED)])
    good = {name: step for name, step in steps.items() if name not in below}
    return Rescue(
        origin=left.name,
        definition=msgspec.structs.replace(begun, tasks=tasks, result=_result(left, sections)),
        params=left.engine.params,
        found=Adopt(
            results={
                each.key: each.result
                for step in good.values()
                if step.task.service is None
                for each in step.instances
                if each.state is State.SUCCEEDED and each.result is not None
            },
            approved=tuple(name for name, step in good.items() if step.task.approval is not None and step.approved),
            rounds={name: step.rounds for name, step in good.items() if step.rounds > 1},
            epoch=max(each.engine.epoch for each in parts),
        ),
        children={
            name: [_needed(rescue_of(each), good.get(name)) for each in several]
            for part in parts
            for name, several in part.children.items()
            if name in steps
        },
    )


def _result(left: Left, sections: Sequence[Left]) -> str:
    if not sections:
        return left.engine.result_task
    names = list(left.children)
    there = left.engine.result_task
    return sections[names.index(there)].engine.result_task if there in names else ""


def _below(tasks: Iterable[Task], bad: Iterable[str]) -> set[str]:
    """All that hang on these, themselves only where they hang on another one."""
    after: dict[str, list[str]] = {}
    for name, each in waits(list(tasks)).items():
        for need in each.ids:
            after.setdefault(need, []).append(name)
    found: set[str] = set()
    waiting = list(bad)
    for name in waiting:  # it grows meanwhile
        for child in after.get(name, ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _needed(child: Rescue, step: Step | None) -> Rescue:
    """What is needed of a run that did a task: nothing of what it found, where its result is known or it runs anew."""
    if step is not None and step.state is not State.SUCCEEDED:
        return child
    return _emptied(child)


def _emptied(found: Rescue) -> Rescue:
    children = {name: [_emptied(each) for each in several] for name, several in found.children.items()}
    return msgspec.structs.replace(found, found=Adopt(epoch=found.found.epoch), children=children)


def again(found: Rescue, tasks: Sequence[str]) -> Rescue:
    """The same, but that these tasks (`render`, `render[3]`) run again, with all behind them.

    Raises:
        BadMessage: there is no such task.
    """
    engine = _begun(found)
    engine.step(Rerun(tasks=tuple(tasks)), 0.0)
    less = rescue_of(Left(found.origin, engine))
    chosen = {each.partition("[")[0] for each in tasks}
    chosen |= _below(found.definition.tasks, chosen)
    children = {
        name: [_emptied(each) if name in chosen else each for each in several]
        for name, several in found.children.items()
    }
    less = msgspec.structs.replace(less, children=children, code=found.code)
    named = data_named(less)
    return msgspec.structs.replace(less, data={name: each for name, each in found.data.items() if name in named})


def _begun(found: Rescue) -> Engine:
    """A run that has come to this. Raises BadMessage: none could."""
    engine = Engine(keep_journal=False)
    children = {name: [Child(each.origin, b"") for each in several] for name, several in found.children.items()}
    engine.step(Begin(found.definition, found.params, children=children, found=found.found), 0.0)
    engine.step(found.found, 0.0)
    return engine


def parts(found: Adopt) -> Iterator[Adopt]:
    """The same in parts that fit into messages; what is no result comes first."""
    yield msgspec.structs.replace(found, results={})
    for portion in portions(found.results.items()):
        yield Adopt(dict(msgspec.msgpack.decode(msgspec.msgpack.encode(portion), type=list[tuple[str, Success]])))


def data_named(found: Rescue) -> set[str]:
    """Names of all data that its results, its parameters and its code name."""
    named = {name for each in found.found.results.values() for name in each.files.values()}
    named.add(archive_of(found.code))
    values = [each.value for each in found.found.results.values()]
    named.update(_named([values, found.params, [[each.args, each.inputs] for each in found.definition.tasks]]))
    for child in (each for several in found.children.values() for each in several):
        named |= data_named(child)
    return {name for name in named if _NAME.fullmatch(name)}


def _named(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case {"$data": str(name), **others} if not others:
                yield name
            case dict(inner):
                waiting.extend(inner.values())
            case list(inner) | tuple(inner):
                waiting.extend(inner)


# --- as a file ------------------------------------------------------------------------------------------------


def written(found: Rescue) -> bytes:
    """The file."""
    return MAGIC + msgspec.msgpack.encode(found)


def is_rescue(data: bytes) -> bool:
    """Whether a file says that it is one."""
    return data.startswith(MAGIC[: MAGIC.index(b" ")])


def read_rescue(data: bytes, file: str) -> Rescue:
    """What a file holds.

    Raises:
        ConfigError: naming the file and what is wrong in it.
    """
    if not data.startswith(MAGIC):
        raise titan.ConfigError(f"{file}: this is no rescue file, or one of a newer version")
    try:
        found = msgspec.msgpack.decode(memoryview(data)[len(MAGIC) :], type=Rescue)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise titan.ConfigError(f"{file}: {_shown(why)}") from None
    try:
        _check(found)
    except titan.BadMessage as why:
        raise titan.ConfigError(f"{file}: {why}") from None
    return found


def _shown(why: Exception) -> str:
    text, _, at = str(why).partition(" - at `$")
    if not isinstance(why, msgspec.ValidationError):
        return f"it is damaged, or not all of it is there: {text}"
    return f"{at.rstrip('`').lstrip('.') or 'the file'}: {text}"


def _check(found: Rescue, depth: int = 0) -> None:
    """Raises BadMessage: no run could begin with it, or its data is not what its name says."""
    if depth > DEPTH_MAX:
        raise titan.BadMessage(f"children: runs do tasks of one another {DEPTH_MAX} levels deep at most")
    _begun(found)
    for child in (each for several in found.children.values() for each in several):
        _check(child, depth + 1)
    for name, data in found.data.items():
        if name != f"sha256:{sha256(data).hexdigest()}":
            raise titan.BadMessage(f"data.{name[:100]}: these bytes have another hash")
    if found.code:
        single_root(found.code)


def single_root(code: Mapping[str, bytes]) -> str:
    """The file or package that all files of a bundle lie in. Raises BadMessage: there are several, or none, or a file
    would lie elsewhere.
    """
    for name in code:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise titan.BadMessage(f"code: {name[:100]!r} is no name, or lies outside of it")
        if max(len(part.encode()) for part in path.parts) > PART_BYTES_MAX:
            raise titan.BadMessage(f"code: {name[:100]!r}... has a part of more than {PART_BYTES_MAX} bytes")
        if not code.keys().isdisjoint(map(str, path.parents)):
            raise titan.BadMessage(f"code: what {name[:100]!r} lies in is a file")
    roots = {name.partition("/")[0] for name in code}
    if len(roots) != 1:
        raise titan.BadMessage(f"code: it is one Python file or one package, not {len(roots)}")
    return roots.pop()
