"""Fields of hashes that end, as in Redis 7.4."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer
from titan_objects.store.commands.expiry import MAY_END
from titan_objects.store.effects import end_fields
from titan_objects.store.resp import CommandError, array
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import ExpiringHash

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("hash")

_NO_FIELD, _NO_END, _REFUSED, _DONE, _OVER = -2, -1, 0, 1, 2

_POSITIVE = b"ERR Number of fields must be a positive integer"


def _fields(a: Args, at: int, error: bytes) -> list[bytes]:
    """The fields of `FIELDS n a b`, which stands there."""
    if a[at].upper() != b"FIELDS":
        raise CommandError(b"ERR Mandatory argument FIELDS is missing or not at the right position")
    many = integer(a[at + 1], error)
    if many < 1:
        raise CommandError(error)
    if many != len(a) - at - 2:
        raise CommandError(b"ERR The `numfields` parameter must match the number of arguments")
    return a[at + 2 :]


def _moment(e: "Engine", a: Args, scale: int, relative: bool) -> int:
    given = integer(a[2])
    if given < 0:
        raise CommandError(b"ERR invalid expire time, must be >= 0")
    at = given * scale + (e.now if relative else 0)
    if at > ExpiringHash.END_MAX:
        raise CommandError(b"ERR invalid expire time in '%b' command" % a[0].lower())
    return at


def _expire(e: "Engine", a: Args, scale: int, relative: bool) -> bytes:
    key = a[1]
    found = e.db.hash(key)
    at = _moment(e, a, scale, relative)
    may = MAY_END.get(a[3].upper())
    fields = _fields(a, 3 if may is None else 4, b"ERR Parameter `numFields` should be greater than 0")
    if found is None:
        return array([number(_NO_FIELD)] * len(fields))
    ends = found if type(found) is ExpiringHash else ExpiringHash()
    done = _OVER if at <= e.keyspace.now else _DONE  # in a log, what is over may yet be put off, as `end_at` has it
    replies: list[int] = []
    chosen: dict[bytes, None] = {}
    for field in fields:
        if field not in found or (done == _OVER and field in chosen):
            replies.append(_NO_FIELD)
        elif may is not None and not may(at if field in chosen else ends.end_of(field), at):
            replies.append(_REFUSED)
        else:
            replies.append(done)
            chosen[field] = None
    if chosen and done == _OVER:
        _remove(e, key, found, list(chosen))
    elif chosen:
        _end(e, key, found, list(chosen), at)
    return array([number(each) for each in replies])


def _remove(e: "Engine", key: bytes, found: dict[bytes, bytes], fields: list[bytes]) -> None:
    """What ends in the past is gone at once."""
    for field in fields:
        found.pop(field)
    e.rewrite(b"HDEL", key, *fields)
    e.touch(key, b"hdel", "h")
    if not found:
        e.removed(key)


def _end(e: "Engine", key: bytes, found: dict[bytes, bytes], fields: list[bytes], at: int) -> None:
    if type(found) is not ExpiringHash:
        found = e.db.data[key] = ExpiringHash(found)
    for field in fields:
        found.end_at(field, at)
    e.db.place_fields(key)
    e.rewrite(*end_fields(key, at, fields))
    e.touch(key, b"hexpire", "h")


@group.command("hexpire", -6, "write denyoom fast", keys=(1, 1, 1), since="7.4.0")
def hexpire(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of hash fields in seconds."""
    return _expire(e, a, 1000, True)


@group.command("hpexpire", -6, "write denyoom fast", keys=(1, 1, 1), since="7.4.0")
def hpexpire(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of hash fields in milliseconds."""
    return _expire(e, a, 1, True)


@group.command("hexpireat", -6, "write denyoom fast", keys=(1, 1, 1), since="7.4.0")
def hexpireat(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of hash fields to a Unix timestamp."""
    return _expire(e, a, 1000, False)


@group.command("hpexpireat", -6, "write denyoom fast", keys=(1, 1, 1), since="7.4.0")
def hpexpireat(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of hash fields to a Unix milliseconds timestamp."""
    return _expire(e, a, 1, False)


def _shown(e: "Engine", a: Args, shown: Callable[[int], int]) -> bytes:
    found = e.db.hash(a[1])
    replies = []
    for field in _fields(a, 2, _POSITIVE):
        if found is None or field not in found:
            replies.append(_NO_FIELD)
        else:
            at = found.end_of(field) if type(found) is ExpiringHash else None
            replies.append(_NO_END if at is None else shown(at))
    return array([number(each) for each in replies])


@group.command("httl", -5, "readonly fast", keys=(1, 1, 1), since="7.4.0")
def httl(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time in seconds of hash fields."""
    return _shown(e, a, lambda at: (at - e.now + 999) // 1000)


@group.command("hpttl", -5, "readonly fast", keys=(1, 1, 1), since="7.4.0")
def hpttl(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time in milliseconds of hash fields."""
    return _shown(e, a, lambda at: at - e.now)


@group.command("hexpiretime", -5, "readonly fast", keys=(1, 1, 1), since="7.4.0")
def hexpiretime(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time of hash fields as a Unix timestamp."""
    return _shown(e, a, lambda at: (at + 999) // 1000)


@group.command("hpexpiretime", -5, "readonly fast", keys=(1, 1, 1), since="7.4.0")
def hpexpiretime(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time of hash fields as a Unix milliseconds timestamp."""
    return _shown(e, a, lambda at: at)


@group.command("hpersist", -5, "write fast", keys=(1, 1, 1), since="7.4.0")
def hpersist(e: "Engine", a: Args) -> bytes:
    """Removes the expiration time of hash fields."""
    found = e.db.hash(a[1])
    replies = []
    for field in _fields(a, 2, _POSITIVE):
        if found is None or field not in found:
            replies.append(_NO_FIELD)
        else:
            replies.append(_DONE if type(found) is ExpiringHash and found.ends.remove(field) else _NO_END)
    if _DONE in replies:
        e.touch(a[1], b"hpersist", "h")
    return array([number(each) for each in replies])
