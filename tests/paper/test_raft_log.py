"""Raft: the log. Sections are of Ongaro and Ousterhout 2014, chapters of Ongaro's thesis 2014."""

import pytest
from msgspec.msgpack import encode

from tests.paper.raft_group import Group, id_of
from titan_overlay.errors import StorageError
from titan_overlay.mutable.engine import (
    Checkpoint,
    Entry,
    EntryKind,
    Received,
    SnapshotInstalled,
    SnapshotTaken,
)
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    HardState,
    InstallSnapshot,
    LogBase,
    LogEntries,
    RequestVote,
    VoteReply,
)
from titan_overlay.mutable.raft_settings import RaftSettings


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    return Entry(index, term, EntryKind.COMMANDS, data)


def test_5_3_an_entry_is_committed_when_a_majority_has_it_on_disk():
    group = Group("ABCDE")
    group.elect("A")
    group.propose("A", b"x")
    group.deliver(lambda mail: mail[1] in "AB")
    assert group.datas("A") == []
    group.deliver(lambda mail: mail[1] in "AC")
    assert group.datas("A") == [b"x"]


def test_10_2_1_the_leaders_own_disk_works_in_parallel_and_counts_when_it_is_done():
    group = Group()
    group.elect("A")
    group.slow.add("A")
    group.propose("A", b"x")
    group.deliver(lambda mail: "C" not in mail[:2])
    assert group.datas("A") == []  # one other has it, the leader itself does not yet
    group.sync("A")
    assert group.datas("A") == [b"x"]


def test_10_2_1_a_quorum_of_others_will_do_where_the_leaders_disk_is_slow():
    group = Group()
    group.elect("A")
    group.slow.add("A")
    group.propose("A", b"x")
    group.deliver()
    assert group.datas("A") == [], "B alone is no quorum, and whoever else is needed is told a little later"
    group.spread("A")
    group.deliver()
    assert group.datas("A") == [b"x"]
    group.propose("A", b"y")
    group.deliver()
    assert group.datas("A") == [b"x", b"y"], "from then on both are told at once"


def test_who_is_not_needed_for_a_commit_hears_of_several_entries_together():
    group = Group()
    group.elect("A")
    for data in (b"x", b"y", b"z"):
        group.propose("A", data)
        group.deliver()
    assert group.datas("A") == [b"x", b"y", b"z"] and group.log("C") == group.log("A")[:1]
    group.story.clear()
    group.spread("A")
    group.deliver()
    assert group.log("C") == group.log("A")
    assert sum("A -> C" in line for line in group.story) == 1 and not any("A -> B" in line for line in group.story)


def test_who_was_not_needed_takes_the_place_of_one_that_is_silent():
    group = Group()
    group.elect("A")
    group.isolate("B")
    group.propose("A", b"x")
    group.deliver()
    assert group.datas("A") == []
    group.spread("A")
    group.deliver()
    assert group.datas("A") == [b"x"]
    group.propose("A", b"y")
    group.deliver()
    assert group.datas("A") == [b"x", b"y"] and group.log("C") == group.log("A"), "C is told at once from now on"
    group.heal()
    group.spread("A")
    group.heartbeat("A")
    group.deliver()
    assert group.log("B") == group.log("A")


def test_after_a_heartbeat_whoever_answers_first_is_told_first():
    group = Group()
    group.elect("A")
    group.heartbeat("A")
    group.deliver()
    group.propose("A", b"x")
    group.deliver(lambda mail: "B" not in mail)
    assert group.datas("A") == [b"x"]
    group.mail.clear()
    group.propose("A", b"y")
    group.deliver()
    assert group.datas("A") == [b"x", b"y"] and group.log("C") == group.log("A") != group.log("B")


def test_a_leader_is_not_woken_where_nothing_is_left_to_spread():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    group.spread("A")
    group.deliver()
    timer = group.timers["A"]
    assert timer is not None and timer > group.now + group.settings.spread_after


