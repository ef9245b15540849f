"""Raft: reads that need no entry (Ongaro's thesis 2014, section 6.4)."""

from tests.paper.raft_group import Group
from titan_overlay.mutable.engine import EntryKind, ReadReady
from titan_overlay.mutable.raft_messages import AppendEntries, AppendReply, ReadIndexReply
from titan_overlay.mutable.raft_settings import RaftSettings


def test_a_leader_answers_a_read_when_a_quorum_still_follows_it():
    group = Group()
    group.elect("A")
    ref = group.read("A")
    assert group.reads["A"] == []
    group.deliver()
    assert group.reads["A"] == [ReadReady(ref, 1)]


def test_a_leader_that_was_replaced_answers_no_read():
    group = Group()
    group.elect("A")
    group.isolate("A")
    group.elect("B")
    group.propose("B", b"x")
    group.deliver()
    group.read("A")
    group.deliver()
    assert group.reads["A"] == []
    group.heal()
    group.heartbeat("B")
    group.deliver()
    assert group.reads["A"] == []
    assert len(group.refused["A"]) == 1


def test_an_answer_to_an_earlier_question_does_not_count():
    """A reply that was on its way before the read was asked says nothing about now."""
    group = Group()
    group.elect("A")
    group.heartbeat("A")
    group.deliver(lambda mail: mail[1] != "A")
    early = group.mail
    group.mail = []
    group.read("A")
    group.mail = early
    group.deliver(lambda mail: isinstance(mail[2], AppendReply))
    assert group.reads["A"] == []


def test_a_new_leader_answers_only_when_an_entry_of_its_own_term_is_committed():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    group.crash("A")
    group.time_out("B")
    group.deliver(lambda mail: not isinstance(mail[2], AppendEntries))
    assert group.engines["B"].status().role == "leader"
    assert group.engines["B"].commit < 2
    ref = group.read("B")
    group.deliver(lambda mail: not (isinstance(mail[2], AppendEntries) and mail[2].entries))
    assert group.reads["B"] == []
    group.heartbeat("B")
    group.deliver()
    group.heartbeat("B")
    group.deliver()
    assert group.reads["B"] == [ReadReady(ref, 3)]


def test_one_question_serves_all_reads_that_wait():
    group = Group()
    group.elect("A")
    for _ in range(10):
        group.read("A")
    assert len(group.mail) == 2
    group.deliver()
    assert len(group.reads["A"]) == 10


def test_a_read_may_be_asked_of_any_member():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    ref = group.read("C")
    group.deliver()
    assert group.reads["C"] == [ReadReady(ref, 2)]
    assert group.datas("C") == [b"x"]  # the answer also says what is committed


def test_an_answer_to_a_members_earlier_run_is_not_taken_for_one_to_this():
    group = Group()
    group.elect("A")
    group.read("C")
    group.deliver(lambda mail: not isinstance(mail[2], ReadIndexReply))
    group.crash("C")
    kept = group.mail
    group.start("C")
    group.mail = kept
    group.deliver()
    assert group.reads["C"] == []


def test_reads_are_bounded():
    group = Group(settings=RaftSettings(reads_max=3))
    group.elect("A")
    for _ in range(10):
        group.read("A")
    assert len(group.refused["A"]) == 6  # one is being asked about, three wait


def test_no_reads_where_the_epoch_is_over():
    group = Group()
    group.elect("A")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.deliver()
    group.read("A")
    group.deliver()
    assert group.reads["A"] == []
    assert len(group.refused["A"]) == 1
