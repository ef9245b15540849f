"""Who may do what: users, their passwords, and the commands, keys and channels that they may use."""

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titan_objects.store.config import Config
    from titan_objects.store.table import Args, Command, Table


FREE_TRIES = 8
"""Wrong passwords from one address before it has to wait: 1 s then, twice as long each time, up to a minute."""

FORGIVEN_MS = 600_000
ADDRESSES_MAX = 4096

_CATEGORIES = {"generic": "keyspace", "transactions": "transaction", "sorted-set": "sortedset"}
_DANGEROUS = frozenset(
    ["keys", "flushall", "flushdb", "sort", "sort_ro", "info", "role", "swapdb", "restore", "migrate"]
)


class User:
    """One user. `unrestricted`: may do everything, so nothing is checked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = True
        self.nopass = True
        self.passwords: set[str] = set()
        self.unrestricted = True

    def check(self, command: "Command", args: "Args") -> None:
        """Raises CommandError: this user may not."""

    def knows(self, password: bytes) -> bool:
        """Whether that is one of its passwords."""
        if not self.enabled:
            return False
        digest = hashlib.sha256(password).hexdigest()
        return self.nopass or any(hmac.compare_digest(digest, each) for each in self.passwords)


class Acl:
    """All users. `default` is who a connection is until it says otherwise."""

    def __init__(self, table: "Table", config: "Config") -> None:
        self.default = User("default")
        self.users = {"default": self.default}
        self._config = config
        self._requirepass = ""
        self._failures: dict[str, tuple[int, int]] = {}
        config.watch(self._on_config)
        self._on_config()

    def first_user(self) -> User | None:
        """Who a new connection is; None: it has to authenticate."""
        return self.default if self.default.enabled and self.default.nopass else None

    def categories(self, command: "Command") -> set[str]:
        """The classes that a command belongs to."""
        found = {_CATEGORIES.get(command.group, command.group.replace("-", ""))}
        found |= {"write"} if command.writes else {"read"} if "readonly" in command.flags else set()
        found |= {"fast"} if "fast" in command.flags else {"slow"}
        found |= {"admin", "dangerous"} if "admin" in command.flags else set()
        found |= {"blocking"} if "blocking" in command.flags else set()
        found |= {"pubsub"} if "pubsub" in command.flags else set()
        found |= {"dangerous"} if command.name in _DANGEROUS else set()
        return found - {"server"}

    def seconds_to_wait(self, address: str, now: int) -> int:
        """How long an address that gave wrong passwords has to wait before it may try again."""
        count, last = self._failures.get(address.rpartition(":")[0], (0, 0))
        pause = 1000 << min(count - FREE_TRIES, 6) if count >= FREE_TRIES else 0
        return max(0, -((now - last - pause) // 1000))

    def note_failure(self, address: str, now: int) -> None:
        """A wrong password came from there."""
        host = address.rpartition(":")[0]
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
            self.default.nopass = not word
            self.default.passwords = {hashlib.sha256(word.encode()).hexdigest()} if word else set()
