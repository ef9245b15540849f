"""Traffic of a whole pool by purpose, the dead included."""

from collections.abc import Awaitable, Callable
from typing import Any

from titan_overlay.node import Node
from titan_overlay.testing import MemoryNetwork

REPAIR_TYPES = frozenset({"titan.Recruit", "titan.Fetch", "titan.Manifest", "titan.Bundle"})
"""Messages over links that make copies. Messages of the simulated users are of other types."""
FRAME_BYTES = 96
"""Frame header, request id, object id, deadline: on top of a body, request and reply together (rounded up)."""


class Accounts:
    """Sums over all nodes that ever lived. All bytes are bytes *sent*: what is received is the same again."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._retired: dict[str, int] = {}
        self._live: dict[int, Node] = {}
        self.repair_bytes = 0
        self.repair_requests = 0

    def open(self, number: int, node: Node) -> None:
        """A node has started."""
        self._live[number] = node
        node.links.request = self._counting(node.links.request)  # type: ignore[assignment,method-assign]

    def close(self, number: int) -> None:
        """A node goes: what it counted stays."""
        node = self._live.pop(number, None)
        if node is not None:
            _add(self._retired, node.overlay.counters)

    def total(self) -> dict[str, int]:
        """Counters of all overlays summed, and `repair_bytes`, `link_bytes`, `udp_bytes`, `udp_datagrams`."""
        total = dict(self._retired)
        for node in self._live.values():
            _add(total, node.overlay.counters)
        hosts = self._network.hosts.values()
        total["repair_bytes"] = self.repair_bytes
        total["repair_requests"] = self.repair_requests
        total["link_bytes"] = sum(host.stream_bytes_sent for host in hosts)
        total["udp_bytes"] = sum(host.bytes_sent + 28 * host.datagrams_sent for host in hosts)
        total["udp_datagrams"] = sum(host.datagrams_sent for host in hosts)
        return total

    def _counting(self, request: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
        async def counted(contact: Any, object_id: bytes, type: str, body: bytes, **options: Any) -> bytes:
            reply = await request(contact, object_id, type, body, **options)
            if type in REPAIR_TYPES:
                self.repair_requests += 1
                self.repair_bytes += len(body) + len(reply) + len(type) + FRAME_BYTES
            return reply

        return counted


def difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """What was added."""
    return {key: value - before.get(key, 0) for key, value in after.items()}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
