"""Keepers keep copies alive."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.village import Village
from titan_overlay import testing
from titan_overlay.identity.statements import Policy


def in_village(story: Callable[[Village], Awaitable[None]], homes: int = 12, seed: int = 1, **settings: float) -> None:
    async def main() -> None:
        village = Village(homes, seed=seed, **settings)
        try:
            await story(village)
        finally:
            await village.close()

    testing.run(main, seed=seed)


@pytest.mark.parametrize("data", [False, True])
def test_a_holder_that_dies_is_replaced(data: bool) -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3), data=data)
        await asyncio.sleep(120)
        assert len(village.holders(thing)) == 3
        await village.holders(thing)[0].die()
        took = await village.until(lambda: len(village.holders(thing)) == 3, 90)
        print(took)
        await asyncio.sleep(300)
        assert len(village.holders(thing)) == 3

    in_village(story)
