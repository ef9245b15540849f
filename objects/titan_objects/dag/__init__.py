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

if TYPE_CHECKING:
    from titan_objects.dag.authoring import Dag, Function, Handle, dag, task
    from titan_objects.dag.client import resume, submit
    from titan_objects.dag.here import Here, run_here
    from titan_objects.dag.submitted import SubmittedRun

__all__ = ["Dag", "Function", "Handle", "Here", "SubmittedRun", "dag", "resume", "run_here", "submit", "task"]

_PLACES = {
    "authoring": ("Dag", "Function", "Handle", "dag", "task"),
    "client": ("resume", "submit"),
    "here": ("Here", "run_here"),
    "submitted": ("SubmittedRun",),
}
"""By module: what is imported when it is asked for. Processes of tasks need little of it."""


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"titan_objects.dag.{module}"), name))
    raise AttributeError(f"module 'titan_objects.dag' has no attribute {name!r}")
