"""The log of a Raft member in memory: what nobody needs any more goes bit by bit."""

import pytest

from titan_overlay.mutable.engine import Entry, EntryKind
from titan_overlay.mutable.raft_log import LET_GO_BYTES, LET_GO_OVERHEAD, RaftLog


@pytest.mark.parametrize("size", [10, 60_000])
def test_entries_behind_a_snapshot_are_let_go_some_at_a_time(size: int) -> None:
    log, data = RaftLog(), bytes(size)
    log.append([Entry(index, 1, EntryKind.COMMANDS, data) for index in range(1, 10_001)])
    log.rebase(9_000, 1)
    assert len(log.gone) == 9_000 and [each.index for each in log.between(9_001, 10_000)] == list(range(9_001, 10_001))
    turns = 0
    while log.gone:
        before = len(log.gone)
        log.let_go()
        turns += 1
        assert (before - len(log.gone) - 1) * (size + LET_GO_OVERHEAD) < LET_GO_BYTES
    assert turns > 2


def test_a_log_that_is_none_of_the_leader_s_is_let_go_likewise() -> None:
    log = RaftLog()
    log.append([Entry(index, 1, EntryKind.COMMANDS, b"") for index in range(1, 101)])
    log.rebase(200, 2)
    assert len(log.gone) == 100 and (log.base, log.last) == (200, 200)
