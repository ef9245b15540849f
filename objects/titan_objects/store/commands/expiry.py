"""Keys that end: EXPIRE, PERSIST, TTL and their kin. Fields of hashes that do are in `hash_expiry`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.arguments import INT_MAX, INT_MIN, integer
from titan_objects.store.resp import ONE, ZERO, CommandError
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("generic")


def end_at(e: "Engine", key: bytes, at: int) -> None:
    """The key ends at this moment, in unix milliseconds: now, if that is over.

    But not where a log has the command, or a server that is followed: later commands may say that it does not end.
    """
    if at <= e.keyspace.now:
        e.removed(key)
        e.rewrite(b"DEL", key)
    else:
        e.db.expire_at(key, at)
        e.rewrite(b"PEXPIREAT", key, b"%d" % at)
        e.touch(key, b"expire")


MAY_END: dict[bytes, Callable[[int | None, int], bool]] = {
    b"NX": lambda old, at: old is None,
    b"XX": lambda old, at: old is not None,
    b"GT": lambda old, at: old is not None and at > old,
    b"LT": lambda old, at: old is None or at < old,
}
"""Conditions on which what ends (never: None) gets another end."""


def _expire(e: "Engine", a: Args, scale: int, relative: bool) -> bytes:
    key = a[1]
    conditions = {word.upper() for word in a[3:]}
    for word in a[3:]:
        if word.upper() not in MAY_END:
            raise CommandError(b"ERR Unsupported option %b" % word)
    if b"NX" in conditions and len(conditions) > 1:
        raise CommandError(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise CommandError(b"ERR GT and LT options at the same time are not compatible")
    given = integer(a[2])
    at = given * scale + (e.now if relative else 0)
    if not (INT_MIN <= given * scale <= INT_MAX and at <= INT_MAX):
        raise CommandError(b"ERR invalid expire time in '%b' command" % a[0].lower())
    if e.db.get(key) is None:
        return ZERO
    old = e.db.expires.get(key)
    if not all(MAY_END[each](old, at) for each in conditions):
        return ZERO
    end_at(e, key, at)
    return ONE


@group.command("expire", -3, "write fast", keys=(1, 1, 1))
def expire(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of a key in seconds."""
    return _expire(e, a, 1000, True)


@group.command("pexpire", -3, "write fast", keys=(1, 1, 1), since="2.6.0")
def pexpire(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of a key in milliseconds."""
    return _expire(e, a, 1, True)


@group.command("expireat", -3, "write fast", keys=(1, 1, 1), since="1.2.0")
def expireat(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of a key to a Unix timestamp."""
    return _expire(e, a, 1000, False)


@group.command("pexpireat", -3, "write fast", keys=(1, 1, 1), since="2.6.0")
def pexpireat(e: "Engine", a: Args) -> bytes:
    """Sets the expiration time of a key to a Unix milliseconds timestamp."""
    return _expire(e, a, 1, False)


@group.command("persist", 2, "write fast", keys=(1, 1, 1), since="2.2.0")
def persist(e: "Engine", a: Args) -> bytes:
    """Removes the expiration time of a key."""
    if e.db.get(a[1]) is None or e.db.expires.pop(a[1], None) is None:
        return ZERO
    e.touch(a[1], b"persist")
    return ONE


def _time_left(e: "Engine", key: bytes, shown: Callable[[int], int]) -> bytes:
    if e.db.get(key) is None:
        return b":-2\r\n"
    at = e.db.expires.get(key)
    return b":-1\r\n" if at is None else number(shown(at))


@group.command("ttl", 2, "readonly fast", keys=(1, 1, 1))
def ttl(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time in seconds of a key."""
    return _time_left(e, a[1], lambda at: (at - e.now + 500) // 1000)


@group.command("pttl", 2, "readonly fast", keys=(1, 1, 1), since="2.6.0")
def pttl(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time in milliseconds of a key."""
    return _time_left(e, a[1], lambda at: at - e.now)


@group.command("expiretime", 2, "readonly fast", keys=(1, 1, 1), since="7.0.0")
def expiretime(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time of a key as a Unix timestamp."""
    return _time_left(e, a[1], lambda at: (at + 500) // 1000)


@group.command("pexpiretime", 2, "readonly fast", keys=(1, 1, 1), since="7.0.0")
def pexpiretime(e: "Engine", a: Args) -> bytes:
    """Returns the expiration time of a key as a Unix milliseconds timestamp."""
    return _time_left(e, a[1], lambda at: at)
