"""Delivery to the objects that a node holds, on the real clock and on the virtual one."""

import asyncio
import logging
from typing import Any

import pytest

from tests.unit.hosting import (
    ALICE,
    AMBIENT,
    BOB,
    KEY,
    POOL,
    VARIABLE,
    Bench,
    Many,
    Poor,
    Serial,
    descriptor_of,
    take,
    until,
)
from titan_overlay.errors import (
    BadMessage,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotHere,
    Overloaded,
    RemoteError,
    Unavailable,
)
from titan_overlay.identity import names
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.hosting.host import Host, Limits, Sender, ServiceRunner
from titan_overlay.pool.hosting.object import Context, service
from titan_overlay.pool.message import encode_message
from titan_overlay.pool.questions import (
    Bundle,
    Describe,
    Info,
    MessageSchema,
    ObjectInfo,
    Ping,
    Pong,
)
from titan_overlay.pool.questions import Schema as SchemaQuestion
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("real", "virtual")


# --- replies ---


async def test_a_handler_that_never_waits_answers_at_once() -> None:
    assert Bench(Many()).begin("hello") == codec.encode("HELLO")


async def test_a_handler_that_waits_answers_later_in_a_task_of_its_own() -> None:
    many = Many()
    bench = Bench(many)
    reply = asyncio.ensure_future(bench.ask(b"patience"))
    await until(lambda: many.begun)
    assert not reply.done()
    many.gate.set()
    assert await reply == "patience"
    assert await bench.ask(0.5) is True


async def test_a_handler_does_not_change_its_callers_context() -> None:
    Bench(Many()).begin("hello")
    assert VARIABLE.get() == "untouched"


async def test_a_reply_too_big_is_an_error_that_says_what_to_do() -> None:
    bench = Bench(Many(), Limits(message_bytes=1000))
    with pytest.raises(BadMessage, match=r"has 2403 bytes, 1000 is the limit; let it answer with a stream"):
        bench.begin("ΐ" * 400)  # upper case takes three times the room


async def test_a_reply_that_cannot_be_encoded_is_the_handlers_error() -> None:
    with pytest.raises(RemoteError, match=r"Many.upper returned a object, which cannot be sent"):
        Bench(Many()).begin("unencodable")


async def test_links_get_bytes_or_something_to_await() -> None:
    bench = Bench(Many())
    deadline = asyncio.get_running_loop().time() + 10
    for message, expected in (("x", "X"), (0.5, True)):
        type_name, body = encode_message(message)
        now = bench.host.deliver_now(ALICE, bench.object_id, type_name, body, deadline=deadline)
        assert isinstance(now, bytes) == (message == "x")
        assert codec.decode(now if isinstance(now, bytes) else await now, Any) == expected
        later = await bench.host.deliver(ALICE, bench.object_id, type_name, body, deadline=deadline)
        assert codec.decode(later, Any) == expected
    items = await bench.host.deliver(ALICE, bench.object_id, "int", b"\x02", deadline=deadline, stream=True)
    assert await take(items) == [0, 1]


async def test_an_answer_that_nobody_awaits_calls_its_handler_off() -> None:
    ended = asyncio.Event()

    @service
    class Patient:
        async def wait(self, seconds: float) -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                ended.set()

    bench = Bench(Patient())
    type_name, body = encode_message(3600.0)
    deadline = asyncio.get_running_loop().time() + 7200
    begun = bench.host.deliver_now(ALICE, bench.object_id, type_name, body, deadline=deadline)
    await asyncio.sleep(0)  # the handler has begun
    assert not isinstance(begun, bytes | asyncio.Future)
    begun.close()
    async with asyncio.timeout(10):
        await ended.wait()
        while (await bench.stats()).running:
            await asyncio.sleep(0)


# --- what is refused ---


async def test_an_object_that_is_not_here() -> None:
    host = Host(AMBIENT, pool=POOL)
    with pytest.raises(NotHere):
        host.begin(ALICE, bytes(32), "str", codec.encode("x"), deadline=1e9)


async def test_a_message_without_a_handler_names_those_it_has() -> None:
    with pytest.raises(BadMessage, match=r"'it' takes bytes, float, int, list, str \(and Ping.*not 'dict'"):
        Bench(Many()).begin({"a": 1})


async def test_a_body_that_is_not_of_its_type() -> None:
    bench = Bench(Many())
    for body in (codec.encode(5), b"\xc1", b"", b"\xa5shor"):
        with pytest.raises(BadMessage, match="not a str"):
            bench.host.begin(ALICE, bench.object_id, "str", body, deadline=1e9)


async def test_a_message_too_big_for_the_host_or_for_the_object() -> None:
    with pytest.raises(BadMessage, match=r"has 103 bytes, 'it' takes 100"):
        Bench(Many(), Limits(message_bytes=100)).begin("x" * 101)
    host = Host(AMBIENT, pool=POOL)
    host.add(descriptor_of("it", max_bytes=10), ServiceRunner(Many()))
    with pytest.raises(BadMessage, match="takes 10"):
        host.begin(ALICE, names.object_id(POOL, "it"), "str", codec.encode("x" * 20), deadline=1e9)


