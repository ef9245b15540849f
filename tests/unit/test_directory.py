"""The directory: which statements a node keeps for others; and what a seeker makes of them."""

from hashlib import sha256

import pytest

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact, pack_address
from titan_overlay.identity.grants import Right, issue
from titan_overlay.identity.ids import ObjectId, PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Policy, Tombstone
from titan_overlay.overlay import shelves
from titan_overlay.overlay.directory import ELDERS, Directory
from titan_overlay.overlay.evidence import Evidence

NOW = 1_800_000_000.0
DAY = 86400.0
POOL_KEY = SigningKey(sha256(b"pool").digest())
POOL = PoolId(POOL_KEY.public)
OWNER = SigningKey(sha256(b"owner").digest())
HOLDER, OTHER = SigningKey(sha256(b"holder").digest()), SigningKey(sha256(b"other").digest())
TOKEN = b"t" * 16
THING = names.object_id(POOL, "thing")
OWNED = f"~{fingerprint(OWNER.public)}/thing"


def advertisement(
    holder: SigningKey = HOLDER,
    object_id: bytes = THING,
    sequence: int = 1,
    expires: float = NOW + 1500,
    pool: PoolId = POOL,
    host: str = "9.9.9.9",
    **more: object,
) -> bytes:
    statement = Advertisement(object_id, host, 4747, sequence, expires, **more)
    return records.sign(statement, holder, pool).raw


def sent_by(holder: SigningKey, ip: str = "10.0.0.1") -> Contact:
    return Contact(holder.id, ip, 4747)


