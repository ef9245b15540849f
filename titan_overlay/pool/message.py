"""Messages: what can be sent to a name, what it is called on the wire, and what comes back.

A message is a builtin (`str, bytes, int, float, bool, list, dict`) or a class of its own, which says what it is
answered with, so that type checkers know what `send` gives:

    class Thumb(titan.Message[bytes], namespace="img"):
        raw: bytes
        size: int = 64

On the wire it is a msgpack map of its fields under the type name `img.Thumb`, the same bytes that a JSON object with
these keys becomes: a sender needs the name and the schema, not the class.
"""

import base64
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.wire import codec

R = TypeVar("R", covariant=True)

BUILTINS: dict[type, str] = {
    str: "str",
    bytes: "bytes",
    bool: "bool",
    int: "int",
    float: "float",
    list: "list",
    dict: "dict",
}
"""Message types without a class of their own, and their names on the wire. `bool` before its base, `int`."""

_SENT_AS: dict[type, str] = {bytearray: "bytes", memoryview: "bytes", tuple: "list", **BUILTINS}
"""What may be sent, and as what: msgpack has one kind of bytes and one of list."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class MessageMeta(msgspec.StructMeta):
    """Adds the class keyword `namespace`, and makes every message frozen."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        members: dict[str, Any],
        *,
        namespace: str | None = None,
        **settings: Any,
    ) -> "MessageMeta":
        if settings.get("array_like"):
            raise TypeError(f"{name}: a message is a map on the wire, so it cannot be array_like")
        for parent in members.get("__orig_bases__", ()):
            for reply in get_args(parent) if isinstance(get_origin(parent), MessageMeta) else ():
                if get_origin(reply) in (AsyncGenerator, AsyncIterable, AsyncIterator):
                    item = getattr(get_args(reply)[0], "__name__", get_args(reply)[0])
                    raise TypeError(f"{name}: for a stream, a message names one of its items: titan.Message[{item}]")
        settings.setdefault("frozen", True)
        cls = super().__new__(mcls, name, bases, members, **settings)
        if namespace is None:
            namespace = _default_namespace(cls.__module__)
        if not namespace or "." in namespace:
            raise TypeError(f"{name}: a namespace is one word without dots, not {namespace!r}")
        cls.wire_type = f"{namespace}.{name}"  # type: ignore[attr-defined]
        return cls


class Message(msgspec.Struct, Generic[R], metaclass=MessageMeta, namespace="titan"):
    """Base of message types; `Message[Reply]` says what its handler returns, or for a stream, yields.

    Class keyword `namespace`: first part of the type's name on the wire; default: the last part of the module's name.
    """

    wire_type: ClassVar[str] = ""
    """Name of the type on the wire, `<namespace>.<Class>`."""


def _default_namespace(module: str) -> str:
    """Last part of a module's name; for a program that is run, what it would be called when imported."""
    if module != "__main__":
        return module.rpartition(".")[2]
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name.removesuffix(".__main__").rpartition(".")[2])
    return PurePath(getattr(main, "__file__", "") or "main").stem.replace(".", "_")


def wire_type(annotation: Any) -> str | None:
    """Wire name of a message type as it is annotated (`str`, `list[int]`, `Thumb`), or None: not a message."""
    origin = get_origin(annotation) or annotation
    if isinstance(origin, MessageMeta):
        return str(origin.wire_type) if origin is not Message else None  # type: ignore[attr-defined]
    return BUILTINS.get(origin)


def reply_type(cls: type) -> Any:
    """`Reply` of a class that derives from `Message[Reply]`; Any where it does not say, or names what is not found."""
    reply = _reply_of(cls)
    return Any if isinstance(reply, TypeVar) else reply


def _reply_of(cls: type) -> Any:
    """The same; it may be, or hold, a variable that a subclass fills in."""
    for parent in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin, given = get_origin(parent) or parent, get_args(parent)
        if isinstance(origin, MessageMeta):
            given = tuple(_resolved(each, cls.__module__) for each in given)
            if origin is Message:
                return given[0] if given else Any
            variables = getattr(origin, "__parameters__", ())
            return _filled_in(_reply_of(origin), dict(zip(variables, given, strict=False)))
    return Any


def _filled_in(annotation: Any, known: Mapping[Any, Any]) -> Any:
    """With what is known of its variables in their places."""
    if isinstance(annotation, TypeVar):
        return known.get(annotation, annotation)
    variables = getattr(annotation, "__parameters__", ())
    return annotation[tuple(known.get(each, each) for each in variables)] if variables else annotation


