"""Groups through crashes, losses and partitions: no history that one machine alone could not have."""

import pytest

from titan_simulations.consensus.engines import RAFT
from titan_simulations.consensus.runs import replay, summary
from titan_simulations.consensus.world import ConsensusConfig, Outcome, World

CONFIG = ConsensusConfig()
SHORT = ConsensusConfig(operations=200, fault_seconds=6.0)


def check(outcome: Outcome) -> None:
    assert outcome.violations == ()
    assert not outcome.stalled
    assert outcome.undecided == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_raft_through_everything_that_goes_wrong(seed):
    outcome = World(RAFT, seed, CONFIG).run()
    check(outcome)
    assert outcome.operations >= 1000
    assert sum(outcome.faults.values()) >= 10


def test_the_same_seed_tells_the_same_story(tmp_path):
    first, second = World(RAFT, 4, SHORT).run(), World(RAFT, 4, SHORT).run()
    assert first == second
    assert first.trace_hash != World(RAFT, 5, SHORT).run().trace_hash
    lines = replay("raft", 4, SHORT, tmp_path)
    assert lines == (tmp_path / "seed-4.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "titan-sim consensus --engine raft --seed 4 --operations 200 --transcript"
    assert any("is leader of term" in line for line in lines)


def test_members_are_replaced_under_load():
    outcome = World(RAFT, 12, CONFIG).run()
    check(outcome)
    assert outcome.epochs >= 3


def test_the_summary_counts_seeds():
    outcomes = [World(RAFT, seed, SHORT).run() for seed in (1, 2)]
    result = summary("raft", outcomes, SHORT, "titan-sim consensus")
    assert (result["seeds"], result["violations"], result["undecided"], result["stalled"]) == (2, 0, 0, 0)
    assert result["operations"] == sum(outcome.operations for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("decade", range(4))
def test_raft_through_many_seeds(decade):
    for seed in range(100 + 10 * decade, 110 + 10 * decade):
        check(World(RAFT, seed, CONFIG).run())