def tombstone(
    signer: SigningKey = POOL_KEY,
    version: int = 1,
    token: bytes = b"",
    name: str = "thing",
    publisher: SigningKey = POOL_KEY,
    kind: str = "service",
    grant: bytes = b"",
    seconds: float = 3600.0,
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> bytes:
    content = Content(1, 1, sha256(sha256(b"1").digest()).digest()) if kind == "data" else None
    kind_of = "" if kind == "data" else "echo"
    token_hash = sha256(TOKEN).digest()
    descriptor = Descriptor(name, kind, kind_of, 1, NOW - 60, policy, token_hash, content=content)
    raw = records.sign(descriptor, publisher, POOL).raw
    return records.sign(Tombstone(raw, version, NOW + seconds, token, grant), signer, POOL).raw


def told(kept: Directory, object_id: bytes) -> tuple[list[bytes], list[bytes]]:
    statements = kept.get(object_id, NOW)
    return statements.advertisements, statements.tombstones


def test_what_a_holder_says_is_kept_until_it_expires() -> None:
    kept = Directory(Rights(POOL))
    raw = advertisement()
    assert kept.put(raw, NOW, sender=sent_by(HOLDER)) == THING
    assert kept.get(THING, NOW + 1499).advertisements == [raw]
    assert kept.get(THING, NOW + 1501).advertisements == []
    assert kept.expire(NOW + 1501) == 1 and len(kept) == 0


def test_each_asker_hears_first_of_other_holders_at_other_nodes_and_always_in_one_order_at_one() -> None:
    holders = [SigningKey(sha256(b"one of %d" % number).digest()) for number in range(7)]
    directories = [Directory(Rights(POOL), sha256(b"node %d" % number).digest()) for number in range(64)]
    for kept in directories:
        for holder in holders:
            kept.put(advertisement(holder), NOW)
    asker = sha256(b"asker").digest()
    orders = [kept.get(THING, NOW, asker).holders for kept in directories]
    assert {order[0] for order in orders} == {holder.id for holder in holders}
    assert all(sorted(order) == sorted(holder.id for holder in holders) for order in orders)
    assert orders == [kept.get(THING, NOW, asker).holders for kept in directories]


def test_the_first_that_an_asker_hears_of_is_one_of_those_that_are_known_longest() -> None:
    kept = Directory(Rights(POOL), sha256(b"node").digest())
    holders = [SigningKey(sha256(b"one of %d" % number).digest()) for number in range(40)]
    for holder in holders:
        kept.put(advertisement(holder), NOW)
    for holder in holders[:4]:
        kept.put(advertisement(holder, sequence=2), NOW)
    orders = [kept.get(THING, NOW, sha256(b"asker %d" % number).digest()).holders for number in range(200)]
    assert {order[0] for order in orders} == {holder.id for holder in holders[:ELDERS]}
    assert {order[1] for order in orders} == {holder.id for holder in holders}
    assert all(len(order) == len(set(order)) == len(holders) for order in orders)


@pytest.mark.parametrize("inside", ["127.0.0.1", "192.168.1.1", "169.254.169.254", "fd00::1", "::1"])
def test_nobody_on_the_public_internet_advertises_what_is_in_private_networks(inside: str) -> None:
    kept, raw = Directory(Rights(POOL)), advertisement(host=inside)
    assert kept.put(raw, NOW, sender=sent_by(HOLDER, "8.8.8.8")) is None
    evidence = Evidence(THING, Rights(POOL), NOW)
    assert not evidence.add([raw], [], "8.8.8.8")
    assert not evidence.advertisements()
    assert kept.put(raw, NOW, sender=sent_by(HOLDER)) == THING, "but within them they do"
    assert evidence.add([raw], [], "10.0.0.1")
    assert len(evidence.advertisements()) == 1


def test_beside_a_public_address_a_private_one_is_none() -> None:
    inside = {4: pack_address(("192.168.1.1", 22)), 6: pack_address(("fd00::1", 22))}
    for host, other in (("9.9.9.9", inside[6]), ("2620:fe::9", inside[4])):
        value = records.check(advertisement(host=host, other=other), Advertisement, POOL).value
        assert value.contact(HOLDER.id).addresses == ((host, 4747),)
        assert value.may_be_told("8.8.8.8")


def test_only_the_holder_itself_can_bring_its_advertisement() -> None:
    kept = Directory(Rights(POOL))
    assert kept.put(advertisement(), NOW, sender=sent_by(OTHER)) is None
    assert len(kept) == 0


def test_of_one_public_subnet_few_holders_of_one_object_are_kept() -> None:
    kept = Directory(Rights(POOL))
    keys = [SigningKey(sha256(b"sybil %d" % n).digest()) for n in range(20)]
    taken = [kept.put(advertisement(key), NOW, sender=sent_by(key, f"8.8.8.{n}")) for n, key in enumerate(keys)]
    assert taken.count(THING) == shelves.MAX_PER_OBJECT_AND_SUBNET
    assert kept.put(advertisement(), NOW, sender=sent_by(HOLDER, "9.9.9.9")) == THING, "others have their place"
    assert kept.put(advertisement(keys[0], sequence=2), NOW, sender=sent_by(keys[0], "8.8.8.0")) == THING, "renewed"
    other = names.object_id(POOL, "other")
    assert kept.put(advertisement(keys[19], other), NOW, sender=sent_by(keys[19], "8.8.8.19")) == other
    private = [kept.put(advertisement(key), NOW, sender=sent_by(key, "192.168.0.1")) for key in keys[10:]]
    assert private == [THING] * 10


def test_a_subnet_has_room_again_when_its_statements_have_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "MAX_PER_SUBNET", 1)
    kept = Directory(Rights(POOL))
    assert kept.put(advertisement(), NOW, sender=sent_by(HOLDER, "8.8.8.1")) == THING
    assert kept.put(advertisement(OTHER), NOW, sender=sent_by(OTHER, "8.8.8.2")) is None
    kept.expire(NOW + 2000)
    late = advertisement(OTHER, expires=NOW + 3000)
    assert kept.put(late, NOW + 2000, sender=sent_by(OTHER, "8.8.8.2")) == THING


def test_the_highest_sequence_wins_and_nobody_can_go_back() -> None:
    kept = Directory(Rights(POOL))
    old, new = advertisement(sequence=1), advertisement(sequence=2)
    kept.put(new, NOW)
    assert kept.put(old, NOW) is None
    assert kept.put(new, NOW) == THING, "the same again is taken as kept"
    assert kept.get(THING, NOW).advertisements == [new]


