"""Whom a message is tried at, one holder after the other, while its object moves."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import NotHere, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.pool.finding.any_holder import ASKED_MAX, AnyHolder, Request

pytestmark = pytest.mark.loops("virtual")

OBJECT = ObjectId(b"o" * 32)


def says(node: int, sequence: int) -> Any:
    """A node says that it holds the object."""
    signer = NodeId(bytes([node]) * 32)
    value = SimpleNamespace(sequence=sequence, contact=lambda holder: Contact(holder, "10.0.0.1", node))
    return SimpleNamespace(signer=signer, value=value)


class World:
    """Look-ups that bring what they are told to, the last one again and again; and one node that answers, or none."""

    def __init__(self, lookups: Sequence[Sequence[Any]], at: int) -> None:
        self.lookups = list(lookups)
        self.asked: list[int] = []
        self.at = at

    async def find(self, object_id: ObjectId, **how: Any) -> Any:
        return self.place(self.lookups.pop(0) if len(self.lookups) > 1 else self.lookups[0])

    def place(self, holders: Sequence[Any]) -> Any:
        descriptor = SimpleNamespace(value=SimpleNamespace(name="nomad", kind="service", idempotent=()))
        return SimpleNamespace(descriptor=descriptor, holders=list(holders))

    async def connect(self, contact: Contact, **how: Any) -> None:
        pass

    async def request(self, contact: Contact, *what: Any, **how: Any) -> bytes:
        self.asked.append(contact.port)
        if contact.port == self.at and self.asked.count(contact.port) == ASKED_MAX:
            return b"here"
        raise NotHere("it is elsewhere")

    def __getattr__(self, name: str) -> Any:
        """What of places, links and witness is told, or asked how good somebody is, makes no difference here."""
        return lambda *what, **how: 0

    async def send(self, first: Sequence[Any]) -> bytes:
        anyone: Any = self
        deadline = asyncio.get_running_loop().time() + 10
        ask = AnyHolder(anyone, anyone, Ambient.system(), anyone)
        return await ask(self.place(first), Request(OBJECT, "str", b"", deadline, ()))


async def test_an_object_that_moves_back_while_it_is_looked_for_is_found_where_it_was_not() -> None:
    world = World([[says(2, 1)], [says(1, 2), says(2, 1)]], at=1)
    assert await world.send([says(1, 1)]) == b"here"
    assert world.asked == [1, 2, 1]


async def test_nobody_is_asked_again_who_says_nothing_new() -> None:
    world = World([[says(1, 1), says(2, 1)]], at=1)
    with pytest.raises(Unavailable):
        await world.send([says(1, 1)])
    assert world.asked == [1, 2]


async def test_who_says_ever_new_things_and_never_has_it_is_asked_twice() -> None:
    world = World([[says(1, number)] for number in range(2, 9)], at=0)
    with pytest.raises(Unavailable):
        await world.send([says(1, 1)])
    assert world.asked == [1] * ASKED_MAX
