"""Objects that answer with futures: no task for each message, and still a deadline, a bound and an end."""

import asyncio
from typing import Any

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import Conflict, DeadlineExceeded, Unavailable
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.hosting.runner import Body, Runner

pytestmark = pytest.mark.loops("virtual")

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)
ALICE = Sender(KEY.id, KEY.public)
IT = names.object_id(POOL, "it")


class Promising(Runner):
    types = ("later",)
    promises = frozenset(types)
    concurrency = 2

    def __init__(self) -> None:
        self.given: list[asyncio.Future[bytes]] = []

    def call(self, type: str, body: Body, context: Context) -> Any:
        self.given.append(asyncio.get_running_loop().create_future())
        return self.given[-1]


def held() -> tuple[Host, Promising]:
    runner = Promising()
    host = Host(Ambient.system(), pool=POOL, holder=KEY.id)
    host.add(records.sign(Descriptor("it", "service", "it", 1, 0.0), KEY, POOL), runner)
    return host, runner


def ask(host: Host, seconds: float = 10.0) -> "asyncio.Task[Any]":
    deadline = asyncio.get_running_loop().time() + seconds
    return asyncio.create_task(host.deliver(ALICE, IT, "later", b"\xc0", deadline=deadline))


async def test_the_answer_is_what_the_future_says_and_is_counted() -> None:
    host, runner = held()
    first, second = ask(host), ask(host)
    await asyncio.sleep(1)
    runner.given[1].set_result(b"two")
    runner.given[0].set_exception(Conflict("one"))
    assert await second == b"two"
    with pytest.raises(Conflict, match="one"):
        await first
    assert host.counters() == {"messages": 2, "errors": 1, "refused": 0}


async def test_who_waits_is_answered_by_the_deadline_and_the_future_is_cancelled() -> None:
    host, runner = held()
    with pytest.raises(DeadlineExceeded) as late:
        await ask(host, seconds=2)
    assert late.value.maybe_executed
    assert runner.given[0].cancelled()


async def test_more_than_may_be_under_way_wait_for_their_turn() -> None:
    host, runner = held()
    asked = [ask(host) for _ in range(3)]
    await asyncio.sleep(1)
    assert len(runner.given) == 2
    runner.given[0].set_result(b"one")
    await asyncio.sleep(1)
    runner.given[2].set_result(b"three")
    runner.given[1].set_result(b"two")
    assert await asyncio.gather(*asked) == [b"one", b"two", b"three"]


async def test_an_object_that_goes_leaves_nobody_waiting() -> None:
    host, _ = held()
    asked = ask(host)
    await asyncio.sleep(1)
    assert await host.remove(IT)
    with pytest.raises(Unavailable, match="leaving"):
        await asked
