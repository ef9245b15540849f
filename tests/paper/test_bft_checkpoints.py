"""Checkpoints, what they allow to forget, and how who is far behind gets a state.

Castro and Liskov, "Practical Byzantine Fault Tolerance" (1999), section 4.3 (garbage collection), and Castro's thesis
(2001), section 5.3 (state transfer).
"""

import pytest
from msgspec.structs import replace

from tests.unit.bft_cluster import QUICK, Cluster, Member, name, root_of
from titan_overlay.errors import StorageError
from titan_overlay.mutable.bft_messages import Block, ChainReply, Diverged, Signed, StableCheckpoint
from titan_overlay.mutable.engine import GENESIS, Checkpoint, Entry, EntryKind, Send

EVERY = QUICK.checkpoint_blocks


def execute(cluster: Cluster, blocks: int, *, without: bytes | None = None) -> None:
    """One block after the other, with one request each."""
    for _ in range(blocks):
        cluster.refs += 1
        cluster.submit(b"%d" % cluster.refs, [me for me in cluster.honest if me != without])
        cluster.settle(lose=lambda sender, to, raw: to == without)


def far_behind(n: int = 4, liars: tuple[int, ...] = ()) -> tuple[Cluster, Member]:
    """A group, and a member of it that needs blocks that nobody has any more."""
    cluster = Cluster(n, liars)
    late = cluster.honest[name(3)]
    execute(cluster, 2 * EVERY, without=late.me)
    assert not late.order
    cluster.submit(b"wake", [late.me])
    return cluster, late


def test_members_sign_the_state_after_so_many_blocks() -> None:
    """PBFT, section 4.3: each multicasts a signed digest of its state; Q of them are proof."""
    cluster = Cluster()
    execute(cluster, EVERY)
    for member in cluster.honest.values():
        stable = member.engine._order.checkpoints.stable
        assert isinstance(stable, StableCheckpoint) and stable.height == EVERY
        assert stable.state == Checkpoint(EVERY, 1, root_of(member.order, EVERY))
        assert cluster.committee(name(9)).stabilises(stable)


def test_what_is_before_a_stable_checkpoint_is_forgotten() -> None:
    """PBFT, section 4.3."""
    cluster = Cluster()
    execute(cluster, EVERY - 1)
    before = [len(member.engine.image()) for member in cluster.honest.values()]
    execute(cluster, 2)
    assert all(after.engine.status().first == EVERY + 1 for after in cluster.honest.values())
    assert all(len(member.engine.image()) < old for member, old in zip(cluster.honest.values(), before, strict=True))


def test_no_block_is_forgotten_before_the_own_state_is_on_disk() -> None:
    """Others' signatures are no state of one's own."""
    cluster = Cluster()
    slow = cluster.honest[name(0)]
    slow.tells_states = False
    execute(cluster, EVERY + 1)
    assert slow.engine._order.checkpoints.agreed is not None
    assert [each.height for each in slow.engine.image() if isinstance(each, Block)] == list(range(1, EVERY + 2))


def test_fewer_than_q_signatures_make_nothing_stable() -> None:
    cluster = Cluster(liars=[3])
    liar = cluster.committee(name(3))
    target = cluster.honest[name(0)]
    state = Checkpoint(4, 1, b"r" * 32)
    for vote in (liar.checkpoint(4, b"b" * 32, state), replace(liar.checkpoint(4, b"b" * 32, state), member=name(2))):
        cluster.post(name(3), [Send(target.me, vote)])
    cluster.settle()
    assert target.engine._order.checkpoints.agreed is None
    assert target.engine.dropped == 1


def test_members_that_do_not_agree_on_a_state_stop_before_their_memory_is_full() -> None:
    """PBFT, section 4.2: the high water mark."""
    cluster = Cluster()
    for member in cluster.honest.values():
        member.tells_states = False
    execute(cluster, 2 * QUICK.window_blocks)
    assert {member.engine._order.committed for member in cluster.honest.values()} == {QUICK.window_blocks}


