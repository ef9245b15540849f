"""Who may do what: users, their passwords, and the commands, keys and channels that they may use.

Rules are those of `ACL SETUSER` in Redis 7.0, without selectors. Users last as long as the process, unless a file
keeps them.
"""

import hashlib
import hmac
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from titan_objects.store.acl_log import AclLog, Denial, Entry
from titan_objects.store.globs import matcher
from titan_objects.store.key_flags import key_flags
from titan_objects.store.resp import CommandError

if TYPE_CHECKING:
    from titan_objects.store.config import Config
    from titan_objects.store.session import Session
    from titan_objects.store.table import Args, Command, Table

FREE_TRIES = 8
"""Wrong passwords from one address before it has to wait: 1 s then, twice as long each time, up to a minute."""

FORGIVEN_MS = 600_000
ADDRESSES_MAX = 4096

_CATEGORIES = {"generic": "keyspace", "transactions": "transaction", "sorted-set": "sortedset"}
_BELONGS = {
    **dict.fromkeys(["sort", "sort_ro"], ("list", "set", "sortedset")),
    **dict.fromkeys(["dbsize", "flushall", "flushdb", "swapdb"], ("keyspace",)),
    **dict.fromkeys(["command", "wait"], ("connection",)),
}
"""Where Redis's ACL puts commands elsewhere than its documentation; sub-commands go with their container."""
_ADMIN = frozenset(["lastsave", "role"])
_DANGEROUS = frozenset(["keys", "flushall", "flushdb", "sort", "sort_ro", "info", "swapdb", "restore", "migrate"])
_CHANGES = frozenset(["insert", "update", "delete"])
_NO_ACCESS = "this user has no permissions to access one of the"
_AFTER_ALL = (
    "Adding a pattern after the * pattern (or the '%s' flag) is not valid and does not have any effect. "
    "Try '%s' to start with an empty list of %s"
)
_CHANGED = (
    b"NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    b"This command is no longer allowed for the following reason: "
)
_CHANNEL_COMMANDS = frozenset(["subscribe", "ssubscribe", "publish", "spublish", "psubscribe"])
_BLANK = re.compile(rb"[\s\0]")
"""What no pattern contains: a file of users would be read otherwise than it was written."""


class _WithoutEffect(ValueError):
    """A rule that adds nothing to those before it."""


def categories(command: "Command") -> set[str]:
    """The classes that a command belongs to, without `@`."""
    found = set(_BELONGS.get(command.container, ()))
    found |= set() if found else {_CATEGORIES.get(command.group, command.group.replace("-", ""))}
    reads = "readonly" in command.flags and command.group != "scripting"  # a script reads what its commands may
    found |= {"write"} if command.writes else {"read"} if reads else set()
    found |= {"fast"} if "fast" in command.flags else {"slow"}
    found |= {"admin", "dangerous"} if "admin" in command.flags or command.name in _ADMIN else set()
    found |= {"blocking"} if "blocking" in command.flags else set()
    found |= {"pubsub"} if "pubsub" in command.flags else set()
    found |= {"dangerous"} if command.name in _DANGEROUS else set()
    return found - {"server"}


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
                raise _WithoutEffect(_AFTER_ALL % ("allchannels", "resetchannels", "channels"))
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
            raise _WithoutEffect(_AFTER_ALL % ("allkeys", "resetkeys", "patterns"))
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
    for rule in _EVERYTHING:
        user.apply(rule)
    return user


class Keeper(Protocol):
    """A file of users; its text is its name. Both raise OSError."""

    def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...


_EVERYTHING = (b"on", b"nopass", b"~*", b"&*", b"+@all")
_PLAIN: dict[str, tuple[bytes, ...]] = {
    "sanitize-payload": (),
    "skip-sanitize-payload": (),
    "allkeys": (b"~*",),
    "allchannels": (b"&*",),
    "allcommands": (b"+@all",),
    "nocommands": (b"-@all",),
    "reset": (b"resetkeys", b"resetchannels", b"off", b"resetpass", b"-@all"),
}


