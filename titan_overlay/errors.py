"""The tree of errors.

    TitanError
    ├── ConfigError            a setting is wrong                        (local only)
    ├── StorageError           the data directory is in use, corrupt or full (local only)
    ├── LinkError              a link broke or could not be made         (local only)
    └── RemotableError         crosses the wire as a code with fields
        ├── NotFound           no live copy of that name was found
        ├── Gone               the object was deleted
        ├── NotHere            this node holds no copy (any more)
        ├── Forbidden          a right is missing
        ├── BadMessage         the bytes or the message's type are not understood
        ├── Unavailable        copies exist, none answered
        ├── DeadlineExceeded   the time given has run out
        ├── Overloaded         a bounded queue is full
        ├── Conflict           somebody else was first
        ├── ReentrantCall      a chain of calls came back to a busy object
        └── RemoteError        the handler raised
            └── ...            typed errors of the user's own (`@titan.error`)

Each remotable error says whether the same request may be sent again (`retryable`) and whether it may have run
(`maybe_executed`). Errors are values on the wire: a code, a text and a few fields; never a traceback.
"""

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar, TypeVar

import msgspec


class TitanError(Exception):
    """Everything that Titan Overlay raises on purpose. The text says what happened, to what, and what to do."""


class ConfigError(TitanError):
    """A setting cannot be used; the text names it, where it came from, and what would be right."""


class StorageError(TitanError):
    """The data directory cannot be used: taken by another process, not writable, corrupt or full."""


