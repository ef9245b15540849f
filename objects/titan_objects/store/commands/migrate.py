"""MIGRATE: which keys go where. The shell around the engine moves them (`migrating.py`)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.resp import CommandError, simple, syntax_error
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.keyspace import Database

group = Group("generic")

TIMEOUT_MS = 1000

NOKEY = simple(b"NOKEY")


@dataclass
class Options:
    """The words behind the timeout. `login`: what AUTH is told there."""

    keys: list[bytes]
    copy: bool = False
    replace: bool = False
    login: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Migration:
    """Keys on their way: from `db`, to that database there."""

    host: str
    port: int
    database: int
    timeout_ms: int
    options: Options
    db: "Database"


def _options(a: Args) -> Options:
    found = Options([a[3]] if a[3] else [])
    at = 6
    while at < len(a):
        word = a[at].upper()
        if word == b"COPY":
            found.copy = True
        elif word == b"REPLACE":
            found.replace = True
        elif word in (b"AUTH", b"AUTH2"):
            count = 1 if word == b"AUTH" else 2
            option(a, at + count)
            found.login = a[at + 1 : at + 1 + count]
            at += count
        elif word == b"KEYS":
            if a[3]:
                raise CommandError(
                    b"ERR When using MIGRATE KEYS option, the key argument must be set to the empty string"
                )
            found.keys = list(dict.fromkeys(a[at + 1 :]))
            break
        else:
            raise syntax_error()
        at += 1
    return found


def _keys(a: Args) -> list[bytes]:
    try:
        return _options(a).keys
    except CommandError:
        return []


def parsed(a: Args, db: "Database") -> Migration:
    """What a call wants. Raises CommandError: that cannot be."""
    options = _options(a)
    port, database, timeout = integer(a[2]), integer(a[4]), integer(a[5])
    if not 0 < port < 65536:
        raise CommandError(b"ERR Invalid port: it is a number from 1 to 65535")
    host = a[1].decode("utf-8", "backslashreplace")
    return Migration(host, port, database, timeout if timeout > 0 else TIMEOUT_MS, options, db)


@group.command("migrate", -6, "write blocking noscript no-multi movablekeys", movable=_keys, since="2.6.0")
def migrate(e: "Engine", a: Args) -> bytes | None:
    """Atomically transfers a key from one Redis instance to another."""
    migration = parsed(a, e.db)
    if not e.may_follow:
        raise CommandError(b"ERR this store cannot reach other servers")
    if all(e.db.get(key) is None for key in migration.options.keys):
        return NOKEY
    if e.block([], 0, lambda key: None, b"-IOERR nobody waits for this any more\r\n") is None:
        assert e.session.waiter is not None
        e.migrations.append((migration, e.session.waiter))
        e.requests.append("migrate")
        return None
    raise CommandError(b"ERR MIGRATE is not for transactions and scripts")
