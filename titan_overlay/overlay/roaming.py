"""Roaming: a node that peers see at another address than before goes by the new one.

Whether they are to be believed is in `whereabouts.py`. What one peer says has the others asked anew; a node that serves
is not moved by words alone: it is told, and moves once others have dialled it there.
"""

import asyncio
from collections.abc import Callable

from titan_overlay.identity.contacts import Address, Contact, family
from titan_overlay.identity.subnets import is_loopback
from titan_overlay.overlay.routing import RoutingTable
from titan_overlay.overlay.whereabouts import Whereabouts, witnesses

ASKED_AROUND, ASK_AROUND_SECONDS = 4, 300.0
"""Peers that are asked anew when one sees this node at another address, and how seldom."""


class Roaming:
    """Keeps the addresses of one node to what peers see of it.

    Args:
        serving: whether others reach this node at its address.
        meet_again: has a peer shake hands anew, and so say at which address it sees this node.
    """

    def __init__(
        self,
        whereabouts: Whereabouts,
        table: RoutingTable,
        *,
        serving: Callable[[], bool],
        meet_again: Callable[[Contact], None],
    ) -> None:
        self._whereabouts = whereabouts
        self._table = table
        self._serving = serving
        self._meet_again = meet_again
        self.on_moved: Callable[[], None] = lambda: None
        """Told when this node is at another address than before."""
        self.on_seen: Callable[[str], None] | None = None
        """Told at which IP address others see this node, which serves at another; it may `move` there."""
        self._ask_around_at = 0.0

    def observed(self, by: Contact, address: Address) -> None:
        """A peer sees this node at this address."""
        ip, version = address[0], family(address[0])
        if not self._whereabouts.is_open(version) or (self._serving() and is_loopback(ip)):
            return  # who serves does not withdraw into its own machine
        news = self._whereabouts.heard(by, ip)
        if not self._follow(address) and news and ip != self._whereabouts.address(version)[0]:
            self._ask_around(address)

    def silent(self, peer: Contact) -> None:
        """A peer does not answer: what it saw counts no more."""
        for version, sightings in self._whereabouts.sightings.items():
            if sightings.forget(peer):
                self._follow(self._whereabouts.address(version))

    def _follow(self, address: Address) -> bool:
        """Whether those who see this node elsewhere are to be believed."""
        version = family(address[0])
        verdict = self._whereabouts.verdict(version, witnesses(self._table, address))
        if verdict == self._whereabouts.address(version)[0]:
            return False
        if self._serving() and self.on_seen is not None:
            self.on_seen(verdict)
        else:  # nobody is told of an address at which it does not serve
            self.move(verdict)
        return True

    def _ask_around(self, address: Address) -> None:
        """A peer sees this node elsewhere: either it lies, or the others have not met this node since it moved."""
        now = asyncio.get_running_loop().time()
        if now >= self._ask_around_at:
            self._ask_around_at = now + ASK_AROUND_SECONDS
            sightings, others = self._whereabouts.sightings[family(address[0])], witnesses(self._table, address)
            for peer in sightings.otherwise(address[0], others.values())[:ASKED_AROUND]:
                self._meet_again(peer)

    def move(self, ip: str) -> None:
        """This node is at another address from now on."""
        before = self._whereabouts.contact.addresses
        self._whereabouts.observed[family(ip)] = ip
        if self._whereabouts.contact.addresses != before:
            self.on_moved()
