"""What a worker and a warm process say to each other, over a real pair of sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from titan_objects.dag.conversation import FRAME_BYTES_MAX, UNHEARD_BYTES_MAX, Conversation
from titan_objects.dag.inside import Answer, Call, Progress, Said, read_frame
from titan_objects.dag.processes import Failed


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Conversation, socket.socket]]:
    """A conversation, and the process's end of it, which does not block."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        conversation = await Conversation.begin(ours)
        yield conversation, theirs
        conversation.close()
        await asyncio.sleep(0)


def framed(said: Said) -> bytes:
    body = msgspec.msgpack.encode(said)
    return len(body).to_bytes(4, "big") + body


async def test_what_a_process_says_is_heard_in_order_however_it_comes() -> None:
    async with talking() as (conversation, theirs):
        data = framed(Progress(0.25)) + framed(Progress(0.5)) + framed(Answer(b"it" * 100))
        for at in range(0, len(data), 7):
            theirs.send(data[at : at + 7])
            await asyncio.sleep(0)
        assert [await conversation.hear() for _ in range(3)] == [Progress(0.25), Progress(0.5), Answer(b"it" * 100)]


async def test_a_process_hears_what_it_is_told() -> None:
    async with talking() as (conversation, theirs):
        await conversation.tell(Call("code:it", [1], {}))
        theirs.setblocking(True)
        with theirs.makefile("rb") as requests:
            body = read_frame(requests)
        assert body is not None
        assert msgspec.msgpack.decode(body, type=Call) == Call("code:it", [1], {})


async def test_what_a_process_said_before_it_ended_is_heard_and_then_nothing() -> None:
    async with talking() as (conversation, theirs):
        theirs.send(framed(Answer(b"last")))
        theirs.close()
        assert await conversation.hear() == Answer(b"last")
        with pytest.raises(EOFError):
            await conversation.hear()
        with pytest.raises(EOFError):
            await conversation.tell(Call("code:it", [], {}))


async def test_a_frame_that_does_not_end_is_no_frame() -> None:
    async with talking() as (conversation, theirs):
        theirs.send(framed(Answer(b"x"))[:-1])
        theirs.close()
        with pytest.raises(EOFError):
            await conversation.hear()


async def test_a_frame_that_is_too_large_is_not_even_read_and_garbage_is_a_failure() -> None:
    async with talking() as (conversation, theirs):
        theirs.send((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
        with pytest.raises(Failed, match="are the most"):
            await conversation.hear()
    async with talking() as (conversation, theirs):
        theirs.send(b"\0\0\0\1\xc1")
        with pytest.raises(Failed, match="cannot be read"):
            await conversation.hear()


async def sent_until_full(theirs: socket.socket, data: bytes) -> int:
    """How many bytes go before the other end takes no more."""
    sent = idle = 0
    while idle < 10:  # turns of the loop, in which it would have read
        try:
            sent += theirs.send(data[sent % len(data) :])
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    return sent


async def test_a_process_to_which_nobody_listens_has_to_wait() -> None:
    """And all of it is heard later."""
    async with talking() as (conversation, theirs):
        frame = framed(Answer(bytes(10_000)))
        sent = await sent_until_full(theirs, frame)
        assert len(conversation._frames) <= UNHEARD_BYTES_MAX + (256 << 10), "what is read at once may come on top"
        for _ in range(sent // len(frame)):
            assert await conversation.hear() == Answer(bytes(10_000))


async def test_a_frame_larger_than_what_is_kept_unheard_is_heard() -> None:
    async with talking() as (conversation, theirs):
        large = Answer(bytes(8 * UNHEARD_BYTES_MAX))
        saying = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, framed(large)))
        while not conversation._paused:  # nobody listens yet
            await asyncio.sleep(0)
        assert await conversation.hear() == large
        await saying


async def test_who_tells_a_process_that_does_not_listen_waits_until_it_has_ended() -> None:
    async with talking() as (conversation, theirs):
        call = Call("code:it", ["x" * 100_000], {})

        async def goes_on() -> None:
            while True:
                await conversation.tell(call)

        telling = asyncio.create_task(goes_on())
        for _ in range(1000):  # turns of the loop: without end, if nothing stopped it
            await asyncio.sleep(0)
        assert conversation._transport.get_write_buffer_size() < 1 << 20
        theirs.close()
        with pytest.raises(EOFError):
            await telling
