"""The density of nodes: estimated whoever crowds around oneself, and tested for crowds around an object."""

from hashlib import sha256
from math import exp, log
from random import Random

import pytest

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay import density as rules
from titan_overlay.overlay.density import SAMPLES, SAMPLES_MIN, Density, crowd, nodes_from, poisson_tail
from titan_overlay.overlay.routing import RoutingTable

ME = sha256(b"me").digest()


def world(count: int, seed: int = 1) -> list[Contact]:
    random = Random(seed)
    return [Contact(NodeId(random.randbytes(32)), "10.0.0.1", n % 60000 + 1) for n in range(count)]


def closest(contacts: list[Contact], target: bytes, count: int) -> list[Contact]:
    wanted = int.from_bytes(target, "big")
    return sorted(contacts, key=lambda c: c.long_id ^ wanted)[:count]


def ground(target: bytes, count: int, bits: int = 14, seed: int = 9) -> list[Contact]:
    """Ids that share so many bits with the target."""
    random, wanted = Random(seed), int.from_bytes(target, "big")
    ids = [wanted ^ random.getrandbits(256 - bits) for _ in range(count)]
    return [Contact(NodeId(each.to_bytes(32, "big")), "10.6.6.6", n + 1) for n, each in enumerate(ids)]


def density_of(contacts: list[Contact], seed: int = 2, samples: int = SAMPLES) -> Density:
    table = RoutingTable(NodeId(ME), 20)
    for contact in contacts:
        table.add(contact, 0.0)
    density, random = Density(table), Random(seed)
    for _ in range(samples):
        target = random.randbytes(32)
        density.observe(target, closest(contacts, target, 8), 0.0)
    return density


@pytest.mark.parametrize("count", [3, 100, 1000, 4000])
def test_it_is_seen_from_lookups_of_random_ids(count: int) -> None:
    estimates = sorted(density_of(world(count), seed).nodes() for seed in range(21))
    assert estimates[10] == pytest.approx(count + 1, rel=0.25)


@pytest.mark.parametrize("count", [300, 1000, 3000])
def test_a_region_holds_about_as_many_nodes_as_were_wanted(count: int) -> None:
    contacts = world(count)
    expected = [count / 2 ** density_of(contacts, seed).region_bits(16) for seed in range(20)]
    assert all(6 <= each <= 45 for each in expected)
    assert 11 <= sorted(expected)[10] <= 24


def test_a_region_stays_as_large_as_it_is_where_the_estimate_wavers_between_two_sizes() -> None:
    density = density_of(world(1000))
    exact = log(density.nodes() / 16, 2)
    rounded = density.region_bits(16)
    other = rounded + (1 if exact > rounded else -1)
    assert density.region_bits(16, other) == (other if abs(exact - other) < rules.STICKY_BITS else rounded)
    assert density.region_bits(16, rounded) == rounded
    assert density.region_bits(16, rounded + 2) == density.region_bits(16, rounded - 2) == rounded


def test_ids_that_crowd_around_this_node_do_not_spoil_it() -> None:
    contacts = world(1000)
    crowded = density_of(contacts + ground(ME, 40))
    assert crowded._table.estimated_size() > 10_000, "the own neighbourhood alone would be led astray"
    assert crowded.nodes() == pytest.approx(1000, rel=0.5)


def test_lookups_that_ran_into_liars_do_not_spoil_it() -> None:
    density = density_of(world(1000))
    for number in range(3):
        target = sha256(b"%d" % number).digest()
        density.observe(target, closest(ground(target, 8), target, 8), 0.0)
    assert density.nodes() == pytest.approx(1000, rel=0.5)


def test_more_is_looked_up_while_there_are_few_samples_or_the_overlay_has_grown() -> None:
    assert density_of(world(100), samples=SAMPLES_MIN - 1).is_doubtful(0.0)
    density = density_of(world(100))
    assert not density.is_doubtful(1000.0)
    for contact in world(1000, seed=5):
        density._table.add(contact, 500.0)
    assert not density.is_doubtful(1000.0 + rules.FRESH_SECONDS), "not at once again"
    assert density.is_doubtful(1000.0 + rules.FRESH_SECONDS + 1)
    assert density.is_doubtful(1000.0 + rules.FRESH_SECONDS + 1), "until it fits"


def test_lookups_that_hardly_anybody_answered_say_nothing_of_the_pool() -> None:
    """This node knows more nodes than that: its network is away."""
    density = density_of(world(1000), samples=SAMPLES_MIN - 1)
    before = density.nodes()
    for number in range(SAMPLES):
        density.observe(sha256(b"%d" % number).digest(), world(2), 500.0)
    assert density.nodes() == before
    assert not density.is_doubtful(500.0 + rules.FRESH_SECONDS), "not at once again"
    assert density.is_doubtful(500.0 + rules.FRESH_SECONDS + 1)


def test_a_neighbourhood_that_was_always_dense_is_no_reason_to_look_again() -> None:
    density = density_of(world(1000) + ground(ME, 40))
    assert density._table.estimated_size() > 5 * density.nodes()
    assert not density.is_doubtful(10_000.0)


def test_few_nodes_are_counted() -> None:
    assert nodes_from(ME, world(5)) == 6.0
    assert density_of([]).nodes() == 1.0 and density_of([]).region_bits(16) == 0


# --- crowds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 16.0, 80.0])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 20, 60])
def test_the_tail_is_that_of_poisson(count: int, mean: float) -> None:
    term, below = exp(-mean), 0.0
    for i in range(count):
        below += term
        term *= mean / (i + 1)
    assert poisson_tail(count, mean) == pytest.approx(1.0 - below, abs=1e-12)


def test_an_honest_neighbourhood_is_probable() -> None:
    contacts = world(1000)
    tested = [crowd(t, closest(contacts, t, 20), 1000.0).probability for t in map(_target, range(300))]
    assert sum(p < 0.01 for p in tested) <= 6
    assert min(tested) > 1e-5


def test_twenty_ids_ground_next_to_an_object_are_beyond_chance() -> None:
    contacts = world(1000)
    for number in range(20):
        target = _target(number)
        crowded = crowd(target, closest(contacts + ground(target, 20), target, 20), 1000.0)
        assert crowded.probability < 1e-9
        assert crowded.gathered == 20 and crowded.expected < 1.0


def test_a_wrong_estimate_of_the_density_is_no_alarm() -> None:
    contacts = world(1000)
    tested = [crowd(t, closest(contacts, t, 20), 700.0).probability for t in map(_target, range(100))]
    assert min(tested) > 1e-6


def test_nobody_around_is_no_crowd() -> None:
    assert crowd(ME, [], 1000.0).probability == 1.0


def _target(number: int) -> bytes:
    return sha256(b"object %d" % number).digest()
