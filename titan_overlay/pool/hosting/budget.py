"""What a volunteer's machine gives: limits on CPU time and on bytes sent, and who is turned away at the limit."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Hashable
from typing import Any, TypeVar

from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Sender

Reply = bytes | AsyncIterator[bytes]

SMALL_BYTES = 4096
"""Answers and requests up to this size are charged but never wait: they are what keeps the pool together."""


USERS_MAX = 4096
REST = NodeId(b"")
"""The keys of a crowd of which there are too many to tell apart."""
FORGOTTEN_SECONDS = 1e-4
"""Less CPU time than that is nobody's fault."""

Key = TypeVar("Key", bound=Hashable)


class Shares:
    """Who uses the CPU: the time of handlers by crowd of senders, by sender and by object, over about `window` seconds.

    When the budget is used up, those who used at least as much as the average are refused: first senders, of crowds
    (`Sender.crowd`) that did; when that has not helped for `window` seconds, all of these crowds, where there are
    others too, and the messages to such objects; then everybody's.
    """

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._crowds: dict[Hashable, dict[NodeId, float]] = {}
        self._senders = 0
        """In all crowds."""
        self._objects: dict[bytes, float] = {}
        self._busy_for = 0.0
        self._hogs: frozenset[Hashable] = frozenset()
        """Crowds, senders and objects."""
        self._everybody = False

    def spend(self, object_id: bytes, sender: Sender, seconds: float) -> None:
        """A handler of this object has kept the loop busy for this sender."""
        key, objects = sender.id, self._objects
        senders = self._crowds.get(sender.subnet or key)
        if senders is not None and key in senders:
            senders[key] += seconds
        else:
            self._enter(sender, seconds)
        if object_id in objects:
            objects[object_id] += seconds
        elif len(objects) < USERS_MAX:
            objects[object_id] = seconds

    def _enter(self, sender: Sender, seconds: float) -> None:
        """The first of this sender; where so many are known, it counts as one of the rest of its crowd."""
        if sender.crowd not in self._crowds and len(self._crowds) >= USERS_MAX:
            return
        senders = self._crowds.setdefault(sender.crowd, {})
        key = sender.id if self._senders < USERS_MAX else REST
        self._senders += key not in senders
        senders[key] = senders.get(key, 0.0) + seconds

    def judge(self, busy: bool, seconds: float) -> None:
        """To be called every second or so: whether the budget is used up, and the time since the last call."""
        self._busy_for = self._busy_for + seconds if busy else 0.0
        hogs: set[Hashable] = set()
        if busy:
            greedy = _most({crowd: sum(senders.values()) for crowd, senders in self._crowds.items()})
            for crowd in greedy:
                senders = _most(self._crowds[crowd])
                hogs.update([crowd] if REST in senders else senders)
            if self._busy_for > self._window:
                objects = _most(self._objects)
                hogs.update(objects, greedy if len(greedy) < len(self._crowds) else ())
        self._hogs = frozenset(hogs)
        self._everybody = busy and (not hogs or self._busy_for > 2 * self._window)
        fade = max(0.0, 1 - seconds / self._window)
        self._objects = _faded(self._objects, fade)
        faded = ((crowd, _faded(senders, fade)) for crowd, senders in self._crowds.items())
        self._crowds = {crowd: senders for crowd, senders in faded if senders}
        self._senders = sum(map(len, self._crowds.values()))

    def refuses(self, object_id: bytes, sender: Sender) -> bool:
        """Whether a message is one of those that made the budget run out."""
        hogs = self._hogs
        return self._everybody or sender.id in hogs or object_id in hogs or sender.crowd in hogs


def _most(used: dict[Key, float]) -> list[Key]:
    """Those who used at least as much as the average."""
    average = sum(used.values()) / len(used) if used else 0.0
    return [key for key, seconds in used.items() if seconds >= 0.999 * average]  # those who are equal are no less


def _faded(used: dict[Key, float], share: float) -> dict[Key, float]:
    return {key: seconds * share for key, seconds in used.items() if seconds * share > FORGOTTEN_SECONDS}


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
    """A token bucket over what goes to other machines: one second's worth may go at once.

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

    def request(self, size: int) -> float:
        """To be called before a request is sent: seconds after which it may be.

        Args:
            size: of its body; negative: one that was charged is not sent after all.
        """
        return self._charge(size) if size > SMALL_BYTES else self._count(size)

    def tell(self, size: int) -> None:
        """Something that cannot wait is sent."""
        self._count(size)

    def pace(
        self, begun: "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]"
    ) -> "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]":
        """The same answer, later where the bucket is empty. What was promised is charged, and comes when it comes."""
        if isinstance(begun, asyncio.Future):
            begun.add_done_callback(self._charge_promised)
            return begun
        if isinstance(begun, bytes):
            wait = self.request(len(begun))
            return self._late(begun, wait) if wait else begun
        return _Paced(begun, self._after(begun))

    def _charge(self, size: int) -> float:
        """Takes tokens, below zero if need be; seconds until they are there."""
        self._fill()
        self._tokens -= size
        return max(0.0, -self._tokens / self._rate)

    def _count(self, size: int) -> float:
        """Takes tokens for what does not wait."""
        self._fill()
        self._owe(size)
        return 0.0

    def _owe(self, size: int) -> None:
        # A second's worth below zero at most: whatever never waits, what does is to get on.
        self._tokens = max(self._tokens - size, min(self._tokens, -float(self._rate)))

    def _fill(self) -> None:
        now, sent = asyncio.get_running_loop().time(), self._datagrams()
        self._tokens = min(float(self._rate), self._tokens + (now - self._filled) * self._rate)
        self._owe(sent - self._counted)
        self._filled, self._counted = now, sent

    def _charge_promised(self, answer: "asyncio.Future[bytes]") -> None:
        if not answer.cancelled() and answer.exception() is None:
            self._count(len(answer.result()))

    async def _late(self, answer: bytes, seconds: float) -> bytes:
        await asyncio.sleep(seconds)
        return answer

    async def _after(self, work: Coroutine[Any, Any, Reply]) -> Reply:
        answer = await work
        if not isinstance(answer, bytes):
            return self._items(answer)
        if wait := self.request(len(answer)):
            await asyncio.sleep(wait)
        return answer

    async def _items(self, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for item in items:
            if wait := self._charge(len(item)):
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
