"""A run in this program, without a pool: the same engine, and processes of this machine. Nothing of it is kept."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import msgspec

import titan_overlay as titan
from titan_objects.dag import inside, views
from titan_objects.dag.definition import Definition, Task, Timeout, size_bytes, tasks_of
from titan_objects.dag.engine import Engine
from titan_objects.dag.executor import Executor, attempted
from titan_objects.dag.inside import Question
from titan_objects.dag.journal import Begin, Lease, Order, Renew, Report, Spawn, Tick, Up, Worker
from titan_objects.dag.messages import Results
from titan_objects.dag.places import place
from titan_objects.dag.steps import DONE
from titan_objects.dag.values import there

HERE = "here"
BEAT_SECONDS = 5.0
"""Leases are looked at so often."""
LONG_SECONDS = 1e9

Say = Callable[[str, str], None]
"""Takes a line that a task has written, after the task's key."""


async def run_here(
    definition: Definition,
    *,
    params: dict[str, Any] | None = None,
    code: Path | None = None,
    slots: int = 0,
    labels: Mapping[str, str] | None = None,
    say: Say | None = None,
) -> Any:
    """Runs a definition to its end on a `Here` of its own, and gives its result; see `Here` and `Here.run`."""
    async with Here(slots=slots, labels=labels) as here:
        return await here.run(definition, params=params, code=code, say=say)


