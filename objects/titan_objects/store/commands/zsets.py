"""Sorted sets: members, ranks and ranges. What several of them give together is in `zset_algebra`."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.arguments import bound, double, integer, option, slice_bounds, timeout_ms
from titan_objects.store.commands.pops import Serve, counted_pop, pop_count, pop_first, pop_first_or_wait
from titan_objects.store.commands.scans import Scan, scan_reply
from titan_objects.store.commands.sets import sample, sample_count
from titan_objects.store.resp import EMPTY, ZERO, CommandError, array, bulk, bulks, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.resp import number as double_text
from titan_objects.store.table import Args, Group, counted
from titan_objects.store.values import Scored, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("sorted-set")


def zset(e: "Engine", key: bytes) -> ZSet | None:
    """The sorted set, or None. Raises WRONGTYPE."""
    return e.db.typed(key, ZSet)  # type: ignore[no-any-return]


def put_away(e: "Engine", key: bytes, values: ZSet) -> None:
    """Removes the key of a sorted set that has become empty."""
    if not values:
        e.removed(key)


@group.command("zadd", -4, "write denyoom fast", keys=(1, 1, 1), since="1.2.0")
def zadd(e: "Engine", a: Args) -> bytes:
    """Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist."""
    flags = set()
    at = 2
    while at < len(a) and a[at].upper() in (b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"):
        flags.add(a[at].upper())
        at += 1
    pairs = a[at:]
    if not pairs or len(pairs) % 2:
        raise syntax_error()
    if b"NX" in flags and b"XX" in flags:
        raise CommandError(b"ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"GT", b"LT", b"NX"}) > 1:
        raise CommandError(b"ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in flags and len(pairs) > 2:
        raise CommandError(b"ERR INCR option supports a single increment-element pair")
    scores = [double(word) for word in pairs[::2]]
    values = zset(e, a[1])
    if values is None:
        if b"XX" in flags:
            return e.reply.null if b"INCR" in flags else ZERO
        values = ZSet()
    added = changed = 0
    result: float | None = None
    for score, member in zip(scores, pairs[1::2], strict=True):
        old = values.scores.get(member)
        if (b"NX" in flags and old is not None) or (b"XX" in flags and old is None):
            continue
        if b"INCR" in flags and old is not None:
            score += old
            if math.isnan(score):
                raise CommandError(b"ERR resulting score is not a number (NaN)")
        if old is not None and ((b"GT" in flags and score <= old) or (b"LT" in flags and score >= old)):
            continue
        result = score
        if old is None:
            added += 1
        elif old != score:
            changed += 1
        values.put(member, score)
    if added or changed:
        e.db.data[a[1]] = values
        e.touch(a[1], b"zincr" if b"INCR" in flags else b"zadd", "z")
    if b"INCR" in flags:
        return e.reply.null if result is None else e.reply.double(result)
    return number(added + changed if b"CH" in flags else added)


@group.command("zincrby", 4, "write denyoom fast", keys=(1, 1, 1), since="1.2.0")
def zincrby(e: "Engine", a: Args) -> bytes:
    """Increments the score of a member in a sorted set."""
    amount = double(a[2])
    values = zset(e, a[1])
    if values is None:
        values = ZSet()
    score = values.scores.get(a[3], 0.0) + amount
    if math.isnan(score):
        raise CommandError(b"ERR resulting score is not a number (NaN)")
    values.put(a[3], score)
    e.db.data[a[1]] = values
    e.touch(a[1], b"zincr", "z")
    return e.reply.double(score)


@group.command("zrem", -3, "write fast", keys=(1, 1, 1), since="1.2.0")
def zrem(e: "Engine", a: Args) -> bytes:
    """Removes one or more members from a sorted set. Deletes the sorted set if all members were removed."""
    values = zset(e, a[1])
    if values is None:
        return ZERO
    gone = sum([values.remove(member) for member in a[2:]])
    if gone:
        e.touch(a[1], b"zrem", "z")
        put_away(e, a[1], values)
    return number(gone)


@group.command("zcard", 2, "readonly fast", keys=(1, 1, 1), since="1.2.0")
def zcard(e: "Engine", a: Args) -> bytes:
    """Returns the number of members in a sorted set."""
    return number(len(zset(e, a[1]) or ()))


@group.command("zscore", 3, "readonly fast", keys=(1, 1, 1), since="1.2.0")
def zscore(e: "Engine", a: Args) -> bytes:
    """Returns the score of a member in a sorted set."""
    values = zset(e, a[1])
    score = values.scores.get(a[2]) if values is not None else None
    return e.reply.null if score is None else e.reply.double(score)


@group.command("zmscore", -3, "readonly fast", keys=(1, 1, 1), since="6.2.0")
def zmscore(e: "Engine", a: Args) -> bytes:
    """Returns the score of one or more members in a sorted set."""
    values = zset(e, a[1])
    scores = [values.scores.get(member) if values is not None else None for member in a[2:]]
    return array([e.reply.null if score is None else e.reply.double(score) for score in scores])


def _rank(e: "Engine", a: Args, reverse: bool) -> bytes:
    values = zset(e, a[1])
    if values is None or a[2] not in values.scores:
        return e.reply.null
    rank = values.rank(a[2])
    return number(len(values) - 1 - rank if reverse else rank)


@group.command("zrank", 3, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def zrank(e: "Engine", a: Args) -> bytes:
    """Returns the index of a member in a sorted set ordered by ascending scores."""
    return _rank(e, a, False)


@group.command("zrevrank", 3, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def zrevrank(e: "Engine", a: Args) -> bytes:
    """Returns the index of a member in a sorted set ordered by descending scores."""
    return _rank(e, a, True)


# ---- ranges ------------------------------------------------------------------------------------------------------


class _AfterAll(bytes):
    """Greater than every member."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


