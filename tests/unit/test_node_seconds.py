"""How long nodes are up, summed: what traffic is divided by, and how many are up on average."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.ambient import Random
from titan_overlay.testing import run
from titan_simulations.interruptions import Interruptions
from titan_simulations.lifetimes import Fixed
from titan_simulations.turnover import Turnover


class World:
    """Nodes that are up or not, and the time that they were."""

    def __init__(self, nodes: int) -> None:
        self.random = Random("world")
        self.nodes = [SimpleNamespace(number=number, alive=True) for number in range(nodes)]
        self.since = dict.fromkeys(range(nodes), 0.0)
        self.node_seconds = 0.0

    @property
    def sim(self) -> Any:
        return SimpleNamespace(now=asyncio.get_running_loop().time())

    def live(self) -> list[Any]:
        return [each for each in self.nodes if each.alive]

    def kill(self, node: Any) -> None:
        node.alive = False
        self.node_seconds += self.sim.now - self.since.pop(node.number)

    async def leave(self, node: Any) -> None:
        await asyncio.sleep(3.0)
        self.kill(node)

    async def back(self, node: Any) -> None:
        await asyncio.sleep(2.0)
        node.alive, self.since[node.number] = True, self.sim.now

    async def successor(self, node: Any) -> Any:
        there = SimpleNamespace(number=len(self.nodes), alive=False)
        self.nodes.append(there)
        await self.back(there)
        return there

    def until(self, end: float) -> float:
        return self.node_seconds + sum(end - since for since in self.since.values())


def test_nodes_that_return_count_from_then_on():
    async def main() -> tuple[float, float]:
        world: Any = World(3)
        going = Interruptions(world, Fixed(40.0), Fixed(30.0), 100.0, gone_share=0.3)
        going.begin()
        await asyncio.sleep(100.0)
        expected = world.until(100.0)
        await going.end()
        return going.node_seconds, expected

    counted, expected = run(main, seed=1)
    assert counted == pytest.approx(expected) and expected < 300


@pytest.mark.parametrize("clean_share", [0.0, 1.0])
def test_nodes_that_come_count_from_then_on_and_those_that_leave_until_they_have_left(clean_share: float):
    async def main() -> tuple[float, float]:
        world: Any = World(3)
        going = Turnover(world, lambda node: Fixed(40.0), 100.0, clean_share=clean_share)
        going.begin()
        await asyncio.sleep(100.0)
        going.end()
        return going.node_seconds, world.until(100.0)

    counted, expected = run(main, seed=1)
    assert counted == pytest.approx(expected) and expected != 300
