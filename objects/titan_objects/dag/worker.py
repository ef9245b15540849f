"""Workers: they find runs at a queue, take what they can run, and say what came of it."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag import processes
from titan_objects.dag.inside import Call
from titan_objects.dag.journal import Order, Success
from titan_objects.dag.limits import Limits, Watch
from titan_objects.dag.part import Part
from titan_objects.dag.processes import Ear, Failed, Warm
from titan_objects.dag.queue import COMMANDS, AskOpen, Register, WorkerInfo, owner_of
from titan_objects.dag.references import DATA
from titan_objects.dag.serving import serve
from titan_objects.dag.values import there

log = logging.getLogger("titan")

INLINE_BYTES = 32 << 10
"""A result that is larger travels as data of the pool."""
RESULT_BYTES_MAX = 64 << 20
REGISTER_SECONDS = 30.0
LOOK_SECONDS = 0.2
"""Between two looks at the queue, where it does not want more."""
AGAIN_SECONDS = 5.0
"""Until a run is tried again that could not be worked for."""


class Workers:
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
        self.pool = pool
        self.queue = queue
        self._commands = commands
        shown = {**labels, **({COMMANDS: "trusted"} if commands else {})}
        self.info = WorkerInfo(name, slots, shown, pool.trusted)
        self.directory = directory
        self.free = slots
        self.busy = 0
        """Tasks that run now."""
        self.watch = Watch(limits)
        self.memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._warm: dict[str, list[Warm]] = {}
        """Idle processes by bundle."""
        self._code: dict[str, Path] = {}
        self._made = 0
        self.turn = 0
        """Of what was last said to a run."""
        self._version = 0
        """Of the queue: what has changed there up to it is known."""
        self.pause = LOOK_SECONDS
        """Until the next look."""

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
                await asyncio.sleep(self.pause)
        finally:
            for task in runs.values():
                task.cancel()
            await asyncio.gather(*runs.values(), return_exceptions=True)
            for warm in [each for idle in self._warm.values() for each in idle]:
                await warm.close()
            await self.watch.close()
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

    # ---- doing -----------------------------------------------------------------------------------------------

    async def execute(self, order: Order, ear: Ear) -> Success:
        """Runs a task. Raises Failed."""
        self._made += 1
        mark = f"{self.info.name}-{self._made}"
        if order.join:
            return await self._success(_joined(await there(self.pool, order.args)))
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
            command = processes.run_command(order.run, place, mark, ear.line, self.watch, memory=order.memory, env=env)
            await (serve(command, order.port, order.ready, ear.up) if order.port else command)
            files = {}
            for name in order.outputs:
                files[name] = await self.pool.put(_inside(place, name))
            return Success(0, sha256(msgspec.msgpack.encode(sorted(files.items()))).digest(), files)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, True)

    async def _call(self, order: Order, mark: str, ear: Ear) -> Success:
        place = await self._unpacked(order.code)
        idle = self._warm.setdefault(order.code, [])
        warm = idle.pop() if idle else Warm(place, mark, self.watch)
        args, inputs = await there(self.pool, order.args), await there(self.pool, order.inputs)
        request = Call(order.call, args, inputs, order.epoch, order.store)
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


def _joined(results: list[Any]) -> Any:
    if all(isinstance(each, list) for each in results):
        return [item for each in results for item in each]
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
    limits: Limits | None = None,
) -> AsyncIterator[Workers]:
    """Workers of this program at a queue, until left."""
    directory = Path(tempfile.mkdtemp(prefix="titan-dag-"))
    name = name or f"{os.uname().nodename}-{os.getpid()}-{pool.token_bytes(4).hex()}"  # two of one name are one
    workers = Workers(pool, queue, name, slots, labels, directory, commands=commands, limits=limits)
    task = asyncio.create_task(workers.serve())
    try:
        yield workers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shutil.rmtree(directory, ignore_errors=True)
