"""Who may vote together: holders of distinct owners and distinct subnets, as far as either can be seen. No I/O.

A holder's owner is not written anywhere. What is visible is its node, its address, and where its right to host comes
from. A grant of the pool's own key is given to one node, and says nothing more; but of what another key has passed on
(an invitation's, too) that key could have made any number of nodes, so all holders that have their right from it count
as its own. In private networks, where neither owners nor subnets can be told apart, each address counts.
"""

from collections.abc import Callable, Iterable

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import grants
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement
from titan_overlay.identity.subnets import subnet
from titan_overlay.overlay.bodies import is_public


def owner_of(holder: Signed[Advertisement], pool: PoolId) -> NodeId:
    """The key that stands for whoever owns this holder: the first one, on from the pool's, that could make others."""
    try:
        chain = grants.chain(holder.value.grant, pool)
    except (BadMessage, Forbidden):  # there are objects that anyone may hold
        return holder.signer
    return NodeId(chain[0].value.grantee) if len(chain) > 1 else holder.signer


def distinct(
    holders: Iterable[Signed[Advertisement]], pool: PoolId, contact_of: Callable[[Signed[Advertisement]], Contact]
) -> list[Signed[Advertisement]]:
    """Of several that share an owner or a subnet (by any of their addresses) the first."""
    seen: set[object] = {""}
    chosen = []
    for holder in holders:
        addresses = contact_of(holder).addresses
        marks: set[object] = {subnet(*each) for each in addresses}
        marks.add(owner_of(holder, pool) if any(is_public(ip) for ip, _ in addresses) else holder.signer)
        if not marks & seen:
            seen |= marks
            chosen.append(holder)
    return chosen
