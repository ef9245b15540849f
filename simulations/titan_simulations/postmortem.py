"""Why a look-up or a message of an honest node failed, as far as the truth about the pool tells."""

from collections.abc import Collection

from titan_overlay.errors import BadMessage, NotFound, Unavailable
from titan_overlay.identity import records
from titan_overlay.identity.statements import Advertisement
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations.hostile import HostileWorld
from titan_simulations.world import Published


def why_not_found(world: HostileWorld, asker: SimulatedNode, target: Published, found: Collection[int]) -> str:
    """Why a look-up that brought these nodes as holders brought no honest one, although there is one."""
    if _knows_liars_only(world, asker):
        return "the asker knows liars only"
    if not _keepers(world, target):
        return "no honest node keeps an honest holder's advertisement"
    if found:
        return "only liars' advertisements came"
    return "nobody was asked who keeps an honest holder's advertisement"


def why_not_right(world: HostileWorld, asker: SimulatedNode, target: Published, failure: Exception) -> str:
    """Why a message got an error."""
    if not world.honest_holders(target.object_id):
        return "liars alone hold it"
    kind = type(failure).__name__
    if isinstance(failure, NotFound | Unavailable):
        if _knows_liars_only(world, asker):
            return f"{kind}: the asker knows liars only"
        if not _keepers(world, target):
            return f"{kind}: no honest node keeps an honest holder's advertisement"
    return kind


def _knows_liars_only(world: HostileWorld, asker: SimulatedNode) -> bool:
    return all(each.id in world.gang.members for each in asker.running.overlay.table)


def _keepers(world: HostileWorld, target: Published) -> list[SimulatedNode]:
    """Honest nodes whose directory has a live advertisement of an honest holder."""
    honest = {world.sim.nodes[number].key.id for number in world.honest_holders(target.object_id)}
    keepers = []
    for node in world.users():
        overlay = node.running.overlay
        for raw in overlay.directory.get(target.object_id, node.running.ambient.wall()).advertisements:
            try:
                signed = records.check(raw, Advertisement, world.sim.id)
            except BadMessage:
                continue
            if signed.signer in honest and not signed.value.withdrawn:
                keepers.append(node)
                break
    return keepers
