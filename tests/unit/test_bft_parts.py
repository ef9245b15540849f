"""The parts of the byzantine engine by themselves: messages, signers, the queue, the tree of blocks."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.bft_cluster import Cluster, name
from titan_overlay.errors import BadMessage
from titan_overlay.mutable.bft_blocks import Blocks, Position, linked_blocks
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainRequest,
    Claim,
    Command,
    Phase,
    Signed,
    TimeoutCertificate,
    decode_message,
    decode_record,
)
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.bft_queue import Queue
from titan_overlay.mutable.engine import EntryKind, Proposed
from titan_overlay.wire import codec

# ---- messages ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_bad(raw: bytes) -> None:
    for decode in (decode_message, decode_record):
        with suppress(BadMessage):
            decode(raw)


@given(st.data())
def test_a_proposal_with_a_byte_changed_gets_no_vote(data: st.DataObject) -> None:
    cluster = Cluster()
    cluster.submit(b"a")
    cluster.flush()
    sender, to, raw = data.draw(st.sampled_from(cluster.bag))
    where = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:where] + bytes([raw[where] ^ data.draw(st.integers(1, 255))]) + raw[where + 1 :]
    try:
        cluster.honest[to].receive(sender, changed)
    except BadMessage:
        return
    assert not cluster.honest[to].unwritten


def test_everything_that_is_said_and_written_comes_back_from_its_bytes() -> None:
    cluster = Cluster()
    for number in range(9):
        cluster.submit(b"%d" % number)
        cluster.settle()
    for raw in cluster.seen:
        assert codec.encode(decode_message(raw)) == raw
    for member in cluster.honest.values():
        for raw in member.disk:
            assert codec.encode(decode_record(raw)) == raw


# ---- certificates --------------------------------------------------------------------------------------------


@pytest.fixture
def committees() -> list[Committee]:
    cluster = Cluster()
    return [cluster.committee(name(number)) for number in range(4)]


def certificate(committees: list[Committee], *members: int) -> Certificate:
    votes = [committees[number].vote((1, 1), Phase.FIRST, b"b" * 32) for number in members]
    return Certificate(1, 1, Phase.FIRST, b"b" * 32, tuple(Signed(each.member, each.signature) for each in votes))


def test_three_of_four_certify(committees: list[Committee]) -> None:
    assert committees[0].certifies(certificate(committees, 1, 2, 3))
    assert not committees[0].certifies(certificate(committees, 1, 2))


def test_one_vote_repeated_is_one_vote(committees: list[Committee]) -> None:
    assert not committees[0].certifies(certificate(committees, 1, 2, 2))


def test_a_certificate_is_of_what_was_voted_for(committees: list[Committee]) -> None:
    good = certificate(committees, 1, 2, 3)
    for changed in (
        replace(good, view=2),
        replace(good, height=2),
        replace(good, phase=Phase.SECOND),
        replace(good, block=b"c" * 32),
        replace(good, view=0),
        replace(good, signatures=(*good.signatures[:2], Signed(name(9), good.signatures[2].signature))),
    ):
        assert not committees[0].certifies(changed)


def test_the_origin_is_certified_without_votes_and_nothing_else_of_view_0_is(committees: list[Committee]) -> None:
    origin = committees[0].origin
    assert committees[1].certifies(origin)
    assert not committees[1].certifies(replace(origin, height=1))


def test_timeouts_of_three_members_end_a_view(committees: list[Committee]) -> None:
    origin = committees[0].origin
    said = [committee.timeout(5, origin) for committee in committees]
    claims = tuple(Claim(*each.high.rank, each.high.block, each.member, each.signature) for each in said)
    assert committees[0].ends(TimeoutCertificate(5, claims[:3]))
    assert not committees[0].ends(TimeoutCertificate(5, claims[:2]))
    assert not committees[0].ends(TimeoutCertificate(5, (claims[0], claims[1], claims[1])))
    assert not committees[0].ends(TimeoutCertificate(6, claims[:3]))
    raised = replace(claims[2], view=4)
    assert not committees[0].ends(TimeoutCertificate(5, (claims[0], claims[1], raised)))


def test_what_is_remembered_of_signatures_is_bounded(committees: list[Committee]) -> None:
    for number in range(2000):
        committees[0].is_vote(committees[1].vote((1, number), Phase.FIRST, b"b" * 32))
    assert len(committees[0]._seen) == 64 * 4


# ---- the queue -----------------------------------------------------------------------------------------------

SMALL = BftSettings(block_bytes_max=100, block_entries_max=3, queue_bytes_max=500, queue_entries_max=10)


def test_a_block_takes_what_fits_in_order() -> None:
    queue = Queue(SMALL)
    for ref in range(5):
        assert queue.offer(Proposed(b"x" * 40, ref))
    assert [[each.ref for each in queue.take()] for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_what_is_bigger_than_a_block_has_one_for_itself() -> None:
    queue = Queue(SMALL)
    queue.offer(Proposed(b"x" * 300, 0))
    queue.offer(Proposed(b"y", 1))
    assert [each.ref for each in queue.take()] == [0]
    assert [each.ref for each in queue.take()] == [1]


def test_nothing_stands_behind_a_stop_sign_in_its_block() -> None:
    queue = Queue(SMALL)
    queue.offer(Proposed(b"a", 0))
    queue.offer(Proposed(b"next", 1, EntryKind.RECONFIG))
    queue.offer(Proposed(b"b", 2))
    assert [each.ref for each in queue.take()] == [0, 1]


def test_a_full_queue_refuses() -> None:
    queue = Queue(SMALL)
    assert queue.offer(Proposed(b"x" * 500, 0)) and not queue.offer(Proposed(b"x", 1))
    queue.take()
    assert all(queue.offer(Proposed(b"", ref)) for ref in range(10)) and not queue.offer(Proposed(b"", 10))
    assert [each.ref for each in queue.clear()] == list(range(10)) and not queue.take()


# ---- the tree of blocks --------------------------------------------------------------------------------------

START = Position(0, 0, 0, b"o" * 32)
ORIGIN = Certificate(0, 0, Phase.SECOND, START.block, ())


def grown(parent: Block | None, view: int, data: bytes) -> Block:
    justify = ORIGIN if parent is None else Certificate(*parent.rank, Phase.FIRST, parent.digest(), ())
    first = 1 if parent is None else parent.last + 1
    return Block(view, justify.height + 1, first, justify, (Command(EntryKind.COMMANDS, data),))


def test_rivals_of_a_committed_block_go() -> None:
    blocks = Blocks(START)
    one, rival = grown(None, 1, b"one"), grown(None, 2, b"rival")
    child = grown(one, 1, b"child")
    for block in (one, rival, child):
        assert blocks.add(block.digest(), block)
    path = blocks.path(child.digest())
    assert path is not None and [block for _, block in path] == [one, child]
    blocks.commit(one.digest())
    assert blocks.undecided() == [child] and blocks.decided() == [one]
    assert blocks.path(rival.digest()) is None
    assert not blocks.add(rival.digest(), rival), "its height is decided"


def test_a_reply_goes_on_from_the_askers_tip_and_is_bounded() -> None:
    blocks, chain, parent = Blocks(START), [], None
    for number in range(6):
        parent = grown(parent, 1, b"%d" % number * 10)
        chain.append(parent)
        blocks.add(parent.digest(), parent)
    head = Certificate(*chain[-1].rank, Phase.FIRST, chain[-1].digest(), ())
    found, certificate = blocks.following(ChainRequest(0, chain[2].digest()), head, 1000)
    assert (found, certificate) == (chain[3:], head)
    found, certificate = blocks.following(ChainRequest(1, b"?" * 32), head, 60)
    assert (found, certificate) == (chain[1:3], chain[3].justify)
    found, certificate = blocks.following(ChainRequest(1, b"?" * 32), head, 1)
    assert found == chain[1:2], "one at least"
    linked = linked_blocks(found, certificate.block)
    assert linked == [(chain[1].digest(), chain[1])]
    assert linked_blocks(chain, chain[2].digest()) is None
