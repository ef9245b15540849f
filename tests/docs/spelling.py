"""Whether command lines are such as the programs take, without running them."""

import importlib
from collections.abc import Sequence
from typing import Any

import typer.main

from titan_overlay.cli.node import parse

FACES = {
    "titan": "titan_overlay.cli.titan",
    "titan-sim": "titan_simulations.cli",
}


def check(words: Sequence[str]) -> None:
    """Raises what argparse or click raises for words that the command does not take."""
    if words[0] == "titan-node":
        parse(words[1:])
        return
    face = importlib.import_module(FACES[words[0]])
    app = face.complete() if hasattr(face, "complete") else face.app
    _check(typer.main.get_command(app), words[0], words[1:])


def _check(command: Any, name: str, words: Sequence[str]) -> None:
    with command.make_context(name, list(words), resilient_parsing=False) as context:
        if hasattr(command, "commands"):
            below = [*getattr(context, "_protected_args", []), *context.args]
            called, found, rest = command.resolve_command(context, below)
            _check(found, called, rest)
