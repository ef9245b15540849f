"""`titan store`: serve a store to Redis clients."""

from pathlib import Path
from typing import Annotated

import typer

import titan_overlay as titan


def register(commands: titan.Commands) -> None:
    """Adds `titan store ...`."""
    commands.group("store", "A store for Redis clients.").command(serve)


def serve(
    face: titan.Face,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the store's log lies; made if it is not there.")
    ] = Path("titan-store"),
    port: Annotated[int, typer.Option("--port", help="TCP port; 0: any free one.")] = 6379,
    bind: Annotated[str, typer.Option("--bind", help="Addresses to listen on, separated by blanks.")] = "127.0.0.1",
    socket: Annotated[Path | None, typer.Option("--socket", metavar="PATH", help="A Unix socket as well.")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Its first line is the default user's password."),
    ] = None,
    appendfsync: Annotated[
        str, typer.Option("--appendfsync", help="When the disk confirms: always (before each reply), everysec or no.")
    ] = "always",
    memory_only: Annotated[bool, typer.Option("--memory-only", help="Keep nothing on disk.")] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting that CONFIG GET shows.")
    ] = None,
) -> None:
    """Serve a store of this machine to Redis clients until it is interrupted."""
    # Imported here, so that `titan`'s other commands start without it.
    from titan_objects.store.serving import Options, run

    options = Options(directory, port, bind.split(), socket, password_file, appendfsync, memory_only, setting or [])
    error = run(options, typer.echo)
    if error:
        typer.echo(f"titan store: {error}", err=True)
        raise typer.Exit(2)
