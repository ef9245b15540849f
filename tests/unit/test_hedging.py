"""Asking one after the other without waiting for any: who fails is replaced, who is late gets company."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from titan_overlay.errors import LinkError, NotFound, NotHere
from titan_overlay.pool.finding.hedging import AT_ONCE_MAX, each_of, hedged

pytestmark = pytest.mark.loops("virtual")


class World:
    """Candidates that answer after so many seconds (None: never), or fail."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[float, int]] = []
        self.late: list[int] = []
        self.running = self.running_max = 0

    async def attempt(self, number: int) -> str:
        self.asked.append((round(asyncio.get_running_loop().time() - self.started, 3), number))
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            answer = self.answers[number]
            if isinstance(answer, Exception):
                raise answer
            await asyncio.sleep(10_000.0 if answer is None else answer)
            return f"from {number}"
        finally:
            self.running -= 1

    async def first(self, candidates: AsyncIterator[int] | None = None, **options: Any) -> str | None:
        self.started = asyncio.get_running_loop().time()
        outcomes = hedged(
            candidates or each_of(list(range(len(self.answers)))),
            self.attempt,
            lambda number: 1.0,
            on_late=self.late.append,
            **options,
        )
        async with aclosing(outcomes):
            async for _, outcome in outcomes:
                if isinstance(outcome, str):
                    return outcome
        return None


async def test_the_first_that_answers_is_the_only_one_asked() -> None:
    world = World(0.5, 0.5)
    assert await world.first() == "from 0"
    assert world.asked == [(0.0, 0)]
    assert world.late == []


async def test_one_that_fails_is_replaced_at_once() -> None:
    world = World(NotHere("no"), LinkError("no"), 0.1)
    assert await world.first() == "from 2"
    assert [when for when, _ in world.asked] == [0.0, 0.0, 0.0]


async def test_each_time_that_somebody_is_late_twice_as_many_are_asked() -> None:
    world = World(*[None] * 9, 0.1)
    assert await world.first() == "from 9"
    assert [when for when, _ in world.asked] == [0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0]
    assert world.late == [0, 1, 2, 3, 4, 5, 6, 7]
    await asyncio.sleep(0)
    assert world.running == 0, "nobody works on for nothing"


async def test_never_more_than_a_few_are_asked_at_once() -> None:
    world = World(*[None] * 100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60.0):
            await world.first()
    assert world.running_max == AT_ONCE_MAX


async def test_a_late_one_that_answers_after_all_is_heard() -> None:
    world = World(1.5, None)
    assert await world.first() == "from 0"


async def test_meanwhile_candidates_may_be_looked_for() -> None:
    async def slowly() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(5.0)
        yield 1

    world = World(2.0, None)
    assert await world.first(slowly()) == "from 0"
    world = World(NotHere("no"), 0.1)
    assert await world.first(slowly()) == "from 1"


async def test_when_all_have_failed_it_is_over() -> None:
    assert await World(NotHere("no"), NotFound("no")).first() is None
    assert await World().first() is None


async def test_what_is_no_answer_of_a_peer_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await World(ZeroDivisionError()).first()
