"""The normal case: propose, vote, certificate, vote again, commit.

Malkhi and Nayak, "HotStuff-2" (2023): the steps within a view; Castro and Liskov, "Practical Byzantine Fault Tolerance"
(1999), section 4.2, for all-to-all votes and for what a faulty leader may not do.
"""

from collections import Counter

import pytest

from tests.unit.bft_cluster import GROUP, POOL, Cluster, name
from tests.unit.bft_scenes import Scene, the
from titan_overlay.mutable.bft import Bft
from titan_overlay.mutable.bft_blocks import COMMAND_OVERHEAD
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import Certificate, Equivocation, Phase, Proposal, Vote, decode_message
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.drive import STEP_BYTES_MAX
from titan_overlay.mutable.engine import (
    GENESIS,
    Accepted,
    Checkpoint,
    Configuration,
    EntryKind,
    LearnersChanged,
    Persisted,
    Proposed,
    ReadAsked,
    Received,
    Refused,
    SnapshotInstalled,
    TimerDue,
)
from titan_overlay.mutable.talk import Step
from titan_overlay.wire import codec


def test_a_request_is_executed_by_all_without_any_time_passing() -> None:
    """HotStuff-2, section 1: optimistic responsiveness. The group moves at the speed of its messages."""
    cluster = Cluster()
    cluster.submit(b"a")
    cluster.settle()
    assert cluster.orders() == [[b"a"]] * 4
    assert cluster.now == 0.0
    assert all(member.timer is None for member in cluster.honest.values()), "an idle group sleeps"


def test_a_block_takes_one_proposal_and_two_votes_of_each_member() -> None:
    """PBFT, section 4.2: all vote to all; the proposal is the leader's first vote."""
    cluster = Cluster()
    cluster.submit(b"a")
    cluster.settle()
    kinds = Counter(type(decode_message(raw)) for raw in cluster.seen)
    assert kinds == {Proposal: 3, Vote: 3 * 3 + 4 * 3}


def test_requests_that_wait_go_into_one_block() -> None:
    """PBFT, section 5.1.4: batching, while one block is under way."""
    cluster = Cluster()
    for number in range(50):
        cluster.submit(b"%d" % number)
    cluster.settle()
    assert cluster.orders() == [[b"%d" % number for number in range(50)]] * 4
    assert {entry.index for entry in cluster.agreed.values()} == set(range(1, 51))
    proposals = [decode_message(raw) for raw in cluster.seen]
    assert len({each.block.height for each in proposals if isinstance(each, Proposal)}) <= 2


def test_one_member_alone_agrees_with_itself() -> None:
    """n = 3t + 1 with t = 0."""
    cluster = Cluster(n=1)
    cluster.submit(b"a")
    cluster.settle()
    assert cluster.orders() == [[b"a"]]


@pytest.mark.parametrize("n", range(1, 32))
def test_any_two_quorums_have_an_honest_member_in_common_and_liars_cannot_block_one(n: int) -> None:
    """PBFT, section 2; also of groups that have other numbers than 3t + 1 after a recovery."""
    members = Configuration(0, tuple(name(number) for number in range(n)))
    committee = Committee(name(0), members, POOL, GROUP, bytes, lambda *_: True)
    assert committee.faults == (n - 1) // 3
    assert 2 * committee.quorum - n > committee.faults
    assert n - committee.faults >= committee.quorum
    if n % 3 == 1:
        assert committee.quorum == 2 * committee.faults + 1


def test_a_vote_leaves_after_the_block_and_the_vote_are_on_disk() -> None:
    """PBFT, section 4.2: a member logs what it accepts. Here to a disk, and first (R6)."""
    scene = Scene()
    scene.propose(1, b"a")
    assert not scene.bag, "the leader's proposal is its vote, and waits for its disk"
    scene.flush()
    scene.deliver(0)
    follower = scene.member(0)
    (ready,) = follower.unwritten
    (record,) = ready.persist
    assert isinstance(record, Proposal) and record.block == the(scene.proposed(1))
    assert {type(send.message) for send in ready.send_after_persist} == {Vote} and not ready.send_now


