"""Whom a message to a mutable object is tried at, where the directory knows less than the members."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError, NotHere, Unavailable
from titan_overlay.identity.contacts import Contact, pack_addresses
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Policy
from titan_overlay.mutable import talk
from titan_overlay.mutable.caller import PATIENCE_SECONDS, GroupCaller
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Chain, configuration_hash
from titan_overlay.mutable.requests import Reply
from titan_overlay.pool.finding.any_holder import Request
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("virtual")

OBJECT = ObjectId(b"o" * 32)
SECONDS = 10.0
LEADER, FOLLOWER, DEAD = 1, 2, 3
ELSEWHERE = 9
"""A port at which nobody is."""
FIRST = Configuration(1, tuple(bytes([number]) * 32 for number in (1, 2, 3)), keys=(b"a" * 32, b"b" * 32, b"c" * 32))


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 32)


def contact(number: int, port: int = 0) -> Contact:
    return Contact(node(number), "10.0.0.1", port or number)


class World:
    """Three members: one leads, one says who, one is dead. The directory never knows the leader.

    Args:
        first: whom the sender knows at first. directory: whom a look-up finds.
        at: where the follower says that the leader is, packed.
    """

    def __init__(self, first: list[int], directory: list[int], at: bytes) -> None:
        self.holder = node(99)
        self.at = at
        self.asked: list[int] = []
        self.lookups = 0
        self._first, self._directory = first, directory

    async def find(self, object_id: ObjectId, **how: Any) -> Any:
        self.lookups += 1
        return self._place(self._directory)

    def _place(self, holders: list[int]) -> Any:
        value = SimpleNamespace(
            name="led", kind="mutable", genesis=configuration_hash(FIRST), idempotent=(), policy=Policy(faults=1)
        )
        return SimpleNamespace(
            descriptor=SimpleNamespace(value=value, public=b"o" * 32),
            holders=[SimpleNamespace(signer=node(each)) for each in holders],
            contact=lambda holder: contact(holder.signer[0]),
        )

    async def request(
        self, contact: Contact, object_id: ObjectId, type: str, body: bytes, *, deadline: float, **how: Any
    ) -> bytes:
        self.asked.append(contact.port)
        if type == talk.EPOCHS and contact.port != DEAD:
            return codec.encode(Chain(FIRST))
        if contact.port == LEADER:
            return codec.encode(talk.Answer(Reply(b"read"), 0, 0))
        if contact.port == FOLLOWER:
            raise NotHere("another leads", hint=node(LEADER), at=self.at)
        await asyncio.sleep(deadline - asyncio.get_running_loop().time())
        raise LinkError("nobody is there")

    def peer_of(self, member: NodeId) -> None:
        return None

    def get(self, object_id: ObjectId) -> None:
        return None

    def caller(self) -> GroupCaller:
        anyone: Any = self
        return GroupCaller(anyone, anyone, anyone, SigningKey(b"k" * 32), PoolId(b"p" * 32), anyone, Ambient.system())

    async def send(self) -> bytes:
        return await self.caller()(self._place(self._first), self._message())

    async def members(self) -> Configuration:
        return await self.caller().membership.current(self._place(self._first), self._message())

    def _message(self) -> Request:
        return Request(OBJECT, "str", b"", asyncio.get_running_loop().time() + SECONDS, (), read="latest")


async def test_a_leader_that_the_directory_does_not_know_is_found_where_a_follower_says_that_it_is() -> None:
    world = World([FOLLOWER], [FOLLOWER], pack_addresses(contact(LEADER)))
    assert await world.send() == b"read"
    assert (world.asked, world.lookups) == ([FOLLOWER, LEADER], 0)


@pytest.mark.parametrize("at", [b"", b"rubbish", bytes(6), pack_addresses(contact(LEADER, ELSEWHERE))])
async def test_what_leads_nowhere_is_not_believed_for_long(at: bytes) -> None:
    world = World([FOLLOWER], [FOLLOWER], at)
    with pytest.raises(Unavailable):
        await world.send()
    assert world.lookups > 1
    assert LEADER not in world.asked


async def test_where_nobody_who_is_known_lives_the_members_are_looked_up_at_once() -> None:
    world = World([DEAD], [DEAD, FOLLOWER], pack_addresses(contact(LEADER)))
    began = asyncio.get_running_loop().time()
    assert await world.send() == b"read"
    assert (world.asked, world.lookups) == ([DEAD, FOLLOWER, LEADER], 1)
    assert asyncio.get_running_loop().time() - began < 2 * PATIENCE_SECONDS


async def test_the_members_are_shown_by_others_where_all_who_are_known_have_gone() -> None:
    world = World([DEAD], [DEAD, FOLLOWER], b"")
    assert await world.members() == FIRST
    assert world.lookups == 1


class Electing(World):
    """The leader is dead. The others name it until one of them leads; the look-up has to find out who is dead."""

    ELECTED = 0.7
    LOOKUP_SECONDS = 5.0

    def __init__(self) -> None:
        super().__init__([LEADER, FOLLOWER, DEAD], [LEADER, FOLLOWER], b"")

    async def find(self, object_id: ObjectId, **how: Any) -> Any:
        await asyncio.sleep(self.LOOKUP_SECONDS)
        return await super().find(object_id, **how)

    async def request(
        self, contact: Contact, object_id: ObjectId, type: str, body: bytes, *, deadline: float, **how: Any
    ) -> bytes:
        if contact.port == DEAD:
            self.asked.append(DEAD)
            raise LinkError("nobody is there")
        if asyncio.get_running_loop().time() < self.ELECTED:
            self.asked.append(contact.port)
            raise NotHere("another leads", hint=node(DEAD))
        return await super().request(contact, object_id, type, body, deadline=deadline, **how)


async def test_a_new_leader_is_found_while_the_members_are_still_looked_up() -> None:
    world = Electing()
    assert await world.send() == b"read"
    assert asyncio.get_running_loop().time() < world.ELECTED + 0.5
    assert world.lookups == 0, "the first is not over"
    assert world.asked.count(DEAD) <= len(world.asked) / 3, "no hint leads to it once it was silent"
