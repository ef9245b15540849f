"""What a volunteer's machine gives: limits on CPU time and on bytes sent."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator
from typing import Any

Reply = bytes | AsyncIterator[bytes]

SMALL_BYTES = 4096
"""Answers up to this size are charged but never wait: they are what keeps the pool together."""


class Cpu:
    """CPU-seconds a second, over the last `window` seconds.

    Args:
        limit: cores, as in 0.5.
    """

    def __init__(self, limit: float, window: float = 10.0) -> None:
        self._limit = limit
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, now: float, used: float) -> str:
        """Why services should take no messages just now, or empty.

        Args:
            now: seconds, monotonic. used: CPU-seconds since the process began.
        """
        samples = self._samples
        samples.append((now, used))
        while len(samples) > 2 and now - samples[0][0] > self._window:
            samples.popleft()
        began, then = samples[0]
        if now - began < self._window / 2:
            return ""
        rate = (used - then) / (now - began)
        return (
            f"its CPU budget is used up ({rate:.2f} of {self._limit:g} cores, --max-cpu)" if rate > self._limit else ""
        )


class Upload:
    """A token bucket over all answers to other machines: one second's worth may go at once.

    Args:
        rate: bytes per second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._filled = 0.0

    def pace(self, begun: "bytes | Coroutine[Any, Any, Reply]") -> "bytes | Coroutine[Any, Any, Reply]":
        """The same answer, later where the bucket is empty."""
        if isinstance(begun, bytes):
            return begun if self._charge(len(begun)) <= 0 or len(begun) <= SMALL_BYTES else self._late(begun)
        return _Paced(begun, self._after(begun))

    def _charge(self, size: int) -> float:
        """Takes tokens, below zero if need be; seconds until they are there."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(float(self._rate), self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        self._tokens -= size
        return -self._tokens / self._rate

    async def _late(self, answer: bytes) -> bytes:
        await asyncio.sleep(max(0.0, -self._tokens / self._rate))
        return answer

    async def _after(self, work: Coroutine[Any, Any, Reply]) -> Reply:
        answer = await work
        if not isinstance(answer, bytes):
            return self._items(answer)
        wait = self._charge(len(answer))
        if wait > 0 and len(answer) > SMALL_BYTES:
            await asyncio.sleep(wait)
        return answer

    async def _items(self, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for item in items:
            wait = self._charge(len(item))
            if wait > 0:
                await asyncio.sleep(wait)
            yield item


class _Paced(Coroutine[Any, Any, Reply]):
    """A coroutine around another. Closed before its first step, it closes the other too."""

    def __init__(self, inner: Coroutine[Any, Any, Reply], outer: Coroutine[Any, Any, Reply]) -> None:
        self._inner = inner
        self._outer = outer

    def __await__(self) -> Generator[Any, Any, Reply]:
        return self._outer.__await__()

    def send(self, value: Any) -> Any:
        return self._outer.send(value)

    def throw(self, *error: Any) -> Any:
        return self._outer.throw(*error)

    def close(self) -> None:
        self._outer.close()
        self._inner.close()
