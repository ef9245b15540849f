"""A service that the tests of programs publish, as their users would write it: the file imports nothing but titan."""

import asyncio
from collections.abc import AsyncIterator

import titan_overlay as titan


class Add(titan.Message[int], namespace="net"):
    """Two numbers."""

    a: int
    b: int


class Count(titan.Message[int], namespace="net"):
    """All numbers below `up_to`, one by one."""

    up_to: int


class Pass(titan.Message[str], namespace="net"):
    """Sends the rest of the way on to its first name; the last object says who asked it, and how long it has."""

    way: list[str]


class Hold(titan.Message[str], namespace="net"):
    """Is answered when the named file is there."""

    path: str


class Wait(Hold, namespace="net"):
    """The same, of a handler that may run more than once."""


class Overdraw(titan.Message[None], namespace="net"):
    """Raises `Insufficient`."""

    missing: int


@titan.error("net.insufficient")
class InsufficientError(titan.RemoteError):
    """An error of the user's own, with a field."""

    FIELDS = (*titan.RemoteError.FIELDS, "missing")

    def __init__(self, message: str = "", *, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


@titan.service(policy=titan.Policy(min_copies=2))
class Desk:
    """A bit of everything."""

    def __init__(self) -> None:
        self.runs = 0

    @titan.idempotent
    async def echo(self, text: str) -> str:
        """The same."""
        return text

    async def add(self, message: Add) -> int:
        """The sum."""
        return message.a + message.b

    async def count(self, message: Count) -> AsyncIterator[int]:
        """Numbers."""
        for number in range(message.up_to):
            yield number

    async def hold(self, message: Hold, ctx: titan.Context) -> str:
        """Waits for a file."""
        self.runs += 1
        while not await asyncio.to_thread(_exists, message.path):
            await asyncio.sleep(0.02)
        ctx.log.info("the file is there")
        return "there"

    @titan.idempotent
    async def wait(self, message: Wait, ctx: titan.Context) -> str:
        """Waits for a file, too."""
        return await self.hold(message, ctx)

    async def on(self, message: Pass, ctx: titan.Context) -> str:
        """Passes on."""
        if message.way:
            return await ctx.send(message.way[0], Pass(message.way[1:]))
        return f"{ctx.sender.id.hex()} {0 < ctx.remaining <= 10}"

    async def overdraw(self, message: Overdraw) -> None:
        """Raises."""
        raise InsufficientError(f"{message.missing} are missing", missing=message.missing)

    async def fail(self, flag: bool) -> None:
        """Raises what its author did not expect."""
        raise KeyError("no such luck")

    async def size(self, data: bytes) -> int:
        """How many bytes came."""
        return len(data)

    async def huge(self, size: int) -> bytes:
        """As many bytes as are asked for."""
        return bytes(size)


@titan.service(policy=titan.Policy(min_copies=1, max_copies=1), concurrency=1)
class Single(Desk):
    """One copy, one message at a time."""


def _exists(path: str) -> bool:
    from pathlib import Path

    return Path(path).exists()
