"""`titan`: everything a user does with a pool, from the shell.

Each module of this package adds its commands; other wheels add theirs as `plugins.py` says.
"""

from functools import cache
from typing import Annotated

import typer

from titan_overlay.cli import doctor, groups, messages, nodes, objects, plugins, pool, revoking, settings, trust

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
    """Entry point."""
    complete()()
