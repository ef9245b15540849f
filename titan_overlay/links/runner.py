"""Runs handlers at once, as far as they go without waiting; those that wait go on as tasks of their own.

A task for every message would cost more than most handlers do, and a turn of the loop more than most messages. Python
3.12 has eager tasks for this; here is what works from 3.11 on. An idle `_Stand` is a task that waits for something to
become. A handler is stepped in the stand's name (`asyncio.tasks._enter_task`, which asyncio documents for those who
extend it), so that `current_task`, `asyncio.timeout` and context variables are the stand's. If it finishes, the stand
is as good as new. If it waits, the stand's task carries on with it, and a new stand takes its place.
"""

import asyncio
import contextvars
import logging
import types
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class Job(Protocol):
    """A request that is to be answered here."""

    task: asyncio.Task[None] | None
    """Set once the job waits for something: cancel this."""

    def run(self) -> Coroutine[Any, Any, None]:
        """Answer it. Raises nothing but `CancelledError`."""

    def suspended(self) -> None:
        """It waits, and `task` is set."""

    def cancel(self) -> None:
        """Stop; nobody waits for an answer."""


class _Stand:
    """A task that waits to become some handler's."""

    __slots__ = ("started", "step", "task", "wake", "work", "yielded")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        context = contextvars.copy_context()
        self.step = context.run
        self.started = False
        self.wake: asyncio.Future[None] = loop.create_future()
        self.work: Coroutine[Any, Any, None] | None = None
        self.yielded: Any = None
        """What the handler waits for."""
        self.task = loop.create_task(self._main(), context=context)

    async def _main(self) -> None:
        self.started = True
        interrupted: asyncio.CancelledError | None = None
        try:
            await self.wake
        except asyncio.CancelledError as why:
            if self.work is None:
                raise
            # Cancelled between the handler's first wait and now: as a task would, cancel what it waits for.
            if self.yielded is None or not self.yielded.cancel():
                interrupted = why
        if self.work is not None:
            await _carry_on(self.work, self.yielded, interrupted)


@types.coroutine
def _carry_on(work: Coroutine[Any, Any, None], yielded: Any, error: BaseException | None) -> Generator[Any, Any, None]:
    """`await` for a coroutine that has begun already and waits for `yielded`."""
    try:
        while True:
            sent = None
            if error is None:
                try:
                    sent = yield yielded
                except GeneratorExit:
                    work.close()
                    raise
                except BaseException as why:
                    error = why
            if error is None:
                yielded = work.send(sent)
            else:
                thrown, error = error, None
                yielded = work.throw(thrown)
    except StopIteration:
        return


class Runner:
    """One per `Links`."""

    __slots__ = ("_closed", "_loop", "_stand", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._stand: _Stand | None = None
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._closed = False

    def run(self, job: Job) -> None:
        """Answer it now, or begin to."""
        stand = self._stand
        if stand is None or not stand.started or stand.wake.done():
            if stand is None or stand.wake.done():
                self._stand = None if self._closed else _Stand(self._loop)
            self._adopt(job, self._loop.create_task(job.run()))
            return
        loop, task = self._loop, stand.task
        try:
            _enter_task(loop, task)
        except RuntimeError:  # called by a task, which has the floor
            self._adopt(job, loop.create_task(job.run()))
            return
        work = job.run()
        try:
            yielded = stand.step(work.send, None)
        except StopIteration:
            return
        finally:
            _leave_task(loop, task)
        self._stand = None
        stand.work, stand.yielded = work, yielded
        stand.wake.set_result(None)
        self._adopt(job, task)

    def _adopt(self, job: Job, task: asyncio.Task[None]) -> None:
        job.task = task
        self._tasks[task] = job
        task.add_done_callback(self._ended)
        job.suspended()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]

    async def close(self) -> None:
        """Cancel whatever runs, and wait for its end."""
        self._closed = True
        tasks = list(self._tasks)
        for job in self._tasks.values():
            job.cancel()
        if self._stand is not None:
            tasks.append(self._stand.task)
            self._stand.task.cancel()
            self._stand = None
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
            except Exception:
                _log.exception("a handler's task failed")
