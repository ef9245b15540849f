"""Who may come in: how many connections, from where, how fast.

Strangers compete for places, and addresses are what a stranger cannot have many of. So when places are short, the
subnet (`identity.subnets`) that has the most gives one up: whoever connects in crowds pushes out its own crowd.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from titan_overlay.buckets import Buckets, Limit
from titan_overlay.links.shared import Counters, Limits


class Incoming(Protocol):
    """An inbound link, as far as the gate is concerned."""

    subnet: str
    used: float

    @property
    def known_peer(self) -> bool:
        """It has said who it is."""
        ...

    @property
    def quiet(self) -> bool: ...
    def fail(self, reason: str, *, abort: bool = False) -> None: ...


class Gate:
    """The inbound links of one node, oldest first."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._inside: dict[Incoming, None] = {}
        self._half_open: dict[Incoming, None] = {}
        self._arrivals: Buckets[str] = Buckets(Limit(limits.arrivals_per_second, limits.arrivals_at_once))

    @property
    def half_open(self) -> int:
        """Links that have not said who they are."""
        return len(self._half_open)

    @property
    def inside(self) -> int:
        return len(self._inside)

    def arrived(self, link: Incoming, now: float) -> str:
        """A connection came in; why it is refused, or empty. It counts until `gone` either way."""
        refusal = ""
        if self._arrivals.take(link.subnet, 1, now):
            refusal = "too many connections from your network in a short time"
        elif len(self._inside) >= self._limits.inbound_links and not self._make_room(link.subnet):
            refusal = "too many links"
        elif len(self._half_open) >= self._limits.half_open:
            # Refusing newcomers would let somebody who connects and says nothing lock everybody else out.
            self._counters.links_refused += 1
            _of_largest_crowd(self._half_open).fail("too many half-open links; it was the oldest", abort=True)
        self._counters.links_refused += bool(refusal)
        self._inside[link] = None
        self._half_open[link] = None
        return refusal

    def admitted(self, link: Incoming) -> None:
        """It has said who it is."""
        self._half_open.pop(link, None)

    def gone(self, link: Incoming) -> None:
        self._inside.pop(link, None)
        self._half_open.pop(link, None)

    def _make_room(self, newcomer: str) -> bool:
        """Ends a link without requests, the longest unused of the largest crowd; whether there was one."""
        quiet = [each for each in self._inside if each.known_peer and each.quiet]
        crowds = Counter(each.subnet for each in self._inside)
        if not quiet:
            return False
        loser = min(quiet, key=lambda each: (-crowds[each.subnet], each.used))
        if crowds[loser.subnet] <= crowds[newcomer] and loser.subnet != newcomer:
            return False  # the newcomer's own crowd is the largest, and all of it is busy
        loser.fail("this node has too many links; it was the longest unused")
        return True


def _of_largest_crowd(links: Iterable[Incoming]) -> Incoming:
    """The oldest link of the subnet that has the most."""
    crowds: dict[str, list[Incoming]] = {}
    for each in links:
        crowds.setdefault(each.subnet, []).append(each)
    return max(crowds.values(), key=len)[0]