def test_the_second_vote_leaves_after_the_certificate_is_on_disk() -> None:
    """HotStuff-2: a party locks a certificate before it votes for it (R4)."""
    scene = Scene()
    scene.propose(1, b"a")
    scene.let(Proposal)
    follower = scene.member(0)
    while not any(isinstance(each, Certificate) for ready in follower.unwritten for each in ready.persist):
        position = next(each for each, post in enumerate(scene.bag) if post[1] == name(0))
        scene.deliver(position)
    (send, *_) = [send for ready in follower.unwritten for send in ready.send_after_persist]
    assert isinstance(send.message, Vote) and send.message.phase is Phase.SECOND


def test_own_votes_count_once_they_are_durable() -> None:
    """A certificate with a vote that the power may still take back would be no proof."""
    scene = Scene()
    scene.propose(1, b"a")
    scene.let(Proposal, to=0)
    scene.let(Proposal, to=2)
    block = the(scene.proposed(1))
    fresh = scene.member(3)
    scene.deliver(next(each for each, post in enumerate(scene.bag) if post[1] == name(3) and post[0] == name(1)))
    scene.deliver(next(each for each, post in enumerate(scene.bag) if post[:2] == (name(0), name(3))))
    assert fresh.engine._order.high.view == 0
    fresh.write()
    assert fresh.engine._order.high.block == block.digest()


def test_a_restart_between_the_votes_changes_nothing() -> None:
    """It is bound by its first vote, gives the same one again, and goes on to the second (R1, R6)."""
    scene = Scene(liars=[3])  # silent, so that the others need this member's votes
    scene.propose(1, b"a")
    scene.let(Proposal, to=0)
    member = scene.member(0)
    scene.bag = [post for post in scene.bag if name(0) not in post[:2]]
    member.crash()
    member.start()
    assert member.engine.view == 1 and member.timer is not None, "a block is under way"
    before = len(scene.seen)
    scene.run(1.0)
    votes = [decode_message(raw) for raw in scene.seen[before:]]
    mine = [vote for vote in votes if isinstance(vote, Vote) and vote.member == name(0)]
    assert {vote.block for vote in mine if vote.phase is Phase.FIRST} == {the(scene.proposed(1)).digest()}
    assert {vote.phase for vote in mine} == set(Phase)
    assert scene.orders() == [[b"a"]] * 3


def test_a_vote_is_of_one_pool_group_epoch_view_phase_and_block() -> None:
    """DESIGN 6: every vote signs all of them, so no old one can be used anew."""
    cluster = Cluster()
    me = name(0)
    notary = cluster.notary
    base = cluster.committee(me)
    vote = base.vote((1, 1), Phase.FIRST, b"b" * 32)
    assert base.is_vote(vote)
    others = [
        Committee(me, cluster.configuration, b"q" * 32, GROUP, notary.signer(me), notary.verify),
        Committee(me, cluster.configuration, POOL, b"h" * 32, notary.signer(me), notary.verify),
        cluster.committee(me, epoch=7),
    ]
    assert not any(other.is_vote(vote) for other in others)
    for changed in (
        Vote(2, 1, Phase.FIRST, vote.block, me, vote.signature),
        Vote(1, 2, Phase.FIRST, vote.block, me, vote.signature),
        Vote(1, 1, Phase.SECOND, vote.block, me, vote.signature),
        Vote(1, 1, Phase.FIRST, b"c" * 32, me, vote.signature),
        Vote(1, 1, Phase.FIRST, vote.block, name(1), vote.signature),
    ):
        assert not base.is_vote(changed)


@pytest.mark.parametrize("n", [4, 7, 10])
def test_each_member_checks_a_number_of_signatures_that_grows_with_n(n: int) -> None:
    """All vote to all, and certificates repeat what votes said: nothing is checked twice."""
    cluster = Cluster(n=n)
    checks: Counter[bytes] = Counter()
    for me, member in cluster.honest.items():

        def verify(*signed: bytes, me: bytes = me) -> bool:
            checks[me] += 1
            return cluster.notary.verify(*signed)

        member.engine.committee._verify = verify
    for number in range(5):
        cluster.submit(b"%d" % number)
        cluster.settle()
    assert 0 < min(checks.values()) <= max(checks.values()) <= 5 * 2 * n


