"""Submitting runs: anew, or to go on from what another one has come to."""

import asyncio
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.bundles import lay_out
from titan_objects.dag.children import planned
from titan_objects.dag.definition import Definition, Task, revision, size_bytes
from titan_objects.dag.journal import Adopt, Child
from titan_objects.dag.memory import Admit, Memory, memory_of
from titan_objects.dag.messages import Look, Start, Started, TakeOver
from titan_objects.dag.plans import Plan, each_child
from titan_objects.dag.projects import packed
from titan_objects.dag.queue import COMMANDS, WorkerInfo, listed, owner_of
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.rescue import Rescue, data_named, parts, single_root
from titan_objects.dag.run import Run
from titan_objects.dag.submitted import SubmittedRun

PUBLISH_TURNS = 3
PUBLISH_SECONDS = 0.5


async def submit(
    pool: titan.Pool,
    definition: Definition,
    *,
    params: dict[str, Any] | None = None,
    queue: str = "dag",
    code: Path | None = None,
    base: Path | None = None,
    faults: int | None = None,
    once: str = "",
    workers: Sequence[str] = (),
    store: str = "",
) -> SubmittedRun:
    """Submits a run, and says at once if nobody could run it.

    Args:
        code: the Python file or package that tasks call functions of.
        base: the directory from which definitions that are used name their files.
        faults: crashes that the run survives; by default 1 where the pool has nodes enough.
        once: a key of your own: submitted again under it, by whichever of your programs, it is the same run.
        workers: fingerprints of the keys whose workers may take its tasks, and whose results count; none: those of
            any node of the pool that offers to, whose results `verify` compares.
        store: name of a store of the pool, for this run in place of the definition's.

    Raises:
        Conflict: under the same `once` something else was submitted.
        Unavailable: no worker is there, or none trusts you.
        BadMessage: the definition makes no sense.
    """
    definition = _with_store(definition, store)
    run, began = await _begin(pool, definition, params or {}, queue, code, faults, once, workers, base)
    await run.announce(definition.name, began.state, began.voice)
    return run


async def resume(
    pool: titan.Pool,
    found: Rescue,
    *,
    queue: str = "dag",
    code: Path | None = None,
    faults: int | None = None,
    workers: Sequence[str] = (),
    store: str = "",
) -> SubmittedRun:
    """Submits a run that goes on from where another one was rescued.

    Args:
        code: in place of the code that came along; either is signed by you, so look at it if it is not your own.
        queue, faults, workers, store: as in `submit`.

    Raises:
        NotFound: data that results name is neither in the file nor in this pool.
        Unavailable, BadMessage: as in `submit`.
    """
    for name in sorted(data_named(found) - found.data.keys()):
        try:
            await pool.describe(name)
        except titan.NotFound:
            raise titan.NotFound(
                f"{name} came not along, and this pool does not have it; export it with its data"
            ) from None
    for name in sorted(found.data):
        await pool.put(found.data[name])
    again = await _packed(pool, found.code) if code is None and found.code else ""
    definition = msgspec.structs.replace(_with_store(found.definition, store), code=again)
    known = {task: [await _planned(pool, each, again) for each in several] for task, several in found.children.items()}
    run, began = await _begin(
        pool, definition, found.params, queue, code, faults, "", workers, known=known, found=found.found
    )
    await run.announce(found.definition.name, began.state, began.voice)
    return run


async def _planned(pool: titan.Pool, found: Rescue, code: str) -> Plan:
    """A run below one that was rescued, as it goes on; its code is the one of the run above it, if it has no other."""
    code = await _packed(pool, found.code) if found.code else code
    known = {task: [await _planned(pool, each, code) for each in several] for task, several in found.children.items()}
    definition = msgspec.structs.replace(found.definition, code=code)
    return await planned(pool, definition, found.params, known=known, found=found.found)


async def _packed(pool: titan.Pool, code: dict[str, bytes]) -> str:
    """The name of the bundle with these files, signed anew."""
    with tempfile.TemporaryDirectory(prefix="titan-dag-") as directory:
        lay_out(code, Path(directory))
        return await pool.put(await pool.pack(Path(directory, single_root(code))))