def test_5_3_a_follower_acknowledges_only_what_is_on_its_disk():
    group = Group()
    group.elect("A")
    group.slow.add("B")
    group.propose("A", b"x")
    group.deliver()
    group.heartbeat("A")
    group.deliver(lambda mail: mail[1] == "B")
    replies = [message for source, _, message in group.mail if source == "B"]
    assert replies
    assert all(isinstance(each, AppendReply) and each.match == 1 for each in replies)
    group.mail.clear()
    group.sync("B")
    assert [message.match for *_, message in group.mail] == [2]


def test_what_is_told_to_be_committed_along_with_entries_is_executed_once_those_are_on_disk():
    group = Group("AB")
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    group.slow.add("B")
    group.propose("A", b"y")
    group.deliver()
    assert group.datas("B") == [], "the leader waits for its disk, and nobody for what it executes"
    group.sync("B")
    assert group.datas("B") == [b"x"]


def test_5_3_an_append_that_came_twice_is_acknowledged_only_when_the_first_is_on_disk():
    group = Group()
    group.elect("A")
    group.slow.add("B")
    append = AppendEntries(1, 0, 1, 1, 1, [entry(2, 1, b"x")])
    group.receive("A", "B", append)
    group.receive("A", "B", append)
    assert not group.mail
    group.sync("B")
    assert [message.match for *_, message in group.mail] == [2, 2]


# Figure 7: a leader of term 8 with this log, and what followers may have.
LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def with_log(group: Group, name: str, terms: list[int], term: int) -> None:
    entries = [entry(index, each, b"%d/%d" % (index, each)) for index, each in enumerate(terms, 1)]
    group.durable[name] = [encode(HardState(term, None)), encode(LogEntries(entries))]
    group.start(name)


@pytest.mark.parametrize("case", FIGURE_7)
def test_figure_7_every_follower_comes_to_have_the_leaders_log(case):
    group = Group()
    with_log(group, "A", LEADER, 7)
    with_log(group, "B", [1], 7)
    with_log(group, "C", FIGURE_7[case], 7)
    group.cut = {("A", "C"), ("C", "A")}
    group.elect("A")
    group.heal()
    for _ in range(3):
        group.heartbeat("A")
        group.deliver()
    assert group.log("C") == group.log("A") == [*enumerate([*LEADER, 8], 1)]


def test_5_3_a_whole_term_is_skipped_at_once():
    """Where a follower has hundreds of entries of another term, the leader does not try each."""
    group = Group()
    with_log(group, "A", [1, *[3] * 300], 3)
    with_log(group, "B", [1, *[3] * 300], 3)
    with_log(group, "C", [1, *[2] * 300], 3)
    group.elect("A")
    rejections = [line for line in group.story if "C -> A  AppendRejected" in line]
    assert len(rejections) <= 3
    assert group.log("C") == group.log("A")


def test_5_3_an_old_append_does_not_shorten_the_log():
    """A late message whose entries are all there changes nothing, though the log goes on behind them."""
    group = Group()
    group.elect("A")
    for data in (b"x", b"y", b"z"):
        group.propose("A", data)
    group.deliver()
    before = group.log("B")
    group.receive("A", "B", AppendEntries(1, 0, 1, 1, 1, [entry(2, 1, b"x")]))
    assert group.log("B") == before


