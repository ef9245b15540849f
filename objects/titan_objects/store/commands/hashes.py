"""Hashes."""

from typing import TYPE_CHECKING

from titan_objects.store import extended
from titan_objects.store.arguments import INT_MAX, INT_MIN, integer
from titan_objects.store.commands.scans import Scan, parse_cursor, scan_reply
from titan_objects.store.commands.sets import sample, sample_options
from titan_objects.store.effects import end_fields
from titan_objects.store.resp import (
    EMPTY,
    OK,
    ONE,
    ZERO,
    CommandError,
    array,
    bulk,
    bulks,
    limit_reply,
    looked_up,
)
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import ExpiringHash

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("hash")

Hash = dict[bytes, bytes]


def _made(e: "Engine", key: bytes) -> Hash:
    fields = e.db.hash(key)
    if fields is None:
        fields = e.db.data[key] = {}
    return fields


def _put(e: "Engine", a: Args) -> int:
    if len(a) % 2:
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % a[0].lower())
    fields = _made(e, a[1])
    before = len(fields)
    if len(a) == 4:
        fields[a[2]] = a[3]
    else:
        fields.update(zip(a[2::2], a[3::2], strict=True))
    e.touch(a[1], b"hset", "h")
    return len(fields) - before


@group.command("hset", -4, "write denyoom fast", keys=(1, 1, 1), since="2.0.0")
def hset(e: "Engine", a: Args) -> bytes:
    """Creates or modifies the value of a field in a hash."""
    return number(_put(e, a))


@group.command("hmset", -4, "write denyoom fast", keys=(1, 1, 1), since="2.0.0")
def hmset(e: "Engine", a: Args) -> bytes:
    """Sets the values of multiple fields."""
    _put(e, a)
    return OK


@group.command("hsetnx", 4, "write denyoom fast", keys=(1, 1, 1), since="2.0.0")
def hsetnx(e: "Engine", a: Args) -> bytes:
    """Sets the value of a field in a hash only when the field doesn't exist."""
    fields = e.db.hash(a[1])
    if fields is not None and a[2] in fields:
        return ZERO
    _made(e, a[1])[a[2]] = a[3]
    e.touch(a[1], b"hset", "h")
    return ONE


