"""Quantiles and confidence intervals."""

import math

import pytest

from titan_simulations.statistics import interval_95, mean, median, parse_seeds, quantile, spread


def test_quantiles_lie_between_the_order_statistics():
    assert median([3, 1, 2]) == 2
    assert quantile([0, 10], 0.25) == 2.5
    assert math.isnan(median([]))


def test_the_interval_of_three_runs_is_student_s():
    # Standard error of 1, 2, 3 is 1/sqrt(3); t(0.975, 2) = 4.303.
    low, high = interval_95([1.0, 2.0, 3.0])
    assert (low, high) == (pytest.approx(2 - 4.303 / math.sqrt(3)), pytest.approx(2 + 4.303 / math.sqrt(3)))
    assert mean([1.0, 2.0, 3.0]) == 2


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_runs_have_no_interval_but_a_smallest_and_a_largest_value(values: list[float]):
    assert all(math.isnan(bound) for bound in interval_95(values))
    assert spread(values, 0.0) == (values[0], values[-1])


def test_an_interval_ends_where_no_such_figure_can_be():
    assert spread([1.0, 2.0, 3.0]) == interval_95([1.0, 2.0, 3.0])
    assert spread([0.0, 0.0, 3.0], 0.0) == (0.0, pytest.approx(1 + 4.303))
    assert spread([0.99, 1.0, 1.0], 0.0, 1.0)[1] == 1.0


def test_seeds_are_ranges_and_lists():
    assert parse_seeds("1-3,7") == [1, 2, 3, 7]
    for bad in ("x", "3-1", "1,1", ""):
        with pytest.raises(ValueError, match="seeds"):
            parse_seeds(bad)
