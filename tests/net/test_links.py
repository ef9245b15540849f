"""Links between two nodes: over TLS on real sockets, and the same code on the virtual loop."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import msgspec
import pytest

from tests.net.linking import OBJECT, POOL, contact, echo, is_virtual, key, links, now, pair, until
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    Overloaded,
    RemoteError,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.links.inbound import REQUEST_BYTES
from titan_overlay.links.link import Link
from titan_overlay.links.links import Peer
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

pytestmark = pytest.mark.loops("real", "virtual")

NIL = codec.encode(None)


# --- requests -------------------------------------------------------------------------------------------------


async def test_a_request_is_answered() -> None:
    async with pair() as two:
        assert await two.ask(value={"any": ["value", 1]}) == {"any": ["value", 1]}


async def test_the_handler_sees_who_asks_and_what() -> None:
    seen: list[tuple[Peer, Send]] = []

    def handler(peer: Peer, send: Send) -> bytes:
        seen.append((peer, send))
        return NIL

    async with pair(handler, a_serving=False, a_credentials=b"a grant") as two:
        await two.a.request(two.contact, OBJECT, "img.Thumb", b"\xa1x", deadline=now() + 5, chain=(b"1" * 32,))
        [(peer, send)] = seen
        assert (peer.id, peer.public, peer.serving, peer.port) == (key(1).id, key(1).public, False, 0)
        assert (peer.ip, peer.credentials) == ("127.0.0.1", b"a grant")
        assert (send.object_id, send.type, bytes(send.body), send.chain) == (
            OBJECT,
            "img.Thumb",
            b"\xa1x",
            (b"1" * 32,),
        )
        assert 4000 < send.timeout_ms <= 5000
        assert two.a.peer_of(key(2).id) == two.a.peers()[0]


@pytest.mark.parametrize("size", [0, 1, 1000, 70_000, 900_000])
async def test_bodies_of_all_sizes_come_back_whole(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    noise = bytes((7 * i * i + i // 3) % 251 for i in range(size))
    async with pair() as two:
        assert await two.ask(value=body) == body
        assert await two.ask(value=noise) == noise


async def test_many_requests_share_one_link() -> None:
    async def later(peer: Peer, send: Send) -> bytes:
        await asyncio.sleep(0.01 * (msgspec.msgpack.decode(send.body) % 3))
        return bytes(send.body)

    async with pair(later) as two:
        got = await asyncio.gather(*(two.ask(value=number) for number in range(200)))
        assert got == list(range(200))
        assert two.a.counters.links_dialed == 1
        assert two.b.counters.links_accepted == 1


async def test_a_peer_that_cannot_be_dialed_is_asked_over_its_own_link() -> None:
    async with pair(a_serving=False) as two:
        await two.ask()
        back = Contact(key(1).id, "127.0.0.1", 0)
        reply = await two.b.request(back, OBJECT, "str", b"\xa4back", deadline=now() + 5)
        assert reply == b"\xa4back"
        assert two.b.counters.links_dialed == 0


async def test_two_that_dial_each_other_at_once_both_get_answers() -> None:
    async with pair() as two:
        await two.a.listen("127.0.0.1", 0)
        there = [two.ask(value=n) for n in range(10)]
        back = [two.b.request(contact(two.a), OBJECT, "int", codec.encode(n), deadline=now() + 5) for n in range(10)]
        assert await asyncio.gather(*there) == list(range(10))
        assert await asyncio.gather(*back) == [codec.encode(n) for n in range(10)]


async def test_latency_and_load_of_a_peer_are_known() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return NIL

    async with pair(wait) as two:
        assert two.a.latency(key(2).id) is None
        asking = asyncio.gather(two.ask(), two.ask())
        await until(lambda: two.a.in_flight(key(2).id) == 2)
        release.set()
        await asking
        assert two.a.in_flight(key(2).id) == 0
        latency = two.a.latency(key(2).id)
        assert latency is not None and 0 < latency < 20


# --- errors ---------------------------------------------------------------------------------------------------


async def test_an_error_crosses_with_its_fields() -> None:
    async def elsewhere(peer: Peer, send: Send) -> bytes:
        raise NotHere("moved", hint=b"h" * 32)

    async with pair(elsewhere) as two:
        with pytest.raises(NotHere, match="moved") as caught:
            await two.ask()
        assert caught.value.hint == b"h" * 32


async def test_a_handler_that_raises_gives_a_remote_error_and_the_link_lives(caplog: Any) -> None:
    async def broken(peer: Peer, send: Send) -> bytes:
        if send.type == "late":
            await asyncio.sleep(0.01)
        if send.type == "fine":
            return NIL
        raise KeyError("secret traceback")

    async with pair(broken) as two:
        for type in ("early", "late"):
            with pytest.raises(RemoteError) as caught:
                await two.ask(type)
            assert caught.value.type == "KeyError"
            assert "Traceback" not in str(caught.value)
        assert await two.ask("fine") is None
        assert two.a.counters.links_dialed == 1


async def test_an_error_of_any_size_and_with_any_fields_is_sent() -> None:
    class Odd(NotHere):
        def __init__(self, message: str, hint: Any) -> None:
            super().__init__(message)
            self.hint = hint

    async def handler(peer: Peer, send: Send) -> bytes:
        raise Odd("x" * 3_000_000, object() if send.type == "object" else bytes(2 << 20))

    async with pair(handler) as two:
        for type in ("object", "huge"):
            with pytest.raises(NotHere) as caught:
                await two.ask(type)
            assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("promised", [False, True])
async def test_a_reply_over_the_limit_is_a_clear_error(promised: bool) -> None:
    async def coming(send: Send) -> bytes:
        return codec.encode(bytes(100 << 20 if send.type == "huge" else 10))

    def huge(peer: Peer, send: Send) -> Awaitable[bytes]:
        return asyncio.ensure_future(coming(send)) if promised else coming(send)

    async with pair(huge, limits={"requests_per_peer": 2}) as two:
        for _ in range(3):
            with pytest.raises(BadMessage, match="stream it or put it as data"):
                await two.ask("huge", timeout=2)
        assert await two.ask("small") == bytes(10)


async def test_a_message_over_the_limit_is_a_clear_error_and_not_sent() -> None:
    async with pair() as two:
        with pytest.raises(BadMessage, match="put it as data"):
            await two.ask(value=bytes(2 << 20))
        assert two.a.in_flight(key(2).id) == 0
        assert await two.ask() == "hello"


async def test_what_is_told_is_handled_and_never_answered() -> None:
    told: list[bytes] = []
    waiting: list[asyncio.Future[bytes]] = []

    def handler(peer: Peer, send: Send) -> bytes | asyncio.Future[bytes]:
        told.append(bytes(send.body))
        if send.type == "odd":
            raise BadMessage("nobody hears of this")
        if send.type == "long":
            waiting.append(asyncio.get_running_loop().create_future())
            return waiting[-1]
        return NIL

    async with pair(handler) as two:
        assert not two.a.tell(key(2).id, OBJECT, "str", codec.encode(1)), "there is no link yet"
        await two.ask()
        told.clear()
        for number, type in enumerate(("str", "odd", "long", "str")):
            assert two.a.tell(key(2).id, OBJECT, type, codec.encode(number))
        assert two.a.in_flight(key(2).id) == 0
        received = two.a.counters.bytes_received
        await until(lambda: len(told) == 4)
        assert told == [codec.encode(number) for number in range(4)]
        assert waiting[0].cancelled(), "what takes longer is not begun for nobody"
        assert two.a.counters.bytes_received == received
        await two.ask()


async def test_too_many_requests_are_refused_as_overloaded() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return NIL

    async with pair(wait, limits={"requests_per_peer": 3}) as two:
        asking = [asyncio.create_task(two.ask()) for _ in range(5)]
        await until(lambda: sum(task.done() for task in asking) == 2)
        release.set()
        got = await asyncio.gather(*asking, return_exceptions=True)
        refused = [error for error in got if isinstance(error, Overloaded)]
        assert len(refused) == 2 and refused[0].retry_after > 0
        assert two.b.counters.overloaded == 2


async def test_requests_that_would_fill_the_memory_are_refused_as_overloaded() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return NIL

    async with pair(wait, limits={"request_bytes_per_peer": 1000 + REQUEST_BYTES}) as two:
        first = asyncio.create_task(two.ask(value=bytes(800)))
        await until(lambda: two.b.counters.requests_received == 1)
        with pytest.raises(Overloaded):
            await two.ask(value=bytes(800))
        release.set()
        await first
        assert await two.ask(value=bytes(800)) is None


async def test_requests_without_contents_take_memory_too() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return NIL

    async with pair(wait, limits={"request_bytes_per_peer": 2 * REQUEST_BYTES}) as two:
        first = asyncio.create_task(two.ask())
        await until(lambda: two.b.counters.requests_received == 1)
        with pytest.raises(Overloaded):
            await two.ask()
        release.set()
        await first


async def test_one_link_does_not_take_all_of_the_memory_that_there_is_for_requests() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return NIL

    other = links(3)
    async with pair(wait, limits={"request_bytes": 3 * (1000 + REQUEST_BYTES), "inbound_links": 3}) as two:
        greedy = [asyncio.create_task(two.ask(value=bytes(800))) for _ in range(3)]
        await until(lambda: two.b.counters.requests_received == 3)
        with pytest.raises(Overloaded):
            await two.ask(value=bytes(800))
        body = codec.encode(bytes(800))
        modest = asyncio.create_task(other.request(two.contact, OBJECT, "bytes", body, deadline=now() + 10))
        await until(lambda: two.b.counters.requests_received == 4)
        release.set()
        await asyncio.gather(*greedy, modest)
        assert two.b.shared.inbound_bytes == 0
        await other.close()


# --- time and cancellation ------------------------------------------------------------------------------------


async def test_a_handler_that_never_returns_meets_the_deadline_and_is_stopped() -> None:
    stopped = asyncio.Event()

    async def forever(peer: Peer, send: Send) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return NIL

    async with pair(forever) as two:
        began = now()
        with pytest.raises(DeadlineExceeded) as caught:
            await two.ask(timeout=0.2)
        assert caught.value.maybe_executed
        assert now() - began >= 0.2
        async with asyncio.timeout(10):
            await stopped.wait()
        assert two.a.in_flight(key(2).id) == 0


async def test_a_handler_is_stopped_at_the_deadline_even_if_nobody_cancels_it() -> None:
    stopped = asyncio.Event()

    async def forever(peer: Peer, send: Send) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return NIL

    async with pair(forever) as two:
        link = await two.a._usable(two.contact, now() + 5)
        link._write(0x81, 0, Send(1, 50, OBJECT, "str", msgspec.Raw(NIL)))
        async with asyncio.timeout(10):
            await stopped.wait()


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
async def test_no_time_left_means_not_sent(timeout: float) -> None:
    async with pair() as two:
        await two.ask()
        with pytest.raises(DeadlineExceeded) as caught:
            await two.ask(timeout=timeout)
        assert not caught.value.maybe_executed
        assert two.b.counters.requests_received == 1


async def test_cancelling_the_caller_cancels_the_handler() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def forever(peer: Peer, send: Send) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return NIL

    async with pair(forever) as two:
        asking = asyncio.create_task(two.ask())
        async with asyncio.timeout(10):
            await started.wait()
            asking.cancel()
            await stopped.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: two.b.in_flight(key(1).id) == 0)


async def test_losing_the_link_cancels_its_handlers_and_tells_the_callers() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def forever(peer: Peer, send: Send) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return NIL

    async with pair(forever) as two:
        asking = asyncio.create_task(two.ask())
        async with asyncio.timeout(10):
            await started.wait()
            for link in list(two.a._links):
                link._transport.abort()
            await stopped.wait()
        with pytest.raises(LinkError) as caught:
            await asking
        assert caught.value.maybe_executed


async def test_a_request_that_was_never_written_was_not_executed() -> None:
    async def forever(peer: Peer, send: Send) -> bytes:
        await asyncio.Event().wait()
        return NIL

    async with pair(forever) as two:
        sent = asyncio.create_task(two.ask())
        await until(lambda: two.b.counters.requests_received == 1)
        queued = asyncio.create_task(two.ask())
        await asyncio.sleep(0)
        assert two.a.in_flight(key(2).id) == 2
        two.a._best[key(2).id].fail("gone before the turn of the loop ended")
        for asking, maybe in ((sent, True), (queued, False)):
            with pytest.raises(LinkError) as caught:
                await asking
            assert caught.value.maybe_executed is maybe


async def test_asyncio_timeouts_and_tasks_mean_the_same_in_a_handler_as_anywhere() -> None:
    async def handler(peer: Peer, send: Send) -> bytes:
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            assert asyncio.current_task() is task
            async with asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(0, "grown up"))
            return codec.encode(child.result())
        return NIL

    async with pair(handler) as two:
        got = await asyncio.gather(*(two.ask() for _ in range(20)))
        assert got == ["grown up"] * 20


async def test_waiting_and_ready_handlers_mix() -> None:
    async def handler(peer: Peer, send: Send) -> bytes:
        number = msgspec.msgpack.decode(send.body)
        if number % 5 == 0:
            await asyncio.sleep(0.01)
        if number % 7 == 0:
            raise NotHere(str(number))
        return bytes(send.body)

    async with pair(handler) as two:
        got = await asyncio.gather(*(two.ask(value=n) for n in range(300)), return_exceptions=True)
        for number, reply in enumerate(got):
            assert (str(reply) if number % 7 == 0 else reply) == (str(number) if number % 7 == 0 else number)


# --- streams --------------------------------------------------------------------------------------------------


async def count(send: Send) -> AsyncIterator[bytes]:
    for number in range(msgspec.msgpack.decode(send.body)):
        yield codec.encode(number)


async def counting(peer: Peer, send: Send) -> AsyncIterator[bytes]:
    return count(send)


@pytest.mark.parametrize("items", [0, 1, 5, 1000])
async def test_a_stream_of_replies_comes_in_order(items: int) -> None:
    async with pair(counting) as two:
        got = [msgspec.msgpack.decode(item) async for item in two.stream(value=items, credit=4)]
        assert got == list(range(items))
        assert two.a.in_flight(key(2).id) == 0


async def test_a_slow_reader_holds_the_sender_back() -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield NIL

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return endless()

    async with pair(handler) as two:
        stream = two.stream(credit=8)
        await anext(stream)
        await two.a._best[key(2).id].drained()
        await until(lambda: made >= 8)
        with pytest.raises(BadMessage):
            await two.ask()  # a round trip: what could come has come
        assert made <= 9
        for _ in range(100):
            await anext(stream)
        await until(lambda: made >= 101)
        assert made <= 110
        await stream.aclose()


async def test_closing_a_stream_closes_it_at_the_other_end() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield NIL
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return endless()

    async with pair(handler) as two:
        stream = two.stream()
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(10):
            await closed.wait()
        assert two.a.in_flight(key(2).id) == 0


class Closing:
    """A stream without end, which has its place until it is closed."""

    closed = False

    def __aiter__(self) -> "Closing":
        return self

    async def __anext__(self) -> bytes:
        return NIL

    async def aclose(self) -> None:
        self.closed = True


async def test_closing_a_stream_of_this_very_node_closes_it() -> None:
    items = Closing()

    async def here(*request: object) -> AsyncIterator[bytes]:
        return items

    async with pair() as two:
        two.a.here = here
        stream = two.a.stream(Contact(two.a.key.id, "", 0), OBJECT, "str", NIL, deadline=now() + 5)
        await anext(stream)
        await stream.aclose()
        assert items.closed


async def test_an_error_in_a_stream_comes_after_the_items_before_it() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"\x01"
        yield b"\x02"
        raise NotHere("no more")

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return failing()

    async with pair(handler) as two:
        stream = two.stream()
        assert [await anext(stream), await anext(stream)] == [b"\x01", b"\x02"]
        with pytest.raises(NotHere, match="no more"):
            await anext(stream)


async def test_a_stream_meets_its_deadline() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield NIL
        await asyncio.Event().wait()

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return stuck()

    async with pair(handler) as two:
        stream = two.stream(timeout=0.2)
        await anext(stream)
        with pytest.raises(DeadlineExceeded):
            await anext(stream)


async def test_one_reply_to_a_request_for_a_stream_is_a_stream_of_one() -> None:
    async with pair() as two:
        assert [item async for item in two.stream(value="only")] == [codec.encode("only")]


async def test_a_stream_in_reply_to_a_plain_request_is_a_clear_error() -> None:
    async with pair(counting) as two:
        with pytest.raises(BadMessage, match="ask for it with `stream`"):
            await two.ask(value=3)


async def test_an_item_over_the_limit_ends_the_stream_with_a_clear_error() -> None:
    async def big() -> AsyncIterator[bytes]:
        yield NIL
        yield codec.encode(bytes(2 << 20))

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return big()

    async with pair(handler) as two:
        stream = two.stream()
        await anext(stream)
        with pytest.raises(BadMessage, match="put it as data"):
            await anext(stream)


async def test_losing_the_link_ends_a_stream() -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield NIL
        await asyncio.Event().wait()

    async def handler(peer: Peer, send: Send) -> AsyncIterator[bytes]:
        return stuck()

    async with pair(handler) as two:
        stream = two.stream()
        await anext(stream)
        for link in list(two.b._links):
            link._transport.abort()
        with pytest.raises(LinkError) as caught:
            await anext(stream)
        assert caught.value.maybe_executed


async def test_big_replies_all_arrive_under_back_pressure() -> None:
    noise = bytes((i * i + i // 7) % 253 for i in range(500_000))

    async def handler(peer: Peer, send: Send) -> bytes:
        await asyncio.sleep(0)
        return codec.encode(noise)

    async with pair(handler, limits={"unsent_bytes": 4 << 20}) as two:
        for reply in await asyncio.gather(*(two.ask(timeout=60) for _ in range(30))):
            assert reply == noise


# --- making and ending links ----------------------------------------------------------------------------------


async def test_another_node_at_the_address_is_found_out_before_anything_is_sent() -> None:
    async with pair() as two:
        wrong = Contact(key(9).id, "127.0.0.1", two.b.port)
        with pytest.raises(LinkError, match="as expected") as caught:
            await two.a.request(wrong, OBJECT, "str", NIL, deadline=now() + 5)
        assert not caught.value.maybe_executed
        assert two.b.counters.requests_received == 0


async def test_a_node_of_another_pool_is_refused_and_says_why() -> None:
    async with pair(a_pool=b"Q" * 32) as two:
        with pytest.raises(LinkError, match="pool"):
            await two.ask()
        assert two.b.peers() == []


async def test_an_id_that_is_not_admitted_is_refused_and_told_why() -> None:
    async with pair(admit=lambda peer: f"{peer.id.hex()[:4]} does not solve the puzzle") as two:
        with pytest.raises(LinkError, match="does not solve the puzzle"):
            await two.ask()
        assert two.b.counters.links_refused == 1
        assert two.b.gate.half_open == two.b.gate.inside == 0


async def test_nobody_at_the_address_is_a_link_error() -> None:
    async with pair() as two:
        await two.b.close()
        with pytest.raises(LinkError, match="cannot be reached") as caught:
            await two.ask()
        assert not caught.value.maybe_executed


@pytest.mark.parametrize(("host", "port"), [("a..b", 1), ("x" * 70, 1), ("\0", 1), ("127.0.0.1", 70_000)])
async def test_an_address_that_none_can_be_is_a_link_error(host: str, port: int) -> None:
    async with pair() as two:
        with pytest.raises(LinkError, match="cannot be reached"):
            await two.a.request(Contact(key(5).id, host, port), OBJECT, "str", NIL, deadline=now() + 5)


async def test_a_client_without_a_link_cannot_be_dialed() -> None:
    async with pair() as two:
        with pytest.raises(LinkError, match="cannot be dialed"):
            await two.a.request(Contact(key(5).id, "127.0.0.1", 0), OBJECT, "str", NIL, deadline=now() + 5)


async def test_connecting_makes_a_link_and_sends_nothing() -> None:
    async with pair() as two:
        await two.a.connect(two.contact, deadline=now() + 5)
        assert [peer.id for peer in two.a.peers()] == [key(2).id]
        assert two.b.counters.requests_received == 0
        await two.ask()
        assert two.a.counters.links_dialed == 1


async def test_connecting_to_one_who_does_not_answer_is_a_link_error_at_the_deadline() -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    mute = Contact(key(5).id, "127.0.0.1", server.sockets[0].getsockname()[1])
    async with pair() as two:
        with pytest.raises(LinkError, match="not sent"):
            await two.a.connect(mute, deadline=now() + 0.2)
    server.close()


async def test_a_dial_back_dials_even_where_there_is_a_link() -> None:
    async with pair(a_serving=False) as two:
        await two.ask()
        closed = Contact(key(1).id, "127.0.0.1", 1)
        assert not await two.b.can_dial(closed)
        await two.a.listen("127.0.0.1", 0)
        assert await two.b.can_dial(contact(two.a))
        assert await two.ask() == "hello"
        assert not await two.b.can_dial(Contact(key(9).id, "127.0.0.1", two.a.port))


async def test_a_dial_back_is_of_the_address_asked_for_also_while_another_is_dialled() -> None:
    async with pair() as two:
        await two.a.listen("127.0.0.1", 0)
        closed = Contact(key(1).id, "127.0.0.1", 1)
        assert await asyncio.gather(two.b.can_dial(contact(two.a)), two.b.can_dial(closed)) == [True, False]
        assert await asyncio.gather(two.b.can_dial(closed), two.b.can_dial(contact(two.a))) == [False, True]


@pytest.mark.loops("real", "virtual")
@pytest.mark.parametrize("first", ["asks", "asks too much", "gives up"])
async def test_all_who_wait_to_write_get_their_turn_whatever_the_first_does_with_its_own(first: str) -> None:
    async with pair() as two:
        await two.ask()
        link = two.a._best[key(2).id]
        link.pause_writing()
        asking = asyncio.create_task(two.ask(value=bytes(2 << 20) if first == "asks too much" else "x"))
        await until(lambda: link._waiters)
        others = [asyncio.create_task(link.drained()) for _ in range(3)]
        await until(lambda: len(link._waiters) == 4)
        if first == "gives up":
            asking.cancel()
        link.resume_writing()
        async with asyncio.timeout(10):
            await asyncio.gather(*others)
            await asyncio.gather(asking, return_exceptions=True)


async def test_a_link_that_broke_is_made_anew() -> None:
    async with pair() as two:
        await two.ask()
        two.a._best[key(2).id].fail("for the test")
        assert await two.ask() == "hello"
        assert two.a.counters.links_dialed == 2


async def test_an_idle_link_says_goodbye_and_the_next_request_dials_anew() -> None:
    limits = {"idle": 0.2, "probe": 0.05}
    async with pair(limits=limits) as two:
        await two.ask()
        await until(lambda: not two.a.peers() and not two.b.peers())
        await until(lambda: not two.a._links and not two.b._links)
        assert await two.ask() == "hello"


async def test_goodbye_breaks_no_request_under_way() -> None:
    release = asyncio.Event()

    async def wait(peer: Peer, send: Send) -> bytes:
        await release.wait()
        return bytes(send.body)

    async with pair(wait) as two:
        asking = asyncio.create_task(two.ask())
        await until(lambda: two.b.counters.requests_received == 1)
        leaving = asyncio.create_task(two.b.drain(30))
        await until(lambda: not two.a.peers())
        release.set()
        assert await asking == "hello"
        await leaving
        await two.b.close()


async def test_a_peer_that_falls_silent_is_noticed_long_before_the_deadline() -> None:
    async def forever(peer: Peer, send: Send) -> bytes:
        await asyncio.Event().wait()
        return NIL

    async with pair(forever, a_limits={"probe": 0.1}) as two:
        asking = asyncio.create_task(two.ask(timeout=3600))
        await until(lambda: two.b.counters.requests_received == 1)
        for link in two.b._links:
            link._transport.pause_reading()
        with pytest.raises(LinkError, match="silent") as caught:
            await asking
        assert caught.value.maybe_executed


async def test_a_slow_handler_is_not_a_silent_peer() -> None:
    async def slow(peer: Peer, send: Send) -> bytes:
        await asyncio.sleep(0.8)
        return NIL

    async with pair(slow, a_limits={"probe": 0.1}) as two:
        assert await two.ask() is None
        assert two.a.counters.links_dialed == 1


async def test_closing_fails_what_is_under_way_and_leaves_nothing_behind() -> None:
    async def forever(peer: Peer, send: Send) -> bytes:
        await asyncio.Event().wait()
        return NIL

    async with pair(forever) as two:
        asking = [asyncio.create_task(two.ask()) for _ in range(5)]
        await until(lambda: two.b.counters.requests_received == 5)
        await two.b.close()
        for task in asking:
            with pytest.raises(LinkError):
                await task
        await two.a.close()
        here = asyncio.current_task()
        assert [task for task in asyncio.all_tasks() if task is not here] == []


async def test_a_full_node_ends_its_longest_unused_link_for_a_new_one() -> None:
    async with pair(limits={"inbound_links": 2}) as two:
        others = [links(n) for n in (11, 12)]
        await two.ask()
        for other in others:
            await other.request(two.contact, OBJECT, "str", NIL, deadline=now() + 5)
        assert len(two.b.peers()) == 2
        assert key(1).id not in {peer.id for peer in two.b.peers()}
        for other in others:
            await other.close()


async def test_half_open_links_are_limited_in_number_and_in_time() -> None:
    loop = asyncio.get_running_loop()
    async with pair(limits={"half_open": 2, "handshake": 0.3}) as two:
        lost = [loop.create_future() for _ in range(3)]

        def silent(number: int) -> asyncio.Protocol:
            class Silent(asyncio.Protocol):
                def connection_lost(self, exc: Exception | None) -> None:
                    lost[number].set_result(None)

            return Silent()

        for number in range(3):
            with contextlib.suppress(ConnectionResetError):
                await loop.create_connection(lambda number=number: silent(number), "127.0.0.1", two.b.port)
        await until(lambda: two.b.counters.links_refused == 1)
        async with asyncio.timeout(10):
            await lost[0]
            await lost[1]
        await until(lambda: two.b.gate.half_open == 0)
        assert await two.ask() == "hello"


async def test_a_link_that_is_closed_leaves_nothing_to_the_garbage_collector() -> None:
    async with pair() as two:
        await two.ask()
        gc.collect()
        gc.disable()  # what refers to itself, with its buffers, would stay
        try:
            await two.a.close()
            await until(lambda: not two.b._links)
            await until(lambda: not any(isinstance(each, Link) for each in gc.get_objects()))
        finally:
            gc.enable()


async def test_both_loops_are_covered() -> None:
    async with pair(echo, pool=POOL) as two:
        await two.ask()
        [link] = two.a._links
        assert (link._tls is None) == is_virtual()


async def test_a_refusal_is_not_garbage() -> None:
    async with pair(a_pool=b"Q" * 32) as two:
        with pytest.raises(LinkError):
            await two.ask()
        assert two.b.counters.garbage == two.a.counters.garbage == 0
