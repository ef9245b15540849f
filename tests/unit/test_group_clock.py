"""The time of a group: the median of its members' clocks."""

import math

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.mutable.clock import WRONG_SECONDS, Clock

YEAR = 3.15e7


class World:
    """A member whose own clock shows what it is told to."""

    def __init__(self) -> None:
        self.shows = 1000.0
        self.clock = Clock(Ambient(lambda: self.shows, random=None, token_bytes=bytes))  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [1000.0, 1000.0 + YEAR, 1000.0 - YEAR, 1000.0 + WRONG_SECONDS + 1])
def test_one_clock_of_three_that_is_wrong_moves_nothing(own: float) -> None:
    world = World()
    world.clock.heard(b"a", 1000.0, 50.0)
    world.clock.heard(b"b", 1001.0, 50.0)
    world.shows = own + 10
    assert 1010 <= world.clock.time(60.0) <= 1011


def test_a_clock_goes_on_while_nobody_is_heard() -> None:
    world = World()
    assert world.clock.time(50.0) == 1000.0
    world.clock.heard(b"a", 1000.0, 50.0)
    world.clock.heard(b"b", 1000.0, 50.0)
    world.shows += YEAR
    assert world.clock.time(80.0) == 1030.0, "its own has jumped since"


def test_its_own_clock_counts_where_others_only_seem_to_be_behind() -> None:
    world = World()
    world.clock.heard(b"a", 1000.0 - WRONG_SECONDS / 2, 50.0)
    world.clock.heard(b"b", 1000.0 - WRONG_SECONDS / 2, 50.0)
    assert world.clock.time(50.0) == 1000.0


def test_of_two_clocks_the_one_that_is_behind_counts() -> None:
    world = World()
    world.clock.heard(b"a", 1000.0 + YEAR, 50.0)
    assert world.clock.time(50.0) == 1000.0
    world.clock.heard(b"a", 1000.0 - YEAR, 50.0)
    assert world.clock.time(50.0) == 1000.0 - YEAR


@pytest.mark.parametrize("shows", [math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_not_heard(shows: float) -> None:
    world = World()
    world.clock.heard(b"a", shows, 50.0)
    assert world.clock.time(50.0) == 1000.0


def test_who_is_no_member_any_more_does_not_count() -> None:
    world = World()
    world.clock.heard(b"a", 1.0, 50.0)
    world.clock.keep([b"b"])
    assert world.clock.time(50.0) == 1000.0
