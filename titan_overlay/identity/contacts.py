"""A contact: where a peer can be reached."""

from functools import lru_cache
from ipaddress import ip_address

from kademlia.node import Node

from titan_overlay.identity.ids import NodeId


class Contact(Node):  # type: ignore[misc]
    """A peer as this node sees it: `id` (32 bytes), `ip` (text), `port` (UDP and TCP alike)."""

    id: NodeId
    ip: str
    port: int

    @property
    def address(self) -> tuple[str, int]:
        return (self.ip, self.port)

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


@lru_cache(maxsize=65536)
def is_dialable(host: str, port: int) -> bool:
    """Whether one machine may be there: a literal address, as what a stranger says must be.

    A name would be looked up wherever its owner likes, and for a datagram while everything else waits.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return 0 < port < 65536 and not (address.is_multicast or address.is_unspecified or "%" in host)
