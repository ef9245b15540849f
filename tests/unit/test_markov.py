"""The birth-death chain that says how many objects a memoryless world would lose."""

import math

import pytest

from titan_simulations import markov


def test_one_copy_without_repair_decays_exponentially():
    assert markov.loss_probability(1, [(1000, 1e-3)], math.inf) == pytest.approx(1 - math.exp(-1))


def test_copies_without_repair_die_independently():
    alone = 1 - math.exp(-1e-4 * 3600)
    assert markov.loss_probability(3, [(3600, 1e-4)], math.inf) == pytest.approx(alone**3)


def test_two_copies_with_repair_agree_with_the_closed_form():
    # Two states alive: the eigenvalues of the generator are the roots of s^2 + (3d + m) s + 2 d^2 = 0.
    death, repair, horizon = 1e-3, 1 / 50, 2000.0
    trace, determinant = 3 * death + repair, 2 * death * death
    root = math.sqrt(trace * trace - 4 * determinant)
    slow, fast = (trace - root) / 2, (trace + root) / 2
    alive = (fast * math.exp(-slow * horizon) - slow * math.exp(-fast * horizon)) / (fast - slow)
    assert markov.loss_probability(2, [(horizon, death)], 50) == pytest.approx(1 - alive)


def test_faster_repair_and_more_copies_lose_less():
    base = markov.expected_losses(2000, 3, [(3600, 1e-4)], 75)
    assert 0.05 < base < 0.5
    assert markov.expected_losses(2000, 3, [(3600, 1e-4)], 30) < base
    assert markov.expected_losses(2000, 5, [(3600, 1e-4)], 75) < base / 1000


def test_parts_of_the_time_are_one_after_the_other():
    whole = markov.loss_probability(3, [(3600, 1e-4)], 75)
    assert markov.loss_probability(3, [(600, 1e-4), (0, 9.0), (3000, 1e-4)], 75) == pytest.approx(whole)


def test_as_many_deaths_in_less_time_lose_more():
    even, early = [(3600, 1e-4)], [(600, 5e-4), (3000, 2e-5)]
    assert markov.loss_probability(3, early, 75) > 3 * markov.loss_probability(3, even, 75)


def test_immediate_repair_loses_nothing_and_immortal_copies_neither():
    assert markov.loss_probability(3, [(3600, 1e-4)], 0.0) == pytest.approx(0, abs=1e-9)
    assert markov.loss_probability(3, [(3600, 0.0)], 75) == 0


def test_the_chance_of_at_least_so_many_losses():
    assert markov.poisson_at_least(0, 0.1) == 1
    assert markov.poisson_at_least(1, 0.1) == pytest.approx(1 - math.exp(-0.1))


def members_lost(members: int, deaths: list[tuple[float, float]], **options: float | bool) -> float:
    known = {"gone_share": 1.0, "down_seconds": math.inf, "repair_seconds": math.inf, **options}
    return markov.quorum_loss_probability(members, deaths, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(("members", "dead"), [(3, 2), (5, 3), (7, 4)])
def test_members_that_nobody_replaces_are_lost_as_the_binomial_says(members: int, dead: int):
    alone = 1 - math.exp(-1e-4 * 3600)
    ways = (math.comb(members, k) * alone**k * (1 - alone) ** (members - k) for k in range(dead, members + 1))
    assert members_lost(members, [(3600, 1e-4)]) == pytest.approx(sum(ways))


def test_a_group_of_two_is_one_object_whose_copies_die_twice_as_fast():
    assert members_lost(2, [(600, 1e-4), (600, 3e-4)]) == pytest.approx(
        markov.loss_probability(1, [(600, 2e-4), (600, 6e-4)], math.inf)
    )


def test_three_members_with_repair_are_two_copies_that_die_at_other_rates():
    """All up, one missing, the end: 3d to the middle, 2d to the end, m back."""
    death, repair, horizon = 1e-3, 1 / 50, 2000.0
    trace, determinant = 5 * death + repair, 6 * death * death
    root = math.sqrt(trace * trace - 4 * determinant)
    slow, fast = (trace - root) / 2, (trace + root) / 2
    alive = (fast * math.exp(-slow * horizon) - slow * math.exp(-fast * horizon)) / (fast - slow)
    for gone in (0.0, 0.3, 1.0):  # who is down is replaced like who is gone
        lost = members_lost(3, [(horizon, death)], repair_seconds=50, gone_share=gone, for_good=False)
        assert lost == pytest.approx(1 - alive)


def test_who_returns_is_lost_for_a_while_only():
    horizon = [(7200.0, 1e-4)]
    returning = {"gone_share": 0.05, "down_seconds": 3000.0, "repair_seconds": 30.0}
    for_good = members_lost(5, horizon, **returning)
    for_a_while = members_lost(5, horizon, **returning, for_good=False)
    assert 0 < for_good < for_a_while / 100
    assert for_a_while < members_lost(5, horizon, **{**returning, "repair_seconds": 300.0}, for_good=False) / 10
    assert members_lost(7, horizon, **returning, for_good=False) < for_a_while / 10
    assert members_lost(5, horizon, **{**returning, "gone_share": 0.0}) == 0
