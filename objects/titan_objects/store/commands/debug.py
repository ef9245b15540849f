"""DEBUG: what tests of clients and of persistence ask a server for. Refused unless `enable-debug-command` allows it."""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store import digest
from titan_objects.store.commands.keys import encoding, existing
from titan_objects.store.rdb import restored
from titan_objects.store.rdb_writing import body
from titan_objects.store.resp import OK, CommandError, array, bulk, simple
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")

_FORBIDDEN = (
    b"ERR DEBUG command not allowed. The setting enable-debug-command says who may call it: 'local' means connections "
    b"of this machine, 'yes' everybody. It is chosen at the start."
)

SLEEP_SECONDS_MAX = 1e9
"""What a clock can sleep."""


@group.command("debug", -2, "admin noscript loading stale")
def debug(e: "Engine", a: Args) -> bytes:
    """A container for debugging commands."""
    allowed = e.config.get("enable-debug-command")
    if allowed == "no" or (allowed == "local" and not _is_local(e.session.address)):
        raise CommandError(_FORBIDDEN)
    known = _KNOWN.get(a[1].upper())
    if known is None or not known[1] <= len(a) <= known[2]:
        word = a[1][:128].decode("utf-8", "backslashreplace")
        raise CommandError(f"ERR unknown subcommand or wrong number of arguments for '{word}'. Try DEBUG HELP.")
    return known[0](e, a)


def _is_local(address: str) -> bool:
    """Whether a client's address is a Unix socket's, or on the loopback interface; a program of the pool has none."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "unix" or host.startswith("/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sleep(e: "Engine", a: Args) -> bytes:
    """SLEEP <seconds>: everybody waits so long."""
    try:
        seconds = float(a[2])
    except ValueError:
        seconds = 0.0
    e.sleep(min(seconds, SLEEP_SECONDS_MAX) if seconds > 0 else 0.0)  # not a number: is not above 0 either
    return OK


def _reload(e: "Engine", a: Args) -> bytes:
    """RELOAD: every value is written as a snapshot has it, and read again."""
    if len(a) > 2:
        raise CommandError(b"ERR DEBUG RELOAD has no options here: nothing is kept but the append-only file")
    for db in e.databases:
        for key in db.live_keys():
            if e.preserve is not None:
                e.preserve(db, key)
            kind, pieces = body(db.data[key])
            db.take_in(key, restored(bytes((kind,)) + b"".join(pieces)), db.expires.get(key))
    return OK


def _digest(e: "Engine", a: Args) -> bytes:
    """DIGEST: a hash of all keys and values, which a Redis with the same data has as well."""
    return simple(digest.of_all(e.databases).encode())


def _digest_value(e: "Engine", a: Args) -> bytes:
    """DIGEST-VALUE <key> [<key> ...]: the same of each value alone."""
    return array([simple(digest.of_value(e.db, key).encode()) for key in a[2:]])


def _object(e: "Engine", a: Args) -> bytes:
    """OBJECT <key>: how the value is kept."""
    value = existing(e, a[2])
    size = sum(map(len, body(value)[1]))
    idle = e.meter.idle_ms(e.db, a[2]) // 1000 if e.meter is not None else 0
    used = (e.now // 1000 - idle) & 0xFFFFFF
    return simple(
        b"Value at:0x0 refcount:1 encoding:%b serializedlength:%d lru:%d lru_seconds_idle:%d"
        % (encoding(e, value), size, used, idle)
    )


def _error(e: "Engine", a: Args) -> bytes:
    """ERROR <string>: is answered with this error."""
    raise CommandError(a[2])


_TYPES = b"string integer double bignum null array set map attrib push verbatim true false"


def _protocol(e: "Engine", a: Args) -> bytes:
    """PROTOCOL <type>: is answered with a value of that type."""
    numbers = [number(at) for at in range(3)]
    kind = a[2].lower()
    if kind in (b"attrib", b"push") and e.reply.version == 2:
        raise CommandError(b"ERR RESP2 is not supported by this command")
    answers: dict[bytes, Callable[[], bytes]] = {
        b"string": lambda: bulk(b"Hello World"),
        b"integer": lambda: number(12345),
        b"double": lambda: e.reply.double(3.141),
        b"bignum": lambda: e.reply.big_number(b"1234567999999999999999999999999999999"),
        b"null": lambda: e.reply.null,
        b"array": lambda: array(numbers),
        b"set": lambda: e.reply.set(numbers),
        b"map": lambda: e.reply.map((each, e.reply.boolean(at == 1)) for at, each in enumerate(numbers)),
        b"attrib": lambda: (
            b"|1\r\n%b%b" % (bulk(b"key-popularity"), array([bulk(b"key:123"), number(90)]))
            + bulk(b"Some real reply following the attribute")
        ),
        b"push": lambda: (
            e.reply.push([bulk(b"server-cpu-usage"), number(42)]) + bulk(b"Some real reply following the push reply")
        ),
        b"verbatim": lambda: e.reply.verbatim(b"This is a verbatim\nstring"),
        b"true": lambda: e.reply.boolean(True),
        b"false": lambda: e.reply.boolean(False),
    }
    if kind not in answers:
        known = _TYPES.replace(b" ", b"|")
        raise CommandError(b"ERR Wrong protocol type name. Please use one of the following: %b" % known)
    return answers[kind]()


def _set_active_expire(e: "Engine", a: Args) -> bytes:
    """SET-ACTIVE-EXPIRE <0|1>: 0: what is past its time stays in memory until somebody asks for it."""
    e.expires_by_itself = a[2].strip() not in (b"0", b"")
    return OK


def _no_quicklists(e: "Engine", a: Args) -> bytes:
    """QUICKLIST-PACKED-THRESHOLD <size>: is taken, and changes nothing."""
    return OK


def _help(e: "Engine", a: Args) -> bytes:
    """HELP: prints this help."""
    lines = ["DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for handler, _, _ in _KNOWN.values():
        head, _, text = (handler.__doc__ or "").partition(": ")
        lines += [head, f"    {text}"]
    return array([simple(line.encode()) for line in lines])


_MANY = 1 << 31
"""Words: as many as a command can have."""

_KNOWN: dict[bytes, tuple[Callable[["Engine", Args], bytes], int, int]] = {
    b"DIGEST": (_digest, 2, 2),
    b"DIGEST-VALUE": (_digest_value, 2, _MANY),
    b"ERROR": (_error, 3, 3),
    b"OBJECT": (_object, 3, 4),
    b"PROTOCOL": (_protocol, 3, 3),
    b"QUICKLIST-PACKED-THRESHOLD": (_no_quicklists, 3, 3),
    b"RELOAD": (_reload, 2, _MANY),
    b"SET-ACTIVE-EXPIRE": (_set_active_expire, 3, 3),
    b"SLEEP": (_sleep, 3, 3),
    b"HELP": (_help, 2, 2),
}
"""By name: the handler, and how many words a call has at least and at most."""
