"""Publishing: states what an object is, signs that, and offers the object from here until others hold it."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from weakref import WeakValueDictionary

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Conflict, LinkError, RemotableError, Unavailable
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Kind, Policy, check_kind, prevails
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.finding.places import DESCRIBE_PATIENCE, Places, contact_of
from titan_overlay.pool.finding.voters import distinct
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.hosting.runner import Runner
from titan_overlay.pool.keeping.recruiter import Recruiter


class Receipt(msgspec.Struct, frozen=True):
    """What `publish` and `put_receipt` return once any `send` from anywhere finds the object."""

    name: str
    version: int
    holders: tuple[str, ...]
    """Ids of the nodes that hold a replica, in hexadecimal."""
    directory: int
    """Directory nodes that know of it."""
    token: str
    """Deletes this version; keep it secret. Empty for data that was there already under your pin."""
    key: str = ""
    """Opens what was put encrypted; give it to those who may read. Empty for what is not encrypted."""


class Publisher:
    """Publishes as one user, through one member of the pool.

    Args:
        granted: the user's grants, as signed; looked at each time.
    """

    def __init__(
        self,
        user: SigningKey,
        granted: Sequence[bytes],
        ambient: Ambient,
        *,
        overlay: Overlay,
        host: Host,
        recruiter: Recruiter,
        places: Places,
    ) -> None:
        self._user = user
        self._granted = granted
        self._ambient = ambient
        self._overlay = overlay
        self._host = host
        self._recruiter = recruiter
        self._places = places
        self._offering: WeakValueDictionary[ObjectId, asyncio.Lock] = WeakValueDictionary()
        self._version = 0
        """The last that was given: of two in one millisecond the second is the later one."""

    def describe(
        self,
        name: str,
        kind: Kind,
        policy: Policy,
        *,
        type: str = "",
        bundle: bytes = b"",
        content: Content | None = None,
        idempotent: tuple[str, ...] = (),
        genesis: bytes = b"",
    ) -> tuple[Signed[Descriptor], str]:
        """A signed descriptor, and the token that deletes what it describes.

        Raises:
            Forbidden: this user may not publish that name; nothing has been sent.
            BadMessage: nobody may, like this.
        """
        full = names.one(name, self._user.public)
        now = self._ambient.wall()
        token = self._ambient.token_bytes(16)
        rights = self._overlay.rights
        grant = rights.best(self._granted, self._user.id, Right.PUBLISH, full, now)
        rights.check_publish(self._user.public, full, grant, now)
        self._version = max(int(now * 1000), self._version + 1)
        descriptor = Descriptor(
            name=full,
            kind=kind,
            type=type,
            version=self._version,
            created=now,
            policy=policy,
            token_hash=sha256(token).digest(),
            bundle=bundle,
            content=content,
            idempotent=idempotent,
            grant=grant,
            genesis=genesis,
        )
        check_kind(descriptor)
        try:
            return records.sign(descriptor, self._user, self._overlay.pool), token.hex()
        except BadMessage as why:
            of_grant = f" ({len(grant)} of them are the grant for this name: ask for one nearer the pool's key)"
            raise BadMessage(f"{why}{of_grant if grant else ''}") from None

    async def _check_newest(self, object_id: ObjectId, descriptor: Signed[Descriptor]) -> None:
        """Somebody says that a later version is out there; where that is proven, this one would be lost among them.

        Raises:
            Conflict: it is.
        """
        name = descriptor.value.name
        deadline = asyncio.get_running_loop().time() + DESCRIBE_PATIENCE
        try:
            async with asyncio.timeout_at(deadline):
                place = await self._places.find(object_id, name=name, deadline=deadline, fresh=True)
        except (RemotableError, LinkError, TimeoutError):
            return  # nobody who says so can show it
        if prevails(place.descriptor, descriptor, self._overlay.rights, self._ambient.wall()):
            raise Conflict(
                f"version {place.descriptor.value.version} of {name!r} is published already, a newer one than "
                f"{descriptor.value.version}; is the clock of this machine behind? see: titan doctor"
            )

    async def publish(
        self,
        descriptor: Signed[Descriptor],
        token: str,
        runner: Runner,
        key: str = "",
        *,
        members: Sequence[Contact] = (),
    ) -> Receipt:
        """Offers the object from here, and recruits until `min_copies` nodes hold it.

        Args:
            runner: gives the content or the code to those who are to hold it.
            key: for the receipt.
            members: ask these, all of them, and no others.

        Raises:
            Unavailable: nobody accepts it; the text says why they refused.
        """
        object_id = names.object_id(self._overlay.pool, descriptor.value.name)
        # Two at once of the same name would take each other's offer away.
        async with self._offering.setdefault(object_id, asyncio.Lock()):
            offered = self._host.offer(descriptor, runner)
            try:
                if members:
                    accepted, directory = await self._recruit_members(descriptor, members)
                else:
                    accepted, directory = await self._recruit(object_id, descriptor)
            finally:
                await self._host.withdraw(offered)
        self._places.remember(descriptor, accepted)
        return Receipt(
            name=descriptor.value.name,
            version=descriptor.value.version,
            holders=tuple(each.signer.hex() for each in accepted),
            directory=directory,
            token=token,
            key=key,
        )

    async def _recruit_voters(
        self, descriptor: Signed[Descriptor], accepted: list[Signed[Advertisement]], exclude: Sequence[NodeId]
    ) -> None:
        """Adds to the holders until enough of them may vote together: of distinct owners and subnets.

        Raises:
            Unavailable: there are not so many.
        """
        name, votes = descriptor.value.name, descriptor.value.policy.votes
        voters = len(distinct(accepted, self._overlay.pool, contact_of))
        more = await self._recruiter.recruit(
            descriptor,
            count=max(0, votes - voters),
            exclude=[*exclude, *(each.signer for each in accepted)],
            holders=accepted,
        )
        accepted += more.accepted
        voters = len(distinct(accepted, self._overlay.pool, contact_of))
        if voters < votes:
            raise Unavailable(
                f"{name!r} is held by {len(accepted)} nodes now, of {voters} distinct owners and subnets, and its "
                f"policy needs {votes} that vote; it can be called once there are more ({more.explain()})"
            )

    async def _recruit_members(
        self, descriptor: Signed[Descriptor], members: Sequence[Contact]
    ) -> tuple[list[Signed[Advertisement]], int]:
        """Those who were named, each of whom must take it."""
        all_of_them = await asyncio.gather(
            *(self._recruiter.recruit(descriptor, count=1, only=contact) for contact in members)
        )
        accepted = [each for one in all_of_them for each in one.accepted]
        if len(accepted) < len(members):
            why = "; ".join(one.explain() for one in all_of_them if not one.accepted)
            raise Unavailable(
                f"{len(accepted)} of {len(members)} members have accepted {descriptor.value.name!r}: {why}; "
                "publish it again"
            )
        return accepted, max(one.directory for one in all_of_them)

    async def _recruit(
        self, object_id: ObjectId, descriptor: Signed[Descriptor]
    ) -> tuple[list[Signed[Advertisement]], int]:
        """Those who hold it now, and how many directory nodes were told."""
        policy = descriptor.value.policy
        found = await self._overlay.find_holders(object_id, everything=True)
        present = [each for each in found.advertisements if not each.value.withdrawn and not each.value.passing]
        if descriptor.value.kind != "data" and any(each.value.version > descriptor.value.version for each in present):
            await self._check_newest(object_id, descriptor)
        # A newer version replaces the old one where it is; new holders make up what is missing.
        renewals = await asyncio.gather(
            *(
                self._recruiter.recruit(descriptor, count=1, holders=present, only=contact_of(holder))
                for holder in present[: policy.max_copies]
            )
        )
        renewed = [each for renewal in renewals for each in renewal.accepted]
        recruited = await self._recruiter.recruit(
            descriptor,
            count=max(0, (1 if policy.bound else policy.min_copies) - len(renewed)),
            exclude=[each.signer for each in present],
            holders=renewed,
        )
        accepted = [*renewed, *recruited.accepted]
        if not accepted:
            for renewal in renewals:
                recruited.asked += renewal.asked
                recruited.refusals += renewal.refusals
            raise Unavailable(f"0 of {recruited.asked} nodes accept {descriptor.value.name!r}; {recruited.explain()}")
        if policy.votes > 1:
            await self._recruit_voters(descriptor, accepted, [each.signer for each in present])
        return accepted, max(recruited.directory, 1 if renewed else 0)
