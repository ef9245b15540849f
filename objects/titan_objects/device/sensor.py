"""Sensors: a file, a command or a function of this machine, read by name from anywhere."""

import asyncio
import inspect
import json
import math
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import titan_overlay as titan
from titan_objects.device import processes
from titan_objects.device.messages import Read, Reading, Watch
from titan_objects.device.tables import SensorTable

POLICY = titan.Policy(min_copies=1, max_copies=1, bound=True, hosts="anyone")
"""A device is where it is: one copy, on its own node."""


@titan.idempotent
@titan.service(policy=POLICY)
class Sensor:
    """Reads every `interval` seconds, and answers with the last reading and its age.

    Raises:
        ConfigError: the table names a function that is not there.
    """

    def __init__(self, table: SensorTable) -> None:
        self._table = table
        self._function = _function(table) if table.callable else None
        self._value: Any = None
        self._taken: float | None = None
        self._error = ""
        self._changed = asyncio.Event()
        self._attempt: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None

    async def start(self, ctx: titan.Context) -> None:
        """Begins to read."""
        if self._table.interval > 0:
            self._polling = asyncio.create_task(self._poll(ctx))

    async def stop(self) -> None:
        """Ends reading."""
        tasks = [task for task in (self._polling, self._attempt) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def read(self, message: Read, ctx: titan.Context) -> Reading:
        """The last reading, or a new one."""
        processes.allowed(self._table.senders, ctx)
        if message.fresh or self._table.interval == 0 or (self._taken is None and not self._error):
            await self._take()
        return self._reading()

    async def watch(self, message: Watch, ctx: titan.Context) -> AsyncIterator[Reading]:
        """Every reading from now on."""
        processes.allowed(self._table.senders, ctx)
        given = 0
        if self._taken is None:
            await self._take()
        while True:
            changed = self._changed
            yield self._reading()
            given += 1
            if given == message.count:
                return
            if self._table.interval > 0:
                await changed.wait()
            else:
                await asyncio.sleep(1.0)  # nobody polls: one reading a second while somebody watches
                await self._take()

    def _reading(self) -> Reading:
        if self._taken is None:
            raise titan.Unavailable(
                f"no reading of {self._table.name!r} yet: {self._error or 'the first is being taken'}"
            )
        age = asyncio.get_running_loop().time() - self._taken
        return Reading(self._value, self._table.unit, round(age, 3), self._error)

    async def _poll(self, ctx: titan.Context) -> None:
        while True:
            failed_before = bool(self._error)
            await self._take()
            if self._error and not failed_before:
                ctx.log.warning("no reading: %s", self._error)
            await asyncio.sleep(self._table.interval)

    async def _take(self) -> None:
        """One attempt; whoever asks while one is under way waits for that one."""
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._attempt_once())
        await asyncio.shield(self._attempt)

    async def _attempt_once(self) -> None:
        try:
            self._value = _value(self._table, await self._raw())
        except Exception as why:
            # A sensor's code is the operator's: whatever it raises, the node and the last reading live on.
            self._error = (str(why) or type(why).__name__)[:200]
        else:
            self._error = ""
            self._taken = asyncio.get_running_loop().time()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _raw(self) -> Any:
        table = self._table
        if table.file:
            return await processes.in_thread(lambda: _read_file(table.file, table.output_bytes_max), table.timeout)
        if self._function is None:
            return await _command_output(table)
        if inspect.iscoroutinefunction(self._function):
            async with asyncio.timeout(table.timeout):
                return await self._function()
        return await processes.in_thread(self._function, table.timeout)


async def _command_output(table: SensorTable) -> bytes:
    done = await processes.run(table.command, timeout=table.timeout, output_bytes_max=table.output_bytes_max)
    if done.status != 0:
        raise titan.Unavailable(
            f"{table.command[0]} ended with status {done.status}: {processes.first_line(done.errors)}"
        )
    return done.output


def _read_file(path: str, limit: int) -> bytes:
    # A pipe without a writer must not block; it reads as empty.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = b""
        while len(data) < limit and (piece := os.read(descriptor, limit - len(data))):
            data += piece
        return data
    finally:
        os.close(descriptor)


def _value(table: SensorTable, raw: Any) -> Any:
    """What the table makes of the raw reading. Raises ValueError where it is not what the table says."""
    if isinstance(raw, bytes):
        raw = processes.text_of(raw).strip()
    if table.value == "text":
        return str(raw)
    if table.value == "json":
        return json.loads(raw) if isinstance(raw, str) else raw
    try:
        number = float(raw) * table.scale
    except (TypeError, ValueError):
        raise ValueError(f'{str(raw)[:40]!r} is not a number; value = "text" takes anything') from None
    if not math.isfinite(number):
        raise ValueError(f"{raw} is not a finite number")
    return number


def _function(table: SensorTable) -> Callable[[], Any]:
    module, _, name = table.callable.partition(":")
    found = None
    # The module is the operator's choice, and may fail in any way while it is imported.
    with suppress(Exception):
        found = getattr(import_module(module), name, None)
    if not callable(found):
        raise titan.ConfigError(
            f"device {table.name!r}: callable: there is no function {table.callable!r} installed here"
        )
    function: Callable[[], Any] = found
    return function
