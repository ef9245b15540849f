"""Submitting runs, and what can be done with one that was."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.children import planned
from titan_objects.dag.definition import Definition, Task, revision
from titan_objects.dag.journal import Child, Entry
from titan_objects.dag.memory import Admit, Memory, memory_of
from titan_objects.dag.messages import Act, Export, Line, Lines, Look, Result, Start, Started, TakeOver
from titan_objects.dag.plans import Plan, each_child
from titan_objects.dag.queue import COMMANDS, Close, Submit, WorkerInfo, owner_of
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.rescue import DATA_BYTES_MAX, Rescue, data_named, parts, rescue_of, single_root
from titan_objects.dag.run import Run
from titan_objects.dag.values import there
from titan_objects.dag.views import RunView
from titan_objects.dag.worker import lay_out

POLL_SECONDS_MAX = 0.5
PUBLISH_TURNS = 3
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
KNOWN = (*ENDED, "PENDING")
"""States of a run that its queue tells apart; all others are to it as if it ran."""


class SubmittedRun:
    """A run in the pool, by its name."""

    def __init__(self, pool: titan.Pool, name: str, queue: str = "dag") -> None:
        self.pool = pool
        self.name = name
        self.queue = queue

    async def result(self) -> Any:
        """What the run gives, once it has ended.

        Raises:
            RemoteError: it failed; the text says which task, and why. Gone: it was cancelled.
        """
        pause = 0.02
        while True:
            state, value, why = await self.pool.read(self.name, Result())
            if state == "SUCCEEDED":
                return await there(self.pool, value)
            if state == "FAILED":
                raise titan.RemoteError(f"the run {self.name} has failed: {why}", type="TaskFailed")
            if state == "CANCELLED":
                raise titan.Gone(f"the run {self.name} was cancelled")
            await asyncio.sleep(pause)
            pause = min(1.2 * pause, POLL_SECONDS_MAX)  # so it hears late by a sixth of what it took

    async def logs(self, key: str = "", *, follow: bool = True) -> AsyncIterator[Line]:
        """The lines that its tasks write, or that one task (`render`, `render[3]`) does, until it has ended."""
        starts: dict[str, int] = {}
        while True:
            ended = (await self.look()).state in ENDED
            async for line in self._new_lines(self.name, key, starts):
                yield line
            if ended or not follow:
                return
            await asyncio.sleep(POLL_SECONDS_MAX)

    async def _new_lines(self, run: str, key: str, starts: dict[str, int], above: str = "") -> AsyncIterator[Line]:
        """Lines of a run, and of those that do tasks of it, from a number on that is kept for each."""
        while found := await self.pool.read(run, Lines(starts.get(run, 0), key)):
            for line in found:
                yield msgspec.structs.replace(line, key=above + line.key)
            starts[run] = found[-1].number + 1
        if not (await self.pool.read(run, Look())).children:
            return
        for task in (await self.pool.read(run, Look(tasks=True))).tasks:
            if task.section:
                async for line in self._new_lines(task.child, key, starts, above):
                    yield line
            elif task.child and (not key or task.key == key or task.key.startswith(f"{key}[")):
                async for line in self._new_lines(task.child, "", starts, f"{above}{task.key}/"):
                    yield line

    async def look(self, *, tasks: bool = False) -> RunView:
        """How it is."""
        return await self.pool.read(self.name, Look(tasks))

    async def act(self, what: str, *tasks: str, note: str = "") -> str:
        """`cancel`, `suspend`, `resume`, `rerun`, `approve` or `reject`; gives the run's state after it.

        Raises:
            Forbidden: it is somebody else's run. BadMessage: there is no such task, or nothing to decide.
        """
        state = ""
        for run, named in (await self._homes(tasks)).items():
            state = await self.pool.send(run, Act(what, named, note))
        if what == "rerun":  # the queue may have forgotten it
            view = await self.look()
            await self.announce(view.name, view.state, view.voice)
        return state

    async def _homes(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """Runs that have these tasks: this one, or those that do sections of its graph."""
        sections = [each.child for each in (await self.look(tasks=True)).tasks if each.section] if tasks else []
        if not sections:
            return {self.name: list(tasks)}
        homes: dict[str, list[str]] = {}
        left = set(tasks)
        for section in sections:
            there = {_task(each.key) for each in (await self.pool.read(section, Look(tasks=True))).tasks}
            if mine := [each for each in tasks if _task(each) in there]:
                homes[section] = mine
                left.difference_update(mine)
        if left:
            raise titan.BadMessage(f"the run has no task {min(left)!r}")
        return homes

    async def journal(self) -> list[Entry]:
        """All that has happened to it."""
        entries: list[Entry] = []
        while more := await self.pool.read(self.name, Export(len(entries))):
            entries += more
        return entries

    async def rescue(self, *, data: bool = True) -> Rescue:
        """How far it is, for another run to go on from, in this pool or in any other (`resume`).

        Args:
            data: whether the data that results name comes along; only this pool can go on without.

        Raises:
            BadMessage: its data is too much to come along. Forbidden: you do not trust whose code it runs.
        """
        return await self.with_code(rescue_of(self.name, await self.journal()), data=data)

    async def with_code(self, found: Rescue, *, data: bool = True) -> Rescue:
        """What a journal amounts to, with what it names: code, and data."""
        code = await self.pool.unpack(await self.pool.get(found.definition.code)) if found.definition.code else {}
        there: dict[str, bytes] = {}
        room = DATA_BYTES_MAX
        for name in sorted(data_named(found)) if data else ():
            there[name] = await self.pool.get(name)
            room -= len(there[name])
            if room < 0:
                raise titan.BadMessage(
                    f"results name more than {DATA_BYTES_MAX >> 20} MiB of data; leave it in the pool"
                )
        definition = msgspec.structs.replace(found.definition, code="")
        return msgspec.structs.replace(found, definition=definition, code=code, data=there)

    async def announce(self, title: str, state: str, voice: bytes) -> None:
        """Has the queue know it. From then on the run itself says there how it is."""
        await self.pool.send(self.queue, Submit(self.name, title, state if state in KNOWN else "RUNNING", voice))
        now = (await self.look()).state
        if now in ENDED and now != state:  # it has ended before the queue knew it, and its own word was for nobody
            await self.pool.send(self.queue, Close(self.name, now))


def _task(key: str) -> str:
    return key.partition("[")[0]


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
    with tempfile.TemporaryDirectory(prefix="titan-dag-") as directory:
        if code is None and found.code:
            lay_out(found.code, Path(directory))
            code = Path(directory, single_root(found.code))
        definition = _with_store(found.definition, store)
        run, began = await _begin(pool, definition, found.params, queue, code, faults, "", workers)
    for name in sorted(found.data):
        await pool.put(found.data[name])
    for part in parts(found.found):
        await pool.send(run.name, TakeOver(part))
    await run.announce(found.definition.name, began.state, began.voice)
    return run


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
) -> tuple[SubmittedRun, Started]:
    """A run that its queue does not know yet."""
    await _open_queue(pool, queue)
    offered = await pool.read(queue, AskWorkers())
    chosen = [each for each in offered if not workers or owner_of(each.name) in workers]
    plan = await planned(pool, definition, params, base)
    for each in plan.all:
        _check_workers(chosen, each.definition, pool.id, queue)
    packed = "" if code is None else await pool.put(await pool.pack(code))
    for each in plan.all:
        mine = each is plan or not each.definition.code
        each.definition = _with_label(each.definition, packed if mine else "")
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
        return await pool.send(plan.run.name, starting(plan, workers, queue, parent, records), timeout=30)

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
        await asyncio.sleep(POLL_SECONDS_MAX)


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
        labels = task.requires.labels.items()
        if labels and not any(labels <= each.labels.items() for each in trusting):
            wanted = ", ".join(f"{name}={value}" for name, value in labels)
            raise titan.Unavailable(
                f"task '{task.id}' requires {wanted}: 0 of {len(trusting)} workers that run what is yours have it; "
                f"start one: titan-node --workers 1 --worker-label {wanted.split(',')[0]}"
            )
