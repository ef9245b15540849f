"""Who may come in: how many connections, from where, how fast.

Strangers compete for places, and addresses are what a stranger cannot have many of. So when places are short, the
subnet (`identity.subnets`) that has the most gives one up, even if requests are under way on all it has: whoever
connects in crowds pushes out its own crowd, and nobody keeps places by keeping them busy.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from titan_overlay.buckets import Buckets, Limit
from titan_overlay.links.shared import Counters, Limits

FEW = 4
"""Links of one subnet that are no crowd yet."""


class Incoming(Protocol):
    """An inbound link, as far as the gate is concerned."""

    subnet: str
    used: float

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
        """Ends a link of the largest crowd, one without requests if there is any; whether a place is free now.

        A few links of one subnet are no crowd: requests of theirs go on while any link without requests may end, which
        costs its peer no more than another handshake.
        """
        crowds = Counter(each.subnet for each in self._inside)
        mine = crowds[newcomer]

        def may_go(each: Incoming) -> bool:
            if each.subnet == newcomer:
                return each.quiet
            return crowds[each.subnet] > mine + (not each.quiet)  # requests end only where shares become more equal

        def last_to_go(each: Incoming) -> tuple[int, bool, int, float]:
            size = crowds[each.subnet]
            return -size if size > FEW else 0, not each.quiet, -size, each.used

        loser = min(filter(may_go, self._inside), key=last_to_go, default=None)
        if loser is None:
            return False
        loser.fail("this node has too many links, and this one could best be spared")
        return True


def _of_largest_crowd(links: Iterable[Incoming]) -> Incoming:
    """The oldest link of the subnet that has the most."""
    crowds: dict[str, list[Incoming]] = {}
    for each in links:
        crowds.setdefault(each.subnet, []).append(each)
    return max(crowds.values(), key=len)[0]
