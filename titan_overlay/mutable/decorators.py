"""Mutable objects as their authors write them.

    @titan.mutable("bank/*", policy=titan.Policy(faults=1))
    class Bank:
        balances: dict[str, int] = {}

        def withdraw(self, m: Withdraw, ctx: titan.Context) -> int: ...

        @titan.readonly
        def balance(self, account: str) -> int: ...

        @titan.batch
        def pay(self, payments: list[Payment]) -> list[int]: ...

The state is the object's annotated attributes. Handlers are plain methods, and all copies run them in the same order:
what they decide may depend on the message, the state, and what `ctx` gives, and on nothing else. A handler that raises
has changed nothing.

A class with much state writes its own `snapshot(self) -> Iterator[bytes]` and `restore(self, chunk)`; it then has no
annotated state, and a handler of it that raises must have changed nothing by itself. Handlers go on between two chunks
of `snapshot`, which must give the state as it was at the first; `restore` is called on a new instance with each chunk
in turn, cut as `snapshot` has cut them. What either does in one step, everybody waits for.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from titan_overlay.identity.statements import Policy

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


@overload
def mutable(cls: C, /) -> C: ...
@overload
def mutable(pattern: str = "*", /, *, policy: "Policy | None" = None, version: int = 1) -> Callable[[C], C]: ...
def mutable(pattern: Any = "*", /, **options: Any) -> Any:
    """Class decorator: an object whose state changes, kept the same on all its members.

    Args:
        pattern: names it is meant for (`bank/*`).
        policy: `faults=t` crashes (or with `byzantine=True` liars) that it survives.
        version: of its state; a class with a higher one has a classmethod `migrate(version, fields) -> fields`.

    Raises:
        TypeError: a handler is async, the state cannot be kept; the text says what is wrong.
    """

    def declare(cls: Any) -> Any:
        from titan_overlay.mutable.declare import MutableType

        cls.__titan_service__ = MutableType(cls, pattern, **options)
        return cls

    if isinstance(pattern, type):
        cls, pattern = pattern, "*"
        return declare(cls)
    return declare


def readonly(handler: F) -> F:
    """Declares that a handler changes nothing: it is answered without a place in the order, and still never stale."""
    handler.__titan_readonly__ = True  # type: ignore[attr-defined]
    return handler


def batch(handler: F) -> F:
    """Declares a handler that takes many messages in one call, `(self, messages: list[M], ctx) -> list[Reply]`.

    It is called with those messages of one `pool.send_batch` that stand next to each other and are of its types (`M`
    may be a union), or with a list of one. It gives a reply for each, in their order; an error of Titan's in place of
    a reply is raised for the sender of that message alone. Where the handler itself raises, it has failed for all.
    """
    handler.__titan_batch__ = True  # type: ignore[attr-defined]
    return handler