async def test_a_message_that_arrives_too_late_is_not_handled() -> None:
    with pytest.raises(DeadlineExceeded) as late:
        Bench(Many()).begin("x", timeout=0)
    assert not late.value.maybe_executed


async def test_a_sender_without_the_right_to_call() -> None:
    def nobody(sender: Sender, descriptor: Signed[Descriptor]) -> None:
        raise Forbidden(f"not {sender.id.hex()[:4]}")

    with pytest.raises(Forbidden):
        Bench(Many(), authorize=nobody).begin("x")


async def test_a_host_whose_budget_is_used_up_takes_no_messages_for_services() -> None:
    bench = Bench(Many())
    bench.host.judge("the CPU budget of the operator is used up", 1.0)
    with pytest.raises(Overloaded, match="CPU budget"):
        bench.begin("x")
    assert codec.decode(bench.begin(Ping()), Pong)


async def test_a_budget_is_for_others_than_those_whose_machine_it_is() -> None:
    many = Many()
    many.gate.set()
    bench = Bench(many)
    bench.host.own = frozenset([BOB.id])
    bench.host.judge("the CPU budget of the operator is used up", 1.0)
    with pytest.raises(Overloaded, match="CPU budget"):
        bench.begin("x")
    assert await bench.ask("x", sender=BOB) == "X"


# --- handlers that go wrong ---


async def test_what_a_handler_raises_reaches_the_caller_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    many = Many()
    many.gate.set()
    bench = Bench(many)
    for message, kind, text in (("bug", "ValueError", "a bug"), (b"bug", "KeyError", "'later'")):
        caplog.clear()
        with pytest.raises(RemoteError) as raised:
            await bench.ask(message)
        assert (raised.value.type, str(raised.value)) == (kind, text)
        assert raised.value.correlation == "abababab"
        assert raised.value.maybe_executed
        assert "abababab" in caplog.text
        assert "Traceback" in caplog.text
    assert await bench.ask("still there") == "STILL THERE"


@pytest.mark.parametrize("message", ["exit", b"exit", b"cancels itself"])
async def test_a_handler_that_tries_to_stop_the_node_only_fails(message: Any) -> None:
    many = Many()
    many.gate.set()
    with pytest.raises(RemoteError) as raised:
        await Bench(many).ask(message)
    assert raised.value.type in ("SystemExit", "CancelledError")


async def test_typed_errors_of_a_handler_keep_their_type_and_say_that_it_ran() -> None:
    bench = Bench(Many())
    with pytest.raises(Poor) as poor:
        bench.begin("poor")
    assert poor.value.missing == 5
    with pytest.raises(Forbidden) as forbidden:
        bench.begin("forbidden")
    assert forbidden.value.maybe_executed


async def test_a_handler_that_never_returns_is_cancelled_at_the_deadline() -> None:
    many = Many()
    bench = Bench(many)
    with pytest.raises(DeadlineExceeded, match="still at work") as late:
        await bench.ask(b"never", timeout=0.02)
    assert late.value.maybe_executed
    await until(lambda: many.cancelled == 1)
    assert (await bench.stats()).running == 0


async def test_a_handler_that_ignores_its_cancellation_keeps_its_place_but_not_its_caller() -> None:
    many = Many()
    bench = Bench(many)
    with pytest.raises(DeadlineExceeded):
        await bench.ask(b"stubborn", timeout=0.02)
    assert (await bench.stats()).running == 1
    calls = bench.host.get(bench.object_id).calls  # type: ignore[union-attr]
    await until(lambda: calls.counters.overdue == 1)
    assert (await bench.stats()).running == 0


async def test_no_handler_works_longer_than_the_host_allows() -> None:
    with pytest.raises(DeadlineExceeded):
        await Bench(Many(), Limits(handler_seconds=0.02)).ask(b"never", timeout=3600)


async def test_a_caller_who_gives_up_cancels_the_handler() -> None:
    many = Many()
    bench = Bench(many)
    reply = bench.begin(b"never")
    await until(lambda: many.begun)
    reply.cancel()
    await until(lambda: many.cancelled)
    await until(lambda: bench.host.get(bench.object_id).calls.mailbox.running == 0)  # type: ignore[union-attr]


# --- questions that every object answers ---


async def test_every_object_answers_ping_info_stats_schema_and_describe() -> None:
    bench = Bench(Many(), holder=KEY.id, copies=lambda _: 3)
    assert codec.decode(bench.begin(Ping()), Pong) == Pong(KEY.id.hex(), 1e9)
    info = codec.decode(bench.begin(Info()), ObjectInfo)
    assert (info.name, info.kind, info.version, info.copies, info.since) == ("it", "service", 1, 3, 1e9)
    assert codec.decode(bench.begin(Describe()), bytes) == descriptor_of("it").raw
    assert codec.decode(bench.begin(Bundle()), bytes) == b""
    schema = codec.decode(bench.begin(SchemaQuestion()), dict[str, MessageSchema])
    assert schema["str"] == MessageSchema(
        message={"type": "string"}, reply={"type": "string"}, stream=False, idempotent=False, text="Shouts."
    )
    assert schema["int"].stream


