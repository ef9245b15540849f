"""Handlers run at once as far as they go, and are tasks like any other from there on."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from titan_overlay.links.runner import Runner

pytestmark = pytest.mark.loops("real", "virtual")


class Work:
    """A job that runs what a test gives it."""

    def __init__(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.act = act
        self.task: asyncio.Task[None] | None = None
        self.waited = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False

    async def run(self) -> None:
        try:
            self.result = await self.act()
        except (Exception, asyncio.CancelledError) as error:
            self.error = error
        self.done = True

    def suspended(self) -> None:
        assert self.task is not None
        self.waited = True

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


@asynccontextmanager
async def warm() -> AsyncIterator[Runner]:
    """A runner whose stand-by task is ready."""
    runner = Runner(asyncio.get_running_loop())

    async def nothing() -> None:
        pass

    runner.run(Work(nothing))
    await asyncio.sleep(0.01)
    yield runner
    await runner.close()


async def called_by_the_loop(act: Callable[[], None]) -> None:
    """Handlers are started by callbacks, not by tasks."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: (act(), done.set_result(None)))
    await done


async def finished(work: Work) -> Work:
    async with asyncio.timeout(10):
        while not work.done:
            await asyncio.sleep(0.001)
    return work


async def test_a_handler_that_does_not_wait_is_done_at_once() -> None:
    async def answer() -> int:
        return 42

    async with warm() as runner:
        works = [Work(answer) for _ in range(10)]
        seen: list[bool] = []

        def start() -> None:
            for work in works:
                runner.run(work)
                seen.append(work.done)

        await called_by_the_loop(start)
        assert seen == [True] * 10
        assert [work.result for work in works] == [42] * 10
        assert not any(work.waited for work in works)


async def test_it_has_a_current_task_and_keeps_it_after_waiting() -> None:
    async def handler() -> bool:
        before = asyncio.current_task()
        await asyncio.sleep(0)
        between = asyncio.current_task()
        await asyncio.sleep(0.01)
        return before is not None and before is between is asyncio.current_task()

    async with warm() as runner:
        work = Work(handler)
        await called_by_the_loop(lambda: runner.run(work))
        assert work.waited
        assert (await finished(work)).result is True


async def test_a_timeout_around_the_first_wait_holds() -> None:
    async def handler() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.sleep(0)
            return "timed out"
        return "?"

    async with warm() as runner:
        work = Work(handler)
        await called_by_the_loop(lambda: runner.run(work))
        assert (await finished(work)).result == "timed out"


async def test_cancelled_before_its_second_step_it_is_cancelled_where_it_waits() -> None:
    inner_cancelled = []

    async def inner() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            inner_cancelled.append(True)
            raise

    async def handler() -> None:
        await asyncio.gather(inner(), inner())

    async with warm() as runner:
        work = Work(handler)

        def start_and_cancel() -> None:
            runner.run(work)
            asyncio.get_running_loop().call_soon(work.cancel)

        await called_by_the_loop(start_and_cancel)
        assert isinstance((await finished(work)).error, asyncio.CancelledError)
        assert inner_cancelled == [True, True]


async def test_cancelled_in_the_same_breath_it_is_cancelled_too() -> None:
    async def handler() -> None:
        await asyncio.sleep(60)

    async with warm() as runner:
        work = Work(handler)

        def start_and_cancel() -> None:
            runner.run(work)
            work.cancel()

        await called_by_the_loop(start_and_cancel)
        assert isinstance((await finished(work)).error, asyncio.CancelledError)


async def test_cancelled_when_what_it_waits_for_is_there_already() -> None:
    async def handler() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(60)

    async with warm() as runner:
        work = Work(handler)

        def start_and_cancel() -> None:
            runner.run(work)
            work.cancel()

        await called_by_the_loop(start_and_cancel)
        assert isinstance((await finished(work)).error, asyncio.CancelledError)


async def test_context_variables_stay_with_a_handler_that_waits() -> None:
    name = contextvars.ContextVar("name", default="nobody")

    def handler(mine: str) -> Callable[[], Coroutine[Any, Any, str]]:
        async def act() -> str:
            name.set(mine)
            await asyncio.sleep(0.01)
            return name.get()

        return act

    async with warm() as runner:
        works = [Work(handler(f"number {n}")) for n in range(5)]
        for work in works:
            await called_by_the_loop(lambda work=work: runner.run(work))
        assert [(await finished(work)).result for work in works] == [f"number {n}" for n in range(5)]
        assert name.get() == "nobody"


async def test_errors_of_a_handler_are_the_jobs_business_before_and_after_it_waits() -> None:
    async def early() -> None:
        raise KeyError("early")

    async def late() -> None:
        await asyncio.sleep(0)
        raise KeyError("late")

    async with warm() as runner:
        works = [Work(early), Work(late), Work(early)]
        await called_by_the_loop(lambda: [runner.run(work) for work in works])
        for work in works:
            assert isinstance((await finished(work)).error, KeyError)


async def test_a_task_may_start_handlers_as_well() -> None:
    async def answer() -> int:
        return 1

    async with warm() as runner:
        work = Work(answer)
        runner.run(work)
        assert (await finished(work)).result == 1


async def test_closing_cancels_those_that_wait_and_those_that_have_not_begun() -> None:
    async def handler() -> None:
        await asyncio.sleep(60)

    runner = Runner(asyncio.get_running_loop())
    works = [Work(handler) for _ in range(3)]
    runner.run(works[0])
    await asyncio.sleep(0.01)
    await called_by_the_loop(lambda: runner.run(works[1]))
    await asyncio.sleep(0.01)
    runner.run(works[2])
    await runner.close()
    assert all(work.task is not None and work.task.done() for work in works)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
