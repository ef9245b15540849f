"""Raft: elections. Sections are of Ongaro and Ousterhout 2014, chapters of Ongaro's thesis 2014."""

from msgspec.msgpack import encode

from tests.paper.raft_group import Group, id_of
from titan_overlay.mutable.engine import PeerSilent, Received, TimerDue, TransferAsked
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    HardState,
    PreVote,
    PreVoteReply,
    RequestVote,
    Sleep,
    TimeoutNow,
    VoteReply,
)
from titan_overlay.mutable.raft_settings import RaftSettings


def sent(group: Group, kind: type) -> list[tuple[str, str]]:
    return [(source, target) for source, target, message in group.mail if isinstance(message, kind)]


def role(group: Group, name: str) -> str:
    return group.engines[name].status().role


def test_5_2_a_follower_that_hears_nothing_stands_and_a_majority_makes_it_leader():
    group = Group("ABCDE")
    group.time_out("A")
    group.deliver(lambda mail: mail[1] in "ABC")
    assert role(group, "A") == "leader"
    assert group.engines["A"].term == 1


def test_5_2_less_than_a_majority_makes_no_leader():
    group = Group("ABCDE")
    group.time_out("A")
    group.deliver(lambda mail: mail[1] in "AB")
    assert role(group, "A") == "candidate"


def test_5_2_a_member_votes_once_in_a_term():
    group = Group()
    group.receive("A", "C", RequestVote(1, 0, 0))
    group.receive("B", "C", RequestVote(1, 0, 0))
    group.receive("A", "C", RequestVote(1, 0, 0))
    granted = [(target, message.granted) for _, target, message in group.mail]
    assert granted == [("A", True), ("B", False), ("A", True)]


def test_5_2_a_vote_outlives_a_crash():
    group = Group()
    group.receive("A", "C", RequestVote(1, 0, 0))
    group.crash("C")
    group.start("C")
    group.mail.clear()
    group.receive("B", "C", RequestVote(1, 0, 0))
    assert [message.granted for *_, message in group.mail] == [False]


def test_5_2_a_vote_is_given_only_when_it_is_on_disk():
    group = Group()
    group.slow.add("C")
    group.receive("A", "C", RequestVote(1, 0, 0))
    assert not group.mail
    group.sync("C")
    assert group.mail == [("C", "A", VoteReply(1, True))]
    assert group.durable["C"] == [encode(HardState(1, None)), encode(HardState(1, id_of("A")))]


def test_5_2_a_candidates_own_vote_counts_only_when_it_is_on_disk():
    group = Group()
    group.slow.add("A")
    group.time_out("A")
    group.deliver()  # A stands, but the disk has not said so
    assert role(group, "A") == "candidate"
    group.step("A", Received(id_of("C"), VoteReply(1, True)))
    assert role(group, "A") == "candidate"
    group.sync("A")
    assert role(group, "A") == "leader"


def test_5_2_two_candidates_split_the_votes_and_one_wins_later():
    group = Group("ABCD")
    group.cut = {("A", "B"), ("B", "A")}
    group.time_out("A")
    group.deliver(lambda mail: not isinstance(mail[2], RequestVote))
    group.time_out("B")
    group.deliver(lambda mail: not isinstance(mail[2], RequestVote))
    group.mail = [mail for mail in group.mail if (mail[0], mail[1]) in (("A", "C"), ("B", "D"))]
    group.deliver()
    assert {role(group, name) for name in "AB"} == {"candidate"}
    assert group.engines["A"].term == group.engines["B"].term == 1
    group.heal()
    group.elect("A")
    assert group.engines["B"].leader == id_of("A")


def test_5_4_1_no_vote_for_a_log_that_is_behind():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver(lambda mail: "C" not in mail[:2])
    group.mail.clear()
    group.isolate("A")
    group.now += 9
    group.receive("C", "B", PreVote(2, 1, 1))
    group.receive("C", "B", RequestVote(2, 1, 1))
    assert [message.granted for *_, message in group.mail] == [False, False]
    group.receive("C", "B", RequestVote(3, 2, 1))
    assert group.mail[-1][2].granted


