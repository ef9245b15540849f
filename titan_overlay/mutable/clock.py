"""What time it is for a group: the member that proposes says so, and one clock that is set wrong must move nothing.

Time that was agreed on never goes back: a leader whose clock is a year ahead would end all that ends by itself, and
nothing would end for a year after. So members tell one another what their clocks show, and the median counts.
"""

import math
from collections.abc import Iterable
from typing import Final

from titan_overlay.ambient import Ambient

WRONG_SECONDS: Final = 5.0
"""A clock this far from the median is wrong; messages take time, so by less nobody can tell."""


class Clock:
    """Of one member."""

    def __init__(self, ambient: Ambient) -> None:
        self._ambient = ambient
        self._heard: dict[bytes, float] = {}
        """What the clocks of others showed when the loop's time was 0, as far as they have said."""

    def heard(self, member: bytes, shows: float, now: float) -> None:
        """What another member's clock shows.

        Args:
            shows: unix seconds.
            now: loop time.
        """
        if math.isfinite(shows):
            self._heard[member] = shows - now

    def keep(self, members: Iterable[bytes]) -> None:
        """These are the members; others count no more."""
        self._heard = {each: self._heard[each] for each in members if each in self._heard}

    def time(self, now: float) -> float:
        """Unix seconds, as of this machine unless its clock is wrong. Of two clocks, the one that is behind is right:
        what ends late does less harm than what ends early.
        """
        own = self._ambient.wall()
        shown = sorted([own, *(zero + now for zero in self._heard.values())])
        median = shown[(len(shown) - 1) // 2]
        return own if abs(own - median) < WRONG_SECONDS else median
