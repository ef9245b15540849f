"""Workers: they find runs at a queue, take what they can run, and say what came of it."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import titan_overlay as titan
from titan_objects.dag.executor import Executor
from titan_objects.dag.journal import Order
from titan_objects.dag.limits import Limits
from titan_objects.dag.part import Part
from titan_objects.dag.places import place
from titan_objects.dag.queue import COMMANDS, AskOpen, Register, WorkerInfo, owner_of

log = logging.getLogger("titan")

REGISTER_SECONDS = 30.0
LOOK_SECONDS = 0.2
"""Between two looks at the queue, where it does not want more."""
AGAIN_SECONDS = 5.0
"""Until a run is tried again that could not be worked for, or a queue that does not answer."""


class Workers(Executor):
    """A node's workers.

    Args:
        name: of this program, unique among those of its user.
        slots: tasks that run at once.
        commands: whether it runs commands too. Functions come in a bundle that somebody trusted has signed; a command
            comes from the members of the run's group, on their word.
        limits: of each task.
    """

    def __init__(
        self,
        pool: titan.Pool,
        queue: str,
        name: str,
        slots: int,
        labels: Mapping[str, str],
        directory: Path,
        *,
        commands: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(pool, directory, commands=commands, limits=limits)
        self.pool = pool
        self.queue = queue
        shown = {**labels, **({COMMANDS: "trusted"} if commands else {})}
        self.info = WorkerInfo(name, slots, shown, pool.trusted, memory=self.memory)
        self.free = slots
        """Places, of which a task takes as many as it requires cores."""
        self.spare = self.memory
        """Bytes of memory that no task which runs here requires."""
        self.busy = 0
        """Tasks that run now."""
        self.turn = 0
        """Of what was last said to a run."""
        self._version = 0
        """Of the queue: what has changed there up to it is known."""
        self.pause = LOOK_SECONDS
        """Until the next look."""

    def fits(self, order: Order) -> bool:
        """Whether there is room for it now."""
        return order.places <= self.free and order.memory <= self.spare

    def occupy(self, order: Order) -> None:
        """Keeps room for a task."""
        self.free -= order.places
        self.spare -= order.memory

    def vacate(self, order: Order) -> None:
        """A task gives its room back."""
        self.free += order.places
        self.spare += order.memory

    async def serve(self) -> None:
        """Works until cancelled."""
        runs: dict[str, asyncio.Task[None]] = {}
        wanted: set[str] = set()
        registered = -REGISTER_SECONDS
        refused: type[titan.TitanError] | None = None
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    if loop.time() - registered >= REGISTER_SECONDS:
                        await self.pool.send(self.queue, Register(self.info))
                        registered, self._version = loop.time(), 0
                    wanted.update(await self.look())
                    refused = None
                except titan.TitanError as why:
                    level = logging.DEBUG if type(why) is refused else logging.WARNING
                    log.log(level, "the queue %s does not take this worker, which tries again: %s", self.queue, why)
                    refused = type(why)
                    self.pause = min(2 * self.pause, AGAIN_SECONDS)
                runs = {name: task for name, task in runs.items() if not task.done()}
                begun = wanted - runs.keys()  # what is heard of again while it is worked for may have begun anew
                runs.update((name, asyncio.create_task(self._take_part(name))) for name in sorted(begun))
                wanted -= begun
                await asyncio.sleep(self.pause)
        finally:
            for task in runs.values():
                task.cancel()
            await asyncio.gather(*runs.values(), return_exceptions=True)
            await self.close()
            with suppress(titan.TitanError):
                await self.pool.send(self.queue, Register(self.info, leaving=True), timeout=2)

    async def look(self) -> list[str]:
        """Names of runs that want workers, and have not been heard of. They are owned by those whose code may run here.

        A run's name says whose it is, and only that key can have published it.
        """
        trusts = self.info.trusts
        found = await self.pool.read(self.queue, AskOpen(trusts, self._version))
        self._version = found.version
        self.pause = max(LOOK_SECONDS, min(REGISTER_SECONDS, found.pause))  # whatever the queue says
        return [each.name for each in found.runs if owner_of(each.name) in trusts]

    async def _take_part(self, run: str) -> None:
        try:
            await Part(self, run).serve()
        except titan.Forbidden as why:  # it is asked again when this worker registers again
            log.info("the run %s does not take this worker: %s", run, why)
        except titan.TitanError as why:
            log.warning("the run %s cannot be worked for: %s", run, why)
            await asyncio.sleep(AGAIN_SECONDS)
            self._version = 0


@asynccontextmanager
async def working(
    pool: titan.Pool,
    queue: str,
    slots: int,
    labels: Mapping[str, str],
    name: str = "",
    *,
    commands: bool = False,
    limits: Limits | None = None,
) -> AsyncIterator[Workers]:
    """Workers of this program at a queue, until left."""
    name = name or f"{os.uname().nodename}-{os.getpid()}-{pool.token_bytes(4).hex()}"  # two of one name are one
    async with place() as directory:
        workers = Workers(pool, queue, name, slots, labels, directory, commands=commands, limits=limits)
        task = asyncio.create_task(workers.serve())
        try:
            yield workers
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
