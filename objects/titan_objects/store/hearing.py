"""What is published to channels of a store, as programs of the pool hear it: of a node's store, and of a group's."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress

import titan_overlay as titan
from titan_objects.store.group.listening import Listening
from titan_objects.store.group.messages import News

WAITING_MAX = 4096
"""Messages that a program may be behind; then it hears nothing more."""
MARK_SECONDS = 0.2
"""How long a mark may take before it is sent again: the stream may have begun after it."""
STREAM_SECONDS = 86400.0


class Subscribe(titan.Message[list[bytes]], namespace="store"):
    """Asks a node's store for a stream: each message published to these channels, as `[channel, message]`."""

    channels: list[str]


class Hearing:
    """Hears channels of a store from `start` on, until `close`. Between a break and the next link, messages are missed.

    Args:
        name: of the store.
        channels: their names as they are; no patterns.
    """

    def __init__(self, pool: titan.Pool, name: str, channels: Sequence[str]) -> None:
        self._pool = pool
        self._name = name
        self._channels = {each.encode() for each in channels}
        self._heard: list[list[bytes]] = []
        self._changed = asyncio.Event()
        self._end: titan.TitanError | None = None
        self._listening: Listening | None = None
        self._streaming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once everything is heard. Raises TitanError: there is no such store, or it does not answer."""
        description = await self._pool.describe(self._name)
        if getattr(description, "kind", "") == "mutable":
            self._listening = Listening(
                self._pool, self._name, self._take_news, lambda: None, lambda: self._pool.token_bytes(16)
            )
            await self._listening.ready()
            return
        mark = f"titan:mark:{self._pool.token_bytes(16).hex()}"
        ready = asyncio.Event()
        self._streaming = asyncio.create_task(self._stream(mark, ready))
        while not ready.is_set() and self._end is None:
            await self._pool.send(self._name, ["PUBLISH", mark, ""])
            with suppress(TimeoutError):
                await asyncio.wait_for(ready.wait(), MARK_SECONDS)
        if self._end is not None:
            raise self._end

    async def get(self) -> list[list[bytes]]:
        """What has come since the last time, as `[channel, message]`; waits for something.

        Raises:
            Overloaded: it was not asked for in time, and some is lost. TitanError: the store has ended, or refuses.
        """
        while not self._heard:
            if self._end is not None:
                raise self._end
            self._changed.clear()
            await self._changed.wait()
        heard, self._heard = self._heard, []
        return heard

    async def close(self) -> None:
        """Hears nothing more."""
        if self._listening is not None:
            await self._listening.stop()
        if self._streaming is not None:
            self._streaming.cancel()
            await asyncio.gather(self._streaming, return_exceptions=True)

    async def _stream(self, mark: str, ready: asyncio.Event) -> None:
        channels = [mark, *(each.decode() for each in self._channels)]
        try:
            items = self._pool.stream(self._name, Subscribe(channels), timeout=STREAM_SECONDS)
            async with aclosing(items):
                async for item in items:
                    if item[0] == mark.encode():
                        ready.set()
                    else:
                        self._take(item)
            self._end = titan.Unavailable(f"{self._name!r} has ended its stream")
        except titan.TitanError as why:
            self._end = why
        ready.set()
        self._changed.set()

    def _take_news(self, news: News) -> None:
        for each in news.published:
            if each.channel in self._channels and not each.shard:
                self._take([each.channel, each.message])

    def _take(self, item: list[bytes]) -> None:
        if len(self._heard) >= WAITING_MAX:
            self._heard.clear()
            self._end = titan.Overloaded(f"{WAITING_MAX} messages of {self._name!r} waited to be taken, and are lost")
        if self._end is None:
            self._heard.append(item)
        self._changed.set()
