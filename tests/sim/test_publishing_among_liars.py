"""Publishing while some nodes invent others, each nearer to the object than the last: it stays short, and is found."""

from hashlib import sha256
from itertools import count

import pytest

import titan_overlay as titan
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId
from titan_overlay.node import Node
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FindHolders, FindNode, Holders, Stored
from titan_overlay.testing.crypto import fake_crypto
from titan_overlay.testing.pool import Machine, SimulatedPool
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("virtual")

NODES, LIARS = 18, 6
PUBLISHED_WITHIN = 15.0
"""Simulated seconds: a look-up of the holders, one reading of the region, and the way of a copy."""


def invent(node: Node) -> None:
    """Names nodes that do not exist, nearer each time, and takes statements that it never shows."""
    steps = count()

    def nearer(target: bytes) -> bytes:
        named = []
        for _ in range(8):
            step = next(steps)
            distance = 1 << max(1, 240 - step % 240)
            made_up = (int.from_bytes(target, "big") ^ distance).to_bytes(ID_BYTES, "big")
            named.append(Contact(NodeId(made_up), f"10.{100 + step % 100}.{step // 250 % 250}.{step % 250 + 1}", 4747))
        return bodies.pack_all(named)

    def find_node(contact: Contact, body: bytes) -> bytes:
        return nearer(codec.decode(body, FindNode).target)

    def find_holders(contact: Contact, body: bytes) -> bytes:
        request = codec.decode(body, FindHolders)
        return codec.encode(Holders(nearer(request.aim or request.object_id), [], []))

    def store(contact: Contact, body: bytes) -> bytes:
        request = codec.decode(body, bodies.Store)
        return codec.encode(Stored([True] * len(request.raws), nearer(sha256(request.raws[0]).digest())))

    node.overlay.serve("find_node", find_node)
    node.overlay.serve("find_holders", find_holders)
    node.overlay.serve("store", store)


def machine(number: int) -> Machine:
    """The last third of the nodes invent; they join last, and so each has joined through honest ones."""
    return Machine(prepare=invent) if number >= NODES - LIARS else Machine()


async def test_publishing_among_those_who_invent_nodes_stays_short() -> None:
    with fake_crypto():
        async with SimulatedPool(NODES, seed=1, machine=machine) as sim:
            writer, reader = sim.pool(sim.nodes[1]), sim.pool(sim.nodes[2])
            for number in range(2):
                began = sim.now
                name = await writer.put(b"content %d" % number, policy=titan.Policy(cache=False))
                assert sim.now - began < PUBLISHED_WITHIN
                assert await reader.get(name) == b"content %d" % number


async def test_a_publisher_that_names_a_false_region_costs_a_reading() -> None:
    nobody = [Contact(NodeId(sha256(b"%d" % n).digest()), f"10.200.0.{n + 1}", 4747) for n in range(16)]
    with fake_crypto():
        async with SimulatedPool(NODES, seed=3) as sim:
            writer = sim.pool(sim.nodes[1])
            sim.nodes[1].running.overlay.region_read = (  # type: ignore[method-assign]
                lambda object_id: bodies.pack_all(nobody)
            )
            began = sim.now
            name = await writer.put(b"content", policy=titan.Policy(cache=False))
            assert sim.now - began < PUBLISHED_WITHIN
            assert await sim.pool(sim.nodes[2]).get(name) == b"content", "it was advertised where it should be"
