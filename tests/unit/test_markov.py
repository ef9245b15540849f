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
