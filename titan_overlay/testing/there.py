"""Calls that happen on a simulated machine, wherever the test that makes them runs."""

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from titan_overlay.client import Pool
from titan_overlay.member import Member
from titan_overlay.testing.network import MemoryNetwork


class PoolThere(Pool):
    """A `Pool` whose calls happen on its own machine."""

    def __init__(self, member: Member, network: MemoryNetwork, ip: str) -> None:
        super().__init__(member)
        self._on_host = functools.partial(network.on_host, ip)


def _there(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def stream(self: PoolThere, *args: Any, **options: Any) -> AsyncIterator[Any]:
            items = function(self, *args, **options)
            try:
                while True:
                    with self._on_host():
                        try:
                            item = await anext(items)
                        except StopAsyncIteration:
                            return
                    yield item
            finally:
                await items.aclose()

        return stream

    @functools.wraps(function)
    async def call(self: PoolThere, *args: Any, **options: Any) -> Any:
        with self._on_host():
            return await function(self, *args, **options)

    return call


for _name, _function in list(vars(Pool).items()):
    if _name.startswith("_"):
        continue
    if inspect.iscoroutinefunction(_function) or inspect.isasyncgenfunction(_function):
        setattr(PoolThere, _name, _there(_function))
