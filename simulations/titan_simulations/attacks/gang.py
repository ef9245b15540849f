"""Liars that know each other, the objects and the ids of all nodes, and how a real node is made to lie."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.errors import TitanError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.statements import Advertisement
from titan_overlay.links.links import Peer
from titan_overlay.links.shared import Answer
from titan_overlay.node import Node
from titan_overlay.overlay.bodies import FindHolders, FindNode, Store
from titan_overlay.overlay.calls import Handler
from titan_overlay.pool.hosting.data import Fetch, Manifest, Read
from titan_overlay.pool.questions import Describe
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

if TYPE_CHECKING:
    from titan_simulations.attacks.attack import Attack

CLAIM_SECONDS = 1200.0
"""How long a false advertisement lives."""
REMEMBERED_MAX = 4096
"""Ids whose nearest members are remembered."""
DECOYS = 128
"""Members that are named to one asker before the first are named again."""
LOOKUP_SECONDS = 10.0
"""Questions of one asker about one id in this time belong to one look-up."""


class Known(msgspec.Struct, frozen=True):
    """An object, as the gang knows it: everything that is public."""

    name: str
    object_id: ObjectId
    kind: str
    version: int
    descriptor: bytes
    size: int


class Gang:
    """What all liars of a pool know together.

    Args:
        honest: ids of the honest nodes, as far as they are known before anybody joins.
        targets: ids of objects that will be published, in the order in which an attack that aims takes them.
    """

    def __init__(self, random: Random, pool: PoolId, honest: Sequence[NodeId], targets: Sequence[ObjectId]) -> None:
        self.random = random
        self.pool = pool
        self.honest = honest
        self.targets = targets
        self.aimed: list[ObjectId] = []
        """Objects that the attack is aimed at; whoever places the liars fills it."""
        self.counts: Counter[str] = Counter()
        """Figures of the attack itself, for the result."""
        self.members: dict[NodeId, Liar] = {}
        """Those that have joined and live."""
        self.objects: dict[ObjectId, Known] = {}
        """What has been published."""
        self._near: dict[bytes, list[Contact]] = {}
        self._named: dict[tuple[bytes, bytes], tuple[float, int]] = {}
        """By asker and target: since when, and how many."""
        self._hushed: set[tuple[str, str]] = set()

    def joined(self, liar: "Liar") -> None:
        """One more."""
        self.members[liar.node.key.id] = liar
        self._near.clear()

    def left(self, liar: "Liar") -> None:
        """One less."""
        self.members.pop(liar.node.key.id, None)
        self._near.clear()

    def nearest(self, target: bytes, count: int) -> list[Contact]:
        """The (at most `DECOYS`) members closest to an id, closest first."""
        near = self._near.get(target)
        if near is None:
            if len(self._near) >= REMEMBERED_MAX:
                self._near.clear()
            wanted = int.from_bytes(target, "big")
            contacts = [liar.contact for liar in self.members.values()]
            near = self._near[target] = sorted(contacts, key=lambda each: each.long_id ^ wanted)[:DECOYS]
        return near[:count]

    def decoys(self, asker: Contact, target: bytes, count: int) -> list[Contact]:
        """Members to name to one asker: each time those closest to the target that it has not been named yet.

        So each path of a look-up that meets a liar meets fresh ones, as many as there are.
        """
        now = asyncio.get_running_loop().time()
        since, first = self._named.get((asker.id, target), (now, 0))
        near = [each for each in self.nearest(target, DECOYS) if each.id != asker.id]
        if now - since > LOOKUP_SECONDS or first >= len(near):
            since, first = now, 0
        if len(self._named) >= REMEMBERED_MAX:
            self._named.clear()
        self._named[asker.id, target] = (since, first + count)
        return near[first : first + count]

    def any_object(self) -> Known | None:
        """One of the objects, or None while there are none."""
        return self.random.choice(list(self.objects.values())) if self.objects else None

    # ---- the wires -------------------------------------------------------------------------------------------

    def hush(self, source: str, destination: str) -> None:
        """The next packet from one address to the other is swallowed: the answer that a node cannot but send."""
        self._hushed.add((source, destination))

    def swallows(self, source: str, destination: str) -> bool:
        """The filter on the wires (`MemoryNetwork.blocked`)."""
        if not self._hushed or (source, destination) not in self._hushed:
            return False
        self._hushed.discard((source, destination))
        return True


class Liar:
    """One real node that lies.

    Args:
        attack: what it does; see `attack.Attack`.
    """

    def __init__(self, gang: Gang, number: int, node: Node, attack: "type[Attack]") -> None:
        self.gang = gang
        self.number = number
        self.node = node
        self.random = Random(f"titan/liar/{number}/{gang.random.random()}")
        self.attack = attack(self)
        self._claims: dict[ObjectId, tuple[float, bytes]] = {}
        self._take_over(node)

    @property
    def contact(self) -> Contact:
        """Where it can be reached."""
        return self.node.overlay.contact

    # ---- hooks -----------------------------------------------------------------------------------------------

    def _take_over(self, node: Node) -> None:
        """Every handler of the overlay, those that come later too, and every message over a link passes here."""
        overlay = node.overlay
        serve = overlay.serve

        def lying(method: str, handler: Handler) -> None:
            serve(method, partial(self._answer, method, handler))

        for method, handler in list(overlay._handlers.items()):
            lying(method, handler)
        overlay.serve = lying  # type: ignore[method-assign]
        handle = node._handle

        def handling(peer: Peer, send: Send) -> Answer:
            to_node = send.object_id == node.key.id
            hook = self.attack.order if to_node else self.attack.message
            answer = hook(peer, send, partial(handle, peer, send))
            return _silence() if answer is None else answer

        node._handle = handling  # type: ignore[method-assign]

    def _answer(self, method: str, handler: Handler, asker: Contact, body: bytes) -> bytes:
        honest = partial(handler, asker, body)
        attack = self.attack
        answer: bytes | None
        if method == "find_node":
            answer = attack.find_node(asker, codec.decode(body, FindNode), honest)
        elif method == "find_holders":
            answer = attack.find_holders(asker, codec.decode(body, FindHolders), honest)
        elif method == "store":
            answer = attack.store(asker, codec.decode(body, Store), honest)
        else:
            answer = attack.other(method, asker, body, honest)
        if answer is None:
            self.gang.hush(self.contact.ip, asker.ip)
            return b""
        return answer

    async def acting(self) -> None:
        """Its own doings, until its node ends."""
        with suppress(TitanError):
            await self.attack.act()

    # ---- lies that several attacks tell ------------------------------------------------------------------------

    def claim(self, known: Known, *, host: str = "", withdrawn: bool = False) -> bytes:
        """A genuine signature under "I hold this object" (or: no longer), whether it does or not; at a false address
        if `host` is given.
        """
        node = self.node
        now = node.ambient.wall()
        plain = not host and not withdrawn
        remembered = self._claims.get(known.object_id) if plain else None
        if remembered is not None and remembered[0] > now:
            return remembered[1]
        me = self.contact
        statement = Advertisement(
            object_id=known.object_id,
            host=host or me.ip,
            port=me.port,
            sequence=int(now * 1000),
            expires=now + CLAIM_SECONDS,
            version=known.version,
            withdrawn=withdrawn,
            grant=node.grants[0],
        )
        raw = records.sign(statement, node.key, node.overlay.pool).raw
        if plain:
            self._claims[known.object_id] = (now + CLAIM_SECONDS / 2, raw)
        return raw

    def wrong(self, send: Send, salt: bytes = b"") -> bytes | None:
        """A wrong answer to a message to an object that the gang knows, the same from each of its members; None: to
        this message there is no lie worth telling.

        Questions about the object itself are answered truly, by whoever claims to hold it.
        """
        known = self.gang.objects.get(ObjectId(send.object_id))
        if known is None:
            return None
        if send.type == Describe.wire_type:
            return codec.encode(known.descriptor)
        if known.kind == "data":
            if send.type not in (Read.wire_type, Fetch.wire_type, Manifest.wire_type):
                return None
            return codec.encode(sha256(salt).digest() * (known.size // 32) + bytes(known.size % 32))
        return codec.encode(sha256(salt + bytes(send.body)).digest())


async def _silence() -> bytes:
    """Until the asker gives up."""
    await asyncio.Event().wait()
    return b""