class Here:
    """This machine in the place of a pool: runs one after the other, in processes that stay for the next one.

    async with Here(slots=2) as here:
        for n in range(10):
            print(await film.run(here=here, n=n))

    Args:
        slots: tasks that run at once; 0: as many as there are processors.
        labels: that tasks may require of this machine.
    """

    def __init__(self, *, slots: int = 0, labels: Mapping[str, str] | None = None) -> None:
        self.slots = slots or os.cpu_count() or 1
        self.labels = dict(labels or {})
        self.shelf = _Shelf()
        self._turn = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        directory = await self._open.enter_async_context(place())
        self.executor = Executor(self.shelf, directory, commands=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.executor.close()
        await self._open.aclose()

    async def run(
        self,
        definition: Definition,
        *,
        params: dict[str, Any] | None = None,
        code: Path | None = None,
        say: Say | None = None,
    ) -> Any:
        """Runs a definition to its end, and gives its result.

        Votes are not taken: there is nobody else to compare with.

        Args:
            code: what tasks call functions of: a Python file, a package, or a project (.zip).

        Raises:
            RemoteError: it failed; the text says which task, and why.
            BadMessage: the definition makes no sense, or wants something that only a pool has.
            ConfigError: there is no such code.
        """
        async with self._turn:
            fitted = self._fitted(definition)
            name = await self.executor.bundles.bring(code) if code is not None else ""
            run = _Run(self, say or (lambda key, line: None))
            try:
                return await run.result(msgspec.structs.replace(fitted, code=name), params or {})
            finally:
                await run.close()

    def _fitted(self, definition: Definition) -> Definition:
        """The definition as it runs here. Raises BadMessage: it cannot."""
        for task in definition.tasks:
            wanted = self._wants(task)
            if wanted:
                raise titan.BadMessage(f"task '{task.id}' {wanted}")
        tasks = [msgspec.structs.replace(each, verify=None, timeout=_never_silent(each)) for each in definition.tasks]
        return msgspec.structs.replace(definition, tasks=tasks, store="")

    def _wants(self, task: Task) -> str:
        """What keeps a task from running here."""
        missing = task.requires.labels.items() - self.labels.items()
        if missing:
            labels = ",".join(f"{name}={value}" for name, value in sorted(missing))
            return f"requires {labels}; if this machine has it: --label {labels}"
        if task.requires.cores > self.slots:
            return f"requires {task.requires.cores:g} cores; --slots {task.requires.cores:g} gives it as many"
        if size_bytes(task.requires.memory) > self.executor.memory:
            return f"requires {task.requires.memory} of memory, and this machine has {self.executor.memory >> 20} MiB"
        if task.uses:
            return f"uses {task.uses!r}, another run; submit it to a pool: titan dag submit"
        if task.approval is not None:
            return "waits for approval, and nobody can be asked here; submit it to a pool: titan dag submit"
        return ""


def _never_silent(task: Task) -> Timeout:
    """Its times; but nobody here falls silent for good, however long this program does something else."""
    return msgspec.structs.replace(task.timeout, heartbeat=LONG_SECONDS)


class _Shelf:
    """What a run has in the place of a pool's data."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def clear(self, engine: Engine) -> None:
        """Another run begins."""
        self._engine = engine
        self._kept.clear()

    async def get(self, name: str, /) -> bytes:
        if name not in self._kept:
            raise titan.NotFound(f"{name} is no data of this run, which has no pool to look for it")
        return self._kept[name]

    async def put(self, source: bytes | Path, /) -> str:
        data = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
        name = f"sha256:{sha256(data).hexdigest()}"
        self._kept[name] = data
        return name

    async def read(self, name: str, message: Any, /) -> Any:
        if name != HERE or not isinstance(message, Results):
            raise titan.NotFound(f"{name!r} is not there: a run without a pool has itself alone")
        return [
            each.result and each.result.value for each in self._engine.steps[message.task].instances[message.start :]
        ]

    async def unpack(self, bundle: bytes, /) -> dict[str, bytes]:
        raise titan.Forbidden("a run without a pool has the code alone that it is given")


class _Run:
    """One run. Each of its tasks is a task of this program's loop."""

    def __init__(self, here: Here, say: Say) -> None:
        self._engine = Engine(keep_journal=False)
        self._shelf = here.shelf
        self._shelf.clear(self._engine)
        self._executor = here.executor
        self._now = asyncio.get_running_loop().time
        self._slots = here.slots
        self._labels = here.labels
        self._say = say
        self._begun: dict[int, tuple[Order, asyncio.Task[None]]] = {}
        """What runs, by epoch."""
        self._over = asyncio.Event()

    async def result(self, definition: Definition, params: dict[str, Any]) -> Any:
        """Runs it to its end."""
        self._step(Begin(definition, params, name=HERE))
        while self._engine.state not in DONE:
            self._over.clear()
            pause = min(BEAT_SECONDS, max(0.0, self._engine.wakes_at - self._now()))
            try:
                async with asyncio.timeout(pause):
                    await self._over.wait()
            except TimeoutError:
                self._step(Renew(HERE, tuple(self._begun)) if self._begun else Tick())
        state, value, why = views.result(self._engine)
        if state != "SUCCEEDED":
            raise titan.RemoteError(f"the run has failed: {why or state}", type="TaskFailed")
        return await there(self._shelf, value)

    def _step(self, event: Any) -> None:
        """Takes an event in, and begins what has become possible."""
        engine, now = self._engine, self._now()
        for epoch in engine.step(event, now).lost:
            if epoch in self._begun:
                self._begun[epoch][1].cancel()
        orders = [order for order, _ in self._begun.values()]
        free = self._slots - sum(each.places for each in orders)
        if free > 0 and engine.ready:
            spare = self._executor.memory - sum(each.memory for each in orders)
            worker = Worker(HERE, self._labels, cores=float(free), memory=spare)
            for order in engine.step(Lease(worker, free), now).orders:
                task = asyncio.create_task(self._do(order))
                self._begun[order.epoch] = order, task
                task.add_done_callback(partial(self._leave, order.epoch))  # what is cancelled at once never begins
        if engine.state in DONE:
            self._over.set()

    async def _do(self, order: Order) -> None:
        try:
            outcome = await attempted(self._executor.execute(order, _Ear(self, order)), order.timeout)
        finally:
            self._leave(order.epoch)
        self._step(Report(HERE, order.epoch, outcome))

    def _leave(self, epoch: int, _: object = None) -> None:
        """A task gives its place back."""
        self._begun.pop(epoch, None)

    def up(self, epoch: int, where: Any) -> None:
        """A service is there."""
        self._step(Up(HERE, epoch, where))

    def say(self, order: Order, line: str) -> None:
        """A task has written a line."""
        self._say(order.key, line)

    async def ask(self, epoch: int, what: Question) -> Any:
        """What a task wants. Raises TitanError: it gets none."""
        match what:
            case inside.Spawn(tasks):
                self._step(Spawn(HERE, epoch, tasks_of(tasks)))
                return None
            case inside.Put(data):
                return await self._shelf.put(data)
            case inside.Get(name):
                return await self._shelf.get(name)
        raise titan.Unavailable("a run without a pool has neither task.pool.send nor task.store: titan dag submit")

    async def close(self) -> None:
        """Ends all that still runs."""
        tasks = [task for _, task in self._begun.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Ear:
    """Hears one task."""

    def __init__(self, run: _Run, order: Order) -> None:
        self._run = run
        self._order = order

    def line(self, text: str) -> None:
        self._run.say(self._order, text)

    def progress(self, done: float) -> None:
        """Nobody looks at it."""

    def up(self, where: Any) -> None:
        self._run.up(self._order.epoch, where)

    async def ask(self, what: Question) -> Any:
        return await self._run.ask(self._order.epoch, what)
