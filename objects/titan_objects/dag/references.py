"""References in values: `"${params.n}"`, `"${render}"`, `"${item.name}"`. A text is one as a whole, or it is none."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import titan_overlay as titan

_WHOLE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[A-Za-z_0-9][\w-]*)*)\}")
_AMID = re.compile(rf"(?<!\$){_WHOLE.pattern}")
DEPTH_MAX = 32
DATA = "$data"
"""Key of a value that is data of the pool: its name."""


def referred(value: Any, depth: int = 0) -> Iterator[tuple[str, ...]]:
    """The names that a value refers to, each as its parts.

    Raises:
        BadMessage: a text begins with `$` and is no reference, or the value is too deep.
    """
    if depth > DEPTH_MAX:
        raise titan.BadMessage(f"a value with more than {DEPTH_MAX} levels")
    if isinstance(value, str):
        parts = _parts(value)
        if parts:
            yield parts
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from referred(each, depth + 1)


def amid(value: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What looks like a reference amid other text, where it is none: the text, and the parts of the name."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        yield from ((value, tuple(found[1].split("."))) for found in _AMID.finditer(value))
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from amid(each)


def resolved(value: Any, look: Callable[[tuple[str, ...]], Any]) -> Any:
    """The value with what it refers to in place."""
    if isinstance(value, str):
        parts = _parts(value)
        return look(parts) if parts else value.replace("$$", "$", 1) if value.startswith("$$") else value
    if isinstance(value, list | tuple):
        return [resolved(each, look) for each in value]
    if isinstance(value, dict):
        return {key: resolved(each, look) for key, each in value.items()}
    return value


def rewritten(value: Any, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Any:
    """The value with other references in the place of those that it has."""
    if isinstance(value, str):
        parts = _parts(value)
        return f"${{{'.'.join(change(parts))}}}" if parts else value
    if isinstance(value, list | tuple):
        return [rewritten(each, change) for each in value]
    if isinstance(value, dict):
        return {key: rewritten(each, change) for key, each in value.items()}
    return value


def inside(value: Any, parts: tuple[str, ...]) -> Any:
    """What lies in a value under these keys; None: nothing."""
    for part in parts:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def data_of(value: Any) -> str:
    """Name of the data of the pool that a value stands for; empty: it is the value itself."""
    name = value.get(DATA) if isinstance(value, dict) and len(value) == 1 else None
    return name if isinstance(name, str) else ""


def _parts(text: str) -> tuple[str, ...] | None:
    if not text.startswith("$") or text.startswith("$$"):
        return None
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise titan.BadMessage(f"{text[:100]!r} is no reference: write ${{name}} alone, or $$ for a plain $")
    return tuple(found[1].split("."))