class Acl:
    """All users.

    Attributes:
        default: who a connection is until it says otherwise.
        keeper: what keeps them; None: nothing does.
    """

    def __init__(self, table: "Table", config: "Config") -> None:
        self._table = table
        self.default = almighty("default", table)
        self.users = {"default": self.default}
        self._config = config
        self._requirepass = ""
        self._failures: dict[str, tuple[int, int]] = {}
        self.log = AclLog()
        self.keeper: Keeper | None = None
        config.watch(self._on_config)
        self._on_config()

    def change(self, name: str, rules: list[bytes]) -> User:
        """Makes or changes a user: all rules, or none.

        Raises:
            CommandError: names the rule that cannot be.
        """
        before = self.users.get(name)
        tried = before.copy() if before is not None else User(name, self._table)
        for rule in rules:
            try:
                tried.apply(rule)
            except ValueError as why:
                shown = rule.decode("utf-8", "backslashreplace")
                raise CommandError(f"ERR Error in ACL SETUSER modifier '{shown}': {why}") from None
        if before is None:
            self.users[name] = tried
            return tried
        before.take(tried)
        return before

    # ---- the file ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Has all users kept. Raises CommandError."""
        keeper = self._kept_by()
        try:
            keeper.write(b"".join(user.described() + b"\n" for _, user in sorted(self.users.items())))
        except OSError as why:
            raise CommandError(f"ERR There was an error trying to save the ACLs: {why.strerror}") from None

    def load(self) -> list[User]:
        """Puts the users that are kept in place of those that there are; those that are gone.

        Raises:
            CommandError: the file cannot be read, or a line of it is wrong. Nothing has changed then.
        """
        keeper = self._kept_by()
        try:
            data = keeper.read()
        except OSError as why:
            raise CommandError(f"ERR Error loading ACLs, opening file '{keeper}': {why.strerror}") from None
        found: dict[str, User] = {}
        for number, line in enumerate(data.splitlines(), 1):
            words = line.split()
            if words:
                try:
                    self._read(words, found)
                except ValueError as why:
                    raise CommandError(f"ERR {keeper}:{number}: {why}. Nothing was changed") from None
        if "default" not in found:
            self._read([b"user", b"default", *_EVERYTHING], found)
        gone = [user for name, user in self.users.items() if name not in found]
        for name, user in found.items():
            if name in self.users:
                self.users[name].take(user)  # connections know it by this object
                found[name] = self.users[name]
        self.users = found
        return gone

    def _kept_by(self) -> Keeper:
        if self.keeper is None:
            raise CommandError(b"ERR This Redis instance is not configured to use an ACL file: aclfile names one")
        return self.keeper

    def _read(self, words: list[bytes], found: dict[str, User]) -> None:
        """One line. Raises ValueError."""
        if words[0].lower() != b"user" or len(words) < 2:
            raise ValueError("it should start with user keyword followed by the username")
        name = words[1].decode("utf-8", "backslashreplace")
        if name in found:
            raise ValueError(f"Duplicate user '{name}' found")
        found[name] = User(name, self._table)
        for rule in words[2:]:
            try:
                found[name].apply(rule)
            except _WithoutEffect:
                pass  # as `ACL SAVE` could write it before such rules were refused
            except ValueError as why:
                raise ValueError(f"'{rule.decode('utf-8', 'backslashreplace')}': {why}") from None

    # ---- who is who ----------------------------------------------------------------------------------------------

    def first_user(self) -> User | None:
        """Who a new connection is; None: it has to authenticate."""
        return self.default if self.default.enabled and self.default.nopass else None

    def seconds_to_wait(self, address: str, now: int) -> int:
        """How long an address that gave wrong passwords has to wait before it may try again."""
        count, last = self._failures.get(address.rpartition(":")[0], (0, 0))
        pause = 1000 << min(count - FREE_TRIES, 6) if count >= FREE_TRIES else 0
        return max(0, -((now - last - pause) // 1000))

    def check(self, session: "Session", command: "Command", args: "Args", now: int, context: str = "") -> None:
        """Raises CommandError: the user of this session may not; that is noted. `context`: "lua", within a script."""
        user = session.user
        denial = user.denial(command, args) if user is not None and not user.unrestricted else None
        if user is not None and denial is not None:
            context = context or ("toplevel" if session.queue is None else "multi")
            self._note(Entry(denial, context, user.name, session, now))
            raise CommandError(f"NOPERM {denial.text}")

    def check_queued(self, session: "Session", args: "Args", now: int) -> None:
        """As `check`, of a command of a transaction: rules may have changed since it was queued."""
        command = self._table.find_full(args)
        if command is not None and "no-auth" not in command.flags:
            try:
                self.check(session, command, args, now, "multi")
            except CommandError as why:
                raise CommandError(_CHANGED + why.text.removeprefix(b"NOPERM ")) from None

    def _note(self, entry: Entry) -> None:
        self.log.note(entry, int(self._config.get("acllog-max-len")))

    def note_failure(self, session: "Session", word: bytes, name: str, now: int) -> None:
        """A wrong password for that user came with the command `word`."""
        self._note(Entry(Denial("auth", word), "toplevel", name, session, now))
        host = session.address.rpartition(":")[0]
        count, last = self._failures.pop(host, (0, 0))
        self._failures[host] = (1 if now - last > FORGIVEN_MS else count + 1, now)
        if len(self._failures) > ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]

    def authenticate(self, name: str, password: bytes) -> User | None:
        """The user, or None: no such user, or not its password."""
        user = self.users.get(name)
        return user if user is not None and user.knows(password) else None

    def _on_config(self) -> None:
        word = self._config.get("requirepass")
        if word != self._requirepass:
            self._requirepass = word
            self.default.apply(b"resetpass")
            self.default.apply(b">" + word.encode() if word else b"nopass")
