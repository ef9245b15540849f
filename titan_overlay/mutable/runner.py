"""What stands behind a mutable object on one of its members: takes what is said to the group, and brings it to life."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from titan_overlay.errors import BadMessage, Forbidden, NotHere, RemotableError, StorageError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.mutable import talk
from titan_overlay.mutable.code import LacksCode, NewCode
from titan_overlay.mutable.declare import mutable_type
from titan_overlay.mutable.engine import Count
from titan_overlay.mutable.epochs import Chain, Confirmation
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.intake import WAITING_MAX
from titan_overlay.mutable.repair import Repair
from titan_overlay.mutable.requests import Request, decode_request
from titan_overlay.mutable.status import status_of
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.bundles import Code
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body, Runner
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.members import Members

log = logging.getLogger("titan")

CONCURRENCY = WAITING_MAX + 1024
"""Requests of one object that wait for their place in the order, of which no more are taken, and beside them what its
members tell each other, which is handled at once or lost."""


class GroupRunner(Runner):
    """See the module."""

    types = talk.TYPES
    plain = frozenset(
        {
            talk.STEP,
            talk.EPOCHS,
            talk.CHAIN,
            talk.CONFIRM,
            talk.PROMISED,
            talk.RESIGN,
            talk.STATUS,
            talk.CATCH_UP,
            talk.VOUCH,
            talk.SHARED_KEY,
            talk.SEALS,
            talk.ARRIVED,
        }
    )
    promises = frozenset({talk.SUBMIT, talk.ENTRUST, talk.FORWARD, talk.READ})
    streams = frozenset({talk.WATCH})
    concurrency = CONCURRENCY
    mailbox = CONCURRENCY

    def __init__(
        self,
        members: "Members",
        code: Code,
        descriptor: Signed[Descriptor],
        object_id: ObjectId,
        sources: Sequence[Contact],
    ) -> None:
        self._sources = sources
        self._members = members
        self._kind = mutable_type(code.cls)
        self._descriptor = descriptor
        self._object_id = object_id
        self.bundle = code.origin.bundle
        self.group: Group
        self._repair: Repair

    def schema(self) -> dict[str, MessageSchema]:
        return self.group.machine.kind.schema()

    async def start(self, context: Context) -> None:
        await self._open()
        self._members.runners[self._object_id] = self

    async def _open(self) -> None:
        opened = await self._members.open(self._object_id, self._descriptor, self._kind, self._sources)
        self.group, self._repair = opened

    async def pause(self) -> None:
        """Takes no part until `go_on`."""
        self._members.left(self._object_id)
        await self.group.close()

    async def go_on(self) -> None:
        """Takes part again, from what is on disk, unless it was closed meanwhile."""
        if not self._is_held():
            return
        try:
            await self._open()
        except (RemotableError, StorageError) as why:
            log.warning("%s: takes no part until this node is started again: %s", self.group.machine.name, why)
        if not self._is_held():
            await self.pause()

    def _is_held(self) -> bool:
        return self._members.runners.get(self._object_id) is self

    async def close(self) -> None:
        if self._is_held():
            del self._members.runners[self._object_id]
        await self.pause()

    async def discard(self, *, deleted: bool) -> None:
        # Whoever is let go for another reason may be a member still, and the group need what it has on disk.
        if deleted or self.group.is_replaced:
            await self._members.discard(self._object_id)

    def call(self, type: str, body: Body, context: Context) -> Begun:
        if type == talk.STEP:
            self.group.receive(context.sender.id, body)
            return talk.NOTHING
        if type == talk.SUBMIT:
            return self._submit(decode_request(body), context)
        if type in talk.BYZANTINE:
            return self.group.front.told(type, body, context.sender)
        if type == talk.READ:
            return self.group.front.read(codec.decode(body, talk.Read), context.sender.public)
        if type == talk.FORWARD:
            return self._forwarded(decode_request(body))
        if type == talk.EPOCHS:
            return codec.encode(self.group.succession.chain)
        if type == talk.CHAIN:
            self.group.succession.learn(codec.decode(body, Chain))
            return talk.NOTHING
        if type == talk.CONFIRM:
            self.group.succession.confirmed(context.sender.id, codec.decode(body, Confirmation))
            return talk.NOTHING
        if type == talk.PROMISED:
            return codec.encode(self.group.promised(context.sender.id, codec.decode(body, Count)))
        if type == talk.RESIGN:
            self.group.resigned(context.sender.id, codec.decode(body, Count))
            return talk.NOTHING
        if type == talk.NEXT_KEY:
            return self._next_key(context)
        if type == talk.CATCH_UP:
            self.group.succession.catch_up(codec.decode(body, talk.Recover))
            return talk.NOTHING
        if type == talk.RECOVER:
            return self._lay_down(codec.decode(body, talk.Recover))
        if type == talk.CAN_RUN:
            return self._can_run(codec.decode(body, NewCode), context)
        if type == talk.STATE:
            return self._piece(codec.decode(body, talk.StateWanted), context)
        if type == talk.ADMIT:
            return self._admit(codec.decode(body, talk.Admit), context)
        if type == talk.WATCH:
            return self._watch(codec.decode(body, talk.Watch).start, context.sender)
        return codec.encode(status_of(self.group))

    def _submit(self, request: Request, context: Context) -> "asyncio.Future[bytes]":
        self.group.asked_through(context.sender.id)
        if not self.group.byzantine and request.sender != context.sender.public:
            # Who asks is what the link has proven, whatever the request says.
            request = msgspec.structs.replace(request, sender=context.sender.public)
        return self.group.front.submit(request, context.sender.public)

    def _forwarded(self, letter: Request) -> "asyncio.Future[bytes]":
        """To members that are believed; others are sent a letter as any request, and each looks at the seal itself."""
        if self.group.byzantine or not letter.is_letter:
            raise BadMessage("this is no letter to members that are believed")
        self._members.letters.receive(letter, self._object_id)
        return self.group.front.submit(msgspec.structs.replace(letter, proof=b""), letter.sender)

    async def _next_key(self, context: Context) -> bytes:
        if context.sender.id not in self.group.configuration.members or self.group.is_absent:
            raise Forbidden(f"only members of {context.name!r} end its epoch")
        return codec.encode(await self.group.succession.offer())

    async def _lay_down(self, recover: talk.Recover) -> bytes:
        return codec.encode(await self.group.succession.lay_down(recover))

    async def _can_run(self, new: NewCode, context: Context) -> bytes:
        if context.sender.public != self._descriptor.public:
            raise Forbidden(f"only the key that published {context.name!r} replaces its code")
        try:
            self._members.load(new)
        except LacksCode as why:
            return codec.encode(str(why))
        return codec.encode("")

    async def _piece(self, wanted: talk.StateWanted, context: Context) -> bytes:
        if not self.group.succession.knows(context.sender.id):
            raise Forbidden(f"only members of {context.name!r} fetch its state")
        return codec.encode(await self.group.states.piece(wanted))

    async def _admit(self, order: talk.Admit, context: Context) -> bytes:
        if not self._members.may_administer(context.sender, self._descriptor, order.grant):
            raise Forbidden(f"only who published {context.name!r}, or has a grant to administer it, names its members")
        if self.group.byzantine:
            raise BadMessage(
                f"{context.name!r} has as many members as its policy says: how many may lie follows from it"
            )
        if len(order.node) != ID_BYTES:
            raise BadMessage("a node's id has 32 bytes")
        await self._repair.admit(NodeId(order.node))
        return talk.NOTHING

    async def _watch(self, start: int, sender: Sender) -> AsyncIterator[bytes]:
        """A right may end long before a stream does; who has got another meanwhile shows it by asking again."""
        async for change in self.group.feed.watch(start):
            try:
                self._members.check_caller(sender, self._descriptor)
            except Forbidden as why:
                raise NotHere(f"the right to watch has ended ({why}); whoever has another may watch on") from None
            yield codec.encode(change)
