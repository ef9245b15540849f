"""What a volunteer's machine sends: a token bucket, and turns for those who wait. No I/O but the loop's clock."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from math import inf
from typing import Any

from titan_overlay.errors import DeadlineExceeded, Overloaded
from titan_overlay.links.shared import close_stream
from titan_overlay.pool.hosting.closing import Closing

Reply = bytes | AsyncIterator[bytes]

SMALL_BYTES = 4096
"""Answers and requests up to this size are charged but never wait: they are what keeps the pool together."""
WAITING_BYTES_MAX = 32 << 20
"""Of all that waits."""
CROWD_BYTES_MAX = 8 << 20
"""Of what waits for one crowd."""
OWN = ""
"""The crowd of what this node asks for itself."""


class _Waiter:
    """Something that waits for its turn."""

    __slots__ = ("size", "turn")

    def __init__(self, size: int, turn: "asyncio.Future[None]") -> None:
        self.size = size
        self.turn = turn


class Upload:
    """A token bucket over what goes to other machines: one second's worth may go at once.

    What waits goes by turns between *crowds* (those who ask from one subnet; this node's own requests are one), each in
    its order. So who asks for much waits for itself, and who has gone has cost nothing.

    Args:
        rate: bytes per second.
        datagrams: bytes that have gone in datagrams until now; they are charged and never wait.
    """

    def __init__(self, rate: int, datagrams: Callable[[], int] = lambda: 0) -> None:
        self._rate = rate
        self._datagrams = datagrams
        self._counted = 0
        self._tokens = float(rate)
        self._filled = 0.0
        self._crowds: dict[Hashable, deque[_Waiter]] = {}
        """The first one's turn is next."""
        self._bytes: dict[Hashable, int] = {}
        """That wait, by crowd."""
        self._timer: asyncio.TimerHandle | None = None

    def may(self, size: int) -> bool:
        """Whether so much may go now; if so it is charged."""
        self._fill()
        if size <= SMALL_BYTES:
            self._owe(size)
            return True
        if self._crowds or self._tokens < size:
            return False
        self._tokens -= size
        return True

    def tell(self, size: int) -> None:
        """Something that cannot wait is sent."""
        self._fill()
        self._owe(size)

    async def turn(self, size: int, deadline: float = inf, crowd: Hashable = OWN) -> None:
        """Waits until so much may go; it is charged then.

        Raises:
            Overloaded: too much waits, for this crowd or in all.
            DeadlineExceeded: the turn would come too late.
        """
        loop = asyncio.get_running_loop()
        soonest = (size - self._tokens) / self._rate
        if loop.time() + soonest >= deadline:
            raise DeadlineExceeded(
                f"the turn of these {size} bytes comes in {soonest:.1f} s or later, after the deadline: this node "
                "sends no faster (max_upload); they were not sent"
            )
        waiter = self._enqueue(size, crowd, loop.create_future())
        try:
            async with asyncio.timeout_at(None if deadline == inf else deadline):
                await waiter.turn
        except TimeoutError:
            raise DeadlineExceeded(
                f"the turn of these {size} bytes has not come before the deadline: this node sends no faster "
                "(max_upload); they were not sent"
            ) from None
        finally:
            self._give_up(waiter, crowd)

    def pace(
        self, begun: "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]", crowd: Hashable
    ) -> "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]":
        """The same answer, later where the bucket is empty. What was promised is charged, and comes when it comes."""
        if isinstance(begun, asyncio.Future):
            begun.add_done_callback(self._charge_promised)
            return begun
        if isinstance(begun, bytes):
            return begun if self.may(len(begun)) else self._late(begun, crowd)
        return Closing(self._after(begun, crowd), begun.close)

    # ---- tokens ------------------------------------------------------------------------------------------------

    def _owe(self, size: int) -> None:
        # A second's worth below zero at most: whatever never waits, what does is to get on.
        self._tokens = max(self._tokens - size, min(self._tokens, -float(self._rate)))

    def _fill(self) -> None:
        now, sent = asyncio.get_running_loop().time(), self._datagrams()
        most = float(max(self._rate, self._first.size if self._first else 0))  # whatever waits fits in
        self._tokens = min(most, self._tokens + (now - self._filled) * self._rate)
        self._owe(sent - self._counted)
        self._filled, self._counted = now, sent

    def _charge_promised(self, answer: "asyncio.Future[bytes]") -> None:
        if not answer.cancelled() and answer.exception() is None:
            self.tell(len(answer.result()))

    @property
    def _first(self) -> _Waiter | None:
        return next(iter(self._crowds.values()))[0] if self._crowds else None

    # ---- turns -------------------------------------------------------------------------------------------------

    def _enqueue(self, size: int, crowd: Hashable, turn: "asyncio.Future[None]") -> _Waiter:
        """Where all is full, the crowd for which most waits gives up what came last."""
        if self._bytes.get(crowd, 0) + size > max(CROWD_BYTES_MAX, size):
            raise _full(size / self._rate)
        while sum(self._bytes.values()) + size > WAITING_BYTES_MAX and self._bytes:
            largest = max(self._bytes, key=lambda each: self._bytes[each])
            if self._bytes[largest] <= self._bytes.get(crowd, 0) + size:
                raise _full(size / self._rate)
            last = self._crowds[largest][-1]
            if not last.turn.done():  # else it has just been called off
                last.turn.set_exception(_full(last.size / self._rate))
            self._give_up(last, largest)
        waiter = _Waiter(size, turn)
        self._crowds.setdefault(crowd, deque()).append(waiter)
        self._bytes[crowd] = self._bytes.get(crowd, 0) + size
        if self._timer is None:
            self._go_on()
        return waiter

    def _drop(self, waiter: _Waiter, crowd: Hashable) -> None:
        """It waits no longer: it had its turn, or has given up."""
        queue = self._crowds.get(crowd)
        if queue is None or waiter not in queue:
            return
        queue.remove(waiter)
        self._bytes[crowd] -= waiter.size
        if not queue:
            del self._crowds[crowd], self._bytes[crowd]

    def _give_up(self, waiter: _Waiter, crowd: Hashable) -> None:
        """It wants no turn any more; where it was the first, the others need not wait until it could have had it."""
        was_first = self._first is waiter
        self._drop(waiter, crowd)
        if was_first:
            self._go_on()

    def _go_on(self) -> None:
        """Gives turns while there are tokens, then waits for more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fill()
        while self._crowds:
            crowd, waiter = next(iter(self._crowds)), self._first
            assert waiter is not None
            short = waiter.size - self._tokens
            if short > 1e-6 * self._rate:
                self._timer = asyncio.get_running_loop().call_later(short / self._rate, self._go_on)
                return
            self._drop(waiter, crowd)
            if crowd in self._crowds:  # the others come first
                self._crowds[crowd] = self._crowds.pop(crowd)
            if not waiter.turn.done():
                self._tokens -= waiter.size
                waiter.turn.set_result(None)

    # ---- answers -----------------------------------------------------------------------------------------------

    async def _late(self, answer: bytes, crowd: Hashable) -> bytes:
        try:
            await self.turn(len(answer), crowd=crowd)
        except Overloaded as why:
            why.maybe_executed = True  # it has been worked for
            raise
        return answer

    async def _after(self, work: Coroutine[Any, Any, Reply], crowd: Hashable) -> Reply:
        answer = await work
        if not isinstance(answer, bytes):
            return self._items(answer, crowd)
        return answer if self.may(len(answer)) else await self._late(answer, crowd)

    async def _items(self, items: AsyncIterator[bytes], crowd: Hashable) -> AsyncIterator[bytes]:
        try:
            async for item in items:
                if not self.may(len(item)):
                    await self.turn(len(item), crowd=crowd)
                yield item
        finally:  # whoever reads this one knows of no other
            await close_stream(items)


def _full(seconds: float) -> Overloaded:
    return Overloaded("too much waits for this node's upload (max_upload); try another holder", retry_after=seconds)
