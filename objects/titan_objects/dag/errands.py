"""What a task has its worker do in the pool: under the worker's right to call, bounded, until the attempt ends.

Functions alone have a way to ask, and only those of bundles that a key has signed which this worker trusts. Such code
could as well use the keys of the user that it runs as, so nothing is given to it here that it has not; what it does
by mistake, or because somebody made up its arguments, is bounded.
"""

import asyncio
from itertools import count
from typing import Any

import titan_overlay as titan
from titan_objects.dag.inside import Get, Hear, Hush, Listen, Put, Question, Send
from titan_objects.dag.processes import Failed, decoded
from titan_objects.store.hearing import Hearing

BYTES_MAX = 64 << 20
"""Of data, put or got at once."""
PUT_BYTES_MAX = 1 << 30
"""Of all data that one attempt puts."""
SECONDS_MAX = 60.0
HEARINGS_MAX = 16
"""Of one attempt at once."""
CHANNELS_MAX = 256
HEAR_SECONDS = 1.0
"""So long a task waits for the next message before it is told that there is none yet."""
_REFUSED = ("dag", "dagqueue")
"""Namespaces of messages by which workers and submitters act in their own name."""


class Errands:
    """What one attempt at a task asks for."""

    def __init__(self, pool: titan.Pool) -> None:
        self._pool = pool
        self._put = 0
        self._hearings: dict[int, Hearing] = {}
        self._numbers = count(1)

    async def do(self, what: Question) -> Any:
        """Does it, and gives the answer in builtins.

        Raises:
            TitanError: as `titan.Pool` does. Forbidden: no task may have that done.
        """
        match what:
            case Send():
                return await self._send(what)
            case Put(data):
                return await self._put_data(data)
            case Get(name):
                return await self._get_data(name)
            case Listen(name, channels):
                return await self._listen(name, channels)
            case Hear(number):
                return await self._hear(number)
            case Hush(number):
                return await self._hush(number)
        raise titan.BadMessage(f"a worker does not know what a task means with {type(what).__name__}")

    async def _send(self, what: Send) -> Any:
        if what.name.startswith("node:") or what.kind.partition(".")[0] in _REFUSED:
            raise titan.Forbidden(f"a task sends no {what.kind} to {what.name!r}: its worker would speak for itself")
        timeout = what.timeout if 0 < what.timeout <= SECONDS_MAX else SECONDS_MAX
        reply = await self._pool.send_raw(what.name, what.kind, what.body, timeout=timeout)
        try:
            return decoded(reply)
        except Failed as why:
            raise titan.BadMessage(f"{what.name!r} gave {why}") from None

    async def _put_data(self, data: bytes) -> str:
        if len(data) > BYTES_MAX:
            raise titan.BadMessage(f"a task puts {BYTES_MAX} bytes at once at most, not {len(data)}")
        if self._put + len(data) > PUT_BYTES_MAX:
            raise titan.Overloaded(f"a task puts {PUT_BYTES_MAX} bytes in all at most, and has put {self._put}")
        self._put += len(data)
        return await self._pool.put(data)

    async def _get_data(self, name: str) -> bytes:
        description = await self._pool.describe(name)
        size = description.size if isinstance(description, titan.Description) else 0
        if size > BYTES_MAX:
            raise titan.BadMessage(f"a task gets {BYTES_MAX} bytes at once at most, and {name!r} has {size}")
        return await self._pool.get(name)

    async def _listen(self, name: str, channels: list[str]) -> int:
        if len(self._hearings) >= HEARINGS_MAX or not 0 < len(channels) <= CHANNELS_MAX:
            raise titan.BadMessage(f"a task listens {HEARINGS_MAX} times at once, to {CHANNELS_MAX} channels at most")
        number = next(self._numbers)
        hearing = self._hearings[number] = Hearing(self._pool, name, channels)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await hearing.start()
        except BaseException as why:
            await self._hush(number)
            if isinstance(why, TimeoutError):
                raise titan.DeadlineExceeded(f"the store {name!r} has not been heard for {SECONDS_MAX:g} s") from None
            raise
        return number

    async def _hear(self, number: int) -> list[list[bytes]]:
        hearing = self._hearings.get(number)
        if hearing is None:
            raise titan.BadMessage("this task listens to nothing under that number")
        try:
            async with asyncio.timeout(HEAR_SECONDS):
                return await hearing.get()
        except TimeoutError:
            return []

    async def _hush(self, number: int) -> None:
        hearing = self._hearings.pop(number, None)
        if hearing is not None:
            await hearing.close()

    async def aclose(self) -> None:
        """The attempt has ended: so does what it listens to."""
        for number in list(self._hearings):
            await self._hush(number)
