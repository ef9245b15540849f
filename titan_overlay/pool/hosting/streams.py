"""A stream of replies on its way out: what an async generator yields, as fast as its consumer takes it.

It takes its place in the mailbox when its first item is asked for, and may have it for weeks. Where others wait, a
stream that nobody reads gives up its place, or one of a crowd that has more of them than theirs (`Calls`).
"""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Literal

from titan_overlay.errors import BadMessage, DeadlineExceeded, Forbidden, Overloaded, RemotableError
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Context
from titan_overlay.pool.hosting.measured import measured

if TYPE_CHECKING:
    from titan_overlay.pool.hosting.calls import Calls

STALLED_SECONDS = 30.0
"""A stream whose consumer has taken nothing for so long gives its place to one who waits."""
SETTLED_SECONDS = 10.0
"""A stream has its place for so long, before it may have to give it to a smaller crowd that waits."""

_LOG = logging.getLogger("titan_overlay.object")


class Stream:
    """Replies one by one. The consumer's task runs the handler; the deadline holds for the stream as a whole."""

    __slots__ = (
        "_authorize",
        "_began",
        "_broken",
        "_calls",
        "_context",
        "_ended",
        "_items",
        "_loop",
        "_state",
        "_taken",
        "_timeout",
        "_timer",
        "_turn",
        "_type",
    )

    def __init__(
        self,
        calls: "Calls",
        items: AsyncIterator[bytes],
        type: str,
        context: Context,
        authorize: Callable[[], None],
    ) -> None:
        self._calls = calls
        self._items = items
        self._authorize = authorize
        self._type = type
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._state: Literal["new", "waiting", "running", "over"] = "new"
        self._began = 0.0
        """Loop time at which its turn came."""
        self._taken = 0.0
        """Loop time at which the consumer was last given an item."""
        self._turn: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timeout: asyncio.Timeout | None = None
        """Of the item that is being made, if one is."""
        self._broken: RemotableError | None = None
        """Why it ended before its end; the consumer must learn of it."""
        self._ended: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Stream":
        return self

    def begin(self) -> None:
        """It is this one's turn."""
        self._state = "running"
        self._began = self._loop.time()
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def __anext__(self) -> bytes:
        if self._broken is not None:
            await self.aclose()
            raise self._broken
        if self._state == "over":
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self._context.deadline) as self._timeout:
                if self._state == "new":
                    await self._arrive()
                spend = functools.partial(self._calls.spend, self._context.sender)
                item = await measured(self._items.__anext__(), self._loop.time, spend)
            limit = self._calls.reply_bytes
            if len(item) > limit:
                raise BadMessage(f"one item of {self._calls.name!r} has {len(item)} bytes, {limit} is the limit")
            self._check_right()
            self._taken = self._loop.time()
            return item
        except StopAsyncIteration:
            self._calls.settle(b"", self._type, self._context, self._loop.time())
            await self._end()
            raise
        except BaseException as why:
            task = asyncio.current_task()
            given_up = isinstance(why, asyncio.CancelledError) and task is not None and task.cancelling() > 0
            error = None if given_up else self._failure(why)
            await self._end()
            if error is None:
                raise
            raise error from None
        finally:
            self._timeout = None

    def _check_right(self) -> None:
        """Whether the sender may still ask for this."""
        try:
            self._authorize()
        except Forbidden as why:
            raise Forbidden(f"the right to this stream of replies has ended: {why}") from None

    async def _arrive(self) -> None:
        self._timer = self._loop.call_at(self._context.deadline, self._expire)
        self._state = "waiting"
        self._calls.began(self)
        if self._calls.arrived(self, self._context.sender):
            self.begin()
        else:
            self._turn = self._loop.create_future()
            await self._turn

    def turned_away(self, why: Overloaded) -> None:
        """It was still waiting."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(why)

    def _failure(self, why: BaseException) -> RemotableError:
        """Counts what broke the stream. What the consumer learns of it."""
        running = self._state == "running"
        if isinstance(why, Overloaded) and not running:
            self._calls.counters.refused += 1
            return why
        if isinstance(why, TimeoutError):
            if self._broken is not None:
                why = self._broken
            elif self._loop.time() >= self._context.deadline:
                why = self._late()
        error = self._calls.failed(why, self._type, self._context, self._loop.time())
        error.maybe_executed = error.maybe_executed or running
        return error

    def _late(self) -> DeadlineExceeded:
        text = f"{self._calls.name!r} was still answering {self._type} when its time had run out"
        return DeadlineExceeded(text, maybe_executed=True)

    async def aclose(self) -> None:
        """The consumer wants no more."""
        if self._state != "over":
            await self._end()

    async def _end(self) -> None:
        state, self._state = self._state, "over"
        if self._timer is not None:
            self._timer.cancel()
        try:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()
        except Exception:
            _LOG.exception("%s: the handler of %s raised when its stream was closed", self._calls.name, self._type)
        finally:
            if state in ("running", "waiting"):
                self._calls.finished(self, state == "running")
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    def _expire(self) -> None:
        # While an item is being made its own timeout sees to it; between two items nobody else would.
        if self._timeout is None and self._state != "over":
            self._broken = self._calls.failed(self._late(), self._type, self._context, self._loop.time())
            self._end_soon()

    @property
    def crowd(self) -> str | NodeId:
        """Whose share of the places it has."""
        return self._context.sender.crowd

    @property
    def is_running(self) -> bool:
        """Whether it has a place, and is to keep it."""
        return self._state == "running" and self._broken is None

    def may_go(self, now: float, *, crowded: bool) -> bool:
        """Whether another may have its place: as there are many of its crowd, or nobody reads it."""
        is_stalled = self._timeout is None and now - self._taken >= STALLED_SECONDS
        return is_stalled or (crowded and now - self._began >= SETTLED_SECONDS)

    def give_way(self) -> None:
        """Others wait, and this stream can best be spared."""
        why = f"{self._calls.name!r} has given the place of this stream to others, who wait; ask again"
        self._break(Overloaded(why, retry_after=1.0, maybe_executed=True))

    def abandon(self) -> "asyncio.Future[Any] | None":
        """The object goes away. What ends when the handler has."""
        return None if self._state == "over" else self._break(self._calls.leaving())

    def _break(self, why: RemotableError) -> "asyncio.Future[Any]":
        """The consumer is to be told this next. What ends when the handler has."""
        self._broken = why
        if self._timeout is None:
            return self._end_soon()
        self._ended = self._loop.create_future()
        self._timeout.reschedule(self._loop.time())
        return self._ended

    def _end_soon(self) -> "asyncio.Future[Any]":
        return self._loop.create_task(self._end())
