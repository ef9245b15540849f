"""Where a node can be reached: what it listens on, what its operator says, what others see, what was tried."""

from ipaddress import ip_address

from titan_overlay.identity.contacts import Address, Contact, family, of_addresses
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.udp import EVERYWHERE, outgoing_ip


class Whereabouts:
    """The addresses of one node, by family (`IPV4`, `IPV6`)."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self.bound: dict[int, Address] = {}
        """What the sockets are bound to."""
        self.advertised: dict[int, Address] = {}
        """What the operator says that others dial."""
        self.observed: dict[int, Address] = {}
        """As the last peer saw this node."""
        self.dialable: frozenset[int] = frozenset()
        """Families in which others have reached this node, beside the first that it has."""

    @property
    def families(self) -> list[int]:
        """Those that this node can dial, and be dialled in."""
        return sorted(self.bound)

    @property
    def addresses(self) -> list[Address]:
        """Where others may reach this node, one of each family, IPv4 first. The first is what it is known by.

        Without the loopback's, where there is another.
        """
        found = [self._address(each) for each in self.families]
        return [each for each in found if not ip_address(each[0]).is_loopback] or found

    def _address(self, family: int) -> Address:
        ip, port = self.advertised.get(family) or self.bound[family]
        if ip in EVERYWHERE:  # a peer says which one it sees
            ip = self.observed[family][0] if family in self.observed else outgoing_ip(family)
        return ip, port

    @property
    def contact(self) -> Contact:
        """The node as others should know it."""
        first, *more = self.addresses
        return of_addresses(self._me, first, *(each for each in more if family(each[0]) in self.dialable))
