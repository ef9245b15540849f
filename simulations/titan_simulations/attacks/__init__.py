"""Attacks: what liars do. An attack is a class (see `attack.py`), found by name or as `module:Class`.

Other packages add theirs through the entry-point group `titan_simulations.attacks`.
"""

import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path

from titan_overlay.errors import ConfigError
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer, Place
from titan_simulations.attacks.mixed import Mixed

__all__ = ["Answer", "Attack", "Honest", "HonestAnswer", "Place", "find", "names"]

GROUP = "titan_simulations.attacks"

_CLASSES: tuple[type[Attack], ...] = (*Mixed.parts, Mixed)
BUILT_IN = {each.name: each for each in _CLASSES}


def names() -> list[str]:
    """Of all attacks that are installed here."""
    return [*BUILT_IN, *sorted(each.name for each in entry_points(group=GROUP) if each.name not in BUILT_IN)]


def find(name: str) -> type[Attack]:
    """The attack with this name, or the class that `module:Class` names (the current directory is searched too).

    Raises:
        ConfigError: there is none; the text lists those there are.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, colon, attribute = name.partition(":")
    if colon:
        return _checked(name, _load(module, attribute))
    for each in entry_points(group=GROUP, name=name):
        return _checked(name, each.load())
    raise ConfigError(f"no attack {name!r}; there are {', '.join(names())}, and classes of yours as module:Class")


def _load(module: str, attribute: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as why:
        raise ConfigError(f"attack {module}:{attribute}: {why}") from None


def _checked(name: str, found: object) -> type[Attack]:
    if not (isinstance(found, type) and issubclass(found, Attack)):
        raise ConfigError(f"attack {name}: {found!r} is no class that derives from titan_simulations.attacks.Attack")
    return found
