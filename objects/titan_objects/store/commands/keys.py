"""Keys whatever their type: existence, names, copies, and what is behind them (OBJECT)."""

from typing import TYPE_CHECKING, Any

from titan_objects.store.arguments import integer_within, option
from titan_objects.store.globs import matcher
from titan_objects.store.resp import OK, ONE, ZERO, CommandError, bulk, bulks, simple, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import ExpiringHash, duplicate, type_name

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.keyspace import Database

group = Group("generic")


def _delete(e: "Engine", a: Args) -> bytes:
    gone = [key for key in dict.fromkeys(a[1:]) if e.db.get(key) is not None]
    for key in gone:
        e.removed(key)
    return number(len(gone))


@group.command("del", -2, "write", keys=(1, -1, 1))
def del_(e: "Engine", a: Args) -> bytes:
    """Deletes one or more keys."""
    return _delete(e, a)


@group.command("unlink", -2, "write fast", keys=(1, -1, 1), since="4.0.0")
def unlink(e: "Engine", a: Args) -> bytes:
    """Asynchronously deletes one or more keys."""
    return _delete(e, a)


@group.command("exists", -2, "readonly fast", keys=(1, -1, 1))
def exists(e: "Engine", a: Args) -> bytes:
    """Determines whether one or more keys exist."""
    return number(sum(e.db.get(key) is not None for key in a[1:]))


@group.command("touch", -2, "readonly fast", keys=(1, -1, 1), since="3.2.1")
def touch(e: "Engine", a: Args) -> bytes:
    """Returns the number of existing keys out of those specified after updating the time they were last accessed."""
    return exists(e, a)


@group.command("type", 2, "readonly fast", keys=(1, 1, 1))
def type_(e: "Engine", a: Args) -> bytes:
    """Determines the type of value stored at a key."""
    value = e.db.get(a[1])
    return simple(b"none" if value is None else type_name(value))


@group.command("keys", 2, "readonly")
def keys(e: "Engine", a: Args) -> bytes:
    """Returns all key names that match a pattern."""
    found = e.db.live_keys()
    if a[1] != b"*":
        match = matcher(a[1])
        found = [key for key in found if match(key)]
    return bulks(found)


@group.command("randomkey", 1, "readonly")
def randomkey(e: "Engine", a: Args) -> bytes:
    """Returns a random key name from the database."""
    found = e.random_key()
    return e.reply.null if found is None else bulk(found)


# ---- names -------------------------------------------------------------------------------------------------------


def _store_at(e: "Engine", db: "Database", key: bytes, value: Any, expires: int | None) -> None:
    """Puts a value with its expiry into any database."""
    db.take_in(key, value, expires)
    e.dirty = True


def _rename(e: "Engine", a: Args, only_new: bool) -> bytes:
    source, target = a[1], a[2]
    value = e.db.get(source)
    if value is None:
        raise CommandError(b"ERR no such key")
    if source == target:
        return ZERO if only_new else OK
    if only_new and e.db.get(target) is not None:
        return ZERO
    expires = e.db.expires.get(source)
    e.db.delete(source)
    _store_at(e, e.db, target, value, expires)
    e.touch(source, b"rename_from")
    e.touch(target, b"rename_to")
    return ONE if only_new else OK


@group.command("rename", 3, "write", keys=(1, 2, 1))
def rename(e: "Engine", a: Args) -> bytes:
    """Renames a key and overwrites the destination."""
    return _rename(e, a, False)


@group.command("renamenx", 3, "write fast", keys=(1, 2, 1))
def renamenx(e: "Engine", a: Args) -> bytes:
    """Renames a key only when the target key name doesn't exist."""
    return _rename(e, a, True)


def _database(e: "Engine", word: bytes) -> "Database":
    index = integer_within(word, -(1 << 31), (1 << 31) - 1)
    if not 0 <= index < len(e.databases):
        raise CommandError(b"ERR DB index is out of range")
    return e.databases[index]


@group.command("move", 3, "write fast", keys=(1, 1, 1))
def move(e: "Engine", a: Args) -> bytes:
    """Moves a key to another database."""
    target = _database(e, a[2])
    if target is e.db:
        raise CommandError(b"ERR source and destination objects are the same")
    value = e.db.get(a[1])
    if value is None or target.get(a[1]) is not None:
        return ZERO
    if e.preserve is not None:
        e.preserve(target, a[1])
    expires = e.db.expires.get(a[1])
    e.db.delete(a[1])
    _store_at(e, target, a[1], value, expires)
    e.touch(a[1], b"move_from")
    e.tell(target, a[1], b"move_to", "g")
    return ONE


