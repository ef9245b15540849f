"""Who may vote together: holders of distinct owners and distinct subnets, as far as either can be seen. No I/O.

A holder's owner is not written anywhere. What is visible is its node, its address, and who granted it the right to
host. Grants of the pool's key are given one by one, and say nothing more; but all holders that another key has granted
count as that key's, for it could have granted any number of its own.
"""

from collections.abc import Callable, Iterable

from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.records import Signed, claimed_key
from titan_overlay.identity.statements import Advertisement
from titan_overlay.identity.subnets import subnet


def owner_of(holder: Signed[Advertisement], pool: PoolId) -> bytes:
    """The key that stands for whoever owns this holder, as far as that can be seen."""
    try:
        grantor = claimed_key(holder.value.grant) if holder.value.grant else pool
    except BadMessage:
        grantor = pool
    return holder.public if grantor == pool else grantor


def distinct(
    holders: Iterable[Signed[Advertisement]], pool: PoolId, contact_of: Callable[[Signed[Advertisement]], Contact]
) -> list[Signed[Advertisement]]:
    """Of several that share an owner or a subnet the first; of those without a literal address, none."""
    seen: set[object] = {""}
    chosen = []
    for holder in holders:
        contact = contact_of(holder)
        marks: set[object] = {owner_of(holder, pool), subnet(contact.ip, contact.port)}
        if not marks & seen:
            seen |= marks
            chosen.append(holder)
    return chosen
