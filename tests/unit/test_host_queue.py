"""Objects that are busy: taking turns, turning away, giving up, and calling each other in circles."""

import asyncio
from typing import Any

import pytest

from tests.unit.hosting import (
    ALICE,
    BOB,
    Bench,
    Many,
    Serial,
    until,
)
from titan_overlay.errors import (
    DeadlineExceeded,
    Overloaded,
    ReentrantCall,
    Unavailable,
)
from titan_overlay.pool.hosting.host import Limits
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("real", "virtual")


# --- the mailbox ---


async def test_a_serial_object_handles_one_message_after_the_other() -> None:
    serial = Serial()
    bench = Bench(serial)
    first = asyncio.ensure_future(bench.ask(b"first"))
    await until(lambda: serial.begun)
    second = asyncio.ensure_future(bench.ask("quick, but after"))
    await asyncio.sleep(0.01)
    assert not second.done()
    serial.gate.set()
    assert await first == "first"
    assert await second == "QUICK, BUT AFTER"


async def test_a_full_mailbox_refuses_and_says_when_to_come_back() -> None:
    serial = Serial()
    bench = Bench(serial)
    waiting = [asyncio.ensure_future(bench.ask(f"{n}".encode())) for n in range(3)]
    await until(lambda: serial.begun)
    with pytest.raises(Overloaded) as refusal:
        bench.begin("one too many")
    assert refusal.value.retry_after > 0
    assert not refusal.value.maybe_executed
    stats = await bench.stats()
    assert (stats.running, stats.waiting, stats.refused) == (1, 2, 1)
    serial.gate.set()
    assert await asyncio.gather(*waiting) == ["0", "1", "2"]


async def test_a_sender_that_fills_the_mailbox_gives_a_place_to_another() -> None:
    serial = Serial()
    bench = Bench(serial)
    first, second, third = (asyncio.ensure_future(bench.ask(f"{n}".encode())) for n in range(3))
    await until(lambda: serial.begun and bench.host.get(bench.object_id).calls.mailbox.waiting == 2)
    other = asyncio.ensure_future(bench.ask(b"other", sender=BOB))
    with pytest.raises(Overloaded, match="mailbox_size"):
        await third
    with pytest.raises(Overloaded):
        bench.begin(b"once more", sender=BOB)
    serial.gate.set()
    assert await asyncio.gather(first, second, other) == ["0", "1", "other"]
    assert (await bench.stats()).refused == 2


async def test_a_message_whose_time_runs_out_while_it_waits_is_never_handled() -> None:
    serial = Serial()
    bench = Bench(serial)
    first = asyncio.ensure_future(bench.ask(b"first"))
    await until(lambda: serial.begun)
    with pytest.raises(DeadlineExceeded, match="waited for its turn") as late:
        await bench.ask(b"second", timeout=0.02)
    assert not late.value.maybe_executed
    serial.gate.set()
    assert await first == "first"
    assert serial.begun == 1
    assert (await bench.stats()).waiting == 0


async def test_a_waiting_message_that_is_cancelled_makes_room() -> None:
    serial = Serial()
    bench = Bench(serial)
    first = asyncio.ensure_future(bench.ask(b"first"))
    await until(lambda: serial.begun)
    second = bench.begin(b"second")
    second.cancel()
    await until(lambda: bench.host.get(bench.object_id).calls.mailbox.waiting == 0)  # type: ignore[union-attr]
    serial.gate.set()
    assert await first == "first"
    assert serial.begun == 1


# --- calls to other objects ---


async def test_a_handler_calls_on_with_its_deadline_and_its_chain() -> None:
    seen: list[Any] = []

    class Afar:
        async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]) -> bytes:
            seen.append((name, type, codec.decode(body, Any), deadline - asyncio.get_running_loop().time(), chain))
            return codec.encode("from afar")

    bench = Bench(Many(), outbound=Afar())
    assert await bench.ask(["other", 1, 2], timeout=5, chain=(b"before",)) == "from afar"
    ((name, type_name, message, remaining, chain),) = seen
    assert (name, type_name, message) == ("other", "list", [1, 2])
    assert 4 < remaining <= 5
    assert chain == (b"before", bench.object_id)


async def test_a_chain_of_calls_that_comes_back_to_a_busy_object_fails_at_once() -> None:
    class Back:
        async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...]) -> Any:
            return await bench.host.deliver(ALICE, bench.object_id, type, body, deadline=deadline, chain=chain)

    bench = Bench(Serial(), outbound=Back())
    with pytest.raises(ReentrantCall, match="busy with the very call"):
        await bench.ask(["it", "again"])
    assert await bench.ask("fine") == "FINE"


async def test_a_chain_that_comes_back_to_an_object_with_a_hand_free_is_answered() -> None:
    bench = Bench(Many())
    assert await bench.ask("x", chain=(bench.object_id,)) == "X"


async def test_a_chain_that_goes_in_circles_ends() -> None:
    with pytest.raises(ReentrantCall, match="go in circles"):
        Bench(Many(), Limits(chain=3)).begin("x", chain=(b"1", b"2", b"3", b"4"))


async def test_a_host_without_a_router_says_so() -> None:
    with pytest.raises(Unavailable, match="not connected"):
        await Bench(Many()).ask(["other"])
