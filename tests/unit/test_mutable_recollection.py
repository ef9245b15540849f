"""What a member that was started again must hear before it votes."""

from titan_overlay.mutable.recollection import PATIENCE_SECONDS, Promise, Recollection

OTHERS = (b"b", b"c", b"d", b"e")
KEPT = Promise(4, 20)


def test_a_quorum_of_others_that_know_of_nothing_more_is_enough() -> None:
    asked = Recollection(KEPT, OTHERS, quorum=3, witnesses=1)
    asked.hear(b"b", Promise(4, 20))
    asked.hear(b"c", Promise(3, 99))  # of an earlier term: it may have been displaced since
    assert not asked.is_enough(waited=0.0)
    asked.hear(b"d", Promise())
    assert asked.is_enough(waited=0.0)
    assert asked.missing == [b"e"]


def test_a_single_promise_that_the_disk_has_forgotten_forbids_every_vote() -> None:
    for forgotten in (Promise(4, 21), Promise(5, 0)):
        asked = Recollection(KEPT, OTHERS, quorum=3, witnesses=1)
        for member in OTHERS:
            asked.hear(member, Promise())
        asked.hear(b"c", forgotten)
        assert asked.forgotten == forgotten
        assert not asked.is_enough(waited=2 * PATIENCE_SECONDS)


def test_a_liar_alone_makes_nobody_resign() -> None:
    asked = Recollection(KEPT, OTHERS[:3], quorum=3, witnesses=2)
    asked.hear(b"b", Promise(1 << 60, 1 << 60))
    asked.hear(b"c", KEPT)
    asked.hear(b"d", KEPT)
    assert asked.forgotten is None
    assert asked.is_enough(waited=0.0)
    asked.hear(b"c", Promise(5, 30))
    assert asked.forgotten == Promise(5, 30), "what two of them say at the least"


def test_where_others_stay_away_a_quorum_with_this_member_is_enough_after_a_while() -> None:
    asked = Recollection(KEPT, OTHERS[:2], quorum=2, witnesses=1)
    asked.hear(b"b", KEPT)
    assert not asked.is_enough(waited=PATIENCE_SECONDS / 2)
    assert asked.is_enough(waited=PATIENCE_SECONDS)


def test_strangers_are_not_heard_and_who_is_alone_asks_nobody() -> None:
    asked = Recollection(KEPT, (b"b",), quorum=2, witnesses=1)
    asked.hear(b"z", Promise(9, 9))
    assert asked.missing == [b"b"]
    assert Recollection(KEPT, (), quorum=1, witnesses=1).is_enough(waited=0.0)
