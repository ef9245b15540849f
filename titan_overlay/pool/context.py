"""What a handler knows of the message at hand: who asks, how long there is, and the way to other objects."""

import asyncio
import logging
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Protocol, TypeVar, overload

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.errors import DeadlineExceeded
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.message import Message, decode_reply, encode_message

T = TypeVar("T")

_LOG = logging.getLogger("titan_overlay.object")


class Sender(msgspec.Struct, frozen=True):
    """Who sent a message: proven by the link it came over."""

    id: NodeId
    public: bytes
    grants: tuple[bytes, ...] = ()
    """Those that it showed, as signed and not checked."""
    subnet: str = ""
    """Where the message came from: a /24 or /48 of public addresses, one private address; empty: from this machine."""

    @property
    def crowd(self) -> str | NodeId:
        """With whom it shares what it may take from others: with all keys of its subnet; on this machine, with none."""
        return self.subnet or self.id


class Outbound(Protocol):
    """How an object reaches others: the node's router. Bodies are msgpack, deadlines loop times, chains ids."""

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes: ...

    def stream(
        self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /
    ) -> AsyncIterator[bytes]: ...


class _Named(logging.LoggerAdapter[logging.Logger]):
    """Puts the object's name before each line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{(self.extra or {}).get('object')}: {msg}", kwargs


class Context:
    """What a handler knows of the message at hand, and its way to other objects.

    Attributes:
        sender: who asks.
        name: of this object.
        deadline: loop time at which the caller stops waiting.
        chain: ids of the objects that wait for this call, first caller first.
        arrived: loop time.
        streaming: whether the caller takes a stream.
        outbound: what `send` and `stream` go through.
    """

    __slots__ = ("arrived", "chain", "deadline", "name", "object_id", "outbound", "sender", "streaming")

    def __init__(
        self,
        sender: Sender,
        name: str,
        object_id: bytes,
        deadline: float,
        arrived: float,
        outbound: Outbound,
        chain: tuple[bytes, ...] = (),
        streaming: bool = False,
    ) -> None:
        self.sender = sender
        self.name = name
        self.object_id = object_id
        self.deadline = deadline
        self.arrived = arrived
        self.chain = chain
        self.streaming = streaming
        self.outbound = outbound

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, not below 0."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    @property
    def log(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines name the object."""
        return _Named(_LOG, {"object": self.name})

    # ---- in mutable objects --------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """In a mutable object: unix seconds, the same for all its members, never going back."""
        raise TypeError("ctx.now is of mutable objects; a service may ask its machine's clock")

    @property
    def random(self) -> Random:
        """In a mutable object: a generator that draws the same at all its members."""
        raise TypeError("ctx.random is of mutable objects; a service may draw as it likes")

    def send_later(self, name: str, message: Any) -> None:
        """In a mutable object: sends once this message's effects are final. The reply is not waited for.

        Exactly once to mutable objects, at least once to services.
        """
        raise TypeError("ctx.send_later is of mutable objects; a service awaits ctx.send")

    def schedule(self, seconds: float, message: Any) -> None:
        """In a mutable object: it sends itself this message, after so many seconds of `ctx.now`."""
        raise TypeError("ctx.schedule is of mutable objects; a service may sleep")

    # ---- in services ---------------------------------------------------------------------------------------------

    @overload
    async def send(self, name: str, message: Message[T], timeout: float | None = None) -> T: ...
    @overload
    async def send(self, name: str, message: object, timeout: float | None = None) -> Any: ...
    async def send(self, name: str, message: Any, timeout: float | None = None) -> Any:
        """The reply of another object. Waits `timeout` seconds, and never longer than this message's own deadline.

        Raises:
            RemotableError: as `pool.send`; ReentrantCall where that object waits for this one and is busy.
        """
        type_name, body = encode_message(message)
        reply = await self.outbound.send(name, type_name, body, self._until(timeout), (*self.chain, self.object_id))
        return decode_reply(message, reply)

    @overload
    def stream(self, name: str, message: Message[T], timeout: float | None = None) -> AsyncIterator[T]: ...
    @overload
    def stream(self, name: str, message: object, timeout: float | None = None) -> AsyncIterator[Any]: ...
    async def stream(self, name: str, message: Any, timeout: float | None = None) -> AsyncIterator[Any]:
        """The replies of another object, one by one. Raises as `send`."""
        type_name, body = encode_message(message)
        replies = self.outbound.stream(name, type_name, body, self._until(timeout), (*self.chain, self.object_id))
        async for item in replies:
            yield decode_reply(message, item)

    def _until(self, timeout: float | None) -> float:
        now = asyncio.get_running_loop().time()
        if now >= self.deadline:
            raise DeadlineExceeded("no time is left for a call to another object")
        return self.deadline if timeout is None else min(self.deadline, now + timeout)
