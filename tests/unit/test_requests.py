"""Requests of a simulation: what ends one is seen, unless it ended with its node."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.ambient import Random
from titan_overlay.testing import run
from titan_simulations.world import poisson, while_alive


@pytest.mark.parametrize("end", [RuntimeError("the node is closed"), asyncio.CancelledError()])
def test_a_request_of_a_node_that_is_gone_ends_quietly_and_any_other_does_not(end: BaseException):
    node: Any = SimpleNamespace(alive=False)
    with while_alive(node):
        raise end
    node.alive = True
    with pytest.raises(type(end)), while_alive(node):
        raise end


def test_a_request_that_fails_as_nobody_thought_of_ends_the_run():
    async def work() -> None:
        raise KeyError("unheard of")

    async def main() -> None:
        await poisson(1.0, Random("requests"), work, asyncio.get_running_loop().time() + 10.0)

    with pytest.raises(KeyError):
        run(main, seed=1)
