"""What a keeper counts about its work."""

from collections import deque

import msgspec

from titan_overlay.identity.ids import ObjectId

REPAIRS_MAX = 1024
"""Repairs that are remembered one by one."""


class Repair(msgspec.Struct, frozen=True):
    """One time that an object was short of copies and had enough again, as one holder saw it."""

    object_id: ObjectId
    restored: float
    """Loop time."""
    seconds_noticed: float
    """From noticing that copies were missing."""
    seconds_silent: float
    """From the last sign of life of the holder that went: at least as long as the object truly was short."""


class Figures:
    """Counters of one keeper since it was made."""

    __slots__ = (
        "below_min_seconds",
        "copies_made",
        "expired",
        "holders_lost",
        "lookups",
        "lost_content",
        "misses",
        "probes",
        "recruitings",
        "repairs",
        "repairs_done",
        "stepped_down",
    )

    def __init__(self) -> None:
        self.probes = 0
        self.misses = 0
        self.lookups = 0
        self.recruitings = 0
        """Times that new holders were sought."""
        self.copies_made = 0
        """Nodes that accepted."""
        self.holders_lost = 0
        self.stepped_down = 0
        self.expired = 0
        self.lost_content = 0
        """Replicas dropped because their bytes could not be read."""
        self.below_min_seconds = 0.0
        """Summed over objects, each as seen from here, up to the end of each repair."""
        self.repairs_done = 0
        self.repairs: deque[Repair] = deque(maxlen=REPAIRS_MAX)
        """The latest ones."""

    def counters(self) -> dict[str, float]:
        """All numbers by name."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "repairs"}
