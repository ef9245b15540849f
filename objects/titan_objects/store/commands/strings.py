"""Strings: GET, SET and what counts, appends and cuts."""

from typing import TYPE_CHECKING

from titan_objects.store import extended
from titan_objects.store.arguments import (
    INT_MAX,
    INT_MIN,
    integer,
    option,
    slice_bounds,
)
from titan_objects.store.commands.expiry import end_at
from titan_objects.store.resp import (
    BULK_HEADERS,
    EMPTY_BULK,
    OK,
    ONE,
    ZERO,
    CommandError,
    array,
    bulk,
    join_lines,
    looked_up,
    syntax_error,
)
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import STRINGS

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("string")

STRING_MAX = 512 << 20


_UNITS = (b"EX", b"PX", b"EXAT", b"PXAT")


def expiry(e: "Engine", word: bytes, unit: bytes, command: bytes) -> int:
    """The moment that `EX`, `PX`, `EXAT` or `PXAT` names, in unix milliseconds. Raises CommandError: it is none."""
    given = integer(word)
    scale = 1 if unit in (b"PX", b"PXAT") else 1000
    at = given * scale + (0 if unit in (b"EXAT", b"PXAT") else e.now)
    if given <= 0 or at > INT_MAX:
        raise CommandError(b"ERR invalid expire time in '%b' command" % command)
    return at


@group.command("get", 2, "readonly fast", keys=(1, 1, 1))
def get(e: "Engine", a: Args) -> bytes:
    """Returns the string value of a key."""
    key = a[1]
    db = e.db
    value = db.data.get(key)
    if type(value) is bytes and key not in db.expires:
        e.stats.hits += 1
        try:  # as `bulk`, without the call
            return join_lines((BULK_HEADERS[len(value)], value, b""))
        except IndexError:
            return bulk(value)
    value = db.string(key)
    if value is None:
        e.stats.misses += 1
        return e.reply.null
    e.stats.hits += 1
    return bulk(value)


@group.command("set", -3, "write denyoom", keys=(1, 1, 1))
def set_(e: "Engine", a: Args) -> bytes:
    """Sets the string value of a key, ignoring its type. The key is created if it doesn't exist."""
    if len(a) > 3:
        return _set_with_options(e, a)
    key = a[1]
    db = e.db
    if db.expires:
        db.expires.pop(key, None)
    db.data[key] = a[2]
    e.dirty = True
    if e.observed:
        e.tell(db, key, b"set", "$")
    return OK


def _set_with_options(e: "Engine", a: Args) -> bytes:
    key, value = a[1], a[2]
    condition = end = given = b""
    want_old = False
    index = 3
    while index < len(a):
        word = a[index].upper()
        if word in (b"NX", b"XX") and condition in (b"", word):
            condition = word
        elif word in _UNITS and end in (b"", word):
            index += 1
            end, given = word, option(a, index)
        elif word == b"GET":
            want_old = True
        elif word == b"KEEPTTL" and end in (b"", word):
            end = word
        else:
            raise syntax_error()
        index += 1
    keep = end == b"KEEPTTL"
    at = expiry(e, given, end, b"set") if end and not keep else None
    db = e.db
    old = db.string(key) if want_old else db.get(key)
    before = e.reply.null if old is None else bulk(old) if want_old else b""
    if (condition == b"NX" and old is not None) or (condition == b"XX" and old is None):
        return before if want_old else e.reply.null
    if keep:
        db.data[key] = value
        e.rewrite(b"SET", key, value, b"KEEPTTL")
    else:
        db.put(key, value)
        if at is None:
            e.rewrite(b"SET", key, value)
    if at is not None:
        db.expire_at(key, at)
        e.rewrite(b"SET", key, value, b"PXAT", b"%d" % at)
    e.touch(key, b"set", "$")
    if at is not None:
        e.touch(key, b"expire")
    return before if want_old else OK


