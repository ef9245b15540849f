"""Lists, and the commands that wait for one to have something."""

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from titan_objects.store.arguments import INT_MAX, integer, integer_within, natural, option, slice_bounds, timeout_ms
from titan_objects.store.commands.pops import Serve, counted_pop, pop_count, pop_first, pop_first_or_wait
from titan_objects.store.resp import EMPTY, OK, ZERO, CommandError, array, bulk, bulks, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group, counted

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("list")

List = deque[bytes]


def _list(e: "Engine", key: bytes) -> List | None:
    return e.db.typed(key, deque)  # type: ignore[no-any-return]


def _push(e: "Engine", a: Args, left: bool, create: bool) -> bytes:
    key = a[1]
    values = _list(e, key)
    if values is None:
        if not create:
            return ZERO
        values = e.db.data[key] = deque()
    if left:
        values.extendleft(a[2:])
    else:
        values.extend(a[2:])
    e.touch(key, b"lpush" if left else b"rpush", "l")
    return number(len(values))


@group.command("lpush", -3, "write denyoom fast", keys=(1, 1, 1))
def lpush(e: "Engine", a: Args) -> bytes:
    """Prepends one or more elements to a list. Creates the key if it doesn't exist."""
    return _push(e, a, True, True)


@group.command("rpush", -3, "write denyoom fast", keys=(1, 1, 1))
def rpush(e: "Engine", a: Args) -> bytes:
    """Appends one or more elements to a list. Creates the key if it doesn't exist."""
    return _push(e, a, False, True)


@group.command("lpushx", -3, "write denyoom fast", keys=(1, 1, 1), since="2.2.0")
def lpushx(e: "Engine", a: Args) -> bytes:
    """Prepends one or more elements to a list only when the list exists."""
    return _push(e, a, True, False)


@group.command("rpushx", -3, "write denyoom fast", keys=(1, 1, 1), since="2.2.0")
def rpushx(e: "Engine", a: Args) -> bytes:
    """Appends an element to a list only when the list exists."""
    return _push(e, a, False, False)


def _take(e: "Engine", key: bytes, values: List, left: bool, count: int) -> list[bytes]:
    """Pops up to `count`; the key goes with the last."""
    pop = values.popleft if left else values.pop
    taken = [pop() for _ in range(min(count, len(values)))]
    if taken:
        e.touch(key, b"lpop" if left else b"rpop", "l")
        if not values:
            e.removed(key)
    return taken


def _pop(e: "Engine", a: Args, left: bool) -> bytes:
    if len(a) > 3:
        raise CommandError(b"ERR wrong number of arguments for '%b' command" % a[0].lower())
    count = pop_count(a)
    values = _list(e, a[1])
    if values is None:
        return e.reply.null_array if len(a) == 3 else e.reply.null
    taken = _take(e, a[1], values, left, count)
    return bulks(taken) if len(a) == 3 else bulk(taken[0])


@group.command("lpop", -2, "write fast", keys=(1, 1, 1))
def lpop(e: "Engine", a: Args) -> bytes:
    """Returns the first elements in a list after removing it. Deletes the list if the last element was popped."""
    return _pop(e, a, True)


@group.command("rpop", -2, "write fast", keys=(1, 1, 1))
def rpop(e: "Engine", a: Args) -> bytes:
    """Returns and removes the last elements of a list. Deletes the list if the last element was popped."""
    return _pop(e, a, False)


@group.command("llen", 2, "readonly fast", keys=(1, 1, 1))
def llen(e: "Engine", a: Args) -> bytes:
    """Returns the length of a list."""
    return number(len(_list(e, a[1]) or ()))


@group.command("lrange", 4, "readonly", keys=(1, 1, 1))
def lrange(e: "Engine", a: Args) -> bytes:
    """Returns a range of elements from a list."""
    start, stop = integer(a[2]), integer(a[3])
    values = _list(e, a[1])
    if not values:
        return EMPTY
    low, high = slice_bounds(start, stop, len(values))
    if low > len(values) - high:  # nearer to the end
        found = list(islice(reversed(values), len(values) - high, len(values) - low))
        found.reverse()
    else:
        found = list(islice(values, low, high))
    return bulks(found)


@group.command("lindex", 3, "readonly", keys=(1, 1, 1))
def lindex(e: "Engine", a: Args) -> bytes:
    """Returns an element from a list by its index."""
    values = _list(e, a[1])
    if values is None:
        return e.reply.null
    at = integer(a[2])
    return bulk(values[at]) if -len(values) <= at < len(values) else e.reply.null


