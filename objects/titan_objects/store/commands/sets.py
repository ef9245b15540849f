"""Sets."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from titan_objects.store.arguments import INT_MAX, integer_within, natural, option
from titan_objects.store.commands.pops import pop_count
from titan_objects.store.commands.scans import Scan, parse_cursor, scan_reply
from titan_objects.store.resp import EMPTY, ONE, ZERO, CommandError, array, bulk, bulks, limit_reply, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group, counted
from titan_objects.store.values import Members

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("set")


def _set(e: "Engine", key: bytes) -> Members | None:
    return e.db.typed(key, Members)  # type: ignore[no-any-return]


def reply_set(e: "Engine", members: Iterable[bytes]) -> bytes:
    """Members in RESP's set."""
    return e.reply.set([bulk(member) for member in members])


@group.command("sadd", -3, "write denyoom fast", keys=(1, 1, 1))
def sadd(e: "Engine", a: Args) -> bytes:
    """Adds one or more members to a set. Creates the key if it doesn't exist."""
    key = a[1]
    members = e.db.typed(key, Members)
    if members is None:
        members = e.db.data[key] = Members()
    if len(a) == 3:
        if not members.add(a[2]):
            return ZERO
        added = 1
    else:
        added = sum([members.add(member) for member in a[2:]])
        if not added:
            return ZERO
    e.touch(key, b"sadd", "s")
    return number(added)


@group.command("srem", -3, "write fast", keys=(1, 1, 1))
def srem(e: "Engine", a: Args) -> bytes:
    """Removes one or more members from a set. Deletes the set if the last member was removed."""
    members = _set(e, a[1])
    if members is None:
        return ZERO
    gone = sum([members.remove(member) for member in a[2:]])
    if gone:
        e.touch(a[1], b"srem", "s")
        if not members:
            e.removed(a[1])
    return number(gone)


@group.command("scard", 2, "readonly fast", keys=(1, 1, 1))
def scard(e: "Engine", a: Args) -> bytes:
    """Returns the number of members in a set."""
    return number(len(_set(e, a[1]) or ()))


@group.command("sismember", 3, "readonly fast", keys=(1, 1, 1))
def sismember(e: "Engine", a: Args) -> bytes:
    """Determines whether a member belongs to a set."""
    members = _set(e, a[1])
    return ONE if members is not None and a[2] in members else ZERO


@group.command("smismember", -3, "readonly fast", keys=(1, 1, 1), since="6.2.0")
def smismember(e: "Engine", a: Args) -> bytes:
    """Determines whether multiple members belong to a set."""
    members: Mapping[bytes, int] = _set(e, a[1]) or {}
    return array([ONE if member in members else ZERO for member in a[2:]])


@group.command("smembers", 2, "readonly", keys=(1, 1, 1))
def smembers(e: "Engine", a: Args) -> bytes:
    """Returns all members of a set."""
    members = _set(e, a[1])
    return reply_set(e, members.order if members is not None else ())


@group.command("smove", 4, "write fast", keys=(1, 2, 1))
def smove(e: "Engine", a: Args) -> bytes:
    """Moves a member from one set to another."""
    source = _set(e, a[1])
    if source is None:
        return ZERO
    target = _set(e, a[2])
    if a[3] not in source:
        return ZERO
    if source is target:
        return ONE
    source.remove(a[3])
    e.touch(a[1], b"srem", "s")
    if not source:
        e.removed(a[1])
    if target is None:
        target = e.db.data[a[2]] = Members()
    if target.add(a[3]):
        e.touch(a[2], b"sadd", "s")
    return ONE


@group.command("spop", -2, "write fast", keys=(1, 1, 1))
def spop(e: "Engine", a: Args) -> bytes:
    """Returns one or more random members from a set after removing them. Deletes the set with the last member."""
    if len(a) > 3:
        raise syntax_error()
    count = pop_count(a)
    members = _set(e, a[1])
    if members is None:
        return reply_set(e, ()) if len(a) == 3 else e.reply.null
    taken = []
    for _ in range(min(count, len(members))):
        taken.append(members.order[e.chance.randrange(len(members.order))])
        members.remove(taken[-1])
    if taken:
        e.touch(a[1], b"spop", "s")
        if members:
            e.rewrite(b"SREM", a[1], *taken)
        else:
            e.removed(a[1])
            e.rewrite(b"DEL", a[1])
    return reply_set(e, taken) if len(a) == 3 else bulk(taken[0])


def sample_options(a: Args, both: bytes) -> tuple[int, bool]:
    """The count of HRANDFIELD and ZRANDMEMBER (below 0: with repetitions), and whether the word `both` follows it."""
    count = integer_within(a[2], -INT_MAX, INT_MAX)
    if len(a) > 4 or (len(a) == 4 and a[3].upper() != both):
        raise syntax_error()
    if len(a) == 4 and abs(count) > INT_MAX // 2:
        raise CommandError(b"ERR value is out of range")
    return count, len(a) == 4


