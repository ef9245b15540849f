"""Handlers that answer with a stream of replies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.unit.hosting import (
    ALICE,
    BOB,
    Bench,
    Many,
    descriptor_of,
    take,
    until,
)
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RemoteError,
    Unavailable,
)
from titan_overlay.identity.ids import ObjectId
from titan_overlay.pool.hosting.host import Sender, ServiceRunner
from titan_overlay.pool.hosting.object import service
from titan_overlay.pool.hosting.streams import SETTLED_SECONDS, STALLED_SECONDS
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("real", "virtual")


# --- streams ---


async def test_an_async_generator_answers_with_a_stream() -> None:
    bench = Bench(Many())
    assert await take(bench.begin(5, stream=True)) == [0, 1, 2, 3, 4]
    stats = await bench.stats()
    assert (stats.messages, stats.errors, stats.running) == (1, 0, 0)


async def test_a_stream_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(BadMessage, match="use stream, not send"):
        Bench(Many()).begin(5)


async def test_who_would_take_a_stream_also_takes_one_reply() -> None:
    assert await Bench(Many()).ask("x", stream=True) == "X"


async def test_a_stream_that_breaks_gives_its_items_and_then_the_error() -> None:
    got: list[Any] = []
    bench = Bench(Many())

    async def read() -> None:
        async for item in bench.begin(10, stream=True):
            got.append(codec.decode(item, Any))

    with pytest.raises(RemoteError, match="seven"):
        await read()
    assert got == list(range(8))
    assert (await bench.stats()).running == 0


async def test_a_stream_gives_nothing_more_once_its_sender_may_not_ask_any_more() -> None:
    allowed = True

    def authorize(sender: Sender, descriptor: Any) -> None:
        if not allowed:
            raise Forbidden("not you")

    slow = Slow()
    bench = Bench(slow, authorize=authorize)
    items = bench.begin(5, stream=True)
    assert [codec.decode(await anext(items), int) for _ in range(2)] == [0, 1]
    allowed = False
    with pytest.raises(Forbidden, match="has ended: not you"):
        await anext(items)
    assert slow.closed == 1
    assert (await bench.stats()).running == 0


class Slow:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.closed = 0

    async def counts(self, up_to: int) -> AsyncIterator[int]:
        try:
            for number in range(up_to):
                yield number
            await self.gate.wait()
        finally:
            self.closed += 1


@service(concurrency=1, mailbox=1)
class SlowSerial(Slow):
    pass


async def test_closing_a_stream_closes_the_handler() -> None:
    slow = Slow()
    bench = Bench(slow)
    items = bench.begin(5, stream=True)
    assert codec.decode(await anext(items), int) == 0
    await items.aclose()
    assert slow.closed == 1
    assert (await bench.stats()).running == 0
    with pytest.raises(StopAsyncIteration):
        await anext(items)


async def test_a_stream_ends_at_its_deadline_also_when_nobody_asks_for_more() -> None:
    slow = Slow()
    bench = Bench(slow)
    items = bench.begin(5, stream=True, timeout=0.05)
    assert codec.decode(await anext(items), int) == 0
    await until(lambda: slow.closed)
    assert (await bench.stats()).running == 0


async def test_a_stream_that_stalls_ends_with_an_error_at_its_deadline() -> None:
    slow = Slow()
    with pytest.raises(DeadlineExceeded, match="still answering int") as late:
        await take(Bench(slow).begin(5, stream=True, timeout=0.05))
    assert late.value.maybe_executed
    assert slow.closed == 1


async def test_streams_take_their_turn_in_the_mailbox() -> None:
    slow = SlowSerial()
    bench = Bench(slow)
    first = bench.begin(1, stream=True)
    assert codec.decode(await anext(first), int) == 0
    second = asyncio.ensure_future(take(bench.begin(2, stream=True)))
    await until(lambda: bench.host.get(bench.object_id).calls.mailbox.waiting == 1)  # type: ignore[union-attr]
    with pytest.raises(Overloaded):
        await anext(bench.begin(1, stream=True))
    slow.gate.set()
    await first.aclose()
    assert await second == [0, 1]
    assert (await bench.stats()).refused == 1


@pytest.mark.loops("virtual")
async def test_a_stream_that_nobody_reads_gives_its_place_to_who_waits() -> None:
    slow = SlowSerial()
    bench = Bench(slow)
    mute = bench.begin(5, stream=True, timeout=30 * 86400)
    assert codec.decode(await anext(mute), int) == 0
    slow.gate.set()
    early = asyncio.ensure_future(take(bench.begin(2, stream=True, sender=BOB, timeout=5)))
    with pytest.raises(DeadlineExceeded):
        await early
    await asyncio.sleep(STALLED_SECONDS)
    assert await take(bench.begin(2, stream=True, sender=BOB, timeout=5)) == [0, 1]
    with pytest.raises(Overloaded, match="to others, who wait"):
        await anext(mute)
    assert slow.closed == 2
    assert (await bench.stats()).running == 0


@pytest.mark.loops("virtual")
async def test_a_crowd_that_reads_slowly_does_not_keep_all_places_from_others() -> None:
    @service(concurrency=8, mailbox=8)
    class Wide(Slow):
        async def upper(self, text: str) -> str:
            return text.upper()

    bench = Bench(Wide())
    crowd = [msgspec.structs.replace(ALICE, subnet="9.9.9.0/24") for _ in range(7)]
    streams = [bench.begin(100, stream=True, sender=each, timeout=86400) for each in [*crowd, BOB]]

    async def read_slowly(items: AsyncIterator[bytes]) -> None:
        async for _ in items:
            await asyncio.sleep(STALLED_SECONDS / 2)

    reading = [asyncio.ensure_future(read_slowly(each)) for each in streams]
    await asyncio.sleep(SETTLED_SECONDS + STALLED_SECONDS)
    stranger = msgspec.structs.replace(BOB, subnet="8.8.8.0/24")
    assert await bench.ask("hello", sender=stranger) == "HELLO"
    await asyncio.sleep(STALLED_SECONDS)
    assert [each.done() for each in reading] == [True] + 7 * [False], "one of the crowd, the oldest"
    with pytest.raises(Overloaded, match="to others, who wait"):
        await reading[0]
    for each in reading[1:]:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def test_a_stream_that_never_rests_ends_with_its_object() -> None:
    class Busy:
        async def counts(self, up_to: int) -> AsyncIterator[int]:
            while True:
                await asyncio.sleep(0.001)
                yield up_to

    bench = Bench(Busy())
    reading = asyncio.ensure_future(take(bench.begin(1, stream=True)))
    for turns in range(7):  # whatever the stream is just doing
        await until(lambda: bench.host.get(bench.object_id).calls.mailbox.running == 1)  # type: ignore[union-attr]
        await asyncio.sleep(0.0005 * turns)
        await bench.host.remove(ObjectId(bench.object_id))
        with pytest.raises(Unavailable):
            await reading
        bench.host.add(descriptor_of("it"), ServiceRunner(Busy()))
        reading = asyncio.ensure_future(take(bench.begin(1, stream=True)))
    reading.cancel()


async def test_a_stream_cut_short_never_looks_as_if_it_had_ended() -> None:
    slow = Slow()
    bench = Bench(slow)
    late = bench.begin(5, stream=True, timeout=0.05)
    assert codec.decode(await anext(late), int) == 0
    await until(lambda: slow.closed)
    with pytest.raises(DeadlineExceeded):
        await anext(late)

    idle, working = (bench.begin(number, stream=True) for number in (5, 0))
    assert codec.decode(await anext(idle), int) == 0
    waiting = asyncio.ensure_future(take(working))
    await until(lambda: bench.host.get(bench.object_id).calls.mailbox.running == 2)  # type: ignore[union-attr]
    await asyncio.sleep(0.001)
    await bench.host.remove(ObjectId(bench.object_id))
    assert slow.closed == 3
    with pytest.raises(Unavailable, match="leaving"):
        await waiting
    with pytest.raises(Unavailable, match="leaving"):
        await anext(idle)