@group.command("setnx", 3, "write denyoom fast", keys=(1, 1, 1))
def setnx(e: "Engine", a: Args) -> bytes:
    """Set the string value of a key only when the key doesn't exist."""
    if e.db.get(a[1]) is not None:
        return ZERO
    e.db.put(a[1], a[2])
    e.touch(a[1], b"set", "$")
    return ONE


def _set_expiring(e: "Engine", a: Args, unit: bytes, command: bytes) -> bytes:
    at = expiry(e, a[2], unit, command)
    e.db.put(a[1], a[3])
    e.db.expire_at(a[1], at)
    e.rewrite(b"SET", a[1], a[3], b"PXAT", b"%d" % at)
    e.touch(a[1], b"set", "$")
    e.touch(a[1], b"expire")
    return OK


@group.command("setex", 4, "write denyoom", keys=(1, 1, 1), since="2.0.0")
def setex(e: "Engine", a: Args) -> bytes:
    """Sets the string value and expiration time of a key. Creates the key if it doesn't exist."""
    return _set_expiring(e, a, b"EX", b"setex")


@group.command("psetex", 4, "write denyoom", keys=(1, 1, 1), since="2.6.0")
def psetex(e: "Engine", a: Args) -> bytes:
    """Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist."""
    return _set_expiring(e, a, b"PX", b"psetex")


@group.command("getset", 3, "write denyoom fast", keys=(1, 1, 1))
def getset(e: "Engine", a: Args) -> bytes:
    """Returns the previous string value of a key after setting it to a new value."""
    old = e.db.string(a[1])
    before = e.reply.null if old is None else bulk(old)
    e.db.put(a[1], a[2])
    e.rewrite(b"SET", a[1], a[2])
    e.touch(a[1], b"set", "$")
    return before


@group.command("getdel", 2, "write fast", keys=(1, 1, 1), since="6.2.0")
def getdel(e: "Engine", a: Args) -> bytes:
    """Returns the string value of a key after deleting the key."""
    old = e.db.string(a[1])
    if old is None:
        return e.reply.null
    e.removed(a[1])
    e.rewrite(b"DEL", a[1])
    return bulk(old)


@group.command("getex", -2, "write fast", keys=(1, 1, 1), since="6.2.0")
def getex(e: "Engine", a: Args) -> bytes:
    """Returns the string value of a key after setting its expiration time."""
    key = a[1]
    end = given = b""
    index = 2
    while index < len(a):
        word = a[index].upper()
        if (word in _UNITS or word == b"PERSIST") and end in (b"", word):
            end = word
        else:
            raise syntax_error()
        if end != b"PERSIST":
            index += 1
            given = option(a, index)
        index += 1
    value = e.db.string(key)
    if value is None:
        return e.reply.null
    at = expiry(e, given, end, b"getex") if end in _UNITS else None
    if at is not None:
        end_at(e, key, at)
    elif end == b"PERSIST" and e.db.expires.pop(key, None) is not None:
        e.rewrite(b"PERSIST", key)
        e.touch(key, b"persist")
    return bulk(value)


@group.command("mget", -2, "readonly fast", keys=(1, -1, 1))
def mget(e: "Engine", a: Args) -> bytes:
    """Atomically returns the string values of one or more keys."""
    get = e.db.get
    values = [get(key) for key in a[1:]]
    return looked_up([value if type(value) in STRINGS else None for value in values], e.reply.null)


def _put_many(e: "Engine", a: Args) -> None:
    for index in range(1, len(a), 2):
        e.db.put(a[index], a[index + 1])
        e.touch(a[index], b"set", "$")


def _pairs(a: Args, command: str) -> None:
    if len(a) % 2 == 0:
        raise CommandError(f"ERR wrong number of arguments for '{command}' command")


