"""What other wheels add to the programs: sub-commands of `titan`, flags of `titan-node`.

A wheel names a function in the entry-point group `titan_overlay.cli`; it is called with `Commands`:

    def register(commands: titan.Commands) -> None:
        commands.group("cache", "A cache.").command(get)

    async def get(face: titan.Face, name: Annotated[str, typer.Argument()]) -> None: ...
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from titan_overlay.client import Pool

F = TypeVar("F", bound=Callable[..., Any])


class Serving(Protocol):
    """What a door serves, once there is a pool."""

    def __call__(self, pool: "Pool", /) -> AbstractAsyncContextManager[str]:
        """Serves while it is open, and says what, in a line. Raises ConfigError (on entry): it cannot."""
        ...


Door = Callable[[Mapping[str, str]], Serving]
"""(the values of those flags that were given) -> what to serve with them, once the node runs.

Raises ConfigError: a value makes no sense. Nothing has been made or founded yet."""


class Face(Protocol):
    """A command's way to its user and to the pool."""

    def pool(self, target: str | None = None) -> "AbstractAsyncContextManager[Pool]":
        """The pool, as a light client of this user's key; through `target`, or whatever the user said."""
        ...

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment for a program that is to find the same pool, with the same key."""
        ...

    def show(self, value: Any, render: Callable[[], Any]) -> None:
        """Prints a result: `value` as JSON, or what `render` makes for people (a text, or a table of `rich`)."""

    def note(self, text: str) -> None:
        """A remark for people, on standard error."""


class Commands(Protocol):
    """What a wheel can add to."""

    def command(self, function: F) -> F:
        """A command: a function `(face, ...)` as typer takes it, which may be async; it has `--bootstrap`, `--json`."""
        ...

    def group(self, name: str, text: str) -> "Commands":
        """Commands behind a word of their own, `titan NAME ...`; `text` explains them."""
        ...

    def node_flags(self, flags: Mapping[str, tuple[str, str]], door: Door) -> None:
        """Flags of `titan-node`, each with the name of its value and its help; `door` is opened where one is given."""
