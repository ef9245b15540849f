"""Byzantine groups through crashes, losses, partitions and a liar: no history that one machine alone could not have."""

import pytest
from msgspec.structs import replace

from tests.sim.test_consensus import SHORT, check
from tests.unit import bft_mutants as mutants
from titan_simulations.consensus import engines
from titan_simulations.consensus.engines import BFT, EngineKind
from titan_simulations.consensus.world import World


@pytest.mark.parametrize("seed", [1, 3])
def test_bft_with_a_liar_through_everything_that_goes_wrong(seed):
    outcome = World(BFT, seed, SHORT).run()
    check(outcome)
    assert outcome.operations >= SHORT.operations


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("decade", range(4))
def test_bft_through_many_seeds(decade):
    for seed in range(100 + 10 * decade, 110 + 10 * decade):
        check(World(BFT, seed).run())


def caught(kind: EngineKind) -> int | None:
    return next((seed for seed in range(1, 30) if World(kind, seed, SHORT).run().violations), None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_members_that_count_t_votes_are_caught(monkeypatch: pytest.MonkeyPatch):
    """Mutants that only a liar with a plan gets at are caught by the scenes of `tests/paper/test_bft_safety.py`."""
    monkeypatch.setattr(engines, "Bft", mutants.CountsTVotes)
    assert caught(BFT) is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_clients_that_believe_one_member_are_caught():
    assert caught(replace(BFT, replies=1)) is not None
