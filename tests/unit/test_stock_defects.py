"""What the stock packages (kademlia 2.2.3, rpcudp 5.0.1) get wrong, and ours does not.

Each test shows the defect in the stock code first, so that it fails when the stock behaviour changes or comes back.
"""

import asyncio
from collections import OrderedDict
from hashlib import sha1, sha256
from typing import Any

import pytest
import umsgpack
from kademlia.crawling import ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.routing import KBucket
from kademlia.routing import RoutingTable as StockTable
from kademlia.storage import ForgetfulStorage
from rpcudp.protocol import RPCProtocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement
from titan_overlay.overlay import bodies, packets
from titan_overlay.overlay.directory import Directory
from titan_overlay.overlay.endpoint import RECEIVE_BUFFER_BYTES
from titan_overlay.overlay.lookup import Lookup
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.routing import Bucket, RoutingTable
from titan_overlay.overlay.sessions import DATA, HEAD, REPLY

POOL = PoolId(SigningKey(sha256(b"pool").digest()).public)


class Wire:
    """A transport that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []

    def sendto(self, data: bytes, address: Any) -> None:
        self.sent.append((data, address))


def stock_node(number: int) -> Node:
    return Node(sha1(b"%d" % number).digest(), f"10.0.{number >> 8}.{number & 255}", 4747)


def our_contact(number: int) -> Contact:
    return Contact(NodeId(sha256(b"%d" % number).digest()), f"10.0.{number >> 8}.{number & 255}", 4747)


def stock_protocol() -> tuple[KademliaProtocol, Wire]:
    protocol = KademliaProtocol(stock_node(0), ForgetfulStorage(), 20)
    protocol.transport = wire = Wire()
    return protocol, wire


async def our_pair() -> tuple[Overlay, Overlay]:
    nodes = []
    for number in range(2):
        node = Overlay(SigningKey(sha256(b"pair %d" % number).digest()), Rights(POOL), Ambient.system())
        node.set_serving(True)
        await node.listen(0, "127.0.0.1")
        nodes.append(node)
    await nodes[1].bootstrap([JoinLine("127.0.0.1", nodes[0].contact.port)])
    return nodes[0], nodes[1]


async def test_the_stock_table_does_not_return_the_closest_contacts_it_knows() -> None:
    stock = StockTable(type("Quiet", (), {"call_ping": staticmethod(_nothing)})(), 20, stock_node(0))
    ours = RoutingTable(our_contact(0).id, 20)
    for number in range(1, 400):
        stock.add_contact(stock_node(number))
        ours.add(our_contact(number), 0.0)
    stock_known = [node for bucket in stock.buckets for node in bucket.get_nodes()]
    ours_known = list(ours)
    stock_wrong = 0
    for number in range(100):
        target = Node(sha1(b"target %d" % number).digest())
        exact = sorted(stock_known, key=target.distance_to)[:8]
        stock_wrong += stock.find_neighbors(target, 8) != exact
        wanted = int.from_bytes(sha256(b"target %d" % number).digest(), "big")
        assert ours.closest(wanted.to_bytes(32, "big"), 8) == sorted(ours_known, key=lambda c: c.long_id ^ wanted)[:8]
    assert stock_wrong > 0
    await asyncio.sleep(0)


async def _nothing(*_: Any) -> None:
    return None


def test_the_stock_find_node_of_an_id_never_returns_that_id() -> None:
    stock = StockTable(None, 20, stock_node(0))
    ours = RoutingTable(our_contact(0).id, 20)
    for number in range(1, 10):
        stock.add_contact(stock_node(number))
        ours.add(our_contact(number), 0.0)
    assert stock_node(5).id not in [node.id for node in stock.find_neighbors(stock_node(5))]
    assert ours.closest(our_contact(5).id, 1) == [our_contact(5)]


async def test_the_stock_node_sends_its_whole_store_to_a_forged_address() -> None:
    protocol, wire = stock_protocol()
    for number in range(200):
        protocol.storage[b"key %d" % number] = bytes(1000)
    victim = ("203.0.113.7", 53)
    request = b"\x00" + bytes(20) + umsgpack.packb(["ping", [stock_node(9).id]])
    protocol.datagram_received(request, victim)
    for _ in range(5):
        await asyncio.sleep(0)
    stock_sent = sum(len(data) for data, address in wire.sent if address == victim)
    assert stock_sent > 1000 * len(request)
    for _, timer in protocol._outstanding.values():
        timer.cancel()

    ours, other = await our_pair()
    sent: list[tuple[bytes, Any]] = []
    ours.protocol.transport = type("Tap", (), {"sendto": lambda self, data, to: sent.append((data, to))})()
    hello = bytes((packets.HELLO, 1)) + bytes(40)
    for data in (request, hello.ljust(128, b"\0"), bytes((0x10,)) + bytes(80), bytes((packets.INIT,)) * 300):
        sent.clear()
        ours.protocol.datagram_received(data, victim)
        assert sum(len(each) for each, _ in sent) <= len(data)
    for node in (ours, other):
        node.transport.close()
        node.stop()


async def test_anyone_may_store_any_value_in_a_stock_node() -> None:
    protocol, _ = stock_protocol()
    assert protocol.rpc_store(("203.0.113.7", 1), stock_node(9).id, b"anything", b"anything") is True
    assert protocol.storage.get(b"anything") == b"anything"

    ours, other = await our_pair()
    now = Ambient.system().wall()
    stranger = SigningKey(sha256(b"stranger").digest())
    thing = ObjectId(sha256(b"thing").digest())
    forged = records.sign(Advertisement(thing, "10.0.0.1", 1, 1, now + 600), stranger, POOL).raw
    assert await other.announce(thing, [forged]) == 0 and await other.announce(thing, [b"anything"]) == 0
    assert len(ours.directory) == len(other.directory) == 0
    ours.stop()
    other.stop()


async def test_one_malformed_reply_raises_out_of_the_stock_get() -> None:
    class Liar:
        call_find_value = staticmethod(_liar)

    spider = ValueSpiderCrawl(Liar(), stock_node(1), [stock_node(2)], 20, 3)
    with pytest.raises(TypeError):
        await spider.find()

    ours, other = await our_pair()
    ours.serve("find_holders", lambda contact, body: b"\xc1 garbage")
    ours.serve("find_node", lambda contact, body: b"\xff garbage")
    found = await other.find_holders(ObjectId(sha256(b"x").digest()))
    assert found.advertisements == () and found.asked == 0
    assert await other.find_nodes(sha256(b"x").digest()) == []
    assert other.counters["faults"] >= 2, "and it counts against the liar"
    ours.stop()
    other.stop()


async def _liar(*_: Any) -> tuple[bool, int]:
    return (True, 42)


async def test_stock_lookups_wait_for_the_slowest_of_each_round() -> None:
    asked: list[bytes] = []
    silence = asyncio.get_running_loop().create_future()

    class OneIsSilent:
        @staticmethod
        async def call_find_value(peer: Node, target: Node) -> Any:
            asked.append(peer.id)
            if peer.id == stock_node(2).id:
                await silence
            return (True, [])

    peers = [stock_node(n) for n in range(2, 10)]
    spider = ValueSpiderCrawl(OneIsSilent(), stock_node(2), peers, 20, 3)
    task = asyncio.create_task(spider.find())
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(asked) == 3 and not task.done(), "two answers are in, and nobody else is asked"
    silence.set_result(None)
    await task

    contacts = [our_contact(n) for n in range(2, 10)]
    walk = Lookup(our_contact(1).id, our_contact(0).id, lambda _, count: contacts[:count], alpha=3, paths=1, wanted=20)
    flying = [question.contact for question in walk.start()]
    assert len(flying) == 3
    assert len(walk.reply(flying[0], [])) == 1 and len(walk.reply(flying[1], [])) == 1
    assert len(walk.late(flying[2])) == 1, "nor does the silent one hold a place"


async def test_stock_republishing_keeps_values_alive_for_ever() -> None:
    """Whoever holds a value sets it anew each hour, and each receiver starts its life of a week from zero."""
    receiver, _ = stock_protocol()
    receiver.storage[b"key"] = b"value"
    born = receiver.storage.data[b"key"][0]
    receiver.storage.data[b"key"] = (born - 604_000, b"value")
    receiver.rpc_store(("10.0.0.9", 1), stock_node(9).id, b"key", b"value")
    assert receiver.storage.data[b"key"][0] >= born

    kept, now = Directory(Rights(POOL)), 1_800_000_000.0
    holder = SigningKey(sha256(b"holder").digest())
    thing = ObjectId(sha256(b"thing").digest())
    raw = records.sign(Advertisement(thing, "10.0.0.1", 1, 1, now + 600), holder, POOL).raw
    for later in range(0, 1200, 60):
        kept.put(raw, now + later)
    assert kept.get(thing, now + 599).advertisements == [raw]
    assert kept.get(thing, now + 601).advertisements == []


async def test_a_stock_contact_in_the_replacement_cache_counts_as_new_each_time() -> None:
    bucket = KBucket(0, 2**160, 1)
    bucket.add_node(stock_node(1))
    bucket.add_node(stock_node(2))
    assert stock_node(2).id in bucket.replacement_nodes and bucket.is_new_node(stock_node(2))
    # ... and welcome_if_new sends the store to whoever is new: the storm.

    ours, other = await our_pair()
    ours.table.buckets[0].nodes.clear()
    ours.table.buckets[0].remember(other.contact)
    sent = ours.counters["other_bytes_sent"] + ours.counters["advertise_bytes_sent"]
    for _ in range(20):
        await other.call(ours.contact, "ping", b"")
    counters = ours.counters
    replies = 20 * (14 + 16 + 28)
    assert counters["other_bytes_sent"] + counters["advertise_bytes_sent"] - sent == replies
    ours.stop()
    other.stop()


async def test_the_stock_set_raises_when_every_peer_times_out() -> None:
    server = Server()
    server.protocol = type(
        "Silent",
        (),
        {
            "router": StockTable(None, 20, server.node),
            "call_find_node": staticmethod(_silence),
            "call_store": staticmethod(_silence),
        },
    )()
    server.protocol.router.add_contact(stock_node(1))
    with pytest.raises(ValueError, match="max"):
        await server.set_digest(sha1(b"key").digest(), "value")

    ours, other = await our_pair()
    ours.stop()
    thing = ObjectId(sha256(b"thing").digest())
    advertised = Advertisement(thing, "10.0.0.1", 1, 1, Ambient.system().wall() + 600)
    raw = records.sign(advertised, other.key, POOL).raw
    assert await other.announce(thing, [raw]) == 1, "the only node left is this one"
    other.stop()


async def _silence(*_: Any) -> tuple[bool, None]:
    return (False, None)


async def test_a_stock_reply_is_believed_from_any_address() -> None:
    protocol = RPCProtocol()
    protocol.transport = wire = Wire()
    future = protocol.ping(("10.0.0.1", 1), b"me")
    forged = b"\x01" + wire.sent[0][0][1:21] + umsgpack.packb(b"believe me")
    protocol.datagram_received(forged, ("203.0.113.7", 666))
    assert await future == (True, b"believe me")

    ours, other = await our_pair()
    session = other.protocol.handshakes.by_peer[ours.contact.id]
    waiting = asyncio.ensure_future(other.call(ours.contact, "silent", b"", timeout=0.3))
    await asyncio.sleep(0)
    ours.stop()
    for call_id in range(200):  # even who knows the session's id and the call's
        head = HEAD.pack(DATA, session.receive_id, session.highest + 1 + call_id, REPLY, call_id)
        other.protocol.datagram_received(head + b"believe me" + bytes(16), ("203.0.113.7", 666))
    with pytest.raises(LinkError):
        await waiting
    assert other.counters["bad_tags"] == 200
    other.stop()


async def test_an_unknown_name_is_an_error_and_not_a_remote_call() -> None:
    assert callable(RPCProtocol().no_such_thing)
    ours, other = await our_pair()
    with pytest.raises(AttributeError):
        _ = ours.protocol.no_such_thing
    ours.stop()
    other.stop()


async def test_datagrams_are_read_into_small_buffers() -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(RPCProtocol, local_addr=("127.0.0.1", 0))
    assert getattr(transport, "max_size", 256 * 1024) == 256 * 1024
    transport.close()
    ours, other = await our_pair()
    assert getattr(ours.transport, "max_size", RECEIVE_BUFFER_BYTES) == RECEIVE_BUFFER_BYTES
    assert RECEIVE_BUFFER_BYTES > bodies.MAX_BODY + 100
    ours.stop()
    other.stop()


def test_a_stock_replacement_enters_without_having_answered() -> None:
    bucket = KBucket(0, 2**160, 1)
    bucket.add_node(stock_node(1))
    bucket.add_node(stock_node(2))
    bucket.remove_node(stock_node(1))
    assert list(bucket.nodes) == [stock_node(2).id]

    table = RoutingTable(our_contact(0).id, 1)
    for number in range(1, 60):
        table.add(our_contact(number), 0.0)
    bucket = table.buckets[0]
    assert isinstance(bucket, Bucket) and isinstance(bucket.replacement_nodes, dict | OrderedDict)
    table.remove(next(iter(bucket.nodes)))
    assert not bucket.nodes
    assert table.due(1.0, lambda _: 1.0, 9) == [next(iter(bucket.replacement_nodes.values()))]


def test_one_unanswered_call_removes_a_stock_contact() -> None:
    protocol, _ = stock_protocol()
    protocol.router.add_contact(stock_node(1))
    protocol.handle_call_response((False, None), stock_node(1))
    assert protocol.router.is_new_node(stock_node(1))

    table = RoutingTable(our_contact(0).id, 20)
    table.add(our_contact(1), 0.0)
    assert not table.silent(our_contact(1), 1.0)
    assert our_contact(1).id in table