def test_who_is_asked_for_a_vote_by_one_that_lacks_entries_stands_itself():
    """And soon: it need not wait until its own time is over to see that nobody leads."""
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    group.crash("A")
    assert group.log("B")[-1] == (2, 1) and group.log("C")[-1] == (1, 1)
    group.time_out("C")
    group.deliver()
    assert role(group, "C") == "candidate"
    timer = group.timers["B"]
    assert timer is not None and timer <= group.now + group.settings.heartbeat
    group.now = timer
    group.step("B", TimerDue())
    group.deliver()
    assert role(group, "B") == "leader" and group.log("C") == group.log("B")


def test_who_hears_a_leader_does_not_stand_because_another_does():
    group = Group()
    group.elect("A")
    group.propose("A", b"x")
    group.deliver()
    before = group.timers["B"]
    group.receive("C", "B", PreVote(2, 1, 1))
    assert group.timers["B"] == before


def test_5_1_a_leader_of_the_past_steps_down_when_it_learns_of_a_later_term():
    group = Group()
    group.elect("A")
    group.isolate("A")
    group.elect("B")
    group.heal()
    group.mail = [("A", "C", AppendEntries(1, 0, 1, 1, 1, []))]
    group.deliver()
    assert role(group, "A") == "follower"
    assert group.engines["A"].term == group.engines["B"].term


def test_9_6_a_member_that_was_cut_off_does_not_unseat_a_leader():
    """Pre-vote: its term does not grow while it stands in vain, and nobody who hears a leader helps it."""
    group = Group()
    group.elect("A")
    group.isolate("C")
    for _ in range(40):
        group.heartbeat("A")
        group.step("C", TimerDue())
        group.deliver()
    assert role(group, "C") == "candidate"
    assert group.engines["C"].term == 1
    while not sent(group, PreVote):
        group.heartbeat("A")
        group.deliver()
        group.step("C", TimerDue())
    group.heal()
    group.deliver()
    group.heartbeat("A")
    group.deliver()
    assert role(group, "A") == "leader"
    assert {engine.term for engine in group.engines.values()} == {1}


def test_4_2_3_a_follower_that_hears_its_leader_does_not_help_another():
    group = Group()
    group.elect("A")
    group.receive("C", "B", PreVote(2, 9, 9))
    assert group.mail == [("B", "C", PreVoteReply(1, False))]


def test_6_2_a_leader_without_a_quorum_steps_down():
    group = Group()
    group.elect("A")
    group.isolate("A")
    for _ in range(7):
        if role(group, "A") == "leader":
            group.heartbeat("A")
    assert role(group, "A") == "follower"
    assert group.engines["A"].leader is None


def test_6_2_a_leader_that_hears_a_quorum_stays():
    group = Group()
    group.elect("A")
    group.isolate("C")
    for _ in range(30):
        group.heartbeat("A")
        group.deliver()
    assert role(group, "A") == "leader"


def test_3_10_a_leader_hands_over_when_its_successor_has_everything():
    group = Group()
    group.elect("A")
    group.isolate("B")
    group.propose("A", b"x")
    group.heal()
    group.step("A", TransferAsked(id_of("B")))
    assert not sent(group, TimeoutNow)
    group.propose("A", b"refused while handing over")
    assert group.refused["A"][-1].leader == id_of("A")
    group.heartbeat("A")
    group.deliver()
    assert role(group, "B") == "leader"
    assert role(group, "A") == "follower"
    assert group.datas("B") == [b"x"]


def test_3_10_a_transfer_that_fails_is_given_up():
    group = Group()
    group.elect("A")
    group.isolate("B")
    group.propose("A", b"x")
    group.deliver()
    group.step("A", TransferAsked(id_of("B")))
    for _ in range(6):
        group.heartbeat("A")
        group.deliver()
    group.propose("A", b"y")
    group.deliver()
    assert group.datas("A") == [b"x", b"y"]


