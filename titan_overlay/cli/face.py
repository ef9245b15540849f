"""What all commands of `titan` share: their common options, and the way in to the pool."""

import inspect
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from titan_overlay.cli import outcome, output

if TYPE_CHECKING:  # what a command needs is imported when it runs: `titan --help` is to be fast
    from titan_overlay.client import Pool

_PARSERS_OWN = (typer.Exit, typer.Abort, typer.BadParameter)

F = TypeVar("F", bound=Callable[..., Any])

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Directory with your key, grants and node. [TITAN_DATA, or the user's]"),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--bootstrap", "-b", metavar="HOST:PORT", help="Node to go through. [TITAN_BOOTSTRAP, or your node here]"
    ),
]
VerboseFlag = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log, and where an error came from.")]


@dataclass(frozen=True, slots=True)
class Face:
    """One command's way to its user and to the pool."""

    json: bool
    data: Path | None
    target: str | None
    verbose: bool

    @property
    def directory(self) -> Path:
        """The data directory: as given, else `TITAN_DATA`, else the user's."""
        from titan_overlay.config import default_data_directory

        if self.data is not None:
            return self.data.expanduser()
        named = os.environ.get("TITAN_DATA")
        return Path(named).expanduser() if named else default_data_directory()

    @asynccontextmanager
    async def pool(self, target: str | None = None) -> "AsyncIterator[Pool]":
        """The pool, as a light client of this user's key; through `target`, or whatever the user said."""
        from titan_overlay.connecting import connect

        async with connect(target or self.target, data=self.directory) as pool:
            yield pool

    @property
    def variables(self) -> dict[str, str]:
        """The environment for a program that is to find the same pool, with the same key."""
        from titan_overlay.connecting import BOOTSTRAP_VARIABLE

        target = {} if self.target is None else {BOOTSTRAP_VARIABLE: self.target}
        return {**os.environ, **target, "TITAN_DATA": str(self.directory)}

    def show(self, value: Any, render: Callable[[], Any]) -> None:
        """Prints a result: `value` as JSON, or what `render` makes for people."""
        if self.json:
            output.print_json(value)
        else:
            output.print_rich(render())

    def note(self, text: str) -> None:
        """A remark for people, on standard error."""
        if not self.json:
            output.note(text)


def command(app: typer.Typer, name: str | None = None, *, connects: bool = True, **settings: Any) -> Callable[[F], F]:
    """Makes a command of a function `(face, ...)`, which may be async, and adds the common options to its own.

    Args:
        connects: it goes to the pool, so it takes `--bootstrap`.
    """

    def declare(function: F) -> F:
        common = {"json": JsonFlag, "data": DataOption, "verbose": VerboseFlag}
        if connects:
            common["target"] = TargetOption
        defaults = {"json": False, "data": None, "verbose": False, "target": None}

        def face(**given: Any) -> None:
            options = {key: given.pop(f"face_{key}", defaults[key]) for key in defaults}
            made = Face(**options)
            outcome.run(lambda: function(made, **given), json=made.json, verbose=made.verbose, passing=_PARSERS_OWN)

        own = list(inspect.signature(function).parameters.values())[1:]
        added = [
            inspect.Parameter(f"face_{key}", inspect.Parameter.KEYWORD_ONLY, default=defaults[key], annotation=kind)
            for key, kind in common.items()
        ]
        keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        face.__signature__ = inspect.Signature([*keyword, *added])  # type: ignore[attr-defined]
        face.__annotations__ = {each.name: each.annotation for each in (*keyword, *added)}
        face.__doc__ = function.__doc__
        app.command(name or function.__name__.replace("_", "-"), **settings)(face)
        return function

    return declare
