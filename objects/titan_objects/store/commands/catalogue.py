"""COMMAND: what this store knows, made of the table itself."""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from titan_objects.store.acl_categories import categories
from titan_objects.store.globs import matcher
from titan_objects.store.key_flags import Spec, key_flags, key_specs, shown_place
from titan_objects.store.resp import CommandError, array, bulk, bulks, simple, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Command, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")

_UNSHOWN = {
    "may-replicate": None,  # Redis knows it, and does not tell
    "skip-monitor": ("auth", "hello"),  # which it shows, but for the password
    "no-multi": ("replicaof", "slaveof", "replconf"),
}
"""Flags that count here and that Redis does not show of a command; None: of any."""

_SHOWN_TOO = {"skip-monitor": ("eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro")}
"""The other way round: it shows scripts itself."""


def _flags(command: Command) -> list[bytes]:
    if _only_contains(command):
        return []
    unshown = [flag for flag, names in _UNSHOWN.items() if names is None or command.name in names]
    too = [flag for flag, names in _SHOWN_TOO.items() if command.name in names]
    return [flag.replace("-", "_").encode() for flag in sorted((command.flags - {*unshown}) | {*too})]


def _only_contains(command: Command) -> bool:
    return bool(command.subcommands) and command.name != "command"


def row(e: "Engine", command: Command) -> bytes:
    """What COMMAND says of one command."""
    classes = ["slow"] if _only_contains(command) else sorted(categories(command))
    tips = facts().get(command.name, {}).get("tips", ())
    return array(
        [
            bulk(command.name.encode()),
            number(command.arity),
            e.reply.set([simple(flag) for flag in _flags(command)]),
            *map(number, shown_place(command)),
            e.reply.set([simple(b"@" + each.encode()) for each in classes]),
            e.reply.set([bulk(tip.encode()) for tip in tips]),
            e.reply.set([_specified(e, each) for each in key_specs(command)]),
            e.reply.set([row(e, each) for each in command.subcommands.values()]),
        ]
    )


def _specified(e: "Engine", spec: Spec) -> bytes:
    def found(kind: str, how: dict[str, int | str] | dict[str, int]) -> bytes:
        numbers = [
            (bulk(name.encode()), number(each) if isinstance(each, int) else bulk(each.encode()))
            for name, each in how.items()
        ]
        return e.reply.map([(bulk(b"type"), bulk(kind.encode())), (bulk(b"spec"), e.reply.map(numbers))])

    return e.reply.map(
        [
            (bulk(b"flags"), e.reply.set([simple(flag.encode()) for flag in spec.flags])),
            (bulk(b"begin_search"), found(spec.begin, spec.begin_spec)),
            (bulk(b"find_keys"), found(spec.find, spec.find_spec)),
        ]
    )


def _named(e: "Engine", name: bytes) -> Command | None:
    return e.table.commands.get(name.decode("latin-1").lower())


def _rows(e: "Engine", names: list[bytes]) -> bytes:
    found = [_named(e, name) for name in names]
    return array([e.reply.null if each is None else row(e, each) for each in found])


@group.command("command", -1, "loading stale", since="2.8.13")
def command(e: "Engine", a: Args) -> bytes:
    """Returns detailed information about all commands."""
    if len(a) > 1:
        raise CommandError(b"ERR unknown subcommand '%b'. Try COMMAND HELP." % a[1])
    return array([row(e, each) for each in e.table if "|" not in each.name])


@group.command("command|count", 2, "loading stale", since="2.8.13")
def command_count(e: "Engine", a: Args) -> bytes:
    """Returns a count of commands."""
    return number(sum("|" not in each.name for each in e.table))


@group.command("command|info", -2, "loading stale", since="2.8.13")
def command_info(e: "Engine", a: Args) -> bytes:
    """Returns information about one, multiple or all commands."""
    if len(a) == 2:
        return array([row(e, each) for each in e.table if "|" not in each.name])
    return _rows(e, a[2:])


@group.command("command|docs", -2, "loading stale", since="7.0.0")
def command_docs(e: "Engine", a: Args) -> bytes:
    """Returns documentary information about one, multiple or all commands."""
    chosen = [each for each in e.table if "|" not in each.name]
    if len(a) > 2:
        chosen = [each for name in a[2:] if (each := _named(e, name)) is not None]
    return e.reply.map((bulk(each.name.encode()), _documented(e, each)) for each in chosen)


