"""What is counted about copies, whatever the nodes believe."""

import pytest

from titan_overlay.identity.ids import ObjectId
from titan_overlay.storage.rows import ReplicaRow
from titan_simulations.truth import PERIOD_DEATHS, Truth, WatchedDatabase

OBJECT = ObjectId(b"o" * 32)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def watched(clock: Clock, holders: int, min_copies: int = 3) -> Truth:
    truth = Truth(min_copies, clock)
    for node in range(holders):
        truth.gained(node, OBJECT, passing=False)
    truth.watch(OBJECT, "thing")
    truth.begin()
    return truth


def test_a_repair_is_timed_from_the_death_to_being_back(clock: Clock):
    truth = watched(clock, 3)
    clock.now = 10
    truth.died(0)
    clock.now = 52
    truth.gained(7, OBJECT, passing=False)
    assert truth.repair_seconds == [42]
    assert truth.deaths == 1
    clock.now = 100
    kept = truth.kept()
    assert kept.below_seconds == 42
    assert kept.replica_seconds == 3 * 100 - 42


def test_a_second_death_during_the_repair_makes_one_long_repair(clock: Clock):
    truth = watched(clock, 3)
    truth.died(0)
    clock.now = 30
    truth.died(1)
    clock.now = 40
    truth.gained(5, OBJECT, passing=False)
    clock.now = 70
    truth.gained(6, OBJECT, passing=False)
    assert truth.repair_seconds == [70]


def test_an_object_without_copies_is_lost_and_stays_below(clock: Clock):
    truth = watched(clock, 1, min_copies=1)
    clock.now = 5
    truth.died(0)
    clock.now = 15
    assert [each.name for each in truth.lost] == ["thing"]
    assert truth.kept().below_seconds == 10


def test_what_comes_after_the_end_of_a_run_changes_nothing_of_what_was_kept_in_it(clock: Clock):
    truth = watched(clock, 3)
    clock.now = 10
    truth.died(0)
    clock.now = 20
    kept = truth.kept()
    clock.now = 100
    truth.gained(7, OBJECT, passing=False)
    truth.died(1)
    assert (kept.replica_seconds, kept.below_seconds, kept.deaths) == (3 * 10 + 2 * 10, 10, 1)
    assert (kept.repair_seconds, kept.copies_made) == ((), 0)
    assert kept.death_rates == ((20, 1 / 50),)


def test_deaths_have_a_rate_for_each_part_of_the_time(clock: Clock):
    truth = watched(clock, 3 * PERIOD_DEATHS)
    for node in range(PERIOD_DEATHS):
        clock.now = 10.0
        truth.died(node)
    clock.now = 110.0
    truth.died(PERIOD_DEATHS)
    clock.now = 210.0
    (first, early), (second, late) = truth.death_rates()
    assert (first, second) == (10.0, 200.0)
    assert early == pytest.approx(1 / 30)  # a third of them, in ten seconds
    assert late == pytest.approx(1 / (200 * 100 + 199 * 100))


def test_a_passing_cache_is_no_copy(clock: Clock):
    truth = watched(clock, 3)
    truth.gained(8, OBJECT, passing=True)
    truth.died(0)
    assert truth.below == 1 and truth.passing == 1
    truth.gained(8, OBJECT, passing=False)
    assert truth.below == 0 and truth.passing == 0


def test_what_a_dead_node_writes_afterwards_is_not_believed(clock: Clock):
    truth = Truth(1, clock)
    database = WatchedDatabase(truth, 4)
    row = ReplicaRow(OBJECT, b"", since=0.0, expires=0.0)
    database.put_replica(row)
    database.put_replica(row)
    assert truth.copies == 1
    truth.died(4)
    database.drop_replica(OBJECT)
    database.put_replica(row)
    assert truth.copies == 0 and truth.copies_dropped == 0


def test_a_replica_that_is_given_up_is_no_death(clock: Clock):
    truth = Truth(1, clock)
    database = WatchedDatabase(truth, 4)
    database.put_replica(ReplicaRow(OBJECT, b"", since=0.0, expires=0.0))
    database.drop_replica(OBJECT)
    database.drop_replica(OBJECT)
    assert (truth.copies, truth.copies_dropped, truth.deaths) == (0, 1, 0)
