"""DAGs: tasks that need one another, run by whatever nodes offer workers.

from titan_objects.dag import dag, task

@task
def square(n: int) -> int:
    return n * n

@task
def total(squares: list[int]) -> int:
    return sum(squares)

@dag
def squares(n: int):
    return total(square.map(range(n)))

run = await squares.submit(pool, n=10)
print(await run.result())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from titan_objects.dag.authoring import Dag, Function, Handle, dag, task

if TYPE_CHECKING:
    from titan_objects.dag.client import resume, submit
    from titan_objects.dag.here import run_here
    from titan_objects.dag.submitted import SubmittedRun

__all__ = ["Dag", "Function", "Handle", "SubmittedRun", "dag", "resume", "run_here", "submit", "task"]


_PLACES = {"SubmittedRun": "submitted", "resume": "client", "run_here": "here", "submit": "client"}


def __getattr__(name: str) -> Any:
    """What programs need that submit is imported when it is asked for: processes of tasks do without."""
    if name in _PLACES:
        return getattr(import_module(f"titan_objects.dag.{_PLACES[name]}"), name)
    raise AttributeError(name)
