"""Two nodes show each other what they hold."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.village import POOL, describe
from titan_overlay.errors import BadMessage
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact, pack_address
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.statements import Content, Policy
from titan_overlay.pool.keeping import probe_bodies, probes, proofs
from titan_overlay.pool.keeping.lifecycle import Pace, Standing
from titan_overlay.pool.keeping.probe_bodies import Member, Reply, Request
from titan_overlay.pool.keeping.probes import AskSoon, Buried, Changed, Conversation, Newer, Sample, Unproven
from titan_overlay.pool.keeping.roster import PARTNERS_MAX, SHORT_BYTES, Replica, Roster
from titan_overlay.wire import codec

NOW = 1000.0
EPOCH = 7


def who(number: int) -> Contact:
    return Contact(NodeId(sha256(b"node %d" % number).digest()), f"10.0.0.{number}", 4747)


class Side:
    """One node with its replicas."""

    def __init__(self, number: int) -> None:
        self.contact = who(number)
        self.roster = Roster(self.contact.id, Pace())
        self.talk = Conversation(self.roster)

    def holds(self, name: str, *, data: bool = False, version: int = 1, expires: float | None = None) -> Replica:
        descriptor = describe(name, Policy(ttl=1000.0 if expires else 0.0), 0.0, data=data, version=version)
        replica = Replica(names.object_id(POOL, descriptor.value.name), descriptor, self.contact.id, Pace(), NOW)
        if expires is not None:
            replica.expires = expires
        self.roster.add(replica)
        return replica

    def knows(self, other: "Side", *replicas: Replica) -> None:
        for replica in replicas:
            self.roster.claim(replica, other.contact)

    def counts(self, replica: Replica) -> list[NodeId]:
        return [each for each, partner in replica.partners.items() if partner.standing is Standing.PROVEN]

    def effects(self) -> list[probes.Effect]:
        found, self.talk.effects = self.talk.effects, []
        return found


def exchange(a: Side, b: Side, *, leaving: bool = False, epoch: int = EPOCH, now: float = NOW) -> tuple[int, int]:
    """One probe of `a` to `b`; bytes there and back."""
    peer = a.roster.peers[b.contact.id]
    asked = a.talk.ask(peer, list(a.roster.shared_with(peer)), b"12345678", epoch, now, leaving=leaving)
    reply = b.talk.answer(a.contact, asked.body, epoch, now)
    a.talk.absorb(b.contact, asked, reply, now)
    return len(asked.body), len(reply)


def pair(name: str = "thing", **more: bool) -> tuple[Side, Replica, Side, Replica]:
    a, b = Side(1), Side(2)
    mine, theirs = a.holds(name, **more), b.holds(name, **more)
    a.knows(b, mine)
    return a, mine, b, theirs


# ---- proofs --------------------------------------------------------------------------------------------------


def test_one_exchange_proves_both_sides() -> None:
    a, mine, b, theirs = pair()
    exchange(a, b)
    assert a.counts(mine) == [b.contact.id]
    assert b.counts(theirs) == [a.contact.id]
    assert Changed(mine.object_id) in a.effects()
    assert Changed(theirs.object_id) in b.effects()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8))
def test_a_proof_is_good_for_one_nonce_one_prover_one_verifier(digest: bytes, nonce: bytes) -> None:
    a, b, c = who(1).id, who(2).id, who(3).id
    shown = proofs.proof(digest, nonce, a, b)
    assert shown != proofs.proof(digest, nonce, b, a)
    assert shown != proofs.proof(digest, nonce, a, c)
    assert shown != proofs.proof(digest, bytes(8) if any(nonce) else b"x" * 8, a, b)


def test_whoever_answers_without_the_content_does_not_count() -> None:
    a, mine, b, _ = pair()
    peer = a.roster.peers[b.contact.id]
    asked = a.talk.ask(peer, [mine], b"12345678", EPOCH, NOW)
    lie = codec.encode(Reply(bytes([probe_bodies.HELD]) + b"whatever"))
    a.talk.absorb(b.contact, asked, lie, NOW)
    assert a.counts(mine) == [] and a.talk.wrong_proofs == 1
    assert Unproven(mine.object_id, b.contact) in a.effects(), "it will be remembered"


def test_a_proof_of_data_waits_for_the_sample_to_be_read() -> None:
    a, mine, b, theirs = pair(data=True)
    exchange(a, b)
    assert Sample(mine.object_id, EPOCH) in a.effects() and Sample(mine.object_id, EPOCH) in b.effects()
    assert a.counts(mine) == [] and b.contact.id in mine.partners, "it is neither counted nor given up"
    for replica in (mine, theirs):
        replica.digests[EPOCH] = proofs.sample_digest(replica.object_id, EPOCH, b"a chunk")
    exchange(a, b)
    assert a.counts(mine) == [b.contact.id] and b.counts(theirs) == [a.contact.id]


def test_a_new_epoch_interrupts_nothing() -> None:
    a, mine, b, theirs = pair(data=True)
    for replica in (mine, theirs):
        replica.digests[EPOCH] = proofs.sample_digest(replica.object_id, EPOCH, b"a chunk")
    exchange(a, b)
    exchange(a, b, epoch=EPOCH + 1)
    assert mine.partners[b.contact.id].standing is Standing.PROVEN
    assert Sample(mine.object_id, EPOCH + 1) in a.effects()


def test_other_bytes_do_not_count() -> None:
    a, mine, b, theirs = pair(data=True)
    mine.digests[EPOCH] = proofs.sample_digest(mine.object_id, EPOCH, b"a chunk")
    theirs.digests[EPOCH] = proofs.sample_digest(mine.object_id, EPOCH, b"a rotten chunk")
    exchange(a, b)
    assert a.counts(mine) == [] and b.counts(theirs) == []


@given(st.integers(0, 2**40), st.integers(0, 10**7), st.sampled_from([1, 1000, 262144]))
def test_every_epoch_draws_a_chunk_that_exists(epoch: int, size: int, chunk_bytes: int) -> None:
    index = proofs.sample_index(ObjectId(bytes(32)), epoch, Content(size, chunk_bytes, bytes(32)))
    assert 0 <= index < max(1, -(-size // chunk_bytes))


def test_all_chunks_are_drawn_some_day() -> None:
    content = Content(10_000, 1000, bytes(32))
    assert {proofs.sample_index(ObjectId(bytes(32)), epoch, content) for epoch in range(200)} == set(range(10))


# ---- what the other side may say -----------------------------------------------------------------------------


def test_who_holds_it_no_longer_says_so() -> None:
    a, mine, b, theirs = pair()
    exchange(a, b)
    b.roster.remove(theirs.object_id)
    exchange(a, b)
    assert not mine.partners and b.contact.id in mine.lost


def test_who_is_near_its_end_says_so() -> None:
    a, b = Side(1), Side(2)
    mine, theirs = a.holds("thing", expires=NOW + 50), b.holds("thing", expires=NOW + 5000)
    a.knows(b, mine)
    exchange(a, b)
    assert theirs.partners[a.contact.id].ends_soon and not mine.partners[b.contact.id].ends_soon


def test_a_passing_cache_is_no_holder() -> None:
    a, mine, b, theirs = pair()
    theirs.passing = True
    exchange(a, b)
    assert not mine.partners


def test_who_leaves_is_not_waited_for() -> None:
    a, _, b, theirs = pair()
    exchange(a, b)
    exchange(a, b, leaving=True)
    assert not theirs.partners


def test_a_deleted_object_is_said_to_be() -> None:
    a, mine, b, theirs = pair()
    b.roster.remove(theirs.object_id)
    b.talk.buried[theirs.object_id[:8]] = theirs.object_id
    exchange(a, b)
    assert Buried(mine.object_id, b.contact) in a.effects()


def test_the_holder_of_an_old_version_hears_of_the_new_one() -> None:
    a, b = Side(1), Side(2)
    new, old = a.holds("thing", version=2), b.holds("thing", version=1)
    a.knows(b, new)
    exchange(a, b)
    assert new.partners[b.contact.id].standing is Standing.ARRIVING, "it is expected to take the new one"
    assert AskSoon(a.contact.id) in b.effects()
    exchange(b, a)
    assert Newer(old.object_id, a.contact, 2) in b.effects()
    exchange(a, b, now=NOW + probes.UPGRADE_SECONDS)
    assert not new.partners, "but not for ever"


# ---- who else --------------------------------------------------------------------------------------------------


def test_equal_views_exchange_no_lists() -> None:
    a, _, b, _ = pair()
    exchange(a, b)
    exchange(b, a)
    there, back = exchange(a, b)
    assert there < 45 and back < 20


def test_a_holder_that_one_side_knows_is_asked_by_the_other() -> None:
    a, mine, b, theirs = pair()
    exchange(a, b)
    a.effects()
    b.roster.prove(theirs, who(3), NOW, ends_soon=False)
    exchange(a, b)
    assert AskSoon(who(3).id) in a.effects()
    assert mine.partners[who(3).id].standing is Standing.CLAIMED, "what others say does not count"
    assert mine.partners[who(3).id].peer.contact == who(3)


def test_the_one_who_asks_tells_what_it_knows_with_the_next_probe() -> None:
    a, mine, b, theirs = pair()
    a.roster.prove(mine, who(3), NOW, ends_soon=False)
    exchange(a, b)
    assert AskSoon(b.contact.id) in a.effects()
    exchange(a, b)
    assert theirs.partners[who(3).id].standing is Standing.CLAIMED


def test_a_lasting_difference_is_not_told_again_and_again() -> None:
    a, mine, b, theirs = pair()
    exchange(a, b)
    a.roster.prove(mine, who(3), NOW, ends_soon=False)
    for _ in range(4):
        exchange(a, b)
        b.roster.lose(theirs, who(3).id, NOW)  # b cannot reach it, and stays with that
    there, back = exchange(a, b)
    assert there < 45 and back < 20


def test_a_holder_that_is_gone_for_one_side_is_doubted_by_the_other() -> None:
    a, mine, b, theirs = pair()
    a.roster.prove(mine, who(3), NOW - 20, ends_soon=False)
    b.roster.prove(theirs, who(3), NOW - 20, ends_soon=False)
    exchange(a, b)
    b.roster.lose(theirs, who(3).id, NOW)
    a.effects()
    exchange(a, b)
    assert mine.partners[who(3).id].peer.misses == 1 and AskSoon(who(3).id) in a.effects()


# ---- size and rubbish ----------------------------------------------------------------------------------------


def test_a_full_batch_with_long_lists_fits_in_a_datagram() -> None:
    a, b = Side(1), Side(2)
    for number in range(probe_bodies.ENTRIES_MAX):
        mine, theirs = a.holds(f"thing {number}"), b.holds(f"thing {number}")
        a.knows(b, mine)
        for stranger in range(3, 40):
            a.roster.prove(mine, who(stranger), NOW, ends_soon=False)
            b.roster.prove(theirs, who(stranger + 40), NOW, ends_soon=False)
    for _ in range(3):
        there, back = exchange(a, b)
        assert there <= probe_bodies.BODY_BYTES_MAX and back <= probe_bodies.BODY_BYTES_MAX


def test_forty_objects_cost_thirty_bytes_each() -> None:
    a, b = Side(1), Side(2)
    for number in range(40):
        mine = a.holds(f"thing {number}")
        b.holds(f"thing {number}")
        a.knows(b, mine)
    for _ in range(3):
        sizes = exchange(a, b)
    assert sum(sizes) <= 40 * 30 + 40


@given(st.binary(max_size=1200))
def test_rubbish_is_refused_and_changes_nothing(rubbish: bytes) -> None:
    a, mine, b, theirs = pair()
    with pytest.raises(BadMessage):
        b.talk.answer(a.contact, rubbish, EPOCH, NOW)
    asked = a.talk.ask(a.roster.peers[b.contact.id], [mine], b"12345678", EPOCH, NOW)
    with pytest.raises(BadMessage):
        a.talk.absorb(b.contact, asked, rubbish, NOW)
    assert not theirs.partners


@settings(max_examples=300)
@given(
    epoch=st.integers(-(2**63), 2**63 - 1),
    entries=st.binary(max_size=100) | st.binary(min_size=13, max_size=13),
    listings=st.lists(
        st.tuples(
            st.integers(-5, 50),
            st.lists(
                st.tuples(st.binary(max_size=40), st.text(max_size=80), st.integers(), st.integers(-9, 9)), max_size=20
            ),
        ),
        max_size=5,
    ),
)
def test_any_well_formed_probe_is_answered_or_refused(
    epoch: int, entries: bytes, listings: list[tuple[int, list[tuple[bytes, str, int, int]]]]
) -> None:
    a, _, b, theirs = pair()
    if len(entries) == 13:
        entries = theirs.object_id[:8] + entries
    body = codec.encode([epoch, b"12345678", entries, _encodable(listings)])
    try:
        reply = b.talk.answer(a.contact, body, EPOCH, NOW)
    except BadMessage:
        return
    assert len(codec.decode(reply, Reply).answers) == probe_bodies.ANSWER_BYTES * (
        len(entries) // probe_bodies.ENTRY_BYTES
    )
    assert not b.counts(theirs), "only a proof counts"


def _encodable(listings: list[tuple[int, list[tuple[bytes, str, int, int]]]]) -> list[object]:
    return [
        [index, [[id, host, port % 2**63, state] for id, host, port, state in members]] for index, members in listings
    ]


def test_the_empty_request_is_a_probe_too() -> None:
    b = Side(2)
    assert codec.decode(b.talk.answer(who(1), codec.encode(Request(0, bytes(8), b"")), 0, NOW), Reply).answers == b""


def test_probes_of_any_number_of_strangers_leave_little_behind() -> None:
    here = Side(1)
    replica = here.holds("thing")
    entry = replica.object_id[:SHORT_BYTES] + probe_bodies.NO_PROOF + bytes(4) + bytes([probe_bodies.UNREADY])
    body = codec.encode(Request(EPOCH, bytes(8), entry))
    for number in range(1000):
        stranger = Contact(NodeId(sha256(b"stranger %d" % number).digest()), "10.9.9.9", 4747)
        here.talk.answer(stranger, body, EPOCH, NOW)
    assert len(replica.told) <= PARTNERS_MAX


def test_strangers_that_hold_nothing_and_know_better_leave_nothing_behind() -> None:
    here = Side(1)
    replica = here.holds("thing")
    reply = codec.encode(Reply(bytes([probe_bodies.NOT_HERE | probe_bodies.VIEWS_DIFFER]) + probe_bodies.NO_PROOF))
    for number in range(1000):
        stranger = Contact(NodeId(sha256(b"stranger %d" % number).digest()), "10.9.9.9", 4747)
        peer = here.roster.claim(replica, stranger)
        assert peer is not None
        here.talk.absorb(stranger, here.talk.ask(peer, [replica], bytes(8), EPOCH, NOW), reply, NOW)
    assert not replica.tell and not replica.told and not here.roster.peers


def test_holders_that_somebody_made_up_do_not_keep_one_that_proves_itself_from_counting() -> None:
    here, honest = Side(1), Side(2)
    replica = here.holds("thing")
    honest.knows(here, honest.holds("thing"))
    for number in range(PARTNERS_MAX):
        made_up = Contact(NodeId(sha256(b"made up %d" % number).digest()), "10.9.9.9", 4747)
        here.roster.claim(replica, made_up)
    exchange(honest, here)
    assert here.counts(replica) == [honest.contact.id]
    assert len(replica.partners) == PARTNERS_MAX
    assert len(here.roster.peers) == PARTNERS_MAX


def test_nobody_on_the_public_internet_says_that_a_holder_is_in_a_private_network() -> None:
    inside, outside = ("192.168.1.1", 22), ("9.9.9.9", 4747)
    told = Member(b"n" * 32, pack_address(inside))
    assert told.contact("8.8.8.8") is None
    assert told.contact("10.0.0.7") == Contact(NodeId(b"n" * 32), *inside)
    both = Member(b"n" * 32, pack_address(outside) + pack_address(("fd00::1", 22))).contact("8.8.8.8")
    assert both is not None and both.addresses == (outside,)
