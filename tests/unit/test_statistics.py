"""Quantiles and confidence intervals."""

import math

import pytest

from titan_simulations.statistics import interval_95, mean, median, parse_seeds, quantile


def test_quantiles_lie_between_the_order_statistics():
    assert median([3, 1, 2]) == 2
    assert quantile([0, 10], 0.25) == 2.5
    assert math.isnan(median([]))


def test_the_interval_of_three_runs_is_student_s():
    # Standard error of 1, 2, 3 is 1/sqrt(3); t(0.975, 2) = 4.303.
    low, high = interval_95([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.303 / math.sqrt(3)), pytest.approx(2 + 4.303 / math.sqrt(3)))
    assert mean([1.0, 2.0, 3.0]) == 2


def test_one_run_has_no_interval():
    assert all(math.isnan(bound) for bound in interval_95([1.0]))


def test_seeds_are_ranges_and_lists():
    assert parse_seeds("1-3,7") == [1, 2, 3, 7]
    for bad in ("x", "3-1", "1,1", ""):
        with pytest.raises(ValueError, match="seeds"):
            parse_seeds(bad)