class LinkError(TitanError):
    """A link to a peer broke or could not be made. Never crosses the wire: the router turns it into `Unavailable`."""

    def __init__(self, message: str, *, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed


class RemotableError(TitanError):
    """An error that can be an answer. Fields: those of `FIELDS`, all msgpack values."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    FIELDS: ClassVar[tuple[str, ...]] = ()

    maybe_executed: bool = False

    def __init__(self, message: str = "", *, maybe_executed: bool = False) -> None:
        super().__init__(message)
        self.maybe_executed = maybe_executed

    def to_wire(self) -> "WireError":
        fields = {name: getattr(self, name, None) for name in self.FIELDS}
        text = str(self).encode("utf-8", "backslashreplace").decode()  # msgpack has no half of a character
        return WireError(getattr(self, "code", type(self).__name__), text, self.maybe_executed, fields)


class WireError(msgspec.Struct, frozen=True, array_like=True):
    """What an error looks like between two nodes."""

    code: str
    text: str
    maybe_executed: bool = False
    fields: dict[str, Any] = {}


class NotFound(RemotableError):
    """No live copy of that name was found. `asked`: how many nodes said so."""

    code = "not-found"
    FIELDS = ("asked",)

    def __init__(self, message: str = "", *, asked: int = 0, maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.asked = asked


class Gone(RemotableError):
    """The object was deleted by someone who had the right to."""

    code = "gone"


class NotHere(RemotableError):
    """This node holds no copy, or is not the one to answer. `hint`: id of a node that may be, or empty.

    `at`: the addresses of that node (`contacts.pack_addresses`), or empty. Nobody need believe them: the link to it
    proves its id.
    """

    code = "not-here"
    retryable = True
    FIELDS = ("hint", "at")

    def __init__(self, message: str = "", *, hint: bytes = b"", at: bytes = b"", maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.hint = hint
        self.at = at


class Forbidden(RemotableError):
    """A right is missing; the text says which, and which command grants it."""

    code = "forbidden"


class BadMessage(RemotableError):
    """The bytes are not what they should be, or the object has no handler for the message's type."""

    code = "bad-message"


class Unavailable(RemotableError):
    """Copies are known, but none answered. With `maybe_executed` the request may have run once."""

    code = "unavailable"
    retryable = True


class DeadlineExceeded(RemotableError):
    """The time given to the request has run out."""

    code = "deadline"
    retryable = True


class Overloaded(RemotableError):
    """A bounded queue is full, or a budget is used up. `retry_after`: seconds."""

    code = "overloaded"
    retryable = True
    FIELDS = ("retry_after",)

    def __init__(self, message: str = "", *, retry_after: float = 1.0, maybe_executed: bool = False) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.retry_after = retry_after


class Conflict(RemotableError):
    """Somebody else was first, or a higher version is there already."""

    code = "conflict"


class ReentrantCall(RemotableError):
    """A chain of calls came back to an object that waits for that chain."""

    code = "reentrant"


class RemoteError(RemotableError):
    """The handler raised. `type`: name of its exception; `correlation`: what to look for in the holder's log."""

    code = "remote"
    FIELDS = ("type", "correlation")

    def __init__(
        self, message: str = "", *, type: str = "", correlation: str = "", maybe_executed: bool = True
    ) -> None:
        super().__init__(message, maybe_executed=maybe_executed)
        self.type = type
        self.correlation = correlation


_BY_CODE: dict[str, type[RemotableError]] = {
    cls.code: cls
    for cls in (
        NotFound,
        Gone,
        NotHere,
        Forbidden,
        BadMessage,
        Unavailable,
        DeadlineExceeded,
        Overloaded,
        Conflict,
        ReentrantCall,
        RemoteError,
    )
}

E = TypeVar("E", bound=type[RemotableError])

BUNDLE_MODULES = "titan_bundles."
"""Modules of bundles are called so (`pool/hosting/importer.py`)."""


def error(code: str) -> Callable[[E], E]:
    """Class decorator that registers an error of the user's own: `@titan.error("bank.insufficient")`.

    The class derives from `RemoteError` and may list `FIELDS`; both ends that import it see the same type, other
    callers get a `RemoteError` whose `type` is the code.

    A class that came in a bundle neither clashes with one that did not, nor takes its place.

    Raises:
        ValueError: the code is taken or has no dot (codes without a dot are Titan's own).
    """
    if "." not in code:
        raise ValueError(f"error code {code!r} needs a dot, as in 'bank.insufficient'; plain codes are Titan's own")

    def register(cls: E) -> E:
        known = _BY_CODE.get(code)
        # Two versions of a bundle may be loaded at once, and a program may publish what it has also imported:
        # callers here go on with the class that they know.
        of_bundle = cls.__module__.startswith(BUNDLE_MODULES)
        known_of_bundle = known is not None and known.__module__.startswith(BUNDLE_MODULES)
        if known is not None and not (of_bundle or known_of_bundle) and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"error code {code!r} is already taken by {known.__qualname__}")
        cls.code = code
        if known is None or known_of_bundle or not of_bundle:
            _BY_CODE[code] = cls
        return cls

    return register


def from_wire(wire: WireError) -> RemotableError:
    """The exception that a `WireError` stands for; codes unknown here become `RemoteError`."""
    cls = _BY_CODE.get(wire.code)
    if cls is None:
        return RemoteError(
            wire.text,
            type=wire.code,
            correlation=str(wire.fields.get("correlation", "")),
            maybe_executed=wire.maybe_executed,
        )
    made = cls.__new__(cls)
    Exception.__init__(made, wire.text)
    made.maybe_executed = wire.maybe_executed
    for name in cls.FIELDS:
        setattr(made, name, _field(wire.fields.get(name), _field_defaults(cls).get(name)))
    return made


def _field(value: Any, default: Any) -> Any:
    """A field as it came, or its default: a peer may send anything, so its type must be the default's."""
    if default is None:
        return value
    if isinstance(default, float):
        # Seconds and the like: callers sleep on them.
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf
        return float(value) if fits else default
    return value if type(value) is type(default) else default


def _field_defaults(cls: type[RemotableError]) -> dict[str, Any]:
    """Of a class and of those that it derives from: an error of the user's own may leave their fields to them."""
    found: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        found.update(getattr(each.__dict__.get("__init__"), "__kwdefaults__", None) or {})
    return found
