"""A service that does what a bad day, or a bad author, makes handlers do. The tests publish it as a bundle."""

import asyncio

import titan_overlay as titan


class Depth(titan.Message[int], namespace="awkward"):
    """How deep is it?"""

    value: object


@titan.service("*", policy=titan.Policy(min_copies=1, max_copies=1))
class Awkward:
    """One kind of trouble for each type of message."""

    @titan.idempotent
    async def echo(self, text: str) -> str:
        """The same."""
        return text

    async def raises(self, flag: bool) -> str:
        """Raises, with a text that is no good for a terminal."""
        raise RuntimeError("no \x1b[31mluck\ntoday" + "!" * 10_000)

    async def big(self, size: int) -> bytes:
        """So many bytes."""
        return bytes(size)

    async def hangs(self, seconds: float) -> str:
        """Never returns, and minds no cancellation."""
        while True:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                continue

    async def deep(self, levels: list) -> list:  # type: ignore[type-arg]
        """A list in a list in a list, deeper than any encoder goes."""
        value: list = []  # type: ignore[type-arg]
        for _ in range(100_000):
            value = [value]
        return value

    async def measure(self, message: Depth) -> int:
        """Levels of nesting."""
        depth, value = 0, message.value
        while isinstance(value, list) and value:
            depth, value = depth + 1, value[0]
        return depth
