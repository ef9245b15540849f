"""`titan`: everything a user does with a pool, from the shell.

Each module of this package adds its commands; other wheels add theirs through the entry-point group
`titan_overlay.cli`, as functions that take the typer application.
"""

from importlib.metadata import entry_points
from typing import Annotated

import typer

from titan_overlay.cli import doctor, messages, nodes, objects, output, pool, revoking, settings, trust

PLUGINS = "titan_overlay.cli"

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


for module in (messages, objects, nodes, trust, revoking, pool, settings, doctor):
    module.register(app)


def main() -> None:
    """Entry point."""
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()(app)
        except Exception as why:
            # Somebody else's wheel must not take the other commands away.
            output.note(f"titan: the commands of {plugin.name!r} are missing: {type(why).__name__}: {why}")
    app()
