"""Moving a replica from one node to another: the new one is made before the old one goes."""

from titan_overlay.errors import Forbidden, LinkError, NotFound, NotHere, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, ObjectId, fingerprint
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement
from titan_overlay.member import Member
from titan_overlay.patience import within
from titan_overlay.pool.finding.places import contact_of
from titan_overlay.pool.keeping.publisher import Receipt
from titan_overlay.pool.orders import StepDown
from titan_overlay.pool.questions import Describe
from titan_overlay.wire import codec


async def move(member: Member, name: str, node: str, timeout: float) -> Receipt:
    """Moves one replica to a node (`node:<id>` or its hexadecimal id), for who may.

    Raises:
        Forbidden: neither publisher nor administrator. NotFound: no such node. Unavailable: it refuses.
    """
    target = NodeId(member.router.object_id(f"node:{node.removeprefix('node:')}"))
    async with within(timeout, f"moving {name!r}") as deadline:
        return await _move(member, name, target, deadline)


async def _move(member: Member, name: str, target: NodeId, deadline: float) -> Receipt:
    router = member.router
    object_id = router.object_id(name)
    place = await router.places.find(object_id, name=name, deadline=deadline, fresh=True)
    grant = member.grant_for(Right.ADMINISTER, place.descriptor.value.name)
    if place.descriptor.public != member.user.public and not grant:
        raise Forbidden(
            f"only key {fingerprint(place.descriptor.public)}, which published {name!r}, may move it, "
            "or who has a grant to administer the name"
        )
    near = await member.overlay.find_nodes(target, 4)
    contact = next((each for each in near if each.id == target), None)
    if contact is None:
        raise NotFound(f"node:{target.hex()} is not in this pool now; see: titan census")
    counted = [each for each in place.holders if not each.value.passing]
    if not await _holds(member, contact, object_id, deadline):
        # Where it lived a moment ago it may still be advertised.
        counted = [each for each in counted if each.signer != target]
        recruited = await member.recruiter.recruit(place.descriptor, count=1, holders=counted, only=contact)
        if not recruited.accepted:
            raise Unavailable(f"node {target.hex()[:12]} refused {name!r}: {recruited.explain()}")
        counted = [*recruited.accepted, *await _without_one(member, counted, StepDown(object_id, grant), deadline)]
    router.places.remember(place.descriptor, counted)
    return Receipt(
        place.descriptor.value.name,
        place.descriptor.value.version,
        tuple(each.signer.hex() for each in counted),
        0,
        "",
    )


async def _holds(member: Member, contact: Contact, object_id: ObjectId, deadline: float) -> bool:
    """Whether that node holds the object now, by its own word."""
    try:
        body = codec.encode(Describe())
        await member.links.request(contact, object_id, Describe.wire_type, body, deadline=deadline)
    except NotHere:
        return False
    except LinkError as why:
        raise Unavailable(f"node {contact.id.hex()[:12]} does not answer: {why}") from None
    return True


async def _without_one(
    member: Member, holders: list[Signed[Advertisement]], order: StepDown, deadline: float
) -> list[Signed[Advertisement]]:
    """The holders that are left when one of them has given up its replica. Who held none any more is left out."""
    body = codec.encode(order)
    left = list(holders)
    while left:
        leaving = contact_of(left.pop())
        try:
            answer = await member.links.request(leaving, leaving.id, "titan.StepDown", body, deadline=deadline)
        except LinkError:
            continue
        if codec.decode(answer, bool):
            break
    return left
