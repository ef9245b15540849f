"""The table of commands: what each is called, takes and does. Dispatch, `COMMAND` and the documentation are made of it.

    strings = Group("string")

    @strings.command("get", 2, "readonly fast", keys=(1, 1, 1))
    def get(e: Engine, a: Args) -> bytes:
        \"\"\"Returns the string value of a key.\"\"\"

The docstring is the summary that `COMMAND DOCS` shows.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from titan_objects.store.resp import array, simple

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

Args = list[bytes]
"""A command as it was sent, its name first."""

Handler = Callable[["Engine", Args], bytes | None]
"""Executes a command and returns its encoded reply; None: the client waits, or was answered otherwise."""

F = TypeVar("F", bound=Handler)

KeyFinder = Callable[[Args], list[bytes]]

_FLAGS = """
    write readonly denyoom admin pubsub noscript blocking loading stale fast no-auth no-multi movablekeys
    may-replicate skip-monitor skip-slowlog allow-busy no-async-loading no-mandatory-keys
"""
FLAGS = frozenset(_FLAGS.split())


class Command:
    """One row of the table.

    Attributes:
        name: in lower case; a sub-command is `config|get`.
        arity: number of words with the name; below 0: at least that many.
        first, last, step: which words are keys (0: none); last below 0 counts from the end.
        movable: finds the keys where they have no fixed place; of those that have one, `first` and so on are told.
        unchecked: it calls others where nobody knows its user, so only those who may do everything may use it.
    """

    __slots__ = (
        "arity",
        "container",
        "first",
        "flags",
        "group",
        "handler",
        "high",
        "last",
        "low",
        "movable",
        "name",
        "since",
        "step",
        "subcommands",
        "summary",
        "unchecked",
        "writes",
    )

    def __init__(
        self,
        name: str,
        arity: int,
        flags: str,
        keys: tuple[int, int, int],
        movable: KeyFinder | None,
        handler: Handler,
        group: str,
        since: str,
    ) -> None:
        self.name = sys.intern(name)
        self.arity = arity
        self.low = abs(arity)
        self.high = arity if arity > 0 else 1 << 31
        self.flags = frozenset(flags.split())
        unknown = self.flags - FLAGS
        if unknown:
            raise ValueError(f"{name}: unknown flags {sorted(unknown)}")
        self.writes = "write" in self.flags
        self.first, self.last, self.step = keys
        self.movable = movable
        self.unchecked = False
        self.handler = handler
        self.group = group
        self.since = since
        self.summary = " ".join((inspect.getdoc(handler) or "").partition("\n\n")[0].split())
        self.container: str = name.partition("|")[0]
        self.subcommands: dict[str, Command] = {}

    def keys(self, args: Args) -> list[bytes]:
        """The keys among the words of a call; none for a call that is cut short."""
        if self.movable is not None:
            try:
                return self.movable(args)
            except (ValueError, IndexError):
                return []
        if not self.first:
            return []
        last = self.last if self.last >= 0 else len(args) + self.last
        return args[self.first : last + 1 : self.step]

    def takes(self, count: int) -> bool:
        """Whether a call may have so many words."""
        return self.low <= count <= self.high


class Group:
    """The commands of one module; `name` is the group's name in Redis's documentation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.commands: list[Command] = []

    def command(
        self,
        name: str,
        arity: int,
        flags: str = "",
        *,
        keys: tuple[int, int, int] = (0, 0, 0),
        movable: KeyFinder | None = None,
        since: str = "1.0.0",
    ) -> Callable[[F], F]:
        """Adds a handler. A sub-command is named `container|name`, and its arity counts both words."""

        def add(handler: F) -> F:
            self.commands.append(Command(name, arity, flags, keys, movable, handler, self.name, since))
            return handler

        return add


_HELP_SINCE = {
    **dict.fromkeys(["slowlog", "object", "pubsub"], "6.2.0"),
    "memory": "4.0.0",
    "latency": "2.8.13",
    "function": "7.0.0",
    "acl": "6.0.0",
}


def helpers(groups: Sequence[Group]) -> Group:
    """A `HELP` for every command that contains others."""
    made = Group("help")
    commands = [command for group in groups for command in group.commands]
    for holder in sorted({command.container for command in commands if "|" in command.name}):
        below = [command for command in commands if command.name.startswith(f"{holder}|")]
        group = next(command.group for command in commands if command.name == holder)
        made.commands.append(
            Command(
                f"{holder}|help",
                2,
                "loading stale",
                (0, 0, 0),
                None,
                _help(holder, below),
                group,
                _HELP_SINCE.get(holder, "5.0.0"),
            )
        )
    return made


def _help(holder: str, below: list[Command]) -> Handler:
    lines = [f"{holder.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for command in sorted(below, key=lambda each: each.name):
        lines += [command.name.partition("|")[2].upper(), f"    {command.summary}"]
    lines += ["HELP", "    Prints this help."]

    def handler(e: "Engine", a: Args) -> bytes:
        """Returns helpful text about the different subcommands."""
        return array([simple(line.encode()) for line in lines])

    return handler


class Table:
    """All commands, found by name in any case."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.commands: dict[str, Command] = {}
        for group in groups:
            for command in group.commands:
                if command.name in self.commands:
                    raise ValueError(f"two commands are called {command.name}")
                self.commands[command.name] = command
        for command in list(self.commands.values()):
            if command.container != command.name:
                holder = self.commands.get(command.container)
                if holder is None:
                    raise ValueError(f"{command.name} has no {command.container} above it")
                holder.subcommands[command.name.partition("|")[2]] = command
        self.by_word: dict[bytes, Command] = {}
        for name, command in self.commands.items():
            if "|" not in name:
                self.by_word[name.encode()] = command
                self.by_word[name.upper().encode()] = command

    def find(self, word: bytes) -> Command | None:
        """The command (not a sub-command) of that name."""
        return self.by_word.get(word) or self.by_word.get(word.lower())

    def find_full(self, args: Args) -> Command | None:
        """The command of a call, or its sub-command where it has some."""
        command = self.find(args[0])
        if command is not None and command.subcommands and len(args) > 1:
            return command.subcommands.get(args[1].decode("latin-1").lower(), command)
        return command

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())


class Counted:
    """Finds keys that stand behind their number, as in `ZUNION 2 a b`; `before`: keys with a fixed place."""

    def __init__(self, position: int, before: tuple[int, ...]) -> None:
        self.position = position
        self.before = before

    def __call__(self, args: Args) -> list[bytes]:
        count = int(args[self.position])
        if not 0 <= count < len(args) - self.position:
            raise ValueError("there are not so many keys")
        return [args[at] for at in self.before] + args[self.position + 1 : self.position + 1 + count]


def counted(position: int, *before: int) -> KeyFinder:
    """See `Counted`."""
    return Counted(position, before)