def test_a_leader_that_says_two_things_is_caught() -> None:
    """PBFT, section 4.2: two proposals of one number in one view. Both are signed, so anybody can check the proof."""
    scene = Scene(liars=[1])
    origin = scene.signing[1].origin
    for data in (b"one", b"other"):
        scene.lie(1, scene.proposal(1, scene.block(1, origin, data)), 0, 2)
    scene.end()
    for number in (0, 2):
        (proof,) = scene.member(number).evidence
        assert isinstance(proof, Equivocation) and proof.epoch == 0
        third_party = scene.committee(name(9))
        assert third_party.is_vote(proof.first) and third_party.is_vote(proof.second)
        assert proof.first.rank == proof.second.rank and proof.first.block != proof.second.block
    member = scene.member(0)
    member.crash()
    member.start()
    assert list(member.engine.evidence) == [name(1)], "proofs are kept"


def test_nobody_is_caught_for_what_another_signed() -> None:
    """A false vote in a liar's name proves nothing, nor does one that a liar only claims another gave."""
    scene = Scene(liars=[3])
    scene.propose(1, b"a")
    scene.let(Proposal, to=0)
    block = the(scene.proposed(1))
    scene.lie(3, Vote(*block.rank, Phase.FIRST, b"x" * 32, name(1), b"s" * 64), 0)
    scene.end()
    assert not scene.member(0).evidence
    assert scene.member(0).engine.dropped == 1


def test_a_proposal_with_a_request_that_nobody_signed_gets_no_vote() -> None:
    """PBFT, section 4.2: requests are signed by clients. The leader is replaced for it."""
    scene = Scene(liars=[1])
    scene.lie(1, scene.proposal(1, scene.block(1, scene.signing[1].origin, b"invalid")), 0, 2, 3)
    scene.submit(b"a")
    scene.run(5.0)
    assert scene.orders() == [[b"a"]] * 3


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_block_that_could_not_be_handed_on_gets_no_vote(beyond: int) -> None:
    """Its leader sends it to two members alone and falls silent: the third could never be told what was ordered."""
    scene = Scene(liars=[1])
    data = bytes(BftSettings().block_bytes_bound - COMMAND_OVERHEAD + beyond)
    block = scene.block(1, scene.signing[1].origin, data)
    scene.lie(1, scene.proposal(1, block), 0, 2)
    scene.let(Proposal)
    scene.vote(1, block, 0, 2)
    scene.submit(b"a")
    scene.run(5.0)
    assert scene.orders() == [[data] * (1 - beyond) + [b"a"]] * 3
    ways = [Step(1, [decode_message(raw)], 0.0) for raw in scene.seen]
    assert all(len(codec.encode(each)) <= STEP_BYTES_MAX for each in ways)


def test_a_follower_says_who_leads() -> None:
    follower = Scene().member(0).engine
    ready = follower.step(Proposed(b"a", 7), 0.0)
    assert ready.refused == [Refused(7, name(1))]


def test_a_leader_that_is_full_says_so() -> None:
    scene = Scene()
    leader = scene.member(1).engine
    limit = scene.settings.queue_entries_max
    refused = [leader.step(Proposed(b"a", ref), 0.0).refused for ref in range(limit + 2)]
    assert not any(refused[:-1]), "one block is under way, the others wait"
    assert refused[-1] == [Refused(limit + 1, name(1))]


def test_a_leader_tells_where_a_proposal_stands() -> None:
    ready = Scene().member(1).engine.step(Proposed(b"a", 7), 0.0)
    assert ready.accepted == [Accepted(7, 1, 1)]


def test_a_read_names_the_height_that_was_executed() -> None:
    """PBFT, section 5.1.3: the client takes Q equal answers, of one height."""
    cluster = Cluster()
    cluster.submit(b"a")
    cluster.settle()
    for member in cluster.honest.values():
        (ready,) = member.engine.step(ReadAsked(3), 0.0).reads
        assert (ready.ref, ready.index) == (3, 1)


