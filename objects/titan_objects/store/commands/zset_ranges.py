"""Ranges of a sorted set by rank, score or name: ZRANGE and its older forms, counting, storing and removing them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.arguments import bound, integer, slice_bounds
from titan_objects.store.commands.zsets import put_away, reply_pairs, store, zset
from titan_objects.store.resp import ZERO, CommandError, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.values import Scored, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("sorted-set")


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


_CHECKS: dict[str, Callable[[bytes], object]] = {"rank": integer, "score": _check_score, "lex": _check_lex}
"""How a bound is checked, before the key is looked at."""

_PLACES = {"score": _score_place, "lex": _lex_place}
"""At which rank it stands."""


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
    _CHECKS[by](low)
    _CHECKS[by](high)
    values = zset(e, key)
    if values is None:
        return []
    if by == "rank":
        size = len(values)
        start, stop = slice_bounds(integer(low), integer(high), size)
        if reverse:
            start, stop = size - stop, size - start
    else:
        place = _PLACES[by]
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


class RangeOptions:
    """What may stand behind the bounds of a range.

    Args:
        by, reverse: what the name of an old command says; None: the options do.
        storing: the scores are not shown.

    Raises:
        CommandError: an option is none, is said twice, or does not go with the others.
    """

    def __init__(
        self, a: Args, at: int, by: str | None = None, reverse: bool | None = None, *, storing: bool = False
    ) -> None:
        self.scores = False
        self.limit: tuple[int, int] | None = None
        while at < len(a):
            word = a[at].upper()
            if word == b"WITHSCORES" and not storing:
                self.scores = True
            elif word == b"LIMIT" and at + 2 < len(a):
                self.limit = (integer(a[at + 1]), integer(a[at + 2]))
                at += 2
            elif word == b"REV" and reverse is None:
                reverse = True
            elif word in (b"BYSCORE", b"BYLEX") and by is None:
                by = word.removeprefix(b"BY").decode().lower()
            else:
                raise syntax_error()
            at += 1
        self.by, self.reverse = by or "rank", bool(reverse)
        if self.by == "rank" and self.limit is not None and self.limit[1] != -1:
            raise CommandError(b"ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
        if self.by == "lex" and self.scores:
            raise CommandError(b"ERR syntax error, WITHSCORES not supported in combination with BYLEX")


def _range(e: "Engine", key: bytes, low: bytes, high: bytes, options: RangeOptions) -> list[Scored]:
    if options.reverse and options.by != "rank":
        low, high = high, low
    limit = options.limit if options.by != "rank" else None
    return select(e, key, low, high, options.by, options.reverse, limit)


@group.command("zrange", -4, "readonly", keys=(1, 1, 1), since="1.2.0")
def zrange(e: "Engine", a: Args) -> bytes:
    """Returns members in a sorted set within a range of indexes."""
    options = RangeOptions(a, 4)
    return reply_pairs(e, _range(e, a[1], a[2], a[3], options), options.scores)


@group.command("zrangestore", -5, "write denyoom", keys=(1, 2, 1), since="6.2.0")
def zrangestore(e: "Engine", a: Args) -> bytes:
    """Stores a range of members from sorted set in a key."""
    options = RangeOptions(a, 5, storing=True)
    return store(e, a[1], _range(e, a[2], a[3], a[4], options), b"zrangestore")


def _old_range(e: "Engine", a: Args, by: str, reverse: bool) -> bytes:
    options = RangeOptions(a, 4, by, reverse)
    return reply_pairs(e, _range(e, a[1], a[2], a[3], options), options.scores)


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
    _CHECKS[by](a[2])
    _CHECKS[by](a[3])
    place = _PLACES[by]
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