def test_a_withdrawal_stays_and_keeps_the_old_statement_out() -> None:
    kept = Directory(Rights(POOL))
    kept.put(advertisement(sequence=1), NOW)
    gone = advertisement(sequence=2, withdrawn=True)
    assert kept.put(gone, NOW) == THING
    assert kept.put(advertisement(sequence=1), NOW) is None
    assert kept.get(THING, NOW).advertisements == [gone]


@pytest.mark.parametrize("expires", [NOW - 1, NOW, NOW + 86401])
def test_neither_the_expired_nor_the_near_eternal_is_kept(expires: float) -> None:
    assert Directory(Rights(POOL)).put(advertisement(expires=expires), NOW) is None


@pytest.mark.parametrize("raw", [b"", b"garbage", advertisement()[:-1], advertisement(pool=PoolId(OTHER.public))])
def test_what_does_not_verify_is_bad(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        Directory(Rights(POOL)).put(raw, NOW)


def test_counted_holders_come_before_caches_and_withdrawals() -> None:
    kept = Directory(Rights(POOL))
    cache = advertisement(SigningKey(b"1" * 32), passing=True)
    gone = advertisement(SigningKey(b"2" * 32), sequence=2, withdrawn=True)
    holder = advertisement()
    kept.put(advertisement(SigningKey(b"2" * 32)), NOW)
    for raw in (gone, cache, holder):
        kept.put(raw, NOW)
    assert kept.get(THING, NOW).advertisements == [holder, cache, gone]


def test_a_full_shelf_gives_up_caches_and_keeps_old_holders() -> None:
    kept = Directory(Rights(POOL), max_per_object=3)
    old = [advertisement(SigningKey(bytes([n]) * 32)) for n in (1, 2)]
    cache = advertisement(SigningKey(b"3" * 32), passing=True)
    for raw in (*old, cache):
        assert kept.put(raw, NOW) == THING
    assert kept.put(advertisement(SigningKey(b"4" * 32), passing=True), NOW) is None
    newcomer = advertisement(SigningKey(b"5" * 32))
    assert kept.put(newcomer, NOW) == THING
    assert kept.put(advertisement(SigningKey(b"6" * 32)), NOW) is None
    assert kept.get(THING, NOW).advertisements == [*old, newcomer]


def test_one_holder_cannot_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "MAX_PER_KEY", 2)
    kept = Directory(Rights(POOL))
    ids = [sha256(b"%d" % n).digest() for n in range(3)]
    assert [kept.put(advertisement(object_id=i), NOW) is not None for i in ids] == [True, True, False]
    assert kept.put(advertisement(OTHER, object_id=ids[2]), NOW) == ids[2]


def test_when_it_is_full_the_newcomer_is_refused_until_something_expires() -> None:
    kept = Directory(Rights(POOL), max_statements=2)
    first = [sha256(b"%d" % n).digest() for n in range(3)]
    for object_id in first[:2]:
        kept.put(advertisement(object_id=object_id, expires=NOW + 100), NOW)
    assert kept.put(advertisement(object_id=first[2]), NOW + 50) is None
    assert kept.put(advertisement(object_id=first[2]), NOW + 101) == first[2]


def test_the_publishers_tombstone_ends_the_advertisements_up_to_its_version() -> None:
    kept = Directory(Rights(POOL))
    kept.put(advertisement(version=1), NOW)
    newer = advertisement(OTHER, version=3)
    kept.put(newer, NOW)
    grave = tombstone(version=2)
    assert kept.put(grave, NOW) == THING
    assert told(kept, THING) == ([newer], [grave])
    assert kept.put(advertisement(sequence=9, version=2), NOW) is None


