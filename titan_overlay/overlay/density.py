"""How densely nodes lie in the id space: estimated, and tested. No I/O.

Ids of honest nodes are hashes, so they lie in the space like the points of a Poisson process, equally dense
everywhere. What is measured in one place holds in all others. It is never measured around the id in question: whoever
wants to hide an object grinds ids next to it, and would shrink the region that is meant to outlast that.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from math import exp, lgamma, log
from typing import NamedTuple

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS
from titan_overlay.overlay.routing import RoutingTable

SPACE = 1 << ID_BITS

SAMPLES = 8
"""Remembered; those of stale buckets come by the way."""
SAMPLES_MIN = 4
"""With its own view an odd number: two of them may be spoiled."""
FRESH_SECONDS = 120.0
"""Samples younger than this are not drawn anew, however little they fit; those that fit are looked at as often, and one
that could not be drawn is tried again."""
DOUBT = 1.5
"""The own neighbourhood may have changed by this factor since the samples were drawn before more are."""
STICKY_BITS = 0.7
"""A region stays as large as it is until it is off by this much; half a bit is what rounding costs anyway."""
SAMPLE_CLOSEST = 8
"""Closest nodes that a sample is drawn from."""


class Sample(NamedTuple):
    """The number of nodes, as one lookup showed it."""

    at: float
    nodes: float
    own: float
    """What the own neighbourhood showed at that time. It may be off for good, by chance: only its changes tell."""


class Density:
    """The number of nodes, as seen from the own neighbourhood and from lookups of random ids.

    The median of one's own view and of the last `SAMPLES` others: ids that crowd around this node spoil one of them,
    and so does a lookup that ran into liars.
    """

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._fitted = float("-inf")
        """When the pool was last seen to be as it was."""
        self._failed = float("-inf")
        """When a lookup last showed less of the pool than was known."""

    def observe(self, target: bytes, closest: Sequence[Contact], now: float) -> None:
        """A lookup of this random id ended: these are the closest that answered, closest first.

        Where they are fewer than the table alone has, the network was away: a median of such lookups would outlast
        that, and what is announced meanwhile would lie where nobody looks.
        """
        if len(closest) < min(SAMPLE_CLOSEST, max(1, len(self._table))):
            self._failed = now
            return
        nodes = nodes_from(target, closest[:SAMPLE_CLOSEST])
        self._samples.append(Sample(now, nodes, self._table.estimated_size()))

    def nodes(self) -> float:
        """Nodes in the overlay, this one included; 1 at least."""
        return max(1.0, _median([self._table.estimated_size(), *(each.nodes for each in self._samples)]))

    def region_bits(self, wanted: int, last: int = -1) -> int:
        """How many leading bits an id shares with about `wanted` others (within a factor of the square root of two).

        last: what it said before: still good within a factor of 1.6. Where the estimate wavers about the middle between
            two numbers, all regions would be looked up anew again and again.
        """
        exact = max(0.0, log(self.nodes() / wanted, 2))
        return last if abs(exact - last) < STICKY_BITS else round(exact)

    def is_doubtful(self, now: float) -> bool:
        """Whether to look one more random id up: there are few samples, or old ones, and the pool is not as it was."""
        if now - self._failed <= FRESH_SECONDS:
            return False
        if len(self._samples) < SAMPLES_MIN:
            return True
        if now - max(self._samples[0].at, self._fitted) <= FRESH_SECONDS:
            return False
        own, before = self._table.estimated_size(), _median(each.own for each in self._samples)
        if max(own, before) > DOUBT * min(own, before):
            return True
        self._fitted = now
        return False


def _median(values: Iterable[float]) -> float:
    """As of `statistics`, whose imports would be the larger part of a megabyte in each node."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def nodes_from(target: bytes, closest: Sequence[Contact]) -> float:
    """Nodes in the whole space, from the distances of the closest to one point of it.

    The k-th of n is at about k / n of the space; (k - 1) / distance is the estimate without bias.
    """
    if len(closest) < SAMPLE_CLOSEST:
        return float(len(closest) + 1)
    farthest: int = closest[-1].long_id ^ int.from_bytes(target, "big")
    return (len(closest) - 1) * (SPACE / max(1, farthest))


class Crowd(NamedTuple):
    """The least probable gathering of nodes around an id."""

    probability: float
    """Of so many nodes so close to one id, anywhere among `closest`, by chance alone."""
    gathered: int
    """Nodes in it."""
    expected: float
    """How many are to be expected there."""


def crowd(target: bytes, closest: Sequence[Contact], nodes: float) -> Crowd:
    """Tests whether ids were ground next to `target`.

    The number of nodes within a distance is Poisson with the mean nodes x distance / space. Every prefix of `closest`
    (closest first) is tested; as that is many tests, the smallest probability is multiplied by their number
    (Bonferroni).
    """
    wanted = int.from_bytes(target, "big")
    least = Crowd(1.0, 0, 0.0)
    for count, contact in enumerate(closest, 1):
        expected = nodes * ((contact.long_id ^ wanted) + 1) / SPACE
        probability = min(1.0, len(closest) * poisson_tail(count, expected))
        if probability < least.probability:
            least = Crowd(probability, count, expected)
    return least


def poisson_tail(count: int, mean: float) -> float:
    """The probability of `count` or more, where `mean` are expected."""
    if count <= 0:
        return 1.0
    if mean >= count:  # the sum from zero is the small part
        term = total = exp(-mean) if mean < 700 else 0.0
        for i in range(1, count):
            term *= mean / i
            total += term
        return max(0.0, 1.0 - total)
    if mean <= 0:
        return 0.0
    term = exp(count * log(mean) - mean - lgamma(count + 1))
    total, i = term, count
    while term > total * 1e-12:
        i += 1
        term *= mean / i
        total += term
    return min(1.0, total)
