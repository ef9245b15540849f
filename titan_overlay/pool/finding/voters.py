"""Who may vote together: holders of distinct owners and distinct subnets, as far as either can be seen. No I/O.

A holder's owner is not written anywhere. What is visible is its node, its address, and where its right to host comes
from. A grant of the pool's own key is given to one node, and says nothing more; but of what another key has passed on
(an invitation's, too) that key could have made any number of nodes, so all holders that have their right from it count
as its own. In private networks, where neither owners nor subnets can be told apart, each address counts.

Who may host the object can say that it holds it without being asked, and liars all would: they would be most of those
that say so. So voters are drawn along the lineages of holders (`identity.lineage`), a tree that begins at the
publisher. Each of its branches is as likely as those beside it, whatever grows on it: whom honest hands have asked,
at random, lies as often as nodes do in general, and a liar that asks its friends shares with them what it had alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import grants, lineage
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor
from titan_overlay.identity.subnets import subnet
from titan_overlay.overlay.bodies import is_public

T = TypeVar("T")


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


def shares(paths: Mapping[T, Sequence[NodeId]]) -> dict[T, float]:
    """How likely each is to be drawn: walks from the publisher that turn into any branch alike, and end at it.

    Args:
        paths: from the publisher to each, which is the last on its own.

    Returns:
        Probabilities; their sum is 1, unless there are none.
    """
    found: dict[T, float] = {}
    walks = [(1.0, 0, list(paths))] if paths else []
    while walks:
        share, depth, here = walks.pop()
        branches: defaultdict[NodeId, list[T]] = defaultdict(list)
        ends = [each for each in here if len(paths[each]) == depth]
        for each in here:
            if len(paths[each]) > depth:
                branches[paths[each][depth]].append(each)
        share /= len(branches) + len(ends)
        found |= dict.fromkeys(ends, share)
        walks += [(share, depth + 1, branch) for branch in branches.values()]
    return found


def asked_to(
    holders: Iterable[Signed[Advertisement]], descriptor: Signed[Descriptor], pool: PoolId
) -> dict[Signed[Advertisement], float]:
    """Those of the holders that were asked to hold it, and how likely each should be to vote."""
    paths = {holder: lineage.shown(holder, descriptor, pool) for holder in holders}
    return shares({holder: path for holder, path in paths.items() if path})
