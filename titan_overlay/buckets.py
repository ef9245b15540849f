"""Token buckets: so much a second, so much at once. They keep one peer from taking everything. No I/O, no clock.

All that is known of a bucket is when it will be full again (GCRA, ITU-T I.371, annex A), so one that is full need not
be remembered.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)

ROUNDING = 1e-6
"""Tokens by which times may be off."""


class Limit(NamedTuple):
    """Buckets of this kind fill with `rate` tokens a second, up to `burst`."""

    rate: float
    burst: float

    def take(self, full: float, amount: float, now: float) -> tuple[float, float]:
        """(0, when the bucket is full again): taken. (seconds after which it is worth asking again, `full`): not taken.

        More than `burst` is taken where the bucket is full, and owed.

        Args:
            full: when the bucket is full; in the past: it is.
        """
        missing = max(0.0, full - now) * self.rate
        if not missing or missing + amount <= self.burst + ROUNDING:
            return 0.0, max(full, now) + amount / self.rate
        return (missing + min(amount, self.burst) - self.burst) / self.rate, full


NO_LIMIT = Limit(rate=1e12, burst=1e12)
"""What programs of this machine ask for is its user's own business."""


class Bucket:
    """One bucket; it begins full."""

    __slots__ = ("_full", "_limit")

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._full = float("-inf")

    def take(self, amount: float, now: float) -> float:
        """0: taken. Otherwise the seconds after which it is worth asking again; nothing was taken."""
        wait, self._full = self._limit.take(self._full, amount, now)
        return wait


class Buckets(Generic[Key]):
    """A bucket for each key (a peer, a subnet). Of those that are not full, the `keys_max` used last are remembered."""

    def __init__(self, limit: Limit, keys_max: int = 4096) -> None:
        self._limit = limit
        self._keys_max = keys_max
        self._full: OrderedDict[Key, float] = OrderedDict()

    def take(self, key: Key, amount: float, now: float) -> float:
        """As `Bucket.take`, from the bucket of this key."""
        wait, self._full[key] = self._limit.take(self._full.pop(key, now), amount, now)
        while self._full and (len(self._full) > self._keys_max or next(iter(self._full.values())) <= now):
            self._full.popitem(last=False)
        return wait
