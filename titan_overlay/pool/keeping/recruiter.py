"""Finding new holders: asks nodes from all over the pool to take a replica until enough have.

Publishing, repair, hand-over and moving all recruit in this one way. A recruited node pulls what it needs (content,
bundle) from whoever asked it and from the holders named in the request.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from itertools import count as numbered

from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.identity import lineage, names, records
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor
from titan_overlay.identity.subnets import subnet
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.keeping.candidates import Candidates
from titan_overlay.pool.orders import Accepted, Recruit
from titan_overlay.wire import codec

ASK_SECONDS = 12.0
"""A candidate gets this much time to say no, or to advertise: among liars a region is read in half of it."""
SLOWEST_BYTES_PER_SECOND = 256 * 1024
"""A candidate gets this much time for the content."""


class Recruited:
    """What came of it: advertisements of those who took a replica, how many were asked, why others refused."""

    __slots__ = ("accepted", "asked", "directory", "refusals")

    def __init__(self) -> None:
        self.accepted: list[Signed[Advertisement]] = []
        self.directory = 0
        self.asked = 0
        self.refusals: Counter[str] = Counter()

    def explain(self) -> str:
        """The commonest refusals, in words."""
        return "; ".join(f"{count} x {text}" for text, count in self.refusals.most_common(3)) or "no node was reached"


class Recruiter:
    """Asks nodes to become holders.

    Args:
        key: of this member. user: whose objects it publishes, perhaps the same.
        lineage_of: by whom this member was asked to hold an object itself; empty where it was not.
    """

    def __init__(
        self,
        overlay: Overlay,
        links: Links,
        key: SigningKey,
        user: SigningKey,
        conduct: Conduct,
        lineage_of: Callable[[ObjectId], bytes],
    ) -> None:
        self._conduct = conduct
        self._overlay = overlay
        self._links = links
        self._key = key
        self._user = user
        self._lineage_of = lineage_of

    async def recruit(
        self,
        descriptor: Signed[Descriptor],
        *,
        count: int,
        exclude: Collection[NodeId] = (),
        holders: Sequence[Signed[Advertisement]] = (),
        only: Contact | None = None,
    ) -> Recruited:
        """Up to `count` new holders.

        Args:
            exclude: nodes not to ask (holders, nodes that went silent).
            holders: present holders; the new ones are told, and pull content from them too.
            only: ask this node and no other (moving an object).
        """
        result = Recruited()
        if only is not None:
            await self._ask(only, descriptor, holders, result)
            return result
        object_id = names.object_id(self._overlay.pool, descriptor.value.name)
        async for turn in Candidates(self._overlay, object_id, self._points(object_id)):
            candidates = [each for each in turn if each.id not in exclude]
            while candidates and len(result.accepted) < count:
                candidates = self._by_preference(candidates, [*holders, *result.accepted])
                wave = candidates[: count - len(result.accepted)]
                candidates = candidates[len(wave) :]
                await asyncio.gather(*(self._ask(each, descriptor, holders, result) for each in wave))
            if len(result.accepted) >= count:
                break
        return result

    def _points(self, object_id: ObjectId) -> Callable[[], bytes]:
        """Those of this user for this object: who tries again, with another program too, asks the same nodes first,
        which have what came before an interruption. Nobody without the key can foresee them.
        """
        seed = self._user.sign(b"titan/1/candidates\0" + object_id)
        numbers = numbered()
        return lambda: sha256(seed + next(numbers).to_bytes(4, "big")).digest()

    def _by_preference(self, candidates: Sequence[Contact], holders: Sequence[Signed[Advertisement]]) -> list[Contact]:
        """Those in subnets without a holder first, one of each; who behaved badly last; else as they were drawn."""
        taken = {subnet(each.value.host, each.value.port) for each in holders}
        now = asyncio.get_running_loop().time()
        ranked = []
        for candidate in candidates:
            place = subnet(candidate.ip, candidate.port)
            ranked.append((self._conduct.avoided(candidate.id, now), place in taken, candidate))
            taken.add(place)
        return [candidate for *_, candidate in sorted(ranked, key=lambda each: each[:2])]

    async def _ask(
        self,
        contact: Contact,
        descriptor: Signed[Descriptor],
        holders: Sequence[Signed[Advertisement]],
        result: Recruited,
    ) -> None:
        result.asked += 1
        known = [*holders, *result.accepted]
        object_id = names.object_id(self._overlay.pool, descriptor.value.name)
        order = Recruit(
            descriptor=descriptor.raw,
            holders=tuple(each.raw for each in known[:16]),
            source=self._overlay.contact.id,
            region=self._overlay.region_read(object_id),
            lineage=self._endorse(descriptor, object_id, contact.id) if descriptor.value.policy.votes > 1 else b"",
        )
        content = descriptor.value.content
        patience = ASK_SECONDS + (content.size / SLOWEST_BYTES_PER_SECOND if content else 0.0)
        loop = asyncio.get_running_loop()
        try:
            await self._links.connect(contact, deadline=loop.time() + 2.0)
            body = await self._links.request(
                contact, contact.id, "titan.Recruit", codec.encode(order), deadline=loop.time() + patience
            )
            answer = codec.decode(body, Accepted)
            advertisement = records.check(answer.advertisement, Advertisement, self._overlay.pool)
        except LinkError as why:
            result.refusals[f"did not answer ({why})"] += 1
        except RemotableError as why:
            result.refusals[str(why)] += 1
        else:
            if advertisement.signer == contact.id and advertisement.value.may_be_told(contact.ip):
                result.accepted.append(advertisement)
                result.directory = max(result.directory, answer.directory)

    def _endorse(self, descriptor: Signed[Descriptor], object_id: ObjectId, holder: NodeId) -> bytes:
        """What lets a node say that it was asked to hold this; nothing, where nobody has asked this member either."""
        pool, version = self._overlay.pool, descriptor.value.version
        if descriptor.public == self._user.public:
            return lineage.begin(self._user, pool, object_id, version, holder)
        return lineage.extend(self._lineage_of(object_id), self._key, pool, object_id, version, holder)
