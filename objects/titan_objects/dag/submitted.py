"""What can be done with a run that was submitted: waited for, looked at, acted on, rescued."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Entry
from titan_objects.dag.messages import TASKS_AT_ONCE, Act, AskPlan, Export, Line, Lines, Look, Result
from titan_objects.dag.queue import Close, Submit, owner_of
from titan_objects.dag.rescue import DATA_BYTES_MAX, Left, Rescue, data_named, rescue_of
from titan_objects.dag.run import begin
from titan_objects.dag.values import there
from titan_objects.dag.views import RunView

POLL_SECONDS_MAX = 0.5
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
        for task in (await SubmittedRun(self.pool, run).look(tasks=True)).tasks:
            if task.section:
                async for line in self._new_lines(task.child, key, starts, above):
                    yield line
            elif task.child and (not key or task.key == key or task.key.startswith(f"{key}[")):
                async for line in self._new_lines(task.child, "", starts, f"{above}{task.key}/"):
                    yield line

    async def look(self, *, tasks: bool = False, states: Sequence[str] = ()) -> RunView:
        """How it is.

        Args:
            tasks: with all its tasks; `states`: with those in these states, the first 1,000 of them.
        """
        view = await self.pool.read(self.name, Look(tasks or bool(states), states=list(states)))
        found = more = view.tasks
        while tasks and not states and len(more) == TASKS_AT_ONCE:
            more = (await self.pool.read(self.name, Look(True, len(found)))).tasks
            found = found + more
        return msgspec.structs.replace(view, tasks=found)

    async def counts(self) -> dict[str, int]:
        """How many tasks are in each state: of runs that do tasks of it, theirs."""
        view = await self.look()
        if not view.children:
            return view.counts
        counts: Counter[str] = Counter()
        for task in (await self.look(tasks=True)).tasks:
            below = await SubmittedRun(self.pool, task.child).counts() if task.child else {}
            counts.update(below or {task.state: 1})
        return counts

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
            there = {_task(each.key) for each in (await SubmittedRun(self.pool, section).look(tasks=True)).tasks}
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
        return await self.with_code(rescue_of(await self.left()), data=data)

    async def left(self) -> Left:
        """What is there of it, and of the runs that do tasks of it."""
        engine = Engine.replay(await self.journal())
        if engine.definition is None and (plan := await self.pool.read(self.name, AskPlan())) is not None:
            engine.step(begin(plan, self.name, owner_of(self.name)), 0.0)
        children = {
            task: [await SubmittedRun(self.pool, each.name).left() for each in several]
            for task, several in engine.children.items()
        }
        return Left(self.name, engine, children)

    async def with_code(self, found: Rescue, *, data: bool = True) -> Rescue:
        """What there is of a run amounts to, with what it names: code, and data."""
        found = await self._with_code(found, "")
        there: dict[str, bytes] = {}
        room = DATA_BYTES_MAX
        for name in sorted(data_named(found)) if data else ():
            there[name] = await self.pool.get(name)
            room -= len(there[name])
            if room < 0:
                raise titan.BadMessage(
                    f"results name more than {DATA_BYTES_MAX >> 20} MiB of data; leave it in the pool"
                )
        return msgspec.structs.replace(found, data=there)

    async def _with_code(self, found: Rescue, above: str) -> Rescue:
        """The same with its code, where that is not the one of the run above it."""
        name = found.definition.code
        code = await self.pool.unpack(await self.pool.get(name)) if name not in ("", above) else {}
        children = {
            task: [await self._with_code(each, name or above) for each in several]
            for task, several in found.children.items()
        }
        definition = msgspec.structs.replace(found.definition, code="")
        return msgspec.structs.replace(found, definition=definition, code=code, children=children)

    async def announce(self, title: str, state: str, voice: bytes) -> None:
        """Has the queue know it. From then on the run itself says there how it is."""
        await self.pool.send(self.queue, Submit(self.name, title, state if state in KNOWN else "RUNNING", voice))
        now = (await self.look()).state
        if now in ENDED and now != state:  # it has ended before the queue knew it, and its own word was for nobody
            await self.pool.send(self.queue, Close(self.name, now))


def is_below(name: str) -> bool:
    """Whether a run of this name does a task of another one: such names are made of the other's."""
    return "-" in name.rpartition("/")[2]


def _task(key: str) -> str:
    return key.partition("[")[0]
