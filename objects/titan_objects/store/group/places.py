"""Where each command is executed: at the door, by a member that reads, or by all members in the group's order."""

import copy
from collections.abc import Iterable
from enum import IntEnum
from functools import cache

from titan_objects.store.commands import MODULES
from titan_objects.store.table import Args, Command, Group, Table, helpers


class Place(IntEnum):
    """What a door does with a command. Everything up to `PUBLISH` may stand together in one section."""

    READ = 0
    """Any member answers, as of now."""
    ORDERED = 1
    """All members execute it at its place in the order."""
    PUBLISH = 2
    """The same; the door says how many listen there."""
    WAITS = 3
    """The same; it may find nothing, and is the last of its section."""
    DOOR = 4
    """It is about the connection."""
    EXEC = 5
    SURVEY = 6
    """At the door, which asks the group first."""
    SETTING = 7
    """CONFIG SET: of the door or of the group, as the settings are."""
    MIGRATE = 8
    """A door moves the keys."""
    COPIES = 9
    """WAIT: at the door, which knows how many failures the group survives, or asks once."""
    VARIES = 10
    """Its sub-commands differ."""
    INFO = 11
    """As SURVEY, but it answers in any case."""


_GROUP_SETTINGS = """
    maxmemory maxmemory-policy maxmemory-samples lfu-decay-time lfu-log-factor notify-keyspace-events
    lua-time-limit busy-reply-threshold list-max-listpack-size set-max-intset-entries
    hash-max-listpack-entries hash-max-listpack-value hll-sparse-max-bytes
    zset-max-listpack-entries zset-max-listpack-value hash-max-ziplist-entries hash-max-ziplist-value
    zset-max-ziplist-entries zset-max-ziplist-value
"""
GROUP_SETTINGS = frozenset(_GROUP_SETTINGS.split())
"""What CONFIG SET changes for all doors. Other settings are the door's."""

_ABSENT = """
    bgrewriteaof bgsave save shutdown debug replicaof slaveof sync psync replconf failover waitaof
    script|kill client|unblock client|pause client|unpause client|tracking client|caching
"""
ABSENT = frozenset(_ABSENT.split())
"""A group has none of it: its log is not this command's business, and its members are not its clients'."""

# Some read, but draw by chance, which is agreed upon with the order; the others are not declared to write.
_ORDERED_TOO = """
    randomkey srandmember hrandfield zrandmember touch publish spublish watch eval eval_ro evalsha evalsha_ro
    script|load script|exists script|flush fcall fcall_ro
"""
_SCRIPTS = frozenset(("eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"))
_ORDERED = frozenset(_ORDERED_TOO.split())
_ANYWHERE = frozenset(("ping", "echo", "select", "time", "unwatch"))
"""At the door, and in transactions and scripts by all members."""
_OWN = {
    "publish": Place.PUBLISH,
    "spublish": Place.PUBLISH,
    "exec": Place.EXEC,
    "info": Place.INFO,
    "wait": Place.COPIES,
    "config|get": Place.SURVEY,
    "config|set": Place.SETTING,
    "lolwut": Place.DOOR,
    "migrate": Place.MIGRATE,
    "function|list": Place.READ,
    "function|stats": Place.READ,
    "function|dump": Place.READ,
}


def place_of(command: Command) -> Place:
    """Where a command is executed."""
    own = _OWN.get(command.name)
    if own is not None:
        return own
    if command.subcommands:
        return Place.VARIES
    if "blocking" in command.flags:
        return Place.WAITS
    if command.name in _ORDERED or command.writes:
        return Place.ORDERED
    return Place.READ if "readonly" in command.flags else Place.DOOR


def _kept(keep: Iterable[Command]) -> Table:
    """A table of these commands and of the containers that their sub-commands need."""
    group = Group("group")
    group.commands += keep
    wanted = {command.container for command in group.commands} - {command.name for command in group.commands}
    group.commands += [copy.copy(each) for module in MODULES for each in module.group.commands if each.name in wanted]
    for command in group.commands:
        command.subcommands = {}  # the table finds those that are left
    return Table([group, helpers([group])])


def _all(but: Iterable[str] = ()) -> list[Command]:
    left_out = {*ABSENT, *but}
    return [copy.copy(each) for module in MODULES for each in module.group.commands if each.name not in left_out]


@cache
def group_table() -> Table:
    """What the members execute."""
    kept = []
    everything = _all()
    containers = {command.container for command in everything if "|" in command.name}
    for command in everything:
        if command.name in containers:
            continue
        inside = command.name in _ANYWHERE or command.name in ("exec", "config|set")
        if inside or place_of(command) in (Place.READ, Place.ORDERED, Place.PUBLISH, Place.WAITS):
            kept.append(command)
    return _kept(kept)


_IN_MULTI = frozenset(("exec", "discard", "multi", "watch", "unwatch", "quit", "reset"))


def door_table(own: Group) -> Table:
    """What a door knows; `own`: commands that are there because it is one."""
    commands = [*_all(but=[command.name for command in own.commands]), *map(copy.copy, own.commands)]
    known = group_table().commands
    for command in commands:
        command.unchecked = command.name in _SCRIPTS
        if command.name not in known and command.name not in _IN_MULTI:
            command.flags |= {"no-multi"}  # members, who execute transactions, do not know it
    return _kept(commands)


class Places:
    """The places of all commands of a table, by their first word."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.by_word = {word: place_of(command) for word, command in table.by_word.items()}

    def find(self, args: Args) -> Place:
        """Where this call is executed. What is not known is the door's, which says so."""
        place = self.by_word.get(args[0])
        if place is None:
            place = self.by_word.get(args[0].lower(), Place.DOOR)
        if place is not Place.VARIES:
            return place
        command = self._table.find_full(args)
        if command is None or command.subcommands:
            return Place.DOOR
        return place_of(command)