async def _begin(
    pool: titan.Pool,
    definition: Definition,
    params: dict[str, Any],
    queue: str,
    code: Path | None,
    faults: int | None,
    once: str,
    workers: Sequence[str],
    base: Path | None = None,
    *,
    known: dict[str, list[Plan]] | None = None,
    found: Adopt | None = None,
) -> tuple[SubmittedRun, Started]:
    """A run that its queue does not know yet."""
    await _open_queue(pool, queue)
    offered = await listed(pool, queue, AskWorkers)
    chosen = [each for each in offered if not workers or owner_of(each.name) in workers]
    if offered and not chosen:
        raise titan.Unavailable(
            f"0 of {len(offered)} workers at the queue {queue!r} are of those whose workers may take its tasks: "
            f"{', '.join(workers)} (the name of a worker begins with its key)"
        )
    plan = await planned(pool, definition, params, base, known=known, found=found)
    for each in plan.all:
        _check_workers(chosen, each.definition, pool.id, queue)
    name_of_code = "" if code is None else await packed(pool, code)
    for each in plan.all:
        mine = each is plan or not each.definition.code
        each.definition = _with_label(each.definition, name_of_code if mine else "")
    if faults is None:
        faults = 1 if len(await pool.census()) >= 3 else 0
    seed = f"once/{once}" if once else f"{revision(definition)}/{pool.token_bytes(16).hex()}"
    name = f"~{pool.id}/dag/{sha256(f'{pool.id}/{seed}'.encode()).hexdigest()[:16]}"
    await (_publish_once if once else _publish)(pool, Run, name, faults)
    return await _started(pool, plan, name, list(workers), queue, faults, once)


async def _started(
    pool: titan.Pool, plan: Plan, name: str, workers: list[str], queue: str, faults: int, once: str
) -> tuple[SubmittedRun, Started]:
    """Starts a run that was published, once those are that do tasks of it."""
    remembers = any(_remembers(task) for each in plan.all for task in each.definition.tasks)
    if remembers:
        await _publish_once(pool, Memory, memory_of(name), faults)

    async def publish(plan: Plan, run: str) -> None:
        await (_publish_once if once else _publish)(pool, Run, run, faults)
        await name_all(plan, run)

    async def name_all(plan: Plan, run: str) -> None:
        plan.me = Child(run, (await pool.read(run, Look())).voice)
        await each_child(plan, run, publish)

    async def start(plan: Plan, parent: Child | None = None) -> Started:
        async def child(below: Plan, run: str) -> None:
            began = await start(below, plan.run)
            await SubmittedRun(pool, run, queue).announce(below.definition.name, began.state, began.voice)

        await each_child(plan, plan.run.name, child)
        records = await pool.send(memory_of(name), Admit(plan.run.voice)) if remembers else None
        began = await pool.send(plan.run.name, starting(plan, workers, queue, parent, records), timeout=30)
        for part in parts(plan.found) if plan.found else ():
            await pool.send(plan.run.name, TakeOver(part))
        return began

    await name_all(plan, name)
    return SubmittedRun(pool, name, queue), await start(plan)


def starting(plan: Plan, workers: list[str], queue: str, parent: Child | None, records: dict[str, int] | None) -> Start:
    """What begins the run of a plan, all of whose runs are published."""
    return Start(
        plan.definition,
        plan.params,
        workers,
        queue,
        {task: [each.run for each in plans] for task, plans in plan.children.items()},
        parent,
        records,
        {task: each.run for task, each in plan.inlets.items()},
        {task: [each.run for each in plans] for task, plans in plan.outlets.items()},
        plan.after,
        Adopt({key: each for key, each in plan.found.results.items() if key.partition("[")[0] in plan.children})
        if plan.found
        else None,
    )


def _remembers(task: Task) -> bool:
    return bool(task.cache_key) or (task.verify is not None and task.verify.adaptive)


async def _publish(pool: titan.Pool, kind: type, name: str, faults: int) -> None:
    await pool.publish(kind, name, policy=titan.Policy(faults=faults))


async def _publish_once(pool: titan.Pool, kind: type, name: str, faults: int) -> None:
    """Publishes it unless it is there. Of several programs that do so at one moment, one does."""
    for turns_left in reversed(range(PUBLISH_TURNS)):
        if await _is_there(pool, name):
            return
        try:
            return await _publish(pool, kind, name, faults)
        except (titan.BadMessage, titan.Conflict, titan.Unavailable):
            if not turns_left:
                raise
        await asyncio.sleep(PUBLISH_SECONDS)


