"""Pins: who wants a piece of data kept. A holder keeps the signed descriptor of each, and shows them."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import reduce
from math import inf

from msgspec import structs

from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Policy, check_descriptor
from titan_overlay.links.links import Links
from titan_overlay.pool.orders import PINS_MAX, Pins
from titan_overlay.wire import codec

ASK_SECONDS = 2.0


async def pins_at(
    links: Links,
    rights: Rights,
    contact: Contact,
    object_id: ObjectId,
    *,
    publisher: bytes = b"",
    token_hash: bytes = b"",
) -> list[Signed[Descriptor]]:
    """The pins that one holder knows of, verified; none where it does not answer.

    Args:
        publisher: only of this public key. token_hash: only the one that this token takes away.
    """
    order = codec.encode(Pins(object_id, publisher, token_hash))
    deadline = asyncio.get_running_loop().time() + ASK_SECONDS
    found = []
    with suppress(LinkError, RemotableError):
        body = await links.request(contact, contact.id, Pins.wire_type, order, deadline=deadline)
        for raw in codec.decode(body, list[bytes])[:PINS_MAX]:
            pin = check_descriptor(raw, object_id, rights)
            wanted = publisher in (b"", pin.public) and token_hash in (b"", pin.value.token_hash)
            if wanted and pin.value.content is not None:
                found.append(pin)
    return found


async def find_pin(
    links: Links,
    rights: Rights,
    holders: Sequence[Contact],
    object_id: ObjectId,
    *,
    publisher: bytes = b"",
    token_hash: bytes = b"",
) -> Signed[Descriptor] | None:
    """One pin, from the first holder that knows it. A holder describes data by any of its pins, not by this one."""
    for holder in holders:
        found = await pins_at(links, rights, holder, object_id, publisher=publisher, token_hash=token_hash)
        if found:
            return found[0]
    return None


def keep_until(descriptor: Descriptor) -> float:
    """When what this describes ends (unix seconds); 0: never."""
    return descriptor.created + descriptor.policy.ttl if descriptor.policy.ttl else 0.0


def living(pins: Iterable[Signed[Descriptor]], now: float) -> list[Signed[Descriptor]]:
    """Those that have not ended by then (unix seconds)."""
    return [each for each in pins if not keep_until(each.value) or keep_until(each.value) > now]


def offered(pins: Sequence[Signed[Descriptor]]) -> Signed[Descriptor]:
    """By which of them others are asked to hold the data too: one that asks for no labels, or few; then the lasting."""
    return min(pins, key=lambda each: (len(each.value.policy.requires), -(keep_until(each.value) or inf)))


def united(pins: Sequence[Signed[Descriptor]]) -> Policy:
    """How copies are kept for all of them: who asks for less takes nothing from the others."""
    policies = [each.value.policy for each in pins]
    return structs.replace(
        offered(pins).value.policy,
        min_copies=max(each.min_copies for each in policies),
        max_copies=max(each.max_copies for each in policies),
        ttl=reduce(later, (each.ttl for each in policies)),
        reduplicate=any(each.reduplicate for each in policies),
        deduplicate=all(each.deduplicate for each in policies),
    )


def later(one: float, other: float) -> float:
    """The later of two ends, of which 0 is never."""
    return 0.0 if not one or not other else max(one, other)
