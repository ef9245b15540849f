"""A dict that is walked through while it changes is, but for that, a dict."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.mutable.walkable import WalkableDict

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 6), st.integers(0, 99)),
        st.tuples(st.just("delete"), st.integers(0, 6), st.just(0)),
        st.tuples(st.just("walk"), st.just(0), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("close"), st.just(0), st.just(0)),
        st.tuples(st.just("clear"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_is_the_dict_that_it_seems_to_be_and_a_walk_sees_one_moment(steps: list[Any]) -> None:
    ours: WalkableDict[int, int] = WalkableDict()
    plain: dict[int, int] = {}
    walks: list[tuple[Iterator[tuple[int, int]], list[tuple[int, int]]]] = []
    for what, a, b in steps:
        if what == "set":
            ours[a] = plain[a] = b
        elif what == "delete":
            assert ours.pop(a, None) == plain.pop(a, None)
        elif what == "clear":
            ours.clear()
            plain.clear()
        elif what == "walk":
            walks.append((ours.walk(), list(plain.items())))
        elif what == "step" and walks:
            walk, expected = walks[0]
            for _ in range(a):
                assert next(walk, None) == (expected.pop(0) if expected else None)
        elif what == "close" and walks:
            walk, expected = walks.pop(0)
            assert list(walk) == expected
        assert list(ours.items()) == list(plain.items())
        assert (len(ours), ours.get(3), 5 in ours) == (len(plain), plain.get(3), 5 in plain)
    for walk, expected in walks:
        assert list(walk) == expected
    assert list(ours.items()) == list(plain.items())


def test_a_walk_that_is_closed_early_leaves_everything_in_order() -> None:
    ours: WalkableDict[str, int] = WalkableDict()
    ours["a"] = 1
    ours["b"] = 2
    walk = ours.walk()
    assert next(walk) == ("a", 1)
    del ours["a"]
    ours["a"] = 3
    walk.close()  # type: ignore[attr-defined]
    assert list(ours.items()) == [("b", 2), ("a", 3)]
    with pytest.raises(KeyError):
        del ours["none"]


def test_none_is_a_value_like_any_other() -> None:
    ours: WalkableDict[str, None] = WalkableDict()
    walk = ours.walk()
    ours["a"] = None
    assert ours["a"] is None and "a" in ours
    assert list(walk) == []


class Counted:
    """A key that counts how often one of its kind is compared or hashed."""

    looked_at = 0

    def __hash__(self) -> int:
        Counted.looked_at += 1
        return id(self)


@pytest.mark.parametrize("walking", [False, True])
def test_to_clear_it_looks_at_no_key_more_than_a_dict_does(walking: bool) -> None:
    """Entry by entry it took 13 seconds for 80,000, and as long for 8,000 during a walk."""
    ours: WalkableDict[Counted, int] = WalkableDict()
    ours.update((Counted(), n) for n in range(100))
    walk = ours.walk() if walking else None
    Counted.looked_at = 0
    ours.clear()
    assert (Counted.looked_at, len(ours), list(ours)) == (0, 0, [])
    assert walk is None or len(list(walk)) == 100
    assert not ours


@pytest.mark.parametrize("walking", [False, True])
def test_who_adds_or_removes_keys_in_a_loop_over_them_is_told_so_whether_there_is_a_walk_or_not(walking: bool) -> None:
    """Members of a group walk at different times, and a handler must come to the same at all of them."""
    ours: WalkableDict[int, int] = WalkableDict()
    ours.update((n, n) for n in range(4))
    walk = ours.walk() if walking else None
    for key in ours:
        ours[key] = key * 10
    keys = iter(ours)
    del ours[next(keys)]
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        next(keys)
    keys = iter(ours)
    ours[next(keys) + 10] = 0
    with pytest.raises(RuntimeError, match="changed size during iteration"):
        next(keys)
    assert list(ours.items()) == [(1, 10), (2, 20), (3, 30), (11, 0)]
    assert walk is None or list(walk) == [(n, n) for n in range(4)]
