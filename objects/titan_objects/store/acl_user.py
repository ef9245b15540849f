"""One user: the rules that say what it may do, its passwords, and why it may not.

Rules are those of `ACL SETUSER` in Redis 7.0.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_objects.store.acl_log import Denial
from titan_objects.store.acl_selector import Selector

if TYPE_CHECKING:
    from titan_objects.store.table import Args, Command, Table

EVERYTHING = (b"on", b"nopass", b"~*", b"&*", b"+@all")
_RESET = (b"resetkeys", b"resetchannels", b"off", b"resetpass", b"-@all", b"clearselectors")
_WITHOUT_EFFECT = frozenset((b"sanitize-payload", b"skip-sanitize-payload"))
"""What is restored is always checked."""


class User:
    """One user, who may do nothing until rules say so.

    Attributes:
        root: what it may do; selectors: what it may do besides.
        unrestricted: may do everything, so nothing is checked.
    """

    def __init__(self, name: str, table: "Table") -> None:
        self.name = name
        self._table = table
        self.enabled = False
        self.nopass = False
        self.passwords: dict[str, None] = {}
        self.root = Selector(table)
        self.selectors: list[Selector] = []
        self.unrestricted = False

    def copy(self) -> "User":
        """Another one with the same rules, to try more on."""
        twin = User(self.name, self._table)
        twin.take(self)
        return twin

    def take(self, other: "User") -> None:
        """Becomes what the other is."""
        self.enabled, self.nopass, self.passwords = other.enabled, other.nopass, dict(other.passwords)
        self.root, self.selectors = other.root.copy(), [each.copy() for each in other.selectors]
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
        word, sign = rule.lower(), rule[:1]
        if word == b"reset":
            for each in _RESET:
                self.apply(each)
        elif word in (b"on", b"off"):
            self.enabled = word == b"on"
        elif word == b"nopass":
            self.nopass = True
            self.passwords.clear()
        elif word == b"resetpass":
            self.nopass = False
            self.passwords.clear()
        elif word == b"clearselectors":
            self.selectors.clear()
        elif sign == b"(":
            self._add_selector(rule)
        elif sign in (b">", b"<", b"#", b"!"):
            self._password(sign, rule[1:])
        elif word not in _WITHOUT_EFFECT:
            self.root.apply(rule)
        self.unrestricted = self.root.unrestricted or any(each.unrestricted for each in self.selectors)

    def _add_selector(self, rule: bytes) -> None:
        if not rule.endswith(b")"):
            raise ValueError("Syntax error")
        selector = Selector(self._table)
        for each in rule[1:-1].split():
            selector.apply(each)
        self.selectors.append(selector)

    def _password(self, sign: bytes, text: bytes) -> None:
        digest = text.decode("latin-1").lower()
        if sign in (b">", b"<"):
            digest = hashlib.sha256(text).hexdigest()
        elif not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(
                "The password hash must be exactly 64 characters and contain only lowercase hex characters"
            )
        if sign in (b">", b"#"):
            self.passwords[digest] = None
            self.nopass = False
        elif self.passwords.pop(digest, 0) == 0:
            raise ValueError("The password you are trying to remove from the user does not exist")

    # ---- questions -----------------------------------------------------------------------------------------------

    def denial(self, command: "Command", args: "Args") -> Denial | None:
        """Why this user may not, as the selector says that came closest; None: it may."""
        if command.unchecked and not self.unrestricted:
            text = "scripts of a store that a group keeps are for users who may do everything"
            return Denial("command", command.name.encode(), text)
        refusals = []
        for selector in (self.root, *self.selectors):
            refusal = selector.refusal(command, args)
            if refusal is None:
                return None
            refusals.append(refusal)
        return max(refusals, key=lambda refusal: refusal[0])[1]

    def may_hear(self, channel: bytes, *, exact: bool) -> bool:
        """Whether a channel is one of its own; `exact`: a pattern of channels, which has to stand among the rules."""
        return any(each.may_hear(channel, exact=exact) for each in (self.root, *self.selectors))

    def described(self) -> bytes:
        """The user as `ACL LIST` shows it."""
        words = [b"user", self.name.encode(), b"on" if self.enabled else b"off"]
        words += [b"nopass"] if self.nopass else [b"#" + each.encode() for each in self.passwords]
        words.append(self.root.described())
        return b" ".join([*words, *(b"(%b)" % each.described() for each in self.selectors)])


def joined(words: Sequence[bytes]) -> list[bytes]:
    """Rules, where a selector may be spread over several words. Raises ValueError: it has no end."""
    rules: list[bytes] = []
    begun: list[bytes] = []
    for word in words:
        if begun or word.startswith(b"("):
            begun.append(word)
            if word.endswith(b")"):
                rules.append(b" ".join(begun))
                begun = []
        else:
            rules.append(word)
    if begun:
        shown = begun[0].decode("utf-8", "backslashreplace")
        raise ValueError(f"Unmatched parenthesis in acl selector starting at '{shown}'.")
    return rules


def almighty(name: str, table: "Table") -> User:
    """One who may do everything, without a password."""
    user = User(name, table)
    for rule in EVERYTHING:
        user.apply(rule)
    return user
