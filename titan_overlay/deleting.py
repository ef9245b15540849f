"""Deleting an object, or one's own pin of data: the proof is shown to its holders, then to the directory."""

import asyncio
from hashlib import sha256
from typing import Literal

from titan_overlay.errors import BadMessage, Gone, NotFound, TitanError, Unavailable
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Tombstone, tombstone_seconds
from titan_overlay.member import Member
from titan_overlay.patience import find
from titan_overlay.pool.finding.places import contact_of
from titan_overlay.pool.orders import Bury
from titan_overlay.pool.pins import find_pin
from titan_overlay.wire import codec

Outcome = Literal["deleted", "wrong token", "nothing to delete", "already gone"]


async def delete(member: Member, name: str, token: str, timeout: float) -> Outcome:
    """Deletes with the token of a version, or with no token by the key of this member's user.

    Raises:
        Unavailable: no holder answered.
    """
    router = member.router
    object_id = router.object_id(name)
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        place = await find(router, name, timeout)
    except NotFound:
        return "nothing to delete"
    except Gone:
        return "already gone"
    try:
        proof = bytes.fromhex(token)
    except ValueError:
        return "wrong token"
    descriptor = place.descriptor
    if descriptor.value.kind == "data":
        holders = [contact_of(each) for each in place.holders]
        who, token_hash = (b"", sha256(proof).digest()) if proof else (member.user.public, b"")
        descriptor = (
            await find_pin(member.links, member.rights, holders, object_id, publisher=who, token_hash=token_hash)
            or descriptor
        )
    if proof and sha256(proof).digest() != descriptor.value.token_hash:
        return "wrong token"
    expires = member.ambient.wall() + tombstone_seconds(descriptor.value.policy)
    grant = b"" if proof else member.grant_for(Right.DELETE, descriptor.value.name)
    proven = Tombstone(descriptor.raw, descriptor.value.version, expires, proof, grant)
    try:
        tombstone = records.sign(proven, member.user, member.overlay.pool)
    except BadMessage as why:
        raise BadMessage(f"{why}, or delete it with its token, as its publisher, or with the pool's key") from None
    outcomes = await asyncio.gather(
        *(_bury(member, contact_of(holder), tombstone, deadline) for holder in place.holders)
    )
    router.places.forget(object_id)
    if "deleted" in outcomes:
        await member.overlay.announce(object_id, [tombstone.raw])
        return "deleted"
    answers: tuple[Outcome, ...] = ("wrong token", "already gone", "nothing to delete")
    for outcome in answers:
        if outcome in outcomes:
            return outcome
    raise Unavailable(f"no holder of {name!r} answered; nothing was deleted, try again")


async def _bury(member: Member, holder: Contact, tombstone: Signed[Tombstone], deadline: float) -> str:
    try:
        body = await member.links.request(
            holder, holder.id, "titan.Bury", codec.encode(Bury(tombstone.raw)), deadline=deadline
        )
        return codec.decode(body, str)
    except TitanError as why:
        return f"no answer: {why}"