def _resolved(annotation: Any, module: str) -> Any:
    """With the classes that it names by texts, as later ones of that module are."""
    holder = type("holder", (), {"__annotations__": {"reply": annotation}, "__module__": module})
    try:
        return get_type_hints(holder, include_extras=True)["reply"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


_REPLY_TYPES: dict[type, Any] = {}
"""Remembered answers of `reply_type`; grows by classes only."""


def encode_message(message: Any) -> tuple[str, bytes]:
    """Type name and msgpack body of a message.

    Raises:
        BadMessage: it is of no type that can be sent, or holds a value that msgpack has no form for.
    """
    kind = type(message)
    if isinstance(message, Message):
        name = kind.wire_type
    else:
        name = _SENT_AS.get(kind) or next((name for known, name in _SENT_AS.items() if isinstance(message, known)), "")
    if not name and isinstance(message, type):
        raise BadMessage(f"{message.__name__} is a class; send one of it: {message.__name__}(...)")
    if not name:
        raise BadMessage(
            f"a {kind.__name__} cannot be sent; "
            f"send {', '.join(BUILTINS.values())} or a class that derives from titan.Message"
        )
    try:
        return name, codec.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as why:
        raise BadMessage(f"this {kind.__name__} cannot be encoded: {why}") from None


def decode_reply(message: Any, body: bytes | msgspec.Raw) -> Any:
    """The reply to `message` in these bytes: of the type that its class names, or as it is for a builtin.

    Raises:
        BadMessage: the object answered with something else.
    """
    kind = type(message)
    try:
        expected = _REPLY_TYPES[kind]
    except KeyError:
        expected = _REPLY_TYPES[kind] = reply_type(kind) if isinstance(message, Message) else Any
    try:
        return codec.decode(body, expected)
    except BadMessage as why:
        sent = getattr(kind, "wire_type", kind.__name__)
        raise BadMessage(f"the reply to {sent} is {why}", maybe_executed=True) from None


# --- JSON ---------------------------------------------------------------------------------------------------


def body_from_json(text: str | bytes, schema: Any = None) -> bytes:
    """The msgpack body of a message written as JSON, for senders without its class.

    Args:
        schema: JSON schema of the message type, from the object's `Schema`: says which texts are base64 of bytes.
            What is no schema says nothing.

    Raises:
        BadMessage: not JSON, or text that should be base64 and is not.
    """
    try:
        value = msgspec.json.decode(text)
        if isinstance(schema, dict):
            value = _with_bytes(value, [schema], schema.get("$defs"))
        return codec.encode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as why:
        raise BadMessage(f"the message is not JSON, or too big a number is in it: {why}") from None


SCHEMAS_MAX = 256
"""That one value may have to choose among. A schema is a stranger's: it may name itself, or twice as many each time."""


def _with_bytes(value: Any, schemas: Sequence[Any], named: Any) -> Any:
    """The value, with base64 text turned into bytes where one of these schemas says so. Depth is that of the value."""
    if not schemas or not isinstance(value, str | dict | list):
        return value
    options = _options(schemas, named)
    if isinstance(value, str):
        if all(option.get("contentEncoding") != "base64" for option in options):
            return value
        try:
            return base64.b64decode(value, validate=True)
        except ValueError as why:
            raise BadMessage(f"bytes are written as base64 in JSON, and {value[:20]!r} is not: {why}") from None
    if isinstance(value, list):
        inner = [option["items"] for option in options if "items" in option]
        return [_with_bytes(item, inner, named) for item in value]
    fields = [option["properties"] for option in options if isinstance(option.get("properties"), dict)]
    rest = [option["additionalProperties"] for option in options if "additionalProperties" in option]
    return {
        key: _with_bytes(item, [each[key] for each in fields if key in each] or rest, named)
        for key, item in value.items()
    }


def _options(schemas: Sequence[Any], named: Any) -> list[dict[str, Any]]:
    """All that these schemas allow, with what they refer to (`$ref`) and choose from (`anyOf`); each once."""
    waiting = list(schemas)
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    while waiting and len(found) < SCHEMAS_MAX:
        schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        found.append(schema)
        reference, choices = schema.get("$ref"), schema.get("anyOf")
        if isinstance(reference, str) and isinstance(named, dict):
            waiting.append(named.get(reference.rpartition("/")[2]))
        if isinstance(choices, list | tuple):
            waiting += choices[:SCHEMAS_MAX]
    return found
