"""So much a second, so much at once."""

from hypothesis import example, given
from hypothesis import strategies as st

from titan_overlay.buckets import Bucket, Buckets, Limit


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    bucket = Bucket(Limit(2.0, 4.0))
    assert [bucket.take(1, 10.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.5]
    assert bucket.take(1, 10.25) == 0.25
    assert bucket.take(1, 10.5) == 0.0


def test_what_is_refused_costs_nothing() -> None:
    bucket = Bucket(Limit(1.0, 1.0))
    assert bucket.take(1, 0.0) == 0.0
    for _ in range(100):
        assert bucket.take(1, 0.5) == 0.5
    assert bucket.take(1, 1.0) == 0.0


def test_more_than_fits_is_let_through_when_the_bucket_is_full_and_owed() -> None:
    bucket = Bucket(Limit(1.0, 2.0))
    assert bucket.take(10, 0.0) == 0.0
    assert bucket.take(1, 1.0) == 8.0
    assert bucket.take(1, 9.0) == 0.0


def test_a_bucket_within_another_takes_from_both_or_from_neither() -> None:
    whole = Bucket(Limit(1.0, 3.0))
    one, other = Bucket(Limit(1.0, 2.0), whole), Bucket(Limit(1.0, 2.0), whole)
    assert [one.take(1, 0.0) for _ in range(3)] == [0.0, 0.0, 1.0], "its own is empty"
    assert [other.take(1, 0.0) for _ in range(2)] == [0.0, 1.0], "what was refused to the one was left for the other"
    assert [other.take(1, 1.0) for _ in range(2)] == [0.0, 1.0]
    assert other.take(1, 2.0) == one.take(1, 3.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 20)), max_size=60))
@example([(0.0, 1e-50), (0.0, 11.0), (0.0, 20.0)])  # next to full: nothing was taken, and the wait was 0
def test_never_more_than_burst_and_rate_allow(asked: list[tuple[float, float]]) -> None:
    bucket = Bucket(Limit(3.0, 10.0))
    now = taken = 0.0
    for gap, amount in asked:
        now += gap
        if bucket.take(amount, now) == 0.0:
            taken += amount
    assert taken <= 10.0 + 3.0 * now + 20.0 + 1e-6, "but for the last, which may be owed"


def test_each_key_has_its_own_and_the_number_of_keys_is_bounded() -> None:
    buckets: Buckets[int] = Buckets(Limit(1.0, 1.0), keys_max=3)
    assert [buckets.take(key, 1, 0.0) for key in (1, 2, 3, 1)] == [0.0, 0.0, 0.0, 1.0]
    assert buckets.take(4, 1, 0.0) == 0.0
    assert len(buckets._buckets) == 3
    assert buckets.take(1, 1, 0.0) == 1.0, "who was seen last is remembered"


def test_keys_whose_bucket_is_full_again_are_forgotten() -> None:
    buckets: Buckets[int] = Buckets(Limit(1.0, 5.0))
    for key in range(10):
        buckets.take(key, 1, 0.1 * key)
    assert buckets.take(10, 1, 1.55) == 0.0
    assert list(buckets._buckets) == [6, 7, 8, 9, 10]


def test_what_is_charged_is_owed_and_of_what_surrounds_it_a_second_at_most() -> None:
    net = Bucket(Limit(10, 20))
    one, other = Bucket(Limit(10, 20), net), Bucket(Limit(10, 20), net)
    assert one.charge(20, 0.0) == 0.0, "so much may be taken at once"
    assert one.charge(50, 0.0) == 5.0
    assert other.charge(0, 0.0) == 1.0
    assert other.charge(0, 1.0) == 0.0
    assert one.charge(0, 4.0) == 1.0
    assert one.charge(0, 5.0) == 0.0
    assert one.take(1, 5.0) > 0
