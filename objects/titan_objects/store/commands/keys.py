"""Keys whatever their type: existence, expiry, names, scans, sorting, copies."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from titan_objects.store.arguments import INT_MAX, INT_MIN, double, integer, option
from titan_objects.store.globs import matcher
from titan_objects.store.listing import Listing
from titan_objects.store.resp import OK, ONE, ZERO, CommandError, array, bulk, bulks, looked_up, simple, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.scans import Pieces
from titan_objects.store.table import Args, Group
from titan_objects.store.values import HASHES, STRINGS, ExpiringHash, Members, ZSet, duplicate, type_name

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


# ---- expiry ------------------------------------------------------------------------------------------------------


def end_at(e: "Engine", key: bytes, at: int) -> None:
    """The key ends at this moment, in unix milliseconds: now, if that is over."""
    if at <= e.now:
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
    given = integer(a[2])
    conditions = {word.upper() for word in a[3:]}
    unknown = conditions - MAY_END.keys()
    if unknown:
        raise CommandError(b"ERR Unsupported option %b" % min(unknown))
    if b"NX" in conditions and len(conditions) > 1:
        raise CommandError(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise CommandError(b"ERR GT and LT options at the same time are not compatible")
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


# ---- names -------------------------------------------------------------------------------------------------------


def store_at(e: "Engine", db: "Database", key: bytes, value: Any, expires: int | None) -> None:
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
    store_at(e, e.db, target, value, expires)
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


def _database(e: "Engine", word: bytes, error: bytes) -> "Database":
    index = integer(word, error)
    if not 0 <= index < len(e.databases):
        raise CommandError(b"ERR DB index is out of range")
    return e.databases[index]


@group.command("move", 3, "write fast", keys=(1, 1, 1))
def move(e: "Engine", a: Args) -> bytes:
    """Moves a key to another database."""
    target = _database(e, a[2], b"ERR value is not an integer or out of range")
    if target is e.db:
        raise CommandError(b"ERR source and destination objects are the same")
    value = e.db.get(a[1])
    if value is None or target.get(a[1]) is not None:
        return ZERO
    if e.preserve is not None:
        e.preserve(target, a[1])
    expires = e.db.expires.get(a[1])
    e.db.delete(a[1])
    store_at(e, target, a[1], value, expires)
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
            target = _database(e, option(a, index), b"ERR value is not an integer or out of range")
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
    store_at(e, target, a[2], duplicate(value), e.db.expires.get(a[1]))
    e.tell(target, a[2], b"copy_to", "g")
    return ONE


# ---- scans -------------------------------------------------------------------------------------------------------


class Scan:
    """Options of SCAN and its kin.

    A cursor names a list of what there was when the scan began and a place in it, so whatever is there from
    beginning to end is returned. The lists are dropped with the oldest; a cursor whose list is gone begins again.
    """

    def __init__(self, e: "Engine", a: Args, at: int, kinds: bool = False) -> None:
        try:
            self.cursor = int(a[at]) if a[at].isdigit() else -1
        except ValueError:
            self.cursor = -1
        if not 0 <= self.cursor < 1 << 64:
            raise CommandError(b"ERR invalid cursor")
        self.match: Callable[[bytes], object] | None = None
        self.count = 10
        self.kind: bytes | None = None
        self.bare = False
        index = at + 1
        while index < len(a):
            word = a[index].upper()
            if word == b"MATCH":
                pattern = option(a, index + 1)
                self.match = None if pattern == b"*" else matcher(pattern)
            elif word == b"COUNT":
                self.count = integer(option(a, index + 1))
                if self.count < 1:
                    raise syntax_error()
            elif word == b"TYPE" and kinds:
                self.kind = option(a, index + 1).lower()
            else:
                raise syntax_error()
            index += 2
        self._e = e

    def page(self, owner: object, everything: Callable[[], Pieces]) -> tuple[bytes, list[bytes]]:
        """The next cursor, and the names of this page; `owner`: what is scanned."""
        names, serial, begin = self._e.scans.resume(self.cursor, owner, everything)
        end = begin + self.count
        page, more = names.page(begin, end)
        if not more:
            self._e.scans.done(serial)
        return b"%d" % (serial << 32 | end if more else 0), self._matching(page)

    def backwards(self, members: Members) -> tuple[bytes, list[bytes]]:
        """The same for a set, from its last member to its first.

        Its cursor is a place and needs no list: a member that goes is replaced by the last one, so none that was not
        returned yet ever comes to a place that is behind.
        """
        end = min(self.cursor or len(members), len(members))
        begin = max(0, end - self.count)
        return b"%d" % begin, self._matching(members.order[begin:end])

    def _matching(self, page: list[bytes]) -> list[bytes]:
        match = self.match
        return page if match is None else [name for name in page if match(name)]


def scan_reply(cursor: bytes, items: list[bytes]) -> bytes:
    """A cursor and encoded items."""
    return array([bulk(cursor), array(items)])


@group.command("scan", -2, "readonly", since="2.8.0")
def scan(e: "Engine", a: Args) -> bytes:
    """Iterates over the key names in the database."""
    options = Scan(e, a, 1, kinds=True)
    cursor, names = options.page(e.db, lambda: Listing(e.db).pieces())
    found = []
    for name in names:
        value = e.db.get(name)
        if value is not None and (options.kind is None or type_name(value) == options.kind):
            found.append(bulk(name))
    return scan_reply(cursor, found)


# ---- sorting -----------------------------------------------------------------------------------------------------


def _by_pattern(e: "Engine", pattern: bytes, member: bytes) -> bytes | bytearray | None:
    """What a BY or GET pattern of SORT names: the member itself, a string, or a field of a hash."""
    if pattern == b"#":
        return member
    if b"*" not in pattern:
        return None
    key, arrow, field = pattern.partition(b"->")
    if not arrow or b"*" not in key or not field:
        key, field = pattern, b""
    key = key.replace(b"*", member, 1)
    value = e.db.get(key)
    if field:
        return (e.db.hash(key) or {}).get(field) if type(value) in HASHES else None
    return value if type(value) in STRINGS else None


def _sort(e: "Engine", a: Args, may_store: bool) -> bytes:
    by: bytes | None = None
    gets: list[bytes] = []
    offset, count = 0, -1
    descending = alpha = False
    target: bytes | None = None
    index = 2
    while index < len(a):
        word = a[index].upper()
        if word in (b"ASC", b"DESC"):
            descending = word == b"DESC"
        elif word == b"ALPHA":
            alpha = True
        elif word == b"LIMIT" and index + 2 < len(a):
            offset, count = integer(a[index + 1]), integer(a[index + 2])
            index += 2
        elif word in (b"BY", b"GET") or (word == b"STORE" and may_store):
            given = option(a, index + 1)
            if word == b"BY":
                by = given
            elif word == b"GET":
                gets.append(given)
            else:
                target = given
            index += 1
        else:
            raise syntax_error()
        index += 1
    members = _sortable(e, a[1])
    unsorted = by is not None and b"*" not in by
    if unsorted and type(e.db.get(a[1])) is Members and target is not None:
        unsorted, by, alpha = False, None, True  # what is stored must not depend on a set's order
    if not unsorted:
        members = _sorted(e, members, by, alpha, descending)
    elif descending and type(e.db.get(a[1])) is not Members:
        members.reverse()
    start = max(0, offset)
    members = members[start:] if count < 0 else members[start : start + count]
    rows: list[bytes | bytearray | None] = list(members)
    if gets:
        rows = [_by_pattern(e, pattern, member) for member in members for pattern in gets]
    if target is None:
        return looked_up(rows, e.reply.null)
    if rows:
        e.db.put(target, deque(bytes(row or b"") for row in rows))
        e.touch(target, b"sortstore", "l")
    elif e.db.get(target) is not None:
        e.removed(target)
    return number(len(rows))


def _sortable(e: "Engine", key: bytes) -> list[bytes]:
    value = e.db.get(key)
    if value is None:
        return []
    if type(value) is deque:
        return list(value)
    if type(value) is Members:
        return list(value.order)
    if type(value) is ZSet:
        return [member for _, member in value]
    raise CommandError(b"WRONGTYPE Operation against a key holding the wrong kind of value")


def _sorted(e: "Engine", members: list[bytes], by: bytes | None, alpha: bool, descending: bool) -> list[bytes]:
    weights: dict[bytes, Any] = {}
    for member in members:
        weight = member if by is None else _by_pattern(e, by, member)
        if alpha:
            weights[member] = (weight is not None, bytes(weight or b""))
        else:
            weights[member] = (
                double(weight, b"ERR One or more scores can't be converted into double") if weight else 0.0
            )
    # Redis settles ties by the member, in the direction asked for, unless an outside weight is compared as text.
    return sorted(members, key=lambda member: (weights[member], member), reverse=descending)


@group.command("sort", -2, "write denyoom movablekeys", movable=lambda a: _sort_keys(a))
def sort(e: "Engine", a: Args) -> bytes:
    """Sorts the elements in a list, a set, or a sorted set, optionally storing the result."""
    return _sort(e, a, True)


@group.command("sort_ro", -2, "readonly movablekeys", keys=(1, 1, 1), since="7.0.0")
def sort_ro(e: "Engine", a: Args) -> bytes:
    """Returns the sorted elements of a list, a set, or a sorted set."""
    return _sort(e, a, False)


def _sort_keys(a: Args) -> list[bytes]:
    stored = [a[at + 1] for at in range(2, len(a) - 1) if a[at].upper() == b"STORE"]
    return [a[1], *stored[-1:]]


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


def _existing(e: "Engine", key: bytes) -> Any:
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
    """Returns the time since the last access to a Redis object; known only under an LRU policy of maxmemory."""
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
