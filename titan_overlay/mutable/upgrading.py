"""Publishing a mutable object that is there already: its class is replaced, at one height for all members."""

from titan_overlay.errors import BadMessage, Conflict, Forbidden, LinkError, RemotableError, Unavailable
from titan_overlay.identity.ids import NodeId, fingerprint
from titan_overlay.identity.statements import Policy
from titan_overlay.mutable import talk
from titan_overlay.mutable.caller import GroupCaller
from titan_overlay.mutable.code import NewCode
from titan_overlay.mutable.founding import settled
from titan_overlay.mutable.health import GroupHealth
from titan_overlay.mutable.requests import UPGRADE
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place
from titan_overlay.pool.hosting.bundles import Source
from titan_overlay.wire import codec


async def upgrade(caller: GroupCaller, place: Place, message: Message, source: Source, policy: Policy) -> GroupHealth:
    """Has the members go over to the class in `source`.

    Args:
        message: the object, the deadline, and `once`.
        policy: must be that of the object.

    Raises:
        Forbidden: another key has published it. Conflict: its policy is another, or it is no mutable object.
        BadMessage: an installed type; or the state cannot be taken over, which changes nothing.
        Unavailable: no quorum; or a member that answers cannot run the new code, and says why.
    """
    descriptor = place.descriptor
    name = descriptor.value.name
    if descriptor.public != caller.user:
        owner = fingerprint(descriptor.public)
        raise Forbidden(f"{name!r} was published by key {owner}; only that key may replace its code")
    if descriptor.value.kind != "mutable" or settled(policy) != descriptor.value.policy:
        raise Conflict(f"{name!r} is there already, with another policy: titan rm deletes it, and its state with it")
    if not source.bundle:
        raise BadMessage(
            f"{name!r} is there already; its type {source.type!r} is an installed one, which changes with the wheel "
            "on its members' nodes"
        )
    new = codec.encode(NewCode(source.type, caller.user, source.bundle))
    health = await caller.health(place, message.object_id, message.deadline)
    if health.present < health.quorum:
        raise Unavailable(f"{name!r} is there already, and its code cannot be replaced now: {health.says}")
    for member in health.members:
        if member.role not in ("silent", "out"):
            await _can_run(caller, place, message, NodeId(bytes.fromhex(member.node)), new)
    await caller(place, Message(message.object_id, UPGRADE, new, message.deadline, message.chain, once=message.once))
    return health


async def _can_run(caller: GroupCaller, place: Place, message: Message, member: NodeId, new: bytes) -> None:
    try:
        why = codec.decode(
            await caller.membership.ask(place, member, message, talk.CAN_RUN, new, message.deadline), str
        )
    except (LinkError, RemotableError) as failure:
        why = str(failure)
    if why:
        raise Unavailable(f"member {member.hex()[:12]} cannot run the new code, so nothing was changed: {why}")
