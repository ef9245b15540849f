"""Byzantine groups in random schedules: whatever happens in whatever order, honest members execute one order; and once
messages arrive, they get on, whatever the liars go on doing."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit import bft_mutants as mutants
from tests.unit.bft_explorer import Explorer
from titan_overlay.mutable.bft_messages import Diverged

VIEWS_TO_HEAL = 12
"""Among t + 1 leaders in a row one is honest; liars that know how cost a few views more."""


def check(explorer: Explorer) -> None:
    """No honest member was ever caught, and none was ever told that its state is wrong."""
    for member in explorer.cluster.honest.values():
        for proof in member.evidence:
            assert not isinstance(proof, Diverged)
            assert proof.first.member in explorer.liars


@pytest.mark.parametrize("n", [4, 7])
def test_honest_members_execute_one_order_and_get_on_in_the_end(n: int) -> None:
    executed = 0
    for seed in range(4):
        explorer = Explorer(seed, n)
        explorer.explore(1500)
        explorer.heal(views_max=VIEWS_TO_HEAL)
        check(explorer)
        executed += len(explorer.cluster.agreed)
    assert executed > 20


def test_the_same_seed_is_the_same_schedule() -> None:
    one, other = Explorer(5), Explorer(5)
    for explorer in (one, other):
        explorer.explore(800)
    assert one.cluster.seen == other.cluster.seen


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("n", "seeds"), [(4, range(1000, 1400)), (7, range(2000, 2120)), (10, range(3000, 3030))])
def test_many_schedules(n: int, seeds: range) -> None:
    for seed in seeds:
        explorer = Explorer(seed, n)
        explorer.explore(4000)
        explorer.heal(views_max=VIEWS_TO_HEAL)
        check(explorer)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("mutant", "seed"),
    [
        (mutants.CountsTVotes, 1),
        (mutants.OpensTwice, 1596),
        (mutants.NeedsNoTimeouts, 50),
        (mutants.VotesTwice, 55),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else str(each),
)
def test_a_random_schedule_catches_some_mutants_too(mutant, seed: int) -> None:
    """The others are caught by the scenes of `tests/paper/test_bft_safety.py`."""
    explorer = Explorer(seed, 4, engine=mutant)
    with pytest.raises(AssertionError, match="executed Entry"):
        explorer.explore(3000)


class Schedule(RuleBasedStateMachine):
    """hypothesis chooses what happens next, and shortens what goes wrong."""

    @initialize(seed=st.integers(0, 2**16), n=st.sampled_from([4, 7]))
    def begin(self, seed: int, n: int) -> None:
        self.explorer = Explorer(seed, n)

    @rule(times=st.integers(1, 60))
    def messages_arrive(self, times: int) -> None:
        for _ in range(times):
            self.explorer.deliver()
            self.explorer.write()
            self.explorer.tell()

    @rule(times=st.integers(1, 10))
    def messages_are_lost(self, times: int) -> None:
        for _ in range(times):
            self.explorer.lose()

    @rule()
    def a_message_arrives_twice(self) -> None:
        self.explorer.duplicate()

    @rule()
    def a_client_asks(self) -> None:
        self.explorer.submit()

    @rule()
    def time_passes(self) -> None:
        self.explorer.wait()

    @rule()
    def the_power_fails(self) -> None:
        self.explorer.crash()

    @rule()
    def a_member_comes_back(self) -> None:
        self.explorer.restart()

    @rule()
    def a_state_is_fetched(self) -> None:
        self.explorer.serve()

    @rule()
    def a_log_is_written_anew(self) -> None:
        self.explorer.compact()

    @precondition(lambda self: self.explorer.liars)
    @rule(times=st.integers(1, 8))
    def liars_act(self, times: int) -> None:
        for _ in range(times):
            self.explorer.lie()

    @invariant()
    def nobody_honest_is_caught(self) -> None:
        if hasattr(self, "explorer"):
            check(self.explorer)

    def teardown(self) -> None:
        if hasattr(self, "explorer"):
            self.explorer.heal(views_max=VIEWS_TO_HEAL)


TestSchedule = Schedule.TestCase
TestSchedule.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
