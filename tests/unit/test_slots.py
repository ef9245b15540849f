"""Places for replicas that come in: nobody may hold them all."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from titan_overlay.errors import Overloaded
from titan_overlay.node_object import CONCURRENCY
from titan_overlay.pool.keeping.slots import (
    ASKING_MAX,
    FIRST_MAX,
    TAKING_MAX,
    TAKING_PER_SUBNET,
    WAITING_PER_SUBNET,
    Slots,
)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Those who ask, and hold what they get until they are told."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.inside: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def ask(self, subnet: str, times: int = 1) -> list["asyncio.Task[None]"]:
        made = [asyncio.ensure_future(self._hold(subnet)) for _ in range(times)]
        self._tasks += made
        return made

    async def _hold(self, subnet: str) -> None:
        async with self._slots.taken(subnet):
            self.inside.append(subnet)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.inside.remove(subnet)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_one_subnet_leaves_places_to_others() -> None:
    crowd = Crowd(Slots())
    crowd.ask("greedy", 50)
    await settle()
    assert crowd.inside == ["greedy"] * TAKING_PER_SUBNET
    crowd.ask("other", 2)
    await settle()
    assert crowd.inside.count("other") == 2
    await crowd.leave()


async def test_there_are_so_many_places_in_all() -> None:
    crowd = Crowd(Slots())
    for number in range(20):
        crowd.ask(f"net {number}")
    await settle()
    assert len(crowd.inside) == TAKING_MAX
    await crowd.leave()


async def test_who_asks_too_often_is_told_to_come_back() -> None:
    slots = Slots()
    crowd = Crowd(slots)
    crowd.ask("greedy", TAKING_PER_SUBNET + WAITING_PER_SUBNET)
    await settle()
    with pytest.raises(Overloaded) as refused:
        async with slots.taken("greedy"):
            pass
    assert refused.value.retry_after > 0
    await crowd.leave()


async def test_crowds_of_many_subnets_leave_room_for_one_more_and_for_other_questions() -> None:
    slots = Slots()
    crowd = Crowd(slots)
    for number in range(FIRST_MAX):
        asked = crowd.ask(f"net {number}", 200)
        await settle()
        assert not all(each.done() for each in asked), "the first of a subnet waits, if it is not taken in"
    crowd.ask("as many as may be", 200)
    crowd.ask("one more", 200)
    await settle()
    assert ASKING_MAX <= sum(slots._asking.values()) <= ASKING_MAX + FIRST_MAX < CONCURRENCY
    await crowd.leave()


async def test_a_place_is_free_again_when_its_holder_has_gone_and_nothing_is_remembered() -> None:
    slots = Slots()
    crowd = Crowd(slots)
    first, *_ = crowd.ask("a", TAKING_PER_SUBNET + 1)
    await settle()
    first.cancel()
    await settle()
    assert len(crowd.inside) == TAKING_PER_SUBNET
    await crowd.leave()
    assert (slots._asking, slots._shares) == ({}, {})
    async with AsyncExitStack() as stack:
        for number in range(TAKING_MAX):
            await stack.enter_async_context(slots.taken(f"net {number}"))