def test_the_token_deletes_its_version_and_no_later_one() -> None:
    assert Directory(Rights(POOL)).put(tombstone(OTHER, 1, TOKEN), NOW) == THING
    with pytest.raises(Forbidden):
        Directory(Rights(POOL)).put(tombstone(OTHER, 2, TOKEN), NOW)
    with pytest.raises(Forbidden):
        Directory(Rights(POOL)).put(tombstone(OTHER, 1, b"wrong"), NOW)


def test_who_has_a_grant_to_delete_and_the_pool_itself_delete_too() -> None:
    assert Directory(Rights(POOL)).put(tombstone(POOL_KEY, 2, publisher=OWNER, name=OWNED), NOW) is not None
    grant = issue(POOL_KEY, POOL, OTHER.id, Right.DELETE, now=NOW, expires=NOW + 60).raw
    by_grant = tombstone(OTHER, 2, publisher=OWNER, name=OWNED, grant=grant)
    assert Directory(Rights(POOL)).put(by_grant, NOW) is not None
    with pytest.raises(Forbidden):
        Directory(Rights(POOL)).put(tombstone(HOLDER, 2, publisher=OWNER, name=OWNED, grant=grant), NOW)
    evidence = Evidence(names.object_id(POOL, OWNED), Rights(POOL), NOW)
    evidence.add([], [by_grant])
    assert evidence.conclusive


def test_deleting_a_pin_of_data_leaves_the_holders() -> None:
    digest = sha256(b"content").digest()
    data = ObjectId(digest)
    kept = Directory(Rights(POOL))
    raw = advertisement(object_id=data)
    kept.put(raw, NOW)
    grave = tombstone(OWNER, 1, name=names.content_name(digest), publisher=OWNER, kind="data")
    assert kept.put(grave, NOW) == data
    assert told(kept, data) == ([raw], [grave])


def pin_grave(number: int) -> bytes:
    """One that anybody may have made: of data that it has published itself."""
    stranger = SigningKey(sha256(b"stranger %d" % number).digest())
    return tombstone(stranger, name=names.content_name(THING), publisher=stranger, kind="data")


def test_deletions_of_one_strangers_pins_give_way_to_those_of_others() -> None:
    kept = Directory(Rights(POOL))
    taken = [kept.put(pin_grave(number), NOW, sender=sent_by(OTHER, "10.0.0.9")) for number in range(9)]
    assert [each is not None for each in taken] == [True] * 8 + [False]
    others = [pin_grave(number) for number in (20, 21)]
    for number, grave in enumerate(others):
        assert kept.put(grave, NOW, sender=sent_by(HOLDER, f"10.0.1.{number}")) == THING
    assert told(kept, THING)[1] == [*map(pin_grave, range(6)), *others]


def test_each_asker_hears_first_of_another_deletion_that_leaves_the_object() -> None:
    kept = Directory(Rights(POOL), HOLDER.id)
    graves = [pin_grave(number) for number in range(4)]
    for grave in graves:
        kept.put(grave, NOW)
    askers = [sha256(b"asker %d" % number).digest() for number in range(40)]
    assert {kept.get(THING, NOW, asker).tombstones[0] for asker in askers} == set(graves)


def test_what_ends_the_object_takes_the_place_of_what_ends_less() -> None:
    def published(number: int, expires: float) -> bytes:
        """Deleted by somebody whose right to publish it has ended by now, or has not."""
        publisher = SigningKey(sha256(b"publisher %d" % number).digest())
        grant = issue(POOL_KEY, POOL, publisher.id, Right.PUBLISH, now=NOW - 9000, expires=expires).raw
        raw = records.sign(Descriptor("thing", "service", "echo", 1, NOW - 8000, grant=grant), publisher, POOL).raw
        return records.sign(Tombstone(raw, 1, NOW + 3600), publisher, POOL).raw

    kept = Directory(Rights(POOL))
    ended = [published(number, NOW - 4000) for number in range(8)]
    for grave in ended:
        assert kept.put(grave, NOW, sender=sent_by(OTHER)) == THING
    grave = published(9, NOW + 4000)
    assert kept.put(grave, NOW, sender=sent_by(OTHER)) == THING
    statements = kept.get(THING, NOW)
    assert statements.tombstones == [grave, *ended[:7]] and statements.sweeping == 1