@group.command("lset", 4, "write denyoom", keys=(1, 1, 1))
def lset(e: "Engine", a: Args) -> bytes:
    """Sets the value of an element in a list by its index."""
    values = _list(e, a[1])
    if values is None:
        raise CommandError(b"ERR no such key")
    at = integer(a[2])
    if not -len(values) <= at < len(values):
        raise CommandError(b"ERR index out of range")
    values[at] = a[3]
    e.touch(a[1], b"lset", "l")
    return OK


@group.command("linsert", 5, "write denyoom", keys=(1, 1, 1), since="2.2.0")
def linsert(e: "Engine", a: Args) -> bytes:
    """Inserts an element before or after another element in a list."""
    where = a[2].upper()
    if where not in (b"BEFORE", b"AFTER"):
        raise syntax_error()
    values = _list(e, a[1])
    if values is None:
        return ZERO
    try:
        at = values.index(a[3])
    except ValueError:
        return b":-1\r\n"
    values.insert(at + (where == b"AFTER"), a[4])
    e.touch(a[1], b"linsert", "l")
    return number(len(values))


@group.command("lrem", 4, "write", keys=(1, 1, 1))
def lrem(e: "Engine", a: Args) -> bytes:
    """Removes elements from a list. Deletes the list if the last element was removed."""
    count = integer(a[2])
    values = _list(e, a[1])
    if values is None:
        return ZERO
    unwanted, left = a[3], abs(count) or len(values)
    kept: list[bytes] = []
    for value in reversed(values) if count < 0 else values:
        if value == unwanted and left:
            left -= 1
        else:
            kept.append(value)
    removed = len(values) - len(kept)
    if removed:
        if count < 0:
            kept.reverse()
        e.db.data[a[1]] = deque(kept)
        e.touch(a[1], b"lrem", "l")
        if not kept:
            e.removed(a[1])
    return number(removed)


@group.command("ltrim", 4, "write", keys=(1, 1, 1))
def ltrim(e: "Engine", a: Args) -> bytes:
    """Removes elements from both ends a list. Deletes the list if all elements were trimmed."""
    start, stop = integer(a[2]), integer(a[3])
    values = _list(e, a[1])
    if values is None:
        return OK
    low, high = slice_bounds(start, stop, len(values))
    for _ in range(len(values) - high):
        values.pop()
    for _ in range(min(low, len(values))):
        values.popleft()
    e.touch(a[1], b"ltrim", "l")
    if not values:
        e.removed(a[1])
    return OK


@group.command("lpos", -3, "readonly", keys=(1, 1, 1), since="6.0.6")
def lpos(e: "Engine", a: Args) -> bytes:
    """Returns the index of matching elements in a list."""
    rank, count, longest = 1, -1, 0
    for index in range(3, len(a), 2):
        word, given = a[index].upper(), option(a, index + 1)
        if word == b"RANK":
            rank = integer_within(given, -INT_MAX, INT_MAX)
            if not rank:
                raise CommandError(
                    b"ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... "
                    b"or use negative to start from the end of the list"
                )
        elif word == b"COUNT":
            count = natural(given, b"ERR COUNT can't be negative")
        elif word == b"MAXLEN":
            longest = natural(given, b"ERR MAXLEN can't be negative")
        else:
            raise syntax_error()
    values = _list(e, a[1])
    if values is None:
        return e.reply.null if count < 0 else EMPTY
    wanted = len(values) if count == 0 else max(1, count)
    skip = abs(rank) - 1
    found = []
    order = enumerate(values) if rank > 0 else zip(range(len(values) - 1, -1, -1), reversed(values), strict=True)
    for at, value in islice(order, longest or len(values)):
        if value == a[2]:
            if skip:
                skip -= 1
                continue
            found.append(number(at))
            if len(found) == wanted:
                break
    if count < 0:
        return found[0] if found else e.reply.null
    return array(found)


# ---- moving ------------------------------------------------------------------------------------------------------


def _side(word: bytes) -> bool:
    """Whether it says LEFT."""
    word = word.upper()
    if word not in (b"LEFT", b"RIGHT"):
        raise syntax_error()
    return word == b"LEFT"


def _move(e: "Engine", source: bytes, target: bytes, from_left: bool, to_left: bool) -> bytes | None:
    """Moves one element, and returns it; None: there is none."""
    values = _list(e, source)
    if values is None:
        return None
    goal = _list(e, target)  # its type is checked before anything is taken
    value = values.popleft() if from_left else values.pop()
    if goal is None:
        goal = e.db.data[target] = deque()
    if to_left:
        goal.appendleft(value)
    else:
        goal.append(value)
    e.touch(target, b"lpush" if to_left else b"rpush", "l")
    e.touch(source, b"lpop" if from_left else b"rpop", "l")
    if not values:  # after the push: a list that is moved onto itself stays, and ends when it was to end
        e.removed(source)
    return value