def test_3_10_nobody_is_waited_for_who_does_not_keep_up():
    group = Group()
    group.isolate("B")
    group.elect("A")
    group.step("A", TransferAsked(id_of("B")))
    group.propose("A", b"x")
    group.deliver()
    assert role(group, "A") == "leader"
    assert group.datas("A") == [b"x"]


def test_a_single_member_leads_at_once():
    group = Group("A")
    group.step("A", TimerDue())
    assert role(group, "A") == "leader"
    group.propose("A", b"x")
    assert group.datas("A") == [b"x"]


# ---- sleep: no heartbeats where there is nothing to say ------------------------------------------------------------

SLEEPY = RaftSettings(sleep_after=1.0)


def asleep(group: Group) -> set[str]:
    return {name for name, engine in group.engines.items() if engine.asleep}


def put_to_sleep(group: Group) -> None:
    group.elect("A")
    for _ in range(15):
        if not group.engines["A"].asleep:
            group.heartbeat("A")
            group.deliver()


def test_a_group_that_agrees_on_everything_asks_for_no_timer():
    group = Group(settings=SLEEPY)
    put_to_sleep(group)
    assert asleep(group) == {"A", "B", "C"}
    assert set(group.timers.values()) == {None}


def test_a_request_wakes_the_group():
    group = Group(settings=SLEEPY)
    put_to_sleep(group)
    group.propose("A", b"x")
    group.deliver()
    assert asleep(group) == set()
    group.heartbeat("A")
    group.deliver()
    assert group.datas("B") == group.datas("C") == [b"x"]


def test_a_follower_that_missed_the_good_night_wakes_the_others_who_stay_with_their_leader():
    group = Group(settings=SLEEPY)
    group.elect("A")
    while not group.engines["A"].asleep:
        group.heartbeat("A")
        group.deliver(lambda mail: not (mail[1] == "C" and isinstance(mail[2], Sleep)))
    group.mail.clear()
    assert asleep(group) == {"A", "B"}
    group.time_out("C")
    group.deliver()
    assert role(group, "A") == "leader"
    assert asleep(group) == set()
    assert group.engines["C"].leader == id_of("A")


def test_sleepers_whose_leader_falls_silent_elect_another():
    group = Group(settings=SLEEPY)
    put_to_sleep(group)
    group.crash("A")
    for name in "BC":
        group.step(name, PeerSilent(id_of("A")))
    group.elect("B")


def test_sleepers_sleep_on_when_somebody_else_falls_silent():
    group = Group(settings=SLEEPY)
    put_to_sleep(group)
    group.step("B", PeerSilent(id_of("C")))
    assert asleep(group) == {"A", "B", "C"}
    assert not group.mail


def test_who_was_away_when_the_group_fell_asleep_catches_up_when_it_is_back():
    group = Group(settings=SLEEPY)
    group.elect("A")
    group.crash("C")
    group.propose("A", b"x")
    group.deliver()
    put = 0
    while not group.engines["A"].asleep:
        put += 1
        assert put < 30
        group.heartbeat("A")
        group.deliver()
    group.start("C")
    group.time_out("C")
    group.deliver()
    group.heartbeat("A")
    group.deliver()
    assert group.datas("C") == [b"x"]


def test_figure_2_a_heartbeat_is_answered_when_its_term_is_on_disk():
    group = Group()
    group.slow.add("C")
    group.receive("A", "C", AppendEntries(1, 1, 0, 0, 0, []))
    assert not group.mail
    group.sync("C")
    assert [(message.term, message.match) for *_, message in group.mail] == [(1, 0)]
    group.receive("A", "C", AppendEntries(1, 2, 0, 0, 0, []))
    assert len(group.mail) == 2, "the term is durable: later heartbeats wait for no disk"
