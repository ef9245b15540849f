"""What a door hears of the group besides replies: messages that were published, guards that were touched.

It watches the object's changes while any of its clients listens or waits, and no longer. A door hears all that comes
after its own mark has come by; before that, and after a break, it may have missed something.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.store.group.messages import Mark, News, Run, Wake

_LOG = logging.getLogger("titan_objects.store")

MARK_SECONDS = 0.2
"""How long a mark may take before it is sent again: the watch may have begun after it."""
PAUSE_SECONDS = 0.5


class _Outcome(msgspec.Struct, frozen=True, array_like=True):
    """Of an `Outcome`, what is looked at here."""

    done: msgspec.Raw
    news: News


_outcome = msgspec.msgpack.Decoder(_Outcome)
_news = msgspec.msgpack.Decoder(News)


class Listening:
    """See the module.

    Args:
        on_news: is given what happened.
        on_gap: called when something may have been missed.
        token: a new one each time.

    Attributes:
        awaited: by so many (`ready`).
    """

    def __init__(
        self,
        pool: titan.Pool,
        name: str,
        on_news: Callable[[News], None],
        on_gap: Callable[[], None],
        token: Callable[[], bytes],
    ) -> None:
        self._pool = pool
        self._name = name
        self._on_news = on_news
        self._on_gap = on_gap
        self._token = token
        self.awaited = 0
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Everything from now on is heard."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Begins to listen, if that is not under way, and waits until everything is heard."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())
        self.awaited += 1
        try:
            await self._ready.wait()
        finally:
            self.awaited -= 1

    def stop(self) -> Coroutine[Any, Any, None]:
        """Listens no more, from this very moment on. What is returned waits for the end of it."""
        task, self._task = self._task, None
        self._ready.clear()
        if task is not None:
            task.cancel()
        return self._ended(task)

    async def _ended(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        while True:
            mark = self._token()
            marking = asyncio.get_running_loop().create_task(self._mark(mark))
            try:
                async with aclosing(self._pool.watch(self._name)) as changes:
                    async for change in changes:
                        self._hear(change, mark)
            except titan.TitanError as why:
                _LOG.info("what happens in %s is not heard just now: %s", self._name, why)
            except Exception:
                _LOG.exception("what happens in %s is not heard just now", self._name)
            finally:
                marking.cancel()
            self._ready.clear()
            await asyncio.sleep(PAUSE_SECONDS)

    def _hear(self, change: titan.Change, mark: bytes) -> None:
        try:
            self._take(change, mark)
        except (msgspec.DecodeError, UnicodeDecodeError) as why:
            _LOG.warning("a change of %s cannot be read, and is passed over: %s", self._name, why)

    def _take(self, change: titan.Change, mark: bytes) -> None:
        if change.type == Run.wire_type:
            news = _outcome.decode(change.reply).news
        elif change.type == Wake.wire_type:
            news = _news.decode(change.reply)
        elif change.type == Mark.wire_type and not self._ready.is_set():
            if msgspec.msgpack.decode(change.body, type=Mark).token == mark:
                self._ready.set()
                self._on_gap()
            return
        else:
            return
        if news.published or news.touched:
            self._on_news(news)

    async def _mark(self, token: bytes) -> None:
        while not self._ready.is_set():
            with suppress(titan.TitanError):
                await self._pool.send(self._name, Mark(token))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), MARK_SECONDS)
