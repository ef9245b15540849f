"""Summaries of samples: quantiles, and what three seeds say about the mean."""

import math
from collections.abc import Sequence

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom (Student 1908; any table)."""


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between order statistics (Hyndman and Fan 1996, type 7); nan of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:
        return float(ordered[low])
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Sequence[float]) -> float:
    """The middle; nan of nothing."""
    return quantile(values, 0.5)


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


RUNS_FOR_AN_INTERVAL = 3
"""Of two values Student's t makes an interval 18 times as wide as they are apart, which says nothing."""


def interval_95(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of independent runs, by Student's t.

    (nan, nan) of fewer than `RUNS_FOR_AN_INTERVAL`.
    """
    count = len(values)
    if count < RUNS_FOR_AN_INTERVAL:
        return math.nan, math.nan
    centre = mean(values)
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (count - 1))
    t = _T_975[count - 2] if count - 2 < len(_T_975) else 1.96 + 2.5 / (count - 1)
    half = t * deviation / math.sqrt(count)
    return centre - half, centre + half


def spread(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> tuple[float, float]:
    """The part of `interval_95` in which the figure can lie; of fewer runs the smallest and the largest value.

    Args:
        least, most: no such figure is smaller, or larger.
    """
    if len(values) < RUNS_FOR_AN_INTERVAL:
        return min(values), max(values)
    low, high = interval_95(values)
    return max(low, least), min(high, most)


def majority_binomial(votes: int, share: float) -> float:
    """Probability that more than half of so many voters lie, if each does with this probability."""
    return math.fsum(
        math.comb(votes, lying) * share**lying * (1 - share) ** (votes - lying)
        for lying in range(votes // 2 + 1, votes + 1)
    )


def majority_of_liars(hosts: int, liars: int, votes: int) -> float:
    """Probability that liars are more than half of `votes` voters drawn from so many hosts, without putting back."""
    asked = min(votes, hosts)
    ways = math.comb(hosts, asked)
    return math.fsum(
        math.comb(liars, lying) * math.comb(hosts - liars, asked - lying) / ways
        for lying in range(votes // 2 + 1, asked + 1)
    )


def parse_seeds(text: str) -> list[int]:
    """`1`, `1-3` or `1,4,7-9`. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        try:
            seeds.extend(range(int(low), int(high) + 1) if dash else [int(low)])
        except ValueError:
            raise ValueError(f"seeds {text!r}: write 1-3 or 1,4,7") from None
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {text!r}: at least one, and none twice")
    return seeds
