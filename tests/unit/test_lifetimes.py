"""Session lengths, and classes of machines."""

import math

import pytest

from titan_overlay.ambient import Random
from titan_simulations import lifetimes
from titan_simulations.classes import Population
from titan_simulations.statistics import median

SESSION = lifetimes.parse("weibull:0.6:1h")


def test_the_second_number_of_weibull_is_the_median():
    draws = [SESSION.draw(random) for random in [Random(1)] for _ in range(20_000)]
    assert SESSION.median == 3600
    assert median(draws) == pytest.approx(3600, rel=0.05)
    assert SESSION.shorter_than(3600) == pytest.approx(0.5)


def test_the_mean_is_that_of_the_draws():
    random = Random(2)
    draws = [SESSION.draw(random) for _ in range(100_000)]
    assert sum(draws) / len(draws) == pytest.approx(SESSION.mean, rel=0.03)


def test_a_node_met_at_random_stays_as_long_as_renewal_theory_says():
    # Mean residual life in equilibrium: E[X^2] / (2 E[X]) (Cox, Renewal Theory, 1962, section 5.2).
    second_moment = SESSION.scale**2 * math.gamma(1 + 2 / SESSION.shape)
    random = Random(3)
    residuals = [SESSION.residual(random) for _ in range(200_000)]
    assert sum(residuals) / len(residuals) == pytest.approx(second_moment / (2 * SESSION.mean), rel=0.03)


def test_an_exponential_session_has_no_memory():
    session = lifetimes.parse("exponential:30m")
    random = Random(4)
    residuals = [session.residual(random) for _ in range(100_000)]
    assert sum(residuals) / len(residuals) == pytest.approx(session.mean, rel=0.02)


@pytest.mark.parametrize("text", ["weibull:0.6", "weibull:0:1h", "weibull:0.6:-1h", "normal:1h", "fixed:", "fixed:nan"])
def test_what_is_no_distribution_says_how_to_write_one(text):
    with pytest.raises(ValueError, match="session"):
        lifetimes.parse(text)


def test_classes_keep_the_median_over_all_arrivals():
    population = Population(["home", "server"], SESSION)
    home, server = population.sessions["home"], population.sessions["server"]
    assert server.median == pytest.approx(4 * home.median)
    # Arrivals of a class: its share in the pool, divided by how long each stays.
    arrivals = {each.name: each.share / each.stay for each in population.classes}
    shorter = sum(arrivals[name] * population.sessions[name].shorter_than(3600) for name in arrivals)
    assert shorter / sum(arrivals.values()) == pytest.approx(0.5)


def test_an_unknown_class_names_those_there_are():
    with pytest.raises(ValueError, match="home, server"):
        Population(["laptop"], SESSION)
