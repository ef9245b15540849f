"""What all links of one node share: who it is, its limits, its clock, its counters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from titan_overlay.identity.ids import NodeId
from titan_overlay.links.deadlines import Deadlines
from titan_overlay.wire.messages import Hello, Send

PROTOCOL_VERSION = 1


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a link."""

    id: NodeId
    public: bytes
    """Raw Ed25519 key, proven by TLS (in a simulation without TLS: believed)."""
    ip: str
    port: int
    """Where it accepts links itself; 0: it does not."""
    serving: bool
    credentials: bytes
    """For whom it speaks, and its grants, as it presented them; or empty."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's links may cost. Times in seconds."""

    handshake: float = 5.0
    """For TLS, and again for the first frame after it."""
    half_open: int = 64
    """Inbound links that have not said who they are."""
    inbound_links: int = 1024
    links_per_peer: int = 16
    """Two that dial each other at once get two links, and several programs may share one user's key."""
    arrivals_per_second: float = 5.0
    arrivals_at_once: int = 64
    """Inbound connections of one subnet: each costs a TLS handshake."""
    requests_per_peer: int = 1024
    """Requests of one link that wait or run here; the next gets `Overloaded`."""
    request_bytes_per_peer: int = 32 << 20
    """What they take together, their bodies and `REQUEST_BYTES` for each, likewise."""
    request_bytes: int = 128 << 20
    """What all requests take that wait or run here. Above it, whose link has its share of that gets `Overloaded`."""
    messages_per_second: float = 2000.0
    """Requests of one peer on another machine; twice as many at once. Above it `Overloaded`. All peers of a subnet
    together may send `meters.PEERS_OF_A_SUBNET` times as many."""
    message_bytes: int = 16 << 10
    """A request of more counts as several."""
    unsent_bytes: int = 16 << 20
    """A peer that asks on and does not read what it asked for is cut off."""
    progress: float = 4096.0
    """Bytes a second by which a frame that has begun must grow, and what waits to be read by the peer must shrink."""
    half_sent_bytes: int = 64 << 20
    """Frames that have begun and are not complete, over all links; above it the largest is given up."""
    idle: float = 300.0
    """A link without requests for this long says goodbye."""
    probe: float = 5.0
    """With requests under way and nothing heard for this long, ask whether the peer lives; twice: it does not."""
    strikes: int = 3
    """Links ended for breaking the protocol, after which the peer is shunned."""
    shun: float = 60.0


Reply = bytes | AsyncIterator[bytes]
Answer = bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]
Handler = Callable[[Peer, Send], Answer]
"""Answers one request with an encoded msgpack body, or a stream of them.

It may answer at once, with bytes, or give a future of them, which costs no task and is cancelled when its time has run
out; otherwise its coroutine runs as (part of) a task of its own, with all that asyncio
promises to one. It should not set context variables before its first await: handlers that never wait share a task.
A `RemotableError` is an answer; another exception becomes a `RemoteError` that names its type.
"""
Here = Callable[[bytes, str, bytes, float, tuple[bytes, ...], bool], Awaitable[Reply]]
"""Answers a request of this very node: object, type, body, deadline, chain, and whether a stream is asked for."""


async def close_stream(replies: AsyncIterator[bytes]) -> None:
    """Nobody wants more of them: an iterator that can be closed is."""
    close = getattr(replies, "aclose", None)
    if close is not None:
        await close()


class Budget(Protocol):
    """What may be sent to other machines."""

    def may(self, size: int) -> bool:
        """Whether so much may go now; if so it is charged."""
        ...

    async def turn(self, size: int, deadline: float) -> None:
        """Waits until so much may go, and charges it. Raises DeadlineExceeded, Overloaded: it may not be sent."""
        ...

    def tell(self, size: int) -> None:
        """Charges what is sent at once."""
        ...


class Counters:
    """Since the start."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "garbage",
        "links_accepted",
        "links_dialed",
        "links_refused",
        "overloaded",
        "requests_received",
        "requests_sent",
    )

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.garbage = 0
        """Links ended because of what came in on them."""
        self.links_accepted = 0
        self.links_dialed = 0
        self.links_refused = 0
        self.overloaded = 0
        self.requests_received = 0
        self.requests_sent = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class Known:
    """What is remembered of a peer across its links."""

    __slots__ = ("latency", "shunned_until", "strikes")

    def __init__(self) -> None:
        self.latency: float | None = None
        self.strikes = 0
        self.shunned_until = 0.0


class Flushable(Protocol):
    """A link, as far as `Shared` is concerned."""

    def flush(self) -> None: ...


class Shared:
    """One per `Links`, seen by each of its links."""

    __slots__ = (
        "_flush_scheduled",
        "corked",
        "counters",
        "deadlines",
        "dirty",
        "handler",
        "hello",
        "inbound_bytes",
        "limits",
        "loop",
        "next_id",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handler: Handler, limits: Limits, hello: Callable[[], Hello]
    ) -> None:
        self.loop = loop
        self.handler = handler
        self.limits = limits
        self.hello = hello
        self.counters = Counters()
        self.deadlines = Deadlines(loop)
        self.inbound_bytes = 0
        """Of requests that wait or run here."""
        self.next_id = 1
        """Request ids are unique in the node and only grow."""
        self.corked = False
        """Somebody calls `flush` before the turn of the loop ends."""
        self.dirty: list[Flushable] = []
        self._flush_scheduled = False

    def mark(self, link: Flushable) -> None:
        """The link has something to send: once per turn of the loop, all its frames in one write."""
        self.dirty.append(link)
        if not self.corked and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_in_turn)

    def _flush_in_turn(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send all that links have queued."""
        while self.dirty:
            self.dirty.pop().flush()