@cache
def facts() -> dict[str, Any]:
    """What Redis documents beyond the table, by full name; `scripts/redis_command_facts.py` writes it."""
    found: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("facts.json").read_bytes())
    return found


def _documented(e: "Engine", command: Command) -> bytes:
    known = facts().get(command.name, {})
    group = _GROUPS.get(command.name, command.group)
    shown = {"summary": command.summary, "since": command.since, "group": group}
    shown |= {name: known[name] for name in _BEFORE_HISTORY if name in known}
    pairs = [(bulk(name.encode()), _fact(e, name, value)) for name, value in shown.items()]
    history = _history(known.get("arguments", ()))
    if history:
        told = [array([bulk(since.encode()), bulk(text.encode())]) for since, text in history]
        pairs.append((bulk(b"history"), e.reply.set(told)))
    if "arguments" in known:
        pairs.append((bulk(b"arguments"), _fact(e, "arguments", known["arguments"])))
    if command.subcommands:
        below = [(bulk(each.name.encode()), _documented(e, each)) for each in command.subcommands.values()]
        pairs.append((bulk(b"subcommands"), e.reply.map(below)))
    return e.reply.map(pairs)


_GROUPS = {"wait": "generic", "swapdb": "server"}
"""Where Redis documents what stands in another module here."""

_BEFORE_HISTORY = ("complexity", "doc_flags", "deprecated_since", "replaced_by")


def _fact(e: "Engine", name: str, value: Any) -> bytes:
    if isinstance(value, int):
        return number(value)
    if isinstance(value, str):
        return bulk(value.encode())
    if name in ("flags", "doc_flags"):
        return e.reply.set([simple(each.encode()) for each in value])
    return array([e.reply.map((bulk(k.encode()), _fact(e, k, v)) for k, v in each.items()) for each in value])


def _history(arguments: Iterable[Any]) -> list[tuple[str, str]]:
    """When which arguments came, the oldest first."""
    came: dict[str, list[str]] = {}
    pending = list(arguments)
    while pending:
        each = pending.pop(0)
        if "since" in each:
            came.setdefault(each["since"], []).append(each.get("token") or each["name"])
        pending += each.get("arguments", ())
    versions = sorted(came, key=lambda since: [int(part) for part in since.split(".")])
    return [(since, f"Added {', '.join(f'`{name}`' for name in came[since])}.") for since in versions]


@group.command("command|list", -2, "loading stale", since="7.0.0")
def command_list(e: "Engine", a: Args) -> bytes:
    """Returns a list of command names."""
    names = [each.name for each in e.table if "|" not in each.name]
    if len(a) > 2:
        if len(a) != 5 or a[2].upper() != b"FILTERBY":
            raise syntax_error()
        how, word = a[3].upper(), a[4]
        if how == b"PATTERN":
            match = matcher(word)
            names = [each.name for each in e.table if match(each.name.encode())]
        elif how == b"ACLCAT":
            wanted = word.decode("latin-1").lower()
            names = [each.name for each in e.table if wanted in categories(each)]
        elif how == b"MODULE":
            names = []
        else:
            raise syntax_error()
    return bulks([name.encode() for name in names])


def _keys(e: "Engine", args: Args) -> tuple[Command, list[bytes]]:
    """The command of a call, and its keys. Raises CommandError: it has none."""
    found = e.table.find_full(args)
    if found is None:
        raise CommandError(b"ERR Invalid command specified")
    if not found.first and found.movable is None:
        raise CommandError(b"ERR The command has no key arguments")
    if not found.takes(len(args)):
        raise CommandError(b"ERR Invalid number of arguments specified for command")
    keys = found.keys(args)
    if not keys:
        raise CommandError(b"ERR Invalid arguments specified for command")
    return found, keys


@group.command("command|getkeys", -4, "loading stale", since="2.8.13")
def command_getkeys(e: "Engine", a: Args) -> bytes:
    """Extracts the key names from an arbitrary command."""
    return bulks(_keys(e, a[2:])[1])


@group.command("command|getkeysandflags", -4, "loading stale", since="7.0.0")
def command_getkeysandflags(e: "Engine", a: Args) -> bytes:
    """Extracts the key names and access flags for an arbitrary command."""
    found, keys = _keys(e, a[2:])
    flags = key_flags(found, a[2:], len(keys))
    return array(
        [
            array([bulk(key), e.reply.set([simple(flag.encode()) for flag in words])])
            for key, words in zip(keys, flags, strict=True)
        ]
    )
