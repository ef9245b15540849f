"""What several sorted sets (and sets) give together: unions, intersections and differences."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.arguments import double, integer, natural, option
from titan_objects.store.commands.zsets import reply_pairs, store
from titan_objects.store.resp import CommandError, syntax_error, wrong_type
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group, counted
from titan_objects.store.values import Members, Scored, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("sorted-set")

Scores = dict[bytes, float]


def _sum(one: float, other: float) -> float:
    total = one + other
    return 0.0 if math.isnan(total) else total  # inf and -inf


_AGGREGATES: dict[bytes, Callable[[float, float], float]] = {b"SUM": _sum, b"MIN": min, b"MAX": max}


def _scores(e: "Engine", key: bytes) -> Scores:
    value = e.db.get(key)
    if value is None:
        return {}
    if type(value) is ZSet:
        return value.scores
    if type(value) is Members:
        return dict.fromkeys(value.order, 1.0)
    raise wrong_type()


class _Inputs:
    """The keys and options of ZUNION and its kin, from the number of keys on; `allowed`: which options there are."""

    def __init__(self, e: "Engine", a: Args, at: int, allowed: tuple[bytes, ...]) -> None:
        many = integer(a[at])
        if many < 1:
            raise CommandError(f"ERR at least 1 input key is needed for '{a[0].decode().lower()}' command")
        if many > len(a) - at - 1:
            raise syntax_error()
        self.scores, self.limit = False, 0
        weights = [1.0] * many
        aggregate = _AGGREGATES[b"SUM"]
        sources = [_scores(e, key) for key in a[at + 1 : at + 1 + many]]
        at += 1 + many
        while at < len(a):
            word = a[at].upper()
            if word not in allowed:
                raise syntax_error()
            if word == b"WEIGHTS" and len(a) - at > many:
                weights = [double(each, b"ERR weight value is not a float") for each in a[at + 1 : at + 1 + many]]
                at += many
            elif word == b"AGGREGATE":
                at += 1
                if option(a, at).upper() not in _AGGREGATES:
                    raise syntax_error()
                aggregate = _AGGREGATES[a[at].upper()]
            elif word == b"WITHSCORES":
                self.scores = True
            elif word == b"LIMIT":
                at += 1
                self.limit = natural(option(a, at), b"ERR LIMIT can't be negative")
            else:
                raise syntax_error()
            at += 1
        self.aggregate = aggregate
        self.sources: list[Scores] = []
        for scores, weight in zip(sources, weights, strict=True):
            if weight != 1.0:
                self.sources.append({member: _times(score, weight) for member, score in scores.items()})
            else:
                self.sources.append(scores)


def _times(score: float, weight: float) -> float:
    product = score * weight
    return 0.0 if math.isnan(product) else product  # 0 and inf


def _union(inputs: _Inputs) -> list[Scored]:
    total: Scores = {}
    for scores in inputs.sources:
        for member, score in scores.items():
            total[member] = inputs.aggregate(total[member], score) if member in total else score
    return sorted((score, member) for member, score in total.items())


def _inter(inputs: _Inputs) -> list[Scored]:
    smallest = min(inputs.sources, key=len)
    total: Scores = {}
    for member in smallest:
        if all(member in scores for scores in inputs.sources):
            found = [scores[member] for scores in inputs.sources]
            result = found[0]
            for score in found[1:]:
                result = inputs.aggregate(result, score)
            total[member] = result
    return sorted((score, member) for member, score in total.items())


def _diff(inputs: _Inputs) -> list[Scored]:
    first, *others = inputs.sources
    return sorted((score, member) for member, score in first.items() if not any(member in scores for scores in others))


_WEIGHTED = (b"WEIGHTS", b"AGGREGATE")


def _answer(
    e: "Engine", a: Args, how: Callable[[_Inputs], list[Scored]], options: tuple[bytes, ...] = _WEIGHTED
) -> bytes:
    inputs = _Inputs(e, a, 1, (*options, b"WITHSCORES"))
    return reply_pairs(e, how(inputs), inputs.scores)


def _store(
    e: "Engine", a: Args, how: Callable[[_Inputs], list[Scored]], options: tuple[bytes, ...] = _WEIGHTED
) -> bytes:
    inputs = _Inputs(e, a, 2, options)
    return store(e, a[1], how(inputs), a[0].lower())


@group.command("zunion", -3, "readonly movablekeys", movable=counted(1), since="6.2.0")
def zunion(e: "Engine", a: Args) -> bytes:
    """Returns the union of multiple sorted sets."""
    return _answer(e, a, _union)


@group.command("zinter", -3, "readonly movablekeys", movable=counted(1), since="6.2.0")
def zinter(e: "Engine", a: Args) -> bytes:
    """Returns the intersect of multiple sorted sets."""
    return _answer(e, a, _inter)


@group.command("zdiff", -3, "readonly movablekeys", movable=counted(1), since="6.2.0")
def zdiff(e: "Engine", a: Args) -> bytes:
    """Returns the difference between multiple sorted sets."""
    return _answer(e, a, _diff, ())


@group.command("zunionstore", -4, "write denyoom movablekeys", keys=(1, 1, 1), movable=counted(2, 1), since="2.0.0")
def zunionstore(e: "Engine", a: Args) -> bytes:
    """Stores the union of multiple sorted sets in a key."""
    return _store(e, a, _union)


@group.command("zinterstore", -4, "write denyoom movablekeys", keys=(1, 1, 1), movable=counted(2, 1), since="2.0.0")
def zinterstore(e: "Engine", a: Args) -> bytes:
    """Stores the intersect of multiple sorted sets in a key."""
    return _store(e, a, _inter)


@group.command("zdiffstore", -4, "write denyoom movablekeys", keys=(1, 1, 1), movable=counted(2, 1), since="6.2.0")
def zdiffstore(e: "Engine", a: Args) -> bytes:
    """Stores the difference of multiple sorted sets in a key."""
    return _store(e, a, _diff, ())


@group.command("zintercard", -3, "readonly movablekeys", movable=counted(1), since="7.0.0")
def zintercard(e: "Engine", a: Args) -> bytes:
    """Returns the number of members of the intersect of multiple sorted sets."""
    inputs = _Inputs(e, a, 1, (b"LIMIT",))
    smallest = min(inputs.sources, key=len)
    size = sum(all(member in scores for scores in inputs.sources) for member in smallest)
    return number(min(size, inputs.limit) if inputs.limit else size)
