"""Mistakes that people have made with Raft, made on purpose: each must be caught, or the checks are worth nothing.

By the simulation, within a few seeds; or by a directed test, where chance would need too many.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.paper import test_raft_elections, test_raft_log, test_raft_reads
from tests.paper.raft_explorer import explore
from titan_overlay.mutable.engine import ReadReady
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_follower import Follower
from titan_overlay.mutable.raft_leader import Leader
from titan_overlay.mutable.raft_messages import AppendEntries, HardState, ReadIndexReply
from titan_simulations.consensus.engines import RAFT
from titan_simulations.consensus.runs import replay
from titan_simulations.consensus.seat import Seat
from titan_simulations.consensus.store import Action, Request, Store, apply
from titan_simulations.consensus.world import ConsensusConfig, Outcome, World

SEEDS = 100


def read_here_and_now(self: Raft, ref: int) -> None:
    """Any member answers from what it has."""
    self.out.reads.append(ReadReady(ref, self.commit))


def read_without_asking(self: Leader, reader: tuple[bytes, int, int]) -> None:
    """A leader answers reads because it believes that it leads."""
    asker, nonce, ref = reader
    if asker == self.member.me:
        self.member.out.reads.append(ReadReady(ref, self.member.commit))
    else:
        self.member.send_now(asker, ReadIndexReply(self.member.term, nonce, ref, self.member.commit))


def truncate_always(
    self: Follower,
    leader: bytes,
    append: AppendEntries,
    original: Callable[[Follower, bytes, AppendEntries], None] = Follower.on_append,
) -> None:
    """Every append makes the log end where its entries end, or what is committed does."""
    member = self.member
    if member.log.holds(append.prev_index, append.prev_term):
        member.log.cut(max(append.prev_index, self.agreed) + 1)
    original(self, leader, append)


def acknowledge_before_fsync(self: Seat, ready: Any, original: Callable[[Seat, Any], None] = Seat._obey) -> None:
    """The shell sends everything at once."""
    ready.send_now += ready.send_after_persist
    ready.send_after_persist = []
    original(self, ready)


def count_own_log_before_fsync(self: Leader, original: Callable[[Leader], None] = Leader.advance_commit):
    """A leader counts itself for what it has in memory."""
    self.log.durable = self.log.last
    original(self)


def commit_by_counting_alone(self: Leader) -> None:
    """An entry at a quorum is committed, of whatever term it is (figure 8)."""
    member = self.member
    matches = sorted(
        self.log.durable if each == member.me else self.progress[each].match for each in member.configuration.members
    )
    member.commit_to(matches[-member.quorum])


def vote_without_persisting(self: Raft, term: int, vote: bytes | None) -> None:
    """The term is written, the vote is not."""
    self.term, self.vote = term, vote
    self.out.persist.append(HardState(term, None))


def execute_again(self: Store, request: Request) -> int | None:
    """No sessions: what comes twice is done twice."""
    self.values[request.key], reply = apply(self.values.get(request.key, 0), (request.action, request.value))
    if request.action is not Action.READ:
        self.done.append((request.client, request.sequence))
    return reply


def outcome_of(seed: int) -> Outcome:
    return World(RAFT, seed).run()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("owner", "method", "mutant"),
    [
        (Raft, "_read", read_here_and_now),
        (Leader, "read", read_without_asking),
        (Follower, "on_append", truncate_always),
        (Seat, "_obey", acknowledge_before_fsync),
        (Leader, "advance_commit", count_own_log_before_fsync),
        (Store, "execute", execute_again),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_simulation_catches_it(owner, method, mutant, monkeypatch, tmp_path):
    monkeypatch.setattr(owner, method, mutant)
    caught = next((seed for seed in range(SEEDS) if outcome_of(seed).violations), None)
    assert caught is not None, f"{mutant.__name__} went unnoticed in {SEEDS} seeds"
    told = replay("raft", caught, ConsensusConfig(), tmp_path)
    assert any(line.startswith("VIOLATION") for line in told), "the seed tells another story the second time"


@pytest.mark.parametrize(
    ("owner", "method", "mutant", "directed"),
    [
        (
            Leader,
            "advance_commit",
            commit_by_counting_alone,
            test_raft_log.test_5_4_2_figure_8_an_entry_of_an_old_term_is_not_committed_by_counting,
        ),
        (
            Raft,
            "begin_term",
            vote_without_persisting,
            test_raft_elections.test_5_2_a_vote_outlives_a_crash,
        ),
        (
            Leader,
            "read",
            read_without_asking,
            test_raft_reads.test_a_leader_that_was_replaced_answers_no_read,
        ),
        (Follower, "on_append", truncate_always, test_raft_log.test_5_3_an_old_append_does_not_shorten_the_log),
        (
            Leader,
            "advance_commit",
            count_own_log_before_fsync,
            test_raft_log.test_10_2_1_the_leaders_own_disk_works_in_parallel_and_counts_when_it_is_done,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_directed_test_catches_it(owner, method, mutant, directed, monkeypatch):
    directed()
    monkeypatch.setattr(owner, method, mutant)
    with pytest.raises(AssertionError):
        directed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "method", "mutant"),
    [(Follower, "on_append", truncate_always), (Leader, "advance_commit", count_own_log_before_fsync)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_random_walks_catch_it(owner, method, mutant, monkeypatch):
    monkeypatch.setattr(owner, method, mutant)
    with pytest.raises(AssertionError, match=r"leader completeness|election safety|state machine safety|log matching"):
        explore(3, range(100), 3000)
