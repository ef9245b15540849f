"""Workers: they find runs at a queue, take what they can run, and say what came of it."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag import processes
from titan_objects.dag.definition import Task
from titan_objects.dag.inside import Call
from titan_objects.dag.journal import Failure, Order, Success, Worker
from titan_objects.dag.messages import LINES_AT_ONCE, Done, Ready, Spawned, Sync
from titan_objects.dag.processes import Ear, Failed, Warm
from titan_objects.dag.queue import COMMANDS, AskOpen, Register, WorkerInfo, owner_of

log = logging.getLogger("titan")

INLINE_BYTES = 32 << 10
"""A result that is larger travels as data of the pool."""
RESULT_BYTES_MAX = 64 << 20
LINES_MAX = 5000
"""That wait to be sent; of a flood, the rest is counted."""
REGISTER_SECONDS = 30.0
LOOK_SECONDS = 0.2
"""Between two looks at the queue, where it does not want more."""
AGAIN_SECONDS = 5.0
"""Until a run is tried again that could not be worked for."""
IDLE_SECONDS = 0.5
BEAT_SECONDS = 5.0
SHORT_SECONDS = 0.05
"""Tasks that take no longer on average are fetched ahead: others would wait here while a worker elsewhere is idle."""
AHEAD_PER_SLOT = 8
DATA = "$data"


class Workers:
    """A node's workers.

    Args:
        name: of this program, unique among those of its user.
        slots: tasks that run at once.
        commands: whether it runs commands too. Functions come in a bundle that somebody trusted has signed; a command
            comes from the members of the run's group, on their word.
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
    ) -> None:
        self.pool = pool
        self.queue = queue
        self._commands = commands
        shown = {**labels, **({COMMANDS: "trusted"} if commands else {})}
        self.info = WorkerInfo(name, slots, shown, pool.trusted)
        self.directory = directory
        self.free = slots
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._warm: dict[str, list[Warm]] = {}
        """Idle processes by bundle."""
        self._code: dict[str, Path] = {}
        self._made = 0
        self.turn = 0
        """Of what was last said to a run."""
        self._version = 0
        """Of the queue: what has changed there up to it is known."""
        self._pause = LOOK_SECONDS

    @property
    def worker(self) -> Worker:
        return Worker(self.info.name, self.info.labels, cores=float(self.free), memory=self._memory)

    async def serve(self) -> None:
        """Works until cancelled."""
        runs: dict[str, asyncio.Task[None]] = {}
        wanted: set[str] = set()
        registered = -REGISTER_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    if loop.time() - registered >= REGISTER_SECONDS:
                        await self.pool.send(self.queue, Register(self.info))
                        registered, self._version = loop.time(), 0
                    wanted.update(await self.look())
                except titan.TitanError as why:
                    log.debug("the queue %s does not answer: %s", self.queue, why)
                runs = {name: task for name, task in runs.items() if not task.done()}
                begun = wanted - runs.keys()  # what is heard of again while it is worked for may have begun anew
                runs.update((name, asyncio.create_task(self._take_part(name))) for name in sorted(begun))
                wanted -= begun
                await asyncio.sleep(self._pause)
        finally:
            for task in runs.values():
                task.cancel()
            await asyncio.gather(*runs.values(), return_exceptions=True)
            for warm in [each for idle in self._warm.values() for each in idle]:
                await warm.close()
            with suppress(titan.TitanError):
                await self.pool.send(self.queue, Register(self.info, leaving=True), timeout=2)

    async def look(self) -> list[str]:
        """Names of runs that want workers, and have not been heard of. They are owned by those whose code may run here.

        A run's name says whose it is, and only that key can have published it.
        """
        trusts = self.info.trusts
        found = await self.pool.read(self.queue, AskOpen(trusts, self._version))
        self._version, self._pause = found.version, max(found.pause, LOOK_SECONDS)
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

    # ---- doing -----------------------------------------------------------------------------------------------

    async def execute(self, order: Order, ear: Ear) -> Success:
        """Runs a task. Raises Failed."""
        self._made += 1
        mark = f"{self.info.name}-{self._made}"
        if order.join:
            return await self._success(_joined(await self._there(order.args)))
        if order.call:
            return await self._call(order, mark, ear)
        if not self._commands:
            raise Failed("NotAllowed", "this worker runs no commands (titan-node --worker-commands trusted)", False)
        place = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            if order.code:
                shutil.copytree(await self._unpacked(order.code), place, dirs_exist_ok=True)
            secrets = {name: os.environ[name] for name in order.secrets if name in os.environ}
            env = {**order.env, **secrets}
            await processes.run_command(order.run, place, mark, ear.line, memory=order.memory, env=env)
            files = {}
            for name in order.outputs:
                files[name] = await self.pool.put(_inside(place, name))
            return Success(0, sha256(msgspec.msgpack.encode(sorted(files.items()))).digest(), files)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, True)

    async def _call(self, order: Order, mark: str, ear: Ear) -> Success:
        place = await self._unpacked(order.code)
        idle = self._warm.setdefault(order.code, [])
        warm = idle.pop() if idle else Warm(place, mark)
        request = Call(order.call, await self._there(order.args), await self._there(order.inputs), order.epoch)
        value = await warm.call(request, ear)
        idle.append(warm)
        return await self._success(processes.decoded(value), value)

    async def _success(self, value: Any, encoded: bytes = b"") -> Success:
        encoded = encoded or msgspec.msgpack.encode(value)
        digest = sha256(encoded).digest()
        if len(encoded) > RESULT_BYTES_MAX:
            most = f"{RESULT_BYTES_MAX} are the most, write a file and name it in outputs"
            raise Failed("TooLarge", f"a result of {len(encoded)} bytes; {most}", False)
        if len(encoded) > INLINE_BYTES:
            value = {DATA: await self.pool.put(encoded)}
        return Success(value, digest)

    async def _there(self, value: Any) -> Any:
        return await there(self.pool, value)

    async def _unpacked(self, code: str) -> Path:
        """The directory with the files of a bundle. Raises Failed where its signer is not trusted."""
        known = self._code.get(code)
        if known is None:
            if not code:
                raise Failed("NoCode", "the task calls a function, and no code came with the run", False)
            try:
                files = await self.pool.unpack(await self.pool.get(code))
            except titan.Forbidden as why:
                raise Failed("Untrusted", str(why)) from None
            known = Path(tempfile.mkdtemp(dir=self.directory, prefix="code-"))
            lay_out(files, known)
            self._code[code] = known
        return known


