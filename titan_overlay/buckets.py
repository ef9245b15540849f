"""Token buckets: so much a second, so much at once. They keep one peer from taking everything. No I/O, no clock.

All that is known of a bucket is when it will be full again (GCRA, ITU-T I.371, annex A), so one that is full need not
be remembered.
"""

import math
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


class Bucket:
    """One bucket; it begins full.

    Args:
        within: what is taken from this bucket is taken from that one as well, or from neither.
    """

    __slots__ = ("__weakref__", "_burst", "_rate", "full", "within")

    def __init__(self, limit: Limit, within: "Bucket | None" = None) -> None:
        self._rate, self._burst = limit
        self.full = float("-inf")
        """When it is full again; in the past: it is."""
        self.within = within

    def take(self, amount: float, now: float) -> float:
        """0: taken. Otherwise the seconds after which it is worth asking again; nothing was taken.

        More than `burst` is taken where the bucket is full, and owed.
        """
        full, rate = self.full, self._rate
        if full <= now:
            full = now
        elif (missing := (full - now) * rate) > ROUNDING and missing + amount > self._burst + ROUNDING:
            return (missing + min(amount, self._burst) - self._burst) / rate
        if self.within is not None and (wait := self.within.take(amount, now)):
            return wait
        self.full = full + amount / rate
        return 0.0

    def charge(self, amount: float, now: float, *, most: float = math.inf) -> float:
        """Takes it in any case. 0, or the seconds after which no more is owed than may be taken at once.

        Args:
            most: seconds; more is not owed. What surrounds this bucket owes a second, for it is others' as well.
        """
        at_once = self._burst / self._rate
        self.full = min(max(self.full, now) + amount / self._rate, max(self.full, now + at_once + most))
        wait = max(0.0, self.full - now - at_once)
        return wait if self.within is None else max(wait, self.within.charge(amount, now, most=1.0))


class Buckets(Generic[Key]):
    """A bucket for each key (a peer, a subnet). Of those that are not full, the `keys_max` used last are remembered."""

    def __init__(self, limit: Limit, keys_max: int = 4096) -> None:
        self._limit = limit
        self._keys_max = keys_max
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()

    def take(self, key: Key, amount: float, now: float) -> float:
        """As `Bucket.take`, from the bucket of this key."""
        buckets = self._buckets
        bucket = buckets.pop(key, None) or Bucket(self._limit)
        buckets[key] = bucket
        wait = bucket.take(amount, now)
        while buckets and (len(buckets) > self._keys_max or next(iter(buckets.values())).full <= now):
            buckets.popitem(last=False)
        return wait
