"""The directory: which statements a node keeps for others; and what a seeker makes of them."""

from hashlib import sha256

import pytest

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right, issue
from titan_overlay.identity.ids import ObjectId, PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Tombstone
from titan_overlay.overlay import directory as rules
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.evidence import Evidence

NOW = 1_800_000_000.0
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
    **more: object,
) -> bytes:
    statement = Advertisement(object_id, "10.0.0.1", 4747, sequence, expires, **more)
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
) -> bytes:
    content = Content(1, 1, sha256(sha256(b"1").digest()).digest()) if kind == "data" else None
    kind_of = "" if kind == "data" else "echo"
    token_hash = sha256(TOKEN).digest()
    descriptor = Descriptor(name, kind, kind_of, 1, NOW - 60, token_hash=token_hash, content=content)
    raw = records.sign(descriptor, publisher, POOL).raw
    return records.sign(Tombstone(raw, version, NOW + 3600, token, grant), signer, POOL).raw


def test_what_a_holder_says_is_kept_until_it_expires() -> None:
    kept = Directory(Rights(POOL))
    raw = advertisement()
    assert kept.put(raw, NOW, sender=sent_by(HOLDER)) == THING
    assert kept.get(THING, NOW + 1499).advertisements == [raw]
    assert kept.get(THING, NOW + 1501).advertisements == []
    assert kept.expire(NOW + 1501) == 1 and len(kept) == 0


def test_only_the_holder_itself_can_bring_its_advertisement() -> None:
    kept = Directory(Rights(POOL))
    assert kept.put(advertisement(), NOW, sender=sent_by(OTHER)) is None
    assert len(kept) == 0


def test_of_one_public_subnet_few_holders_of_one_object_are_kept() -> None:
    kept = Directory(Rights(POOL))
    keys = [SigningKey(sha256(b"sybil %d" % n).digest()) for n in range(20)]
    taken = [kept.put(advertisement(key), NOW, sender=sent_by(key, f"8.8.8.{n}")) for n, key in enumerate(keys)]
    assert taken.count(THING) == rules.MAX_PER_OBJECT_AND_SUBNET
    assert kept.put(advertisement(), NOW, sender=sent_by(HOLDER, "9.9.9.9")) == THING, "others have their place"
    assert kept.put(advertisement(keys[0], sequence=2), NOW, sender=sent_by(keys[0], "8.8.8.0")) == THING, "renewed"
    other = names.object_id(POOL, "other")
    assert kept.put(advertisement(keys[19], other), NOW, sender=sent_by(keys[19], "8.8.8.19")) == other
    private = [kept.put(advertisement(key), NOW, sender=sent_by(key, "192.168.0.1")) for key in keys[10:]]
    assert private == [THING] * 10


def test_a_subnet_has_room_again_when_its_statements_have_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_PER_SUBNET", 1)
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
    monkeypatch.setattr(rules, "MAX_PER_HOLDER", 2)
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
    assert kept.get(THING, NOW) == ([newer], [grave])
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
    assert kept.get(data, NOW) == ([raw], [grave])


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
        directory, evidence = Directory(Rights(POOL)), Evidence(THING, Rights(POOL), NOW)
        for raw in order:
            directory.put(raw, NOW)
            evidence.add([raw], [])
        assert directory.get(THING, NOW).advertisements == [wins]
        assert [each.raw for each in evidence.advertisements()] == [wins]