@group.command("hget", 3, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def hget(e: "Engine", a: Args) -> bytes:
    """Returns the value of a field in a hash."""
    fields = e.db.hash(a[1])
    value = fields.get(a[2]) if fields is not None else None
    return e.reply.null if value is None else bulk(value)


@group.command("hmget", -3, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def hmget(e: "Engine", a: Args) -> bytes:
    """Returns the values of all fields in a hash."""
    fields = e.db.hash(a[1]) or {}
    found = [fields.get(field) for field in a[2:]]
    return looked_up(found, e.reply.null)


@group.command("hgetall", 2, "readonly", keys=(1, 1, 1), since="2.0.0")
def hgetall(e: "Engine", a: Args) -> bytes:
    """Returns all fields and values in a hash."""
    fields = e.db.hash(a[1]) or {}
    return e.reply.map((bulk(field), bulk(value)) for field, value in fields.items())


@group.command("hkeys", 2, "readonly", keys=(1, 1, 1), since="2.0.0")
def hkeys(e: "Engine", a: Args) -> bytes:
    """Returns all fields in a hash."""
    return bulks(list(e.db.hash(a[1]) or ()))


@group.command("hvals", 2, "readonly", keys=(1, 1, 1), since="2.0.0")
def hvals(e: "Engine", a: Args) -> bytes:
    """Returns all values in a hash."""
    return bulks(list((e.db.hash(a[1]) or {}).values()))


@group.command("hlen", 2, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def hlen(e: "Engine", a: Args) -> bytes:
    """Returns the number of fields in a hash."""
    return number(len(e.db.hash(a[1]) or ()))


@group.command("hstrlen", 3, "readonly fast", keys=(1, 1, 1), since="3.2.0")
def hstrlen(e: "Engine", a: Args) -> bytes:
    """Returns the length of the value of a field."""
    return number(len((e.db.hash(a[1]) or {}).get(a[2], b"")))


@group.command("hexists", 3, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def hexists(e: "Engine", a: Args) -> bytes:
    """Determines whether a field exists in a hash."""
    return ONE if a[2] in (e.db.hash(a[1]) or ()) else ZERO


@group.command("hdel", -3, "write fast", keys=(1, 1, 1), since="2.0.0")
def hdel(e: "Engine", a: Args) -> bytes:
    """Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain."""
    fields = e.db.hash(a[1])
    if fields is None:
        return ZERO
    gone = sum([fields.pop(field, None) is not None for field in a[2:]])
    if gone:
        e.touch(a[1], b"hdel", "h")
        if not fields:
            e.removed(a[1])
    return number(gone)


@group.command("hincrby", 4, "write denyoom fast", keys=(1, 1, 1), since="2.0.0")
def hincrby(e: "Engine", a: Args) -> bytes:
    """Increments the integer value of a field in a hash by a number. Uses 0 if the field doesn't exist."""
    amount = integer(a[3])
    old = (e.db.hash(a[1]) or {}).get(a[2])
    total = amount if old is None else integer(old, b"ERR hash value is not an integer") + amount
    if not INT_MIN <= total <= INT_MAX:
        raise CommandError(b"ERR increment or decrement would overflow")
    dict.__setitem__(_made(e, a[1]), a[2], b"%d" % total)  # a field that ends goes on to do so
    e.touch(a[1], b"hincrby", "h")
    return number(total)


@group.command("hincrbyfloat", 4, "write denyoom fast", keys=(1, 1, 1), since="2.6.0")
def hincrbyfloat(e: "Engine", a: Args) -> bytes:
    """Increments the floating point value of a field by a number. Uses 0 if the field doesn't exist."""
    amount = extended.number(a[3])
    if isinstance(amount, float):
        raise CommandError(b"ERR value is NaN or Infinity")
    old = (e.db.hash(a[1]) or {}).get(a[2])
    before = extended.number(old if old is not None else b"0", b"ERR hash value is not a float")
    total = extended.text(extended.total(before, amount))
    fields = _made(e, a[1])
    dict.__setitem__(fields, a[2], total)
    e.rewrite(b"HSET", a[1], a[2], total)
    until = fields.end_of(a[2]) if type(fields) is ExpiringHash else None
    if until is not None:
        e.rewrite(*end_fields(a[1], until, [a[2]]))
    e.touch(a[1], b"hincrbyfloat", "h")
    return bulk(total)


@group.command("hrandfield", -2, "readonly", keys=(1, 1, 1), since="6.2.0")
def hrandfield(e: "Engine", a: Args) -> bytes:
    """Returns one or more random fields from a hash."""
    count, with_values = sample_options(a, b"WITHVALUES") if len(a) > 2 else (0, False)
    fields = e.db.hash(a[1])
    if fields is None:
        return EMPTY if len(a) > 2 else e.reply.null
    names = list(fields)
    if len(a) == 2:
        return bulk(names[e.chance.randrange(len(names))])
    drawn = sample(e, names, count)
    if not with_values:
        return bulks(drawn)
    limit_reply(sum(len(name) + len(fields[name]) for name in drawn))
    if e.reply.version == 3:
        return array([bulks([name, fields[name]]) for name in drawn])
    return bulks([word for name in drawn for word in (name, fields[name])])


@group.command("hscan", -3, "readonly", keys=(1, 1, 1), since="2.8.0")
def hscan(e: "Engine", a: Args) -> bytes:
    """Iterates over fields and values of a hash."""
    cursor = parse_cursor(a[2])
    fields = e.db.hash(a[1])
    if fields is None:
        return scan_reply(b"0", [])
    following, names = Scan(e, cursor, a[3:]).page(fields, fields)
    return scan_reply(following, [bulk(word) for name in names if name in fields for word in (name, fields[name])])
