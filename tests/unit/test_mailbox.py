"""The queue before one object."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import Overloaded
from titan_overlay.pool.hosting.mailbox import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, Mailbox


def test_as_many_run_at_once_as_may_and_the_rest_wait_in_order() -> None:
    box: Mailbox[str] = Mailbox(size=10, concurrency=2)
    assert [box.arrive(item) for item in "abcd"] == [True, True, False, False]
    assert (box.running, box.waiting) == (2, 2)
    assert [box.leave(), box.leave()] == ["c", "d"]
    assert [box.leave(), box.leave()] == [None, None]
    assert (box.running, box.waiting) == (0, 0)


def test_one_who_finds_it_full_is_told_when_to_come_back() -> None:
    box: Mailbox[str] = Mailbox(size=1, concurrency=1)
    box.arrive("runs")
    box.arrive("waits")
    with pytest.raises(Overloaded) as refusal:
        box.arrive("turned away", mean_seconds=0.5)
    assert refusal.value.retry_after == 1.0
    assert box.waiting == 1


@pytest.mark.parametrize(("mean", "after"), [(0.0, RETRY_SECONDS_MIN), (1e9, RETRY_SECONDS_MAX)])
def test_the_advice_is_neither_at_once_nor_never(mean: float, after: float) -> None:
    box: Mailbox[str] = Mailbox(size=1, concurrency=1)
    box.arrive("runs")
    box.arrive("waits")
    with pytest.raises(Overloaded) as refusal:
        box.arrive("turned away", mean_seconds=mean)
    assert refusal.value.retry_after == after


def test_the_sender_with_most_waiting_gives_a_place_to_others_until_all_have_as_many() -> None:
    turned_away: list[str] = []
    box: Mailbox[str] = Mailbox(size=4, concurrency=1, turn_away=lambda item, why: turned_away.append(item))
    for item in ("runs", "a1", "a2", "a3", "a4"):
        box.arrive(item, "alice")
    assert not box.arrive("b1", "bob")
    assert not box.arrive("b2", "bob")
    assert turned_away == ["a4", "a3"], "the newest go first"
    for sender in ("alice", "bob"):
        with pytest.raises(Overloaded):
            box.arrive("more", sender)
    assert not box.arrive("c1", "carol")
    assert [box.leave() for _ in range(4)] == ["a1", "b1", "b2", "c1"]


def test_a_crowd_of_senders_gives_places_to_others_and_then_shares_its_own() -> None:
    turned_away: list[str] = []
    box: Mailbox[str] = Mailbox(size=4, concurrency=1, turn_away=lambda item, why: turned_away.append(item))
    box.arrive("runs")
    for number in range(4):
        box.arrive(f"crowd {number}", number, crowd="crowd")
    for number in range(2):
        assert not box.arrive(f"honest {number}", "honest", crowd="home")
    assert turned_away == ["crowd 0", "crowd 1"], "none of the crowd has more waiting than another"
    with pytest.raises(Overloaded):
        box.arrive("crowd 4", 4, crowd="crowd")
    with pytest.raises(Overloaded):
        box.arrive("honest 2", "honest", crowd="home")
    assert not box.arrive("neighbour", "neighbour", crowd="home")
    assert turned_away[2:] == ["honest 1"], "who has most at home"
    assert [box.leave() for _ in range(4)] == ["crowd 2", "crowd 3", "honest 0", "neighbour"]


def test_one_who_gives_up_waiting_makes_room() -> None:
    box: Mailbox[str] = Mailbox(size=1, concurrency=1)
    box.arrive("runs")
    box.arrive("gives up")
    box.withdraw("gives up")
    assert not box.arrive("waits")
    assert box.leave() == "waits"


@given(
    size=st.integers(1, 4),
    concurrency=st.integers(1, 4),
    steps=st.lists(st.sampled_from(["arrive", "leave", "withdraw"]), max_size=60),
)
def test_bounds_hold_and_nobody_is_forgotten_or_overtaken(size: int, concurrency: int, steps: list[str]) -> None:
    box: Mailbox[int] = Mailbox(size, concurrency)
    queue: list[int] = []
    running = 0
    for number, step in enumerate(steps):
        if step == "arrive":
            try:
                if box.arrive(number):
                    assert not queue
                    running += 1
                else:
                    queue.append(number)
            except Overloaded:
                assert len(queue) == size
        elif step == "leave" and running:
            following = box.leave()
            assert following == (queue.pop(0) if queue else None)
            running -= following is None
        elif step == "withdraw" and queue:
            box.withdraw(queue.pop())
        assert (box.running, box.waiting) == (running, len(queue))
        assert running <= concurrency
        assert len(queue) <= size
        assert not queue or running == concurrency
