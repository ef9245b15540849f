"""What authors of objects write, and what they are told when it is wrong."""

import asyncio
import copy
import functools
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from titan_overlay.errors import BadMessage
from titan_overlay.pool import message as messages
from titan_overlay.pool.finding.reference import Reference
from titan_overlay.pool.hosting.handlers import Handler
from titan_overlay.pool.hosting.object import (
    Context,
    Message,
    decode_reply,
    encode_message,
    handles,
    idempotent,
    service,
    service_type,
)
from titan_overlay.pool.questions import Ping, Pong
from titan_overlay.wire import codec


class Thumb(Message[bytes], namespace="img"):
    raw: bytes
    size: int = 64


class Plain(Message[int]):
    value: int


T = TypeVar("T")


class Children(Message["list[Leaf]"]):
    of: str


class Siblings(Message[list["Leaf"]]):
    of: str


class Itself(Message["Itself"]):
    n: int


class Lost(Message["NowhereToBeFound"]):  # type: ignore[name-defined]
    n: int


class Leaf(msgspec.Struct):
    name: str


class Page(Message[list[T]], Generic[T]):
    number: int


class Leaves(Page[Leaf]):
    pass


class One(Message[T], Generic[T]):
    pass


class OneLeaf(One[Leaf]):
    pass


@service
class Answers:
    async def answer(self, text: str) -> str:
        return text


def handler_of(cls: type, type_name: str) -> Handler:
    return service_type(cls).handlers[type_name]


# --- messages ---


def test_a_message_is_called_by_its_namespace_or_else_by_its_module() -> None:
    assert Thumb.wire_type == "img.Thumb"
    assert Plain.wire_type == "test_object.Plain"


def test_a_message_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Thumb(b"").size = 3


@pytest.mark.parametrize("namespace", ["", "a.b"])
def test_a_namespace_is_one_word(namespace: str) -> None:
    with pytest.raises(TypeError, match="namespace"):

        class Wrong(Message[int], namespace=namespace):
            pass


def test_a_message_cannot_be_an_array_on_the_wire() -> None:
    with pytest.raises(TypeError, match="array_like"):

        class Wrong(Message[int], array_like=True):
            pass


def test_a_message_that_is_answered_with_a_stream_names_one_item() -> None:
    with pytest.raises(TypeError, match=r"Wrong: for a stream, a message names one of its items: titan.Message\[int\]"):

        class Wrong(Message[AsyncIterator[int]]):
            pass


@pytest.mark.parametrize(
    ("value", "name"),
    [("x", "str"), (b"x", "bytes"), (1, "int"), (True, "bool"), (0.5, "float"), ([1], "list"), ({"a": 1}, "dict")],
)
def test_builtins_travel_under_their_own_name(value: Any, name: str) -> None:
    assert encode_message(value) == (name, codec.encode(value))


def test_what_is_like_a_builtin_travels_as_that_builtin() -> None:
    assert encode_message((1, 2)) == ("list", codec.encode([1, 2]))
    assert encode_message(bytearray(b"x")) == ("bytes", codec.encode(b"x"))


def test_a_message_class_travels_as_a_map_so_that_json_can_stand_for_it() -> None:
    name, body = encode_message(Thumb(b"png", 32))
    assert name == "img.Thumb"
    assert codec.decode(body, dict) == {"raw": b"png", "size": 32}


def test_what_cannot_be_sent_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadMessage, match=r"NoneType cannot be sent; send str, bytes"):
        encode_message(None)
    with pytest.raises(BadMessage, match="cannot be encoded"):
        encode_message([object()])
    with pytest.raises(BadMessage, match=r"Ping is a class; send one of it: Ping\(...\)"):
        encode_message(Ping)


def test_a_reply_has_the_type_that_the_message_names() -> None:
    assert decode_reply(Ping(), codec.encode(Pong("ab", 1.0))) == Pong("ab", 1.0)
    assert decode_reply(Thumb(b""), codec.encode(b"small")) == b"small"
    assert decode_reply("hello", codec.encode({"any": "thing"})) == {"any": "thing"}


def test_a_reply_of_another_type_is_a_bad_message() -> None:
    with pytest.raises(BadMessage):
        decode_reply(Thumb(b""), codec.encode("text"))


@pytest.mark.parametrize("message", [Children("a"), Siblings("a"), Leaves(1)])
def test_a_reply_is_what_the_class_names_though_it_names_it_early_or_leaves_it_to_a_parent(message: Any) -> None:
    assert decode_reply(message, codec.encode([Leaf("x")])) == [Leaf("x")]