class Part:
    """What a node's workers do for one run."""

    def __init__(self, workers: Workers, run: str) -> None:
        self._workers = workers
        self._run = run
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting: dict[int, Order] = {}
        """Fetched ahead, by epoch."""
        self._unheard = False
        """The last answer was lost; what it gave is not known here, and the run has to hear of that."""
        self._took = SHORT_SECONDS * 10
        """Seconds, on a moving average, that a task takes."""
        self._done: list[Done] = []
        self._lines: deque[tuple[int, int, str]] = deque()
        """Epoch, number and text."""
        self._said: dict[int, int] = {}
        """Lines under each epoch so far."""
        self._dropped: dict[int, int] = {}
        self._progress: dict[int, float] = {}
        """That the run does not know yet; it goes along with what is said anyway."""
        self._changed = asyncio.Event()

    async def serve(self) -> None:
        """Until the run has ended."""
        try:
            await self._work()
        except asyncio.CancelledError:
            await self._end_tasks()
            with suppress(titan.TitanError):  # others need not wait until the leases have run out
                await self._workers.pool.send(self._run, self._news(0, leaving=True), timeout=2)
            raise
        finally:
            await self._end_tasks()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        said, pause = loop.time(), 0.02
        while True:
            due = bool(self._tasks) and loop.time() - said >= BEAT_SECONDS
            wanted = bool(self._done or self._lines or due or self._unheard)
            if self._workers.free and not wanted:
                ready = await self._workers.pool.read(self._run, Ready())
                if ready < 0:
                    return
                wanted = ready > 0
            if wanted:
                if due:  # nothing has ended for long: others may have what waits here
                    self._took += BEAT_SECONDS
                    self._waiting.clear()
                said = loop.time()
                state, got = await self._sync()
                if state not in ("RUNNING", "SUSPENDED"):
                    return
                pause = 0.02 if got else pause
            if not self._done:
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
                pause = min(2 * pause, IDLE_SECONDS)

    async def _end_tasks(self) -> None:
        self._waiting.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _news(self, count: int, *, leaving: bool = False) -> Sync:
        """What the run does not know yet: what a task has written, then its end, with which its lease goes."""
        lines = list(islice(self._lines, LINES_AT_ONCE))
        unsaid = {epoch for epoch, _, _ in islice(self._lines, LINES_AT_ONCE, None)}
        done = [each for each in self._done if each.epoch not in unsaid]
        ending = [each.epoch for each in self._done if each.epoch in unsaid]
        info = self._workers.info
        ahead = AHEAD_PER_SLOT * info.slots - len(self._waiting) if self._took <= SHORT_SECONDS else 0
        worker = Worker(info.name, info.labels, cores=float(count), memory=self._workers.worker.memory)
        self._workers.turn += 1
        turn = self._workers.turn
        if leaving:
            return Sync(worker, done=done, lines=lines, turn=turn)
        holds = sorted({*self._tasks, *self._waiting, *ending})
        return Sync(worker, count, done, holds, dict(self._progress), lines, ahead=max(0, ahead), turn=turn)

    async def _sync(self) -> tuple[str, int]:
        """Says what was done, and begins what is to be done; the state of the run, and how many tasks have begun."""
        count = self._workers.free
        self._workers.free = 0  # nobody else gives these away meanwhile
        news = self._news(count)
        began = 0
        try:
            synced = await self._workers.pool.send(self._run, news)
            began = min(count, len(synced.orders))
            self._unheard = synced.turn > news.turn
            self._workers.turn = max(synced.turn, self._workers.turn)
        except titan.RemotableError as why:
            if why.retryable or isinstance(why, titan.DeadlineExceeded | titan.Unavailable):
                self._unheard = True
                return "RUNNING", 0  # said again: results are fenced by epochs, lines by numbers, so twice is as once
            raise
        finally:
            self._workers.free += count - began
            self._begin_waiting()
        for _ in news.lines:
            self._lines.popleft()
        self._progress = {epoch: far for epoch, far in self._progress.items() if news.progress.get(epoch) != far}
        told = {each.epoch for each in news.done}
        self._done = [each for each in self._done if each.epoch not in told]
        for epoch in synced.lost:
            self._waiting.pop(epoch, None)
            if epoch in self._tasks:
                self._tasks[epoch].cancel()
        for order in synced.orders[:began]:
            self._tasks[order.epoch] = asyncio.create_task(self._do(order))
        self._waiting.update((each.epoch, each) for each in synced.orders[began:])
        self._begin_waiting()  # something may have ended meanwhile
        return synced.state, len(synced.orders)

    def _begin_waiting(self) -> None:
        """Begins what was fetched ahead, as far as there is room."""
        while self._waiting and self._workers.free:
            order = self._waiting.pop(next(iter(self._waiting)))
            self._workers.free -= 1
            self._tasks[order.epoch] = asyncio.create_task(self._do(order))

    async def _do(self, order: Order) -> None:
        outcome: Success | Failure | None = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(order.timeout or None):
                outcome = await self._workers.execute(order, _Ear(self, order.epoch))
        except Failed as why:
            outcome = why.failure
        except TimeoutError:
            outcome = Failure("Timeout", f"it took longer than {order.timeout:g} s, and was ended")
        except (titan.TitanError, OSError) as why:
            outcome = Failure(type(why).__name__, str(why))
        finally:
            self._tasks.pop(order.epoch, None)
            self._workers.free += 1
            self._took += (loop.time() - began - self._took) / 4
            self._begin_waiting()
            if dropped := self._dropped.pop(order.epoch, 0):
                self._lines.append(self._numbered(order.epoch, f"{dropped} lines more were written than can be sent"))
            self._said.pop(order.epoch, None)
            self._progress.pop(order.epoch, None)
            if outcome is not None:
                self._done.append(Done(order.epoch, outcome))
            self._changed.set()

    def say(self, epoch: int, line: str) -> None:
        """A task has written a line."""
        if len(self._lines) < LINES_MAX:
            self._lines.append(self._numbered(epoch, line))
        else:
            self._dropped[epoch] = self._dropped.get(epoch, 0) + 1

    def progress(self, epoch: int, done: float) -> None:
        """So much of a task is done."""
        self._progress[epoch] = done

    async def spawn(self, epoch: int, tasks: list[Any]) -> str:
        """Adds tasks of one that runs; what is wrong with them, or nothing."""
        try:
            more = msgspec.convert(tasks, list[Task])
            await self._workers.pool.send(self._run, Spawned(self._workers.info.name, epoch, more))
        except (titan.TitanError, msgspec.ValidationError) as why:
            return str(why) or type(why).__name__
        return ""

    def _numbered(self, epoch: int, line: str) -> tuple[int, int, str]:
        number = self._said.get(epoch, 0)
        self._said[epoch] = number + 1
        return epoch, number, line


