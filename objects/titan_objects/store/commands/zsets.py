"""Sorted sets: members and scores. Their ranges are in `zset_ranges`, what several give together in `zset_algebra`."""

import math
from typing import TYPE_CHECKING

from titan_objects.store.arguments import double, timeout_ms
from titan_objects.store.commands.pops import Serve, counted_pop, pop_count, pop_first, pop_first_or_wait
from titan_objects.store.commands.scans import Scan, parse_cursor, scan_reply
from titan_objects.store.commands.sets import sample, sample_options
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


def reply_pairs(e: "Engine", pairs: list[Scored], scores: bool) -> bytes:
    """Members, with their scores if asked for."""
    if scores:
        return e.reply.scored((member, score) for score, member in pairs)
    return bulks([member for _, member in pairs])


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


_ZADD_OPTIONS = frozenset((b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"))


@group.command("zadd", -4, "write denyoom fast", keys=(1, 1, 1), since="1.2.0")
def zadd(e: "Engine", a: Args) -> bytes:
    """Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist."""
    at = 2
    while at < len(a) and a[at].upper() in _ZADD_OPTIONS:
        at += 1
    options = frozenset([word.upper() for word in a[2:at]])
    pairs = a[at:]
    if not pairs or len(pairs) % 2:
        raise syntax_error()
    if options:
        _check_zadd(options, len(pairs))
    scores = [double(word) for word in pairs[::2]]
    values = zset(e, a[1])
    if values is None:
        if b"XX" in options:
            return e.reply.null if b"INCR" in options else ZERO
        values = ZSet()
    added = changed = 0
    result: float | None = None
    for score, member in zip(scores, pairs[1::2], strict=True):
        old = values.scores.get(member)
        if options:
            allowed = _allowed(options, old, score)
            if allowed is None:
                continue
            score = allowed
        result = score
        if old is None:
            added += 1
        elif old != score:
            changed += 1
        values.put(member, score)
    if added or changed:
        e.db.data[a[1]] = values
        e.touch(a[1], b"zincr" if b"INCR" in options else b"zadd", "z")
    if b"INCR" in options:
        return e.reply.null if result is None else e.reply.double(result)
    return number(added + changed if b"CH" in options else added)


def _check_zadd(options: frozenset[bytes], words: int) -> None:
    """Raises CommandError: these do not go together, or not with so many scores and members."""
    if b"NX" in options and b"XX" in options:
        raise CommandError(b"ERR XX and NX options at the same time are not compatible")
    if len(options & {b"GT", b"LT", b"NX"}) > 1:
        raise CommandError(b"ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in options and words > 2:
        raise CommandError(b"ERR INCR option supports a single increment-element pair")


def _allowed(options: frozenset[bytes], old: float | None, score: float) -> float | None:
    """The score that a member with the old one (None: it is new) gets by these options; None: it stays as it is."""
    if old is None:
        return None if b"XX" in options else score
    if b"NX" in options:
        return None
    if b"INCR" in options:
        score += old
        if math.isnan(score):
            raise CommandError(b"ERR resulting score is not a number (NaN)")
    if (b"GT" in options and score <= old) or (b"LT" in options and score >= old):
        return None
    return score


@group.command("zincrby", 4, "write denyoom fast", keys=(1, 1, 1), since="1.2.0")
def zincrby(e: "Engine", a: Args) -> bytes:
    """Increments the score of a member in a sorted set."""
    amount = double(a[2])
    values = zset(e, a[1])
    if values is None:
        values = ZSet()
    score = values.scores.get(a[3], -0.0) + amount  # to which -0 adds up as -0
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
    keys, lowest, count = counted_pop(a, 1, (b"MIN", b"MAX"))
    return pop_first(e, keys, ZSet, _pop_many(e, lowest, count)) or e.reply.null_array


@group.command("bzmpop", -5, "write blocking movablekeys", movable=counted(2), since="7.0.0")
def bzmpop(e: "Engine", a: Args) -> bytes | None:
    """Removes and returns a member by score from one or more sorted sets. Blocks until a member is available."""
    keys, lowest, count = counted_pop(a, 2, (b"MIN", b"MAX"))
    return pop_first_or_wait(e, keys, ZSet, _pop_many(e, lowest, count), timeout_ms(a[1], e.now))


# ---- chance and scans --------------------------------------------------------------------------------------------


@group.command("zrandmember", -2, "readonly", keys=(1, 1, 1), since="6.2.0")
def zrandmember(e: "Engine", a: Args) -> bytes:
    """Returns one or more random members from a sorted set."""
    count, scores = sample_options(a, b"WITHSCORES") if len(a) > 2 else (0, False)
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
    cursor = parse_cursor(a[2])
    values = zset(e, a[1])
    if values is None:
        return scan_reply(b"0", [])
    options = Scan(e, cursor, a[3:])
    following, names = options.page(values, values.scores)
    found = [name for name in names if name in values.scores]
    return scan_reply(following, [bulk(word) for name in found for word in (name, double_text(values.scores[name]))])
