"""What comes together waits for what is under way, and not for ever."""

import asyncio

import pytest

from titan_overlay.mutable.gathering import PATIENCE_SECONDS, Gathering

pytestmark = pytest.mark.loops("virtual")


async def test_what_comes_first_goes_at_once_and_the_rest_when_it_is_done() -> None:
    gathering = Gathering(asyncio.get_running_loop(), lambda: None)
    assert gathering.over(under_way=False)
    assert not gathering.over(under_way=True)
    gathering.ended()
    assert gathering.over(under_way=False)


async def test_patience_ends_after_half_of_what_it_has_taken_lately() -> None:
    loop = asyncio.get_running_loop()
    again: list[float] = []
    gathering = Gathering(loop, lambda: again.append(loop.time()))
    for seconds, expected in ((0.001, PATIENCE_SECONDS[0]), (0.08, 0.04), (5.0, PATIENCE_SECONDS[1])):
        for _ in range(60):
            assert gathering.over(under_way=False)
            await asyncio.sleep(seconds)
            gathering.ended()
        began = loop.time()
        assert not gathering.over(under_way=True)
        again.clear()
        await asyncio.sleep(1.0)
        assert again == [pytest.approx(began + expected, rel=0.1)]
        assert gathering.over(under_way=True)
        gathering.ended()


async def test_those_who_were_answered_are_waited_for_but_not_for_long() -> None:
    loop = asyncio.get_running_loop()
    again: list[float] = []
    gathering = Gathering(loop, lambda: again.append(loop.time()))
    for _ in range(60):
        assert gathering.over(under_way=False, waiting=1)
        await asyncio.sleep(0.04)
        gathering.ended(answered=1)
    assert gathering.over(under_way=False, waiting=1), "who is alone waits for nobody"
    await asyncio.sleep(0.04)
    gathering.ended(answered=3, waiting=2)
    assert not gathering.over(under_way=False, waiting=4)
    assert gathering.over(under_way=False, waiting=5), "all are back"
    await asyncio.sleep(0.04)
    gathering.ended(answered=5)
    assert not gathering.over(under_way=False, waiting=1)
    ended = loop.time()
    again.clear()
    await asyncio.sleep(1.0)
    assert again == [pytest.approx(ended + 0.02, rel=0.1)]
    assert gathering.over(under_way=False, waiting=1)
