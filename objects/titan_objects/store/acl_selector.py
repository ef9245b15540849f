"""A selector: commands, keys and channels that go together. A user has one or more, and any of them may allow."""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

from titan_objects.store.acl_categories import categories
from titan_objects.store.acl_log import Denial
from titan_objects.store.globs import matcher
from titan_objects.store.key_flags import key_flags

if TYPE_CHECKING:
    from titan_objects.store.table import Args, Command, Table

_PLAIN: dict[bytes, tuple[bytes, ...]] = {
    b"allkeys": (b"~*",),
    b"allchannels": (b"&*",),
    b"allcommands": (b"+@all",),
    b"nocommands": (b"-@all",),
}
_CHANGES = frozenset(["insert", "update", "delete"])
_NO_ACCESS = "this user has no permissions to access one of the"
_AFTER_ALL = (
    "Adding a pattern after the * pattern (or the '%s' flag) is not valid and does not have any effect. "
    "Try '%s' to start with an empty list of %s"
)
_CHANNEL_COMMANDS = frozenset(["subscribe", "ssubscribe", "publish", "spublish", "psubscribe"])
_BLANK = re.compile(rb"[\s\0]")
"""What no pattern contains: a file of users would be read otherwise than it was written."""

_KEYS = re.compile(rb"%(R|W|RW|WR)~(.*)", re.IGNORECASE | re.DOTALL)

Refusal = tuple[tuple[int, int], Denial]
"""Why not, after how far it went: for the command, a key or a channel (1, 2, 3), and which of them."""


class WithoutEffect(ValueError):
    """A rule that adds nothing to those before it."""


