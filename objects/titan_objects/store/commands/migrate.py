"""MIGRATE: which keys go where. The shell around the engine moves them (`migrating.py`)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.blocking import Waiter
from titan_objects.store.resp import CommandError, simple, syntax_error
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.keyspace import Database

group = Group("generic")

TIMEOUT_MS = 1000


@dataclass
class Options:
    """The words behind the timeout. `login`: what AUTH is told there."""

    keys: list[bytes]
    copy: bool = False
    replace: bool = False
    login: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Migration:
    """Keys on their way, and the client who waits for that."""

    host: str
    port: int
    database: int
    timeout_ms: int
    options: Options
    db: "Database"
    waiter: Waiter


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


@group.command("migrate", -6, "write blocking noscript no-multi movablekeys", movable=_keys, since="2.6.0")
def migrate(e: "Engine", a: Args) -> bytes | None:
    """Atomically transfers a key from one Redis instance to another."""
    options = _options(a)
    port, database, timeout = integer(a[2]), integer(a[4]), integer(a[5])
    if not 0 < port < 65536:
        raise CommandError(b"ERR Invalid port: it is a number from 1 to 65535")
    if not e.may_follow:
        raise CommandError(b"ERR this store cannot reach other servers")
    options.keys = [key for key in options.keys if e.db.get(key) is not None]
    if not options.keys:
        return simple(b"NOKEY")
    if e.block([], 0, lambda key: None, b"-IOERR nobody waits for this any more\r\n") is None:
        waiter = e.session.waiter
        assert waiter is not None
        host = a[1].decode("utf-8", "backslashreplace")
        e.migrations.append(
            Migration(host, port, database, timeout if timeout > 0 else TIMEOUT_MS, options, e.db, waiter)
        )
        e.requests.append("migrate")
        return None
    raise CommandError(b"ERR MIGRATE is not for transactions and scripts")