def test_a_reply_may_be_of_its_own_class_or_that_of_a_parents_variable() -> None:
    assert decode_reply(Itself(1), codec.encode(Itself(2))) == Itself(2)
    assert decode_reply(OneLeaf(), codec.encode(Leaf("x"))) == Leaf("x")
    assert decode_reply(Lost(1), codec.encode(Leaf("x"))) == {"name": "x"}


def test_a_reply_that_is_something_else_says_whose_it_is_and_that_the_message_may_have_run() -> None:
    with pytest.raises(
        BadMessage, match=r"the reply to img\.Thumb is not a bytes: Expected `bytes`, got `str`"
    ) as refused:
        decode_reply(Thumb(b""), codec.encode("text"))
    assert refused.value.maybe_executed


def test_a_subclass_inherits_what_it_is_answered_with() -> None:
    class Sharp(Thumb):
        radius: float = 1.0

    assert messages.reply_type(Sharp) is bytes
    assert Sharp.wire_type == "test_object.Sharp"


def test_a_reference_may_be_copied() -> None:
    reference = Reference("pool", Answers, "name")
    for again in (copy.copy(reference), copy.deepcopy(reference)):
        assert vars(again) == vars(reference)
    with pytest.raises(AttributeError, match="Answers has no handler 'nothing'"):
        reference.nothing("hello")


# --- JSON in place of a class ---


class Nested(Message[int], namespace="t"):
    pairs: dict[str, bytes]
    parts: list[bytes | None]
    thumb: msgspec.Raw | None = None


def test_json_becomes_the_body_of_a_typed_message_with_base64_for_bytes() -> None:
    schema = msgspec.json.schema(Thumb)
    body = messages.body_from_json('{"raw": "cG5n", "size": 32}', schema)
    assert codec.decode(body, Thumb) == Thumb(b"png", 32)


def test_base64_is_found_however_deep_it_is() -> None:
    class Inner(msgspec.Struct):
        raw: bytes

    class Outer(Message[int], namespace="t"):
        inner: list[Inner]
        maybe: bytes | None
        by_name: dict[str, bytes]

    body = messages.body_from_json(
        '{"inner": [{"raw": "YQ=="}], "maybe": "Yg==", "by_name": {"c": "Yw=="}}', msgspec.json.schema(Outer)
    )
    assert codec.decode(body, Outer) == Outer([Inner(b"a")], b"b", {"c": b"c"})


ENDLESS = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}
DOUBLING: dict[str, Any] = {
    "$ref": "#/$defs/0",
    "$defs": {
        str(number): {"anyOf": [{"$ref": f"#/$defs/{number + 1}"}, {"items": {"$ref": f"#/$defs/{number + 1}"}}]}
        for number in range(300)
    },
}


ODD_SCHEMAS: list[Any] = [{"$ref": 1}, {"$defs": 3, "$ref": "x"}, {"anyOf": 1}, {"items": [3]}, {"properties": 1}]


@pytest.mark.parametrize("schema", [ENDLESS, DOUBLING, *ODD_SCHEMAS])
def test_the_schema_of_a_stranger_ends_and_breaks_nothing(schema: Any) -> None:
    text = '{"a": ["x", [["y"]]], "b": {"c": "z"}}'
    assert codec.decode(messages.body_from_json(text, schema), dict) == {"a": ["x", [["y"]]], "b": {"c": "z"}}


def test_without_a_schema_json_is_taken_as_it_is() -> None:
    assert codec.decode(messages.body_from_json('{"a": [1, null, "x"]}'), dict) == {"a": [1, None, "x"]}


@pytest.mark.parametrize("text", ["{", "", '{"raw": "not base64!"}', '{"raw": "ä"}', "[" * 100_000, "1" * 30])
def test_what_is_not_json_or_not_base64_is_a_bad_message(text: str) -> None:
    with pytest.raises(BadMessage):
        messages.body_from_json(text, msgspec.json.schema(Thumb))


# --- services ---


def test_handlers_are_found_by_what_they_take() -> None:
    class Images:
        async def thumb(self, message: Thumb) -> bytes:
            return message.raw

        async def greet(self, name: str, ctx: Context) -> str:
            return f"{ctx.sender} {name}"

        async def count(self, up_to: int) -> AsyncIterator[int]:
            for number in range(up_to):
                yield number

        async def numbers(self, message: list[int]) -> int:
            return sum(message)

        async def _helper(self) -> None: ...

        def helper(self, number: float) -> float:
            return number

        async def start(self, ctx: Context) -> None: ...

        async def stop(self) -> None: ...

    assert sorted(service_type(Images).handlers) == ["img.Thumb", "int", "list", "str"]
    assert handler_of(Images, "str").takes_context
    assert handler_of(Images, "int").streams
    assert handler_of(Images, "int").schema().reply == {"type": "integer"}
    assert handles(Images, "thumb") is Thumb
    assert handles(Images, "numbers") is list


