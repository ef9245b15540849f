"""The objects that live on this node: who may be delivered to, by whom, and how each is run.

    deliver -> held here? -> a question every object answers?  answered past the mailbox
                          -> sizes, deadline, chain of calls   refused at once
                          -> a plain handler, and nobody waits? run by hand: no task, no timer
                          -> else                              `calls.py`: mailbox, task, deadline

A *runner* is what stands behind an object: a service's instance (`ServiceRunner`), a data object's bytes, a process.
"""

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    Conflict,
    DeadlineExceeded,
    NotHere,
    Overloaded,
    ReentrantCall,
    Unavailable,
)
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId
from titan_overlay.identity.names import node_name
from titan_overlay.identity.names import object_id as object_id_of
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.context import Context, Outbound, Sender
from titan_overlay.pool.hosting.budget import Shares
from titan_overlay.pool.hosting.calls import Calls, Reply
from titan_overlay.pool.hosting.closing import Closing
from titan_overlay.pool.hosting.runner import Body, Runner, ServiceRunner
from titan_overlay.pool.message import Message
from titan_overlay.pool.questions import (
    INNER,
    QUESTIONS,
    Bundle,
    Describe,
    Info,
    ObjectInfo,
    ObjectStats,
    Ping,
    Pong,
    Schema,
    Stats,
)
from titan_overlay.values import MIB
from titan_overlay.wire import codec

__all__ = ["Host", "Limits", "Runner", "Sender", "ServiceRunner"]

NO_POOL = PoolId(bytes(ID_BYTES))
NO_NODE = NodeId(bytes(ID_BYTES))


