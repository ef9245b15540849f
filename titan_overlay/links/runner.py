"""Runs handlers: those that never wait in one shared task, each of the others in a task of its own.

A task for every message would cost more than most handlers do. So one worker task awaits handlers one after another.
When one of them waits for something, the worker *becomes* that handler's task (so `asyncio.timeout`, cancellation and
`current_task` mean what they always mean) and another worker takes its place.
"""

import asyncio
import logging
from collections import deque
from typing import Protocol

from titan_overlay.links.shared import Shared

_log = logging.getLogger(__name__)


class Job(Protocol):
    """A request that is to be answered here."""

    task: asyncio.Task[None] | None
    """Set once the job waits for something: cancel this."""

    async def run(self) -> None:
        """Answer it. Raises nothing but `CancelledError`."""

    def suspended(self) -> None:
        """It waits, and `task` is set."""

    def abandon(self) -> None:
        """It will never run."""


class Runner:
    """One per `Links`."""

    __slots__ = ("_current", "_jobs", "_loop", "_shared", "_tasks", "_wake", "_worker")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = shared.loop
        self._jobs: deque[Job] = deque()
        self._current: Job | None = None
        self._worker: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, job: Job) -> None:
        """Run it soon. All jobs submitted in one turn of the loop run in the next."""
        jobs = self._jobs
        if not jobs:
            wake, self._wake = self._wake, None
            if wake is not None and not wake.done():
                wake.set_result(None)
            elif wake is not None or self._worker is None:
                self._worker = self._loop.create_task(self._work())
            self._loop.call_soon(self._after)
        jobs.append(job)

    async def _work(self) -> None:
        jobs = self._jobs
        while True:
            while jobs:
                job = self._current = jobs.popleft()
                await job.run()
                if job.task is not None:
                    return  # it waited: this task was its own
            self._current = None
            self._shared.flush()
            self._wake = self._loop.create_future()
            await self._wake

    def _after(self) -> None:
        """Right after the worker's turn: is it back, or has it become the task of a handler that waits?"""
        job, worker = self._current, self._worker
        if worker is None:
            return
        if job is None:
            if not worker.done():
                return
        else:
            self._current = None
            self._adopt(job, worker)
        self._worker = None
        # The others came with one that waits and will probably wait too: let them start together.
        while self._jobs:
            other = self._jobs.popleft()
            self._adopt(other, self._loop.create_task(other.run()))

    def _adopt(self, job: Job, task: asyncio.Task[None]) -> None:
        job.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        job.suspended()

    async def close(self) -> None:
        """Cancel whatever runs, and wait for its end."""
        for job in self._jobs:
            job.abandon()
        self._jobs.clear()
        tasks = list(self._tasks)
        if self._worker is not None:
            tasks.append(self._worker)
            self._worker = None
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    raise
            except Exception:
                _log.exception("a handler's task failed")
