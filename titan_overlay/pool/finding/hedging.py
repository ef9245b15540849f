"""Asking one holder after the other without waiting for any of them: hedged requests (Dean and Barroso 2013).

A candidate that fails is replaced at once. One that keeps us waiting is not given up, but others are asked as well, and
each time that this happens, twice as many: however many stall, an honest one is asked within a few patiences.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from titan_overlay.errors import TitanError

AT_ONCE_MAX = 16
"""Candidates that are asked at once, however long they keep us waiting."""

C = TypeVar("C")
T = TypeVar("T")


async def hedged(
    candidates: AsyncIterator[C],
    attempt: Callable[[C], Awaitable[T]],
    patience: Callable[[C], float],
    *,
    at_once: int = 1,
    on_late: Callable[[C], None] = lambda candidate: None,
) -> AsyncGenerator[tuple[C, T | TitanError], None]:
    """What each candidate came to, as it comes; what is still under way when the iterator is closed is cancelled.

    Args:
        candidates: may take its time, as with a look-up: meanwhile those asked before may still answer.
        patience: seconds before others are asked as well.
        at_once: asked at first.
        on_late: told of those that have kept us waiting for longer.
    """
    loop = asyncio.get_running_loop()
    running: dict[asyncio.Task[T], C] = {}
    due: dict[asyncio.Task[T], float] = {}
    coming: asyncio.Task[C | None] | None = None
    ended = False
    try:
        while True:
            if coming is None and not ended and len(running) < at_once:
                coming = loop.create_task(_next(candidates))
            if not running and coming is None:
                return
            tasks: list[asyncio.Task[T] | asyncio.Task[C | None]] = [*running]
            if coming is not None:
                tasks.append(coming)
            first = min(due.values(), default=None)
            timeout = None if first is None else max(0.0, first - loop.time())
            done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming in done:
                candidate, coming = coming.result(), None
                if candidate is None:
                    ended = True
                else:
                    task = loop.create_task(_attempt(attempt, candidate))
                    running[task] = candidate
                    due[task] = loop.time() + patience(candidate)
            for task in [each for each in running if each in done]:
                candidate = running.pop(task)
                due.pop(task, None)
                yield candidate, _outcome(task)
            late = [task for task, when in due.items() if when <= loop.time()]
            for task in late:
                del due[task]
                on_late(running[task])
            if late:
                at_once = min(AT_ONCE_MAX, 2 * max(at_once, len(running)))
    finally:
        for each in (*running, *([] if coming is None else [coming])):
            each.cancel()


async def _next(candidates: AsyncIterator[C]) -> C | None:
    return await anext(candidates, None)


async def _attempt(attempt: Callable[[C], Awaitable[T]], candidate: C) -> T:
    return await attempt(candidate)


def _outcome(task: "asyncio.Task[T]") -> T | TitanError:
    """Its result, or the error that is a possible answer of a peer; others are raised."""
    try:
        return task.result()
    except TitanError as why:
        return why


async def each_of(candidates: "list[C]") -> AsyncIterator[C]:
    """A list, as `hedged` takes it."""
    for candidate in candidates:
        yield candidate