def test_5_4_2_figure_8_an_entry_of_an_old_term_is_not_committed_by_counting():
    """S1 to S5 of the figure are A to E. In (c) the entry of term 2 is at a majority, and yet (d) takes it away."""
    group = Group("ABCDE")
    # (a) A leads term 2 and has its entry at B only.
    for name in "ABCDE":
        with_log(group, name, [1, 2] if name in "AB" else [1], 2)
    # (b) A is gone; E leads term 3, with the votes of C and D, and has an entry of its own nowhere else.
    with_log(group, "E", [1, 3], 3)
    for name in "CD":
        with_log(group, name, [1], 3)
    # (c) E is gone; A is back, leads term 4, and brings the entry of term 2 to C: a majority has it.
    group.crash("E")
    group.cut = {("A", "D"), ("D", "A")}
    for _ in range(2):  # the first time it learns that term 3 was
        group.time_out("A")
        group.deliver(lambda mail: not isinstance(mail[2], AppendEntries))
    assert group.engines["A"].status().role == "leader"
    term = group.engines["A"].term
    group.mail.clear()
    for name in "BC":
        group.receive("A", name, AppendEntries(term, 0, 1, 1, 0, [entry(2, 2, b"2/2")]))
    group.deliver(lambda mail: isinstance(mail[2], AppendReply))
    assert group.log("C")[:2] == [(1, 1), (2, 2)]
    assert group.committed["A"] == []
    # (d) A is gone; E is back, wins with B, C and D, and overwrites it. Had it been committed, it would be lost.
    group.crash("A")
    group.start("E")
    group.mail.clear()
    group.heal()
    for name in "BCD":
        group.receive("E", name, RequestVote(term + 1, 2, 3))
    assert sum(isinstance(message, VoteReply) and message.granted for *_, message in group.mail) == 3


def test_5_4_2_figure_8_e_an_entry_of_the_leaders_own_term_commits_what_is_before_it():
    group = Group()
    with_log(group, "A", [1, 2], 2)
    with_log(group, "B", [1], 2)
    group.elect("A")
    assert [each.term for each in group.committed["A"]] == [1, 2, 3]


def test_5_4_3_what_is_committed_is_never_overwritten():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    dropped = group.engines["A"].dropped
    group.heartbeat("A")
    group.deliver()
    assert group.datas("B") == [b"x"]
    group.receive("C", "B", AppendEntries(9, 0, 1, 1, 2, [entry(2, 9, b"another")]))
    assert group.engines["B"].log.term_at(2) == 1
    assert group.engines["B"].dropped == dropped + 1


def test_10_2_appends_are_pipelined_within_a_window():
    settings = RaftSettings(appends_in_flight_max=3, append_bytes_max=1)
    group = Group(settings=settings)
    group.elect("A")
    for number in range(10):
        group.propose("A", b"%d" % number)
    to_b = [message for _, target, message in group.mail if target == "B"]
    assert [len(each.entries) for each in to_b] == [1, 1, 1]
    assert [each.prev_index for each in to_b] == [1, 2, 3]
    group.deliver()
    group.heartbeat("A")
    group.deliver()
    assert group.datas("B") == [b"%d" % number for number in range(10)]


def test_10_2_bytes_in_flight_are_bounded():
    group = Group(settings=RaftSettings(bytes_in_flight_max=1000))
    group.elect("A")
    for _ in range(10):
        group.propose("A", b"x" * 600)
    assert len([message for _, target, message in group.mail if target == "B"]) == 2


def test_entries_that_wait_for_the_window_go_together():
    group = Group(settings=RaftSettings(appends_in_flight_max=1))
    group.elect("A")
    for number in range(10):
        group.propose("A", b"%d" % number)
    group.deliver(lambda mail: mail[1] == "B")
    group.deliver(lambda mail: mail[1] == "A")
    assert len(next(mail for mail in group.mail if mail[1] == "B" and mail[2].entries)[2].entries) == 9


def test_a_lost_append_is_noticed_and_sent_again():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.mail.clear()
    group.heartbeat("A")
    group.deliver()
    assert group.datas("A") == [b"x"]


def test_a_leader_takes_no_more_than_its_bound_and_names_itself():
    group = Group(settings=RaftSettings(uncommitted_max=4))
    group.elect("A")
    group.isolate("A")
    for number in range(6):
        group.propose("A", b"%d" % number)
    assert len(group.accepted["A"]) == 4
    assert [refused.leader for refused in group.refused["A"]] == [id_of("A")] * 2


def test_a_follower_names_the_leader():
    group = Group()
    group.elect("A")
    group.propose("B", b"x")
    assert group.refused["B"][0].leader == id_of("A")


