"""The time of a handler's steps is measured, not the time that it waits."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from titan_overlay.pool.hosting.measured import measured


class Watch:
    """A clock that goes on only when told, and what was spent on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.spent: list[float] = []

    def measure(self, work: Awaitable[Any]) -> Awaitable[Any]:
        return measured(work, lambda: self.now, self.spent.append)


async def test_steps_are_counted_and_waits_are_not() -> None:
    watch = Watch()

    async def work() -> str:
        watch.now += 1.0
        await asyncio.sleep(0)
        watch.now += 2.0
        return "done"

    async def meanwhile() -> None:
        watch.now += 100.0

    result, _ = await asyncio.gather(watch.measure(work()), meanwhile())
    assert result == "done"
    assert watch.spent == [1.0, 2.0]


async def test_errors_and_cancellations_go_through_as_without_it() -> None:
    watch = Watch()

    async def raises() -> None:
        await asyncio.sleep(0)
        watch.now += 1.0
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await watch.measure(raises())
    assert watch.spent == [0.0, 1.0]
    cleaned: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append("up")

    async def outer() -> None:
        await watch.measure(forever())

    task = asyncio.ensure_future(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["up"]


async def test_a_future_is_waited_for_too() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, 7)
    assert await Watch().measure(future) == 7
