"""What each peer may ask for, and all keys of its subnet together. No I/O, no clock.

Keys cost nothing, and neither does coming back. So a peer's bucket outlives its sessions and links, and lies within one
of its subnet (`identity.subnets`), which is as large as those of a few peers: a place gets no more by having more keys.
In private networks each address is a subnet, and all programs of that machine share its bucket. Programs of this
machine are not metered.
"""

from collections import OrderedDict
from weakref import WeakValueDictionary

from titan_overlay.buckets import Bucket, Limit
from titan_overlay.identity.contacts import Address
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.subnets import is_loopback, subnet

PEERS_OF_A_SUBNET = 4
"""A subnet may ask for as much as so many of its peers."""


def together(limit: Limit) -> Limit:
    """Of all peers of a subnet, where one has this."""
    return Limit(PEERS_OF_A_SUBNET * limit.rate, PEERS_OF_A_SUBNET * limit.burst)


class _Unmetered(Bucket):
    """What programs of this machine ask for is its user's own business."""

    __slots__ = ()

    def take(self, amount: float, now: float) -> float:
        return 0.0

    def charge(self, amount: float, now: float, *, most: float = 0.0) -> float:
        return 0.0


UNMETERED: Bucket = _Unmetered(Limit(0, 0))


class Meters:
    """The buckets of peers and subnets. Of peers, the `peers_max` that came last are remembered.

    Args:
        limit: of one peer.
    """

    def __init__(self, limit: Limit, peers_max: int = 4096) -> None:
        self._limit = limit
        self._together = together(limit)
        self._peers_max = peers_max
        self._peers: OrderedDict[NodeId, Bucket] = OrderedDict()
        self._subnets: WeakValueDictionary[str, Bucket] = WeakValueDictionary()
        """As long as the bucket of one of its peers is there."""

    def of(self, peer: NodeId, address: Address) -> Bucket:
        """The bucket of a peer, which has just proven its key and comes from this address."""
        if is_loopback(address[0]):
            return UNMETERED
        net = subnet(*address)
        within = self._subnets.get(net)
        if within is None:
            within = self._subnets[net] = Bucket(self._together)
        bucket = self._peers.get(peer)
        if bucket is None:
            bucket = self._peers[peer] = Bucket(self._limit)
            if len(self._peers) > self._peers_max:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(peer)
        bucket.within = within
        return bucket