_QUESTIONS: dict[str, type[Message[Any]]] = {
    cls.wire_type: cls for cls in (Ping, Info, Stats, Schema, Describe, Bundle)
}
assert _QUESTIONS.keys() == QUESTIONS


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a node allows the objects that it holds."""

    objects: int = 32_768
    mailbox: int = 256
    """Messages that wait for one object, where its class says nothing."""
    concurrency: int = 32
    """Handlers of one object at once, where its class says nothing."""
    handler_seconds: float = 300.0
    """No handler of a single reply works longer, however long the caller would wait."""
    message_bytes: int = 64 * MIB
    """Largest message, reply, or item of a stream."""
    chain: int = 16
    """Objects that may wait for one another in a row."""
    stop_seconds: float = 5.0
    """Time that cancelled handlers are given to end when their object goes."""


class Resident:
    """An object that is held here."""

    __slots__ = ("calls", "descriptor", "max_bytes", "name", "runner", "since")

    def __init__(self, descriptor: Signed[Descriptor], runner: Runner, calls: Calls, since: float, limit: int) -> None:
        self.descriptor = descriptor
        self.name = descriptor.value.name
        self.runner = runner
        self.calls = calls
        self.since = since
        """Unix seconds."""
        self.max_bytes = min(descriptor.value.policy.max_bytes or limit, limit)


class Host:
    """Delivers messages to the objects that this node holds.

    Args:
        pool: may be set later (`host.pool = ...`), before the first object whose id depends on it.
        holder: this node's id.
        outbound: the router, for `ctx.send` and `ctx.stream`.
        copies: how many live copies of an object this node counts, itself included.
        authorize: raises Forbidden where this sender may not call this object.
        disclose: raises Forbidden where it may not know the object's code either, or how much it is used.
    """

    def __init__(
        self,
        ambient: Ambient,
        *,
        outbound: Outbound | None = None,
        pool: PoolId = NO_POOL,
        holder: NodeId = NO_NODE,
        limits: Limits | None = None,
        copies: Callable[[ObjectId], int] = lambda _: 1,
        authorize: Callable[[Sender, Signed[Descriptor]], None] | None = None,
        disclose: Callable[[Sender, Signed[Descriptor]], None] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.busy: str = ""
        """Why services take fewer messages just now (a budget is used up), or empty."""
        self.own: frozenset[NodeId] = frozenset()
        """Keys of those whose machine this is: a budget is for others."""
        self.shares = Shares()
        self._ambient = ambient
        self.pool = pool
        self.holder = holder
        self._copies = copies
        self._authorize = authorize
        self._disclose = disclose
        self._outbound: Outbound = outbound or _NoOutbound()
        self._residents: dict[bytes, Resident] = {}
        self._offers: dict[bytes, Resident] = {}
        """What is only published from here, until others have it; or a version of what is held, for its code alone."""

    # ---- who lives here --------------------------------------------------------------------------------------

    async def open(self, descriptor: Signed[Descriptor], runner: Runner) -> None:
        """Runs the object's `start`, then takes it in.

        Raises:
            Overloaded, Conflict: as `add`. RemoteError: its `start` raised.
        """
        object_id = self._room_for(descriptor)
        resident = self._resident(descriptor, runner)
        me = Sender(descriptor.signer, descriptor.public)
        now = asyncio.get_running_loop().time()
        deadline = now + self.limits.handler_seconds
        context = Context(me, resident.name, object_id, deadline, now, self._outbound)
        try:
            async with asyncio.timeout_at(deadline):
                await runner.start(context)
        except (Exception, SystemExit) as why:  # an object that exits must not stop the node
            raise resident.calls.failed(why, "start", context, asyncio.get_running_loop().time()) from None
        self.add(descriptor, runner)

    def add(self, descriptor: Signed[Descriptor], runner: Runner) -> None:
        """Takes an object in, as it is: its `start` is not run.

        Raises:
            Overloaded: this node holds as many as it may. Conflict: it holds this one already.
        """
        object_id = self._room_for(descriptor)
        self._residents[object_id] = self._resident(descriptor, runner)

    def offer(self, descriptor: Signed[Descriptor], runner: Runner) -> Resident:
        """As `add`, until `withdraw`; where it is held here, that one answers, and the offer gives its code."""
        offered = self._resident(descriptor, runner)
        self._offers.setdefault(object_id_of(self.pool, offered.name), offered)
        return offered

    async def withdraw(self, offered: Resident) -> None:
        """The offer is over."""
        object_id = object_id_of(self.pool, offered.name)
        if self._offers.get(object_id) is offered:
            del self._offers[object_id]
        await self._end(offered)

    def _room_for(self, descriptor: Signed[Descriptor]) -> ObjectId:
        object_id = object_id_of(self.pool, descriptor.value.name)
        if self.kept(object_id) is not None:
            raise Conflict(f"{descriptor.value.name!r} is held here already; remove it first")
        if len(self._residents) >= self.limits.objects:
            raise Overloaded(f"this node holds {len(self._residents)} objects, as many as it may", retry_after=60.0)
        return object_id

    def _resident(self, descriptor: Signed[Descriptor], runner: Runner) -> Resident:
        limits = self.limits
        calls = Calls(
            descriptor.value.name,
            runner.mailbox or limits.mailbox,
            runner.concurrency or limits.concurrency,
            limits.message_bytes,
            self._ambient,
            functools.partial(self.shares.spend, object_id_of(self.pool, descriptor.value.name)),
        )
        return Resident(descriptor, runner, calls, self._ambient.wall(), limits.message_bytes)

    async def remove(self, object_id: ObjectId) -> bool:
        """Lets an object go: callers that wait get `Unavailable`, handlers are cancelled. False: it was not here."""
        resident = self._residents.pop(object_id, None)
        if resident is None:
            return False
        await self._end(resident)
        return True

    async def _end(self, resident: Resident) -> None:
        ending = resident.calls.close()
        if ending:
            await asyncio.wait(ending, timeout=self.limits.stop_seconds)
        await resident.runner.close()

    async def close(self) -> None:
        """Lets all objects go."""
        for object_id in list(self._residents):
            await self.remove(ObjectId(object_id))
        for offered in list(self._offers.values()):
            await self.withdraw(offered)

    def get(self, object_id: bytes) -> Resident | None:
        return self._residents.get(object_id) or self._offers.get(object_id)

    def kept(self, object_id: bytes) -> Resident | None:
        """As `get`, but for what is only offered."""
        return self._residents.get(object_id)

    def ids(self) -> tuple[ObjectId, ...]:
        return tuple(ObjectId(object_id) for object_id in self._residents)

    def judge(self, busy: str, seconds: float) -> None:
        """Told every second or so why services should take fewer messages just now (a budget is used up), or ""."""
        self.busy = busy
        self.shares.judge(bool(busy), seconds)

    def counters(self) -> dict[str, float]:
        """Sums over the objects held now, without the node itself: messages answered, errors, refusals."""
        calls = [each.calls.counters for key, each in self._residents.items() if key != self.holder]
        return {
            "messages": sum(each.messages for each in calls),
            "errors": sum(each.errors for each in calls),
            "refused": sum(each.refused for each in calls),
        }

    # ---- delivery --------------------------------------------------------------------------------------------

    async def deliver(
        self,
        sender: Sender,
        object_id: bytes,
        type: str,
        body: Body,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
        stream: bool = False,
    ) -> Reply:
        """As `begin`, to be awaited; there is an answer by the deadline."""
        begun = self.begin(sender, object_id, type, body, deadline=deadline, chain=chain, stream=stream)
        try:
            async with asyncio.timeout_at(deadline if isinstance(begun, asyncio.Future) else None):
                return await _given(begun)
        except TimeoutError:
            raise DeadlineExceeded("there was no answer when the time had run out", maybe_executed=True) from None

    def deliver_now(
        self,
        sender: Sender,
        object_id: bytes,
        type: str,
        body: Body,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
        stream: bool = False,
    ) -> "bytes | asyncio.Future[bytes] | Coroutine[Any, Any, Reply]":
        """As `begin`, in the form that links ask of their handler: bytes, a promise, or what is to be awaited."""
        begun = self.begin(sender, object_id, type, body, deadline=deadline, chain=chain, stream=stream)
        if isinstance(begun, bytes):
            return begun
        resident = self.get(object_id)
        if isinstance(begun, asyncio.Future) and resident is not None and type in resident.runner.promises:
            return begun  # type: ignore[return-value]
        return Closing(_given(begun), begun.cancel) if isinstance(begun, asyncio.Future) else _given(begun)

    def begin(
        self,
        sender: Sender,
        object_id: bytes,
        type: str,
        body: Body,
        *,
        deadline: float,
        chain: tuple[bytes, ...] = (),
        stream: bool = False,
    ) -> "Reply | asyncio.Future[Reply]":
        """The encoded reply where it is known at once, or a future of it (cancelling it cancels the handler).

        Args:
            deadline: loop time.
            chain: ids of the objects that wait for this call, first caller first.
            stream: whether the sender takes a stream; without, a handler that streams is refused.

        Returns:
            bytes, or for a stream an iterator of bytes that the caller must exhaust or `aclose()`.

        Raises:
            RemotableError: NotHere, BadMessage, Overloaded, ReentrantCall, DeadlineExceeded, or the handler's.
        """
        resident = self._residents.get(object_id) or self._offers.get(object_id)
        if resident is None:
            raise NotHere("no copy is held here")
        loop = asyncio.get_running_loop()
        now = loop.time()
        runner = resident.runner
        if type not in runner.types:
            if type in QUESTIONS:
                if self._disclose is not None and type in INNER:
                    self._disclose(sender, resident.descriptor)
                return self._answer(resident, object_id, type, body)
            raise self._no_handler(resident, type)
        if self._authorize is not None:  # what an object is, anybody may ask
            self._authorize(sender, resident.descriptor)
        self._check(resident, body, deadline, now, chain)
        if self.busy and self._is_limited(resident, sender) and self.shares.refuses(object_id, sender):
            resident.calls.counters.refused += 1
            raise Overloaded(f"this node takes no such messages for services just now: {self.busy}", retry_after=1.0)
        calls = resident.calls
        context = Context(sender, resident.name, bytes(object_id), deadline, now, self._outbound, chain, stream)
        if not calls.mailbox.free and object_id in chain:
            calls.counters.refused += 1
            raise ReentrantCall(f"{resident.name!r} is busy with the very call that now comes back to it")
        if type in runner.plain and calls.mailbox.free:
            # The way of nearly all small messages: it must cost no task, no timer and no future.
            try:
                reply = contextvars.copy_context().run(runner.call, type, body, context)
                assert isinstance(reply, bytes), f"{runner} calls {type} plain, and it is not"
            except BaseException as why:
                ended = loop.time()
                calls.spend(sender, ended - now)
                raise calls.failed(why, type, context, ended) from None
            ended = loop.time()
            calls.spend(sender, ended - now)
            return calls.settle(reply, type, context, ended)
        if type in runner.promises and calls.mailbox.free:
            try:
                promised = runner.call(type, body, context)
                assert isinstance(promised, asyncio.Future), f"{runner} promises {type}, and does not"
            except BaseException as why:
                raise calls.failed(why, type, context, loop.time()) from None
            finally:
                calls.spend(sender, loop.time() - now)
            calls.promised(promised, type, context)
            return promised
        if type in runner.streams:
            if not stream:
                raise BadMessage(f"{resident.name!r} answers {type} with a stream of replies; use stream, not send")
            items = runner.call(type, body, context)
            assert isinstance(items, AsyncIterator), f"{runner} calls {type} a stream, and it is not"
            if self._authorize is None:
                return calls.stream(items, type, context)
            return calls.stream(items, type, context, functools.partial(self._authorize, sender, resident.descriptor))
        limit = now + self.limits.handler_seconds
        if not stream and limit < deadline:
            context.deadline = limit
        return calls.start(lambda: runner.call(type, body, context), type, context)

    def _is_limited(self, resident: Resident, sender: Sender) -> bool:
        """Whether budgets hold for such a message."""
        return resident.descriptor.value.kind == "service" and sender.id not in self.own

    def _check(self, resident: Resident, body: Body, deadline: float, now: float, chain: tuple[bytes, ...]) -> None:
        size = len(body) if isinstance(body, bytes) else memoryview(body).nbytes
        if size > resident.max_bytes:
            raise BadMessage(f"the message has {size} bytes, {resident.name!r} takes {resident.max_bytes}")
        if deadline <= now:
            raise DeadlineExceeded(f"the time for {resident.name!r} had run out when the message arrived")
        if len(chain) > self.limits.chain:
            raise ReentrantCall(f"{len(chain)} objects wait for one another; does this chain of calls go in circles?")

    def _no_handler(self, resident: Resident, type: str) -> BadMessage:
        takes = ", ".join(sorted(resident.runner.types)) or "nothing of its own"
        return BadMessage(f"{resident.name!r} takes {takes} (and Ping, Info, Stats, Schema), not {type!r}")

    # ---- questions -------------------------------------------------------------------------------------------

    def _answer(self, resident: Resident, object_id: bytes, type: str, body: Body) -> bytes:
        """The reply to a question that every object answers."""
        question = _QUESTIONS[type]
        codec.decode(body, question)
        calls = resident.calls
        answer: Any
        if question is Ping:
            answer = Pong(self.holder.hex(), self._ambient.wall())
        elif question is Describe:
            answer = resident.descriptor.raw
        elif question is Bundle:
            answer = self._offers.get(object_id, resident).runner.bundle
        elif question is Schema:
            answer = resident.runner.schema()
        elif question is Stats:
            counters = calls.counters
            answer = ObjectStats(
                messages=counters.messages,
                errors=counters.errors,
                refused=counters.refused,
                mean_seconds=counters.mean_seconds,
                running=calls.mailbox.running,
                waiting=calls.mailbox.waiting,
            )
        else:
            descriptor = resident.descriptor.value
            answer = ObjectInfo(
                name=descriptor.name,
                kind=descriptor.kind,
                type=descriptor.type,
                version=descriptor.version,
                policy=descriptor.policy,
                copies=self._copies(ObjectId(object_id)),
                since=resident.since,
                holder=node_name(self.holder),
            )
        return codec.encode(answer)


class _NoOutbound:
    """The way from the objects of a host that stands alone."""

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        raise Unavailable(f"this host is not connected to others, so {name!r} cannot be reached")

    def stream(
        self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /
    ) -> AsyncIterator[bytes]:
        raise Unavailable(f"this host is not connected to others, so {name!r} cannot be reached")


async def _given(reply: Reply | asyncio.Future[Reply]) -> Reply:
    return await reply if isinstance(reply, asyncio.Future) else reply
