"""The one place that says who may what: the rules of the pool, revocations, replays."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_grants import KEY, NOW, OTHER, POOL, POOL_KEY, THIRD, grant, passed
from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import credentials, grants, records, revocations
from titan_overlay.identity.credentials import DATAGRAM_BYTES, Delegate
from titan_overlay.identity.grants import CLOCK_TOLERANCE, LONGEST_SECONDS, Right
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.identity.revocations import (
    MAX_LISTS,
    Entry,
    RevocationList,
    Revocations,
    amended,
    grant_entry,
    key_entry,
)
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Policy, check_caller, check_descriptor

PROGRAM = SigningKey(b"r" * 32)
PRIVATE = PoolRecord(version=1, strangers=0)


def record(value: PoolRecord, key: SigningKey = POOL_KEY, pool: PoolId = POOL) -> bytes:
    return records.sign(value, key, pool).raw


def revoked(*entries: Entry, key: SigningKey = POOL_KEY, number: int = 1, by: bytes = b"") -> bytes:
    return records.sign(RevocationList(number, entries, by), key, POOL).raw


def shown(*grants: bytes, user: SigningKey | None = None, agent: SigningKey = PROGRAM, ends: float = NOW + 60) -> bytes:
    delegation = records.sign(Delegate(agent.id, ends), user, POOL).raw if user else b""
    return credentials.pack(delegation, grants, DATAGRAM_BYTES)


def joins(rights: Rights, what: bytes, agent: SigningKey = KEY, now: float = NOW) -> bool:
    try:
        rights.check_join(what, agent.id, agent.public, now)
    except Forbidden:
        return False
    return True


# --- the pool record ---


def test_without_a_record_anybody_joins_and_sends_and_an_id_costs_nothing() -> None:
    rights = Rights(POOL)
    assert joins(rights, b"") and rights.anyone_calls and rights.may_serve(KEY.id)


def test_the_record_says_which_pool_it_is_of_but_only_once() -> None:
    rights = Rights()
    with pytest.raises(ConfigError, match="bootstrap"):
        _ = rights.pool
    assert rights.learn_record(record(PRIVATE))
    assert rights.pool == POOL and rights.record.private
    with pytest.raises(BadMessage):
        rights.learn_record(record(PoolRecord(9), OTHER, PoolId(OTHER.public)))


def test_nobody_but_the_pools_key_makes_its_record() -> None:
    with pytest.raises(BadMessage, match="not signed by the pool's key"):
        Rights(POOL).learn_record(record(PoolRecord(9), OTHER))


def test_an_older_record_changes_nothing_back() -> None:
    told: list[int] = []
    rights = Rights(POOL, record(PRIVATE))
    rights.changed.append(lambda: told.append(rights.record.version))
    assert rights.learn_record(record(PoolRecord(version=3, puzzle_bits=4)))
    assert not rights.learn_record(record(PoolRecord(version=2)))
    assert not rights.learn_record(record(PoolRecord(version=3)))
    assert (rights.record.puzzle_bits, told) == (4, [3])


def test_the_puzzle_decides_who_may_serve() -> None:
    keys = [SigningKey(bytes(30) + number.to_bytes(2, "big")) for number in range(64)]
    rights = Rights(POOL, record(PoolRecord(1, puzzle_bits=3)))
    able = sum(rights.may_serve(key.id) for key in keys)
    assert 0 < able < 32, "one in eight"


# --- joining ---


def test_a_private_pool_admits_who_has_a_grant_and_says_what_helps_the_others() -> None:
    rights = Rights(POOL, record(PRIVATE))
    mine = grant(Right.JOIN)
    assert joins(rights, shown(mine))
    assert not joins(rights, b"") and not joins(rights, b"nonsense") and not joins(rights, shown(grant(Right.CALL)))
    assert joins(rights, b"", POOL_KEY), "the pool's key itself"
    with pytest.raises(Forbidden, match=f"titan grant {KEY.public.hex()} join"):
        rights.check_join(b"", KEY.id, KEY.public, NOW)


def test_a_program_joins_by_the_grant_of_the_user_for_whom_it_speaks() -> None:
    rights = Rights(POOL, record(PRIVATE))
    mine = grant(Right.JOIN)
    assert joins(rights, shown(mine, user=KEY), PROGRAM)
    assert not joins(rights, shown(mine), PROGRAM), "a grant of another, without a word of its own"
    assert not joins(rights, shown(mine, user=OTHER), PROGRAM)


def test_a_delegation_is_good_for_one_program_and_until_its_end() -> None:
    rights = Rights(POOL, record(PRIVATE))
    what = shown(grant(Right.JOIN, expires=NOW + 9000), user=KEY)
    assert not joins(rights, what, OTHER), "shown by another key"
    assert joins(rights, what, PROGRAM, NOW + 59)
    assert not joins(rights, what, PROGRAM, NOW + 61 + CLOCK_TOLERANCE)


def test_credentials_fit_into_a_handshake_whatever_the_depth_of_the_grant() -> None:
    third = grant(
        Right.JOIN, key=OTHER, grantee=THIRD.id, parent=passed(grant(Right.JOIN, depth=2), rights=Right.JOIN, depth=1)
    )
    what = shown(third, user=THIRD)
    assert len(what) <= DATAGRAM_BYTES
    assert joins(Rights(POOL, record(PRIVATE)), what, PROGRAM)


# --- calling ---


PLAIN = Policy()


def descriptor(policy: Policy = PLAIN, created: float = NOW) -> bytes:
    """Published by KEY, by a grant."""
    made = Descriptor("weather/berlin", "service", "C", int(created * 1000), created, policy, grant=grant())
    return records.sign(made, KEY, POOL).raw


def calls(rights: Rights, policy: Policy, who: SigningKey, grants: Sequence[bytes] = ()) -> bool:
    try:
        check_caller(who.public, tuple(grants), check_descriptor(descriptor(policy), None, rights), rights, NOW)
    except Forbidden:
        return False
    return True


def test_an_object_may_want_a_grant_of_its_callers() -> None:
    rights, only_granted = Rights(POOL), Policy(callers="granted")
    may = grant(Right.CALL, grantee=OTHER.id)
    assert calls(rights, Policy(), THIRD)
    assert not calls(rights, only_granted, THIRD)
    assert calls(rights, only_granted, OTHER, [may])
    assert not calls(rights, only_granted, THIRD, [may]), "another's grant"
    assert not calls(rights, only_granted, OTHER, [grant(Right.CALL, grantee=OTHER.id, pattern="traffic/*")])
    assert calls(rights, only_granted, OTHER, [grant(Right.HOST, grantee=OTHER.id)]), "a node that may hold it"
    assert calls(rights, only_granted, KEY), "who published it"
    assert calls(rights, only_granted, POOL_KEY)
    with pytest.raises(Forbidden, match=f"titan grant {OTHER.public.hex()} call --names 'weather/berlin'"):
        check_caller(OTHER.public, (), check_descriptor(descriptor(only_granted), None, rights), rights, NOW)


def test_where_strangers_may_not_call_everybody_needs_a_grant() -> None:
    rights = Rights(POOL, record(PoolRecord(1, strangers=int(Right.JOIN))))
    assert not rights.anyone_calls
    assert not calls(rights, Policy(), OTHER)
    assert calls(rights, Policy(), OTHER, [grant(Right.CALL, grantee=OTHER.id)])


# --- revocation ---


def holds(rights: Rights, raw: bytes, now: float = NOW) -> bool:
    try:
        rights.check_grant(raw, now)
    except Forbidden:
        return False
    return True


def taken(raw: bytes) -> Entry:
    return grant_entry(raw, grants.chain(raw, POOL)[-1].value)


def test_a_grant_that_was_taken_back_is_void_and_what_was_made_from_it() -> None:
    rights = Rights(POOL)
    parent = grant(depth=1)
    child, other = passed(parent), grant(grantee=OTHER.id)
    assert rights.learn_list(revoked(taken(parent)), NOW)
    assert not holds(rights, parent) and not holds(rights, child)
    assert holds(rights, other)
    with pytest.raises(Forbidden, match="was revoked"):
        rights.check_grant(parent, NOW)


def test_a_key_that_was_taken_back_loses_all_that_it_got_up_to_then() -> None:
    rights = Rights(POOL)
    given = grant(grantee=OTHER.id)
    through_another = passed(grant(depth=1))
    assert rights.learn_list(revoked(key_entry(OTHER.id, NOW)), NOW)
    assert not holds(rights, given) and not holds(rights, through_another)
    anew = grant(grantee=OTHER.id, now=NOW + 1)
    assert holds(rights, anew), "given after that"
    later = grant(depth=1, expires=NOW + 1000)
    again = passed(later, now=NOW + 100, expires=NOW + 1000)
    assert not holds(rights, again, NOW + 100), "whoever passes on cannot undo it with what was given before"


def test_a_grantee_takes_back_what_it_passed_on_and_nothing_else() -> None:
    rights = Rights(POOL)
    parent = grant(depth=1)
    mine, theirs = passed(parent), grant(grantee=OTHER.id, expires=NOW + 50)
    assert rights.learn_list(revoked(key_entry(OTHER.id, NOW), key=KEY, by=parent), NOW)
    assert not holds(rights, mine) and holds(rights, theirs)
    assert rights.learn_list(revoked(taken(theirs), key=KEY, by=parent, number=2), NOW)
    assert holds(rights, theirs), "what another gave"


@pytest.mark.parametrize("by", [b"", grant(), grant(grantee=OTHER.id, depth=1), b"nonsense"])
def test_a_list_by_a_key_that_gives_no_rights_is_refused(by: bytes) -> None:
    with pytest.raises((Forbidden, BadMessage)):
        Rights(POOL).learn_list(revoked(key_entry(OTHER.id, NOW), key=KEY, by=by), NOW)


def test_an_older_list_takes_nothing_back_again() -> None:
    rights, entry = Rights(POOL), taken(grant())
    old, new = revoked(), revoked(entry, number=2)
    assert rights.learn_list(old, NOW) and rights.learn_list(new, NOW)
    assert not rights.learn_list(old, NOW) and not rights.learn_list(new, NOW)
    assert not holds(rights, grant())


def test_a_list_that_is_no_news_costs_no_look_at_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    rights, old, known = Rights(POOL), revoked(), revoked(key_entry(OTHER.id, NOW), number=2)
    assert rights.learn_list(known, NOW)
    monkeypatch.setattr(records, "check", None)
    assert not rights.learn_list(known, NOW) and not rights.learn_list(old, NOW)


def test_the_list_of_a_grantee_goes_with_its_grant() -> None:
    rights, parent = Rights(POOL), grant(depth=1)
    rights.learn_list(revoked(key_entry(OTHER.id, NOW), key=KEY, by=parent), NOW)
    assert len(rights.revocations) == 1
    rights.learn_list(revoked(taken(parent)), NOW)
    assert [each.public for each in rights.revocations] == [POOL_KEY.public]
    with pytest.raises(Forbidden):
        rights.learn_list(revoked(key=KEY, by=parent, number=9), NOW)


def test_entries_are_forgotten_when_what_they_take_back_has_ended() -> None:
    first = amended(None, [taken(grant(Right.HOST)), key_entry(KEY.id, NOW)], NOW)
    second = amended(first, [key_entry(OTHER.id, NOW)], NOW + 61 + CLOCK_TOLERANCE)
    assert len(first.entries) == len(second.entries) == 2 and second.number > first.number
    assert not amended(second, [], NOW + 2 * LONGEST_SECONDS + 2 * CLOCK_TOLERANCE).entries
    published = amended(None, [taken(grant(Right.PUBLISH))], NOW)
    assert amended(published, [], NOW + LONGEST_SECONDS).entries, "what was published outlives the right"
    assert not amended(published, [], NOW + LONGEST_SECONDS + 3600).entries
    again = amended(second, [key_entry(OTHER.id, NOW + 500)], NOW + 500)
    assert len(again.entries) == 2, "one entry for each key, with the latest date"
    with pytest.raises(ValueError, match="at most"):
        amended(None, [key_entry(KEY.id, NOW), *(Entry(b"%016d" % n, int(NOW) + 1) for n in range(1000))], NOW)
    full = amended(None, [key_entry(KEY.id, 4e9)] * 1, NOW).entries * revocations.MAX_ENTRIES
    records.sign(RevocationList(2**60, full, passed(grant(depth=2), depth=1)), OTHER, POOL)  # fits


def test_grantees_of_grantees_cannot_crowd_out_the_lists_of_others() -> None:
    kept = Revocations()

    def made(number: int) -> records.Signed[RevocationList]:
        return records.Signed(RevocationList(1, ()), b"%032d" % number, b"")

    assert all(kept.add(made(number), depth=2) for number in range(MAX_LISTS))
    assert not kept.add(made(MAX_LISTS), depth=2)
    assert kept.add(made(MAX_LISTS + 1), depth=0) and kept.add(made(MAX_LISTS + 2), depth=1)
    assert len(kept) == MAX_LISTS


def test_a_grantee_cannot_crowd_out_the_lists_of_those_to_whom_others_have_passed_a_right_on() -> None:
    kept = Revocations()

    def made(number: int) -> records.Signed[RevocationList]:
        return records.Signed(RevocationList(1, ()), b"%032d" % number, b"")

    assert all(kept.add(made(number), 2, b"greedy") for number in range(MAX_LISTS))
    others = range(MAX_LISTS, MAX_LISTS + 3)
    assert all(kept.add(made(number), 2, b"one" if number % 2 else b"another") for number in others)
    assert all(kept.of(made(number).public) for number in others)
    assert not kept.add(made(MAX_LISTS + 9), 2, b"greedy")
    assert len(kept) == MAX_LISTS


@given(order=st.permutations([0, 1, 2, 3]))
def test_in_whatever_order_news_comes_all_end_up_with_the_same(order: list[int]) -> None:
    parent = grant(depth=1)
    news = [
        revoked(number=5),
        revoked(key_entry(THIRD.id, NOW), number=9),
        revoked(key=KEY, by=parent, number=3),
        revoked(key_entry(OTHER.id, NOW), key=KEY, by=parent, number=4),
    ]
    rights = Rights(POOL)
    for place in order:
        rights.learn_list(news[place], NOW)
    best = Rights(POOL)
    best.learn_list(news[1], NOW)
    best.learn_list(news[3], NOW)
    assert rights.revocations.summary() == best.revocations.summary()
    assert not rights.revocations.newer_than(best.revocations.numbers())
    assert sorted(rights.revocations.newer_than({})) == sorted([news[1], news[3]])


# --- replays ---


def test_what_was_signed_for_another_pool_counts_in_none_but_that() -> None:
    elsewhere = Rights(PoolId(THIRD.public))
    for raw in (grant(), passed(grant(depth=1))):
        with pytest.raises(BadMessage, match="does not hold in pool"):
            elsewhere.check_grant(raw, NOW)
    with pytest.raises(BadMessage, match="does not hold in pool"):
        elsewhere.learn_list(revoked(key_entry(KEY.id, NOW)), NOW)
    with pytest.raises(BadMessage, match="does not hold in pool"):
        elsewhere.learn_record(record(PRIVATE))
    with pytest.raises(BadMessage, match="does not hold in pool"):
        check_descriptor(descriptor(), None, elsewhere)
    what = shown(grant(Right.JOIN), user=KEY)
    assert elsewhere.speaker(what, PROGRAM.id, PROGRAM.public, NOW).id == PROGRAM.id


def test_a_publisher_whose_grant_was_revoked_does_not_publish_in_the_past() -> None:
    rights = Rights(POOL)
    check_descriptor(descriptor(), None, rights)
    rights.learn_list(revoked(key_entry(KEY.id, NOW + 10)), NOW)
    with pytest.raises(Forbidden, match="may not publish"):
        check_descriptor(descriptor(created=NOW + 1), None, rights)


def test_what_a_grantor_has_taken_back_stays_so_when_its_own_grant_has_ended() -> None:
    parent = grant(Right.PUBLISH, depth=1)
    published = records.sign(
        Descriptor("weather/b", "service", "echo", 1, NOW + 1, grant=passed(parent)), OTHER, POOL
    ).raw
    taken_back = revoked(key_entry(OTHER.id, NOW + 10), key=KEY, by=parent)
    heard_in_time, came_later = Rights(POOL), Rights(POOL)
    check_descriptor(published, None, came_later)
    assert heard_in_time.learn_list(taken_back, NOW + 10)
    later = NOW + 60 + 2 * CLOCK_TOLERANCE
    assert not holds(came_later, parent, later)
    for rights in (heard_in_time, came_later):
        rights.learn_list(revoked(), later)
        rights.learn_list(taken_back, later)
        with pytest.raises(Forbidden, match="may not publish"):
            check_descriptor(published, None, rights)
    with pytest.raises(Forbidden):
        Rights(POOL).learn_list(taken_back, later + grants.LONGEST_SECONDS)


def test_an_expired_grant_publishes_nothing_of_today() -> None:
    check_descriptor(descriptor(created=NOW + 60 + CLOCK_TOLERANCE), None, Rights(POOL))
    with pytest.raises(Forbidden):
        check_descriptor(descriptor(created=NOW + 61 + CLOCK_TOLERANCE), None, Rights(POOL))
