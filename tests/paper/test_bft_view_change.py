"""Leaders that fail are replaced, and what was locked is carried on.

Gelashvili et al., "Jolteon and Ditto" (2022), section 3: timeouts carry the highest certificate, Q of them begin the
next view; the pacemaker of DiemBFT v4; Castro and Liskov, "Practical Byzantine Fault Tolerance" (1999), section 4.5.2,
for who joins a view change and how long a view lasts.
"""

import pytest

from tests.unit.bft_cluster import Cluster, name
from tests.unit.bft_scenes import Scene, the
from titan_overlay.mutable.bft_messages import (
    Certificate,
    GaveUp,
    Phase,
    Proposal,
    Timeout,
    TimeoutCertificate,
    Vote,
    decode_message,
)
from titan_overlay.mutable.bft_pacemaker import BftSettings, Pacemaker
from titan_overlay.mutable.engine import RequestsWait, TransferAsked


@pytest.mark.parametrize("n", [4, 7])
def test_silent_leaders_are_passed_over(n: int) -> None:
    """PBFT, section 4.5.2: t faulty leaders in a row at most, each for twice as long as the one before."""
    faults = (n - 1) // 3
    cluster = Cluster(n, range(1, 1 + faults))  # the leaders of the first t views
    cluster.submit(b"a")
    cluster.run(60.0)
    assert cluster.orders() == [[b"a"]] * (n - faults)
    assert {member.engine.view for member in cluster.honest.values()} == {1 + faults}
    assert max(entry.term for entry in cluster.agreed.values()) == 1 + faults


def test_a_leader_that_orders_others_requests_only_is_replaced() -> None:
    """PBFT, section 4.5.2: the timer is for the request that waits, not for the leader's diligence."""
    scene = Scene(liars=[1])
    origin = scene.signing[1].origin
    for number in (0, 2, 3):
        scene.member(number).pending[b"censored"] = None
        scene.member(number).ask()
    justify, first = origin, 1
    for step in range(30):
        block = scene.block(1, justify, b"favoured %d" % step, first)
        scene.lie(1, scene.proposal(1, block), 0, 2, 3)
        scene.vote(1, block, 0, 2, 3)
        scene.settle()
        if any(entry.data == b"censored" for entry in scene.member(0).order):
            break
        justify, first = scene.certificate(block), first + 1
        scene.now += 0.1
        scene.pass_time() if scene.member(0).timer and scene.member(0).timer <= scene.now else None
    assert 5 <= step < 29, "it leads while it has time, and no longer"
    assert [orders[-1] for orders in scene.orders()] == [b"censored"] * 3


def test_the_next_leader_extends_what_was_certified() -> None:
    """Jolteon, section 3: the first block of a view extends the highest certificate of Q timeouts."""
    scene = Scene()
    scene.propose(1, b"locked")
    scene.let(Proposal)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    locked = the(scene.proposed(1))
    assert scene.member(0).engine._order.high.block == locked.digest()
    scene.bag.clear()  # nobody else has a certificate, nobody has committed
    scene.give_up(0, 2, 3)
    scene.end()
    block = the(scene.proposed(2))
    assert block.justify.block == locked.digest()
    assert scene.orders() == [[b"locked"]] * 4


def test_a_stale_certificate_in_a_liars_timeout_takes_nothing_back() -> None:
    """Jolteon, section 3: of any Q timeouts one is of an honest member that has the lock of what was committed."""
    scene = Scene(liars=[3])
    scene.propose(1, b"committed")
    scene.let(Proposal, to=0)
    scene.let(Proposal, to=2)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    scene.let(Vote, phase=Phase.FIRST, to=1)
    scene.let(Vote, phase=Phase.FIRST, to=2)
    scene.let(Vote, phase=Phase.SECOND, to=1)
    assert [entry.data for entry in scene.member(1).order] == [b"committed"]
    scene.bag.clear()
    scene.lie(3, scene.signing[3].timeout(1, scene.signing[3].origin), 0, 2)
    scene.give_up(0, 2)
    scene.end()
    opening = [decode_message(raw) for raw in scene.seen]
    timeouts = next(each.timeouts for each in opening if isinstance(each, Proposal) and each.timeouts is not None)
    assert {claim.height for claim in timeouts.claims} == {0, 1}, "the liar's is among them"
    scene.run(5.0)
    assert scene.orders() == [[b"committed"]] * 3