def test_a_member_whose_state_is_another_is_told_and_gets_the_agreed_one() -> None:
    """DESIGN 6: a non-deterministic handler is found and named, not silently split."""
    cluster = Cluster()
    odd = cluster.honest[name(0)]
    execute(cluster, EVERY - 1)
    odd.order[0] = Entry(1, 1, EntryKind.COMMANDS, b"a bit that fell over")
    execute(cluster, 2)
    (found,) = odd.evidence
    assert isinstance(found, Diverged)
    assert found.mine.index == found.agreed.state.index == EVERY
    assert found.mine.root != found.agreed.state.root
    others = [member.order for me, member in cluster.honest.items() if me != odd.me]
    cluster.run(2.0)
    assert odd.order == others[0], "the agreed state was fetched, and what follows it executed again"


def test_who_is_far_behind_fetches_a_state_and_goes_on_from_there() -> None:
    """Castro's thesis, section 5.3: blocks that are gone are not needed."""
    cluster, late = far_behind()
    cluster.run(5.0)
    assert [entry.index for entry in late.order] == list(range(1, len(late.order) + 1))
    assert late.order[: 2 * EVERY] == cluster.honest[name(0)].order[: 2 * EVERY]
    assert late.engine.status().first > 1
    execute(cluster, 1)
    assert len({len(member.order) for member in cluster.honest.values()}) == 1


def test_a_state_from_a_liar_is_refused() -> None:
    """Castro's thesis, section 5.3: what is fetched is checked against what Q have signed."""
    cluster, late = far_behind()
    cluster.flush()
    while late.me not in cluster.fetches:
        if not cluster.bag:
            cluster.pass_time()
        cluster.deliver(0)
        cluster.flush()
    fetch = cluster.fetches[late.me]
    assert set(fetch.sources) <= {name(0), name(1), name(2)} and len(fetch.sources) == 3
    cluster.serve(late.me, lie=True)
    assert not late.order and late.engine.dropped == 1
    cluster.run(5.0)
    assert late.order[: 2 * EVERY] == cluster.honest[name(0)].order[: 2 * EVERY]


def test_a_checkpoint_that_only_liars_signed_is_not_fetched() -> None:
    cluster = Cluster(liars=[3])
    liar = cluster.committee(name(3))
    vote = liar.checkpoint(400, b"b" * 32, Checkpoint(400, 1, b"r" * 32))
    signed = Signed(vote.member, vote.signature)
    forged = StableCheckpoint(400, b"b" * 32, vote.state, (signed, signed, signed))
    reply = ChainReply((), liar.origin, liar.origin, forged)
    target = cluster.honest[name(0)]
    cluster.post(name(3), [Send(target.me, reply)])
    cluster.settle()
    assert not cluster.fetches and target.engine.dropped == 1


def test_blocks_that_do_not_follow_from_a_certificate_are_refused() -> None:
    """A chain proves itself by the certificate of its last block and the hashes in between."""
    cluster, late = far_behind()
    execute(cluster, 2, without=late.me)
    teacher = cluster.honest[name(0)].engine
    reply = teacher._order.reply(late.engine._order.request())
    assert reply is not None and reply.blocks
    forged = replace(reply.blocks[0], first=7)
    for blocks in ((forged, *reply.blocks[1:]), reply.blocks[:-1]):
        dropped = late.engine.dropped
        cluster.post(name(0), [Send(late.me, replace(reply, blocks=blocks))])
        cluster.deliver(len(cluster.bag) - 1)
        assert late.engine.dropped == dropped + (blocks != ())


def test_a_log_that_begins_beyond_the_state_is_an_error() -> None:
    cluster = Cluster()
    execute(cluster, EVERY)
    member = cluster.honest[name(0)]
    with pytest.raises(StorageError, match="fetch it anew"):
        cluster.engine(member.me, GENESIS, member.engine.image())


def test_a_member_that_restarts_at_a_checkpoint_signs_its_state_again() -> None:
    """The others may not have heard it before the power failed."""
    cluster = Cluster()
    for member in cluster.honest.values():
        member.tells_states = False
    execute(cluster, EVERY)
    for member in cluster.honest.values():
        assert EVERY in member.snapshots
        member.crash()
        member.start()
    cluster.settle()
    assert all(member.engine.status().first == EVERY + 1 for member in cluster.honest.values())
