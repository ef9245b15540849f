"""Runners: what stands behind an object. The one for services calls the handlers of an instance."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import msgspec

from titan_overlay.errors import BadMessage, RemotableError, RemoteError
from titan_overlay.pool.context import Context
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.handlers import Handler
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.wire import codec

Body = bytes | msgspec.Raw

STOP_SECONDS = 5.0
"""Of an object's own `stop`."""

_LOG = logging.getLogger("titan_overlay.object")


class Runner(Protocol):
    """What stands behind an object. Derive from it: all but `types` and `call` has a default."""

    types: tuple[str, ...] = ()
    """Message types that `call` knows; the host refuses others."""
    plain: frozenset[str] = frozenset()
    """Types whose `call` returns bytes at once, without ever waiting."""
    promises: frozenset[str] = frozenset()
    """Types whose `call` returns, without ever waiting, a future of the encoded reply: they cost no task."""
    streams: frozenset[str] = frozenset()
    """Types whose `call` returns an async iterator."""
    concurrency: int | None = None
    mailbox: int | None = None
    bundle: bytes = b""
    """Signed bundle of the code, for others that are to hold the object too."""

    def call(self, type: str, body: Body, context: Context) -> Begun:
        """The encoded reply, or an awaitable of it, or an iterator of replies. May be an `async def`.

        Raises:
            BadMessage: the body is not what this type should be. RemotableError: as the object decides.
        """
        ...

    def schema(self) -> dict[str, MessageSchema]:
        return {}

    async def start(self, context: Context) -> None:
        """Before the first message."""
        return

    async def close(self) -> None:
        """After the last one."""
        return

    async def discard(self, *, deleted: bool) -> None:
        """After `close`, where the object is not held here any more: what it has on this node's disk may go.

        Args:
            deleted: it is held nowhere any more.
        """
        return


class ServiceRunner(Runner):
    """Calls the handlers of an instance of a service class.

    Args:
        bundle: the signed bundle that the class was loaded from, if any.
    """

    def __init__(self, instance: object, *, bundle: bytes = b"") -> None:
        service = service_type(type(instance))
        self.instance = instance
        self.bundle = bundle
        self.concurrency = service.concurrency
        self.mailbox = service.mailbox
        self.types = tuple(service.handlers)
        self.plain = frozenset(h.type for h in service.handlers.values() if h.plain)
        self.streams = frozenset(h.type for h in service.handlers.values() if h.streams)
        self._schema = service.schema
        self._handlers: dict[str, tuple[Handler, Any]] = {
            name: (handler, getattr(instance, handler.method)) for name, handler in service.handlers.items()
        }

    def call(self, type: str, body: Body, context: Context) -> Begun:
        handler, method = self._handlers[type]
        try:
            message = handler.decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as why:
            raise BadMessage(f"this is not a {type}: {why}") from None
        if handler.plain:
            return self._at_once(handler, method, message, context)
        result = method(message, context) if handler.takes_context else method(message)
        return self._items(handler, result) if handler.streams else self._later(handler, result)

    def _at_once(self, handler: Handler, method: Any, message: Any, context: Context) -> bytes:
        """A handler that never waits ends in one step, taken here."""
        try:
            result = method(message, context) if handler.takes_context else method(message)
            if not handler.sync:
                try:
                    result.send(None)
                except StopIteration as done:
                    result = done.value
                else:
                    result.close()
                    raise RuntimeError(f"{handler.method} waited, although nothing in it can")
        except RemotableError as why:
            why.maybe_executed = True
            raise
        return self._encoded(handler, result)

    async def _later(self, handler: Handler, result: Awaitable[Any]) -> bytes:
        return self._encoded(handler, await result)

    async def _items(self, handler: Handler, results: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            async for result in results:
                yield self._encoded(handler, result)
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    def schema(self) -> dict[str, MessageSchema]:
        return self._schema()

    async def start(self, context: Context) -> None:
        hook = getattr(self.instance, "start", None)
        if hook is not None:
            done = hook(context)
            if inspect.isawaitable(done):
                await done

    async def close(self) -> None:
        hook = getattr(self.instance, "stop", None)
        if hook is None:
            return
        name = type(self.instance).__name__
        try:
            async with asyncio.timeout(STOP_SECONDS):
                done = hook()
                if inspect.isawaitable(done):
                    await done
        except TimeoutError:
            _LOG.warning("the stop of %s did not end in %g s", name, STOP_SECONDS)
        except (Exception, SystemExit):  # whatever its author wrote, the object goes
            _LOG.exception("the stop of %s raised", name)

    def _encoded(self, handler: Handler, result: Any) -> bytes:
        try:
            return codec.encode(result)
        except (TypeError, ValueError, OverflowError, RecursionError) as why:
            kind = type(result).__name__
            if inspect.iscoroutine(result):
                result.close()
            raise RemoteError(
                f"{type(self.instance).__name__}.{handler.method} returned a {kind}, which cannot be sent: {why}",
                type="TypeError",
            ) from None
