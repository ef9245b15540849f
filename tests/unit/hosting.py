"""A host with one object on it, and a short way to talk to it: for the tests of delivery."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

from titan_overlay.ambient import Ambient, Random
from titan_overlay.errors import (
    Forbidden,
    RemoteError,
    error,
)
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor, Policy
from titan_overlay.pool.hosting.host import Host, Limits, Sender, ServiceRunner
from titan_overlay.pool.hosting.object import Context, service
from titan_overlay.pool.message import encode_message
from titan_overlay.pool.questions import (
    ObjectStats,
    Stats,
)
from titan_overlay.wire import codec

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)
AMBIENT = Ambient(lambda: 1e9, Random(1), lambda n: b"\xab" * n)
ALICE = Sender(KEY.id, KEY.public)
BOB = Sender(SigningKey(b"b" * 32).id, SigningKey(b"b" * 32).public)


def descriptor_of(name: str, **policy: Any) -> Signed[Descriptor]:
    return records.sign(Descriptor(name, "service", "test", 1, 0.0, Policy(**policy)), KEY, POOL)


class Bench:
    """A host with one object on it, and a short way to talk to it."""

    def __init__(self, instance: object, limits: Limits | None = None, **options: Any) -> None:
        self.host = Host(AMBIENT, pool=POOL, limits=limits, **options)
        self.object_id = names.object_id(POOL, "it")
        self.host.add(descriptor_of("it"), ServiceRunner(instance))

    def begin(self, message: Any, timeout: float = 10.0, sender: Sender = ALICE, **options: Any) -> Any:
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        return self.host.begin(sender, self.object_id, type_name, body, deadline=deadline, **options)

    async def ask(self, message: Any, timeout: float = 10.0, **options: Any) -> Any:
        begun = self.begin(message, timeout, **options)
        return codec.decode(begun if isinstance(begun, bytes) else await begun, Any)

    async def stats(self) -> ObjectStats:
        return codec.decode(self.begin(Stats()), ObjectStats)


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@error("test.poor")
class Poor(RemoteError):
    FIELDS = ("missing",)

    def __init__(self, message: str = "", *, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="untouched")


class Many:
    """Handlers of all kinds."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.cancelled = 0

    async def upper(self, text: str) -> str:
        """Shouts.

        More text."""
        if text == "bug":
            raise ValueError("a bug")
        if text == "exit":
            raise SystemExit(3)
        if text == "poor":
            raise Poor("not enough", missing=5)
        if text == "forbidden":
            raise Forbidden("not you")
        if text == "unencodable":
            return object()  # type: ignore[return-value]
        VARIABLE.set("touched")
        return text.upper()

    async def waits(self, how: bytes) -> str:
        self.begun += 1
        try:
            async with asyncio.timeout(100):
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if how == b"stubborn":
                await asyncio.sleep(0.01)
                return "too late"
            raise
        if how == b"bug":
            raise KeyError("later")
        if how == b"exit":
            raise SystemExit(3)
        if how == b"cancels itself":
            raise asyncio.CancelledError
        return how.decode()

    async def counts(self, up_to: int) -> AsyncIterator[int]:
        try:
            for number in range(up_to):
                yield number
                if number == 7:
                    raise ValueError("seven")
                if number == 8:
                    await self.gate.wait()
        finally:
            self.cancelled += 1

    async def calls(self, names: list[Any], ctx: Context) -> Any:
        return await ctx.send(names[0], names[1:])

    async def task_name(self, number: float) -> bool:
        await asyncio.sleep(0)
        return asyncio.current_task() is not None


@service(concurrency=1, mailbox=2)
class Serial(Many):
    """One message after the other."""


async def take(items: AsyncIterator[bytes]) -> list[Any]:
    return [codec.decode(item, Any) async for item in items]
