"""Objects as their authors write them: services, handlers, and what a handler knows of its caller.

    @titan.service("greeter", policy=Policy(min_copies=2))
    class Greeter:
        async def greet(self, name: str) -> str:
            return f"hello, {name}"

A handler is an async method `(self, message)` or `(self, message, ctx)`; the annotation of `message` says what it
takes. An async generator answers with a stream. A plain (not async) method is a handler only where it takes a
`titan.Message`. Names with a leading underscore, `start(self, ctx)` and `stop(self)` are the class's own.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, overload

from titan_overlay.identity.statements import Kind, Policy
from titan_overlay.pool.context import Context, Outbound, Sender
from titan_overlay.pool.hosting.handlers import Handler, find_handlers
from titan_overlay.pool.message import Message, decode_reply, encode_message
from titan_overlay.pool.questions import MessageSchema

__all__ = [
    "Context",
    "Isolation",
    "Message",
    "Outbound",
    "Sender",
    "ServiceType",
    "decode_reply",
    "encode_message",
    "handles",
    "idempotent",
    "service",
    "service_type",
]

T = TypeVar("T")
C = TypeVar("C", bound=type)

Isolation = Literal["loop", "process"]


class ServiceType:
    """All there is to know about a class of services: its handlers by message type, and how it wants to be run."""

    __slots__ = ("cls", "concurrency", "handlers", "idempotent", "isolation", "mailbox", "pattern", "policy")

    kind: ClassVar[Kind] = "service"

    def __init__(
        self,
        cls: type,
        pattern: str = "*",
        policy: Policy | None = None,
        isolation: Isolation = "loop",
        concurrency: int | None = None,
        mailbox: int | None = None,
    ) -> None:
        if isolation not in get_args(Isolation):
            raise TypeError(f"{cls.__name__}: isolation is 'loop' or 'process', not {isolation!r}")
        for what, value in (("concurrency", concurrency), ("mailbox", mailbox)):
            if value is not None and value < 1:
                raise TypeError(f"{cls.__name__}: {what} is at least 1, not {value}")
        self.cls = cls
        self.pattern = pattern
        self.policy = policy or Policy()
        self.isolation: Isolation = isolation
        self.concurrency = concurrency
        """Handlers at once; 1: one message after the other. None: the host's default."""
        self.mailbox = mailbox
        """Messages that may wait. None: the host's default."""
        self.handlers = self._find_handlers(cls)
        if isolation == "process":
            for handler in self.handlers.values():
                if handler.streams:
                    raise TypeError(
                        f"{cls.__name__}.{handler.method} answers with a stream, which isolation='process' does not do"
                    )
        everything = bool(cls.__dict__.get("__titan_idempotent__", False))
        safe = tuple(sorted(h.type for h in self.handlers.values() if h.idempotent))
        self.idempotent: tuple[str, ...] = ("*",) if everything else safe
        """For `Descriptor.idempotent`."""

    def _find_handlers(self, cls: type) -> dict[str, Handler]:
        return find_handlers(cls)

    def derived(self, cls: type) -> "ServiceType":
        """For a subclass that says nothing itself: the same options."""
        return ServiceType(cls, self.pattern, self.policy, self.isolation, self.concurrency, self.mailbox)

    def schema(self) -> dict[str, MessageSchema]:
        return {name: handler.schema() for name, handler in self.handlers.items()}


@overload
def service(cls: C, /) -> C: ...
@overload
def service(
    pattern: str = "*",
    /,
    *,
    policy: Policy | None = None,
    isolation: Isolation = "loop",
    concurrency: int | None = None,
    mailbox: int | None = None,
) -> Callable[[C], C]: ...
def service(pattern: Any = "*", /, **options: Any) -> Any:
    """Class decorator: an object type whose instances answer messages.

    Args:
        pattern: names it is meant for (`img/*`); `publish` takes it as the name where it has no star.
        policy: how the pool keeps copies, where `publish` says nothing else.
        isolation: "process" runs the handlers in a warm process of their own: for those that compute for long.
        concurrency: handlers that run at once; 1: strictly one after the other.
        mailbox: messages that may wait; one more is answered `Overloaded`.

    Raises:
        TypeError: a method looks like a handler but is not one; the text says what is wrong with it.
    """

    def declare(cls: Any) -> Any:
        cls.__titan_service__ = ServiceType(cls, pattern, **options)
        return cls

    if isinstance(pattern, type):
        cls, pattern = pattern, "*"
        return declare(cls)
    return declare


def service_type(cls: type) -> ServiceType:
    """What `@service` found out about the class; an undecorated class gets its parent's options, or the defaults.

    Raises:
        TypeError: it is not a service.
    """
    known: ServiceType | None = cls.__dict__.get("__titan_service__")
    if known is None:
        parent: ServiceType | None = getattr(cls, "__titan_service__", None)
        known = ServiceType(cls) if parent is None else parent.derived(cls)
        cls.__titan_service__ = known  # type: ignore[attr-defined]
    return known


def handles(cls: type, method: str) -> type:
    """The type of message that a method of a service takes.

    Raises:
        AttributeError: it has no such handler.
    """
    for handler in service_type(cls).handlers.values():
        if handler.method == method:
            taken: type = get_origin(handler.message) or handler.message
            return taken
    raise AttributeError(f"{cls.__name__} has no handler {method!r}")


F = TypeVar("F", bound=Callable[..., Any])


def idempotent(handler: F) -> F:
    """Declares that a handler (or, on a class, every handler) may run more than once for one message.

    Only then is another copy asked after one may have begun to work and not answered.
    """
    handler.__titan_idempotent__ = True  # type: ignore[attr-defined]
    return handler
