"""One request that a peer sent here, from its frame to its answer."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    RemotableError,
    RemoteError,
    Unavailable,
)
from titan_overlay.links.deadlines import Slot
from titan_overlay.links.shared import Reply, Shared, close_stream
from titan_overlay.wire.messages import Send

_log = logging.getLogger(__name__)

MAX_CREDIT = 1 << 20
REQUEST_BYTES = 4096
"""What one takes beside its body while it waits or runs, about: its task, and all that it goes through."""


class Answering(Protocol):
    """What an inbound request needs of its link."""

    shared: Shared

    @property
    def congested(self) -> bool: ...
    async def drained(self) -> None: ...
    def answer(self, id: int, body: bytes) -> None: ...
    def answer_item(self, id: int, body: bytes) -> None: ...
    def answer_end(self, id: int) -> None: ...
    def write_error(self, id: int, error: RemotableError) -> None: ...
    def finished(self, job: "Inbound | Promised") -> None: ...


class Inbound:
    """A job of the runner: awaits the handler, sends what it gives."""

    __slots__ = (
        "_begun",
        "_credit",
        "_credit_waiter",
        "_slot",
        "_work",
        "cancelled",
        "id",
        "link",
        "send",
        "size",
        "task",
        "timed_out",
    )

    def __init__(self, link: Answering, send: Send, size: int, work: Coroutine[Any, Any, Reply]) -> None:
        self.link = link
        self.send = send
        self.id = send.id
        self.size = size
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        """By the peer, or because the link ended: nobody waits for an answer."""
        self.timed_out = False
        self._work = work
        self._begun = False
        self._credit = send.credit
        self._credit_waiter: asyncio.Future[None] | None = None
        self._slot: Slot | None = None

    def suspended(self) -> None:
        """The handler waits: from here on it needs a deadline."""
        shared = self.link.shared
        self._slot = shared.deadlines.slot(shared.loop.time() + self.send.timeout_ms / 1000)
        self._slot[self] = None

    def expire(self) -> None:
        self.timed_out = True
        self._interrupt()

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        self.cancelled = True
        self._interrupt()

    def called_off(self) -> None:
        """The peer wants no answer, or has gone. A handler that was stopped before is left alone in what it does at its
        end, however often the peer says so.
        """
        was_stopped, self.cancelled = self.cancelled or self.timed_out, True
        if not was_stopped:
            self._interrupt()

    def _interrupt(self) -> None:
        # A task that is cancelled before its first step never runs at all, and would leave the handler behind.
        if self.task is not None and self._begun:
            self.task.cancel()

    def give_credit(self, items: int) -> None:
        """The peer takes this many more items of the stream."""
        self._credit = min(self._credit + items, MAX_CREDIT)
        if self._credit_waiter is not None and not self._credit_waiter.done():
            self._credit_waiter.set_result(None)

    async def run(self) -> None:
        link = self.link
        try:
            if self.cancelled or self.timed_out:
                self._work.close()
                self._stopped()
                return
            self._begun = True
            reply = await self._work
            if type(reply) is bytes:
                if link.congested:
                    await link.drained()
                link.answer(self.id, reply)
            else:
                await self._stream(reply)
        except RemotableError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            self._stopped()
        except LinkError as error:
            self._refuse(Unavailable(str(error), maybe_executed=error.maybe_executed))
        except Exception as error:
            self._refuse(unexpected(error))
        finally:
            if self._slot is not None:
                self._slot.pop(self, None)
            link.finished(self)

    def _refuse(self, error: RemotableError) -> None:
        if not self.cancelled:
            self.link.write_error(self.id, error)

    def _stopped(self) -> None:
        if self.timed_out:
            self._refuse(DeadlineExceeded("the handler took longer than the caller's deadline", maybe_executed=True))
        else:
            self._refuse(Unavailable("the handler was stopped before it could answer", maybe_executed=True))

    async def _stream(self, items: Reply) -> None:
        if not isinstance(items, AsyncIterator):
            raise TypeError(f"a handler answers with bytes or an asynchronous iterator, not {type(items).__name__}")
        link = self.link
        try:
            if self.send.credit <= 0:
                raise BadMessage("the answer is a stream of replies: ask for it with `stream`")
            while True:
                if self._credit <= 0:
                    await self._more_credit()
                try:
                    body = await anext(items)
                except StopAsyncIteration:
                    break
                if link.congested:
                    await link.drained()
                self._credit -= 1
                link.answer_item(self.id, body)
            link.answer_end(self.id)
        finally:
            await close_stream(items)

    async def _more_credit(self) -> None:
        while self._credit <= 0:
            self._credit_waiter = self.link.shared.loop.create_future()
            await self._credit_waiter


class Promised:
    """A request whose answer comes by itself, as a future: no task waits for it."""

    __slots__ = ("_answer", "_slot", "_timed_out", "cancelled", "id", "link", "size")

    def __init__(self, link: Answering, send: Send, size: int, answer: "asyncio.Future[bytes]") -> None:
        self.link = link
        self.id = send.id
        self.size = size
        self.cancelled = False
        self._timed_out = False
        self._answer = answer
        shared = link.shared
        self._slot = shared.deadlines.slot(shared.loop.time() + send.timeout_ms / 1000)
        self._slot[self] = None
        answer.add_done_callback(self._settled)

    def expire(self) -> None:
        self._timed_out = True
        self._answer.cancel()

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        self.cancelled = True
        self._answer.cancel()

    def called_off(self) -> None:
        """The peer wants no answer, or has gone."""
        self.cancel()

    def give_credit(self, items: int) -> None:
        """It is no stream."""

    def _settled(self, answer: "asyncio.Future[bytes]") -> None:
        link = self.link
        self._slot.pop(self, None)
        if answer.cancelled():
            if not self.cancelled:
                why = "the handler took longer than the caller's deadline"
                gone = DeadlineExceeded(why, maybe_executed=True) if self._timed_out else Unavailable("it was stopped")
                link.write_error(self.id, gone)
        elif (error := answer.exception()) is None:
            if not self.cancelled:
                self._answered(answer.result())
        elif not self.cancelled:
            link.write_error(self.id, error if isinstance(error, RemotableError) else unexpected(error))
        link.finished(self)

    def _answered(self, reply: bytes) -> None:
        try:
            self.link.answer(self.id, reply)
        except BadMessage as error:
            self.link.write_error(self.id, error)


def unexpected(error: BaseException) -> RemoteError:
    """What a caller learns of an exception that a handler should have turned into an answer: type and text only."""
    _log.error("a handler raised", exc_info=error)
    return RemoteError(str(error) or type(error).__name__, type=type(error).__name__)
