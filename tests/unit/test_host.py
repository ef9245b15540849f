"""Delivery to the objects that a node holds, on the real clock and on the virtual one."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from titan_overlay.ambient import Ambient, Random
from titan_overlay.errors import (
    BadMessage,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotHere,
    Overloaded,
    ReentrantCall,
    RemoteError,
    Unavailable,
    error,
)
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor, Policy
from titan_overlay.pool.host import Host, Limits, Sender, ServiceRunner
from titan_overlay.pool.message import encode_message
from titan_overlay.pool.object import Context, service
from titan_overlay.pool.questions import (
    Bundle,
    Describe,
    Info,
    MessageSchema,
    ObjectInfo,
    ObjectStats,
    Ping,
    Pong,
    Stats,
)
from titan_overlay.pool.questions import Schema as SchemaQuestion
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("real", "virtual")

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)
AMBIENT = Ambient(lambda: 1e9, Random(1), lambda n: b"\xab" * n)
ALICE = Sender(KEY.id, KEY.public)


def descriptor_of(name: str, **policy: Any) -> Signed[Descriptor]:
    return records.sign(Descriptor(name, "service", "test", 1, 0.0, Policy(**policy)), KEY, POOL)


class Bench:
    """A host with one object on it, and a short way to talk to it."""

    def __init__(self, instance: object, limits: Limits | None = None, **options: Any) -> None:
        self.host = Host(AMBIENT, pool=POOL, limits=limits, **options)
        self.object_id = names.object_id(POOL, "it")
        self.host.add(descriptor_of("it"), ServiceRunner(instance))

    def begin(self, message: Any, timeout: float = 10.0, **options: Any) -> Any:
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        return self.host.begin(ALICE, self.object_id, type_name, body, deadline=deadline, **options)

    async def ask(self, message: Any, timeout: float = 10.0, **options: Any) -> Any:
        begun = self.begin(message, timeout, **options)
        return codec.decode(begun if isinstance(begun, bytes) else await begun, Any)

    async def stats(self) -> ObjectStats:
        return codec.decode(self.begin(Stats()), ObjectStats)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@error("test.poor")
class Poor(RemoteError):
    FIELDS = ("missing",)

    def __init__(self, message: str = "", *, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="untouched")


class Many:
    """Handlers of all kinds."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def upper(self, text: str) -> str:
        """Shouts.

        More text."""
        if text == "bug":
            raise ValueError("a bug")
        if text == "exit":
            raise SystemExit(3)
        if text == "poor":
            raise Poor("not enough", missing=5)
        if text == "forbidden":
            raise Forbidden("not you")
        if text == "unencodable":
            return object()  # type: ignore[return-value]
        VARIABLE.set("touched")
        return text.upper()

    async def waits(self, how: bytes) -> str:
        self.begun += 1
        try:
            async with asyncio.timeout(100):
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if how == b"stubborn":
                await asyncio.sleep(0.01)
                return "too late"
            raise
        if how == b"bug":
            raise KeyError("later")
        if how == b"exit":
            raise SystemExit(3)
        if how == b"cancels itself":
            raise asyncio.CancelledError
        return how.decode()

    async def counts(self, up_to: int) -> AsyncIterator[int]:
        try:
            for number in range(up_to):
                yield number
                if number == 7:
                    raise ValueError("seven")
                if number == 8:
                    await self.gate.wait()
        finally:
            self.cancelled += 1

    async def calls(self, names: list[Any], ctx: Context) -> Any:
        return await ctx.send(names[0], names[1:])

    async def task_name(self, number: float) -> bool:
        await asyncio.sleep(0)
        return asyncio.current_task() is not None


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
    bench.host.busy = "the CPU budget of the operator is used up"
    with pytest.raises(Overloaded, match="CPU budget"):
        bench.begin("x")
    assert codec.decode(bench.begin(Ping()), Pong)


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


# --- the mailbox ---


@service(concurrency=1, mailbox=2)
class Serial(Many):
    """One message after the other."""


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


# --- streams ---


async def take(items: AsyncIterator[bytes]) -> list[Any]:
    return [codec.decode(item, Any) async for item in items]


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


async def test_an_object_that_cannot_start_is_not_taken_in() -> None:
    class Broken(Lifecycle):
        async def start(self, ctx: Context) -> None:
            raise OSError("no such device")

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