def test_messages_of_strangers_and_nonsense_are_dropped_and_counted():
    group = Group()
    group.elect("A")
    before = group.engines["A"].status()
    for sender, message in (
        ("Z", AppendEntries(9, 0, 0, 0, 0, [])),
        ("B", AppendReply(1, 99, 1)),
        ("B", AppendReply(1, 0, 99)),
        ("B", AppendEntries(1, 0, 0, 0, 0, [])),
        ("B", AppendRejected(1, 99, 1, 0, 0)),
    ):
        group.step("A", Received(id_of(sender), message))
    after = group.engines["A"].status()
    assert after.dropped == before.dropped + 5
    assert (after.role, after.term, after.last) == (before.role, before.term, before.last)
    group.step("B", Received(id_of("A"), AppendEntries(1, 0, 1, 1, 1, [entry(7, 1)])))
    assert group.engines["B"].status().dropped == 1


# ---- learners --------------------------------------------------------------------------------------------------


def test_4_2_1_a_learner_receives_everything_and_counts_for_nothing():
    group = Group("ABC", learners="L")
    group.elect("A")
    group.isolate("B")
    group.isolate("C")
    group.propose("A", b"x")
    group.spread("A")
    group.deliver()
    assert group.log("L")[-1] == (2, 1)
    assert group.datas("A") == []
    assert group.engines["A"].status().peers[id_of("L")].acknowledged_index == 2
    assert group.engines["L"].status().role == "learner"
    assert group.timers["L"] is None


# ---- states instead of entries (section 7) ---------------------------------------------------------------------

SHORT = RaftSettings(trailing_entries=0)


def compacted() -> Group:
    """C was away; what it lacks is no longer in the leader's log."""
    group = Group(settings=SHORT)
    group.elect("A")
    group.crash("C")
    for data in (b"x", b"y"):
        group.propose("A", data)
    group.deliver()
    group.step("A", SnapshotTaken(Checkpoint(3, 1, b"root")))
    assert group.engines["A"].log.base == 3
    group.start("C")
    group.heartbeat("A")
    group.deliver()
    return group


def test_7_a_follower_that_needs_entries_which_are_gone_is_told_to_fetch_a_state():
    group = compacted()
    assert group.fetch["C"].checkpoint == Checkpoint(3, 1, b"root")
    assert group.fetch["C"].sources == (id_of("A"),)


def test_7_until_it_has_the_state_it_is_told_again():
    group = compacted()
    group.fetch.clear()
    group.heartbeat("A")
    group.deliver()
    assert "C" in group.fetch


def test_7_with_the_state_it_goes_on_with_the_log():
    group = compacted()
    group.step("C", SnapshotInstalled(group.fetch["C"].checkpoint))
    group.propose("A", b"z")
    group.deliver()
    group.heartbeat("A")
    group.deliver()
    assert group.datas("C") == [b"z"]
    assert [each.index for each in group.committed["C"]] == [4]


def test_7_a_state_that_is_no_news_changes_nothing():
    group = compacted()
    group.step("B", SnapshotInstalled(Checkpoint(1, 1)))
    assert group.engines["B"].commit >= 2
    group.receive("A", "B", InstallSnapshot(1, 0, Checkpoint(1, 1)))
    assert "B" not in group.fetch


def test_7_entries_behind_the_state_stay():
    group = Group(settings=SHORT)
    group.elect("A")
    for data in (b"x", b"y", b"z"):
        group.propose("A", data)
    group.deliver(lambda mail: mail[1] == "B")
    assert group.engines["B"].commit == 1
    group.step("B", SnapshotInstalled(Checkpoint(3, 1)))
    assert group.log("B") == [(4, 1)]


def test_trailing_entries_spare_who_is_a_little_late_the_whole_state():
    group = Group(settings=RaftSettings(trailing_entries=10))
    group.elect("A")
    group.crash("C")
    for number in range(5):
        group.propose("A", b"%d" % number)
    group.deliver()
    group.step("A", SnapshotTaken(Checkpoint(6, 1)))
    group.start("C")
    group.heartbeat("A")
    group.deliver()
    assert "C" not in group.fetch
    assert group.log("C") == group.log("A")


