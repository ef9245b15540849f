"""SORT: the elements of a list, a set or a sorted set in another order, by themselves or by what other keys hold."""

from collections import deque
from typing import TYPE_CHECKING, Any

from titan_objects.store.arguments import double, integer, option
from titan_objects.store.resp import CommandError, looked_up, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import HASHES, STRINGS, Members, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("generic")


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
