"""Subnets in the routing table: how many contacts of one may be in it, and how fast they come in. No I/O.

Ids cost an attacker little, addresses of many subnets more. Only public addresses are counted: behind a private one
there is a network that somebody knows and trusts, or a test.
"""

from collections import OrderedDict
from collections.abc import Iterable

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.subnets import public_subnet

PER_BUCKET = 2
PER_TABLE = 10
PAUSE_SECONDS = 30.0
"""Between two newcomers of one subnet: a burst of joins enters as a trickle."""
MAX_SUBNETS = 4096


class Subnets:
    """The account of one table."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._entered: OrderedDict[str, float] = OrderedDict()
        """When the last one of a subnet entered, the latest last."""

    def has_room(self, contact: Contact, beside: Iterable[Contact]) -> bool:
        """Whether the table, and a bucket with these contacts, may hold one more of its subnet."""
        net = public_subnet(contact.ip)
        if not net:
            return True
        return self._counts.get(net, 0) < PER_TABLE and self.fits(contact, beside)

    @staticmethod
    def fits(contact: Contact, beside: Iterable[Contact]) -> bool:
        """Whether fewer than `PER_BUCKET` of these are of its subnet."""
        net = public_subnet(contact.ip)
        return not net or sum(public_subnet(each.ip) == net for each in beside if each.id != contact.id) < PER_BUCKET

    def must_wait(self, contact: Contact, now: float) -> bool:
        """Whether another of its subnet has entered a moment ago."""
        return now - self._entered.get(public_subnet(contact.ip), float("-inf")) < PAUSE_SECONDS

    def enter(self, contact: Contact, now: float) -> None:
        """It is in the table now."""
        net = public_subnet(contact.ip)
        if net:
            self._counts[net] = self._counts.get(net, 0) + 1
            self._entered[net] = now
            self._entered.move_to_end(net)
            if len(self._entered) > MAX_SUBNETS:
                self._entered.popitem(last=False)

    def leave(self, contact: Contact) -> None:
        """It is no longer in the table."""
        net = public_subnet(contact.ip)
        if net:
            left = self._counts[net] - 1
            if left:
                self._counts[net] = left
            else:
                del self._counts[net]
