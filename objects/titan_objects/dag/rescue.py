"""Rescue files: how far a run has come, for another run to go on from, in this pool or in any other.

    found = rescue_of(name, journal)       what a journal amounts to
    data = written(found)                  a file
    found = read_rescue(data, "it.rescue")     the same, checked in all that a run would check

What has succeeded is taken over; what has failed or was cancelled runs again, with all behind it. Inside is msgpack, so
results are what they were: bytes are no text, and keys may be numbers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.definition import Definition
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Adopt, Begin, Entry, Rerun, Success
from titan_objects.dag.messages import portions
from titan_objects.dag.steps import State

MAGIC = b"titan-dag-rescue 1\n"
DATA_BYTES_MAX = 1 << 30
"""Of all data that travels in a file; a run with more is rescued within its pool, `--without-data`."""
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


def rescue_of(origin: str, journal: Iterable[Entry]) -> Rescue:
    """What a run has come to.

    Raises:
        BadMessage: the journal is empty, or that of a run which has others do tasks of it.
    """
    return _of(origin, Engine.replay(journal))


def again(found: Rescue, tasks: Sequence[str]) -> Rescue:
    """The same, but that these tasks (`render`, `render[3]`) run again, with all behind them.

    Raises:
        BadMessage: there is no such task.
    """
    engine = Engine(keep_journal=False)
    engine.step(Begin(found.definition, found.params), 0.0)
    engine.step(found.found, 0.0)
    engine.step(Rerun(tasks=tuple(tasks)), 0.0)
    less = msgspec.structs.replace(found, found=_of(found.origin, engine).found)
    named = data_named(less)
    return msgspec.structs.replace(less, data={name: each for name, each in found.data.items() if name in named})


def _of(origin: str, engine: Engine) -> Rescue:
    begun = engine.definition
    if begun is None:
        raise titan.BadMessage(f"{origin} has not begun, so there is nothing to rescue")
    if engine.children:
        raise titan.BadMessage(f"{origin} has other runs do tasks of it, and such a run cannot be rescued yet")
    tasks = [step.task for step in engine.steps.values()]
    bad = (State.FAILED, State.CANCELLED)
    below = {
        each.task.id for step in engine.steps.values() if step.state in bad for each in step.below() if each is not step
    }
    return Rescue(
        origin=origin,
        definition=msgspec.structs.replace(begun, tasks=tasks, result=engine.result_task),
        params=engine.params,
        found=Adopt(
            results={
                each.key: each.result
                for name, step in engine.steps.items()
                if name not in below and step.task.service is None
                for each in step.instances
                if each.state is State.SUCCEEDED and each.result is not None
            },
            approved=tuple(
                name
                for name, step in engine.steps.items()
                if step.task.approval is not None and step.approved and name not in below
            ),
            rounds={name: step.rounds for name, step in engine.steps.items() if step.rounds > 1 and name not in below},
            epoch=engine.epoch,
        ),
    )


def parts(found: Adopt) -> Iterator[Adopt]:
    """The same in parts that fit into messages; what is no result comes first."""
    yield msgspec.structs.replace(found, results={})
    for portion in portions(found.results.items()):
        yield Adopt(dict(msgspec.msgpack.decode(msgspec.msgpack.encode(portion), type=list[tuple[str, Success]])))


def data_named(found: Rescue) -> set[str]:
    """Names of all data that its results and parameters name."""
    named = {name for each in found.found.results.values() for name in each.files.values()}
    values = [each.value for each in found.found.results.values()]
    named.update(_named([values, found.params, [[each.args, each.inputs] for each in found.definition.tasks]]))
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


def _check(found: Rescue) -> None:
    """Raises BadMessage: no run could begin with it, or its data is not what its name says."""
    engine = Engine(keep_journal=False)
    engine.step(Begin(found.definition, found.params), 0.0)
    engine.step(found.found, 0.0)
    for name, data in found.data.items():
        if name != f"sha256:{sha256(data).hexdigest()}":
            raise titan.BadMessage(f"data.{name[:100]}: these bytes have another hash")
    if found.code:
        single_root(found.code)


def single_root(code: Mapping[str, bytes]) -> str:
    """The file or package that all files of a bundle lie in. Raises BadMessage: there are several, or none."""
    roots = {name.partition("/")[0] for name in code}
    if len(roots) != 1:
        raise titan.BadMessage(f"code: it is one Python file or one package, not {len(roots)}")
    return roots.pop()
