"""What a node remembers of its peers' misbehaviour: explainable, bounded, forgetting."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.identity.conduct import (
    AT_ONCE_SECONDS,
    AVOIDED_FROM,
    HALF_LIFE_SECONDS,
    INCIDENTS_MAX,
    WHY_MAX,
    Conduct,
    Offence,
)
from titan_overlay.identity.ids import NodeId

PEER = NodeId(b"p" * 32)
HOUR = 3600.0


def test_of_a_stranger_nothing_is_known() -> None:
    conduct = Conduct()
    assert conduct.burden(PEER, 0.0) == 0.0
    assert not conduct.avoided(PEER, 0.0)
    assert conduct.report(PEER, 0.0) == (0.0, 0.0, ())


def test_one_proven_lie_is_enough_to_be_asked_last_for_an_hour() -> None:
    conduct = Conduct()
    conduct.blame(PEER, Offence.WRONG, "chunk 3 of sha256:ab", 100.0)
    assert conduct.avoided(PEER, 100.0)
    assert conduct.avoided(PEER, 100.0 + HOUR - 1)
    assert not conduct.avoided(PEER, 100.0 + HOUR + 1)
    assert conduct.report(PEER, 100.0).avoided_for == pytest.approx(HOUR)


@pytest.mark.parametrize("offence", [each for each in Offence if not each.proven])
def test_one_mishap_is_no_reason_to_avoid_anybody(offence: Offence) -> None:
    conduct = Conduct()
    conduct.blame(PEER, offence, "x", 0.0)
    assert not conduct.avoided(PEER, 0.0)
    assert not conduct.guilty(PEER, 0.0)


def test_a_node_that_came_back_with_an_empty_disk_is_not_avoided_for_the_hundred_objects_that_it_lost() -> None:
    conduct = Conduct()
    for number in range(100):
        conduct.blame(PEER, Offence.BROKEN, f"object {number}", number * AT_ONCE_SECONDS / 100)
    assert not conduct.avoided(PEER, AT_ONCE_SECONDS)


def test_mishaps_never_end_a_session() -> None:
    conduct = Conduct()
    for number in range(1000):
        conduct.blame(PEER, Offence.SILENCE, "x", number * AT_ONCE_SECONDS)
    assert conduct.avoided(PEER, 1000 * AT_ONCE_SECONDS)
    assert not conduct.guilty(PEER, 1000 * AT_ONCE_SECONDS)


def test_sixteen_faults_in_a_session_end_it_and_fifteen_do_not() -> None:
    conduct = Conduct()
    for _ in range(15):
        conduct.blame(PEER, Offence.GARBAGE, "no method", 0.0)
    assert not conduct.guilty(PEER, 0.0)
    conduct.blame(PEER, Offence.GARBAGE, "no method", 0.0)
    assert conduct.guilty(PEER, 0.0)


def test_good_answers_make_up_for_bad_luck_but_not_for_lies() -> None:
    conduct = Conduct()
    liar = NodeId(b"l" * 32)
    for number in range(6):
        conduct.blame(PEER, Offence.SILENCE, "x", number * AT_ONCE_SECONDS)
    conduct.blame(liar, Offence.WRONG, "x", 0.0)
    assert conduct.avoided(PEER, 60.0)
    for _ in range(10):
        conduct.praise(PEER, 60.0)
        conduct.praise(liar, 60.0)
    assert not conduct.avoided(PEER, 60.0)
    assert conduct.avoided(liar, 60.0)


@pytest.mark.parametrize(("share", "avoided"), [(0.05, False), (0.1, False), (0.65, True), (0.9, True)])
def test_who_often_votes_with_the_minority_is_avoided_and_who_seldom_does_is_not(share: float, avoided: bool) -> None:
    # At 30 % liars an honest voter of five is outvoted in 8 % of the votes, a liar in 65 %.
    conduct, chance, now = Conduct(), Random(7), 0.0
    marked = 0
    for _ in range(2000):
        now += 30.0
        if chance.random() < share:
            conduct.blame(PEER, Offence.DISSENT, "x", now)
        else:
            conduct.praise(PEER, now)
        marked += conduct.avoided(PEER, now)
    assert (marked > 1000) is avoided
    assert avoided or marked < 60


def test_the_reasons_are_kept_and_are_few_and_short() -> None:
    conduct = Conduct()
    for number in range(100):
        conduct.blame(PEER, Offence.BROKEN, f"{number} " + "x" * 1000, float(number))
    incidents = conduct.report(PEER, 100.0).incidents
    assert len(incidents) == INCIDENTS_MAX
    assert [each.at for each in incidents] == [float(number) for number in range(100 - INCIDENTS_MAX, 100)]
    assert all(len(each.why) <= WHY_MAX for each in incidents)


def test_a_crowd_of_small_sinners_does_not_make_it_forget_a_great_one() -> None:
    conduct = Conduct(peers_max=64)
    conduct.blame(PEER, Offence.WRONG, "x", 0.0)
    for number in range(10_000):
        conduct.blame(NodeId(number.to_bytes(32, "big")), Offence.SILENCE, "x", 1.0)
        assert len(conduct) <= 64
    assert conduct.avoided(PEER, 1.0)


def test_a_clock_that_stands_still_or_is_late_changes_nothing() -> None:
    conduct = Conduct()
    conduct.blame(PEER, Offence.WRONG, "x", 100.0)
    before = conduct.burden(PEER, 100.0)
    assert conduct.burden(PEER, 50.0) == before
    assert conduct.burden(PEER, 100.0) == before


ROUNDING = 1e-12
"""A burden is a sum that fades: computed at another moment, its last digits differ."""
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*Offence, None]), st.integers(0, 3), st.floats(0, 2 * HALF_LIFE_SECONDS, allow_nan=False)
    ),
    max_size=60,
)


@given(EVENTS, st.floats(0, HOUR, allow_nan=False))
def test_time_and_good_answers_never_make_it_worse_and_blame_never_better(
    events: list[tuple[Offence | None, int, float]], pause: float
) -> None:
    conduct, now = Conduct(peers_max=3), 0.0
    for offence, who, later in events:
        now += later
        peer = NodeId(bytes([who]) * 32)
        before = conduct.burden(peer, now)
        if offence is None:
            conduct.praise(peer, now)
            assert conduct.burden(peer, now) <= before
        else:
            conduct.blame(peer, offence, "x", now)
            assert conduct.burden(peer, now) >= before * (1 - ROUNDING)
        assert conduct.burden(peer, now + pause) <= conduct.burden(peer, now)
        assert len(conduct) <= 3
    for who in range(4):
        report = conduct.report(NodeId(bytes([who]) * 32), now)
        assert (report.avoided_for > 0) <= (report.burden >= AVOIDED_FROM)
