"""What a type checker knows of programs that use the public API. Checked by mypy and never run (`test_typing.py`)."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, assert_type

import titan_overlay as titan


class Thumb(titan.Message[bytes], namespace="img"):
    raw: bytes
    size: int = 64


class Words(titan.Message[list[str]]):
    text: str


class Count(titan.Message[int]):
    up_to: int


@titan.error("img.unreadable")
class Unreadable(titan.RemoteError): ...


@titan.service("img/*", policy=titan.Policy(min_copies=2), isolation="process")
class Thumbnails:
    @titan.idempotent
    async def thumb(self, message: Thumb) -> bytes:
        return message.raw[: message.size]

    async def words(self, message: Words, ctx: titan.Context) -> list[str]:
        assert_type(await ctx.send("other", Thumb(b"")), bytes)
        assert_type(ctx.sender, titan.Sender)
        assert_type(ctx.deadline, float)
        return message.text.split()

    async def count(self, message: Count) -> AsyncIterator[int]:
        for number in range(message.up_to):
            yield number


@titan.service
class Plain:
    async def hello(self, name: str) -> str:
        return name


async def asynchronous() -> None:
    async with titan.connect("host:4747", timeout=5) as pool:
        assert_type(pool, titan.Pool)
        assert_type(await pool.send("img/thumb", Thumb(b"", 64), timeout=2), bytes)
        assert_type(await pool.send("words", Words("a b")), list[str])
        assert_type(await pool.send("greeter", "hello"), Any)
        assert_type(await pool.send("sum", (1, 2)), Any)
        assert_type(await pool.send("sum", bytearray(b"raw")), Any)
        assert_type(await pool.send("any", titan.Info()), titan.ObjectInfo)
        assert_type((await pool.send("any", titan.Schema()))["str"], titan.MessageSchema)
        async for number in pool.stream("counter", Count(3)):
            assert_type(number, int)
        assert_type(await pool.publish(Plain, "greeter"), titan.Receipt)
        assert_type(await pool.put(b"data"), str)
        assert_type(await pool.put_receipt("file", encrypt=True), titan.Receipt)
        assert_type(await pool.get("sha256:00", decrypt=True), bytes)
        assert_type(
            await pool.delete("greeter", "token"),
            Literal["deleted", "wrong token", "nothing to delete", "already gone"],
        )
        assert_type(await pool.locate("greeter"), list[titan.Located])
        assert_type(await pool.census(["cores>=4"]), list[titan.NodeInfo])
        assert_type(await pool.multicast(await pool.census(), titan.Ping()), dict[str, Any])
        assert_type(await pool.ref(Thumbnails, "img/thumb").thumb(Thumb(b"")), bytes)
        assert_type(await pool.ref(Plain, "greeter").hello("you"), str)
        assert_type(await titan.asend("img/thumb", Thumb(b"")), bytes)


def kept() -> None:
    walkable: titan.WalkableDict[str, int] = titan.WalkableDict()
    assert_type(walkable.get("a"), int | None)
    assert_type(walkable.get("a", 0), int)
    assert_type(walkable.get("a", "none"), int | str)


def synchronous() -> None:
    with titan.connect_sync("host:4747", timeout=5) as pool:
        assert_type(pool, titan.SyncPool)
        assert_type(pool.send("img/thumb", Thumb(b"", 64), timeout=2), bytes)
        assert_type(pool.stream("counter", Count(3)), Iterator[int])
        assert_type(pool.publish(Plain, "greeter", policy=titan.Policy(min_copies=1)), titan.Receipt)
        assert_type(pool.put("file", encrypt=True), str)
        assert_type(pool.get("sha256:00"), bytes)
        assert_type(pool.locate("greeter"), list[titan.Located])
        assert_type(titan.send("img/thumb", Thumb(b"")), bytes)
        assert_type(titan.send("greeter", "hello"), Any)


async def mistakes(pool: titan.Pool, blocking: titan.SyncPool) -> None:
    """Each of these lines must be an error; one that is none makes its `ignore` unused, which is an error."""
    await pool.send("any", object())  # type: ignore[call-overload]
    await pool.send("any", "hello", 5)  # type: ignore[call-overload]
    Thumb("not bytes")  # type: ignore[arg-type]
    Thumb()  # type: ignore[call-arg]
    blocking.put(3)  # type: ignore[arg-type]
    blocking.publish(Plain)  # type: ignore[call-arg]
    await pool.ref(Plain, "greeter").hello(3)  # type: ignore[arg-type]
    await pool.ref(Plain, "greeter").goodbye("you")  # type: ignore[attr-defined]
    titan.send("any", object())  # type: ignore[call-overload]