_LAST = _AfterAll()


def _score_place(values: ZSet, word: bytes, is_end: bool) -> int:
    """The rank at which a range by score begins, or before which it ends."""
    open_, text = word[:1] == b"(", word.removeprefix(b"(")
    score = bound(text)
    return values.before((score, _LAST if open_ != is_end else b""))


def _lex_place(values: ZSet, word: bytes, is_end: bool) -> int:
    """The same for a range by name; all scores are taken to be equal, as in Redis."""
    if word in (b"-", b"+"):
        return 0 if word == b"-" else len(values)
    if word[:1] not in (b"(", b"["):
        raise CommandError(b"ERR min or max not valid string range item")
    first = values.slice(0, 1)
    if not first:
        return 0
    member = word[1:]
    after = (word[:1] == b"(") != is_end
    # The smallest name that is greater is this one with a zero byte behind it.
    return values.before((first[0][0], member + b"\0" if after else member))


def _check_score(word: bytes) -> None:
    bound(word.removeprefix(b"("))


def _check_lex(word: bytes) -> None:
    if word not in (b"-", b"+") and word[:1] not in (b"(", b"["):
        raise CommandError(b"ERR min or max not valid string range item")


def _rank_place(values: ZSet, word: bytes, is_end: bool) -> int:
    return integer(word)


_BOUNDS: dict[str, tuple[Callable[[bytes], object], Callable[[ZSet, bytes, bool], int]]] = {
    "rank": (integer, _rank_place),
    "score": (_check_score, _score_place),
    "lex": (_check_lex, _lex_place),
}
"""How a bound is checked, before the key is looked at, and at which rank it stands."""


def select(
    e: "Engine", key: bytes, low: bytes, high: bytes, by: str, reverse: bool, limit: tuple[int, int] | None
) -> list[Scored]:
    """The pairs of a range.

    Args:
        low, high: as sent, the smaller first unless they are ranks.
        by: "rank", "score" or "lex".
        reverse: the greatest first; ranks then count from there.
        limit: how many to skip and to take (below 0: all).

    Raises:
        CommandError: a bound is none, or the key holds another type.
    """
    check, place = _BOUNDS[by]
    check(low)
    check(high)
    values = zset(e, key)
    if values is None:
        return []
    if by == "rank":
        size = len(values)
        start, stop = slice_bounds(integer(low), integer(high), size)
        if reverse:
            start, stop = size - stop, size - start
    else:
        start, stop = place(values, low, False), place(values, high, True)
    if limit is not None:
        skip, take = limit
        if skip < 0:
            return []
        if reverse:
            stop -= skip
            start = max(start, stop - take) if take >= 0 else start
        else:
            start += skip
            stop = min(stop, start + take) if take >= 0 else stop
    if start >= stop:
        return []
    found = values.slice(start, stop)
    if reverse:
        found.reverse()
    return found


