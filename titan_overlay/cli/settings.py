"""`titan config show`: the settings of the node here, running or to be started, and where each comes from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.loading import load_settings


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    config = typer.Typer(no_args_is_help=True, help="Settings of the node here.")
    command(config, connects=False)(show)
    app.add_typer(config, name="config")


def show(
    face: Face,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file to read; implies --next.")
    ] = None,
    next_start: Annotated[
        bool, typer.Option("--next", help="Beside a node that runs: what one that is started now would have.")
    ] = False,
) -> None:
    """Show every setting of the node that runs here; where none does, what one that is started now would have."""
    from titan_overlay.storage.directory import DataDirectory

    running = None if next_start or file else DataDirectory.running_settings(face.directory)
    if running is not None:
        face.note(f"of the node that runs on {face.directory} (process {running.process})")
    given = running.rows if running is not None else load_settings({"data": face.data}, file).rows()
    rows = [(key, _plain(value), where) for key, value, where in given]
    value = {key: {"value": item, "origin": where} if origin else item for key, item, where in rows}
    head = ("setting", "value", "origin") if origin else ("setting", "value")
    face.show(value, lambda: output.table(head, [(key, _text(item), where)[: len(head)] for key, item, where in rows]))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
