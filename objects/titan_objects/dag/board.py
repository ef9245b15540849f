"""What a worker shows of a run in the run's store, for people and programs that look there, redis-cli among them.

    worker:<key of its user>/<name>     a map in JSON; gone 90 s after the worker was seen last
    task:<run>/<task>                   RUNNING, COMPLETED or FAILED; gone after a week
    logs:<run>/<task>                   a channel: what the task writes, line by line

`<run>` is the last part of the run's name. It is shown, and no more: the run itself decides what has become of a task,
and goes on where the store does not answer.
"""

import asyncio
import logging
from collections import deque
from contextlib import suppress

import msgspec

import titan_overlay as titan
from titan_objects.dag.queue import WorkerInfo

log = logging.getLogger("titan")

LINES_MAX = 2000
"""That wait for the store; of more, the oldest are not shown."""
FLAGS_MAX = 10_000
AT_ONCE = 256
"""Commands in one message."""
BEAT_SECONDS = 30.0
WORKER_SECONDS = 90
FLAG_SECONDS = 7 * 86400
AGAIN_SECONDS = 5.0
LAST_SECONDS = 2.0
"""For the last words of a part that ends."""

Command = list[str | int]


class Board:
    """A worker's side of one run's store."""

    def __init__(self, pool: titan.Pool, store: str, run: str, worker: WorkerInfo) -> None:
        self._pool = pool
        self.store = store
        self._run = run.rpartition("/")[2]
        self._worker = worker
        self._lines: deque[tuple[str, str]] = deque(maxlen=LINES_MAX)
        self._flags: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._together: bool | None = None
        """Whether the store takes many commands as one message; None: it has not been asked yet."""
        self._serving = asyncio.create_task(self._serve())

    def line(self, key: str, text: str) -> None:
        """A task has written a line."""
        self._lines.append((key, text))
        self._changed.set()

    def flag(self, key: str, state: str) -> None:
        """How a task is."""
        if len(self._flags) < FLAGS_MAX or key in self._flags:
            self._flags[key] = state
            self._changed.set()

    async def close(self) -> None:
        """Shows what is left, if that is soon done."""
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        with suppress(titan.TitanError, TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self._show()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        seen = -BEAT_SECONDS
        while True:
            try:
                if loop.time() - seen >= BEAT_SECONDS:
                    await self._tell([self._presence()])
                    seen = loop.time()
                await self._show()
            except titan.TitanError as why:
                log.info("the store %s of %s does not show what happens: %s", self.store, self._run, why)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seen + BEAT_SECONDS - loop.time()):
                    await self._changed.wait()

    async def _show(self) -> None:
        while self._lines or self._flags:
            lines = [self._lines.popleft() for _ in range(min(len(self._lines), AT_ONCE))]
            flags = {key: self._flags[key] for key in list(self._flags)[: AT_ONCE - len(lines)]}
            commands: list[Command] = [["PUBLISH", f"logs:{self._run}/{key}", text] for key, text in lines]
            commands += [["SET", f"task:{self._run}/{key}", flag, "EX", FLAG_SECONDS] for key, flag in flags.items()]
            await self._tell(commands)
            self._flags = {key: flag for key, flag in self._flags.items() if flags.get(key) != flag}

    async def _tell(self, commands: list[Command]) -> None:
        if self._together is None:
            self._together = getattr(await self._pool.describe(self.store), "kind", "") == "mutable"
        if self._together:
            replies = await self._pool.send_batch(self.store, commands)
            for each in replies:
                if isinstance(each, titan.TitanError):
                    raise each
        else:
            for command in commands:
                await self._pool.send(self.store, command)

    def _presence(self) -> Command:
        worker = self._worker
        shown = {"slots": worker.slots, "labels": worker.labels, "run": self._run}
        name = f"worker:{self._pool.id}/{worker.name}"
        return ["SET", name, msgspec.json.encode(shown, order="deterministic").decode(), "EX", WORKER_SECONDS]
