"""All users: who a connection is, who has to wait after wrong passwords, and the file of users. One is in `acl_user`.

They last as long as the process, unless a file keeps them.
"""

from typing import TYPE_CHECKING, Protocol

from titan_objects.store.acl_log import AclLog, Denial, Entry
from titan_objects.store.acl_selector import WithoutEffect
from titan_objects.store.acl_user import EVERYTHING, User, almighty, joined
from titan_objects.store.resp import CommandError

if TYPE_CHECKING:
    from titan_objects.store.config import Config
    from titan_objects.store.session import Session
    from titan_objects.store.table import Args, Command, Table

FREE_TRIES = 8
"""Wrong passwords from one address before it has to wait: 1 s then, twice as long each time, up to a minute."""

FORGIVEN_MS = 600_000
ADDRESSES_MAX = 4096

_CHANGED = (
    "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    "This command is no longer allowed for the following reason: "
)
_SCRIPT = "ERR The user executing the script can't"
_TEXTS = {
    "multi": {
        "command": f"{_CHANGED}no permission to execute the command or subcommand",
        "key": f"{_CHANGED}no permission to touch the specified keys",
        "channel": f"{_CHANGED}no permission to access one of the channels used as arguments",
    },
    "lua": {
        "command": f"{_SCRIPT} run this command or subcommand",
        "key": f"{_SCRIPT} access at least one of the keys mentioned in the command arguments",
        "channel": f"{_SCRIPT} publish to the channel mentioned in the command",
    },
}
"""What is said of a refusal at EXEC, and to a script."""


class Keeper(Protocol):
    """A file of users; its text is its name. Both raise OSError."""

    def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...


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
        try:
            rules = joined(rules)
        except ValueError as why:
            raise CommandError(f"ERR {why}") from None
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
            self._read([b"user", b"default", *EVERYTHING], found)
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
        for rule in joined(words[2:]):
            try:
                found[name].apply(rule)
            except WithoutEffect:
                pass  # as `ACL SAVE` could write it before such rules were refused
            except ValueError as why:
                raise ValueError(f"'{rule.decode('utf-8', 'backslashreplace')}': {why}") from None

    # ---- who is who ----------------------------------------------------------------------------------------------

    def first_user(self) -> User | None:
        """Who a new connection is; None: it has to authenticate."""
        return self.default if self.default.enabled and self.default.nopass else None

    def let_in(self, session: "Session") -> None:
        """Who came when a password was needed needs none if there is none now."""
        if session.user is None:
            session.user = self.first_user()
            session.look()

    def seconds_to_wait(self, address: str, now: int) -> int:
        """How long an address that gave wrong passwords has to wait before it may try again."""
        count, last = self._failures.get(address.rpartition(":")[0], (0, 0))
        pause = 1000 << min(count - FREE_TRIES, 6) if count >= FREE_TRIES else 0
        return max(0, -((now - last - pause) // 1000))

    def check(self, session: "Session", command: "Command", args: "Args", now: int, within: str = "") -> None:
        """Raises CommandError: the user of this session may not; that is noted. `within`: "multi" at EXEC, or "lua"."""
        user = session.user
        denial = user.denial(command, args) if user is not None and not user.unrestricted else None
        if user is not None and denial is not None:
            context = within or ("toplevel" if session.queue is None else "multi")
            self._note(Entry(denial, context, user.name, session, now))
            if within and not denial.always:
                raise CommandError(_TEXTS[within][denial.reason])
            raise CommandError(f"NOPERM {denial.text}")

    def check_queued(self, session: "Session", args: "Args", now: int) -> None:
        """As `check`, of a command of a transaction: rules may have changed since it was queued."""
        command = self._table.find_full(args)
        if command is not None and "no-auth" not in command.flags:
            self.check(session, command, args, now, "multi")

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