def test_a_timeout_is_on_disk_before_it_is_told_and_binds_after_a_restart() -> None:
    """DESIGN 6: it is persisted, and forbids any later vote in views up to its own (R5)."""
    scene = Scene()
    scene.propose(1, b"late")
    member = scene.member(0)
    member.step(TransferAsked())  # not the leader: nothing
    assert not member.unwritten
    scene.flush()
    late = [post for post in scene.bag if post[1] == name(0)]
    scene.bag.clear()
    scene.give_up(0)
    assert [type(decode_message(raw)) for _, _, raw in scene.bag] == [Timeout] * 3
    member.crash()
    member.start()
    before = len(scene.seen)
    for sender, _, raw in late:
        member.receive(sender, raw)
    scene.flush()
    assert not any(isinstance(decode_message(raw), Vote) for raw in scene.seen[before:])
    assert member.engine.status().leader is None


def test_t_members_alone_end_no_view() -> None:
    """PBFT, section 4.5.2: t + 1 view changes are joined, since one is of an honest member; t are not."""
    scene = Scene()
    scene.give_up(0)
    scene.end()
    assert [member.engine.view for member in scene.honest.values()] == [1] * 4
    scene.give_up(2)
    scene.end()
    assert [member.engine.view for member in scene.honest.values()] == [2] * 4


def test_a_leader_that_wants_to_go_is_let_go_at_once() -> None:
    """Of its own reign a leader may dispose: its timeout is joined by everybody."""
    scene = Scene()
    scene.member(1).step(TransferAsked())
    scene.end()
    assert {member.engine.view for member in scene.honest.values()} == {2}
    assert scene.now == 0.0


def test_a_liar_cannot_hurry_the_others_through_views() -> None:
    scene = Scene(liars=[3])
    for view in (1, 5, 1000):
        scene.lie(3, scene.signing[3].timeout(view, scene.signing[3].origin), 0, 1, 2)
    scene.submit(b"a")
    scene.end()
    assert scene.orders() == [[b"a"]] * 3
    assert {member.engine.view for member in scene.honest.values()} == {1}


def test_who_is_behind_in_views_is_shown_why() -> None:
    """DiemBFT v4: messages carry what ended the last view, so that everybody is in one view before long."""
    scene = Scene(liars=[3])
    scene.give_up(1, 2)
    scene.lie(3, scene.signing[3].timeout(1, scene.signing[3].origin), 1, 2)
    scene.let(Timeout, to=1)
    scene.let(Timeout, to=2)
    scene.bag.clear()
    assert [scene.member(number).engine.view for number in (0, 1, 2)] == [1, 2, 2]
    scene.member(0).step(RequestsWait(True))
    scene.run(2.5)
    told = [decode_message(raw) for _, raw in zip(range(10**6), scene.seen, strict=False)]
    assert any(isinstance(each, TimeoutCertificate) for each in told)
    assert len({scene.member(number).engine.view for number in (0, 1, 2)}) == 1


def test_views_last_twice_as_long_each_until_something_is_committed() -> None:
    """PBFT, section 4.5.2, and DiemBFT v4."""
    pacemaker = Pacemaker(BftSettings(view=1.0, view_max=10.0))
    patience = []
    for _ in range(6):
        patience.append(pacemaker.patience)
        pacemaker.enter(0.0)
    assert patience == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    pacemaker.commit(0.0)
    assert pacemaker.patience == 1.0


def test_requests_that_a_replaced_leader_had_are_given_back() -> None:
    scene = Scene()
    scene.propose(1, b"first")
    scene.propose(1, b"second")  # waits for the first
    scene.flush()
    scene.bag.clear()
    ready = scene.member(1).engine.step(TransferAsked(), scene.now)
    assert [each.leader for each in ready.refused] == [name(2)]


def test_a_restart_keeps_what_was_given_up_and_certified() -> None:
    scene = Scene()
    scene.submit(b"a")
    scene.end()
    scene.give_up(0)
    member = scene.member(0)
    image = member.engine.image()
    assert GaveUp(1) in image and any(isinstance(each, Certificate) for each in image)
    member.compact()
    member.crash()
    member.start()
    assert member.engine.image() == image


def test_who_sleeps_in_a_view_that_it_has_given_up_tells_whoever_tries_to_end_it() -> None:
    """All but its leader gave the view up, and lost power before they heard of each other."""
    cluster = Cluster(4, ())
    cluster.submit(b"a", [name(0), name(2), name(3)])
    cluster.run(10.0, lose=lambda *_: True)
    for me in cluster.honest:
        cluster.honest[me].crash()
        cluster.honest[me].start()
    assert {member.engine.view for member in cluster.honest.values()} == {1}
    cluster.submit(b"b", [name(2)])  # nobody else knows of it; it leads the next view
    cluster.run(5.0)
    assert cluster.orders() == [[b"b"]] * 4
