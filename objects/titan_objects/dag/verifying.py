"""When a result is believed: quorums, and workers that have earned to be believed alone.

Source: Anderson, "BOINC: A Platform for Volunteer Computing", J. Grid Computing 2020, section 3.4 (adaptive
replication). A worker with more than `TRUSTED` consecutive valid results is asked alone, but with the chance
`TRUSTED / results` beside others; one invalid result takes all of its trust away.
"""

from collections.abc import Callable, Sequence
from math import isclose
from typing import Any

import msgspec

from titan_objects.dag.definition import Verify
from titan_objects.dag.journal import Success

TRUSTED = 10


class Records:
    """Consecutive valid results of each worker, as far as this run knows."""

    def __init__(self) -> None:
        self._valid: dict[str, int] = {}

    def meet(self, worker: str, valid: int) -> None:
        """A worker comes with a record of its own."""
        self._valid.setdefault(worker, valid)

    def believed_alone(self, worker: str, draw: Callable[[], float]) -> bool:
        """Whether this worker's next result needs no second one."""
        valid = self._valid.get(worker, 0)
        return valid > TRUSTED and draw() >= TRUSTED / valid

    def judge(self, worker: str, valid: bool) -> None:
        """A result was compared with others."""
        self._valid[worker] = self._valid.get(worker, 0) + 1 if valid else 0

    def valid(self, worker: str) -> int:
        """Its consecutive valid results."""
        return self._valid.get(worker, 0)


class Verdict(msgspec.Struct, frozen=True):
    """What the results so far amount to."""

    believed: Success | None = None
    valid: tuple[str, ...] = ()
    """Workers whose result counts as equal to it."""
    invalid: tuple[str, ...] = ()
    missing: int = 0
    """Results more that it would take at least, where none is believed."""


def verdict(verify: Verify, results: Sequence[tuple[str, str, Success]]) -> Verdict:
    """Which result is believed, if any.

    Args:
        results: worker, owner and result of each.
    """
    best = 0
    for _, _, candidate in results:
        agreed = [(worker, owner) for worker, owner, other in results if equal(verify, candidate, other)]
        owners = len({owner or worker for worker, owner in agreed})
        if owners >= verify.quorum:
            valid = tuple(worker for worker, _ in agreed)
            return Verdict(candidate, valid, tuple(worker for worker, _, _ in results if worker not in valid))
        best = max(best, owners)
    return Verdict(missing=verify.quorum - best)


def equal(verify: Verify, one: Success, other: Success) -> bool:
    """Whether two results count as the same."""
    if one.files != other.files:
        return False
    if verify.comparator == "numeric":
        return _close(one.value, other.value, verify.tolerance)
    return one.digest == other.digest and (bool(one.digest) or bool(one.value == other.value))


def _close(one: Any, other: Any, tolerance: float) -> bool:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers) and not isinstance(one, bool):
        return isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(value, other[key], tolerance) for key, value in one.items())
    return type(one) is type(other) and bool(one == other)
