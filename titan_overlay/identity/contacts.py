"""A contact: where a peer can be reached."""

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
