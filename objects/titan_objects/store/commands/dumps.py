"""DUMP and RESTORE: a value as bytes that any Redis since 7.0 takes."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.parser import Damaged
from titan_objects.store.rdb import restored
from titan_objects.store.rdb_writing import dump as dumped
from titan_objects.store.rdb_writing import undumped
from titan_objects.store.resp import OK, CommandError, bulk, syntax_error
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("generic")


@group.command("dump", 2, "readonly", keys=(1, 1, 1), since="2.6.0")
def dump(e: "Engine", a: Args) -> bytes:
    """Returns a serialized representation of the value stored at a key."""
    value = e.db.get(a[1])
    return e.reply.null if value is None else bulk(dumped(value))


@group.command("restore", -4, "write denyoom", keys=(1, 1, 1), since="2.6.0")
def restore(e: "Engine", a: Args) -> bytes:
    """Creates a key from the serialized representation of a value."""
    replace = absolute = False
    known = b""
    at = 4
    while at < len(a):
        word = a[at].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"ABSTTL":
            absolute = True
        elif word in (b"IDLETIME", b"FREQ") and known in (b"", word):
            known, used = word, integer(option(a, at + 1))
            if word == b"IDLETIME" and used < 0:
                raise CommandError(b"ERR Invalid IDLETIME value, must be >= 0")
            if word == b"FREQ" and not 0 <= used <= 255:
                raise CommandError(b"ERR Invalid FREQ value, must be >= 0 and <= 255")
            at += 1
        else:
            raise syntax_error()
        at += 1
    there = e.db.get(a[1]) is not None
    if there and not replace:
        raise CommandError(b"BUSYKEY Target key name already exists.")
    until = integer(a[2])
    if until < 0:
        raise CommandError(b"ERR Invalid TTL value, must be >= 0")
    try:
        value = restored(undumped(a[3]))
    except Damaged:
        raise CommandError(b"ERR Bad data format") from None
    if until and not absolute:
        until += e.now
    if until and until <= e.keyspace.now:
        if there:
            e.db.delete(a[1])
            e.touch(a[1], b"del")
            e.rewrite(b"DEL", a[1])
        return OK
    e.db.take_in(a[1], value, until or None)
    e.touch(a[1], b"restore")
    e.rewrite(b"RESTORE", a[1], b"%d" % until, a[3], b"REPLACE", b"ABSTTL")
    return OK