def sample(e: "Engine", names: list[bytes], count: int) -> list[bytes]:
    """Draws by chance: below 0 with repetitions, else without."""
    size = len(names)
    if not size:
        return []
    if count < 0:
        if count < -(1 << 24):
            raise CommandError(b"ERR value is out of range")
        found = [names[e.chance.randrange(size)] for _ in range(-count)]
        limit_reply(sum(map(len, found)))
        return found
    if count >= size:
        return list(names)
    drawn: dict[int, None] = {}
    if count * 3 > size:
        places = list(range(size))
        for at in range(count):
            other = at + e.chance.randrange(size - at)
            places[at], places[other] = places[other], places[at]
        return [names[place] for place in places[:count]]
    while len(drawn) < count:
        drawn[e.chance.randrange(size)] = None
    return [names[place] for place in drawn]


@group.command("srandmember", -2, "readonly", keys=(1, 1, 1))
def srandmember(e: "Engine", a: Args) -> bytes:
    """Get one or multiple random members from a set."""
    if len(a) > 3:
        raise syntax_error()
    count = integer_within(a[2], -INT_MAX, INT_MAX) if len(a) == 3 else 0
    members = _set(e, a[1])
    if members is None:
        return EMPTY if len(a) == 3 else e.reply.null
    if len(a) == 2:
        return bulk(members.order[e.chance.randrange(len(members.order))])
    return bulks(sample(e, members.order, count))


# ---- algebra -----------------------------------------------------------------------------------------------------


def _inter(sets: list[Members | None]) -> list[bytes]:
    present = [each for each in sets if each is not None]
    if len(present) < len(sets):
        return []
    smallest = min(present, key=len)
    others = [each for each in present if each is not smallest]
    return [member for member in smallest.order if all(member in other for other in others)]


def _union(sets: list[Members | None]) -> list[bytes]:
    return list(dict.fromkeys(member for each in sets if each is not None for member in each.order))


def _diff(sets: list[Members | None]) -> list[bytes]:
    first, others = sets[0], [each for each in sets[1:] if each]
    if first is None:
        return []
    return [member for member in first.order if not any(member in other for other in others)]


_ALGEBRA = {"inter": _inter, "union": _union, "diff": _diff}


def _combine(e: "Engine", a: Args, how: str) -> bytes:
    return reply_set(e, _ALGEBRA[how]([_set(e, key) for key in a[1:]]))


def _store(e: "Engine", a: Args, how: str) -> bytes:
    found = _ALGEBRA[how]([_set(e, key) for key in a[2:]])
    if found:
        e.db.put(a[1], Members(found))
        e.touch(a[1], b"s%bstore" % how.encode(), "s")
    elif e.db.get(a[1]) is not None:
        e.removed(a[1])
    return number(len(found))


@group.command("sinter", -2, "readonly", keys=(1, -1, 1))
def sinter(e: "Engine", a: Args) -> bytes:
    """Returns the intersect of multiple sets."""
    return _combine(e, a, "inter")


@group.command("sunion", -2, "readonly", keys=(1, -1, 1))
def sunion(e: "Engine", a: Args) -> bytes:
    """Returns the union of multiple sets."""
    return _combine(e, a, "union")


@group.command("sdiff", -2, "readonly", keys=(1, -1, 1))
def sdiff(e: "Engine", a: Args) -> bytes:
    """Returns the difference of multiple sets."""
    return _combine(e, a, "diff")


@group.command("sinterstore", -3, "write denyoom", keys=(1, -1, 1))
def sinterstore(e: "Engine", a: Args) -> bytes:
    """Stores the intersect of multiple sets in a key."""
    return _store(e, a, "inter")


@group.command("sunionstore", -3, "write denyoom", keys=(1, -1, 1))
def sunionstore(e: "Engine", a: Args) -> bytes:
    """Stores the union of multiple sets in a key."""
    return _store(e, a, "union")


@group.command("sdiffstore", -3, "write denyoom", keys=(1, -1, 1))
def sdiffstore(e: "Engine", a: Args) -> bytes:
    """Stores the difference of multiple sets in a key."""
    return _store(e, a, "diff")


def _inter_card_arguments(a: Args) -> tuple[list[bytes], int]:
    """The keys and the limit of SINTERCARD."""
    many = natural(a[1], b"ERR numkeys should be greater than 0", low=1)
    if many > len(a) - 2:
        raise CommandError(b"ERR Number of keys can't be greater than number of args")
    limit = 0
    for at in range(2 + many, len(a), 2):
        if a[at].upper() != b"LIMIT":
            raise syntax_error()
        limit = natural(option(a, at + 1), b"ERR LIMIT can't be negative")
    return a[2 : 2 + many], limit


@group.command("sintercard", -3, "readonly movablekeys", movable=counted(1), since="7.0.0")
def sintercard(e: "Engine", a: Args) -> bytes:
    """Returns the number of members of the intersect of multiple sets."""
    keys, limit = _inter_card_arguments(a)
    size = len(_inter([_set(e, key) for key in keys]))
    return number(min(size, limit) if limit else size)


@group.command("sscan", -3, "readonly", keys=(1, 1, 1), since="2.8.0")
def sscan(e: "Engine", a: Args) -> bytes:
    """Iterates over members of a set."""
    cursor = parse_cursor(a[2])
    members = _set(e, a[1])
    if members is None:
        return scan_reply(b"0", [])
    following, names = Scan(e, cursor, a[3:]).backwards(members)
    return scan_reply(following, [bulk(name) for name in names])
