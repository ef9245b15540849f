"""Founding a group: how many members a policy needs, and which nodes become them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, LinkError, RemotableError, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor, Policy
from titan_overlay.links.links import Links
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Chain, Charter, configuration_hash, configured
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.context import Context
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body, Runner
from titan_overlay.pool.keeping.candidates import Candidates
from titan_overlay.pool.keeping.publisher import Publisher, Receipt
from titan_overlay.pool.orders import MayHost
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.wire import codec

MEMBERS_MAX = 31
ASK_SECONDS = 4.0


def members_needed(policy: Policy) -> int:
    """2t + 1 for t crashes, 3t + 1 for t liars.

    Raises:
        BadMessage: more than a group can have.
    """
    needed = (3 if policy.byzantine else 2) * policy.faults + 1
    if needed > MEMBERS_MAX:
        raise BadMessage(
            f"faults={policy.faults}{', byzantine' if policy.byzantine else ''} needs {needed} members, "
            f"a group has at most {MEMBERS_MAX}"
        )
    return needed


def settled(policy: Policy) -> Policy:
    """The policy of a group: its members are its copies, and only an epoch changes them."""
    count = members_needed(policy)
    return msgspec.structs.replace(
        policy, min_copies=count, max_copies=count, reduplicate=False, deduplicate=False, cache=False
    )


def _advice(policy: Policy, willing: int) -> str:
    """What to do where so few nodes would be members."""
    fewer = (willing - 1) // (3 if policy.byzantine else 2)
    return f"start more, or ask for fewer faults: {fewer}" if 0 <= fewer < policy.faults else "start more"


def charter_of(descriptor: Signed[Descriptor], object_id: ObjectId, pool: PoolId) -> Charter:
    """What a descriptor fixes for a group."""
    value = descriptor.value
    size = members_needed(value.policy)
    return Charter(object_id, pool, value.genesis, value.policy.byzantine, descriptor.public, size)


class Founder(NamedTuple):
    """A node that would be a member, and the key with which it would vote."""

    contact: Contact
    key: bytes


class Founders:
    """Finds nodes that would be members."""

    def __init__(self, overlay: Overlay, links: Links, ambient: Ambient) -> None:
        self._overlay = overlay
        self._links = links
        self._ambient = ambient

    async def find(
        self, descriptor: Signed[Descriptor], object_id: ObjectId, count: int, exclude: Collection[bytes] = ()
    ) -> list[Founder]:
        """`count` nodes that may and would host this, from all over the pool (see `Candidates`).

        Raises:
            Unavailable: there are fewer; the text says how many, and why the others refused.
        """
        willing: list[Founder] = []
        refusals: Counter[str] = Counter()
        asked: set[bytes] = set(exclude)
        async for turn in Candidates(self._overlay, object_id, lambda: self._ambient.token_bytes(ID_BYTES)):
            fresh = [each for each in turn if each.id not in asked]
            asked.update(each.id for each in fresh)
            answers = await asyncio.gather(*(self._ask(each, descriptor) for each in fresh))
            for contact, answer in zip(fresh, answers, strict=True):
                if isinstance(answer, bytes):
                    willing.append(Founder(contact, answer))
                else:
                    refusals[answer] += 1
            if len(willing) >= count:
                return willing[:count]
        why = "; ".join(f"{number} x {text}" for text, number in refusals.most_common(3))
        raise Unavailable(
            f"{descriptor.value.name!r} needs {count} members that may host it, and {len(willing)} of {len(asked)} "
            f"nodes would: {why or 'no more were found (titan census)'}; "
            f"{_advice(descriptor.value.policy, len(willing))}"
        )

    async def at(self, node: NodeId, descriptor: Signed[Descriptor]) -> Founder:
        """That node. Unavailable: it is not in the pool now, or would not."""
        contact = next((each for each in await self._overlay.find_nodes(node, 4) if each.id == node), None)
        if contact is None:
            raise Unavailable(f"node:{node.hex()} is not in this pool now; see: titan census")
        answer = await self._ask(contact, descriptor)
        if isinstance(answer, str):
            raise Unavailable(f"node:{node.hex()} would not host {descriptor.value.name!r}: {answer}")
        return Founder(contact, answer)

    async def _ask(self, contact: Contact, descriptor: Signed[Descriptor]) -> bytes | str:
        """The key with which that node would vote; or why it would not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ASK_SECONDS
        try:
            body = codec.encode(MayHost(descriptor.raw))
            answer = await self._links.request(contact, contact.id, MayHost.wire_type, body, deadline=deadline)
            key = codec.decode(answer, bytes)
        except LinkError as why:
            return f"did not answer ({why})"
        except RemotableError as why:
            return str(why)
        return key if len(key) == 32 else "named no voting key"


class Foundation(Runner):
    """Stands in for a group while it is being founded: gives out its code, and who its members are."""

    def __init__(self, offer: Runner, genesis: Configuration) -> None:
        self._offer = offer
        self._chain = codec.encode(Chain(genesis))
        self.bundle = offer.bundle
        self.types = talk.TYPES
        self.plain = frozenset({talk.EPOCHS})

    def call(self, type: str, body: Body, context: Context) -> Begun:
        if type != talk.EPOCHS:
            raise Unavailable(f"{context.name!r} is being published just now; send again")
        return self._chain

    def schema(self) -> dict[str, MessageSchema]:
        return self._offer.schema()


Describe = Callable[..., tuple[Signed[Descriptor], str]]
"""(policy, genesis=hash) -> the signed descriptor of what is being published, and the token that deletes it."""


async def found(
    founders: Founders, publisher: Publisher, describe: Describe, policy: Policy, object_id: ObjectId, offer: Runner
) -> Receipt:
    """Publishes a mutable object: chooses its first members, names them in the descriptor, and has them all take it.

    Args:
        offer: gives out the code.

    Raises:
        Unavailable: too few nodes may and would host it.
    """
    agreed = settled(policy)
    draft, _ = describe(agreed)
    chosen = await founders.find(draft, object_id, agreed.min_copies)
    genesis = configured(1, ((each.contact.id, each.key) for each in chosen))
    described = describe(agreed, genesis=configuration_hash(genesis))
    return await publisher.publish(*described, Foundation(offer, genesis), members=[each.contact for each in chosen])
