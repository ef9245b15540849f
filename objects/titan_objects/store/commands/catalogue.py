"""COMMAND: what this store knows, made of the table itself."""

from typing import TYPE_CHECKING

from titan_objects.store.acl_categories import categories
from titan_objects.store.globs import matcher
from titan_objects.store.key_flags import Spec, key_flags, key_specs
from titan_objects.store.resp import CommandError, array, bulk, bulks, simple, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Command, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")

_SHOWN = {
    "no-auth": "no_auth",
    "no-multi": "no_multi",
    "may-replicate": "may_replicate",
    "skip-monitor": "skip_monitor",
}


def row(e: "Engine", command: Command) -> bytes:
    """What COMMAND says of one command."""
    flags = [simple(_SHOWN.get(flag, flag).replace("-", "_").encode()) for flag in sorted(command.flags)]
    classes = [simple(b"@" + each.encode()) for each in sorted(categories(command))]
    return array(
        [
            bulk(command.name.encode()),
            number(command.arity),
            e.reply.set(flags),
            number(command.first),
            number(command.last),
            number(command.step),
            e.reply.set(classes),
            array([]),
            array([_specified(e, each) for each in key_specs(command)]),
            array([row(e, each) for each in command.subcommands.values()]),
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


def _documented(e: "Engine", command: Command) -> bytes:
    pairs = [
        (bulk(b"summary"), bulk(command.summary.encode())),
        (bulk(b"since"), bulk(command.since.encode())),
        (bulk(b"group"), bulk(command.group.encode())),
    ]
    if command.subcommands:
        below = [(bulk(each.name.encode()), _documented(e, each)) for each in command.subcommands.values()]
        pairs.append((bulk(b"subcommands"), e.reply.map(below)))
    return e.reply.map(pairs)


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


@group.command("command|getkeys", -3, "loading stale", since="2.8.13")
def command_getkeys(e: "Engine", a: Args) -> bytes:
    """Extracts the key names from an arbitrary command."""
    return bulks(_keys(e, a[2:])[1])


@group.command("command|getkeysandflags", -3, "loading stale", since="7.0.0")
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
