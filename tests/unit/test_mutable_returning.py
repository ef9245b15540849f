"""A block waits for those who were answered just now, while they do come back."""

from titan_overlay.mutable.returning import PATIENCE_SECONDS_MAX, SKIPPED_MAX, Returning


def test_a_block_waits_until_all_are_back() -> None:
    returning = Returning()
    assert returning.may_go(1, 0.0), "the first waits for nobody"
    assert returning.answered(10, 3, 0.1, 1.0) == 1.1
    assert not returning.may_go(3, 1.0)
    assert not returning.may_go(12, 1.05)
    assert returning.may_go(13, 1.06)
    assert returning.may_go(1, 1.07), "only the next block waits"


def test_one_that_is_alone_waits_for_nobody() -> None:
    returning = Returning()
    for now in range(10):
        returning.answered(1, 0, 0.1, float(now))
        assert returning.may_go(1, now + 0.01)


def test_it_waits_no_longer_than_a_block_takes() -> None:
    returning = Returning()
    returning.answered(10, 0, 0.1, 1.0)
    assert returning.may_go(9, 1.1)
    assert returning.answered(10, 0, 60.0, 2.0) == 2.0 + PATIENCE_SECONDS_MAX
    assert returning.answered(0, 5, 0.1, 3.0) is None, "nobody was answered"
    assert returning.may_go(5, 3.0)


def test_where_they_do_not_come_back_it_is_seldom_tried_again() -> None:
    returning = Returning()
    waits = 0
    for now in range(1000):
        until = returning.answered(10, 0, 0.1, float(now))
        waits += until is not None
        assert returning.may_go(2, now + 0.2)
    assert 1000 / (SKIPPED_MAX + 1) <= waits < 40
    while returning.answered(10, 0, 0.1, 2000.0) is None:
        pass
    assert returning.may_go(10, 2000.0)
    assert returning.answered(10, 0, 0.1, 2001.0) is not None
    assert returning.may_go(0, 2001.2)
    assert returning.answered(10, 0, 0.1, 2002.0) is None
    assert returning.answered(10, 0, 0.1, 2003.0) is not None, "they had come back meanwhile"
