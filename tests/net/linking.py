"""Two nodes with links, for tests: over TLS on the real loop, plain on the virtual one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.links import Handler, Limits, Links, Peer
from titan_overlay.testing import VirtualLoop
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

POOL = PoolId(b"P" * 32)
OBJECT = b"O" * 32


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


def now() -> float:
    return asyncio.get_running_loop().time()


def is_virtual() -> bool:
    return isinstance(asyncio.get_running_loop(), VirtualLoop)


async def until(condition: Callable[[], Any], within: float = 20.0) -> None:
    end = now() + within
    while not condition():
        assert now() < end, "the condition never came about"
        await asyncio.sleep(0.01)


async def echo(peer: Peer, send: Send) -> bytes:
    return bytes(send.body)


def links(number: int, handler: Handler = echo, *, pool: PoolId = POOL, **more: Any) -> Links:
    if isinstance(more.get("limits"), dict):
        more["limits"] = Limits(**more["limits"])
    more.setdefault("secure", not is_virtual())
    credentials = more.pop("credentials", b"")
    made = Links(key(number), pool, Ambient.system(), handler, **more)
    made.credentials = credentials
    return made


class Pair:
    """`a` asks `b`, which listens."""

    def __init__(self, a: Links, b: Links) -> None:
        self.a, self.b = a, b

    @property
    def contact(self) -> Contact:
        return contact(self.b)

    async def ask(self, type: str = "str", value: Any = "hello", timeout: float = 10.0) -> Any:
        body = codec.encode(value)
        return codec.decode(await self.a.request(self.contact, OBJECT, type, body, deadline=now() + timeout), Any)

    def stream(self, type: str = "list", value: Any = None, timeout: float = 10.0, **more: Any) -> Any:
        return self.a.stream(self.contact, OBJECT, type, codec.encode(value), deadline=now() + timeout, **more)


def contact(of: Links) -> Contact:
    return Contact(of.key.id, "127.0.0.1", of.port)


@asynccontextmanager
async def pair(handler: Handler = echo, **more: Any) -> AsyncIterator[Pair]:
    """`more` goes to `b`; keys that begin with `a_` go to `a`."""
    for_a = {name[2:]: more.pop(name) for name in list(more) if name.startswith("a_")}
    a = links(1, for_a.pop("handler", echo), **for_a)
    b = links(2, handler, **more)
    await b.listen("127.0.0.1", 0)
    try:
        yield Pair(a, b)
    finally:
        await a.close()
        await b.close()


def items(count: int) -> list[bytes]:
    return [msgspec.msgpack.encode(number) for number in range(count)]
