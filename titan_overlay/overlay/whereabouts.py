"""Where a node can be reached: what it listens on, what its operator says, what others see, what was tried."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from titan_overlay.identity.contacts import Address, Contact, family, of_addresses
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.overlay.bodies import is_public
from titan_overlay.overlay.udp import EVERYWHERE, outgoing_ip

WITNESSES, WITNESSES_PER_SUBNET = 16, 4
"""Peers whose last word is remembered, of each family: more than ask to be believed, and few of one subnet."""


PRIVATE_ASKED, PUBLIC_ASKED = 3, 6
"""Peers that are asked about one address, at most."""


class _Word(NamedTuple):
    by: Contact
    subnet: str
    ip: str


class Sightings:
    """What peers see as this node's IP address in one family: the last word of each.

    Any of them may lie, so a subnet has one voice, however many speak there; and where as many say one thing as
    another, it stays as it was.
    """

    def __init__(self) -> None:
        self._words: dict[NodeId, _Word] = {}
        """The latest last."""

    def heard(self, by: Contact, ip: str) -> bool:
        """A peer has said so. Returns whether that is news from it."""
        word = _Word(by, subnet(*by.address), ip)
        before = self._words.pop(by.id, None)
        beside = [peer for peer, each in self._words.items() if each.subnet == word.subnet]
        if len(beside) >= WITNESSES_PER_SUBNET:
            del self._words[beside[0]]
        elif len(self._words) >= WITNESSES:
            del self._words[next(iter(self._words))]
        self._words[by.id] = word
        return before != word

    def forget(self, peer: Contact) -> bool:
        """It does not answer: it cannot know any more. Returns whether it had said anything.

        Only if it spoke from there: anybody may name it at an address where nobody is.
        """
        word = self._words.get(peer.id)
        if word is None or peer.address not in word.by.addresses:
            return False
        del self._words[peer.id]
        return True

    def verdict(self, current: str, own: str, others: Iterable[str]) -> str:
        """The address to go by. Another than `current` has more voices, and two at least, of which the machine's `own`
        view may be one; or all who could say something are of one subnet (`others`: of those that could be asked).
        Peers on the same machine know only how that sees itself: they count where there are no others.
        """
        words = [each for each in self._words.values() if not is_loopback(each.by.ip)] or list(self._words.values())
        voices = Counter(ip for _, ip in {(each.subnet, each.ip) for each in words})
        peers = Counter(each.ip for each in words)
        voices[own] += 1
        best = max(peers, key=lambda ip: (voices[ip], peers[ip]), default=current)
        if (voices[best], peers[best]) <= (voices[current], peers[current]):
            return current
        alone = len({*others, *(each.subnet for each in words)}) == 1
        return best if voices[best] > 1 or alone else current

    def otherwise(self, ip: str, others: Iterable[Contact]) -> list[Contact]:
        """Peers that have last seen another address than this, the latest first; then others that have said nothing."""
        differ = [each.by for each in reversed(self._words.values()) if each.ip != ip]
        return differ + [each for each in others if each.id not in self._words]


def witnesses(peers: Iterable[Contact], address: Address) -> dict[str, Contact]:
    """Whom to ask about an address, by subnet: peers that may say something about it, of as many as there are."""
    public, here = is_public(address[0]), is_loopback(address[0])
    found: dict[str, Contact] = {}
    for peer in peers:
        for ip, port in peer.addresses:
            if (family(ip), is_public(ip), is_loopback(ip)) == (family(address[0]), public, here):
                found.setdefault(subnet(ip, port), peer)
    return dict(islice(found.items(), PUBLIC_ASKED if public else PRIVATE_ASKED))


class Whereabouts:
    """The addresses of one node, by family (`IPV4`, `IPV6`)."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self.bound: dict[int, Address] = {}
        """What the sockets are bound to."""
        self.advertised: dict[int, Address] = {}
        """What the operator says that others dial."""
        self.observed: dict[int, str] = {}
        """The IP address that peers see, where the sockets and the operator leave it open."""
        self.sightings: dict[int, Sightings] = {}
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
        found = [self.address(each) for each in self.families]
        return [each for each in found if len(found) == 1 or not is_loopback(each[0])] or found

    def address(self, family: int) -> Address:
        """The one of this family, which the node must have."""
        ip, port = self.advertised.get(family) or self.bound[family]
        if ip in EVERYWHERE:  # peers say which one they see
            ip = self.observed.get(family) or outgoing_ip(family)
        return ip, port

    def is_open(self, family: int) -> bool:
        """Whether peers are to say at which address they see this node."""
        return family not in self.advertised and family in self.bound and self.bound[family][0] in EVERYWHERE

    def heard(self, by: Contact, ip: str) -> bool:
        """A peer sees this node there, where that `is_open`. Returns whether that is news from it."""
        return self.sightings.setdefault(family(ip), Sightings()).heard(by, ip)

    def verdict(self, version: int, others: Iterable[str]) -> str:
        """At which IP address of this family peers see the node, as far as they are to be believed."""
        return self.sightings[version].verdict(self.address(version)[0], outgoing_ip(version), others)

    @property
    def contact(self) -> Contact:
        """The node as others should know it."""
        first, *more = self.addresses
        return of_addresses(self._me, first, *(each for each in more if family(each[0]) in self.dialable))