def test_trailing_entries_that_are_large_are_fewer():
    """They are written anew with each snapshot: a thousand of them, each of 1 MiB, were more than a disk is given."""
    group = Group(settings=RaftSettings(trailing_entries=10, trailing_bytes_max=250))
    group.elect("A")
    for _ in range(5):
        group.propose("A", bytes(60))
    group.deliver()
    group.step("A", SnapshotTaken(Checkpoint(6, 1)))
    assert [index for index, _ in group.log("A")] == [5, 6]


# ---- the disk --------------------------------------------------------------------------------------------------


def test_a_member_comes_back_with_its_term_its_vote_and_its_log():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    before = (group.engines["B"].term, group.engines["B"].vote, group.log("B"))
    group.crash("B")
    group.start("B")
    assert (group.engines["B"].term, group.engines["B"].vote, group.log("B")) == before
    assert group.engines["B"].commit == 0


def test_an_image_is_worth_all_records_before_it():
    group = Group(settings=RaftSettings(trailing_entries=1, append_bytes_max=1))
    group.elect("A")
    for data in (b"x", b"y", b"z"):
        group.propose("A", data)
    group.deliver()
    group.step("A", SnapshotTaken(Checkpoint(3, 1)))
    before = (group.engines["A"].term, group.engines["A"].vote, group.log("A"))
    group.durable["A"] = [encode(record) for record in group.engines["A"].image()]
    group.start("A", Checkpoint(3, 1))
    assert (group.engines["A"].term, group.engines["A"].vote, group.log("A")) == before


def test_a_state_ahead_of_the_log_is_where_the_log_goes_on():
    """Executed and saved before one's own disk had the entries: a quorum of others had them."""
    group = Group()
    group.elect("A")
    group.crash("B")
    group.start("B", Checkpoint(7, 1))
    assert group.engines["B"].log.base == 7
    assert group.durable["B"][-1] == encode(LogBase(7, 1))


def test_records_with_a_gap_are_refused():
    group = Group()
    group.durable["B"] = [encode(LogEntries([entry(5, 1)]))]
    with pytest.raises(StorageError, match="lost records"):
        group.start("B")


def test_a_state_that_is_behind_the_log_is_refused():
    group = Group()
    group.durable["B"] = [encode(LogBase(9, 2))]
    with pytest.raises(StorageError, match="fetch the state anew"):
        group.start("B")


# ---- the stop sign ---------------------------------------------------------------------------------------------


def test_nothing_behind_the_stop_sign_is_executed():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.propose("A", b"too late")
    group.deliver()
    assert group.refused["A"][-1].leader == id_of("A")
    assert [each.data for each in group.committed["A"]] == [b"", b"x", b"next"]
    assert group.engines["A"].status().stopped


def test_a_new_leader_brings_the_stop_sign_to_everybody_and_stops():
    group = Group()
    group.elect("A")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.deliver(lambda mail: mail[1] == "B")
    group.crash("A")
    group.mail.clear()
    group.elect("B")
    for _ in range(3):
        group.heartbeat("B")
        group.deliver()
    for name in "BC":
        assert group.committed[name][-1].data == b"next"
        assert group.engines[name].status().stopped
    group.propose("B", b"too late")
    assert group.datas("B") == [b"next"]


def test_a_stop_sign_that_was_not_committed_can_be_overwritten():
    group = Group()
    group.elect("A")
    group.isolate("A")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.mail.clear()
    group.elect("B")
    group.propose("B", b"x")
    group.deliver()
    group.heal()
    for _ in range(3):
        group.heartbeat("B")
        group.deliver()
    assert group.log("A") == group.log("B")
    assert group.engines["A"].log.stop is None
    assert group.datas("A") == [b"x"]


def test_the_stop_sign_stays_in_the_log():
    """A member that has only the state behind it would not know that the epoch is over."""
    group = Group(settings=SHORT)
    group.elect("A")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.deliver()
    group.step("A", SnapshotTaken(Checkpoint(2, 1)))
    assert group.log("A") == [(1, 1), (2, 1)]
