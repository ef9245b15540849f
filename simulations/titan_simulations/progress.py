"""A progress bar with the simulated clock. It draws in the simulation's own thread, between two callbacks."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from titan_simulations.measure import cpu_seconds

LINES = 10
"""Where standard error is no terminal, a line for each such part of a run."""


class Bar:
    """Called with what the simulation is at and its clock; draws on a terminal, writes a line now and then into a log.

    Args:
        seconds: simulated time that the whole run will take, roughly.
    """

    def __init__(self, title: str, seconds: float, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._line = 0
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[clock]} simulated, {task.fields[cpu]:.0f} s CPU, {task.fields[what]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            auto_refresh=False,  # a thread of its own would not be let into the simulation
        )
        self._task = self._progress.add_task(title, total=max(1.0, seconds), clock="0:00:00", cpu=0.0, what="joining")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            task = self._progress.tasks[0]
            self._progress.update(self._task, completed=task.total, what="done")
        self._progress.refresh()
        self._progress.stop()

    def __call__(self, what: str, now: float) -> None:
        """One step further."""
        cpu = cpu_seconds()
        self._progress.update(self._task, completed=now, clock=clock(now), cpu=cpu, what=what)
        self._progress.refresh()
        task = self._progress.tasks[self._task]
        line = 1 + int(LINES * now / (task.total or 1.0))
        if self._progress.disable and line > self._line:
            self._line = line
            self._console.print(f"{task.description}: {clock(now)} simulated, {cpu:.0f} s CPU, {what}", soft_wrap=True)


def clock(seconds: float) -> str:
    """`h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
