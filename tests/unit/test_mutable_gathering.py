"""What comes together waits for what is under way, and not for ever."""

import asyncio
from random import Random

import pytest

from titan_overlay.mutable.gathering import PATIENCE_SECONDS, RETURN_SECONDS_MAX, Gathering

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


async def test_those_who_were_answered_are_waited_for_as_long_as_they_keep_coming() -> None:
    loop = asyncio.get_running_loop()
    again: list[float] = []
    gathering = Gathering(loop, lambda: again.append(loop.time()))

    async def round_of(answered: int, waiting: int = 0) -> float:
        await asyncio.sleep(0.032)
        gathering.ended(answered=answered, waiting=waiting)
        again.clear()
        return loop.time()

    for _ in range(60):
        assert gathering.over(under_way=False, waiting=1), "who is alone waits for nobody"
        await round_of(1)
    assert gathering.over(under_way=False, waiting=1)
    await round_of(3, waiting=2)
    assert not gathering.over(under_way=False, waiting=4)
    assert gathering.over(under_way=False, waiting=5), "all are back"
    ended = await round_of(64)
    for waiting in range(1, 6):
        await asyncio.sleep(0.003)
        assert not gathering.over(under_way=False, waiting=waiting)
    assert not again
    await asyncio.sleep(0.1)
    assert again == [pytest.approx(ended + 0.019, abs=0.001)], "an eighth after the last"
    assert gathering.over(under_way=False, waiting=5)
    ended = await round_of(64)
    await asyncio.sleep(0.1)
    assert again == [pytest.approx(ended + 0.008, abs=0.001)], "a quarter for the first"


@pytest.mark.parametrize("seed", range(6))
async def test_nobody_waits_longer_than_the_patience_whoever_comes_back_when(seed: int) -> None:
    loop, random = asyncio.get_running_loop(), Random(seed)
    queue: list[tuple[float, asyncio.Future[None]]] = []
    under_way = 0
    waits: list[float] = []

    def hand_on() -> None:
        nonlocal under_way
        if queue and gathering.over(under_way=under_way > 0, waiting=len(queue)):
            under_way += 1
            waits.extend(loop.time() - came for came, _ in queue)
            loop.call_later(random.choice([0.002, 0.01, 0.03, 0.3]), end, [each for _, each in queue])
            queue.clear()

    def end(batch: list[asyncio.Future[None]]) -> None:
        nonlocal under_way
        under_way -= 1
        for each in batch:
            each.set_result(None)
        gathering.ended(answered=len(batch), waiting=len(queue))
        hand_on()

    async def client() -> None:
        for _ in range(8):
            answer: asyncio.Future[None] = loop.create_future()
            queue.append((loop.time(), answer))
            hand_on()
            await answer
            await asyncio.sleep(random.choice([0, 0.0001, 0.005, 0.05, 1.0]))

    gathering = Gathering(loop, hand_on)
    clients = [1, 2, 7, 16, 33, 64][seed]
    await asyncio.gather(*(client() for _ in range(clients)))
    assert len(waits) == 8 * clients
    assert max(waits) < PATIENCE_SECONDS[1] + RETURN_SECONDS_MAX + 0.01


@pytest.mark.loops("node")
async def test_a_nodes_loop_gives_no_timer_for_less_than_a_millisecond() -> None:
    again = asyncio.Event()
    gathering = Gathering(asyncio.get_running_loop(), again.set)
    assert gathering.over(under_way=False)
    gathering.ended(answered=3)
    gathering.over(under_way=False, waiting=1)
    async with asyncio.timeout(60):
        await again.wait()
    assert gathering.over(under_way=False, waiting=3)