@group.command("mset", -3, "write denyoom", keys=(1, -1, 2), since="1.0.1")
def mset(e: "Engine", a: Args) -> bytes:
    """Atomically creates or modifies the string values of one or more keys."""
    _pairs(a, "mset")
    _put_many(e, a)
    return OK


@group.command("msetnx", -3, "write denyoom", keys=(1, -1, 2), since="1.0.1")
def msetnx(e: "Engine", a: Args) -> bytes:
    """Atomically modifies the string values of one or more keys only when all keys don't exist."""
    _pairs(a, "msetnx")
    if any(e.db.get(key) is not None for key in a[1::2]):
        return ZERO
    _put_many(e, a)
    return ONE


def _add(e: "Engine", key: bytes, amount: int) -> bytes:
    db = e.db
    old = db.string(key)
    total = (integer(old) if old is not None else 0) + amount
    if not INT_MIN <= total <= INT_MAX:
        raise CommandError(b"ERR increment or decrement would overflow")
    db.data[key] = b"%d" % total
    e.touch(key, b"incrby", "$")
    return number(total)


@group.command("incr", 2, "write denyoom fast", keys=(1, 1, 1))
def incr(e: "Engine", a: Args) -> bytes:
    """Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."""
    return _add(e, a[1], 1)


@group.command("decr", 2, "write denyoom fast", keys=(1, 1, 1))
def decr(e: "Engine", a: Args) -> bytes:
    """Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."""
    return _add(e, a[1], -1)


@group.command("incrby", 3, "write denyoom fast", keys=(1, 1, 1))
def incrby(e: "Engine", a: Args) -> bytes:
    """Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist."""
    return _add(e, a[1], integer(a[2]))


@group.command("decrby", 3, "write denyoom fast", keys=(1, 1, 1))
def decrby(e: "Engine", a: Args) -> bytes:
    """Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist."""
    amount = integer(a[2])
    if amount == INT_MIN:
        raise CommandError(b"ERR decrement would overflow")
    return _add(e, a[1], -amount)


@group.command("incrbyfloat", 3, "write denyoom fast", keys=(1, 1, 1), since="2.6.0")
def incrbyfloat(e: "Engine", a: Args) -> bytes:
    """Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist."""
    key = a[1]
    old = e.db.string(key)
    before = extended.number(old if old is not None else b"0")
    total = extended.text(extended.total(before, extended.number(a[2])))
    e.db.data[key] = total
    e.rewrite(b"SET", key, total, b"KEEPTTL")
    e.touch(key, b"incrbyfloat", "$")
    return bulk(total)


def editable(e: "Engine", key: bytes, size: int = 0) -> bytearray:
    """The string as one that can be changed in place, at least so long (zeros are appended). Raises WRONGTYPE."""
    value = e.db.string(key)
    if not isinstance(value, bytearray):
        value = bytearray(value or b"")
        e.db.data[key] = value
    if size > len(value):
        value.extend(bytes(size - len(value)))
    return value


def check_size(size: int) -> None:
    """Raises CommandError: longer than a string may be."""
    if size > STRING_MAX:
        raise CommandError(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)")


@group.command("append", 3, "write denyoom fast", keys=(1, 1, 1), since="2.0.0")
def append(e: "Engine", a: Args) -> bytes:
    """Appends a string to the value of a key. Creates the key if it doesn't exist."""
    check_size(len(e.db.string(a[1]) or b"") + len(a[2]))
    value = editable(e, a[1])
    value += a[2]
    e.touch(a[1], b"append", "$")
    return number(len(value))


@group.command("strlen", 2, "readonly fast", keys=(1, 1, 1), since="2.2.0")
def strlen(e: "Engine", a: Args) -> bytes:
    """Returns the length of a string value."""
    return number(len(e.db.string(a[1]) or b""))