@pytest.mark.parametrize(
    ("ttl", "seconds", "kept"),
    [(0.0, 30 * DAY, True), (0.0, 31 * DAY, False), (90 * DAY, 90 * DAY, True), (9999 * DAY, 401 * DAY, False)],
)
def test_a_tombstone_lasts_as_long_as_replicas_could(ttl: float, seconds: float, kept: bool) -> None:
    grave = tombstone(seconds=seconds, policy=Policy(ttl=ttl))
    assert (Directory(Rights(POOL)).put(grave, NOW) == THING) == kept


def test_what_nobody_here_has_heard_of_is_deleted_near_it_alone() -> None:
    far = Directory(Rights(POOL), near=lambda object_id: False)
    assert far.put(tombstone(), NOW, sender=sent_by(OTHER)) is None and len(far) == 0
    far.put(advertisement(), NOW, sender=sent_by(HOLDER))
    assert far.put(tombstone(), NOW, sender=sent_by(OTHER)) == THING
    assert far.get(THING, NOW).advertisements == []


# ---- room ----------------------------------------------------------------------------------------------------


def owned_grave(number: int) -> bytes:
    """Of an object that never was."""
    return tombstone(OWNER, publisher=OWNER, name=f"{OWNED}{number}")


def things(*numbers: int) -> list[bytes]:
    return [sha256(b"%d" % number).digest() for number in numbers]


def bring(kept: Directory, holder: SigningKey, ip: str, *ids: bytes) -> int:
    """How many of these objects' advertisements are taken from it."""
    sender = sent_by(holder, ip)
    return sum(kept.put(advertisement(holder, each), NOW, sender=sender) is not None for each in ids)


@pytest.mark.parametrize("ip", ["10.66.0.1", "8.8.8.8"])
def test_tombstones_of_one_stranger_give_way_to_what_others_hold(ip: str) -> None:
    kept = Directory(Rights(POOL), max_statements=10)
    taken = [kept.put(owned_grave(n), NOW, sender=sent_by(OTHER, ip)) for n in range(12)]
    assert [each is not None for each in taken] == [True] * 10 + [False] * 2
    assert bring(kept, HOLDER, "10.0.0.1", *things(*range(9))) == 5, "half of it is theirs"
    assert len(kept) == 10
    assert kept.put(owned_grave(13), NOW, sender=sent_by(OTHER, ip)) is None


def test_many_keys_of_one_subnet_are_one() -> None:
    kept = Directory(Rights(POOL), max_statements=20)
    keys = [SigningKey(sha256(b"sybil %d" % n).digest()) for n in range(20)]
    assert sum(bring(kept, key, f"8.8.8.{n}", things(n)[0]) for n, key in enumerate(keys)) == 20
    assert bring(kept, HOLDER, "9.9.9.9", *things(*range(20, 35))) == 10
    assert bring(kept, OTHER, "9.9.8.1", *things(*range(40, 55))) == 6, "a third for each of three"


def test_on_one_machine_the_key_that_has_most_gives_way() -> None:
    kept = Directory(Rights(POOL), max_statements=10)
    assert bring(kept, OTHER, "127.0.0.1", *things(*range(12))) == 10
    assert bring(kept, HOLDER, "127.0.0.1", *things(*range(20, 30))) == 5


def test_who_has_no_more_than_the_newcomer_would_have_stays() -> None:
    kept = Directory(Rights(POOL), max_statements=3)
    assert [bring(kept, HOLDER, f"10.0.0.{n}", thing) for n, thing in enumerate(things(1, 2, 3, 4))] == [1, 1, 1, 0]


