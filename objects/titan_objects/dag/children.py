"""Runs that do a task of another one: definitions that are used by name, and slices of a map that is too long for one.

What is planned here is published before the run begins. The run then tells each child when to begin, under a lease that
does not end, and the child tells it how it has ended: no object holds more than its own tasks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import words
from titan_objects.dag.definition import Definition, Map, Requires, Retry, Task, Timeout
from titan_objects.dag.definitions import load
from titan_objects.dag.journal import Adopt
from titan_objects.dag.plans import Plan
from titan_objects.dag.references import referred, resolved, rewritten
from titan_objects.dag.sections import cut

SLICE_ITEMS = 4_000
"""Items of a map that one run holds; of more, there are several."""
SLICE_BYTES = 256 << 10
CHILDREN_MAX = 256
"""Of a run, with their own."""
DEPTH_MAX = 8
ITEMS = "items"


async def planned(
    pool: titan.Pool,
    definition: Definition,
    params: dict[str, Any],
    base: Path | None = None,
    depth: int = 0,
    *,
    known: Mapping[str, list[Plan]] | None = None,
    found: Adopt | None = None,
) -> Plan:
    """What a definition comes to, with those that it uses.

    Args:
        known: by the task that they do, what is planned already.
        found: what another run has come to.

    Raises:
        BadMessage, NotFound: a definition that is used is not there, or is not used as it wants to be.
    """
    plan = Plan(definition, dict(params), {}, found)
    tasks = []
    for task in definition.tasks:
        if known and task.id in known:
            plan.children[task.id] = known[task.id]
        elif task.uses:
            used = await _used(pool, task, definition, base, depth)
            plan.children[task.id] = [used]
        elif (items := _long(task, definition, plan.params)) is not None:
            task, plan.children[task.id] = _sliced(task, definition, items)
            plan.params = _without(plan.params, definition, task.id)
        tasks.append(task)
    plan.definition = msgspec.structs.replace(definition, tasks=tasks)
    plan = cut(plan)
    if not depth and len(plan.all) > CHILDREN_MAX:
        raise titan.BadMessage(f"a run has at most {CHILDREN_MAX} others below it, not {len(plan.all) - 1}")
    return plan


async def _used(pool: titan.Pool, task: Task, definition: Definition, base: Path | None, depth: int) -> Plan:
    if task.map is not None:
        raise titan.BadMessage(f"task '{task.id}': what it uses has no map; put the map into {task.uses!r} itself")
    if depth >= DEPTH_MAX:
        raise titan.BadMessage(f"task '{task.id}': definitions use one another {DEPTH_MAX} levels deep, or in a circle")
    used = await load(pool, task.uses, base)
    if unknown := task.inputs.keys() - used.params.keys():
        raise titan.BadMessage(f"task '{task.id}': {task.uses!r} has no parameter {min(unknown)!r}")
    missing = [name for name, value in used.params.items() if value is None and name not in task.inputs]
    if missing:
        raise titan.BadMessage(f"task '{task.id}': {task.uses!r} wants {missing[0]!r}; give it under inputs")
    beside = (base or Path()) / Path(task.uses).parent if task.uses.startswith(".") else None
    code, name = used.code or definition.code, f"{definition.name}/{task.id}"[:200]
    return await planned(
        pool,
        msgspec.structs.replace(used, code=code, name=name, store=used.store or definition.store),
        {},
        beside,
        depth + 1,
    )


# --- slices ---------------------------------------------------------------------------------------------------


def _long(task: Task, definition: Definition, params: dict[str, Any]) -> list[Any] | None:
    """The items of a map that one run should not hold, where they are known before it begins."""
    if task.map is None or task.loop is not None or not (task.run or task.call):
        return None
    told = [words(task), task.args, task.inputs, task.env, task.cache_key]
    if any(parts[0] == "index" for parts in referred(told)):  # a slice does not know where it lies
        return None
    over = task.map.over
    if isinstance(over, list):
        items = None if any(referred(over)) else resolved(over, lambda parts: None)
    else:
        (parts,) = referred(over)
        items = {**definition.params, **params}.get(parts[1]) if parts[0] == "params" and len(parts) == 2 else None
    return items if isinstance(items, list) and len(items) > SLICE_ITEMS else None


def _without(params: dict[str, Any], definition: Definition, sliced: str) -> dict[str, Any]:
    """The parameters without the list that has gone into slices, unless another task wants it too."""
    over = {each.id: each.map.over for each in definition.tasks if each.map is not None}[sliced]
    if isinstance(over, list):
        return params
    ((_, name),) = referred(over)
    others = sum(f"params.{name}" in msgspec.json.encode(each).decode() for each in definition.tasks)
    return params if others > 1 else {**params, name: []}


def _sliced(task: Task, definition: Definition, items: list[Any]) -> tuple[Task, list[Plan]]:
    """The task as the run has it, and runs that each do it for some of the items."""
    assert task.map is not None
    given: dict[str, str] = {}

    def handed(parts: tuple[str, ...]) -> tuple[str, ...]:
        """What the run hands on stands among the parameters of a slice."""
        if parts[0] == "item":
            return parts
        name = f"{parts[0]}-{parts[1]}" if parts[0] == "params" else f"of-{parts[0]}"
        given[name] = f"${{{'.'.join(parts[:2] if parts[0] == 'params' else parts[:1])}}}"
        return ("params", name, *parts[2 if parts[0] == "params" else 1 :])

    cuts = _cuts(items)
    work = msgspec.structs.replace(
        task,
        run=rewritten(words(task), handed) or None,
        args=rewritten(task.args, handed),
        inputs=rewritten(task.inputs, handed),
        env=rewritten(task.env, handed),
        cache_key=rewritten(task.cache_key, handed),
        map=Map(over=f"${{params.{ITEMS}}}", max_parallel=max(1, task.map.max_parallel // len(cuts))),
        needs=[],
        depends="",
        trigger_rule="all_success",
        when="",
        delay=0.0,
        affinity="",
        approval=None,
        on_failure="ignore" if task.on_failure == "ignore" else "continue",
    )
    whole = Definition(
        name=f"{definition.name}/{task.id}"[:200],
        tasks=[work, Task(id=f"{task.id[:110]}_together", join=True, needs=[task.id])],
        params={ITEMS: None, **dict.fromkeys(given)},
        code=definition.code,
        store=definition.store,
        fairness_key=definition.fairness_key,
        max_parallel=max(1, definition.max_parallel // len(cuts)),
    )
    mine = msgspec.structs.replace(
        task,
        run=None,
        call="",
        args=[],
        inputs=dict(given),
        env={},
        secrets=[],
        outputs=[],
        uses=whole.name,
        map=Map(over=[], max_parallel=task.map.max_parallel),
        retry=Retry(),
        timeout=Timeout(),
        requires=Requires(),
        prefer={},
        affinity="",
        verify=None,
        cache_key="",
    )
    return mine, [Plan(whole, {ITEMS: each}, {}) for each in cuts]


def _cuts(items: list[Any]) -> list[list[Any]]:
    """The items in lists of equal length that fit in one object each."""
    size = len(msgspec.msgpack.encode(items))
    count = max(-(-len(items) // SLICE_ITEMS), -(-size // SLICE_BYTES))
    step = -(-len(items) // count)
    return [items[place : place + step] for place in range(0, len(items), step)]
