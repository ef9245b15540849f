"""What a node sends: never faster than it may, by turns, and bounded while it waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from titan_overlay.errors import DeadlineExceeded, Overloaded
from titan_overlay.identity.subnets import is_loopback
from titan_overlay.pool.hosting import upload as module
from titan_overlay.pool.hosting.upload import SMALL_BYTES, Upload

pytestmark = pytest.mark.loops("virtual")

RATE = 1_000_000
CHUNK = 256 * 1024


async def answer(size: int = CHUNK) -> bytes:
    return bytes(size)


def asked(upload: Upload, crowd: str, count: int = 1) -> list[asyncio.Task[bytes]]:
    """So many chunks for one crowd."""
    return [asyncio.ensure_future(upload.pace(answer(), crowd)) for _ in range(count)]  # type: ignore[arg-type]


async def test_uploads_are_paced_to_the_rate() -> None:
    upload, loop = Upload(RATE), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(40):
        begun = upload.pace(answer(), "a")
        assert not isinstance(begun, bytes)
        await begun
    assert loop.time() - began >= (40 * CHUNK - RATE) / RATE * 0.99


async def test_small_answers_never_wait() -> None:
    upload = Upload(1000)
    for _ in range(100):
        assert isinstance(upload.pace(bytes(SMALL_BYTES), "a"), bytes)


async def test_what_never_waits_is_charged_and_holds_others_up_for_a_while_only() -> None:
    sent = 0
    upload, loop = Upload(10_000, lambda: sent), asyncio.get_running_loop()
    assert upload.may(SMALL_BYTES) and not upload.may(9_000), "the small one is counted"
    await asyncio.sleep(10)
    upload.tell(1_000_000)
    sent = 1_000_000
    began = loop.time()
    await upload.turn(10_000)
    assert loop.time() - began == pytest.approx(2.0), "a second's worth is owed, and a second's worth wanted"


async def test_more_than_the_bucket_holds_waits_until_it_is_there() -> None:
    upload, loop = Upload(RATE), asyncio.get_running_loop()
    began = loop.time()
    await upload.turn(5 * RATE)
    assert loop.time() - began == pytest.approx(4.0)
    await upload.turn(RATE)
    assert loop.time() - began == pytest.approx(5.0)


async def test_crowds_take_turns_and_who_is_gone_has_cost_nothing() -> None:
    upload, loop = Upload(RATE), asyncio.get_running_loop()
    greedy = asked(upload, "greedy", 30)
    await asyncio.sleep(0.01)
    began = loop.time()
    await asyncio.gather(*asked(upload, "modest"))
    assert loop.time() - began < 3 * CHUNK / RATE
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await asyncio.sleep(1)
    began = loop.time()
    await asyncio.gather(*asked(upload, "modest", 3))
    assert loop.time() == began, "the bucket is full again"


async def test_what_waits_is_bounded_for_each_crowd_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CROWD_BYTES_MAX", 4 * CHUNK)
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 6 * CHUNK)
    upload = Upload(RATE)
    upload.tell(RATE)
    greedy = asked(upload, "greedy", 10)
    await asyncio.sleep(0.01)
    assert sum(each.done() for each in greedy) == 6, "refused, and not kept"
    for each in greedy[4:]:
        with pytest.raises(Overloaded, match="max_upload") as refused:
            await each
        assert refused.value.maybe_executed, "the answer was there"
    others = asked(upload, "b") + asked(upload, "c") + asked(upload, "d")
    await asyncio.gather(*others)
    got = await asyncio.gather(*greedy[:4], return_exceptions=True)
    assert [isinstance(each, Overloaded) for each in got] == [False, False, False, True], "it gave up what came last"


async def test_a_turn_that_would_come_too_late_is_none_and_costs_nothing() -> None:
    upload, loop = Upload(RATE), asyncio.get_running_loop()
    with pytest.raises(DeadlineExceeded, match="max_upload"):
        await upload.turn(10 * RATE, loop.time())
    upload.may(RATE)
    waiting = asked(upload, "greedy", 20)
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceeded, match="max_upload"):
        await upload.turn(RATE, loop.time() + 1.1)
    await asyncio.gather(*waiting)
    assert upload.may(SMALL_BYTES)


@pytest.mark.parametrize("size", [5 * RATE, 100 * RATE], ids=["called off", "evicted"])
async def test_nobody_waits_for_one_that_has_given_up(size: int) -> None:
    upload, loop = Upload(RATE), asyncio.get_running_loop()
    upload.may(RATE)
    large = asyncio.ensure_future(upload.turn(size))
    await asyncio.sleep(0.01)
    waiting = asked(upload, "modest")
    await asyncio.sleep(0.01)
    large.cancel()
    began = loop.time()
    await asyncio.gather(*waiting)
    assert loop.time() - began < 2 * CHUNK / RATE
    assert large.cancelled() == (size == 5 * RATE)


async def test_one_that_is_called_off_gives_its_place_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", 3 * CHUNK)
    upload = Upload(RATE)
    upload.tell(RATE)
    greedy = asked(upload, "greedy", 3)
    await asyncio.sleep(0.01)
    greedy[-1].cancel()
    (modest,) = asked(upload, "modest")  # begins before the other has noticed its end
    assert len(await modest) == CHUNK
    assert [len(each) for each in await asyncio.gather(*greedy[:2])] == [CHUNK, CHUNK]


def test_loopback_costs_no_upload() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1")
    assert not is_loopback("192.0.2.1") and not is_loopback("not an address")


async def test_a_paced_answer_that_is_called_off_before_it_began_leaves_nothing_behind() -> None:
    begun = Upload(1000).pace(answer(), "a")
    assert not isinstance(begun, bytes)
    begun.close()  # a coroutine that is never awaited would be a warning, and so a failure


async def test_a_paced_stream_ends_what_it_was_made_from_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES_MAX", CHUNK)
    ended = 0

    async def items() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            while True:
                yield bytes(CHUNK)
        finally:
            ended += 1

    kept = [items(), items()]  # else the garbage collector would end them

    async def begun(number: int) -> AsyncIterator[bytes]:
        return kept[number]

    upload = Upload(CHUNK)
    unread, turned_away = [await upload.pace(begun(number), "a") for number in range(2)]  # type: ignore[misc]
    await anext(unread)
    await unread.aclose()
    assert ended == 1
    waiting = asked(upload, "a")
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match="max_upload"):
        await anext(turned_away)
    assert ended == 2
    await asyncio.gather(*waiting)