def reply_pairs(e: "Engine", pairs: list[Scored], scores: bool) -> bytes:
    """Members, with their scores if asked for."""
    if scores:
        return e.reply.scored((member, score) for score, member in pairs)
    return bulks([member for _, member in pairs])


class RangeOptions:
    """What may stand behind the bounds of a range."""

    def __init__(self, a: Args, at: int, allowed: tuple[bytes, ...]) -> None:
        self.by = "rank"
        self.reverse = self.scores = False
        self.limit: tuple[int, int] | None = None
        while at < len(a):
            word = a[at].upper()
            if word not in allowed:
                raise syntax_error()
            if word == b"WITHSCORES":
                self.scores = True
            elif word == b"REV":
                self.reverse = True
            elif word in (b"BYSCORE", b"BYLEX"):
                self.by = "score" if word == b"BYSCORE" else "lex"
            else:
                self.limit = (integer(option(a, at + 1)), integer(option(a, at + 2)))
                at += 2
            at += 1


_RANGE = (b"WITHSCORES", b"REV", b"BYSCORE", b"BYLEX", b"LIMIT")


def _range(e: "Engine", a: Args, key: bytes, low: bytes, high: bytes, options: RangeOptions) -> list[Scored]:
    if options.limit is not None and options.by == "rank":
        raise CommandError(b"ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
    if options.scores and options.by == "lex":
        raise CommandError(b"ERR syntax error, WITHSCORES not supported in combination with BYLEX")
    if options.reverse and options.by != "rank":
        low, high = high, low
    return select(e, key, low, high, options.by, options.reverse, options.limit)


@group.command("zrange", -4, "readonly", keys=(1, 1, 1), since="1.2.0")
def zrange(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a range of indexes."""
    options = RangeOptions(a, 4, _RANGE)
    return reply_pairs(e, _range(e, a, a[1], a[2], a[3], options), options.scores)


@group.command("zrangestore", -5, "write denyoom", keys=(1, 2, 1), since="6.2.0")
def zrangestore(e: "Engine", a: Args) -> bytes:
    """Stores a range of members from sorted set in a key."""
    options = RangeOptions(a, 5, _RANGE[1:])
    return store(e, a[1], _range(e, a, a[2], a[3], a[4], options), b"zrangestore")


def store(e: "Engine", key: bytes, pairs: list[Scored], event: bytes) -> bytes:
    """Puts pairs under a key, and answers how many."""
    if pairs:
        result = ZSet()
        for score, member in pairs:
            result.put(member, score)
        e.db.put(key, result)
        e.touch(key, event, "z")
    elif e.db.get(key) is not None:
        e.removed(key)
    return number(len(pairs))


def _old_range(e: "Engine", a: Args, by: str, reverse: bool) -> bytes:
    options = RangeOptions(a, 4, (b"WITHSCORES",) if by == "rank" else (b"WITHSCORES", b"LIMIT"))
    if by == "lex" and options.scores:
        raise syntax_error()
    low, high = (a[3], a[2]) if reverse and by != "rank" else (a[2], a[3])
    return reply_pairs(e, select(e, a[1], low, high, by, reverse, options.limit), options.scores)


@group.command("zrevrange", -4, "readonly", keys=(1, 1, 1), since="1.2.0")
def zrevrange(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a range of indexes in reverse order."""
    return _old_range(e, a, "rank", True)


@group.command("zrangebyscore", -4, "readonly", keys=(1, 1, 1), since="1.0.5")
def zrangebyscore(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a range of scores."""
    return _old_range(e, a, "score", False)


@group.command("zrevrangebyscore", -4, "readonly", keys=(1, 1, 1), since="2.2.0")
def zrevrangebyscore(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a range of scores in reverse order."""
    return _old_range(e, a, "score", True)


@group.command("zrangebylex", -4, "readonly", keys=(1, 1, 1), since="2.8.9")
def zrangebylex(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a lexicographical range."""
    return _old_range(e, a, "lex", False)


@group.command("zrevrangebylex", -4, "readonly", keys=(1, 1, 1), since="2.8.9")
def zrevrangebylex(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a lexicographical range in reverse order."""
    return _old_range(e, a, "lex", True)


@group.command("zcount", 4, "readonly fast", keys=(1, 1, 1), since="2.0.0")
def zcount(e: "Engine", a: Args) -> bytes:
    """Returns the count of members in a sorted set that have scores within a range."""
    return _count(e, a, "score")


@group.command("zlexcount", 4, "readonly fast", keys=(1, 1, 1), since="2.8.9")
def zlexcount(e: "Engine", a: Args) -> bytes:
    """Returns the number of members in a sorted set within a lexicographical range."""
    return _count(e, a, "lex")


def _count(e: "Engine", a: Args, by: str) -> bytes:
    check, place = _BOUNDS[by]
    check(a[2])
    check(a[3])
    values = zset(e, a[1])
    nothing = values if values is not None else ZSet()
    low, high = place(nothing, a[2], False), place(nothing, a[3], True)
    return number(max(0, high - low))


def _remove_range(e: "Engine", a: Args, by: str, event: bytes) -> bytes:
    gone = select(e, a[1], a[2], a[3], by, False, None)
    values = zset(e, a[1])
    if values is None or not gone:
        return ZERO
    for _, member in gone:
        values.remove(member)
    e.touch(a[1], event, "z")
    put_away(e, a[1], values)
    return number(len(gone))


@group.command("zremrangebyrank", 4, "write", keys=(1, 1, 1), since="2.0.0")
def zremrangebyrank(e: "Engine", a: Args) -> bytes:
    """Removes members in a sorted set within a range of indexes."""
    return _remove_range(e, a, "rank", b"zremrangebyrank")


@group.command("zremrangebyscore", 4, "write", keys=(1, 1, 1), since="1.2.0")
def zremrangebyscore(e: "Engine", a: Args) -> bytes:
    """Removes members in a sorted set within a range of scores."""
    return _remove_range(e, a, "score", b"zremrangebyscore")


@group.command("zremrangebylex", 4, "write", keys=(1, 1, 1), since="2.8.9")
def zremrangebylex(e: "Engine", a: Args) -> bytes:
    """Removes members in a sorted set within a lexicographical range."""
    return _remove_range(e, a, "lex", b"zremrangebylex")


# ---- popping -----------------------------------------------------------------------------------------------------


def _take(e: "Engine", key: bytes, values: ZSet, lowest: bool, count: int) -> list[Scored]:
    size = len(values)
    taken = values.slice(0, count) if lowest else values.slice(max(0, size - count), size)[::-1]
    for _, member in taken:
        values.remove(member)
    if taken:
        e.touch(key, b"zpopmin" if lowest else b"zpopmax", "z")
        put_away(e, key, values)
    return taken


def _pop(e: "Engine", a: Args, lowest: bool) -> bytes:
    if len(a) > 3:
        raise syntax_error()
    count = pop_count(a)
    values = zset(e, a[1])
    if values is None:
        return EMPTY
    taken = _take(e, a[1], values, lowest, count)
    if len(a) == 2 and e.reply.version == 3:
        return array([item for score, member in taken for item in (bulk(member), e.reply.double(score))])
    return e.reply.scored((member, score) for score, member in taken)


@group.command("zpopmin", -2, "write fast", keys=(1, 1, 1), since="5.0.0")
def zpopmin(e: "Engine", a: Args) -> bytes:
    """Returns the lowest-scoring members from a sorted set after removing them. Deletes it with the last member."""
    return _pop(e, a, True)


@group.command("zpopmax", -2, "write fast", keys=(1, 1, 1), since="5.0.0")
def zpopmax(e: "Engine", a: Args) -> bytes:
    """Returns the highest-scoring members from a sorted set after removing them. Deletes it with the last member."""
    return _pop(e, a, False)


def _block_pop(e: "Engine", a: Args, lowest: bool) -> bytes | None:
    until = timeout_ms(a[-1], e.now)

    def serve(key: bytes, values: ZSet) -> bytes:
        ((score, member),) = _take(e, key, values, lowest, 1)
        e.rewrite(b"ZREM", key, member)
        return array([bulk(key), bulk(member), e.reply.double(score)])

    return pop_first_or_wait(e, a[1:-1], ZSet, serve, until)


@group.command("bzpopmin", -3, "write fast noscript blocking", keys=(1, -2, 1), since="5.0.0")
def bzpopmin(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns the member with the lowest score. Blocks until a member is available otherwise."""
    return _block_pop(e, a, True)


@group.command("bzpopmax", -3, "write fast noscript blocking", keys=(1, -2, 1), since="5.0.0")
def bzpopmax(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns the member with the highest score. Blocks until a member is available otherwise."""
    return _block_pop(e, a, False)


def _min_or_max(word: bytes) -> bool:
    if word not in (b"MIN", b"MAX"):
        raise syntax_error()
    return word == b"MIN"


def _pop_many(e: "Engine", lowest: bool, count: int) -> Serve:
    def serve(key: bytes, values: ZSet) -> bytes:
        taken = _take(e, key, values, lowest, count)
        e.rewrite(b"ZREM", key, *[member for _, member in taken])
        pairs = [array([bulk(member), e.reply.double(score)]) for score, member in taken]
        return array([bulk(key), array(pairs)])

    return serve


@group.command("zmpop", -4, "write movablekeys", movable=counted(1), since="7.0.0")
def zmpop(e: "Engine", a: Args) -> bytes:
    """Returns the highest- or lowest-scoring members from one or more sorted sets after removing them."""
    keys, side, count = counted_pop(a, 1)
    return pop_first(e, keys, ZSet, _pop_many(e, _min_or_max(side), count)) or e.reply.null_array


@group.command("bzmpop", -5, "write blocking movablekeys", movable=counted(2), since="7.0.0")
def bzmpop(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns a member by score from one or more sorted sets. Blocks until a member is available."""
    until = timeout_ms(a[1], e.now)
    keys, side, count = counted_pop(a, 2)
    return pop_first_or_wait(e, keys, ZSet, _pop_many(e, _min_or_max(side), count), until)


# ---- chance and scans --------------------------------------------------------------------------------------------


@group.command("zrandmember", -2, "readonly", keys=(1, 1, 1), since="6.2.0")
def zrandmember(e: "Engine", a: Args) -> bytes:
    """Returns one or more random members from a sorted set."""
    scores = len(a) == 4 and a[3].upper() == b"WITHSCORES"
    if len(a) > 4 or (len(a) == 4 and not scores):
        raise syntax_error()
    count = sample_count(a[2]) if len(a) > 2 else 0
    values = zset(e, a[1])
    if values is None:
        return EMPTY if len(a) > 2 else e.reply.null
    if len(a) == 2:
        at = e.chance.randrange(len(values))
        return bulk(values.slice(at, at + 1)[0][1])
    drawn = sample(e, [member for _, member in values], count)
    return reply_pairs(e, [(values.scores[member], member) for member in drawn], scores)


@group.command("zscan", -3, "readonly", keys=(1, 1, 1), since="2.8.0")
def zscan(e: "Engine", a: Args) -> bytes:
    """Iterates over members and scores of a sorted set."""
    options = Scan(e, a, 2)
    values = zset(e, a[1])
    if values is None:
        return scan_reply(b"0", [])
    cursor, names = options.page(values, lambda: iter([list(values.scores)]))
    found = [name for name in names if name in values.scores]
    return scan_reply(cursor, [bulk(word) for name in found for word in (name, double_text(values.scores[name]))])
