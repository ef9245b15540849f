"""What must hold of a definition beyond its schema: names that exist, no cycle, conditions that can be read."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import titan_overlay as titan
from titan_objects.dag.definition import AUTO, COMPARATORS, ITEMS_MAX, TASKS_MAX, Definition, Task, Verify
from titan_objects.dag.expressions import Both, Either, Expression, Name, Value, names, parse
from titan_objects.dag.references import amid, referred

IDLE = {
    "run": ("args", "inputs"),
    "call": ("outputs", "env", "secrets"),
    "reduce": ("outputs", "env", "secrets"),
    "uses": ("args", "outputs", "env", "secrets", "verify", "cache_key", "affinity"),
    "join": ("args", "inputs", "outputs", "env", "secrets", "cache_key"),
    "approval": ("args", "inputs", "outputs", "env", "secrets", "map", "verify", "cache_key"),
}
"""By what a task does: fields that would change nothing."""

OUTCOMES = ("Succeeded", "Failed", "Skipped", "Cancelled", "Done")


def check(definition: Definition) -> None:
    """Raises BadMessage, naming the task, where the definition makes no sense."""
    if not definition.tasks:
        raise titan.BadMessage("a DAG has one task at least")
    if len(definition.tasks) > TASKS_MAX:
        raise titan.BadMessage(f"a DAG has at most {TASKS_MAX} tasks, this one {len(definition.tasks)}")
    tasks: dict[str, Task] = {}
    for task in definition.tasks:
        if task.id in tasks:
            raise titan.BadMessage(f"task '{task.id}' is there twice; ids are unique")
        tasks[task.id] = task
    for task in definition.tasks:
        try:
            _check_task(task, tasks, definition)
        except titan.BadMessage as why:
            raise titan.BadMessage(f"task '{task.id}': {why}") from None
    if definition.result and definition.result not in tasks:
        raise titan.BadMessage(f"result names {definition.result!r}, and there is no such task")
    order(waits(definition.tasks))


def given(definition: Definition, params: Mapping[str, Any]) -> dict[str, Any]:
    """Its parameters with the values that they have. Raises BadMessage: one is unknown, or has none."""
    if unknown := params.keys() - definition.params.keys():
        raise titan.BadMessage(f"{definition.name!r} has no parameter {min(unknown)!r}")
    values = {**definition.params, **params}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise titan.BadMessage(f"parameter {missing[0]!r} of {definition.name!r} must be given")
    return values


def _check_task(task: Task, tasks: Mapping[str, Task], definition: Definition) -> None:
    does = [what for what in ("run", "call", "reduce", "join", "uses") if getattr(task, what)]
    if len(does) > 1:
        raise titan.BadMessage(f"it has {' and '.join(does)}; a task does one thing")
    if not does and task.approval is None:
        raise titan.BadMessage("it does nothing: give it run, call, reduce, join, uses or an approval")
    if task.depends and (task.needs or task.trigger_rule != "all_success"):
        raise titan.BadMessage("depends stands in place of needs and trigger_rule; take one or the other")
    needs = upstream(task)
    for need in needs:
        if need not in tasks:
            raise titan.BadMessage(f"it needs {need!r}, and there is no such task{_nearest(need, tasks)}")
    for parts in names(parse(task.depends)) if task.depends else ():
        if len(parts) > 2 or (len(parts) == 2 and parts[1] not in OUTCOMES):
            raise titan.BadMessage(f"depends takes NAME or NAME.OUTCOME ({', '.join(OUTCOMES)}), not {'.'.join(parts)}")
    if task.reduce and len(needs) != 1:
        raise titan.BadMessage("a reduce needs exactly one task: the one whose results it takes")
    if task.affinity and task.affinity not in tasks:
        raise titan.BadMessage(f"affinity names {task.affinity!r}, and there is no such task")
    if task.map is not None:
        if task.loop is not None:
            raise titan.BadMessage("a map has no loop of its own; put the loop on a task that needs it")
        if isinstance(task.map.over, list) and len(task.map.over) > ITEMS_MAX:
            raise titan.BadMessage(f"a map has at most {ITEMS_MAX} items")
    known = set(needs)
    over = task.map.over if task.map else None
    told = [words(task), task.args, task.inputs, task.env, over, task.cache_key]
    for name in referred(told):
        _check_name(name, known, task, definition)
    for text, name in amid(told):
        _check_amid(text, name, known, task, definition)
    if task.map is not None and task.cache_key not in ("", AUTO):
        _check_key_of_map(task.cache_key)
    if task.when:
        for parts in names(parse(task.when)):
            _check_name(parts, known, task, definition)
    if task.loop is not None:
        _check_loop(task, tasks)
    if task.verify is not None:
        _check_verify(task.verify)
    what = does[0] if does else "approval"
    if (task.type == "service") != (task.service is not None):
        raise titan.BadMessage("a service has both type: service, and under service the port at which it answers")
    if task.service is not None:
        _check_service(task)
    for field in IDLE[what]:
        if getattr(task, field):
            hint = "; write it into the command" if what == "run" else ""
            raise titan.BadMessage(f"{field} does nothing in a task with {what}{hint}")


def _check_name(parts: tuple[str, ...], known: set[str], task: Task, definition: Definition) -> None:
    shown = ".".join(parts)
    if parts[0] == "params":
        if len(parts) < 2 or parts[1] not in definition.params:
            raise titan.BadMessage(f"{shown} is no parameter; declare it under params")
    elif parts[0] in ("item", "index"):
        if task.map is None:
            raise titan.BadMessage(f"{shown} is known in a task with a map only")
    elif parts[0] not in known:
        raise titan.BadMessage(f"it refers to {shown}, so it must need {parts[0]!r}: add it to needs")


def _check_amid(text: str, parts: tuple[str, ...], known: set[str], task: Task, definition: Definition) -> None:
    """Raises BadMessage where a text means something that it will not get; variables of a script mean nothing here."""
    name = parts[0]
    if name == "params":
        meant = parts[1:2] and parts[1] in definition.params
    elif name in ("item", "index"):
        meant = task.map is not None
    else:
        meant = name in known
    its_own = len(parts) == 1 and (name in task.env or re.search(rf"(?<![\w{{]){re.escape(name)}\b", text))
    if meant and not its_own:
        raise titan.BadMessage(
            f"${{{'.'.join(parts)}}} amid other text stays as it is, in {text[:100]!r}: a reference is a text, or a "
            "word of a command, of its own; a script has it by env"
        )


def _check_key_of_map(key: str | list[Any]) -> None:
    if not any(parts[0] in ("item", "index") for parts in referred(key)):
        raise titan.BadMessage(
            "all items of the map would have one cache_key, and so the result of one of them: add the item, as in "
            '["v1", "${item}"]'
        )


def _check_verify(verify: Verify) -> None:
    if verify.max_total < verify.quorum:
        raise titan.BadMessage("verify.max_total is less than verify.quorum, so no result could ever be believed")
    if verify.comparator not in COMPARATORS:
        asked = {parts[0] for parts in names(parse(verify.comparator))}
        if asked != {"a", "b"}:
            raise titan.BadMessage(
                f"verify.comparator is {' or '.join(COMPARATORS)}, or an expression about the results a and b, such as "
                f"a.best == b.best; not {verify.comparator!r}"
            )


def _check_service(task: Task) -> None:
    if not task.run:
        raise titan.BadMessage("a service is a command: give it run")
    for field in ("map", "loop", "verify", "cache_key", "outputs"):
        if getattr(task, field):
            raise titan.BadMessage(f"{field} does nothing in a service, which has no end but that of the run")
    if task.timeout.run is not None or task.timeout.total is not None:
        raise titan.BadMessage("a service goes on until the run ends: it has neither timeout.run nor timeout.total")


def _check_loop(task: Task, tasks: Mapping[str, Task]) -> None:
    assert task.loop is not None
    if task.loop.to not in tasks:
        raise titan.BadMessage(f"loop goes to {task.loop.to!r}, and there is no such task")
    if task.loop.to not in _reached(task.id, lambda name: upstream(tasks[name]) if name in tasks else []):
        raise titan.BadMessage(f"loop goes to {task.loop.to!r}, which comes before this task on no way")
    for parts in names(parse(task.loop.when)):
        if parts[0] not in ("params", task.id):
            raise titan.BadMessage(f"loop.when may ask for params and for {task.id} itself, not for {parts[0]!r}")


def _nearest(name: str, tasks: Mapping[str, Task]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(tasks)[:10_000], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def words(task: Task) -> list[str]:
    """Its command as words; a text is split as a shell would, and nothing else of a shell happens to it.

    Raises:
        BadMessage: a quotation has no end.
    """
    try:
        return shlex.split(task.run) if isinstance(task.run, str) else task.run or []
    except ValueError as why:
        raise titan.BadMessage(f"run cannot be split into words: {why}") from None


# --- what a task waits for ------------------------------------------------------------------------------------


def upstream(task: Task) -> list[str]:
    """Ids of the tasks that this one waits for, each once."""
    if not task.depends:
        return list(dict.fromkeys(task.needs))
    return list(dict.fromkeys(parts[0] for parts in names(parse(task.depends))))


def condition(task: Task) -> Expression:
    """When the task may run, as one expression over outcomes (`A` is `A.Succeeded`)."""
    if task.depends:
        return parse(task.depends)
    needs = task.needs
    if not needs:
        return Value(True)
    match task.trigger_rule:
        case "all_success":
            return Both(tuple(Name((each,)) for each in needs))
        case "all_done":
            return Both(tuple(Name((each, "Done")) for each in needs))
        case "all_failed":
            return Both(tuple(Name((each, "Failed")) for each in needs))
        case "one_success":
            return Either(tuple(Name((each,)) for each in needs))
        case "one_failed":
            return Either(tuple(Name((each, "Failed")) for each in needs))
        case "none_failed":
            return Both(tuple(Either((Name((each,)), Name((each, "Skipped")))) for each in needs))
    return Value(True)


class Waits(NamedTuple):
    """What a task waits for."""

    ids: list[str]
    condition: Expression


def waits(tasks: Iterable[Task]) -> dict[str, Waits]:
    """What each task waits for. Who needs something inside a cycle waits for the last round of it, too."""
    found = {task.id: Waits(upstream(task), condition(task)) for task in tasks}
    for task in tasks:
        if task.loop is None:
            continue
        body = _body(task.id, task.loop.to, found)
        for name, (ids, when) in found.items():
            if name not in body and task.id not in ids and not body.isdisjoint(ids):
                found[name] = Waits([*ids, task.id], Both((when, Name((task.id, "Done")))))
    return found


def _body(end: str, begin: str, found: Mapping[str, Waits]) -> set[str]:
    """All that lies between the two, both included."""
    after: dict[str, list[str]] = {}
    for name, each in found.items():
        for need in each.ids:
            after.setdefault(need, []).append(name)
    return _reached(end, lambda name: found[name].ids) & _reached(begin, lambda name: after.get(name, []))


def _reached(start: str, edges: Callable[[str], Iterable[str]]) -> set[str]:
    """All that edges lead to, the start included."""
    found = {start}
    waiting = [start]
    while waiting:
        for each in edges(waiting.pop()):
            if each not in found:
                found.add(each)
                waiting.append(each)
    return found


def order(waiting: Mapping[str, Waits]) -> list[str]:
    """Ids so that each comes after all that it waits for. Source: Kahn, 1962.

    Raises:
        BadMessage: there is a cycle; the text names it.
    """
    needs_of = {name: each.ids for name, each in waiting.items()}
    missing = {name: len(needs) for name, needs in needs_of.items()}
    after: dict[str, list[str]] = {name: [] for name in needs_of}
    for name, needs in needs_of.items():
        for each in needs:
            after[each].append(name)
    sorted_ids = [name for name, count in missing.items() if not count]
    for name in sorted_ids:  # it grows meanwhile
        for each in after[name]:
            missing[each] -= 1
            if not missing[each]:
                sorted_ids.append(each)
    if len(sorted_ids) < len(needs_of):
        cycle = list(_cycle(needs_of, {name for name, count in missing.items() if count}))
        raise titan.BadMessage(
            f"task '{cycle[0]}' waits for itself: {' -> '.join(cycle)}; a cycle that is meant is written as loop"
        )
    return sorted_ids


def _cycle(needs_of: Mapping[str, list[str]], left: set[str]) -> Iterator[str]:
    """One cycle, in the order in which the tasks would run."""
    at, seen = min(left), dict[str, int]()
    while at not in seen:
        seen[at] = len(seen)
        at = next(each for each in needs_of[at] if each in left)
    around = [name for name, place in seen.items() if place >= seen[at]]
    yield at
    yield from reversed(around)