class _Ear:
    """Hears one task."""

    def __init__(self, part: Part, epoch: int) -> None:
        self._part = part
        self._epoch = epoch

    def line(self, text: str) -> None:
        self._part.say(self._epoch, text)

    def progress(self, done: float) -> None:
        self._part.progress(self._epoch, done)

    async def spawn(self, tasks: list[Any]) -> str:
        return await self._part.spawn(self._epoch, tasks)


async def there(pool: titan.Pool, value: Any) -> Any:
    """The value with data of the pool in place of its names."""
    return await _fetched(pool, value) if _is_elsewhere(value) else value


def _is_elsewhere(value: Any) -> bool:
    """Whether data of the pool is named in it. Most values name none, and need not wait for anything."""
    if isinstance(value, dict):
        return value.keys() == {DATA} or any(_is_elsewhere(each) for each in value.values())
    return isinstance(value, list | tuple) and any(_is_elsewhere(each) for each in value)


async def _fetched(pool: titan.Pool, value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {DATA}:
            return processes.decoded(await pool.get(str(value[DATA])))
        return {key: await there(pool, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(await asyncio.gather(*(there(pool, each) for each in value)))
    return value


def lay_out(files: Mapping[str, bytes], place: Path) -> None:
    """Writes the files of a bundle. Raises Failed, before anything is written: one would lie elsewhere."""
    paths = {(place / name).resolve(): source for name, source in files.items() if "\0" not in name}
    if len(paths) < len(files) or not all(path.is_relative_to(place.resolve()) for path in paths):
        raise Failed("BadBundle", "a file of the bundle lies outside of it", False)
    for path, source in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)


def _inside(place: Path, name: str) -> Path:
    """The file that a task left under this name. Raises Failed where there is none, or it lies elsewhere."""
    path = (place / name).resolve()
    if not path.is_relative_to(place.resolve()) or not path.is_file():
        raise Failed("NoOutput", f"it left no file {name!r}")
    return path


def _joined(results: list[Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for each in results:
        if isinstance(each, dict):
            joined.update(each)
    return joined


@asynccontextmanager
async def working(
    pool: titan.Pool,
    queue: str,
    slots: int,
    labels: Mapping[str, str],
    name: str = "",
    *,
    commands: bool = False,
) -> AsyncIterator[Workers]:
    """Workers of this program at a queue, until left."""
    directory = Path(tempfile.mkdtemp(prefix="titan-dag-"))
    name = name or f"{os.uname().nodename}-{os.getpid()}-{pool.token_bytes(4).hex()}"  # two of one name are one
    workers = Workers(pool, queue, name, slots, labels, directory, commands=commands)
    task = asyncio.create_task(workers.serve())
    try:
        yield workers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shutil.rmtree(directory, ignore_errors=True)