class Selector:
    """What allows nothing until rules say so.

    Attributes:
        allowed: commands by their full name.
        first_words: of commands that are not: what may follow the name (`+select|0`).
        rules: what changed the commands since `+@all` or `-@all`, as it is shown.
        keys: patterns, and whether each is for reading and for writing.
        unrestricted: allows everything, so nothing is checked.
    """

    def __init__(self, table: "Table") -> None:
        self._table = table
        self.allowed: set[str] = set()
        self.first_words: dict[str, set[str]] = {}
        self.rules = ["-@all"]
        self.keys: dict[bytes, tuple[bool, bool]] = {}
        self.channels: dict[bytes, None] = {}
        self.unrestricted = False

    def copy(self) -> "Selector":
        """Another one with the same rules."""
        twin = Selector(self._table)
        twin.allowed, twin.rules = set(self.allowed), list(self.rules)
        twin.first_words = {name: set(words) for name, words in self.first_words.items()}
        twin.keys, twin.channels = dict(self.keys), dict(self.channels)
        twin.unrestricted = self.unrestricted
        return twin

    # ---- rules ---------------------------------------------------------------------------------------------------

    def apply(self, rule: bytes) -> None:
        """Changes what it allows. Raises ValueError that says what is wrong with the rule."""
        sign, word = rule[:1], rule.lower()
        if sign in b"~%&" and _BLANK.search(rule):
            raise ValueError("Syntax error")
        if word in _PLAIN:
            for each in _PLAIN[word]:
                self.apply(each)
        elif word == b"resetkeys":
            self.keys.clear()
        elif word == b"resetchannels":
            self.channels.clear()
        elif sign == b"~":
            self._add_keys(rule[1:], True, True)
        elif found := _KEYS.fullmatch(rule):
            self._add_keys(found[2], b"R" in found[1].upper(), b"W" in found[1].upper())
        elif sign == b"&":
            self._add_channels(rule[1:])
        elif sign in (b"+", b"-"):
            self._change_commands(word.decode("utf-8", "backslashreplace"))
        else:
            raise ValueError("Syntax error")
        self.unrestricted = (
            len(self.allowed) == len(self._table.commands)
            and self.keys.get(b"*") == (True, True)
            and b"*" in self.channels
        )

    def _add_keys(self, pattern: bytes, read: bool, write: bool) -> None:
        everything = self.keys.get(b"*") == (True, True)
        if everything and not (pattern == b"*" and read and write):
            raise WithoutEffect(_AFTER_ALL % ("allkeys", "resetkeys", "patterns"))
        before = self.keys.get(pattern, (False, False))
        access = (read or before[0], write or before[1])
        if pattern == b"*" and access == (True, True):
            self.keys.clear()
        self.keys[pattern] = access

    def _add_channels(self, pattern: bytes) -> None:
        if b"*" in self.channels and pattern != b"*":
            raise WithoutEffect(_AFTER_ALL % ("allchannels", "resetchannels", "channels"))
        if pattern == b"*":
            self.channels.clear()
        self.channels[pattern] = None

    def _change_commands(self, word: str) -> None:
        table, allow, name = self._table.commands, word[0] == "+", word[1:]
        if name.startswith("@"):
            chosen = {each.name for each in table.values() if name == "@all" or name[1:] in categories(each)}
        elif name in table:
            chosen = {name, *(each.name for each in table[name].subcommands.values())}
        else:
            chosen = set()
        if not chosen:
            self._allow_first_word(word)
            return
        before = self.allowed
        self.allowed = before | chosen if allow else before - chosen
        self._forget_first_words(chosen)
        if name == "@all":
            self.rules = [word]
        elif self.allowed != before:
            self.rules = [each for each in self.rules if each[1:] != name] + [word]

    def _allow_first_word(self, word: str) -> None:
        """`+select|0`: a command whose next word is that one."""
        name, bar, first = word[1:].rpartition("|")
        command = self._table.commands.get(name)
        if command is not None and "|" in name:
            raise ValueError("Allowing first-arg of a subcommand is not supported")
        if command is None or command.subcommands or word[0] == "-" or not bar or not first:
            raise ValueError("Unknown command or category name in ACL")
        if name not in self.allowed:
            self.first_words.setdefault(name, set()).add(first)
            self.rules = [each for each in self.rules if each != word] + [word]

    def _forget_first_words(self, commands: Iterable[str]) -> None:
        for name in commands:
            gone = {f"+{name}|{first}" for first in self.first_words.pop(name, ())}
            if gone:
                self.rules = [each for each in self.rules if each not in gone]

    # ---- questions -----------------------------------------------------------------------------------------------

    def refusal(self, command: "Command", args: "Args") -> Refusal | None:
        """Why this does not allow a call; None: it does."""
        if command.name not in self.allowed and not self._may_begin(command, args):
            return (1, 0), Denial("command", command.name.encode(), _no_command(command))
        keys = command.keys(args)
        for at, (key, flags) in enumerate(zip(keys, key_flags(command, args, len(keys)), strict=True)):
            if not self._may_use(key, "access" in flags, not _CHANGES.isdisjoint(flags)):
                return (2, at), Denial("key", key, f"{_NO_ACCESS} keys used as arguments")
        if command.name in ("sort", "sort_ro") and not self.keys.get(b"*", (False, False))[0]:
            for word, pattern in pairwise(args[2:]):
                # What such a pattern names is known only when the members are, and may be any key.
                if word.upper() in (b"BY", b"GET") and b"*" in pattern:
                    text = f"{word.decode().upper()} option of SORT denied due to insufficient ACL permissions."
                    return (2, len(keys)), Denial("key", pattern, text, always=True)
        if command.name in _CHANNEL_COMMANDS:
            names = args[1:2] if command.name.endswith("publish") else args[1:]
            exact = command.name == "psubscribe"
            for at, channel in enumerate(names):
                if not self.may_hear(channel, exact=exact):
                    return (3, at), Denial("channel", channel, f"{_NO_ACCESS} channels used as arguments")
        return None

    def _may_begin(self, command: "Command", args: "Args") -> bool:
        words = self.first_words.get(command.name)
        return words is not None and len(args) > 1 and args[1].decode("utf-8", "backslashreplace").lower() in words

    def may_hear(self, channel: bytes, *, exact: bool) -> bool:
        """Whether it allows a channel; `exact`: a pattern of channels, which has to stand among the rules."""
        return any(
            pattern == b"*" or (pattern == channel if exact else matcher(pattern)(channel)) for pattern in self.channels
        )

    def _may_use(self, key: bytes, reads: bool, changes: bool) -> bool:
        return any(
            (read or not reads) and (write or not changes) and matcher(pattern)(key)
            for pattern, (read, write) in self.keys.items()
        )

    def command_rules(self) -> bytes:
        """Commands as rules."""
        return " ".join(self.rules).encode()

    def key_rules(self) -> bytes:
        """Key patterns as rules."""
        signs = {(True, True): b"~", (True, False): b"%R~", (False, True): b"%W~"}
        return b" ".join([signs[access] + pattern for pattern, access in self.keys.items()])

    def channel_rules(self) -> bytes:
        """Channel patterns as rules."""
        return b" ".join([b"&" + each for each in self.channels])

    def described(self) -> bytes:
        """All rules, as `ACL LIST` shows them."""
        reset = b"" if b"*" in self.channels else b"resetchannels"
        return b" ".join(filter(None, (self.key_rules(), reset, self.channel_rules(), self.command_rules())))


def _no_command(command: "Command") -> str:
    return f"this user has no permissions to run the '{command.name}' command"