def test_nothing_is_executed_behind_the_stop_sign() -> None:
    """DESIGN 6: entries may follow RECONFIG in the log, but the epoch's final height is RECONFIG's."""
    scene = Scene()
    leader = scene.member(1)
    for ref, (kind, data) in enumerate(
        [(EntryKind.COMMANDS, b"a"), (EntryKind.RECONFIG, b"next"), (EntryKind.COMMANDS, b"late")], 1
    ):
        leader.step(Proposed(data, ref, kind))
    scene.end()
    for member in scene.honest.values():
        assert [(entry.kind, entry.data) for entry in member.order] == [
            (EntryKind.COMMANDS, b"a"),
            (EntryKind.RECONFIG, b"next"),
        ]
        status = member.engine.status()
        assert status.stopped and status.committed == 2 and member.timer is None
    ready = leader.engine.step(Proposed(b"later", 9), 0.0)
    assert [each.ref for each in ready.refused] == [9]


def test_who_missed_the_stop_sign_is_told() -> None:
    scene = Scene()
    late = scene.member(3)
    scene.submit(b"a", [name(3)])
    scene.member(1).step(Proposed(b"next", 1, EntryKind.RECONFIG))
    scene.settle(lose=lambda sender, to, raw: to == name(3))
    assert not late.order
    scene.run(5.0)
    assert [entry.kind for entry in late.order] == [EntryKind.RECONFIG]


def test_a_learner_gets_the_order_and_has_no_vote() -> None:
    """DESIGN 6: a learner catches up before it becomes a member."""
    cluster = Cluster()
    for number in range(3):
        cluster.submit(b"%d" % number)
        cluster.settle()
    learner = Bft(cluster.committee(name(9)), GENESIS, [], lambda *_: True)
    teacher = cluster.honest[name(0)].engine
    ready, now, order = learner.step(TimerDue(), 0.0), 0.0, []
    for _ in range(4):
        assert ready.timer is not None and not ready.send_after_persist
        now = ready.timer
        ready = learner.step(TimerDue(), now)
        for send in ready.send_now:
            assert not teacher.step(Received(name(9), send.message), now).send_now, "strangers get nothing"
        teacher.step(LearnersChanged((name(9),)), now)
        for send in ready.send_now:
            for reply in teacher.step(Received(name(9), send.message), now).send_now:
                ready = learner.step(Received(name(0), reply.message), now)
                order += [entry.data for entry in ready.committed]
                learner.step(Persisted(ready.number), now)
        teacher.step(LearnersChanged(()), now)
    assert order == [b"0", b"1", b"2"]
    assert learner.status().role == "learner"
    teacher.step(LearnersChanged((name(9),)), now)
    teacher.step(Received(name(9), learner._order.request()), now)
    assert teacher.status().peers[name(9)].acknowledged_index == 3, "whoever decides on members sees how far it is"


def test_a_learner_without_a_state_of_the_epoch_asks_for_the_first() -> None:
    """DESIGN 6: heights go on across epochs, so an engine may be behind before its first block."""
    cluster = Cluster(epoch=2)
    for member in cluster.honest.values():
        member.engine = Bft(member.engine.committee, Checkpoint(100, 0), [], lambda *_: True)
    engines, now = {me: member.engine for me, member in cluster.honest.items()}, 0.0
    waiting = [(name(1), engines[name(1)].step(Proposed(b"a", 1), now))]
    while waiting:
        me, ready = waiting.pop(0)
        for send in ready.send_now + ready.send_after_persist:
            waiting.append((send.to, engines[send.to].step(Received(me, send.message), now)))
        if ready.persist:
            waiting.append((me, engines[me].step(Persisted(ready.number), now)))
    assert {engine.status().committed for engine in engines.values()} == {101}
    learner = Bft(cluster.committee(name(9)), GENESIS, [], lambda *_: True)
    engines[name(0)].step(LearnersChanged((name(9),)), now)
    (reply,) = engines[name(0)].step(Received(name(9), learner._order.request()), now).send_now
    ready = learner.step(Received(name(0), reply.message), now)
    assert not ready.committed and ready.fetch is not None
    assert ready.fetch.checkpoint == Checkpoint(100, 0) and len(ready.fetch.sources) == 4
    assert not learner.step(SnapshotInstalled(Checkpoint(99, 0, b"r")), now).committed
    ready = learner.step(SnapshotInstalled(Checkpoint(100, 0, b"r")), now)
    assert [(entry.index, entry.data) for entry in ready.committed] == [(101, b"a")]
