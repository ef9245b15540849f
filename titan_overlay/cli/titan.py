"""`titan`: everything a user does with a pool, from the shell.

Each module of this package adds its commands; other wheels add theirs as `plugins.py` says.
"""

import sys
from functools import cache
from typing import Annotated, Any

import typer

from titan_overlay.cli import (
    doctor,
    groups,
    messages,
    nodes,
    objects,
    outcome,
    plugins,
    pool,
    revoking,
    settings,
    trust,
)
from titan_overlay.errors import ConfigError

UsageError: Any = typer.BadParameter.__mro__[1]
"""Of click, which older typers import and newer ones have inside."""

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Send messages to names, and publish, store and find objects in a Titan Overlay pool.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from titan_overlay.version import VERSION

        typer.echo(f"titan {VERSION}")
        raise typer.Exit


@app.callback()
def titan(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes what stands before the command."""


for module in (messages, objects, groups, nodes, trust, revoking, pool, settings, doctor):
    module.register(app)


@cache
def complete() -> typer.Typer:
    """The application, with what other wheels add."""
    plugins.register_all(plugins.TitanCommands(app))
    return app


def main() -> None:
    """Entry point. A command line that cannot be read is told as everything else is: with `--json`, as an object."""
    if "--json" not in sys.argv:
        complete()()
    try:
        raise SystemExit(complete()(standalone_mode=False))
    except UsageError as why:
        outcome.fail(ConfigError(why.format_message()), json=True)
    except typer.Abort:
        raise SystemExit(130) from None
