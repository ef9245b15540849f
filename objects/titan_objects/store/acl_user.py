"""One user: the rules that say what it may do, its passwords, and why it may not.

Rules are those of `ACL SETUSER` in Redis 7.0, without selectors.
"""

import hashlib
import hmac
import re
from itertools import pairwise
from typing import TYPE_CHECKING

from titan_objects.store.acl_categories import categories
from titan_objects.store.acl_log import Denial
from titan_objects.store.globs import matcher
from titan_objects.store.key_flags import key_flags

if TYPE_CHECKING:
    from titan_objects.store.table import Args, Command, Table

EVERYTHING = (b"on", b"nopass", b"~*", b"&*", b"+@all")
_PLAIN: dict[str, tuple[bytes, ...]] = {
    "sanitize-payload": (),
    "skip-sanitize-payload": (),
    "allkeys": (b"~*",),
    "allchannels": (b"&*",),
    "allcommands": (b"+@all",),
    "nocommands": (b"-@all",),
    "reset": (b"resetkeys", b"resetchannels", b"off", b"resetpass", b"-@all"),
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


class WithoutEffect(ValueError):
    """A rule that adds nothing to those before it."""


class User:
    """One user, who may do nothing until rules say so.

    Attributes:
        rules: what changed the commands since `+@all` or `-@all`, as it is shown.
        keys: patterns, and whether each is for reading and for writing.
        unrestricted: may do everything, so nothing is checked.
    """

    def __init__(self, name: str, table: "Table") -> None:
        self.name = name
        self._table = table
        self.enabled = False
        self.nopass = False
        self.passwords: dict[str, None] = {}
        self.allowed: set[str] = set()
        self.rules = ["-@all"]
        self.keys: dict[bytes, tuple[bool, bool]] = {}
        self.channels: dict[bytes, None] = {}
        self.unrestricted = False

    def copy(self) -> "User":
        """Another one with the same rules, to try more on."""
        twin = User(self.name, self._table)
        twin.take(self)
        return twin

    def take(self, other: "User") -> None:
        """Becomes what the other is."""
        self.enabled, self.nopass, self.passwords = other.enabled, other.nopass, dict(other.passwords)
        self.allowed, self.rules = set(other.allowed), list(other.rules)
        self.keys, self.channels = dict(other.keys), dict(other.channels)
        self.unrestricted = other.unrestricted

    def knows(self, password: bytes) -> bool:
        """Whether that is one of its passwords."""
        if not self.enabled:
            return False
        digest = hashlib.sha256(password).hexdigest()
        return self.nopass or any(hmac.compare_digest(digest, each) for each in self.passwords)

    # ---- rules ---------------------------------------------------------------------------------------------------

    def apply(self, rule: bytes) -> None:
        """Changes what it may do. Raises ValueError that says what is wrong with the rule."""
        word = rule.decode("utf-8", "backslashreplace")
        sign, rest = word[:1], word[1:]
        if sign in "~%&" and _BLANK.search(rule):
            raise ValueError("Syntax error")
        if word.lower() in _PLAIN:
            for each in _PLAIN[word.lower()]:
                self.apply(each)
        elif word.lower() in ("on", "off"):
            self.enabled = word.lower() == "on"
        elif word.lower() == "nopass":
            self.nopass = True
            self.passwords.clear()
        elif word.lower() == "resetpass":
            self.nopass = False
            self.passwords.clear()
        elif word.lower() == "resetkeys":
            self.keys.clear()
        elif word.lower() == "resetchannels":
            self.channels.clear()
        elif sign in "><#!" and sign:
            self._password(sign, rule[1:])
        elif sign == "~":
            self._keys(rule[1:], True, True)
        elif sign == "%":
            found = re.fullmatch(rb"%([RW]{1,2})~(.*)", rule, re.IGNORECASE | re.DOTALL)
            if not found:
                raise ValueError("Syntax error")
            self._keys(found[2], b"R" in found[1].upper(), b"W" in found[1].upper())
        elif sign == "&":
            if b"*" in self.channels and rule[1:] != b"*":
                raise WithoutEffect(_AFTER_ALL % ("allchannels", "resetchannels", "channels"))
            if rule[1:] == b"*":
                self.channels.clear()
            self.channels[rule[1:]] = None
        elif sign in "+-" and sign:
            self._commands(sign == "+", rest.lower())
            self._note(word.lower())
        else:
            raise ValueError("Syntax error")
        self.unrestricted = (
            len(self.allowed) == len(self._table.commands)
            and self.keys.get(b"*") == (True, True)
            and b"*" in self.channels
        )

    def _password(self, sign: str, text: bytes) -> None:
        digest = text.decode("latin-1").lower()
        if sign in "><":
            digest = hashlib.sha256(text).hexdigest()
        elif not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(
                "The password hash must be exactly 64 characters and contain only lowercase hex characters"
            )
        if sign in ">#":
            self.passwords[digest] = None
            self.nopass = False
        elif self.passwords.pop(digest, 0) == 0:
            raise ValueError("The password you are trying to remove from the user does not exist")

    def _keys(self, pattern: bytes, read: bool, write: bool) -> None:
        everything = self.keys.get(b"*") == (True, True)
        if everything and pattern != b"*":
            raise WithoutEffect(_AFTER_ALL % ("allkeys", "resetkeys", "patterns"))
        before = self.keys.get(pattern, (False, False))
        access = (read or before[0], write or before[1])
        if pattern == b"*" and access == (True, True):
            self.keys.clear()
        self.keys[pattern] = access

    def _commands(self, allow: bool, name: str) -> None:
        table = self._table.commands
        if name.startswith("@"):
            chosen = {each.name for each in table.values() if name == "@all" or name[1:] in categories(each)}
            if not chosen:
                raise ValueError("Unknown command or category name in ACL")
        elif name in table:
            chosen = {name, *(each.name for each in table[name].subcommands.values())}
        else:
            raise ValueError("Unknown command or category name in ACL")
        self.allowed = self.allowed | chosen if allow else self.allowed - chosen

    def _note(self, word: str) -> None:
        if word in ("+@all", "-@all"):
            self.rules = [word]
            return
        self.rules = [each for each in self.rules if each[1:] != word[1:]]
        self.rules.append(word)

    # ---- questions -----------------------------------------------------------------------------------------------

    def denial(self, command: "Command", args: "Args") -> Denial | None:
        """Why this user may not; None: it may."""
        name = command.name.encode()
        if command.name not in self.allowed:
            return Denial("command", name, f"this user has no permissions to run the '{command.name}' command")
        if command.unchecked and not self.unrestricted:
            return Denial("command", name, "scripts of a store that a group keeps are for users who may do everything")
        keys = command.keys(args)
        for key, flags in zip(keys, key_flags(command, args, len(keys)), strict=True):
            if not self._may_use(key, "access" in flags, not _CHANGES.isdisjoint(flags)):
                return Denial("key", key, f"{_NO_ACCESS} keys used as arguments")
        if command.name in ("sort", "sort_ro") and not self.keys.get(b"*", (False, False))[0]:
            for word, pattern in pairwise(args[2:]):
                # What such a pattern names is known only when the members are, and may be any key.
                if word.upper() in (b"BY", b"GET") and b"*" in pattern:
                    text = f"{word.decode().upper()} option of SORT denied due to insufficient ACL permissions."
                    return Denial("key", pattern, text)
        if command.name in _CHANNEL_COMMANDS:
            names = args[1:2] if command.name.endswith("publish") else args[1:]
            exact = command.name == "psubscribe"
            for channel in names:
                if not self.may_hear(channel, exact=exact):
                    return Denial("channel", channel, f"{_NO_ACCESS} channels used as arguments")
        return None

    def may_hear(self, channel: bytes, *, exact: bool) -> bool:
        """Whether a channel is one of its own; `exact`: a pattern of channels, which has to stand among the rules."""
        return any(
            pattern == b"*" or (pattern == channel if exact else matcher(pattern)(channel)) for pattern in self.channels
        )

    def _may_use(self, key: bytes, reads: bool, changes: bool) -> bool:
        return any(
            (read or not reads) and (write or not changes) and matcher(pattern)(key)
            for pattern, (read, write) in self.keys.items()
        )

    def key_rules(self) -> list[bytes]:
        """Key patterns as rules."""
        signs = {(True, True): b"~", (True, False): b"%R~", (False, True): b"%W~"}
        return [signs[access] + pattern for pattern, access in self.keys.items()]

    def described(self) -> bytes:
        """The user as `ACL LIST` shows it."""
        words = [b"user", self.name.encode(), b"on" if self.enabled else b"off"]
        words += [b"nopass"] if self.nopass else [b"#" + each.encode() for each in self.passwords]
        words += self.key_rules() or [b"resetkeys"]
        words += [b"&" + each for each in self.channels] or [b"resetchannels"]
        return b" ".join([*words, *(rule.encode() for rule in self.rules)])


def almighty(name: str, table: "Table") -> User:
    """One who may do everything, without a password."""
    user = User(name, table)
    for rule in EVERYTHING:
        user.apply(rule)
    return user
