"""Definitions as files (YAML, TOML, JSON): text in, a checked definition out, or an error that names line and field."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import check
from titan_objects.dag.definition import Definition
from titan_objects.dag.importing import imported, place_of

FILE_BYTES_MAX = 64 << 20

_UNSENDABLE = (OverflowError, UnicodeEncodeError, RecursionError)
"""Numbers of more than 64 bits, halves of characters, what is nested too deeply."""

Locate = Callable[[list[str | int]], int]
"""The line, counted from 1, at which the value at this path begins."""


def read_definition(text: str, file: str) -> Definition:
    """The definition in a file; WfFormat and files of the Titan orchestrator are known by what they hold.

    Args:
        file: its name; the suffix says what it is written in (`.json`, `.toml`, else YAML).

    Raises:
        ConfigError: naming file, line and field.
    """
    value, locate = parse(text, file)
    try:
        foreign = imported(value)
        if foreign is not None:
            check(foreign)
            return foreign
    except msgspec.ValidationError as why:
        raise _misfit(why, file, locate) from None
    except (titan.BadMessage, titan.ConfigError) as why:
        place = place_of(value, str(why))
        raise titan.ConfigError(f"{file}{f', line {locate(place)}' if place else ''}: {why}") from None
    return convert(value, file, locate)


def convert(value: Any, file: str, locate: Locate) -> Definition:
    """The definition that a value describes. Raises ConfigError."""
    try:
        definition = msgspec.convert(value, Definition)
    except (msgspec.ValidationError, RecursionError) as why:
        raise _misfit(why, file, locate) from None
    try:
        check(definition)
    except titan.BadMessage as why:
        raise titan.ConfigError(f"{file}{_line_of(definition, str(why), locate)}: {why}") from None
    return definition


def _misfit(why: msgspec.ValidationError | RecursionError, file: str, locate: Locate) -> titan.ConfigError:
    """Naming line and field of what is not as the schema wants it."""
    text, _, at = str(why).partition(" - at `$")
    path = _path(at.rstrip("`"))
    return titan.ConfigError(f"{file}, line {locate(path)}: {_shown(path) or 'the definition'}: {text}")


def _line_of(definition: Definition, why: str, locate: Locate) -> str:
    """The line of the first task that an error of `check` names."""
    named = re.search(r"task '([^']+)'", why)
    place = next((n for n, each in enumerate(definition.tasks) if named and each.id == named[1]), None)
    return "" if place is None else f", line {locate(['tasks', place])}"


def parse(text: str, file: str) -> tuple[Any, Locate]:
    """What a file says, and where.

    Raises:
        ConfigError: it is not what its suffix says, or too big.
    """
    if len(text) > FILE_BYTES_MAX:
        raise titan.ConfigError(f"{file}: {FILE_BYTES_MAX >> 20} MiB are the most for a definition")
    try:
        if file.endswith(".json"):
            return _sendable(json.loads(text), file, lambda path: _yaml_line(text, path))
        if file.endswith(".toml"):
            return _sendable(tomllib.loads(text), file, lambda path: _toml_line(text, path))
    except json.JSONDecodeError as why:
        raise titan.ConfigError(f"{file}, line {why.lineno}: this is not JSON: {why.msg}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as why:
        raise titan.ConfigError(f"{file}: this is not readable: {why}") from None
    return _sendable(_yaml(text, file), file, lambda path: _yaml_line(text, path))


def _sendable(value: Any, file: str, locate: Locate) -> tuple[Any, Locate]:
    """The value as messages carry it (a date is a text), so that it is the same with a pool and without.

    Raises:
        ConfigError: none could.
    """
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(value)), locate
    except _UNSENDABLE as why:
        path = list(_first_unsendable(value))
        shown = _shown(path) or "the definition"
        raise titan.ConfigError(f"{file}, line {locate(path)}: {shown} cannot be sent: {why}") from None


def _first_unsendable(value: Any) -> Iterator[str | int]:
    """The way to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        try:
            msgspec.msgpack.encode(each)
        except RecursionError:
            return
        except _UNSENDABLE:
            yield key
            yield from _first_unsendable(each)
            return


def _yaml(text: str, file: str) -> Any:
    import yaml  # an extra: definitions in JSON and TOML do without

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # An alias may stand for a tree of aliases: a page that unfolds into a terabyte.
        if any(isinstance(each, yaml.AliasEvent) for each in yaml.parse(text, Loader=loader)):
            raise titan.ConfigError(f"{file}: aliases (*name) are not taken; write the value where it is meant")
        return yaml.load(text, Loader=loader)  # noqa: S506 - one of the safe ones
    except (yaml.YAMLError, ValueError, RecursionError) as why:
        mark = getattr(why, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise titan.ConfigError(f"{file}{line}: this is not YAML: {getattr(why, 'problem', None) or why}") from None


def _path(text: str) -> list[str | int]:
    """`.tasks[2].retry` as its parts; `[...]` is a key of a map, which msgspec does not name."""
    parts: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", text):
        if index == "...":
            break
        parts.append(int(index) if index else name)
    return parts


def _shown(path: list[str | int]) -> str:
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).lstrip(".")


def _yaml_line(text: str, path: list[str | int]) -> int:
    """JSON too is YAML, but for tabs between tokens."""
    import yaml

    try:
        node = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return 1
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _toml_line(text: str, path: list[str | int]) -> int:
    """By the headers: the library that reads TOML does not say where it read."""
    lines = text.splitlines()
    line = 0
    if path[:1] == ["tasks"] and len(path) > 1 and isinstance(path[1], int):
        headers = [n for n, each in enumerate(lines) if re.match(r"\s*\[\[\s*tasks\s*\]\]", each)]
        if path[1] < len(headers):
            line = headers[path[1]]
        path = path[2:]
    for part in path:
        key = re.compile(rf'\s*(\[tasks\.)?"?{re.escape(str(part))}"?\s*[=.\]]')
        line = next((n for n in range(line, len(lines)) if key.match(lines[n])), line)
    return line + 1
