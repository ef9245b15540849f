"""One timer for all deadlines: each is met, none early, and what is done in time costs no timer."""

import asyncio

import pytest

from titan_overlay.links.deadlines import TICKS_PER_SECOND, Deadlines, Expired
from titan_overlay.testing import VirtualLoop

pytestmark = pytest.mark.loops("virtual")


class Note:
    """Says when it expired."""

    def __init__(self, told: list[tuple[str, float]], name: str) -> None:
        self.told, self.name = told, name

    def expire(self) -> None:
        self.told.append((self.name, asyncio.get_running_loop().time()))


async def test_deadlines_are_met_in_order_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    deadlines, told = Deadlines(loop), []
    due = {"c": 7.3, "a": 0.001, "b": 0.5, "d": 3600.0}
    for name, when in due.items():
        deadlines.slot(when)[Note(told, name)] = None
    await asyncio.sleep(4000)
    assert [name for name, _ in told] == ["a", "b", "c", "d"]
    for name, at in told:
        assert due[name] <= at <= due[name] + 1 / TICKS_PER_SECOND


async def test_a_future_learns_that_its_time_ran_out() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    late: asyncio.Future[bytes] = loop.create_future()
    answered: asyncio.Future[bytes] = loop.create_future()
    slot = deadlines.slot(1.0)
    slot[late] = slot[answered] = None
    answered.set_result(b"in time")
    with pytest.raises(Expired):
        await late
    assert await answered == b"in time"


async def test_what_is_answered_in_time_needs_no_timer_of_its_own() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    deadlines = Deadlines(loop)
    for _ in range(1000):
        slot = deadlines.slot(loop.time() + 10)
        slot[note := Note([], "")] = None
        await asyncio.sleep(0.05)
        del slot[note]
    # At most one timer at a time, and those of empty slots are skipped together.
    assert sum(1 for when, *_ in loop._scheduled if when > loop.time()) <= 2
    assert len(deadlines._slots) <= 11 * TICKS_PER_SECOND
    await asyncio.sleep(30)
    assert deadlines._slots == {}


async def test_an_earlier_deadline_is_met_although_a_later_one_was_first() -> None:
    loop = asyncio.get_running_loop()
    deadlines, told = Deadlines(loop), []
    deadlines.slot(100.0)[Note(told, "late")] = None
    deadlines.slot(1.0)[Note(told, "early")] = None
    await asyncio.sleep(2)
    assert [name for name, _ in told] == ["early"]


async def test_no_deadline_at_all_is_a_deadline_too() -> None:
    deadlines, told = Deadlines(asyncio.get_running_loop()), []
    deadlines.slot(float("inf"))[Note(told, "never")] = None
    deadlines.slot(1.0)[Note(told, "soon")] = None
    await asyncio.sleep(1000)
    assert [name for name, _ in told] == ["soon"]
    deadlines.close()


async def test_one_that_expires_may_set_another() -> None:
    loop = asyncio.get_running_loop()
    deadlines, told = Deadlines(loop), []

    class Again(Note):
        def expire(self) -> None:
            super().expire()
            if len(told) < 3:
                deadlines.slot(loop.time() + 1)[self] = None

    deadlines.slot(1.0)[Again(told, "again")] = None
    await asyncio.sleep(10)
    assert len(told) == 3


async def test_what_was_answered_long_before_its_time_takes_no_room_while_another_waits() -> None:
    loop = asyncio.get_running_loop()
    deadlines, told = Deadlines(loop), []
    deadlines.slot(loop.time() + 3600)[Note(told, "waits")] = None
    for number in range(1, 100_000):
        slot = deadlines.slot(loop.time() + 3600 + number)
        slot[note := Note(told, "answered")] = None
        del slot[note]
    assert len(deadlines._slots) < 10_000
    deadlines.slot(loop.time() + 5000)[Note(told, "later")] = None
    await asyncio.sleep(6000)
    assert [name for name, _ in told] == ["waits", "later"]
