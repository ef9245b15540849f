"""What all commands share: their common options, the way in to the pool, errors in one line, and exit statuses.

Exit status 0: done. 1: the operation failed. 2: a flag, a setting or the data directory is wrong. 130: interrupted.
"""

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from titan_overlay.cli import output

if TYPE_CHECKING:  # what a command needs is imported when it runs: `titan --help` is to be fast
    from titan_overlay.client import Pool

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
        from titan_overlay.connect import connect

        async with connect(target or self.target, data=self.directory) as pool:
            yield pool

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
            run(lambda: function(made, **given), json=made.json, verbose=made.verbose)

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


def run(work: Callable[[], Any], *, json: bool = False, verbose: bool = False, program: str = "titan") -> None:
    """Does the work of a command. What goes wrong becomes one line on standard error and an exit status."""
    output.set_up_logging(verbose)
    try:
        result = work()
        if inspect.iscoroutine(result):
            asyncio.run(result)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read our output has had enough (`titan ls | head`). Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as why:
        if verbose:
            _print_traceback(why)
        fail(why, json=json, program=program)


def fail(why: Exception, *, json: bool = False, program: str = "titan") -> NoReturn:
    """Says what went wrong in one line, and ends with the status for it."""
    from titan_overlay.errors import ConfigError, StorageError

    text, code = _explained(why)
    if json:
        fields = {name: getattr(why, name) for name in getattr(why, "FIELDS", ())}
        details = {
            "error": code,
            "text": text,
            "retryable": bool(getattr(why, "retryable", False)),
            "maybe_executed": bool(getattr(why, "maybe_executed", False)),
            **({"fields": fields} if fields else {}),
        }
        output.print_json(details, to=sys.stderr)
    else:
        output.note(f"{program}: {text}")
    raise typer.Exit(2 if isinstance(why, ConfigError | StorageError) else 1) from None


def _explained(why: Exception) -> tuple[str, str]:
    """A line for the error, and its code."""
    from titan_overlay.errors import ConfigError, RemotableError, RemoteError, StorageError, TitanError

    text = " ".join(str(why).split()) or type(why).__name__
    if isinstance(why, RemoteError):
        where = f" (look for {why.correlation} in the holder's log)" if why.correlation else ""
        return f"the object raised {why.type or 'an error'}: {text}{where}", why.code
    if isinstance(why, RemotableError):
        tail = "; it may have been carried out" if why.maybe_executed and why.code != "bad-message" else ""
        return text + tail, why.code
    if isinstance(why, ConfigError):
        return text, "config"
    if isinstance(why, StorageError):
        return text, "storage"
    if isinstance(why, TitanError):
        return text, "link"
    if isinstance(why, TimeoutError):
        return "it took too long; give it more with --timeout SECONDS", "deadline"
    if isinstance(why, OSError):
        where = f"{why.filename}: " if why.filename else ""
        return f"{where}{why.strerror or text}", "os"
    return f"defect: {type(why).__name__}: {text}; please report it with what -v shows", "defect"


def _print_traceback(why: Exception) -> None:
    import traceback

    traceback.print_exception(why, file=sys.stderr)