@group.command("copy", -3, "write denyoom", keys=(1, 2, 1), since="6.2.0")
def copy(e: "Engine", a: Args) -> bytes:
    """Copies the value of a key to a new key."""
    target, replace = e.db, False
    index = 3
    while index < len(a):
        word = a[index].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB":
            index += 1
            target = _database(e, option(a, index))
        else:
            raise syntax_error()
        index += 1
    if target is e.db and a[1] == a[2]:
        raise CommandError(b"ERR source and destination objects are the same")
    value = e.db.get(a[1])
    if value is None or (target.get(a[2]) is not None and not replace):
        return ZERO
    if e.preserve is not None:
        e.preserve(target, a[2])
    _store_at(e, target, a[2], duplicate(value), e.db.expires.get(a[1]))
    e.tell(target, a[2], b"copy_to", "g")
    return ONE


# ---- what is behind a key ----------------------------------------------------------------------------------------


@group.command("object", -2, "readonly", since="2.2.3")
def object_(e: "Engine", a: Args) -> bytes:
    """A container for object introspection commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try OBJECT HELP." % a[1])


def encoding(e: "Engine", value: Any) -> bytes:
    """What Redis would call the way in which a value of this size is kept."""
    limit = e.config.get
    kind = type_name(value)
    if kind == b"string":
        text = bytes(value)
        if len(text) <= 20 and text.lstrip(b"-").isdigit() and b"%d" % int(text) == text and abs(int(text)) < 1 << 63:
            return b"int"
        return b"embstr" if len(text) <= 44 and type(value) is bytes else b"raw"
    if kind == b"list":
        return b"quicklist"
    if kind == b"stream":
        return b"stream"
    if kind == b"set":
        numbers = all(len(m) <= 20 and m.lstrip(b"-").isdigit() and b"%d" % int(m) == m for m in value)
        return b"intset" if numbers and len(value) <= int(limit("set-max-intset-entries")) else b"hashtable"
    name = "hash" if kind == b"hash" else "zset"
    words = [*value, *value.values()] if kind == b"hash" else list(value.scores)
    small = len(value) <= int(limit(f"{name}-max-listpack-entries"))
    if small and all(len(word) <= int(limit(f"{name}-max-listpack-value")) for word in words):
        return b"listpackex" if type(value) is ExpiringHash else b"listpack"
    return b"hashtable" if kind == b"hash" else b"skiplist"


def existing(e: "Engine", key: bytes) -> Any:
    """The value. Raises CommandError: there is none."""
    value = e.db.get(key)
    if value is None:
        raise CommandError(b"ERR no such key")
    return value


@group.command("object|encoding", 3, "readonly", keys=(2, 2, 1), since="2.2.3")
def object_encoding(e: "Engine", a: Args) -> bytes:
    """Returns the internal encoding of a Redis object."""
    value = e.db.get(a[2])
    return e.reply.null if value is None else bulk(encoding(e, value))


@group.command("object|refcount", 3, "readonly", keys=(2, 2, 1), since="2.2.3")
def object_refcount(e: "Engine", a: Args) -> bytes:
    """Returns the reference count of a value of a key."""
    return e.reply.null if e.db.get(a[2]) is None else ONE


@group.command("object|idletime", 3, "readonly", keys=(2, 2, 1), since="2.2.3")
def object_idletime(e: "Engine", a: Args) -> bytes:
    """Returns the time since the last access to a Redis object; known only under a limit or an LRU policy."""
    if e.db.get(a[2]) is None:
        return e.reply.null
    if e.meter is not None and "lfu" in e.config.get("maxmemory-policy"):
        raise CommandError(
            b"ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between "
            b"policies at runtime LRU and LFU data will take some time to adjust."
        )
    return number(e.meter.idle_ms(e.db, a[2]) // 1000 if e.meter is not None else 0)


@group.command("object|freq", 3, "readonly", keys=(2, 2, 1), since="4.0.0")
def object_freq(e: "Engine", a: Args) -> bytes:
    """Returns the logarithmic access frequency counter of a Redis object; known only under an LFU policy."""
    if e.db.get(a[2]) is None:
        return e.reply.null
    if e.meter is None or "lfu" not in e.config.get("maxmemory-policy"):
        raise CommandError(
            b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when "
            b"switching between policies at runtime LRU and LFU data will take some time to adjust."
        )
    return number(e.meter.frequency(e.db, a[2]))
