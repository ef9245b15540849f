"""All groups of one node: what they share (links, log, disk, a watch on their peers), and how each comes to life."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.identity.contacts import Contact, pack_address, pack_addresses
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.links.links import Links
from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

CONNECT_SECONDS = 5.0
CONTACTS_MAX = 4096
"""Nodes of which it is remembered where they are: anybody may say that it is in another epoch, and is asked then."""
POSTS_WAITING_MAX = 64
"""Messages for one peer of one group while the link to it is being made; older ones are lost."""
WATCH_SECONDS = 0.5
"""Each peer that shares a group with this node is looked at this often."""
ASK_SECONDS = (0.25, 0.75)
"""One of which nothing was heard for so long is asked for a sign of life: first by the node of the smaller id.

Being asked is a sign, too, so that of two nodes one asks, and the other need not as long as it does.
"""
SILENT_SECONDS = 1.5


class GroupPeers:
    """The way from one group's member to the others. What cannot be sent at once waits for a link, or is lost."""

    def __init__(self, shared: "PeerLinks", object_id: ObjectId) -> None:
        self._shared = shared
        self._object_id = object_id
        self._waiting: dict[bytes, deque[tuple[str, bytes]]] = {}

    def post(self, member: bytes, type: str, body: bytes) -> None:
        if member in self._waiting:
            self._waiting[member].append((type, body))
        elif not self._shared.tell(NodeId(member), self._object_id, type, body):
            self._waiting[member] = deque([(type, body)], maxlen=POSTS_WAITING_MAX)
            self._shared.connect(NodeId(member), lambda: self._connected(member))

    def _connected(self, member: bytes) -> None:
        for type, body in self._waiting.pop(member, ()):
            self._shared.tell(NodeId(member), self._object_id, type, body)

    async def ask(self, member: bytes, type: str, body: bytes, timeout: float) -> bytes:
        return await self._shared.ask(NodeId(member), self._object_id, type, body, timeout)

    def where(self, member: bytes) -> bytes:
        return self._shared.where(NodeId(member))


class PeerLinks:
    """Links to the members of this node's groups, found by their ids.

    Args:
        locate: where a node can be reached. Raises RemotableError: it is not in the pool now.
    """

    def __init__(self, links: Links, locate: Callable[[NodeId], Awaitable[Contact]]) -> None:
        self.me = links.key.id
        self._links = links
        self._locate = locate
        self._loop = asyncio.get_running_loop()
        self._contacts: OrderedDict[NodeId, Contact] = OrderedDict()
        """Those that were wanted last, last."""
        self._connecting: dict[NodeId, tuple[asyncio.Task[None], list[Callable[[], None]]]] = {}

    def tell(self, node: NodeId, object_id: ObjectId, type: str, body: bytes) -> bool:
        return self._links.tell(node, object_id, type, body)

    def connect(self, node: NodeId, then: Callable[[], None]) -> None:
        """Makes a link, and calls `then`, whether or not there is one now."""
        known = self._connecting.get(node)
        if known is not None:
            known[1].append(then)
            return
        task = self._loop.create_task(self._connect(node))
        self._connecting[node] = (task, [then])
        task.add_done_callback(lambda _: self._done(node))

    async def _connect(self, node: NodeId) -> None:
        try:
            await self._links.connect(await self._contact(node), deadline=self._loop.time() + CONNECT_SECONDS)
        except (LinkError, RemotableError) as why:
            self._contacts.pop(node, None)
            log.debug("no link to %s: %s", node.hex()[:12], why)

    def _done(self, node: NodeId) -> None:
        _, waiting = self._connecting.pop(node)
        for then in waiting:
            then()

    async def _contact(self, node: NodeId) -> Contact:
        known = self._contacts.get(node)
        if known is None:
            known = self._contacts[node] = await self._locate(node)
            while len(self._contacts) > CONTACTS_MAX:
                self._contacts.popitem(last=False)
        self._contacts.move_to_end(node)
        return known

    async def ask(self, node: NodeId, object_id: ObjectId, type: str, body: bytes, timeout: float) -> bytes:
        """Raises LinkError, RemotableError: no answer."""
        deadline = self._loop.time() + timeout
        try:
            contact = await self._contact(node)
            return await self._links.request(contact, object_id, type, body, deadline=deadline)
        except LinkError:
            self._contacts.pop(node, None)
            raise

    async def ask_at(self, contact: Contact, object_id: ObjectId, type: str, body: bytes, timeout: float) -> bytes:
        """As `ask`, where the address is known."""
        deadline = self._loop.time() + timeout
        return await self._links.request(contact, object_id, type, body, deadline=deadline)

    def where(self, node: NodeId) -> bytes:
        """Its addresses, packed; empty: they are not known here."""
        peer = self._links.peer_of(node)
        if peer is not None and peer.port:
            return pack_address((peer.ip, peer.port))
        known = self._contacts.get(node)
        return pack_addresses(known) if known is not None else b""

    def heard(self, node: NodeId) -> float | None:
        """Loop time of its last sign of life, whatever that was; None: there is no link, and one is being made."""
        heard = self._links.heard(node)
        if heard is None and node not in self._connecting:
            self.connect(node, lambda: None)
        return heard

    def ping(self, node: NodeId) -> None:
        """Asks for a sign of life."""
        self._links.ping(node)

    async def close(self) -> None:
        tasks = [task for task, _ in self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Vigil:
    """A watch on all peers that share a group with this node: one for each, however many groups they share."""

    def __init__(self, peers: PeerLinks) -> None:
        self._peers = peers
        self._loop = asyncio.get_running_loop()
        self._groups: dict[ObjectId, Group] = {}
        self._heard: dict[bytes, float] = {}
        """When it was last heard of, or its silence was last told."""
        self._alive: dict[bytes, float] = {}
        """When it was last heard of, or the watch on it began."""
        self._task: asyncio.Task[None] | None = None

    def add(self, object_id: ObjectId, group: Group) -> None:
        self._groups[object_id] = group
        if self._task is None:
            self._task = self._loop.create_task(self._run())

    def remove(self, object_id: ObjectId) -> None:
        self._groups.pop(object_id, None)

    def group(self, object_id: ObjectId) -> Group | None:
        """This node's part in it, if it has one now."""
        return self._groups.get(object_id)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = self._loop.time()
            watched: dict[bytes, list[Group]] = {}
            for group in self._groups.values():
                for peer in group.others:
                    watched.setdefault(peer, []).append(group)
            self._heard = {peer: self._heard.get(peer, now) for peer in watched}
            self._alive = {peer: self._alive.get(peer, now) for peer in watched}
            for peer, groups in watched.items():
                heard = self._peers.heard(NodeId(peer))
                if heard is not None and heard > self._alive[peer]:
                    self._heard[peer] = self._alive[peer] = heard
                if now - self._heard[peer] > SILENT_SECONDS:
                    self._heard[peer] = now
                    for group in groups:
                        group.silent(peer)
                if heard is not None and now - heard >= ASK_SECONDS[self._peers.me > peer]:
                    self._peers.ping(NodeId(peer))

    def silent_for(self, peer: bytes) -> float:
        """Seconds since that node was last heard of; 0 if nobody watches it yet."""
        return self._loop.time() - self._alive.get(peer, self._loop.time())
