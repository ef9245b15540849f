"""What a worker and a warm process say to each other: frames on a socket that only the two of them have.

    length of the body u32, big-endian | body, msgpack

The worker's end. The other one is `inside.py`; it is code that a user has written, and may say anything.
"""

import asyncio
import socket
from typing import Self, cast

import msgspec

from titan_objects.dag.inside import Call, Said, Told
from titan_objects.dag.processes import Failed, decoded

HEAD_BYTES = 4
FRAME_BYTES_MAX = 256 << 20
UNHEARD_BYTES_MAX = 128 << 10
"""Of what nobody listens to; then the process has to wait, too."""


class Frames:
    """Cuts bytes into what they say, however they come. No I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Takes more bytes."""
        self._buffer += data

    def next(self) -> Said | None:
        """What is said next; None: more bytes have to come. Raises Failed: it is garbage, or announced as too large."""
        if len(self._buffer) < HEAD_BYTES:
            return None
        size = int.from_bytes(self._buffer[:HEAD_BYTES], "big")
        if size > FRAME_BYTES_MAX:
            raise Failed("TooLarge", f"a result of {size} bytes; {FRAME_BYTES_MAX} are the most", False)
        end = HEAD_BYTES + size
        if len(self._buffer) < end:
            return None
        body = self._buffer[HEAD_BYTES:end]
        del self._buffer[:end]
        said: Said = decoded(body, Said)
        return said


class Conversation(asyncio.Protocol):
    """One with one process. Made by `begin`; one task hears, any may tell."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._transport: asyncio.Transport
        self._over = False
        self._paused = False
        self._news: asyncio.Future[None] | None = None
        """Of whoever listens."""
        self._may_write = asyncio.Event()
        self._may_write.set()

    @classmethod
    async def begin(cls, end: socket.socket) -> Self:
        """Over one end of a pair, which is closed with it."""
        _, made = await asyncio.get_running_loop().create_unix_connection(cls, sock=end)
        return made

    async def tell(self, what: Call | Told) -> None:
        """Says something; waits while too much of it is on its way. Raises EOFError: the other end is closed."""
        if not self._over:
            body = msgspec.msgpack.encode(what)
            self._transport.write(len(body).to_bytes(HEAD_BYTES, "big") + body)
            await self._may_write.wait()
        if self._over:
            raise EOFError

    async def hear(self) -> Said:
        """What the process says next.

        Raises:
            Failed: it says too much at once, or garbage.
            EOFError: it says nothing more.
        """
        while (said := self._frames.next()) is None:
            if self._over:
                raise EOFError
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return said

    def close(self) -> None:
        """Whatever is on its way is dropped."""
        self._transport.abort()

    # --- what the loop calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has begun."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """The process has said something."""
        self._frames.feed(data)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        elif len(self._frames) > UNHEARD_BYTES_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, why: Exception | None) -> None:
        """The other end is closed, or this one."""
        self._over = True
        self._may_write.set()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def pause_writing(self) -> None:
        """The process does not listen."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """It does."""
        self._may_write.set()