def test_a_service_without_a_decorator_has_the_defaults() -> None:
    class Bare:
        async def take(self, text: str) -> None: ...

    assert service_type(Bare).isolation == "loop"
    assert service_type(Bare) is service_type(Bare)


def test_a_plain_method_is_a_handler_only_where_it_takes_a_message_class() -> None:
    class Mixed:
        def thumb(self, message: Thumb) -> bytes:
            return message.raw

        def double(self, number: int) -> int:
            return 2 * number

    assert list(service_type(Mixed).handlers) == ["img.Thumb"]


def test_a_subclass_inherits_handlers_and_options() -> None:
    @service("img/*", concurrency=1)
    class Base:
        async def one(self, text: str) -> None: ...

    class Derived(Base):
        async def two(self, number: int) -> None: ...

    assert sorted(service_type(Derived).handlers) == ["int", "str"]
    assert service_type(Derived).concurrency == 1
    assert list(service_type(Base).handlers) == ["str"]


def test_idempotent_handlers_are_listed_for_the_descriptor() -> None:
    class Some:
        @idempotent
        async def read(self, key: str) -> None: ...

        async def write(self, key: bytes) -> None: ...

    @idempotent
    class All:
        async def read(self, key: str) -> None: ...

    assert service_type(Some).idempotent == ("str",)
    assert service_type(All).idempotent == ("*",)


def test_a_decorated_handler_is_still_one_but_never_plain() -> None:
    def twice(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, *arguments: Any) -> Any:
            return function(self, *arguments)

        return wrapper

    class Decorated:
        @twice
        async def quick(self, text: str) -> str:
            return text

        @twice
        async def count(self, up_to: int) -> AsyncIterator[int]:
            yield up_to

    assert not handler_of(Decorated, "str").plain
    assert not handler_of(Decorated, "str").sync
    assert handler_of(Decorated, "int").streams


def test_only_a_handler_without_anything_to_wait_for_is_plain() -> None:
    class Kinds:
        async def quick(self, text: str) -> str:
            return text.upper()

        async def waits(self, number: int) -> None:
            if number:
                await asyncio.sleep(number)

        async def has_timeout(self, number: float) -> None:
            async with asyncio.timeout(1):
                pass

        async def loops(self, data: bytes, ctx: Context) -> None:
            async for _ in ctx.stream("x", data):
                pass

        async def comprehends(self, data: dict[str, str], ctx: Context) -> list[Any]:
            return [x async for x in ctx.stream("x", data)]

        async def asks_for_its_task(self, items: list[int]) -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        async def streams(self, flag: bool) -> AsyncIterator[int]:
            yield 1

    assert [h.method for h in service_type(Kinds).handlers.values() if h.plain] == ["quick"]


class NotAnnotated:
    async def take(self, message):  # type: ignore[no-untyped-def]
        ...


class NoParameter:
    async def take(self) -> None: ...


class TooMany:
    async def take(self, a: str, b: Context, c: int) -> None: ...


class KeywordOnly:
    async def take(self, a: str, *, b: int) -> None: ...


class NotAMessage:
    async def take(self, message: set[int]) -> None: ...


class Everything:
    async def take(self, message: Message[int]) -> None: ...


class Unresolvable:
    async def take(self, message: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


class SecondIsNoContext:
    async def take(self, message: str, other: int) -> None: ...


class Twice:
    async def one(self, message: str) -> None: ...
    async def two(self, message: str) -> None: ...


class AnswersPing:
    async def ping(self, message: Ping) -> Pong: ...  # type: ignore[empty-body]


class Nothing:
    pass


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (NotAnnotated, "NotAnnotated.take: 'message' needs a type annotation"),
        (NoParameter, r"takes \(self, message\) or \(self, message, ctx\); a method that is no handler has"),
        (TooMany, "a handler takes"),
        (KeywordOnly, "a handler takes"),
        (NotAMessage, "NotAMessage.take: set is no message type; take str, bytes"),
        (Everything, "is no message type"),
        (Unresolvable, "cannot be resolved: name 'Nowhere'"),
        (SecondIsNoContext, "'other' is given the titan.Context"),
        (Twice, "one and two both take str"),
        (AnswersPing, "every object answers titan.Ping already"),
        (Nothing, "has no handler: write an async method"),
    ],
)
def test_a_mistake_is_found_when_the_class_is_declared(cls: type, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        service(cls)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"mailbox": 0}, {"isolation": "thread"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    class Bare:
        async def take(self, text: str) -> None: ...

    with pytest.raises(TypeError):
        service("x", **options)(Bare)
