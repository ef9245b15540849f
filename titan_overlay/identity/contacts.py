"""A contact: where a peer can be reached, and how that is packed.

A node may have an address of each family, IPv4 and IPv6. It stays one contact: one place in a table, one session, one
holder of an object. Two contacts for one node would count twice wherever nodes are counted (copies, answers, subnets).
A node that has one family alone drops what it could not dial anyway (`within`), so it never learns to.
"""

import socket
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from kademlia.node import Node

from titan_overlay.identity.ids import NodeId

Address = tuple[str, int]
"""A literal IP address and a port, of UDP and TCP alike."""

IPV4, IPV6 = 4, 6
PACKED_BYTES = {IPV4: 6, IPV6: 18}


class Contact(Node):  # type: ignore[misc]
    """A peer as this node sees it: `id` (32 bytes), `ip` (text), `port`, and perhaps an address of the other family.

    The first address is the one to use by whoever can: IPv4 where there are two.
    """

    id: NodeId
    ip: str
    port: int

    def __init__(
        self, id: NodeId, ip: str | None = None, port: int | None = None, other: Address | None = None
    ) -> None:
        super().__init__(id, ip, port)
        self.other = other
        """The IPv6 address of a node that is known by IPv4 already."""
        self.address: Address = (self.ip, self.port)
        self.addresses = (self.address,) if other is None else (self.address, other)
        """One, or two: IPv4 first."""

    def within(self, families: Collection[int]) -> "Contact | None":
        """The contact as far as these families reach it; None: not at all."""
        usable = [each for each in self.addresses if family(each[0]) in families]
        if len(usable) == len(self.addresses):
            return self
        return Contact(self.id, *usable[0]) if usable else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contact) and (self.id, self.ip, self.port) == (
            other.id,
            other.ip,
            other.port,
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Contact({self.id.hex()[:12]}@{self.ip}:{self.port})"


def of_addresses(node: NodeId, *addresses: Address) -> Contact:
    """A contact with one address, or with one of each family."""
    by_family = {family(address[0]): address for address in addresses}
    first, *more = (by_family[each] for each in sorted(by_family))
    return Contact(node, *first, *more)


def family(ip: str) -> int:
    """`IPV4` or `IPV6`, of a literal address."""
    return IPV6 if ":" in ip else IPV4


def is_dialable(host: str, port: int) -> bool:
    """Whether one machine may be there: a literal address, as what a stranger says must be.

    A name would be looked up wherever its owner likes, and for a datagram while everything else waits.
    """
    return 0 < port < 65536 and len(host) < 46 and _is_unicast(host)


@lru_cache(maxsize=65536)
def _is_unicast(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified or "%" in host)


def pack_address(address: Address) -> bytes:
    """6 or 18 bytes for a literal address and a port. OSError: it is none."""
    ip, port = address
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) + port.to_bytes(2, "big")


def unpack_address(packed: bytes) -> Address:
    """What `pack_address` packed. ValueError: neither 6 nor 18 bytes."""
    version = socket.AF_INET if len(packed) == PACKED_BYTES[IPV4] else socket.AF_INET6
    return socket.inet_ntop(version, packed[:-2]), int.from_bytes(packed[-2:], "big")


def pack_addresses(contact: Contact) -> bytes:
    """6, 18 or 24 bytes: where a contact can be reached. OSError: an address is not literal."""
    return b"".join(map(pack_address, contact.addresses))


def unpack_addresses(packed: bytes) -> tuple[Address, ...]:
    """What `pack_addresses` packed. ValueError: another length."""
    if len(packed) == PACKED_BYTES[IPV4] + PACKED_BYTES[IPV6]:
        return unpack_address(packed[: PACKED_BYTES[IPV4]]), unpack_address(packed[PACKED_BYTES[IPV4] :])
    return (unpack_address(packed),)


def format_address(address: Address) -> str:
    """`1.2.3.4:4747` or `[::1]:4747`."""
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
