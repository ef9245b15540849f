"""A node as an object, `node:<id>`: what other nodes, clients and the node's own user can ask of it."""

from typing import Protocol

from titan_overlay.errors import Forbidden
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.finding.census import format_contact
from titan_overlay.pool.hosting.object import service
from titan_overlay.pool.orders import (
    Accepted,
    Bury,
    Census,
    Conduct,
    DialBack,
    HoldGrant,
    Holding,
    Holdings,
    Learn,
    Leave,
    MayHost,
    Neighbours,
    News,
    NodeInfo,
    Pins,
    Recruit,
    Rules,
    Seen,
    StepDown,
)

NEIGHBOURS_MAX = 128


class NodeActions(Protocol):
    """What the node object needs of the node around it."""

    async def take(self, order: Recruit, sender: Sender) -> Accepted: ...
    def may_host(self, descriptor: bytes) -> bytes: ...
    async def bury(self, tombstone: bytes) -> str: ...
    def pins(self, order: Pins) -> list[bytes]: ...
    async def step_down(self, order: StepDown, sender: Sender) -> bool: ...
    async def dial_back(self, agent: NodeId, address: str) -> bool: ...
    def info(self) -> NodeInfo: ...
    def holdings(self) -> list[Holding]: ...
    def neighbours(self, count: int) -> list[Contact]: ...
    def rules(self, question: Rules) -> News: ...
    def learn(self, news: News) -> int: ...
    def hold_grant(self, raw: bytes) -> bool: ...
    def seen(self, peer: NodeId) -> Seen: ...
    def is_owner(self, public: bytes) -> bool: ...
    def leave(self) -> None: ...


CONCURRENCY = 256
"""More than may wait for replicas to be taken in (`keeping/slots.py`): the other questions are answered too."""


@service("node:*", concurrency=CONCURRENCY)
class NodeObject:
    """Answers what is asked of a node."""

    def __init__(self, node: NodeActions) -> None:
        self._node = node

    async def recruit(self, order: Recruit, ctx: Context) -> Accepted:
        """Take a replica."""
        return await self._node.take(order, ctx.sender)

    async def may_host(self, order: MayHost) -> bytes:
        """Whether it would take a replica, and with which key it would vote."""
        return self._node.may_host(order.descriptor)

    async def bury(self, order: Bury) -> str:
        """Delete a replica, with proof."""
        return await self._node.bury(order.tombstone)

    async def pins(self, order: Pins) -> list[bytes]:
        """Who wants data kept that this node holds."""
        return self._node.pins(order)

    async def step_down(self, order: StepDown, ctx: Context) -> bool:
        """Give up a replica that has moved."""
        return await self._node.step_down(order, ctx.sender)

    async def dial_back(self, order: DialBack, ctx: Context) -> bool:
        """Whether this node can reach the asker there."""
        return await self._node.dial_back(ctx.sender.id, order.address)

    async def census(self, _: Census) -> NodeInfo:
        """Who this node is."""
        return self._node.info()

    async def holdings(self, _: Holdings) -> list[Holding]:
        """What it holds."""
        return self._node.holdings()

    async def neighbours(self, order: Neighbours) -> list[str]:
        """Whom it knows."""
        return [format_contact(each) for each in self._node.neighbours(min(order.count, NEIGHBOURS_MAX))]

    async def rules(self, question: Rules) -> News:
        """What it knows of the pool's rules."""
        return self._node.rules(question)

    async def learn(self, order: Learn) -> int:
        """Rules of the pool that are new."""
        return self._node.learn(order.news)

    async def hold_grant(self, order: HoldGrant, ctx: Context) -> bool:
        """Use a grant, if the node's own user brings it."""
        if not self._node.is_owner(ctx.sender.public):
            raise Forbidden("only the user who runs this node may give it a grant")
        return self._node.hold_grant(order.grant)

    async def conduct(self, order: Conduct, ctx: Context) -> Seen:
        """How a peer has behaved, if the node's own user asks."""
        if not self._node.is_owner(ctx.sender.public):
            raise Forbidden("what a node has seen of others is for the user who runs it")
        return self._node.seen(NodeId(order.peer))

    async def leave(self, _: Leave, ctx: Context) -> str:
        """Stop, if the node's own user asks."""
        if not self._node.is_owner(ctx.sender.public):
            raise Forbidden("only the user who runs this node may tell it to leave")
        self._node.leave()
        return "leaving"
