"""What a run comes to before it begins: its definition, and the runs that do tasks of it, with theirs."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from titan_objects.dag.definition import Definition
from titan_objects.dag.journal import Adopt, Child

AT_ONCE = 4


@dataclass(eq=False)
class Plan:
    """A run, and those that it needs."""

    definition: Definition
    params: dict[str, Any] = field(default_factory=dict)
    children: dict[str, list["Plan"]] = field(default_factory=dict)
    """By the task that they do."""
    found: Adopt | None = None
    """What another run has come to, which this one takes over."""
    inlets: dict[str, "Plan"] = field(default_factory=dict)
    """Of a section of a graph: the one that does a task which is waited for in this one."""
    outlets: dict[str, list["Plan"]] = field(default_factory=dict)
    """Those that wait for a task of this one."""
    after: int = 0
    """Epochs up to here are not given."""
    me: Child | None = None
    """The run, once it is published."""

    @property
    def all(self) -> "list[Plan]":
        """It and all below it."""
        return [self, *(each for plans in self.children.values() for plan in plans for each in plan.all)]

    @property
    def run(self) -> Child:
        """The run, which is published."""
        assert self.me is not None
        return self.me


async def each_child(plan: Plan, name: str, prepare: Callable[[Plan, str], Awaitable[Any]]) -> None:
    """Prepares the children of a run, some at a time.

    Args:
        name: of the run; those of its children are made of it.
    """
    room = asyncio.Semaphore(AT_ONCE)
    below: Sequence[Plan] = [each for plans in plan.children.values() for each in plans]

    async def one(number: int, child: Plan) -> None:
        async with room:
            await prepare(child, f"{name}-{number}")

    await asyncio.gather(*(one(number, child) for number, child in enumerate(below, 1)))
