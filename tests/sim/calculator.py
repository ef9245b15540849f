"""Services that the tests of the pool publish."""

import asyncio
import json

import titan_overlay as titan


class Add(titan.Message[int], namespace="test"):
    """Two numbers."""

    a: int
    b: int


class Whence(titan.Message[str], namespace="test"):
    """From where is this asked?"""


@titan.error("test.negative")
class NegativeError(titan.RemoteError):
    """An error of the user's own."""

    FIELDS = (*titan.RemoteError.FIELDS, "value")

    def __init__(self, message: str = "", *, value: int = 0) -> None:
        super().__init__(message)
        self.value = value


@titan.service
class Calculator:
    """Adds, counts, fails."""

    async def add(self, message: Add) -> int:
        """The sum."""
        return message.a + message.b

    @titan.idempotent
    async def echo(self, text: str) -> str:
        """The same."""
        return text

    async def count(self, upto: int):  # type: ignore[no-untyped-def]
        """All numbers below."""
        for number in range(upto):
            yield number

    async def slow(self, seconds: float) -> str:
        """Takes its time."""
        await asyncio.sleep(seconds)
        return "done"

    async def relay(self, names: list, ctx: titan.Context) -> str:  # type: ignore[type-arg]
        """Sends `names[1:]` to `names[0]`, or says who asked."""
        if names:
            return str(await ctx.send(names[0], names[1:]))
        return ctx.sender.id.hex()

    async def whence(self, message: Whence, ctx: titan.Context) -> str:
        """The subnet."""
        return ctx.sender.subnet

    async def fail(self, message: dict) -> None:  # type: ignore[type-arg]
        """Raises."""
        if "value" in message:
            raise NegativeError("no negatives", value=message["value"])
        if "half" in message:
            raise ValueError(json.loads(r'"\ud800"'))
        raise KeyError("missing")
