"""Keeping copies alive: what a node holds, and with whom.

`Keeper` is what the rest of the node sees: take this replica, let go of that one, it was deleted, leave. When and why
copies are made and dropped is in `lifecycle`, the probing in `upkeep` and `probes`, what is known about others in
`roster`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from math import inf
from typing import Any

from msgspec.structs import replace

from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.errors import BadMessage, Forbidden, LinkError, NotHere, RemotableError, StorageError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, ObjectId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import (
    Advertisement,
    Descriptor,
    Tombstone,
    check_descriptor,
    needs_host_grant,
    prevails,
    sweeps,
)
from titan_overlay.overlay.traffic import PROBE
from titan_overlay.pool.keeping import lifecycle
from titan_overlay.pool.keeping.advertiser import LIFE_INTERVALS, Advertiser
from titan_overlay.pool.keeping.entitlement import Entitlement
from titan_overlay.pool.keeping.figures import Figures
from titan_overlay.pool.keeping.graves import Graves, object_in
from titan_overlay.pool.keeping.household import Admitting, Network, Recruiting
from titan_overlay.pool.keeping.lifecycle import Pace, Standing
from titan_overlay.pool.keeping.roster import SHORT_BYTES, Replica, Roster
from titan_overlay.pool.keeping.upkeep import Upkeep
from titan_overlay.pool.orders import Accepted, Holding, Recruit
from titan_overlay.pool.pins import living, offered, united
from titan_overlay.storage.rows import Database, ReplicaRow

log = logging.getLogger("titan")

HANDING_OVER_SECONDS = 5.0
"""Of the time to stop; the rest is for withdrawals and goodbyes."""
GOODBYE_SECONDS = 1.0
HAND_OVERS_AT_ONCE = 16
ARRIVED_POLL_SECONDS = 0.5


class Keeper:
    """Looks after every replica that this node holds.

    Args:
        read_chunk: (content id, index) -> verified bytes of a chunk of data held here. Raises where they are lost.
    """

    def __init__(
        self,
        *,
        me: SigningKey,
        rights: Rights,
        ambient: Ambient,
        overlay: Network,
        database: Database,
        recruiter: Recruiting,
        admission: Admitting,
        config: NodeConfig,
        read_chunk: Callable[[bytes, int], Coroutine[Any, Any, bytes]],
    ) -> None:
        self._me = me.id
        self.entitlement = Entitlement(me.public, rights, ambient, admission.host_grant)
        self._rights = rights
        self._pool = rights.pool
        self._ambient = ambient
        self._overlay = overlay
        self._database = database
        self._admission = admission
        self.pace = Pace(
            probe_interval=config.probe_interval,
            probe_misses=config.probe_misses,
            probe_retry=min(Pace().probe_retry, config.probe_interval / 3),
            recruit_delay=config.recruit_delay,
        )
        self.advertiser = Advertiser(
            overlay,
            me,
            rights.pool,
            ambient,
            contact=lambda: overlay.contact,
            interval=config.advertise_interval,
            remember=self._remember,
        )
        self._rows: dict[ObjectId, ReplicaRow] = {}
        self._tombstones = Graves((), self._exhume)
        self._roster = Roster(me.id, self.pace)
        self._upkeep = Upkeep(self, self._roster, self.entitlement, overlay, recruiter, ambient, read_chunk)
        for row in database.tombstones():
            with suppress(BadMessage):  # what was damaged on the disk goes before anything is served
                self._bury(object_in(row.raw, rights.pool), row.raw, row.expires)
        overlay.serve("probe", self._upkeep.answer)
        overlay.serve("tombstone", self._answer_tombstone)
        overlay.serve("descriptor", self._answer_descriptor)
        overlay.serve("advertisement", self._answer_advertisement)

    # ---- start and stop --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to advertise, to probe and to decide."""
        self.advertiser.start()
        self._upkeep.start()

    async def leave(self) -> None:
        """Clean stop: hands over what would be too little without this node, withdraws, says goodbye. Below 10 s."""
        await self._upkeep.stop()
        try:
            async with asyncio.timeout(HANDING_OVER_SECONDS):
                await self._hand_over_all()
        except TimeoutError:
            pass  # the others will notice, and mend
        goodbyes = self._upkeep.goodbyes(self._roster.replicas.values())
        for replica in self._roster.replicas.values():
            replica.settled = False  # whoever probes it from now on hears that it is not here
        # First the co-holders: whoever is about to step down must not count on this node any more.
        await self._upkeep.say(goodbyes, GOODBYE_SECONDS)
        await self.advertiser.stop(withdraw=True, timeout=GOODBYE_SECONDS)

    async def close(self) -> None:
        """Stops at once and tells nobody."""
        await self._upkeep.stop()
        await self.advertiser.stop(withdraw=False)

    async def _hand_over_all(self) -> None:
        slots = asyncio.Semaphore(HAND_OVERS_AT_ONCE)
        now = asyncio.get_running_loop().time()

        async def one(replica: Replica) -> None:
            async with slots:
                await self._hand_over(replica)

        await asyncio.gather(
            *(
                one(replica)
                for replica in self._roster.replicas.values()
                if lifecycle.must_hand_over(replica.refresh(now), now)
            )
        )

    async def _hand_over(self, replica: Replica) -> None:
        """Recruits until enough others have shown that they hold the object."""
        loop = asyncio.get_running_loop()
        # Who accepts may turn out to have held it all along: just after publishing, holders do not know each other yet.
        for _ in range(replica.policy.min_copies):
            if not lifecycle.must_hand_over(replica.refresh(loop.time()), loop.time()):
                return
            if not await self._upkeep.recruit_now(replica, 1, [self._me, *replica.partners]):
                return
            await self._arrive(replica)

    async def _arrive(self, replica: Replica) -> None:
        """Waits until those who were recruited hold it, or enough do."""
        loop = asyncio.get_running_loop()
        while lifecycle.must_hand_over(replica.refresh(loop.time()), loop.time()):
            arriving = [p.peer for p in replica.partners.values() if p.standing is not Standing.PROVEN]
            if not arriving:
                return
            for peer in arriving:
                await self._upkeep.exchange(peer)
            await asyncio.sleep(ARRIVED_POLL_SECONDS)

    def moved(self) -> None:
        """This node has another address: everything is advertised anew, and the co-holders hear from it, at once."""
        self.advertiser.moved()
        self._upkeep.ask_all()

    @property
    def figures(self) -> Figures:
        """What this keeper has done."""
        return self._upkeep.figures

    # ---- what is held ----------------------------------------------------------------------------------------

    async def hold(
        self, descriptor: Signed[Descriptor], holders: Sequence[Signed[Advertisement]], row: ReplicaRow
    ) -> Accepted:
        """Looks after a replica from now on. Returns when it is advertised, so that whoever looks for it finds it.

        Args:
            holders: advertisements of the other holders, as far as known; each is asked before it counts.
        """
        replica = self._take(descriptor, row, settled=True)
        try:
            self.entitlement.check_published(descriptor)
        except Forbidden:  # taken back while its code was starting
            await self.drop(replica)
            raise
        self._upkeep.claim(replica, holders)
        signed = self.advertiser.current(row.object_id)
        directory = await self.advertiser.announce_now(row.object_id)
        return Accepted(signed.raw if signed else b"", directory)

    async def resume(self, descriptor: Signed[Descriptor], row: ReplicaRow) -> None:
        """Looks after a replica of the last run again; it neither counts nor mends before it has asked its region."""
        self._take(descriptor, row, settled=row.passing or descriptor.value.policy.bound)

    async def still_wanted(self, row: ReplicaRow) -> bool:
        """Whether a replica of the last run may serve. After more than an advertisement's life, its region is asked.

        False: the object was deleted meanwhile. While nobody can be asked, it may.
        """
        # A sequence number is the time, in milliseconds, at which the last advertisement was signed.
        if self._ambient.wall() - row.sequence / 1000 < LIFE_INTERVALS * self.advertiser.interval:
            return True
        try:
            found = await self._overlay.find_holders(row.object_id, everything=True)
        except (LinkError, RemotableError):
            return True
        for tombstone in found.tombstones:
            with suppress(RemotableError):  # it was verified on the way; this notes it
                await self._admission.bury(tombstone.raw)
        mine = records.check(row.descriptor, Descriptor, self._pool).value
        if mine.kind == "data":
            return row.passing or bool(self._admission.pins(row.object_id))
        swept = [each for each in found.tombstones if sweeps(each, self._rights, self._ambient.wall())]
        return all(mine.version > each.value.version for each in swept)

    def _take(self, descriptor: Signed[Descriptor], row: ReplicaRow, *, settled: bool) -> Replica:
        loop = asyncio.get_running_loop()
        now, object_id = loop.time(), row.object_id
        expires = now + (row.expires - self._ambient.wall()) if row.expires else inf
        replica = self._roster.replicas.get(object_id)
        known: list[Contact] = []
        if replica is not None and replica.descriptor.raw != descriptor.raw:
            # A new version: who holds it has yet to be seen.
            known = [partner.peer.contact for partner in replica.partners.values()]
            self._roster.remove(object_id)
            replica = None
        if replica is None:
            replica = Replica(object_id, descriptor, self._me, self.pace, now, settled=settled)
            self._roster.add(replica)
        replica.expires = expires
        replica.passing = row.passing
        replica.pinned = row.pinned
        self.unite(object_id)
        for contact in known:
            self._roster.claim(replica, contact)
        before = self._rows.get(object_id)
        if before is not None and before.descriptor == row.descriptor:
            # Who asks again brings it no further from the publisher than it is.
            row = replace(row, lineage=min(filter(None, (before.lineage, row.lineage)), key=len, default=b""))
        self._rows[object_id] = row
        replica.asked = bool(row.lineage)
        self._advertise(replica, row.sequence)
        return replica

    def unite(self, object_id: ObjectId) -> None:
        """Somebody wants the data kept, or does no longer: its copies are kept as those who do want it together."""
        replica = self._roster.replicas.get(object_id)
        pins = self._living_pins(replica) if replica is not None else []
        if replica is not None and pins and not replica.passing:
            replica.policy = united(pins)
            self._upkeep.touch(replica)

    def offered(self, replica: Replica) -> Signed[Descriptor]:
        """What others are shown who are asked to hold it too. Of data whoever published first may want it no longer."""
        pins = self._living_pins(replica)
        return offered(pins) if pins else replica.descriptor

    def _living_pins(self, replica: Replica) -> list[Signed[Descriptor]]:
        if replica.descriptor.value.kind != "data":
            return []
        return living(self._admission.pins(replica.object_id), self._ambient.wall())

    def _advertise(self, replica: Replica, sequence: int = 0) -> None:
        """Advertises it by the right that this node has to hold it now; it counts while that lasts."""
        self.advertiser.add(
            replica.object_id,
            version=replica.descriptor.value.version,
            passing=replica.passing,
            expires=replica.expires,
            grant=self.entitlement.own(replica, asyncio.get_running_loop().time()),
            lineage=self.lineage(replica.object_id),
            sequence=sequence,
        )
        self._upkeep.touch(replica)

    def revise(self) -> None:
        """Rights have changed. What may not be published goes; who may not host no longer counts."""
        now = asyncio.get_running_loop().time()
        for replica in list(self._roster.replicas.values()):
            try:
                self.entitlement.check_published(replica.descriptor)
            except Forbidden as why:
                log.warning("replica %s goes: %s", replica.object_id.hex()[:12], why)
                self._upkeep.spawn(self.drop(replica), "dropping what was revoked")
                continue
            if needs_host_grant(replica.descriptor, b""):
                self._advertise(replica)
                self.entitlement.revise(replica, now)
                self._upkeep.doubt_the_unentitled(replica)

    def _remember(self, object_id: ObjectId, sequence: int) -> None:
        row = self._rows.get(object_id)
        if row is not None:
            self._rows[object_id] = row = replace(row, sequence=sequence)
            try:
                self._database.put_replica(row)
            except StorageError as why:
                # A full disk must not end the advertising of what is here; after a restart numbers go on from the
                # clock, which is ahead of what was lost.
                log.debug("the number of an advertisement was not noted: %s", why)

    async def let_go(self, object_id: ObjectId) -> None:
        """Drops a replica because somebody who may says so (it has moved, or was deleted)."""
        replica = self._roster.replicas.get(object_id)
        if replica is None:
            await self._admission.release(object_id)
            return
        await self.drop(replica)

    async def deleted(self, tombstone: Signed[Tombstone]) -> None:
        """The object is deleted, of data the last pin: the tombstone spreads, and the replica goes."""
        object_id = object_in(tombstone.raw, self._pool)
        self._bury(object_id, tombstone.raw, tombstone.value.expires)
        self._upkeep.spawn(self._announce(object_id, tombstone.raw), "spreading a tombstone")
        await self.let_go(object_id)

    async def _announce(self, object_id: ObjectId, raw: bytes) -> None:
        await self._overlay.announce(object_id, [raw])

    def _bury(self, object_id: ObjectId, raw: bytes, expires: float) -> None:
        self._upkeep.talk.buried[object_id[:SHORT_BYTES]] = object_id
        self._tombstones.put(object_id, raw, expires)

    def _exhume(self, object_id: ObjectId) -> None:
        self._upkeep.talk.buried.pop(object_id[:SHORT_BYTES], None)

    # ---- what upkeep asks ------------------------------------------------------------------------------------

    def lineage(self, object_id: ObjectId) -> bytes:
        """By whom this node was asked to hold it; empty where it was not, or it is not voted on."""
        row = self._rows.get(object_id)
        return row.lineage if row is not None else b""

    def own_advertisement(self, object_id: ObjectId) -> Signed[Advertisement] | None:
        """What this node advertises about a replica; None where it holds none."""
        return self.advertiser.current(object_id)

    async def drop(self, replica: Replica) -> None:
        """Lets go of a replica: the co-holders and the directory are told."""
        if self._roster.replicas.get(replica.object_id) is not replica:
            return
        goodbyes = self._upkeep.goodbyes([replica])
        self._roster.remove(replica.object_id)
        self._rows.pop(replica.object_id, None)
        self.advertiser.remove(replica.object_id)
        await self._upkeep.say(goodbyes, GOODBYE_SECONDS)
        if replica.object_id not in self._roster.replicas:  # nobody has brought it back meanwhile
            await self._admission.release(replica.object_id)

    async def learn_tombstone(self, replica: Replica, raw: bytes) -> None:
        """Somebody says that the object was deleted: where that is proven, it goes."""
        outcome, tombstone = await self._admission.bury(raw)
        if outcome == "deleted" and tombstone is not None:
            await self.deleted(tombstone)
        elif outcome == "unpinned":
            self.unite(replica.object_id)

    async def upgrade(self, replica: Replica, contact: Contact) -> None:
        """Another holder has a newer version: takes that, or lets go of the old one, which must not answer any more."""
        raw = await self._overlay.call(contact, "descriptor", replica.object_id, purpose=PROBE)
        found = check_descriptor(raw, replica.object_id, self._rights)
        if not prevails(found, replica.descriptor, self._rights, self._ambient.wall()):
            replica.settled = True
            return
        try:
            await self._admission.recruit(Recruit(descriptor=raw), contact, self.hold)
        except RemotableError:
            await self.drop(replica)

    def _answer_tombstone(self, contact: Contact, body: bytes) -> bytes:
        raw = self._tombstones.get(_object_id(body))
        if raw is None:
            raise NotHere("no such object was deleted, as far as this node knows")
        return raw

    def _answer_descriptor(self, contact: Contact, body: bytes) -> bytes:
        replica = self._roster.replicas.get(_object_id(body))
        if replica is None:
            raise NotHere("this node holds no copy")
        return replica.descriptor.raw

    def _answer_advertisement(self, contact: Contact, body: bytes) -> bytes:
        own = self.own_advertisement(_object_id(body))
        if own is None:
            raise NotHere("this node holds no copy")
        return own.raw

    # ---- what others may ask ---------------------------------------------------------------------------------

    def holders(self, object_id: ObjectId) -> list[Contact]:
        """The other holders that count, as far as known here."""
        replica = self._roster.replicas.get(object_id)
        if replica is None:
            return []
        partners = replica.partners.values()
        return [each.peer.contact for each in partners if each.standing is Standing.PROVEN]

    def copies(self, object_id: ObjectId) -> int:
        """Copies that count, the one here included; 0 where there is none here."""
        replica = self._roster.replicas.get(object_id)
        if replica is None:
            return 0
        return lifecycle.counted(replica.view(), asyncio.get_running_loop().time())

    def holdings(self) -> list[Holding]:
        """All replicas held here, by name."""
        found = []
        for object_id, replica in self._roster.replicas.items():
            row, value = self._rows[object_id], replica.descriptor.value
            found.append(
                Holding(
                    name=value.name,
                    kind=value.kind,
                    type=value.type,
                    version=value.version,
                    owner=fingerprint(replica.descriptor.public),
                    since=row.since,
                    expires=row.expires,
                    passing=replica.passing,
                    copies=self.copies(object_id),
                    size=value.content.size if value.content else 0,
                )
            )
        return sorted(found, key=lambda each: each.name)


def _object_id(body: bytes) -> ObjectId:
    if len(body) != ID_BYTES:
        raise BadMessage(f"an object id has {ID_BYTES} bytes")
    return ObjectId(body)
