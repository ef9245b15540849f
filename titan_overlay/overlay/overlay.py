"""The overlay: finds nodes near an id and keeps soft state there. Kademlia over authenticated sessions.

`Overlay` keeps the life-cycle of the stock `kademlia.network.Server` (listen, bootstrap, stop) and replaces what it
does; `docs/architecture.md` tells which of the stock's defects this cures.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from kademlia.network import Server

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden, TitanError
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Address, Contact, family, pack_address
from titan_overlay.identity.grants import JoinLine, Right
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights, ask_for
from titan_overlay.overlay import bodies, packets, traffic, udp
from titan_overlay.overlay.announcer import Announcer
from titan_overlay.overlay.answers import Answers
from titan_overlay.overlay.calls import Handler, HandshakeRefused, Unheard
from titan_overlay.overlay.density import Density
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.finder import Finder
from titan_overlay.overlay.handshake import Handshakes
from titan_overlay.overlay.joining import Joining
from titan_overlay.overlay.lookup import BUDGET, PATHS
from titan_overlay.overlay.protocol import ALSO_AT, OverlayProtocol
from titan_overlay.overlay.regions import COPIES, REGION_MAX, Region
from titan_overlay.overlay.roaming import Roaming
from titan_overlay.overlay.routing import REFRESH_SECONDS, RoutingTable
from titan_overlay.overlay.search import Found
from titan_overlay.overlay.sessions import SERVING, Session
from titan_overlay.overlay.shelves import MAX_PER_OBJECT, MAX_STATEMENTS
from titan_overlay.overlay.upkeep import Upkeep
from titan_overlay.overlay.whereabouts import Whereabouts

log = logging.getLogger(__name__)

__all__ = ["Found", "Overlay"]

JOIN_PATHS = 8
"""Disjoint paths on which a node that joins looks for its neighbours: whom it finds now, it will ask for long."""


class Overlay(Server):
    """One node's part in the overlay.

    Args:
        key: the node's key; its id is the place in the overlay.
        rights: of the pool; which one that is may be learned from the first contact (trust on first use).
        k: contacts a bucket. alpha: questions in flight.
        copies: nodes that are to keep each statement: as many are expected in the region of an object.
        paths: disjoint paths of a lookup, at most. budget: questions of one lookup, at most.
        refresh_seconds: a bucket without a lookup for so long is refreshed.
        statements_max: that are kept for others; statements_per_object_max: of them, about one object.
        client: holds sessions but never enters routing tables.
        hints: raw advertisements that this node can vouch for (its own replicas, its holder cache), told on the way.
        user: public key for which this node speaks, if not its own: rights are asked for in its name.
        conduct: what is remembered of peers that misbehave; shared with the rooms above.
    """

    def __init__(
        self,
        key: SigningKey,
        rights: Rights,
        ambient: Ambient,
        *,
        k: int = 20,
        alpha: int = 3,
        copies: int = COPIES,
        paths: int = PATHS,
        budget: int = BUDGET,
        refresh_seconds: float = REFRESH_SECONDS,
        statements_max: int = MAX_STATEMENTS,
        statements_per_object_max: int = MAX_PER_OBJECT,
        client: bool = False,
        hints: Callable[[ObjectId], Sequence[bytes]] = lambda object_id: (),
        conduct: Conduct | None = None,
        user: bytes = b"",
    ) -> None:
        self.directory = Directory(
            rights,
            key.id,
            max_statements=statements_max,
            max_per_object=statements_per_object_max,
            near=lambda object_id: self._finder.is_near(object_id),
        )
        super().__init__(k, alpha, key.id, self.directory)
        self.transport: Any = None
        self.key = key
        self.user = user or key.public
        self.rights = rights
        self.conduct = conduct or Conduct()
        self.client = client
        self.serving = False
        self.table = RoutingTable(key.id, k, refresh_seconds)
        self.density = Density(self.table)
        self._search = {"alpha": alpha, "copies": copies, "paths": paths, "budget": budget}
        self.find_seeds: Callable[[], Sequence[JoinLine]] = lambda: ()
        """Where to join again when nobody that is known answers: the one node known was restarted, the net was away."""
        self.whereabouts = Whereabouts(key.id)
        self.roaming = Roaming(
            self.whereabouts,
            self.table,
            serving=lambda: self.serving,
            meet_again=lambda peer: self.protocol.meet_again(peer),
        )
        self._ambient = ambient
        self._answers = Answers(key.id, self.table, self.directory, ambient, hints)
        self._handshakes = Handshakes(key, rights, ambient.token_bytes, ambient.wall)
        self._handlers: dict[str, Handler] = {
            "ping": lambda contact, body: b"",
            "find_node": self._answers.find_node,
            "find_holders": self._answers.find_holders,
            "store": self._answers.store,
        }
        self.protocol: OverlayProtocol
        self._upkeep: Upkeep
        self._announcer: Announcer
        self._finder: Finder
        self._joining: Joining

    # ---- life-cycle ------------------------------------------------------------------------------------------

    def _create_protocol(self) -> OverlayProtocol:
        return OverlayProtocol(
            self.key.id,
            self.table,
            self.directory,
            self._handshakes,
            self._ambient,
            self.conduct,
            on_peer=self._on_peer,
            on_silence=self._on_silence,
            on_observed=self.roaming.observed,
        )

    async def listen(self, port: int, *interfaces: str) -> None:
        """Opens the sockets: one for each interface (loopback, if none is named), at most one of each family.

        Args:
            port: the same for all; 0: any that is free for all (see `contact`).

        Raises:
            OSError: the port is taken or an interface is not ours.
        """
        self.protocol = self._create_protocol()
        self.whereabouts.bound.clear()
        try:
            for interface in interfaces or ("127.0.0.1",):
                self.transport = await udp.open_udp(lambda: self.protocol, interface, port)
                bound = self.transport.get_extra_info("sockname")[:2]
                self.whereabouts.bound[family(bound[0])] = bound
                port = bound[1]
        except BaseException:
            self._close_sockets()
            raise
        for method, handler in self._handlers.items():
            self.protocol.serve(method, handler)
        self.set_serving(self.serving)
        self._finder = Finder(
            self.key.id,
            self.rights,
            self.protocol,
            self.table,
            self.directory,
            self.density,
            self._ambient,
            avoided=lambda node: self.conduct.avoided(node, asyncio.get_running_loop().time()),
            **self._search,
        )
        self._joining = Joining(
            self.protocol,
            self.rights,
            self.whereabouts,
            settle=self._settle,
            find_seeds=lambda: self.find_seeds(),
            explain=self._explain,
        )
        self._announcer = Announcer(
            self.key.id,
            self.protocol,
            self._finder.region_of,
            self._finder.read_region,
            self._keep,
            lambda: self.serving,
        )
        self._upkeep = Upkeep(
            self.protocol,
            self.table,
            self._handshakes,
            self.directory,
            self._ambient,
            self.density,
            self._refresh,
            self._joining.join_again,
            self._look_back,
        )
        self._upkeep.start()

    def stop(self) -> None:
        """Closes the socket; calls under way fail with LinkError."""
        if self.transport is None:
            return
        self._upkeep.stop()
        self._joining.stop()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self.protocol.close()
        for transport in self.protocol.transports.values():
            transport.close()
        self.transport = None

    async def bootstrap(self, seeds: Sequence[JoinLine]) -> int:
        """Joins through any of these; learns the pool from the first if it is not known yet.

        Returns:
            How many were reached.

        Raises:
            ConfigError: none was reached, and one belongs to another pool or is another node than its line says.
        """
        return await self._joining.join(seeds)

    @property
    def joined_through(self) -> Sequence[JoinLine]:
        """The seeds that answered when this node joined last."""
        return self._joining.through

    def _explain(self, refusal: HandshakeRefused) -> str:
        if refusal.reason != packets.NOT_ADMITTED:
            return str(refusal)
        return f"{refusal}; use an invitation, or {ask_for(self.user, Right.JOIN | Right.CALL)}"

    async def _settle(self, reached: Sequence[Contact]) -> None:
        """Becomes known to the neighbours, and fills the table."""
        self._enter(reached)
        beside = [*reached, *await self._finder.introductions(reached, JOIN_PATHS)]
        near = await self._finder.nodes(
            self.key.id, self.ksize, first=JOIN_PATHS, beside=beside, purpose=traffic.ROUTING
        )
        self._enter(near)
        self.table.deserted = not len(self.table)
        self.table.touch(self.key.id, asyncio.get_running_loop().time())
        self._upkeep.fill()

    async def _refresh(self, target: bytes) -> None:
        found = await self._finder.refresh(target)
        self._enter(found[: max(1, self.ksize // 2)])  # one point alone says too little of who is in a bucket
        self.table.touch(target, asyncio.get_running_loop().time())

    async def _look_back(self) -> None:
        """Joins through one of those that this node knew before, if it is there and cannot be found any more.

        A part of the pool that was cut off for hours has forgotten the rest, and nobody in it misses anything.
        """
        try:
            lost = [each for each in self.find_seeds() if each.node not in self.table]
            if lost:
                seed = self._ambient.random.choice(lost)
                near = await self._finder.nodes(seed.node, 1) if seed.node else []
                if seed.node not in [each.id for each in near]:
                    await self._joining.join([seed])
        except TitanError as why:
            log.info("cannot look for the rest of the pool: %s", why)

    @property
    def pool(self) -> PoolId:
        """The pool's id. ConfigError: not known before the first contact."""
        return self.rights.pool

    @property
    def contact(self) -> Contact:
        """This node, where others reach it as far as is known."""
        return self.whereabouts.contact

    def set_address(self, ip: str, port: int) -> None:
        """The address to advertise, where it is another than the one bound."""
        self.whereabouts.advertised[family(ip)] = (ip, port)

    def set_dialable(self, families: Collection[int]) -> None:
        """In which families this node can be reached, beyond the first that it has: others are told."""
        self.whereabouts.dialable = frozenset(families)
        for session in list(self._handshakes.by_peer.values()):
            session.mentioned = False
            self._mention(session)
        self.roaming.on_moved()

    def _mention(self, session: Session) -> None:
        if session.mentioned or not self.serving or not self.whereabouts.dialable:
            return
        other = self.contact.other
        if other is not None:
            session.mentioned = True
            self.protocol.start(Unheard(), session.contact, ALSO_AT, pack_address(other), purpose=traffic.ROUTING)

    def proven(self, node: NodeId) -> list[str]:
        """The IP addresses at which a peer has shown, in its session, that it can be reached."""
        session = self._handshakes.by_peer.get(node)
        return [] if session is None else [ip for ip, _ in session.contact.addresses]

    def visited(self, node: NodeId) -> Contact | None:
        """A peer that does not serve, so that no look-up finds it, but to which this node has opened a session."""
        session = self._handshakes.by_peer.get(node)
        return session.contact if session is not None and not (session.called or session.serving) else None

    async def prove(self, to: Contact, address: Address) -> None:
        """Lets a peer know, and check, that this node is at an address of its other family too.

        Raises:
            LinkError: it does not answer.
        """
        await self.protocol.call(to, ALSO_AT, pack_address(address), purpose=traffic.ROUTING)

    def set_serving(self, serving: bool) -> None:
        """Whether this node can be reached by anyone, and so takes part in routing tables. Peers notice."""
        self.serving = serving and not self.client
        self._answers.serving = self.serving
        self._handshakes.role = packets.SERVING if self.serving else packets.CLIENT
        if self.transport is not None:
            self.protocol.serving_flag = SERVING if self.serving else 0

    @property
    def counters(self) -> dict[str, int]:
        """Bytes and calls by purpose, and odd events (`traffic.Traffic.report`)."""
        return self.protocol.traffic.report()

    def set_paths(self, paths: int) -> None:
        """At most so many disjoint paths for each lookup from now on."""
        self._finder.paths = paths

    def estimated_size(self) -> float:
        """Nodes in the overlay, estimated from the own neighbourhood and from lookups of random ids."""
        return self.density.nodes()

    def show(self, credentials: bytes) -> None:
        """What this node shows in handshakes from now on."""
        self._handshakes.credentials = credentials

    def revise(self) -> None:
        """Rights have changed: sessions, contacts and statements that may not be any more are given up."""
        for session in self._handshakes.revise(asyncio.get_running_loop().time()):
            self.table.remove(session.contact.id)
        for contact in list(self.table):
            if not self.rights.may_serve(contact.id):
                self.table.remove(contact.id)
        self.directory.revise(self._ambient.wall())

    # ---- finding ---------------------------------------------------------------------------------------------

    def neighbours(self, target: bytes, count: int) -> list[Contact]:
        """The closest that are in the table, closest first; no network."""
        return self.table.closest(target, count)

    def region_of(self, object_id: ObjectId) -> Region:
        """The ids near the object, whose nodes keep what is said about it; no network."""
        return self._finder.region_of(object_id)

    async def find_nodes(self, target: bytes, count: int = 20) -> list[Contact]:
        """The nodes closest to `target`, closest first, each of which has just answered. Never this one."""
        near = await self._finder.nodes(target, count)
        if not near and await self._joining.join_again():
            near = await self._finder.nodes(target, count)
        return near

    async def find_holders(
        self,
        object_id: ObjectId,
        *,
        deadline: float | None = None,
        everything: bool = False,
        avoid: Collection[NodeId] = (),
    ) -> Found:
        """Who holds this object, by verified statements only.

        Ends with the first node that knows a holder or a proof of deletion; with `everything` it asks the whole region
        and unites what the nodes say. Ends at `deadline` (loop time) with what it has.

        avoid: holders that are no good, because they do not answer or answer rubbish. What they say of themselves is in
            the result, but ends nothing.
        """
        found = await self._finder.holders(object_id, deadline, everything, avoid)
        if not found.asked and not found.advertisements and await self._joining.join_again(deadline):
            found = await self._finder.holders(object_id, deadline, everything, avoid)
        if found.region:
            self._announcer.learn(object_id, found.region)
        return found

    # ---- announcing ------------------------------------------------------------------------------------------

    def region_read(self, object_id: ObjectId) -> bytes:
        """The nodes of the object's region, packed, as far as this node has lately looked them up; else empty."""
        return bodies.pack_all(self._announcer.read(object_id))

    def heard_of(self, by: Contact, packed: bytes) -> list[Contact]:
        """What another node says of a region, as far as this node can use it.

        Raises:
            BadMessage: these are no contacts, or more than a region has.
        """
        if len(packed) > 2 + REGION_MAX * bodies.PACKED_MAX:
            raise BadMessage(f"of a region {REGION_MAX} nodes are named at most")
        return self.protocol.heard_of(by, packed)

    def hint(self, object_id: ObjectId, members: Sequence[Contact]) -> None:
        """Another says that these are in the object's region: whom to announce to in the next minute, if nothing
        better is known. Where too few of them answer, the region is read after all.
        """
        self._announcer.hint(object_id, members)

    async def announce(self, object_id: ObjectId, raws: Sequence[bytes]) -> int:
        """Brings statements about one object to the nodes of its region, the 8 closest at least.

        Returns:
            How many took them (this node counts too, if it is one of those).
        """
        took = await self._announcer.announce([(object_id, raw) for raw in raws])
        return min(took, default=0)

    async def announce_many(self, items: Sequence[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
        """As `announce` for many objects: in key order, batched per node, regions remembered between sweeps."""
        took = await self._announcer.announce(items)
        counts: dict[ObjectId, int] = {}
        for (object_id, _), count in zip(items, took, strict=True):
            counts[object_id] = min(counts.get(object_id, count), count)
        return counts

    def _keep(self, raw: bytes) -> bool:
        try:
            return self.directory.put(raw, self._ambient.wall(), sender=self.contact) is not None
        except (BadMessage, Forbidden):
            return False

    # ---- calls -----------------------------------------------------------------------------------------------

    async def call(
        self,
        contact: Contact,
        method: str,
        body: bytes,
        *,
        timeout: float | None = None,
        purpose: int = traffic.OTHER,
    ) -> bytes:
        """One request and its reply, in a session (made if need be).

        Raises:
            LinkError: no answer. RemotableError: the peer refused. BadMessage: the body has more than 1,200 bytes.
        """
        return await self.protocol.call(contact, method, body, timeout=timeout, purpose=purpose)

    def serve(self, method: str, handler: Handler) -> None:
        """`handler(contact, body) -> body` answers this method. A request may come twice: it must bear that.

        A RemotableError that it raises is a refusal; BadMessage also counts against the peer.
        """
        self._handlers[method] = handler
        if self.transport is not None:
            self.protocol.serve(method, handler)

    # ---- what the protocol notices ---------------------------------------------------------------------------

    def _on_peer(self, session: Session) -> None:
        self._mention(session)
        if session.serving:
            if session.called or session.contact.id in self.table:
                now = asyncio.get_running_loop().time()
                session.kept = self.table.add(session.contact, now, guest=True)
        else:
            self.table.remove(session.contact.id)
            session.kept = False

    def _enter(self, found: Sequence[Contact]) -> None:
        """These were looked for, and have answered: they may enter the table."""
        for contact in found:
            session = self._handshakes.by_peer.get(contact.id)
            if session is not None and session.serving:
                session.kept = self.table.add(session.contact, asyncio.get_running_loop().time())

    def _on_silence(self, contact: Contact) -> None:
        self.roaming.silent(contact)
        if self.table.silent(contact, asyncio.get_running_loop().time()):
            session = self._handshakes.by_peer.get(contact.id)
            if session is not None:
                session.kept = False

    # ---- what the stock server offers and this one does not ----------------------------------------------------

    async def get(self, key: Any) -> Any:
        """Not offered: values of unknown origin. Use `find_holders`."""
        raise NotImplementedError("this overlay keeps signed statements only: use find_holders")

    async def set(self, key: Any, value: Any) -> Any:
        """Not offered: anyone could overwrite anything. Use `announce`."""
        raise NotImplementedError("this overlay keeps signed statements only: use announce")

    def save_state(self, fname: Any) -> None:
        """Not offered: it pickles. The node keeps its known peers in its database."""
        raise NotImplementedError("known peers are kept by the node's database")
