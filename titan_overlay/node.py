"""A node: a member of the pool that routes, keeps directory entries and holds replicas.

This file wires the rooms together and starts and stops them; what they do is in the rooms.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from titan_overlay import operator_objects
from titan_overlay.ambient import Ambient
from titan_overlay.answering import Answering
from titan_overlay.config import NodeConfig
from titan_overlay.errors import ConfigError, StorageError
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact, is_dialable
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.links.links import Peer
from titan_overlay.links.shared import Answer
from titan_overlay.mutable.log import Log, LogSettings
from titan_overlay.mutable.voting_keys import VotingKeys
from titan_overlay.node_object import NodeObject
from titan_overlay.overlay import udp
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.budget import Cpu
from titan_overlay.pool.hosting.bundles import BundleLoader, runner_of
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.hosting.upload import Upload
from titan_overlay.pool.keeping import last_run
from titan_overlay.pool.keeping.admission import Admission
from titan_overlay.pool.keeping.keeper import Keeper
from titan_overlay.pool.keeping.passing import Passing
from titan_overlay.pool.pins import living
from titan_overlay.reachability import Dialler, Reachability
from titan_overlay.rules import recall, remember
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.disk import Disk
from titan_overlay.storage.rows import Database, PeerRow
from titan_overlay.values import parse_address, sockets
from titan_overlay.wire.messages import Send

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.mutable.members import Members
    from titan_overlay.pool.finding.any_holder import Origin

log = logging.getLogger("titan")

SAVE_PEERS_SECONDS = 300.0
SAVED_PEERS = 32
LOST_PEERS = 8
"""So many that were known before and are no more are kept beside: of a pool in two parts, the way to the other."""
LOCATE_SECONDS = 4.0
FORWARD_SECONDS = 10.0
PORT_TRIES = 8


class Node(Answering):
    """One running node.

    Args:
        rights: of the pool; which one that is may be learned from the first contact (trust on first use).
        founder: this node founds the pool: it serves without a dial-back, and waits for nobody.
        owner: key of the user who runs it: publishes the objects of the configuration, may stop the node.
        cpu_seconds: CPU time that this process has used, for the budget `max_cpu`; None: no such budget.
        secure: TLS on links; False only in simulations.
    """

    def __init__(
        self,
        key: SigningKey,
        rights: Rights,
        ambient: Ambient,
        config: NodeConfig,
        *,
        database: Database,
        disk: Disk,
        founder: bool = False,
        owner: SigningKey | None = None,
        grants: Sequence[bytes] = (),
        cpu_seconds: Callable[[], float] | None = None,
        secure: bool = True,
    ) -> None:
        super().__init__(key, rights, ambient, config, grants=grants, secure=secure)
        self.owner = owner or key
        self.founder = founder
        self.database = database
        self.blobs = Blobs(disk, config.max_bytes)
        self._disk = disk
        self.groups_log: Log
        self.voting_keys: VotingKeys
        self._unfit = ""
        """Why the pool's rules do not let this node serve, or empty."""
        self.labels = {"node": key.id.hex(), **config.labels}
        self.stopping = asyncio.Event()
        self._cpu_seconds = cpu_seconds
        self._upload = Upload(config.max_upload, lambda: sum(self.overlay.protocol.traffic.sent))
        rights.changed.append(lambda: remember(database, rights))

    @property
    def reason(self) -> str:
        """Why this node does not serve, or empty."""
        return self._unfit or ("" if self.founder else self._reachability.reason)

    # ---- start -----------------------------------------------------------------------------------------------

    async def start(self, seeds: Sequence[JoinLine] = ()) -> None:
        """Opens the sockets, joins, brings the replicas of the last run back, and begins to serve.

        Args:
            seeds: nodes to join through. The founder may have none; others wait for one of them, with growing
                pauses.

        Raises:
            OSError: the address cannot be used. ConfigError: the seed belongs to another pool.
        """
        self.started = asyncio.get_running_loop().time()
        await self.blobs.open()
        settings = LogSettings(fsync=not self.config.no_fsync)
        self.groups_log = await Log.open(self._disk, self.key.id, self.ambient, settings)
        self.voting_keys = VotingKeys(self._disk, self.ambient, self.groups_log.settings.directory)
        await last_run.clear_away(self.database, self.blobs, self.rights)
        await self._open_all()
        known = self._known()
        self.overlay.find_seeds = lambda: [*self._known(), *seeds, *self._lost()]
        await self.learn_rules([*known, *seeds])  # they may have changed since the last run
        self._check_puzzle()
        if self.founder:
            self.overlay.set_serving(True)
            self.overlay.set_dialable(self.overlay.whereabouts.families)
            await self._rejoin([*seeds, *known])
        elif not await self._rejoin(known):
            await self.join(seeds)
        self.database.put_setting("pool", self.overlay.pool)
        recall(self.database, self.rights, self.ambient.wall())
        remember(self.database, self.rights)
        self.wire()
        self.links.budget = self._upload
        for interface in self._interfaces:
            await self.links.listen(interface, self._port)
        await self.gossip.compare()
        self._reachability = Reachability(self.overlay, self.links)
        self.dialler = Dialler(self.overlay, self.links)
        self._furnish()
        self._check_puzzle()
        if not self.founder:
            await self._become_dialable()
        await last_run.bring_back(self.database, self.admission, self.keeper)
        await self._set_up_objects()
        self.keeper.start()
        self._write_peers()  # who is killed in its first minutes finds back too
        self.spawn(self._save_peers(), "saving the known peers")
        if self._cpu_seconds is not None:
            self.spawn(self._watch_cpu(self._cpu_seconds), "watching the CPU budget")

    async def _rejoin(self, known: Sequence[JoinLine]) -> int:
        """How many of these are reached. Others may have their addresses by now, which is no reason to stay away."""
        try:
            return await self.overlay.bootstrap(known)
        except ConfigError as why:
            log.warning("none of the peers of the last run was found: %s", why)
            return 0

    def _known(self) -> list[JoinLine]:
        """The peers of the last run, or of some minutes ago."""
        rows = self.database.peers()
        return _lines(row for row in rows if row.seen == rows[0].seen)

    def _lost(self) -> list[JoinLine]:
        """Those that were known before these, the latest first."""
        rows = self.database.peers()
        return _lines(row for row in rows if row.seen != rows[0].seen)

    async def _open_all(self) -> None:
        """One port for UDP and TCP, of both families. TCP listens once the pool is known; that it can is tried now.

        Raises:
            OSError: a port that was named is taken.
        """
        loop = asyncio.get_running_loop()
        named, port = sockets(self.config.listen)
        self._interfaces = udp.here(named)
        for _ in range(PORT_TRIES):
            try:
                await self.open(self._interfaces, port)
                self._port = self.overlay.contact.port
                for interface in self._interfaces:
                    trial = await loop.create_server(asyncio.Protocol, interface, self._port)
                    trial.close()
                    await trial.wait_closed()
            except OSError:
                self.overlay.stop()
                if port:
                    raise
                continue
            for address in self.config.advertise:
                self.overlay.set_address(*parse_address(address))
            return
        raise OSError(f"no port of {', '.join(self._interfaces)} is free for both UDP and TCP")

    def _furnish(self) -> None:
        """Builds the rooms that hold replicas."""
        self.bundles = BundleLoader(self.trusted, self.overlay.pool)
        self.admission = Admission(
            rights=self.rights,
            me=self.me,
            ambient=self.ambient,
            config=self.config,
            host=self.host,
            links=self.links,
            database=self.database,
            blobs=self.blobs,
            bundles=self.bundles,
            makers={
                "service": lambda code, *_: runner_of(*code, worker_bytes=self.config.worker_bytes),
                "mutable": lambda *replica: self.groups.runner(*replica),
            },
            grants=self.grants,
            labels=self.labels,
        )
        self.keeper = Keeper(
            me=self.key,
            rights=self.rights,
            ambient=self.ambient,
            overlay=self.overlay,
            database=self.database,
            recruiter=self.recruiter,
            admission=self.admission,
            config=self.config,
            read_chunk=self.blobs.read_chunk,
        )
        self.overlay.roaming.on_moved = self.keeper.moved
        self.overlay.roaming.on_seen = lambda ip: self.spawn(self._reachability.follow(ip), "moving to another address")
        if not self.config.no_host:
            passing = Passing(
                self.admission,
                self.keeper.hold,
                self.router.object_id,
                lambda object_id: self.host.get(object_id) is not None,
                self.spawn,
            )
            self.router.any_holder.on_read = passing.read
        own = operator_objects.bound_to(
            self.key.id, names.node_name(self.key.id), "node", self.key, self.overlay.pool, self.ambient.wall()
        )
        self.host.add(own, ServiceRunner(NodeObject(self)))

    async def _become_dialable(self) -> None:
        """Asks peers to dial this node; only one that can be dialled serves."""
        await self._reachability.ask()
        if self._reachability.reason:
            log.warning("client only: %s", self._reachability.reason)
        else:
            await self._serve()
        if not self._reachability.settled:
            self.spawn(self._keep_asking(), "asking to be dialled back")

    def _check_puzzle(self) -> None:
        """ConfigError: the pool asks for more work than this node's key has cost, so it would serve nobody."""
        if not self.rights.may_serve(self.key.id):
            raise ConfigError(unsolved(self.config.data, self.rights.record.puzzle_bits))

    async def _serve(self) -> None:
        """From here on a full member: those near learn it from the look-up."""
        self.overlay.set_serving(True)
        await self.overlay.find_nodes(self.key.id)

    async def _keep_asking(self) -> None:
        async for dialable in self._reachability.ask_again():
            if dialable and not self.overlay.serving and not self._unfit:
                log.info("others can dial this node now: it serves")
                await self._serve()

    async def _set_up_objects(self) -> None:
        """The objects of the configuration: bound to this node, published by its user."""
        now = self.ambient.wall()
        for each in operator_objects.load(self.config.objects):
            descriptor = operator_objects.describe(each, self.key.id, self.owner, self.grants, self.rights, now)
            await self.admission.adopt(descriptor, ServiceRunner(each.instance), self.keeper.hold)

    # ---- rights ----------------------------------------------------------------------------------------------

    def _check_caller(self, sender: Sender, descriptor: Signed[Descriptor]) -> None:
        """Of several who have published the same data, any may let others read it."""
        value = descriptor.value
        if value.kind == "data" and value.policy.callers == "granted":
            pins = living(self.admission.pins(self.router.object_id(value.name)), self.ambient.wall())
            open_to = (each for each in pins if sender.public == each.public or each.value.policy.callers == "anyone")
            descriptor = next(open_to, descriptor)
        super()._check_caller(sender, descriptor)

    # ---- budgets ---------------------------------------------------------------------------------------------

    def _handle(self, peer: Peer, send: Send) -> Answer:
        begun = super()._handle(peer, send)
        return begun if is_loopback(peer.ip) else self._upload.pace(begun, subnet(peer.ip, peer.port) or peer.id)

    async def _watch_cpu(self, cpu_seconds: Callable[[], float]) -> None:
        budget = Cpu(self.config.max_cpu)
        loop = asyncio.get_running_loop()
        while True:
            self.host.judge(budget.sample(loop.time(), cpu_seconds()), 1.0)
            await asyncio.sleep(1.0)

    # ---- stop ------------------------------------------------------------------------------------------------

    async def stopped(self) -> None:
        """Waits until somebody who may has told the node to leave."""
        await self.stopping.wait()

    async def stop(self) -> None:
        """Hands over where copies would be missing, withdraws, closes. Bounded by `config.stop_timeout`."""
        if hasattr(self, "keeper"):
            try:
                async with asyncio.timeout(self.config.stop_timeout):
                    await self.keeper.leave()
            except TimeoutError:
                log.warning("leaving took too long; what is not withdrawn expires by itself")
            self._write_peers()
        await self.close()

    async def close(self) -> None:
        """Stops at once, and tells nobody."""
        if hasattr(self, "keeper"):
            await self.keeper.close()
        await super().close()
        if "groups" in vars(self):
            await self.groups.close()
        if hasattr(self, "groups_log"):
            await self.groups_log.close()

    async def _save_peers(self) -> None:
        while True:
            await asyncio.sleep(SAVE_PEERS_SECONDS)
            self._write_peers()

    def _write_peers(self) -> None:
        now = self.ambient.wall()
        near = self.overlay.neighbours(self.key.id, SAVED_PEERS)
        if near:
            try:
                known = [PeerRow(each.id, each.ip, each.port, now) for each in near]
                ids = {each.id for each in known}
                lost = [each for each in self.database.peers() if each.id not in ids][:LOST_PEERS]
                self.database.put_peers([*known, *lost])
            except StorageError as why:
                log.warning("the known peers were not saved: %s", why)

    def hints(self, object_id: ObjectId) -> Sequence[bytes]:
        # What is held here is vouched for first: a node that has just been started again is asked before it has
        # advertised anything.
        own = self.keeper.own_advertisement(object_id) if hasattr(self, "keeper") else None
        known = super().hints(object_id)
        return known if own is None else [own.raw, *(raw for raw in known if raw != own.raw)]

    def copies(self, object_id: ObjectId) -> int:
        return self.keeper.copies(object_id) or 1

    def lineage(self, object_id: ObjectId) -> bytes:
        return self.keeper.lineage(object_id)

    # ---- groups ------------------------------------------------------------------------------------------------

    @cached_property
    def pool(self) -> "Pool":
        """What programs have, for the doors of this node. Most have none, and do without all that belongs to it."""
        from titan_overlay.client import Pool

        return Pool(self)

    @cached_property
    def groups(self) -> "Members":
        """The mutable objects of which this node is a member. Until there is one, the engines need not be in memory."""
        from titan_overlay.mutable.founding import Founders
        from titan_overlay.mutable.groups import PeerLinks
        from titan_overlay.mutable.members import Members

        return Members(
            self.key.id,
            self.overlay.pool,
            self.ambient,
            PeerLinks(self.links, self._locate),
            self._disk,
            self.groups_log,
            self.voting_keys,
            rights=self.overlay.rights,
            check_caller=self._check_caller,
            may_administer=self.may_administer,
            forward=self._forward,
            founders=Founders(self.overlay, self.links, self.ambient),
            recruiter=self.recruiter,
            bundles=self.bundles,
            let_go=self._let_go,
        )

    @property
    def groupless(self) -> str:
        """Why this node takes no part in mutable objects now, or empty."""
        return self.groups.trouble if "groups" in vars(self) else ""

    async def _locate(self, node: NodeId) -> Contact:
        deadline = asyncio.get_running_loop().time() + LOCATE_SECONDS
        return await self.router.node_contact(ObjectId(node), deadline)

    def _let_go(self, object_id: ObjectId) -> None:
        self.spawn(self.keeper.let_go(object_id), "giving up a group")

    async def _forward(self, origin: "Origin", name: str, type: str, body: bytes) -> None:
        deadline = asyncio.get_running_loop().time() + FORWARD_SECONDS
        await self.router.call(name, type, body, deadline=deadline, origin=origin)

    # ---- the rules of the pool ---------------------------------------------------------------------------------

    def clock_jumped(self) -> None:
        super().clock_jumped()
        if hasattr(self, "keeper"):
            self.keeper.moved()

    def revise(self) -> None:
        super().revise()
        if hasattr(self, "keeper"):
            self.keeper.revise()
        try:
            self._check_puzzle()
        except ConfigError as why:
            self._unfit = str(why)
            self.overlay.set_serving(False)
            log.warning("client only: %s", why)


def unsolved(data: Path, bits: int) -> str:
    """What to tell the operator of a node whose key does not solve the pool's puzzle."""
    key, old = data / "identity.key", data / "old"
    of_this_id = [key, *(place for place in [data / "log"] if place.exists())]
    return (
        f"{key} does not solve the pool's puzzle of {bits} bits, so no node lets this one serve; stop it, and start it "
        f"again with a new key (and node id): mkdir {old} && mv {' '.join(map(str, of_this_id))} {old}"
    )


def _lines(peers: Iterable[PeerRow]) -> list[JoinLine]:
    return [JoinLine(each.ip, each.port, node=each.id) for each in peers if is_dialable(each.ip, each.port)]
