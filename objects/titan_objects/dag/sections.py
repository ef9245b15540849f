"""A graph that is too large for one object lies in several: each is a run that does a section of its tasks.

The run itself knows its sections alone, and has all of them begin at once. A task that others wait for in another
section stands there as well, as one that is done elsewhere: when it has ended, its run tells that one what came of it.
So no object holds more than its own tasks and those that they need, and nothing waits for a whole section.
"""

from collections.abc import Iterator, Mapping

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import check, given, waits
from titan_objects.dag.definition import ELSEWHERE, SECTION, Definition, Task
from titan_objects.dag.journal import Adopt
from titan_objects.dag.plans import Plan

SECTION_TASKS = 4_000
"""That one run holds; of a graph with more, there are several."""
SECTION_BYTES = 256 << 10
WHOLE_BYTES = 768 << 10
"""Of a graph that cannot be cut, or of a section with all that it needs: it travels in one message."""
EPOCHS = 1 << 32
"""Between two sections: names of tasks that others have spawned hold an epoch."""


def cut(plan: Plan) -> Plan:
    """The same plan, its graph in sections if it is too large for one run.

    Raises:
        BadMessage: it makes no sense, or is too large and cannot be cut.
    """
    definition = plan.definition
    size = len(msgspec.msgpack.encode(definition))
    if len(definition.tasks) <= SECTION_TASKS and size <= SECTION_BYTES:
        return plan
    if (why := _whole(definition)) and size <= WHOLE_BYTES:
        return plan
    if why:
        raise titan.BadMessage(f"{definition.name!r} has {size} bytes, and {why}, so it lies in one object: {_ADVICE}")
    check(definition)
    given(definition, plan.params)
    needs = {name: each.ids for name, each in waits(definition.tasks).items()}
    tasks = {task.id: task for task in definition.tasks}
    groups = list(_groups(tasks, needs))
    home = {name: number for number, names in enumerate(groups) for name in names}
    needed = {each for ids in needs.values() for each in ids}
    result = definition.result or next((name for name in reversed(list(tasks)) if name not in needed), "")
    sections = [Plan(_section(definition, tasks, needs, names, len(groups), result)) for names in groups]
    base = plan.found.epoch // EPOCHS if plan.found else 0
    for number, each in enumerate(sections, 1):
        text = msgspec.json.encode(each.definition.tasks).decode()
        params = {name: value for name, value in definition.params.items() if f"params.{name}" in text}
        each.definition = msgspec.structs.replace(each.definition, params=params)
        each.params = {name: value for name, value in plan.params.items() if name in params}
        each.children = {name: plan.children[name] for name in groups[number - 1] if name in plan.children}
        each.after = (base + number) * EPOCHS
        each.found = _part(plan.found, home, number - 1)
        if len(text) > WHOLE_BYTES:
            raise titan.BadMessage(f"tasks of {definition.name!r} need too many others for one object: {_ADVICE}")
    for name, ids in needs.items():
        for need in ids:
            source, target = sections[home[need]], sections[home[name]]
            if source is not target and need not in target.inlets:
                source.outlets.setdefault(need, []).append(target)
                target.inlets[need] = source
    head = [Task(id=f"section-{number}", uses=SECTION) for number in range(1, len(sections) + 1)]
    whole = msgspec.structs.replace(definition, tasks=head, result=f"section-{home[result] + 1}" if result else "")
    return Plan(whole, plan.params, {task.id: [each] for task, each in zip(head, sections, strict=True)})


_ADVICE = "let a map make its tasks, or have some of them joined first"


def _whole(definition: Definition) -> str:
    """Why a graph cannot be cut: what reaches beyond the tasks that need one another."""
    for task in definition.tasks:
        if task.loop is not None:
            return f"task '{task.id}' has a loop"
        if task.service is not None:
            return f"task '{task.id}' is a service"
        if task.on_failure == "cancel":
            return f"task '{task.id}' cancels the others when it fails"
    return ""


def _groups(tasks: Mapping[str, Task], needs: Mapping[str, list[str]]) -> Iterator[list[str]]:
    """The tasks depth first, so that chains stay together, in groups that fit into one run each."""
    group: list[str] = []
    size = 0
    for name in _depth_first(needs):
        more = len(msgspec.msgpack.encode(tasks[name]))
        if group and (len(group) >= SECTION_TASKS or size + more > SECTION_BYTES):
            yield group
            group, size = [], 0
        group.append(name)
        size += more
    yield group


def _depth_first(needs: Mapping[str, list[str]]) -> Iterator[str]:
    """Each behind all that it needs, which comes right before it as far as it can."""
    seen: set[str] = set()
    needed = {each for ids in needs.values() for each in ids}
    for root in needs:
        if root in needed:
            continue
        seen.add(root)
        way = [(root, iter(needs[root]))]
        while way:
            name, left = way[-1]
            below = next((each for each in left if each not in seen), None)
            if below is None:
                way.pop()
                yield name
            else:
                seen.add(below)
                way.append((below, iter(needs[below])))


def _section(
    definition: Definition,
    tasks: Mapping[str, Task],
    needs: Mapping[str, list[str]],
    names: list[str],
    sections: int,
    result: str,
) -> Definition:
    """What one section does, and what it waits for."""
    mine = set(names)
    others = dict.fromkeys(each for name in names for each in needs[name] if each not in mine)
    elsewhere = [Task(id=name, uses=ELSEWHERE, on_failure=tasks[name].on_failure) for name in others]
    own = [
        msgspec.structs.replace(tasks[name], affinity=tasks[name].affinity if tasks[name].affinity in mine else "")
        for name in names
    ]
    return msgspec.structs.replace(
        definition,
        tasks=[*elsewhere, *own],
        result=result if result in mine else "",
        max_parallel=max(1, definition.max_parallel // sections),
    )


def _part(found: Adopt | None, home: Mapping[str, int], section: int) -> Adopt | None:
    """As much of what is known as belongs to a section."""
    if found is None:
        return None
    return Adopt(
        {key: each for key, each in found.results.items() if home.get(key.partition("[")[0]) == section},
        tuple(name for name in found.approved if home.get(name) == section),
        {},
    )
