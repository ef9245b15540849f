"""The handlers of a class: which methods take which messages, and how each may be run.

Found by annotation when the class is declared, so that a mistake is an error there and not at the first message.
"""

import dis
import inspect
import types
import typing
from collections.abc import Collection
from typing import Any, get_args, get_origin

import msgspec

from titan_overlay.pool.context import Context
from titan_overlay.pool.message import Message, reply_type, wire_type
from titan_overlay.pool.questions import QUESTIONS, MessageSchema
from titan_overlay.wire import codec


class Handler:
    """One method of a service and the message type it takes."""

    __slots__ = (
        "batch",
        "decoder",
        "idempotent",
        "message",
        "method",
        "plain",
        "readonly",
        "reply",
        "streams",
        "sync",
        "takes_context",
        "text",
        "type",
    )

    def __init__(self, type: str, message: Any, method: str, function: Any, reply: Any, takes_context: bool) -> None:
        self.type = type
        self.message = message
        self.method = method
        self.reply = reply
        self.takes_context = takes_context
        inner = inspect.unwrap(function)
        self.streams = inspect.isasyncgenfunction(inner)
        self.sync = not self.streams and not inspect.iscoroutinefunction(inner)
        # What a decorator adds around it may wait, whatever the method itself does.
        self.plain = self.sync or (inner is function and not self.streams and _never_suspends(function))
        """It ends in one step, so it can run without a task."""
        self.idempotent = bool(getattr(function, "__titan_idempotent__", False))
        self.readonly = bool(getattr(function, "__titan_readonly__", False))
        self.batch = bool(getattr(function, "__titan_batch__", False))
        """It takes a list of messages, and gives a list of replies."""
        self.text = (inspect.getdoc(function) or "").partition("\n")[0]
        self.decoder = codec.decoder(message)

    def schema(self) -> MessageSchema:
        return MessageSchema(
            message=_json_schema(self.message),
            reply=_json_schema(self.reply),
            stream=self.streams,
            idempotent=self.idempotent,
            text=self.text,
        )


SERVICE_HOOKS = ("start", "stop")
"""Public methods of a service that are no handlers."""


def find_handlers(cls: type, hooks: Collection[str] = SERVICE_HOOKS, *, all_plain: bool = False) -> dict[str, Handler]:
    """Handlers of a class (inherited ones too) by wire type.

    Args:
        hooks: public methods that are the class's own.
        all_plain: the class runs in steps that never wait: every handler is a plain method, whatever it takes.

    Raises:
        TypeError: a method cannot be a handler, two take the same type, or there is none.
    """
    found: dict[str, Handler] = {}
    for name, function in inspect.getmembers_static(cls, inspect.isfunction):
        if name.startswith("_") or name in hooks:
            continue
        for handler in _handlers_of(cls, name, function, all_plain):
            if handler.type in QUESTIONS:
                raise TypeError(
                    f"{cls.__name__}.{name}: every object answers {handler.type} already; take a type of your own"
                )
            other = found.get(handler.type)
            if other is not None:
                raise TypeError(
                    f"{cls.__name__}: {other.method} and {name} both take {handler.type}; only one can answer it"
                )
            found[handler.type] = handler
    if not found:
        raise TypeError(
            f"{cls.__name__} has no handler: write an async method whose message is annotated, "
            "like `async def greet(self, name: str) -> str`"
        )
    return found


def _handlers_of(cls: type, name: str, function: types.FunctionType, all_plain: bool) -> list[Handler]:
    """The handlers that a method is: none, one, or one for each type of message that it takes in batches."""
    where = f"{cls.__name__}.{name}"
    inner = inspect.unwrap(function)
    is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
    if is_async and all_plain:
        raise TypeError(f"{where}: the handlers of a mutable object are plain methods: every copy must do the same")
    advice = "; a method that is no handler has a name with a leading underscore"
    parameters = list(inspect.signature(function).parameters.values())[1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    fits = 1 <= len(positional) <= 2 and len(needed) <= 2 and all(p in positional for p in needed)
    if not fits:
        if is_async:
            raise TypeError(f"{where}: a handler takes (self, message) or (self, message, ctx){advice}")
        return []
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError) as why:
        if is_async:
            raise TypeError(f"{where}: an annotation cannot be resolved: {why}") from None
        return []
    if positional[0].name not in hints:
        if is_async:
            raise TypeError(
                f"{where}: {positional[0].name!r} needs a type annotation, which says what messages it takes{advice}"
            )
        return []
    annotation = hints[positional[0].name]
    in_batches = bool(getattr(function, "__titan_batch__", False))
    if in_batches and (not all_plain or get_origin(annotation) is not list):
        raise TypeError(f"{where}: a batch handler is a method of a mutable object, and takes a list[Message]{advice}")
    if not is_async and not _is_message_class(annotation) and not (all_plain and wire_type(annotation)):
        return []
    if len(positional) == 2 and hints.get(positional[1].name, Context) is not Context:
        raise TypeError(f"{where}: {positional[1].name!r} is given the titan.Context, and is annotated otherwise")
    takes, gives = [annotation], hints.get("return")
    if in_batches:
        (element,) = get_args(annotation)
        takes = list(get_args(element)) if get_origin(element) in (typing.Union, types.UnionType) else [element]
        gives = next(iter(get_args(gives)), None)
    return [_handler(where, name, function, each, gives, len(positional) == 2) for each in takes]


def _handler(where: str, name: str, function: Any, annotation: Any, returned: Any, takes_context: bool) -> Handler:
    type_name = wire_type(annotation)
    if type_name is None:
        raise TypeError(
            f"{where}: {getattr(annotation, '__name__', annotation)} is no message type; "
            "take str, bytes, int, float, bool, list, dict or a class that derives from titan.Message"
        )
    reply = _reply_of(returned, inspect.isasyncgenfunction(inspect.unwrap(function)))
    if reply is Any and _is_message_class(annotation):
        reply = reply_type(annotation)
    try:
        return Handler(type_name, annotation, name, function, reply, takes_context)
    except TypeError as why:
        raise TypeError(f"{where}: {type_name} cannot be a message: {why}") from None


def _is_message_class(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Message)


def _reply_of(returned: Any, streams: bool) -> Any:
    """Type of one reply: `X` of `-> X`, or of `-> AsyncIterator[X]`; Any where nothing is said."""
    if returned is None:
        return Any
    if streams:
        arguments = get_args(returned)
        return arguments[0] if arguments else Any
    return returned


_SUSPENDING = frozenset({"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "BEFORE_ASYNC_WITH", "SEND", "YIELD_VALUE"})


def _never_suspends(function: types.FunctionType) -> bool:
    """Whether a coroutine function contains nothing that it could wait at, so that one step ends it.

    Code that asks for its own task needs one, and is never plain.
    """
    if "current_task" in function.__code__.co_names:
        return False
    return all(step.opname not in _SUSPENDING for step in dis.get_instructions(function.__code__))


def _json_schema(annotation: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(annotation)
    except (TypeError, ValueError, RecursionError):
        return {}  # a type that JSON has no words for: anything goes, the handler's decoder decides
