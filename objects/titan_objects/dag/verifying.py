"""When a result is believed: quorums, and workers that have earned to be believed alone.

Source: Anderson, "BOINC: A Platform for Volunteer Computing", J. Grid Computing 2020, section 3.4 (adaptive
replication). A worker with more than `TRUSTED` consecutive valid results is asked alone, but with the chance
`TRUSTED / results` beside others; one invalid result takes all of its trust away.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isclose
from typing import Any

import msgspec

from titan_objects.dag.definition import Verify
from titan_objects.dag.expressions import parse, truth
from titan_objects.dag.journal import Success
from titan_objects.dag.references import data_of, inside

TRUSTED = 10


class Judged(msgspec.Struct, frozen=True, array_like=True):
    """What became of the results of an owner's workers."""

    valid: int
    """Results since the last invalid one."""
    broken: bool = False
    """Whether there was an invalid one; what was known before counts for nothing then."""

    def behind(self, before: int) -> int:
        """Consecutive valid results, where there were so many before."""
        return self.valid if self.broken else before + self.valid

    def then(self, other: "Judged") -> "Judged":
        """This, and what came after it."""
        return Judged(other.behind(self.valid), self.broken or other.broken)


class Records:
    """Consecutive valid results of the workers of each owner: nobody vouches for more than a key.

    Attributes:
        news: what was judged since it was last cleared.
    """

    def __init__(self) -> None:
        self._valid: dict[str, int] = {}
        self.news: dict[str, Judged] = {}

    def take(self, known: Mapping[str, int]) -> None:
        """What other runs know."""
        self._valid.update(known)

    def believed_alone(self, owner: str, draw: Callable[[], float]) -> bool:
        """Whether this owner's next result needs no second one."""
        valid = self._valid.get(owner, 0)
        return valid > TRUSTED and draw() >= TRUSTED / valid

    def judge(self, owner: str, valid: bool) -> None:
        """A result was compared with others."""
        judged = Judged(1) if valid else Judged(0, broken=True)
        self._valid[owner] = judged.behind(self._valid.get(owner, 0))
        self.news[owner] = self.news.get(owner, Judged(0)).then(judged)


class Verdict(msgspec.Struct, frozen=True):
    """What the results so far amount to."""

    believed: Success | None = None
    valid: tuple[str, ...] = ()
    """Owners whose result counts as equal to it."""
    invalid: tuple[str, ...] = ()
    missing: int = 0
    """Results more that it would take at least, where none is believed."""


def verdict(verify: Verify, results: Mapping[str, Success]) -> Verdict:
    """Which result is believed, if any.

    Args:
        results: by owner.
    """
    best = 0
    for candidate in results.values():
        valid = tuple(owner for owner, other in results.items() if equal(verify, candidate, other))
        if len(valid) >= verify.quorum:
            return Verdict(candidate, valid, tuple(owner for owner in results if owner not in valid))
        best = max(best, len(valid))
    return Verdict(missing=verify.quorum - best)


def equal(verify: Verify, one: Success, other: Success) -> bool:
    """Whether two results count as the same."""
    if one.files != other.files:
        return False
    if verify.comparator == "numeric":
        return _close(one.value, other.value, verify.tolerance)
    same = one.digest == other.digest and (bool(one.digest) or bool(one.value == other.value))
    return same or (verify.comparator != "bitwise" and _agree(verify.comparator, one.value, other.value))


def _agree(expression: str, one: Any, other: Any) -> bool:
    if data_of(one) or data_of(other):
        return False
    values = {"a": one, "b": other}
    return truth(_parsed(expression), lambda parts: inside(values[parts[0]], parts[1:])) is True


_parsed = lru_cache(64)(parse)


def _close(one: Any, other: Any, tolerance: float) -> bool:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers) and not isinstance(one, bool):
        return isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(value, other[key], tolerance) for key, value in one.items())
    return type(one) is type(other) and bool(one == other)
