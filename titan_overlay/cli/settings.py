"""`titan config show`: the settings a node here would have, and where each comes from."""

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
    file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings file to read.")] = None,
) -> None:
    """Show every setting with its value."""
    resolved = load_settings({"data": face.data}, file)
    rows = [(key, _plain(value), where) for key, value, where in resolved.rows()]
    value = {key: {"value": item, "origin": where} if origin else item for key, item, where in rows}
    head = ("setting", "value", "origin") if origin else ("setting", "value")
    face.show(value, lambda: output.table(head, [(key, _text(item), where)[: len(head)] for key, item, where in rows]))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
