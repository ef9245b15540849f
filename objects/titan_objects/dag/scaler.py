"""A scaler: it starts worker processes of this machine while tasks wait at a queue, and reaps those that are idle.

    titan dag scale --most 8

Each is a `titan dag work`, which says on its standard output how many tasks it runs. `scaling.py` decides.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

import titan_overlay as titan
from titan_objects.dag.messages import Ready
from titan_objects.dag.queue import RUNS_AT_ONCE, AskOpen, RunInfo
from titan_objects.dag.scaling import Bounds, Scaling, Seen

log = logging.getLogger("titan")

SCALER = "TITAN_DAG_SCALER"
"""Environment variable of workers: the process that has started them, without which they end."""
LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0
ASKED_AT_ONCE = 16
END_SECONDS = 15.0
"""For a worker to give back what it has; then it is killed."""


class Busy(msgspec.Struct, frozen=True):
    """What a worker says, a line of JSON each time that it changes."""

    busy: int


class Scaler:
    """See the module.

    Args:
        words: the program that is a worker.
        variables: its environment.
    """

    def __init__(
        self, pool: titan.Pool, queue: str, bounds: Bounds, words: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._scaling = Scaling(bounds)
        self._words = words
        self._variables = {**variables, SCALER: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._workers: dict[int, _Process] = {}
        self._started = 0

    async def serve(self) -> None:
        """Scales until cancelled; then it ends its workers."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                for number in [number for number, each in self._workers.items() if each.ended]:
                    if not self._workers.pop(number).reaped:
                        log.warning("worker %d has ended by itself", number)
                        self._scaling.ended(loop.time())
                try:
                    waiting = await waiting_tasks(self._pool, self._queue)
                except titan.TitanError as why:
                    log.warning("the queue %s does not answer, and the workers stay as they are: %s", self._queue, why)
                else:
                    await self._carry_out(loop.time(), waiting)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await asyncio.gather(*(each.reap() for each in self._workers.values()))

    async def _carry_out(self, now: float, waiting: int) -> None:
        there = [each.seen for each in self._workers.values() if not each.reaped]
        decision = self._scaling.decide(now, waiting, there)
        for number in decision.reap:
            log.info("worker %d has nothing to do, and ends", number)
            self._workers[number].reap_soon()
        for _ in range(decision.start):
            self._started += 1
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    env=self._variables,
                    start_new_session=True,
                )
            except OSError as why:
                log.warning("no worker can be started: %s", why)
                self._scaling.ended(now)
                return
            log.info("worker %d is started: %d tasks wait", self._started, waiting)
            self._workers[self._started] = _Process(process, Seen(self._started, now))


class _Process:
    """A worker that was started."""

    def __init__(self, process: asyncio.subprocess.Process, seen: Seen) -> None:
        self.seen = seen
        self.reaped = False
        self._process = process
        self._reading = asyncio.create_task(self._read())
        self._reaping: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._reading.done() and self._process.returncode is not None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # a line without end: it is no worker
            while line := await self._process.stdout.readline():
                with suppress(msgspec.DecodeError, UnicodeDecodeError):
                    said = msgspec.json.decode(line, type=Busy)
                    self.seen.tell(max(0, said.busy), asyncio.get_running_loop().time())
        await self._process.wait()

    def reap_soon(self) -> None:
        self.reaped = True
        self._reaping = asyncio.create_task(self.reap())

    async def reap(self) -> None:
        """Ends it: it gives back what it has."""
        self.reaped = True
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _signal(self, number: int) -> None:
        """By itself, `Process` would ask for its status first, and take it away from the loop's watcher of children."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


async def waiting_tasks(pool: titan.Pool, queue: str) -> int:
    """How many tasks wait in runs of this queue whose code may run here. Raises TitanError: it does not answer."""
    few = asyncio.Semaphore(ASKED_AT_ONCE)

    async def of(run: RunInfo) -> int:
        async with few:
            try:
                return max(0, await pool.read(run.name, Ready(), stale_ok=True, timeout=ASK_SECONDS))
            except titan.TitanError as why:
                log.debug("the run %s does not answer: %s", run.name, why)
                return 0

    found = await pool.read(queue, AskOpen(pool.trusted))
    runs = {each.name: each for each in found.runs}
    while len(found.runs) >= RUNS_AT_ONCE:
        found = await pool.read(queue, AskOpen(pool.trusted, found.version))
        runs.update((each.name, each) for each in found.runs)
    return sum(await asyncio.gather(*map(of, runs.values())))


def is_left_alone() -> bool:
    """Whether this process is a worker whose scaler is gone."""
    return os.environ.get(SCALER, str(os.getppid())) != str(os.getppid())