def test_what_is_farthest_from_the_node_goes_first() -> None:
    ids = [bytes((first,)) + bytes(31) for first in (0x80, 0x10, 0xF0, 0x40)]
    kept = Directory(Rights(POOL), bytes(32), max_statements=4)
    assert bring(kept, OTHER, "10.66.0.1", *ids) == 4
    assert bring(kept, HOLDER, "10.0.0.1", *things(1, 2)) == 2
    assert [bool(kept.get(each, NOW).advertisements) for each in ids] == [False, True, False, True]


def test_a_large_directory_is_fair_too() -> None:
    """It looks for what goes next for several newcomers at once."""
    kept = Directory(Rights(POOL), max_statements=256)
    bring(kept, OTHER, "10.66.0.1", *things(*range(256)))
    assert bring(kept, HOLDER, "10.0.0.1", *things(*range(300, 420))) == 120
    assert sum(bring(kept, HOLDER, f"10.0.1.{n}", *things(420 + n)) for n in range(10)) == 10
    assert len(kept) == 256


def test_one_private_address_cannot_have_all_places_of_an_object() -> None:
    kept = Directory(Rights(POOL), max_per_object=8)
    sybils = [SigningKey(sha256(b"sybil %d" % n).digest()) for n in range(8)]
    assert sum(bring(kept, key, "10.66.0.1", THING) for key in sybils) == 8
    honest = [SigningKey(sha256(b"honest %d" % n).digest()) for n in range(8)]
    assert sum(bring(kept, key, f"10.0.0.{n}", THING) for n, key in enumerate(honest)) == 7
    assert bring(kept, sybils[7], "10.66.0.1", THING) == 0
    assert len(kept) == 8


def test_a_tombstone_takes_the_place_of_what_it_ends() -> None:
    kept = Directory(Rights(POOL), max_statements=1)
    bring(kept, HOLDER, "10.0.0.1", THING)
    assert kept.put(tombstone(), NOW, sender=sent_by(OTHER, "10.0.0.2")) == THING
    assert kept.get(THING, NOW).advertisements == [] and len(kept) == 1


# ---- evidence ------------------------------------------------------------------------------------------------


def test_evidence_is_the_latest_word_of_each_holder() -> None:
    evidence = Evidence(THING, Rights(POOL), NOW)
    evidence.add([advertisement(sequence=1), advertisement(OTHER)], [])
    assert evidence.conclusive
    evidence.add([advertisement(sequence=2, withdrawn=True)], [])
    assert [each.signer for each in evidence.advertisements()] == [OTHER.id]


def test_what_is_false_expired_or_of_another_object_is_no_evidence() -> None:
    evidence = Evidence(THING, Rights(POOL), NOW)
    other = sha256(b"other thing").digest()
    evidence.add([b"x", advertisement(expires=NOW - 1), advertisement(object_id=other)], [b"y", tombstone(OTHER)])
    assert not evidence.conclusive and not evidence.tombstones and evidence.rejected == 5


def test_a_proof_of_deletion_is_conclusive_but_for_data() -> None:
    evidence = Evidence(THING, Rights(POOL), NOW)
    evidence.add([], [tombstone()])
    assert evidence.conclusive and evidence.tombstones
    digest = sha256(b"content").digest()
    of_data = Evidence(ObjectId(digest), Rights(POOL), NOW)
    of_data.add([], [tombstone(OWNER, 1, name=names.content_name(digest), publisher=OWNER, kind="data")])
    assert not of_data.conclusive and of_data.tombstones


def test_of_two_advertisements_with_one_sequence_everybody_believes_the_same() -> None:
    one, two = advertisement(version=1), advertisement(version=2)
    wins = min(one, two, key=lambda raw: sha256(raw).digest())
    for order in ((one, two), (two, one), (one, two, one), (two, one, two)):
        kept, evidence = Directory(Rights(POOL)), Evidence(THING, Rights(POOL), NOW)
        for raw in order:
            kept.put(raw, NOW)
            evidence.add([raw], [])
        assert kept.get(THING, NOW).advertisements == [wins]
        assert [each.raw for each in evidence.advertisements()] == [wins]