@group.command("lmove", 5, "write denyoom", keys=(1, 2, 1), since="6.2.0")
def lmove(e: "Engine", a: Args) -> bytes:
    """Returns an element after popping it from one list and pushing it to another."""
    moved = _move(e, a[1], a[2], _side(a[3]), _side(a[4]))
    return e.reply.null if moved is None else bulk(moved)


@group.command("rpoplpush", 3, "write denyoom", keys=(1, 2, 1), since="1.2.0")
def rpoplpush(e: "Engine", a: Args) -> bytes:
    """Returns the last element of a list after removing and pushing it to another list."""
    moved = _move(e, a[1], a[2], False, True)
    return e.reply.null if moved is None else bulk(moved)


def _block_move(e: "Engine", a: Args, from_left: bool, to_left: bool, word: bytes) -> bytes | None:
    until = timeout_ms(word, e.now)
    source, target = a[1], a[2]

    def serve(key: bytes) -> bytes | None:
        if type(e.db.get(source)) is not deque:
            return None
        if e.preserve is not None:
            e.preserve(e.db, source)
            e.preserve(e.db, target)
        moved = _move(e, source, target, from_left, to_left)
        if moved is None:
            return None
        sides = (b"LEFT" if from_left else b"RIGHT", b"LEFT" if to_left else b"RIGHT")
        e.rewrite(b"LMOVE", source, target, *sides)
        return bulk(moved)

    _list(e, source)
    answer = serve(source)
    if answer is not None:
        return answer
    if not e.may_block:
        return e.reply.null
    return e.block([source], until, serve, e.reply.null_array if e.reply.version == 2 else e.reply.null)


@group.command("blmove", 6, "write denyoom noscript blocking", keys=(1, 2, 1), since="6.2.0")
def blmove(e: "Engine", a: Args) -> bytes | None:
    """Pops an element from a list, pushes it to another list and returns it. Blocks until an element is available."""
    return _block_move(e, a, _side(a[3]), _side(a[4]), a[5])


@group.command("brpoplpush", 4, "write denyoom noscript blocking", keys=(1, 2, 1), since="2.2.0")
def brpoplpush(e: "Engine", a: Args) -> bytes | None:
    """Pops an element from a list, pushes it to another list and returns it. Block until an element is available."""
    return _block_move(e, a, False, True, a[3])


def _block_pop(e: "Engine", a: Args, left: bool) -> bytes | None:
    until = timeout_ms(a[-1], e.now)

    def serve(key: bytes, values: List) -> bytes:
        (value,) = _take(e, key, values, left, 1)
        e.rewrite(b"LPOP" if left else b"RPOP", key)
        return array([bulk(key), bulk(value)])

    return pop_first_or_wait(e, a[1:-1], deque, serve, until)


@group.command("blpop", -3, "write noscript blocking", keys=(1, -2, 1), since="2.0.0")
def blpop(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns the first element in a list. Blocks until an element is available."""
    return _block_pop(e, a, True)


@group.command("brpop", -3, "write noscript blocking", keys=(1, -2, 1), since="2.0.0")
def brpop(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns the last element in a list. Blocks until an element is available."""
    return _block_pop(e, a, False)


def _pop_many(e: "Engine", left: bool, count: int) -> Serve:
    def serve(key: bytes, values: List) -> bytes:
        taken = _take(e, key, values, left, count)
        e.rewrite(b"LPOP" if left else b"RPOP", key, b"%d" % count)
        return array([bulk(key), bulks(taken)])

    return serve


@group.command("lmpop", -4, "write movablekeys", movable=counted(1), since="7.0.0")
def lmpop(e: "Engine", a: Args) -> bytes:
    """Returns multiple elements from a list after removing them."""
    keys, left, count = counted_pop(a, 1, (b"LEFT", b"RIGHT"))
    return pop_first(e, keys, deque, _pop_many(e, left, count)) or e.reply.null_array


@group.command("blmpop", -5, "write blocking movablekeys", movable=counted(2), since="7.0.0")
def blmpop(e: "Engine", a: Args) -> bytes | None:
    """Pops the first element from one of multiple lists. Blocks until an element is available otherwise."""
    keys, left, count = counted_pop(a, 2, (b"LEFT", b"RIGHT"))
    return pop_first_or_wait(e, keys, deque, _pop_many(e, left, count), timeout_ms(a[1], e.now))
