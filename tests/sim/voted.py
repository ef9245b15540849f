"""Services that the tests of votes publish."""

import asyncio

import titan_overlay as titan


@titan.error("test.odd")
class OddError(titan.RemoteError):
    """An error of the user's own."""


@titan.service(policy=titan.Policy(votes=5, min_copies=5))
@titan.idempotent
class Sums:
    """Adds; refuses an odd number of numbers."""

    async def add(self, numbers: list) -> int:  # type: ignore[type-arg]
        """The sum."""
        await asyncio.sleep(0.01)
        if len(numbers) % 2:
            raise OddError(f"{len(numbers)} numbers")
        return sum(numbers)

    async def mean(self, numbers: dict) -> float:  # type: ignore[type-arg]
        """Of the values."""
        return sum(numbers.values()) / len(numbers)


@titan.service(policy=titan.Policy(votes=5, min_copies=10, max_copies=12))
@titan.idempotent
class Slow:
    """Adds, in more time than anybody has patience."""

    async def add(self, numbers: list) -> int:  # type: ignore[type-arg]
        """The sum."""
        await asyncio.sleep(3)
        return sum(numbers)


@titan.service(policy=titan.Policy(votes=3))
class Careless:
    """One of its handlers may not run twice."""

    @titan.idempotent
    async def read(self, key: str) -> str:
        """Harmless."""
        return key

    async def book(self, seat: int) -> int:
        """Once only."""
        return seat


@titan.service(policy=titan.Policy(votes=3))
@titan.idempotent
class Streaming:
    """Answers with a stream."""

    async def count(self, upto: int):  # type: ignore[no-untyped-def]
        """All numbers below."""
        for number in range(upto):
            yield number