async def _is_there(pool: titan.Pool, name: str) -> bool:
    try:
        await pool.read(name, titan.Ping())
    except titan.NotFound:
        return False
    return True


def _with_store(definition: Definition, store: str) -> Definition:
    return msgspec.structs.replace(definition, store=store) if store else definition


def _with_label(definition: Definition, code: str) -> Definition:
    """The same; its commands go to workers that run commands, and its functions are in this code, if in no other."""

    def of(task: Task) -> Task:
        if not task.run:
            return task
        requires = msgspec.structs.replace(task.requires, labels={**task.requires.labels, COMMANDS: "trusted"})
        return msgspec.structs.replace(task, requires=requires)

    tasks = [of(task) for task in definition.tasks]
    return msgspec.structs.replace(definition, tasks=tasks, code=code or definition.code)


async def _open_queue(pool: titan.Pool, queue: str) -> None:
    try:
        await pool.read(queue, AskWorkers())
    except titan.NotFound:
        raise titan.NotFound(f"there is no queue {queue!r}; open one: titan publish dag --name {queue}") from None


def _check_workers(workers: list[WorkerInfo], definition: Definition, me: str, queue: str) -> None:
    """Raises Unavailable where a task has nobody to run it."""
    if not workers:
        raise titan.Unavailable(
            f"no worker is at the queue {queue!r}; start some: titan-node --workers 4 --queue {queue}"
        )
    trusting = [each for each in workers if me in each.trusts]
    if not trusting:
        raise titan.Unavailable(
            f"0 of {len(workers)} workers run what is yours; their operators can allow it: titan-node --trust KEY "
            "(yours is shown by `titan id`), or invite them: titan invite --trust-me"
        )
    if any(task.run for task in definition.tasks) and not any(COMMANDS in each.labels for each in trusting):
        raise titan.Unavailable(
            f"0 of {len(trusting)} workers that trust you run commands; their operators can allow it: "
            "titan-node --workers N --worker-commands trusted"
        )
    services = [task.id for task in definition.tasks if task.service is not None]
    slots = sum(each.slots for each in trusting)
    if services and slots < len(services) + (len(services) < len(definition.tasks)):
        raise titan.Unavailable(
            f"{len(services)} services take a place each until the run ends, and workers that trust you have {slots}: "
            "none is left for the other tasks; start more: titan-node --workers N"
        )
    for task in definition.tasks:
        _check_task(trusting, task)


def _check_task(workers: list[WorkerInfo], task: Task) -> None:
    """Raises Unavailable where none of these may ever run it, or too few to agree on its result."""
    labels = task.requires.labels.items()
    fitting = [each for each in workers if labels <= each.labels.items()]
    if not fitting:
        wanted = ", ".join(f"{name}={value}" for name, value in labels)
        raise titan.Unavailable(
            f"task '{task.id}' requires {wanted}: 0 of {len(workers)} workers that run what is yours have it; "
            f"start one: titan-node --workers 1 --worker-label {wanted.split(',')[0]}"
        )
    if task.uses:  # what runs in its place is looked at by itself
        return
    cores, memory = task.requires.cores, size_bytes(task.requires.memory)
    if cores > (most := max(each.slots for each in fitting)):
        raise titan.Unavailable(
            f"task '{task.id}' requires {cores:g} cores, and {most} are the most that a worker has which could run it; "
            f"start one: titan-node --workers {ceil(cores)}"
        )
    fitting = [each for each in fitting if cores <= each.slots]
    if memory > (most := max(each.memory for each in fitting)):
        raise titan.Unavailable(
            f"task '{task.id}' requires {memory >> 20} MiB of memory, and {most >> 20} MiB are the most that a worker "
            "has which could run it; start one on a machine that has more: titan-node --workers N"
        )
    owners = {owner_of(each.name) for each in fitting if memory <= each.memory}
    if task.verify is not None and task.verify.quorum > len(owners):
        raise titan.Unavailable(
            f"task '{task.id}' needs {task.verify.quorum} owners of workers that agree (verify.quorum), and those that "
            f"could run it are of {len(owners)}; start some under other keys: titan-node --workers N"
        )