async def test_a_busy_object_still_says_how_busy_it_is() -> None:
    serial = Serial()
    bench = Bench(serial)
    waiting = [asyncio.ensure_future(bench.ask(f"{n}".encode())) for n in range(3)]
    await until(lambda: serial.begun)
    assert (await bench.stats()).waiting == 2
    serial.gate.set()
    await asyncio.gather(*waiting)


async def test_stats_count_messages_errors_and_time() -> None:
    bench = Bench(Many())
    await bench.ask("x")
    with pytest.raises(RemoteError):
        await bench.ask("bug")
    with pytest.raises(DeadlineExceeded):
        await bench.ask(b"never", timeout=0.05)
    stats = await bench.stats()
    assert (stats.messages, stats.errors, stats.refused) == (3, 2, 0)
    assert stats.mean_seconds >= 0.05 / 3


# --- coming and going ---


class Lifecycle:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = asyncio.Event()

    async def start(self, ctx: Context) -> None:
        self.events.append(f"start {ctx.name}")

    async def stop(self) -> None:
        self.events.append("stop")

    async def take(self, text: str) -> str:
        if text == "wait":
            await self.gate.wait()
        return text


async def test_an_object_is_started_before_its_first_message_and_stopped_after_its_last() -> None:
    it = Lifecycle()
    host = Host(AMBIENT, pool=POOL)
    await host.open(descriptor_of("it"), ServiceRunner(it))
    object_id = names.object_id(POOL, "it")
    assert it.events == ["start it"]
    assert host.ids() == (object_id,)
    deadline = asyncio.get_running_loop().time() + 10
    call = host.begin(ALICE, object_id, "str", codec.encode("wait"), deadline=deadline)
    assert isinstance(call, asyncio.Future)
    assert await host.remove(object_id)
    with pytest.raises(Unavailable, match="leaving this node"):
        await call
    assert it.events == ["start it", "stop"]
    assert not await host.remove(object_id)
    with pytest.raises(NotHere):
        host.begin(ALICE, object_id, "str", codec.encode("x"), deadline=deadline)


class Stubborn:
    def __init__(self, how: str) -> None:
        self.how = how

    async def hello(self, name: str) -> str:
        return name

    async def stop(self) -> None:
        if self.how == "waits":
            await asyncio.Event().wait()
        raise SystemExit("no") if self.how == "exits" else RuntimeError("no")


@pytest.mark.loops("virtual")
@pytest.mark.parametrize("how", ["raises", "exits", "waits"])
async def test_an_object_whose_stop_does_not_end_well_goes_all_the_same(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(service("it")(Stubborn)(how))
    bench.host.add(descriptor_of("other"), ServiceRunner(service("other")(Stubborn)("raises")))
    async with asyncio.timeout(60):
        assert await bench.host.remove(bench.object_id)
        await bench.host.close()
    assert not bench.host.ids()
    assert "stop of Stubborn" in caplog.text


@pytest.mark.parametrize("kind", [OSError, SystemExit])
async def test_an_object_that_cannot_start_is_not_taken_in(kind: type[BaseException]) -> None:
    class Broken(Lifecycle):
        async def start(self, ctx: Context) -> None:
            raise kind("no such device")

    host = Host(AMBIENT, pool=POOL)
    with pytest.raises(RemoteError, match="no such device"):
        await host.open(descriptor_of("it"), ServiceRunner(Broken()))
    assert host.ids() == ()


async def test_a_host_holds_no_object_twice_and_not_more_than_it_may() -> None:
    host = Host(AMBIENT, pool=POOL, limits=Limits(objects=2))
    host.add(descriptor_of("a"), ServiceRunner(Many()))
    with pytest.raises(Conflict):
        host.add(descriptor_of("a"), ServiceRunner(Many()))
    host.add(descriptor_of("b"), ServiceRunner(Many()))
    with pytest.raises(Overloaded, match="as many as it may"):
        host.add(descriptor_of("c"), ServiceRunner(Many()))
    await host.close()
    assert host.ids() == ()


async def test_removing_an_object_leaves_no_handler_behind() -> None:
    many = Many()
    bench = Bench(many)
    calls = [bench.begin(b"never") for _ in range(40)]  # more than run at once
    await until(lambda: many.begun == 32)
    await bench.host.remove(ObjectId(bench.object_id))
    assert many.cancelled == 32
    for call in calls:
        with pytest.raises(Unavailable):
            await call


def test_logger_lines_name_the_object(caplog: pytest.LogCaptureFixture) -> None:
    context = Context(ALICE, "it", bytes(32), 0.0, 0.0, None)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        context.log.info("reading %d", 5)
    assert "it: reading 5" in caplog.text
