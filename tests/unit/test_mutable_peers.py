"""The way from this node's groups to the members of each."""

import asyncio
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.mutable.groups import CONTACTS_MAX, PeerLinks

pytestmark = pytest.mark.loops("virtual")

OBJECT = ObjectId(bytes(32))


async def test_of_those_who_speak_of_other_epochs_the_last_are_remembered() -> None:
    async def request(*what: Any, **how: Any) -> bytes:
        return b""

    async def locate(node: NodeId) -> Contact:
        located.append(node)
        return Contact(node, "10.0.0.1", 4747)

    located: list[NodeId] = []
    peers = PeerLinks(SimpleNamespace(key=SimpleNamespace(id=bytes(32)), request=request), locate)  # type: ignore[arg-type]
    nodes = [NodeId(sha256(b"%d" % number).digest()) for number in range(2 * CONTACTS_MAX)]
    for node in nodes:
        await peers.ask(node, OBJECT, "titan.group.Epochs", b"", 1.0)
        await peers.ask(nodes[0], OBJECT, "titan.group.Epochs", b"", 1.0)
    assert located == nodes, "a member that is asked all the time is not looked up again"
    assert len(peers._contacts) == CONTACTS_MAX
    await asyncio.wait_for(peers.close(), 1)
