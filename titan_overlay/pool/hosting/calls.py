"""Runs what handlers return: within the mailbox's bounds, and answered by the deadline whatever the handler does.

A handler runs in a task of its own. The caller waits for a future that the deadline resolves even where the handler
ignores its cancellation; its place in the mailbox stays taken until it really ends.
"""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    Overloaded,
    RemotableError,
    RemoteError,
    Unavailable,
)
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.mailbox import Counters, Mailbox
from titan_overlay.pool.hosting.measured import measured
from titan_overlay.pool.hosting.streams import Stream

Reply = bytes | AsyncIterator[bytes]
Begun = bytes | Awaitable[Reply] | AsyncIterator[bytes]
"""What a runner gives: the reply at once, later, or one by one."""

ERROR_TEXT_CHARACTERS_MAX = 2000

_LOG = logging.getLogger("titan_overlay.object")


class Calls:
    """The calls of one object at this holder."""

    def __init__(
        self,
        name: str,
        size: int,
        concurrency: int,
        reply_bytes: int,
        ambient: Ambient,
        spend: Callable[[Sender, float], None] = lambda sender, seconds: None,
    ) -> None:
        self.name = name
        self.spend = spend
        """Told of the time that handlers kept the loop busy, and for whom."""
        self.mailbox: Mailbox[_Call | Stream | _Promise] = Mailbox(size, concurrency, self._turn_away)
        self.counters = Counters()
        self.reply_bytes = reply_bytes
        self._ambient = ambient
        self._active: dict[_Call | Stream | _Promise, None] = {}
        """The oldest first."""

    def start(self, begin: Callable[[], Begun], type: str, context: Context) -> "asyncio.Future[Reply]":
        """Begins now or when it is its turn. Cancelling the future cancels the handler.

        Raises:
            Overloaded: the mailbox is full.
        """
        call = _Call(self, begin, type, context)
        self._active[call] = None
        try:
            sender = context.sender
            turn = self.mailbox.arrive(call, sender.id, self.counters.mean_seconds, crowd=sender.crowd)
        except Overloaded:
            self.counters.refused += 1
            call.reply.cancel()
            raise
        if turn:
            call.begin()
        else:
            self._make_way(sender)
        return call.reply

    def promised(self, reply: "asyncio.Future[bytes]", type: str, context: Context) -> None:
        """A reply that will come by itself: it takes a place in the mailbox, which had a free one."""
        call = _Promise(self, reply, type, context)
        self._active[call] = None
        self.mailbox.arrive(call, context.sender.id, crowd=context.sender.crowd)

    def _turn_away(self, call: "_Call | Stream | _Promise", why: Overloaded) -> None:
        """One that waited gives its place to another sender's."""
        call.turned_away(why)

    def stream(
        self,
        items: AsyncIterator[bytes],
        type: str,
        context: Context,
        authorize: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[bytes]:
        """The same for a stream: it takes its place in the mailbox when its first item is asked for.

        Args:
            authorize: asked before each item, for streams may last longer than rights. Raises Forbidden.
        """
        return Stream(self, items, type, context, authorize)

    def settle(self, reply: bytes, type: str, context: Context, now: float) -> bytes:
        """Counts a reply, and lets it out.

        Raises:
            BadMessage: it is too big.
        """
        counters = self.counters
        counters.messages += 1
        counters.seconds += now - context.arrived
        if len(reply) > self.reply_bytes:
            counters.errors += 1
            raise BadMessage(
                f"the reply of {self.name!r} to {type} has {len(reply)} bytes, {self.reply_bytes} is the limit; "
                "let it answer with a stream, or put() the data and reply with its name",
                maybe_executed=True,
            )
        return reply

    def failed(self, why: BaseException, type: str, context: Context, now: float) -> RemotableError:
        """Counts a failure. What the caller is told of it: no traceback, but a number that finds it in the log."""
        self.counters.messages += 1
        self.counters.errors += 1
        self.counters.seconds += now - context.arrived
        if isinstance(why, RemotableError):
            return why
        correlation = self._ambient.token_bytes(4).hex()
        _LOG.error("%s: the handler of %s raised (correlation %s)", self.name, type, correlation, exc_info=why)
        return RemoteError(_text(why)[:ERROR_TEXT_CHARACTERS_MAX], type=why.__class__.__name__, correlation=correlation)

    def leaving(self, *, maybe_executed: bool = True) -> Unavailable:
        """What callers are told when the object goes away."""
        return Unavailable(f"{self.name!r} is leaving this node; send again", maybe_executed=maybe_executed)

    def close(self) -> list["asyncio.Future[Any]"]:
        """Ends everything: callers get `Unavailable`. What to wait for until the handlers have ended."""
        calls = list(self._active)
        return [ended for call in calls if (ended := call.abandon()) is not None]

    def finished(self, call: "_Call | Stream | _Promise", ran: bool) -> None:
        """A call is over; if it had its turn, the next one gets it."""
        self._active.pop(call, None)
        if ran:
            following = self.mailbox.leave()
            if following is not None:
                following.begin()
        else:
            self.mailbox.withdraw(call)

    def began(self, stream: Stream) -> None:
        self._active[stream] = None

    def arrived(self, stream: Stream, sender: Sender) -> bool:
        """A stream wants its turn. False: it waits for it."""
        if self.mailbox.arrive(stream, sender.id, self.counters.mean_seconds, crowd=sender.crowd):
            return True
        self._make_way(sender)
        return False

    def _make_way(self, sender: Sender) -> None:
        """Somebody waits for a place, which streams may have for weeks: one that can be spared gives up its own.

        As in the queue, that is one of the largest crowd; or whichever nobody reads.
        """
        now = asyncio.get_running_loop().time()
        streams = [each for each in self._active if isinstance(each, Stream) and each.is_running]
        crowds = Counter(each.crowd for each in streams)
        more = crowds[sender.crowd] + 2
        spare = [each for each in streams if each.may_go(now, crowded=crowds[each.crowd] >= more)]
        loser = max(spare, key=lambda each: crowds[each.crowd], default=None)
        if loser is not None:
            loser.give_way()


def _text(why: BaseException) -> str:
    """What an exception says; its own `__str__` may be broken too."""
    try:
        return str(why)
    except BaseException:
        return "(its text cannot be shown)"


class _Call:
    """One message on its way through. When it is answered and when its handler ends are two moments."""

    __slots__ = ("_begin", "_calls", "_context", "_loop", "_over", "_task", "_timer", "_type", "reply")

    def __init__(self, calls: Calls, begin: Callable[[], Begun], type: str, context: Context) -> None:
        self._calls = calls
        self._begin = begin
        self._type = type
        self._context = context
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Reply | BaseException] | None = None
        self._timer = self._loop.call_at(context.deadline, self._expire)
        self.reply: asyncio.Future[Reply] = self._loop.create_future()
        self.reply.add_done_callback(self._answered)

    def begin(self) -> None:
        """It is this one's turn."""
        if self.reply.done():  # its time ran out a moment ago
            self._leave(had_turn=True)
            return
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def _run(self) -> Reply | BaseException:
        """What came of it. Raises nothing but `CancelledError`, and that only when cancelled from outside."""
        begun: Begun | None = None
        try:
            begun = self._begin()
            return await self._measured(begun) if isinstance(begun, Awaitable) else begun
        except BaseException as why:  # SystemExit in a handler must not stop the node
            task = asyncio.current_task()
            if isinstance(why, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            if isinstance(why, RemotableError) and begun is not None:
                why.maybe_executed = True  # whatever it says: the handler had begun to work
            return why

    def _measured(self, work: Awaitable[Reply]) -> Awaitable[Reply]:
        return measured(work, self._loop.time, functools.partial(self._calls.spend, self._context.sender))

    def turned_away(self, why: Overloaded) -> None:
        """It was still waiting."""
        self._calls.counters.refused += 1
        if not self.reply.done():
            self.reply.set_exception(why)

    def _ended(self, task: "asyncio.Task[Reply | BaseException]") -> None:
        """The handler has ended, in time or not: its place is free."""
        self._timer.cancel()
        self._task = None
        if self.reply.done():
            if not task.cancelled():
                self._calls.counters.overdue += 1
        elif task.cancelled():
            self.reply.set_exception(self._calls.leaving())
        else:
            self._answer(task.result())
        self._leave(had_turn=True)

    def _answer(self, outcome: Reply | BaseException) -> None:
        now = self._loop.time()
        try:
            if isinstance(outcome, BaseException):
                raise self._calls.failed(outcome, self._type, self._context, now)
            if isinstance(outcome, bytes):
                self._calls.settle(outcome, self._type, self._context, now)
            self.reply.set_result(outcome)
        except RemotableError as why:
            self.reply.set_exception(why)

    def _expire(self) -> None:
        if self.reply.done():
            return
        name, begun = self._calls.name, self._task is not None
        if begun:
            text = f"{name!r} was still at work on this {self._type} when its time had run out"
        else:
            text = f"{name!r} is busy: the message waited for its turn until its time had run out"
        why = DeadlineExceeded(text, maybe_executed=begun)
        self.reply.set_exception(self._calls.failed(why, self._type, self._context, self._loop.time()))

    def _answered(self, reply: "asyncio.Future[Reply]") -> None:
        """The caller has its answer, or does not want one any more."""
        self._timer.cancel()
        if not reply.cancelled():
            reply.exception()  # it is counted, and logged where it needs to be, whether or not the caller looks
        if self._task is not None:
            self._task.cancel()
        else:
            self._leave(had_turn=False)

    def _leave(self, *, had_turn: bool) -> None:
        if not self._over:
            self._over = True
            self._calls.finished(self, had_turn)

    def abandon(self) -> "asyncio.Future[Any] | None":
        """The object goes away. What ends when the handler has."""
        if not self.reply.done():
            self.reply.set_exception(self._calls.leaving(maybe_executed=self._task is not None))
        return self._task


class _Promise:
    """One message whose reply comes by itself. Who waits for it sees to its own deadline."""

    __slots__ = ("_calls", "_context", "_reply", "_type")

    def __init__(self, calls: Calls, reply: "asyncio.Future[bytes]", type: str, context: Context) -> None:
        self._calls = calls
        self._reply = reply
        self._type = type
        self._context = context
        reply.add_done_callback(self._ended)

    def _ended(self, reply: "asyncio.Future[bytes]") -> None:
        now = reply.get_loop().time()
        why = None if reply.cancelled() else reply.exception()
        if why is not None:
            self._calls.failed(why, self._type, self._context, now)
        else:
            self._calls.counters.messages += 1
            self._calls.counters.seconds += now - self._context.arrived
        self._calls.finished(self, ran=True)

    def begin(self) -> None:
        """It has begun."""

    def turned_away(self, why: Overloaded) -> None:
        """It never waits for its turn."""

    def abandon(self) -> "asyncio.Future[Any] | None":
        """The object goes away."""
        if not self._reply.done():
            self._reply.set_exception(self._calls.leaving())
        return None
