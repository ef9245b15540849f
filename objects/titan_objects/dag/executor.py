"""Runs tasks in processes of this machine, each as its order says."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from titan_objects.dag import processes
from titan_objects.dag.bundles import Bundles
from titan_objects.dag.inside import Call
from titan_objects.dag.journal import Failure, Order, Success
from titan_objects.dag.limits import Limits, Watch
from titan_objects.dag.places import remove
from titan_objects.dag.processes import Ear, Failed
from titan_objects.dag.references import DATA
from titan_objects.dag.serving import serve
from titan_objects.dag.values import Data, there
from titan_objects.dag.warm import Warm

INLINE_BYTES = 32 << 10
"""A result that is larger travels as data."""
RESULT_BYTES_MAX = 64 << 20


async def attempted(work: Awaitable[Success], timeout: float) -> Success | Failure:
    """What comes of an attempt at a task, within its time: seconds, 0 for any."""
    try:
        async with asyncio.timeout(timeout or None):
            return await work
    except Failed as why:
        return why.failure
    except TimeoutError:
        return Failure("Timeout", f"it took longer than {timeout:g} s, and was ended")
    except Exception as why:  # whatever it is, the run has to hear of it, or has the task run again and again
        return Failure(type(why).__name__, str(why))


class Executor:
    """Runs tasks.

    Args:
        directory: in which tasks have directories of their own. Its name begins the marks of processes.
        commands: whether it runs commands too.
        limits: of each task.
    """

    def __init__(self, data: Data, directory: Path, *, commands: bool = False, limits: Limits | None = None) -> None:
        self.directory = directory
        self.watch = Watch(limits)
        self.bundles = Bundles(data, directory)
        self.memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        """Bytes that this machine has."""
        self._data = data
        self._commands = commands
        self._made = 0

    async def close(self) -> None:
        """Ends processes that are idle."""
        await self.bundles.close()
        await self.watch.close()

    async def execute(self, order: Order, ear: Ear) -> Success:
        """Runs a task. Raises Failed."""
        self._made += 1
        mark = f"{self.directory.name}-{self._made}"
        if order.join:
            return await self._success(_joined(await there(self._data, order.args)))
        if order.call:
            return await self._call(order, mark, ear)
        if not self._commands:
            raise Failed("NotAllowed", "this worker runs no commands (titan-node --worker-commands trusted)", False)
        env = order.env | _secrets(order)
        place = Path(tempfile.mkdtemp(dir=self.directory))
        try:
            if order.code:
                async with self.bundles.using(order.code) as bundle:
                    assert bundle.place is not None
                    await asyncio.to_thread(shutil.copytree, bundle.place, place, dirs_exist_ok=True)
            command = processes.run_command(order.run, place, mark, ear.line, self.watch, memory=order.memory, env=env)
            await (serve(command, order.port, order.ready, ear.up) if order.port else command)
            files = {}
            for name in order.outputs:
                files[name] = await self._data.put(_inside(place, name))
            return Success(0, sha256(msgspec.msgpack.encode(sorted(files.items()))).digest(), files)
        finally:
            await asyncio.to_thread(remove, place)

    async def _call(self, order: Order, mark: str, ear: Ear) -> Success:
        args, inputs = await there(self._data, order.args), await there(self._data, order.inputs)
        async with self.bundles.using(order.code) as bundle:
            assert bundle.place is not None
            warm = bundle.take() or Warm(bundle.place, mark, self.watch)
            try:
                value = await warm.call(Call(order.call, args, inputs, order.epoch, order.store), ear)
            finally:
                if warm.runs:
                    bundle.give(warm)
        return await self._success(processes.decoded(value), value)

    async def _success(self, value: Any, encoded: bytes = b"") -> Success:
        encoded = encoded or msgspec.msgpack.encode(value)
        digest = sha256(encoded).digest()
        if len(encoded) > RESULT_BYTES_MAX:
            most = f"{RESULT_BYTES_MAX} are the most, write a file and name it in outputs"
            raise Failed("TooLarge", f"a result of {len(encoded)} bytes; {most}", False)
        if len(encoded) > INLINE_BYTES:
            value = {DATA: await self._data.put(encoded)}
        return Success(value, digest)


def _secrets(order: Order) -> dict[str, str]:
    """What the task names of this environment. Raises Failed: something is not there; another worker may have it."""
    for name in order.secrets:
        if name not in os.environ:
            raise Failed("NoSecret", f"the environment of this worker has no {name}, which the task names in secrets")
    return {name: os.environ[name] for name in order.secrets}


def _inside(place: Path, name: str) -> Path:
    """The file that a task left under this name. Raises Failed where there is none, or it lies elsewhere."""
    path = (place / name).resolve()
    if not path.is_relative_to(place.resolve()) or not path.is_file():
        raise Failed("NoOutput", f"it left no file {name!r}")
    return path


def _joined(results: list[Any]) -> Any:
    """See `Task.join`. What was skipped has no result, and is left out."""
    given = [each for each in results if each is not None]
    if given and all(isinstance(each, list) for each in given):
        return [item for each in given for item in each]
    if all(isinstance(each, dict) for each in given):
        return {key: value for each in given for key, value in each.items()}
    return given
