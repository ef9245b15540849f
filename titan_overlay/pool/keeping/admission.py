"""Taking replicas in: whether this node holds an object, getting what it needs for it, and letting go of it.

Everything that makes a node a holder passes here: publishing, repair and moves (as `Recruit`), the operator's own
objects, what the database remembers from the last run, and passing caches.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary

from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.errors import (
    BadMessage,
    Conflict,
    Forbidden,
    Gone,
    Overloaded,
    RemotableError,
    StorageError,
)
from titan_overlay.identity import lineage, names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import CLOCK_TOLERANCE, Right
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights, ask_for
from titan_overlay.identity.statements import (
    Advertisement,
    Descriptor,
    Tombstone,
    check_clock,
    check_descriptor,
    check_tombstone,
    may_host,
    needs_host_grant,
    prevails,
    sweeps,
)
from titan_overlay.identity.subnets import subnet
from titan_overlay.links.links import Links
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.places import contact_of
from titan_overlay.pool.hosting.bundles import BundleLoader
from titan_overlay.pool.hosting.host import Host, Resident, Runner
from titan_overlay.pool.keeping.disk_health import DiskHealth
from titan_overlay.pool.keeping.graves import Graves, grave_of
from titan_overlay.pool.keeping.lifecycle import Pace
from titan_overlay.pool.keeping.slots import Slots
from titan_overlay.pool.keeping.supplies import Maker, Supplies
from titan_overlay.pool.orders import Accepted, Recruit
from titan_overlay.pool.pins import keep_until, later, pins_at
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.rows import Database, ReplicaRow

log = logging.getLogger("titan")

OBJECTS_MAX = 20_000
PASSING_SECONDS_MAX = 86_400.0
"""However long its publisher says: what is kept in passing leaves no room for what is read later."""
PINS_KEPT = 64
"""Publishers whose wish to keep the same data is remembered: strangers may all ask, and each costs a row."""

Taken = Callable[[Signed[Descriptor], Sequence[Signed[Advertisement]], ReplicaRow], Awaitable[Accepted]]
"""What the keeper does once a replica is in: looks after it, and advertises it."""


class Admission:
    """Decides which replicas this node holds."""

    def __init__(
        self,
        *,
        rights: Rights,
        me: Sender,
        ambient: Ambient,
        config: NodeConfig,
        host: Host,
        links: Links,
        database: Database,
        blobs: Blobs,
        bundles: BundleLoader,
        makers: Mapping[str, Maker],
        grants: Sequence[bytes],
        labels: Mapping[str, str],
    ) -> None:
        self._rights = rights
        self._pool = rights.pool
        self._me = me
        self._ambient = ambient
        self._config = config
        self._host = host
        self._links = links
        self._database = database
        self._blobs = blobs
        self._bundles = bundles
        self._makers = makers
        self._grants = grants
        self._labels = labels
        self._taking: WeakValueDictionary[ObjectId, asyncio.Lock] = WeakValueDictionary()
        """As long as somebody holds one, or waits for it."""
        self._coming = 0
        """Replicas that are being taken in."""
        self._loose: dict[bytes, None] = {}
        """Bundles of objects that are gone."""
        self._slots = Slots()
        self._cached: dict[ObjectId, int] = {}
        """Bytes of what is held in passing only."""
        self._buried = Graves(database.tombstones(), database.drop_tombstone)
        self.reason = "this node hosts no objects (--no-host)" if config.no_host else ""
        """Why nothing is taken in, or empty."""
        self.disk = DiskHealth()
        self._supplies = Supplies(links, blobs, bundles, makers)

    # ---- may it? ---------------------------------------------------------------------------------------------

    def host_grant(self, name: str) -> bytes:
        """This node's grant to host the object with that name, the one that lasts longest; or empty."""
        return self._rights.best(self._grants, self._me.id, Right.HOST, name, self._ambient.wall())

    @property
    def read_only(self) -> str:
        """Why this node can write nothing more, or empty. What it holds it goes on serving."""
        if not self.disk.failure and self._database.read_only:
            return "the database cannot be written"
        return self.disk.failure

    def check(self, descriptor: Signed[Descriptor], object_id: ObjectId) -> None:
        """Whether this node may hold the object.

        Raises:
            Forbidden, Overloaded, Conflict, Gone: the text is what the publisher reads.
        """
        value = descriptor.value
        if self._is_buried(descriptor, object_id):
            raise Gone(f"{value.name!r} was deleted; publish it anew to bring it back")
        if self.reason:
            raise Forbidden(self.reason)
        if value.kind != "data" and value.kind not in self._makers:
            raise Forbidden(f"this node does not run {value.kind} objects")
        for label, wanted in value.policy.requires.items():
            if self._labels.get(label) != wanted:
                raise Forbidden(f"the object requires {label}={wanted}, which this node has not")
        if value.kind != "data":
            self._check_code(descriptor)
        held = self._host.kept(object_id)
        if held is None and len(self._host.ids()) >= OBJECTS_MAX:
            raise Overloaded(f"this node holds {OBJECTS_MAX} objects already", retry_after=600.0)
        if (
            held is not None
            and value.kind != "data"
            and prevails(held.descriptor, descriptor, self._rights, self._ambient.wall())
        ):
            raise Conflict(f"version {held.descriptor.value.version} of {value.name!r} is here already, a newer one")
        if held is not None and held.descriptor.value.genesis != value.genesis:
            raise Conflict(f"{value.name!r} has members already, and this one names others; see: titan rm {value.name}")

    def _is_buried(self, descriptor: Signed[Descriptor], object_id: ObjectId) -> bool:
        raw = self._buried.get(grave_of(object_id, descriptor.value.kind, descriptor.public))
        if raw is None:
            return False
        tombstone = records.check(raw, Tombstone, self._pool).value
        lasts = tombstone.expires + CLOCK_TOLERANCE >= self._ambient.wall()
        return lasts and descriptor.value.version <= tombstone.version

    def _check_code(self, descriptor: Signed[Descriptor]) -> None:
        value = descriptor.value
        if needs_host_grant(descriptor, self._me.public):
            now = self._ambient.wall()
            if not self._rights.allows(self._grants, self._me.id, Right.HOST, value.name, now):
                raise Forbidden(f"this node has no grant to host services; {ask_for(self._me.public, Right.HOST)}")
        if value.bundle:
            self._bundles.check_trusted(descriptor.public)
        elif value.type not in self._bundles.installed:
            raise Forbidden(f"object type {value.type!r} is not installed here")

    # ---- taking in -------------------------------------------------------------------------------------------

    async def recruit(self, order: Recruit, sender: Contact, taken: Taken) -> Accepted:
        """Takes a replica that somebody asks this node to hold.

        Args:
            sender: who asks, to be asked back for content and code; without an address where that is not known.

        Raises:
            RemotableError: why not.
        """
        now = self._ambient.wall()
        descriptor = check_descriptor(order.descriptor, None, self._rights)
        value = descriptor.value
        object_id = names.object_id(self._pool, value.name)
        self.check(descriptor, object_id)
        holders = self._co_holders(order.holders, object_id, sender.ip)
        by_now = [each for each in holders if may_host(each, descriptor, self._rights, now)]
        if all(each.value.version < value.version for each in by_now):
            # It is new, or its holders hide themselves. What is new is published by a right that holds now.
            check_clock(value, now)
            self._rights.check_publish(descriptor.public, value.name, value.grant, now)
        lock = self._taking.setdefault(object_id, asyncio.Lock())
        self._coming += 1
        try:
            async with self._slots.taken(subnet(sender.ip, sender.port)), lock:  # who waits for another counts as well
                self.check(descriptor, object_id)
                self.disk.check()
                accepted = await self._take(descriptor, object_id, holders, sender, taken, order)
                self.disk.works()
                return accepted
        except StorageError as why:
            raise self.disk.failed(why) from None
        finally:
            self._coming -= 1
            await self._free_code()

    async def _take(
        self,
        descriptor: Signed[Descriptor],
        object_id: ObjectId,
        holders: list[Signed[Advertisement]],
        source: Contact,
        taken: Taken,
        order: Recruit,
    ) -> Accepted:
        value, passing = descriptor.value, order.passing
        now = self._ambient.wall()
        pins = [descriptor] if value.kind == "data" and not passing else []
        held = self._host.kept(object_id)
        if passing:
            self._check_passing(value, held is not None)
        if held is not None and held.descriptor.value.kind == "data":
            known = self.pins(object_id)
            if len(known) >= PINS_KEPT and all(pin.public != descriptor.public for pin in known):
                raise Overloaded(f"{PINS_KEPT} publishers want {value.name!r} kept already", retry_after=600.0)
            pins += known
            descriptor = held.descriptor
            row = ReplicaRow(object_id, descriptor.raw, now, self._expires(pins, value.name), passing)
            self._write(row, pins[:1])
            self._note_passing(row, value)
            return await taken(descriptor, holders, row)
        if held is not None and value.kind == "mutable":  # its member goes on: what it has promised is in its memory
            return await taken(held.descriptor, holders, ReplicaRow(object_id, held.descriptor.raw, now, 0.0))
        sources = [source, *(contact_of(each) for each in holders if each.signer != source.id)]
        expires = self._expires([descriptor], value.name)
        runner = await self._supplies.runner(descriptor, object_id, sources)
        if passing:
            end = now + min(value.policy.cache_ttl, PASSING_SECONDS_MAX)
            expires = min(expires, end) if expires else end
        elif pins and source.port:  # it is another holder's wish: of a node that holds it for others as well
            others = await pins_at(self._links, self._rights, source, object_id)
            pins += [pin for pin in others if not self._is_buried(pin, object_id)]
            expires = self._expires(pins, value.name)
        line = self._lineage(order, descriptor, object_id)
        row = ReplicaRow(object_id, descriptor.raw, now, expires, passing, lineage=line)
        try:
            # What it is made of may have been long on its way, and rights taken back meanwhile.
            self._rights.check_publish(descriptor.public, value.name, value.grant, value.created)
            self.check(descriptor, object_id)
            self._write(row, pins)  # before the old version goes: where it cannot be written, that one stays
        except (RemotableError, StorageError):
            if value.kind == "data":
                await self._blobs.remove(object_id)
            self._loose[value.bundle] = None
            raise
        try:
            if held is not None:
                self._loose[held.descriptor.value.bundle] = None
                await self._host.remove(object_id)
            await self._host.open(descriptor, runner)
        except BaseException:
            self._database.drop_replica(object_id)
            raise
        self._note_passing(row, value)
        return await taken(descriptor, holders, row)

    def _check_passing(self, value: Descriptor, held: bool) -> None:
        """Whether data may be picked up in passing. Raises Forbidden, Conflict, Overloaded."""
        if value.content is None or not value.policy.cache:
            raise Forbidden(f"{value.name!r} is not to be cached")
        if held:
            raise Conflict(f"{value.name!r} is held here already")
        if sum(self._cached.values()) + value.content.size > self._config.cache_bytes:
            raise Overloaded("the cache of this node is full", retry_after=value.policy.cache_ttl)

    def _note_passing(self, row: ReplicaRow, value: Descriptor) -> None:
        self._cached.pop(row.object_id, None)
        if row.passing and value.content is not None:
            self._cached[row.object_id] = value.content.size

    def _write(self, row: ReplicaRow, pins: Sequence[Signed[Descriptor]]) -> None:
        """What must survive a crash, all of it or nothing."""
        with self._database.transaction():
            for pin in pins:
                self._database.put_pin(row.object_id, pin.public, pin.raw)
            self._database.put_replica(row)

    def _expires(self, pins: Sequence[Signed[Descriptor]], name: str) -> float:
        """When the replica ends: with the last of those who want it. Copies made later live no longer than the first.

        Raises:
            Gone: that is over, or so soon that the copy would not count.
        """
        ends, last = keep_until(pins[0].value), pins[0].value.policy
        for pin in pins[1:]:
            end = keep_until(pin.value)
            if later(end, ends) != ends:
                ends, last = end, pin.value.policy
        if ends and ends - self._ambient.wall() <= min(Pace().ends_soon, last.ttl / 10):
            raise Gone(f"the time to live of {name!r} is over; publish it anew to keep it (are the clocks right?)")
        return ends

    def _lineage(self, order: Recruit, descriptor: Signed[Descriptor], object_id: ObjectId) -> bytes:
        """By which this node was asked; empty where that does not hold: it may be asked all the same."""
        version = descriptor.value.version
        try:
            lineage.path(order.lineage, descriptor.public, self._pool, object_id, version, self._me.id)
        except BadMessage:
            return b""
        return order.lineage

    def _co_holders(self, raws: Sequence[bytes], object_id: ObjectId, by: str) -> list[Signed[Advertisement]]:
        found = []
        for raw in raws[:64]:
            try:
                each = records.check(raw, Advertisement, self._pool)
            except BadMessage:
                continue
            is_other = each.signer != self._me.id and not each.value.withdrawn
            if each.value.object_id == object_id and is_other and each.value.may_be_told(by):
                found.append(each)
        return found

    # ---- the operator's own objects, and those of the last run -------------------------------------------------

    async def adopt(self, descriptor: Signed[Descriptor], runner: Runner | None, taken: Taken) -> Accepted:
        """Takes in an object of this node's own (a device, the node object's kin)."""
        now = self._ambient.wall()
        object_id = names.object_id(self._pool, descriptor.value.name)
        await self._host.open(descriptor, runner or await self._supplies.runner(descriptor, object_id, []))
        row = ReplicaRow(object_id, descriptor.raw, now, 0.0, pinned=True)
        return await taken(descriptor, [], row)

    async def restore(self, row: ReplicaRow) -> Signed[Descriptor] | None:
        """Brings a replica of the last run back to life; None where that cannot be now.

        Its row goes only where the object was deleted or its bytes are lost. A clock that is wrong until the network
        has set it, or a grant that ran out, is no reason to forget what was promised to be kept. Which objects of the
        operator's there are, the settings say anew.
        """
        if row.pinned:
            self._database.drop_replica(row.object_id)
            return None
        try:
            descriptor = check_descriptor(row.descriptor, row.object_id, self._rights)
            self.check(descriptor, row.object_id)
        except Gone as why:
            self._not_restored(row, why)
            return None
        except RemotableError as why:
            log.warning("replica %s is kept, but not served in this run: %s", row.object_id.hex()[:12], why)
            return None
        try:
            await self._host.open(descriptor, await self._supplies.runner(descriptor, row.object_id, []))
        except RemotableError as why:
            self._not_restored(row, why)
            return None
        self._note_passing(row, descriptor.value)
        return descriptor

    def _not_restored(self, row: ReplicaRow, why: RemotableError) -> None:
        log.warning("replica %s of the last run is not held any more: %s", row.object_id.hex()[:12], why)
        self._database.drop_replica(row.object_id)

    # ---- letting go ------------------------------------------------------------------------------------------

    async def release(self, object_id: ObjectId) -> None:
        """Drops a replica with everything that was kept for it."""
        held = self._host.kept(object_id)
        self._cached.pop(object_id, None)
        await self._host.remove(object_id)
        async with self._taking.setdefault(object_id, asyncio.Lock()):
            if self._host.kept(object_id) is None:  # else it has been taken in again meanwhile
                await self._clear(object_id, held)
        if held is not None and held.descriptor.value.bundle:
            self._loose[held.descriptor.value.bundle] = None
            await self._free_code()

    async def _clear(self, object_id: ObjectId, held: Resident | None) -> None:
        if held is not None:
            await held.runner.discard(deleted=object_id in self._buried)
        try:
            self._database.drop_replica(object_id)
            for pin in self.pins(object_id):
                self._database.drop_pin(object_id, pin.public)
        finally:  # on a full disk, where rows stay until the next start, it is the content that makes room
            if held is not None and held.descriptor.value.kind == "data":
                await self._blobs.remove(object_id)

    async def _free_code(self) -> None:
        """Frees the room of bundles of which no object here is made any more; once nothing comes that may need them."""
        loose, self._loose = self._loose, {}
        for bundle in filter(None, loose):
            if self._coming:
                self._loose[bundle] = None
            elif self._host.get(bundle) is None and not any(map(partial(self._is_of, bundle), self._host.ids())):
                with suppress(StorageError):  # then it stays until the next start
                    await self._blobs.remove(bundle)

    def _is_of(self, bundle: bytes, object_id: ObjectId) -> bool:
        held = self._host.get(object_id)
        return held is not None and held.descriptor.value.bundle == bundle

    async def bury(self, raw: bytes) -> tuple[str, Signed[Tombstone] | None]:
        """Carries out a deletion: the outcome, and the tombstone where it spreads.

        Outcomes: `deleted`, `wrong token`, `nothing to delete`, `already gone`, and for data that others pin
        `unpinned`. Of data only the pin of one publisher is deleted; it is noted even where the data itself is not
        served yet.
        """
        now = self._ambient.wall()
        try:
            tombstone = check_tombstone(raw, self._rights, now)
        except Forbidden:
            return "wrong token", None
        buried = records.check(tombstone.value.descriptor, Descriptor, self._pool)
        object_id = names.object_id(self._pool, buried.value.name)
        grave = grave_of(object_id, buried.value.kind, buried.public)
        if buried.value.kind == "data":
            here = next((each for each in self.pins(object_id) if each.public == buried.public), None)
        else:
            held = self._host.get(object_id)
            here = held.descriptor if held is not None else None
        if here is None:
            return ("already gone" if grave in self._buried else "nothing to delete"), None
        covered = here.public == buried.public or sweeps(tombstone, self._rights, now)
        if not covered or here.value.version > tombstone.value.version:
            return "wrong token", None
        with self._database.transaction():
            self._database.put_tombstone(grave, raw, tombstone.value.expires)
            if buried.value.kind == "data":
                self._database.drop_pin(object_id, buried.public)
        self._buried.put(grave, raw, tombstone.value.expires)
        return "unpinned" if buried.value.kind == "data" and self.pins(object_id) else "deleted", tombstone

    def pins(self, object_id: ObjectId) -> list[Signed[Descriptor]]:
        """Who wants this data kept; without rows that were damaged on the disk."""
        found = []
        for raw in self._database.pins(object_id):
            with suppress(BadMessage):
                found.append(records.check(raw, Descriptor, self._pool))
        return found