@group.command("setrange", 4, "write denyoom", keys=(1, 1, 1), since="2.2.0")
def setrange(e: "Engine", a: Args) -> bytes:
    """Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist."""
    offset = integer(a[2])
    if offset < 0:
        raise CommandError(b"ERR offset is out of range")
    old = e.db.string(a[1])
    if not a[3]:
        return number(len(old or b""))
    check_size(offset + len(a[3]))
    value = editable(e, a[1], offset + len(a[3]))
    value[offset : offset + len(a[3])] = a[3]
    e.touch(a[1], b"setrange", "$")
    return number(len(value))


def _range(e: "Engine", a: Args) -> bytes:
    start, stop = integer(a[2]), integer(a[3])
    value = e.db.string(a[1])
    if not value or (start < 0 and stop < 0 and start > stop):
        return EMPTY_BULK
    size = len(value)
    low, high = slice_bounds(start, max(stop, -size), size)
    return bulk(value[low:high])


@group.command("getrange", 4, "readonly", keys=(1, 1, 1), since="2.4.0")
def getrange(e: "Engine", a: Args) -> bytes:
    """Returns a substring of the string stored at a key."""
    return _range(e, a)


@group.command("substr", 4, "readonly", keys=(1, 1, 1))
def substr(e: "Engine", a: Args) -> bytes:
    """Returns a substring from a string value."""
    return _range(e, a)


@group.command("lcs", -3, "readonly", keys=(1, 2, 1), since="7.0.0")
def lcs(e: "Engine", a: Args) -> bytes:
    """Finds the longest common substring."""
    try:
        x, y = bytes(e.db.string(a[1]) or b""), bytes(e.db.string(a[2]) or b"")
    except CommandError:
        raise CommandError(b"ERR The specified keys must contain string values") from None
    want_length = want_index = with_lengths = False
    shortest = 0
    index = 3
    while index < len(a):
        word = a[index].upper()
        if word == b"LEN":
            want_length = True
        elif word == b"IDX":
            want_index = True
        elif word == b"WITHMATCHLEN":
            with_lengths = True
        elif word == b"MINMATCHLEN":
            index += 1
            shortest = max(0, integer(option(a, index)))
        else:
            raise syntax_error()
        index += 1
    if want_length and want_index:
        raise CommandError(b"ERR If you want both the length and indexes, please just use IDX.")
    if len(x) * len(y) > 1 << 26:
        raise CommandError(b"ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
    table = _lcs_table(x, y)
    if want_length:
        return number(table[len(x)][len(y)])
    common, matches = _lcs_walk(x, y, table)
    if not want_index:
        return bulk(common)
    shown = []
    for (xa, xb), (ya, yb) in matches:
        if xb - xa + 1 >= shortest:
            pair = [array([number(xa), number(xb)]), array([number(ya), number(yb)])]
            shown.append(array([*pair, number(xb - xa + 1)] if with_lengths else pair))
    return e.reply.map([(bulk(b"matches"), array(shown)), (bulk(b"len"), number(len(common)))])


def _lcs_table(x: bytes, y: bytes) -> list[list[int]]:
    table = [[0] * (len(y) + 1)]
    for byte in x:
        above, row = table[-1], [0]
        for at, other in enumerate(y):
            row.append(above[at] + 1 if byte == other else max(above[at + 1], row[at]))
        table.append(row)
    return table


_Span = tuple[int, int]


def _lcs_walk(x: bytes, y: bytes, table: list[list[int]]) -> tuple[bytes, list[tuple[_Span, _Span]]]:
    """The common text, and its runs of neighbours from the last to the first."""
    common = bytearray()
    runs: list[tuple[_Span, _Span]] = []
    i, j = len(x), len(y)
    while i and j:
        if x[i - 1] == y[j - 1]:
            i, j = i - 1, j - 1
            common.append(x[i])
            if runs and runs[-1][0][0] == i + 1 and runs[-1][1][0] == j + 1:
                runs[-1] = ((i, runs[-1][0][1]), (j, runs[-1][1][1]))
            else:
                runs.append(((i, i), (j, j)))
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return bytes(reversed(common)), runs
