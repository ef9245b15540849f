"""Token buckets: so much a second, so much at once. They keep one peer from taking everything. No I/O, no clock."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Bucket:
    """Fills with `rate` tokens a second, up to `burst`."""

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled = now

    def take(self, amount: float, now: float) -> float:
        """0: taken. Otherwise the seconds after which it is worth asking again; nothing was taken.

        More than `burst` is taken where the bucket is full, and owed.
        """
        tokens = self._tokens + (now - self._filled) * self._rate
        self._filled = now
        if tokens > self._burst:
            tokens = self._burst
        if tokens >= amount or tokens == self._burst:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        return (min(amount, self._burst) - tokens) / self._rate


class Buckets(Generic[Key]):
    """A bucket for each key (a peer, a subnet), of which the `keys_max` used last are remembered."""

    def __init__(self, rate: float, burst: float, keys_max: int = 4096) -> None:
        self._rate = rate
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()

    def take(self, key: Key, amount: float, now: float) -> float:
        """As `Bucket.take`, from the bucket of this key."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > self._keys_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(amount, now)
