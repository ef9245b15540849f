"""What peers that lie can do: waste some time. What does not verify does not exist."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from msgspec import structs

import titan_overlay as titan
from tests.sim.calculator import Calculator
from tests.sim.lying import SILENCE, to
from tests.sim.lying import lie as told
from titan_overlay.config import NodeConfig
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Address, Contact
from titan_overlay.identity.ids import ObjectId, fingerprint, rank
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Tombstone
from titan_overlay.links.links import Links
from titan_overlay.overlay.bodies import FIT, FindHolders, Holders
from titan_overlay.pool.hosting.data import Read
from titan_overlay.pool.orders import Bury, Census, Recruit, StepDown
from titan_overlay.testing.pool import PORT, Machine, SimulatedNode, SimulatedPool
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("virtual")

STRANGER = SigningKey(b"s" * 32)
DATA = bytes(range(256)) * 4096
"""Four chunks."""


def contact(node: SimulatedNode) -> Contact:
    return Contact(node.key.id, node.ip, PORT)


async def order(sim: SimulatedPool, node: SimulatedNode, message: Any, by: SigningKey = STRANGER) -> Any:
    """What a node answers to an order of somebody."""
    pool = await sim.client(user=by)
    return await pool.send(node.name, message)


def public(ip: str, key: SigningKey | None = None) -> Machine:
    return Machine(ip=ip, key=key, config=NodeConfig(advertise=(f"{ip}:{PORT}",)))


def forge(sim: SimulatedPool, by: SigningKey, **changes: Any) -> records.Signed[Descriptor]:
    fields = {
        "name": "calc",
        "kind": "service",
        "type": "echo",
        "version": 1_700_000_000_000 + 10**9,
        "created": 1_700_000_000.0,
        "policy": titan.Policy(hosts="anyone"),
        "token_hash": sha256(b"mine").digest(),
    }
    return records.sign(Descriptor(**{**fields, **changes}), by, sim.id)


# --- holders --------------------------------------------------------------------------------------------------


def lie(node: SimulatedNode) -> None:
    """From now on it gives out other bytes than it holds."""
    blobs = node.running.blobs

    async def lying(content_id: bytes, index: int) -> bytes:
        return bytes(len(await type(blobs).read_chunk(blobs, content_id, index)))

    blobs.read_chunk = lying  # type: ignore[method-assign]


async def made_up(content_id: bytes, index: int) -> bytes:
    return b"made up"


async def test_wrong_bytes_of_a_holder_are_never_taken_for_the_data() -> None:
    async with SimulatedPool(10) as sim:
        writer = await sim.client()
        big = await writer.put(DATA, policy=titan.Policy(cache=False))
        small = await writer.put(b"small" * 100, policy=titan.Policy(cache=False))
        liars: set[SimulatedNode] = set()
        for node in (*sim.holders(big)[:2], *sim.holders(small)[:2]):
            if all(set(sim.holders(name)) - liars - {node} for name in (big, small)):  # each keeps an honest holder
                liars.add(node)
        for node in sorted(liars, key=lambda each: each.number):
            lie(node)
        for _ in range(5):
            reader = await sim.client()
            assert await reader.get(big) == DATA
            assert await reader.get(small) == b"small" * 100
            assert await reader.send(small, Read()) == b"small" * 100


async def test_where_all_holders_lie_there_is_an_error_and_no_data() -> None:
    async with SimulatedPool(10) as sim:
        name = await (await sim.client()).put(DATA, policy=titan.Policy(cache=False))
        small = await (await sim.client()).put(b"small" * 100, policy=titan.Policy(cache=False))
        for node in sim.live():
            lie(node)
        reader = await sim.client()
        with pytest.raises((titan.Unavailable, titan.BadMessage, titan.NotFound)):
            await reader.get(name)
        with pytest.raises((titan.Unavailable, titan.BadMessage, titan.NotFound)):
            await reader.send(small, Read())


async def test_a_copy_that_cannot_be_proven_is_replaced() -> None:
    async with SimulatedPool(10) as sim:
        name = await (await sim.client()).put(DATA, policy=titan.Policy(cache=False))
        await sim.settle(seconds=60)
        liar = sim.holders(name)[0]
        # It has thrown the content away, and makes something up when it is asked for proof.
        liar.running.keeper._upkeep.samples.read_chunk = made_up
        honest = lambda: [node for node in sim.holders(name) if node is not liar]  # noqa: E731
        # Samples change with the epoch, once an hour.
        await sim.settle(lambda: len(honest()) >= 3, within=3 * 3600.0)


async def advertise(sim: SimulatedPool, node: SimulatedNode, object_id: ObjectId, **changes: Any) -> int:
    """A node says that it holds what it does not hold."""
    fields = {
        "object_id": object_id,
        "host": node.ip,
        "port": PORT,
        "sequence": 2**50,
        "expires": 1_700_000_000.0 + sim.now + 1200,
        "version": 2**60,
        "grant": node.running.grants[0],
    }
    raw = records.sign(Advertisement(**{**fields, **changes}), node.key, sim.id).raw
    with sim.network.on_host(node.ip):
        return await node.running.overlay.announce(object_id, [raw])


async def test_holders_that_hold_nothing_keep_nobody_from_an_answer() -> None:
    async with SimulatedPool(14) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        name = await pool.put(DATA)
        for wanted in ("calc", name):
            object_id = names.object_id(sim.id, wanted)
            liars = [node for node in sim.nodes if node not in sim.holders(wanted)][:8]
            for liar in liars:
                assert await advertise(sim, liar, object_id) > 0
        for _ in range(3):
            reader = await sim.client()
            assert await reader.send("calc", "x") == "x"
            assert await reader.get(name) == DATA
        for node in sim.nodes:
            assert await sim.pool(node).send("calc", "x") == "x"


async def test_a_version_that_nobody_can_show_keeps_nobody_from_publishing() -> None:
    async with SimulatedPool(14) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        await sim.settle(seconds=60)
        for liar in [node for node in sim.nodes if node not in sim.holders("calc")][:5]:
            await advertise(sim, liar, names.object_id(sim.id, "calc"))
        receipt = await pool.publish(Calculator, "calc")
        await sim.settle(seconds=60)
        described = await (await sim.client()).describe("calc")
        assert isinstance(described, titan.Description)
        assert described.version == receipt.version


async def test_a_name_that_only_liars_hold_is_an_error() -> None:
    async with SimulatedPool(10) as sim:
        for liar in sim.nodes[:5]:
            await advertise(sim, liar, names.object_id(sim.id, "nothing/here"))
        with pytest.raises((titan.Unavailable, titan.NotFound)):
            await (await sim.client()).send("nothing/here", "x")


async def test_false_holders_do_not_keep_a_lost_copy_from_being_made_anew() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Calculator, "calc")
        await sim.settle(seconds=60)
        object_id = names.object_id(sim.id, "calc")
        for liar in [node for node in sim.nodes if node not in sim.holders("calc")][:5]:
            await advertise(sim, liar, object_id, version=0)
        await sim.settle(seconds=60)
        sim.kill(sim.holders("calc")[0])
        await sim.settle(lambda: len(sim.holders("calc")) >= 3, within=300)


async def test_keys_that_rank_first_in_one_machine_room_do_not_drive_out_who_holds_the_data() -> None:
    async with SimulatedPool(24, machine=lambda number: public(f"80.{number}.0.1")) as sim:
        name = await (await sim.client()).put(DATA, policy=titan.Policy(cache=False))
        object_id = names.object_id(sim.id, name)
        await sim.settle(seconds=60)
        honest = sim.holders(name)
        holder = honest[0].running
        descriptor = holder.host.get(object_id)
        assert descriptor is not None
        first = min(rank(object_id, node.key.id) for node in honest)
        keys = (SigningKey(number.to_bytes(32, "big")) for number in range(100_000))
        ground = (key for key in keys if rank(object_id, key.id) < first)
        liars = [await sim.add_node(public(f"51.7.7.{number}", next(ground))) for number in range(1, 9)]
        with sim.network.on_host(honest[0].ip):
            offer = partial(holder.recruiter.recruit, descriptor.descriptor, count=1)
            taken = await asyncio.gather(*(offer(only=contact(liar)) for liar in liars))
        assert all(each.accepted for each in taken)
        await sim.settle(seconds=300)
        for liar in liars:
            sim.kill(liar)
        assert sim.holders(name) == honest
        assert await (await sim.client()).get(name, timeout=20.0) == DATA


async def test_a_holder_without_the_right_to_host_is_not_asked() -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        outsider = next(node for node in sim.nodes if node not in sim.holders("calc"))
        await advertise(sim, outsider, names.object_id(sim.id, "calc"), grant=b"", version=0)
        reader = await sim.client()
        assert await reader.send("calc", "x") == "x"
        known = reader._router.places.known(names.object_id(sim.id, "calc"))
        assert known is not None
        assert outsider.key.id not in {each.signer for each in known.holders}


# --- publishers -----------------------------------------------------------------------------------------------


async def test_a_descriptor_of_somebody_without_the_right_is_refused_by_every_node() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        for node in sim.nodes:
            with pytest.raises(titan.Forbidden, match="publish"):
                await order(sim, node, Recruit(forge(sim, STRANGER).raw))
        assert await (await sim.client()).send("calc", "x") == "x"


async def test_what_is_bent_on_its_way_is_refused() -> None:
    async with SimulatedPool(4) as sim:
        true = forge(sim, sim.user, name=f"~{fingerprint(sim.user.public)}/x").raw
        node = sim.nodes[2]
        pool = await sim.client(user=STRANGER)
        for position in range(0, len(true), 7):
            bent = true[:position] + bytes((true[position] ^ 0x40,)) + true[position + 1 :]
            with pytest.raises((titan.BadMessage, titan.Forbidden)):
                await pool.send(node.name, Recruit(bent))
        for cut in (b"", true[:-1], true + b"\0", b"\x91" * 5000):
            with pytest.raises((titan.BadMessage, titan.Forbidden)):
                await pool.send(node.name, Recruit(cut))
        assert node.running.holdings() == []


@pytest.mark.parametrize(
    "content",
    [
        Content(1 << 62, 256 << 10, b"m" * 32),
        Content(10, 0, b"m" * 32),
        Content(10, 1 << 40, b"m" * 32),
        Content(0, 256 << 10, b"m" * 32),
    ],
)
async def test_data_of_an_impossible_shape_is_refused_and_takes_no_room(content: Content) -> None:
    async with SimulatedPool(4) as sim:
        node = sim.nodes[2]
        forged = forge(sim, STRANGER, name=names.content_name(b"c" * 32), kind="data", type="", content=content)
        with pytest.raises(titan.RemotableError):
            await order(sim, node, Recruit(forged.raw))
        await sim.settle(seconds=60)
        assert node.running.blobs.used() == 0
        assert node.running.holdings() == []


async def test_orders_to_hold_what_never_comes_keep_no_node_from_answering_others() -> None:
    async with SimulatedPool(4) as sim:
        liar, victim = sim.nodes[3], sim.nodes[2]
        told(liar, lambda send: SILENCE if send.type.startswith("titan.") else None)
        content = Content(600_000, 256 << 10, b"m" * 32)
        pin = forge(sim, STRANGER, name=names.content_name(b"c" * 32), kind="data", type="", content=content)
        body = codec.encode(Recruit(pin.raw, source=liar.key.id))
        with sim.network.on_host(liar.ip):
            links = liar.running.links
            orders = [
                asyncio.ensure_future(
                    links.request(contact(victim), victim.key.id, Recruit.wire_type, body, deadline=sim.now + 300)
                )
                for _ in range(300)
            ]
        await sim.settle(seconds=5)
        assert not all(each.done() for each in orders), "the first wait for what never comes"
        other = await sim.client(through=0)
        assert (await other.send(victim.name, Census(), timeout=5.0)).id == victim.key.id.hex()
        for each in orders:
            each.cancel()
        await asyncio.gather(*orders, return_exceptions=True)


# --- data that others have published as well ------------------------------------------------------------------

THREE = titan.Policy(min_copies=3, max_copies=3, cache=False)


async def everywhere(sim: SimulatedPool, policy: titan.Policy) -> str:
    """A stranger has the data kept by all eight nodes before anybody else publishes it."""
    stranger = await sim.client(user=STRANGER, grants=[])
    name = await stranger.put(DATA, policy=structs.replace(policy, min_copies=8, max_copies=8))
    await sim.settle(seconds=30)
    return name


async def test_data_of_a_stranger_who_lets_nobody_read_it_is_read_once_others_have_published_it() -> None:
    async with SimulatedPool(8) as sim:
        await everywhere(sim, titan.Policy(callers="granted", cache=False))
        reader = await sim.client(user=SigningKey(b"r" * 32), grants=[])
        name = await (await sim.client()).put(DATA, policy=THREE)
        assert await reader.get(name) == DATA


async def test_data_that_a_stranger_does_not_want_mended_is_mended_for_others() -> None:
    async with SimulatedPool(8) as sim:
        name = await everywhere(sim, titan.Policy(reduplicate=False, cache=False))
        await (await sim.client()).put(DATA, policy=THREE)
        await sim.settle(seconds=60)
        for node in sim.holders(name)[1:]:
            sim.kill(node)
        for _ in range(3):
            await sim.add_node()
        await sim.settle(lambda: len(sim.holders(name)) >= 3, within=600)


# --- deletion -------------------------------------------------------------------------------------------------


async def test_nobody_deletes_what_is_anothers() -> None:
    async with SimulatedPool(10) as sim:
        owner = await sim.client()
        receipt = await owner.publish(Calculator, "calc")
        first = receipt.token
        await sim.settle(seconds=5)
        await owner.publish(Calculator, "calc")
        await sim.settle(seconds=60)
        holder = sim.holders("calc")[0]
        held = next(row for row in holder.database.replicas())
        object_id = names.object_id(sim.id, "calc")
        expires = 1_700_000_000.0 + sim.now + 86400
        forged = forge(sim, STRANGER)
        tombstones = {
            "no token": Tombstone(held.descriptor, 2**60, expires),
            "a guess": Tombstone(held.descriptor, 2**60, expires, b"guess"),
            "the token of the version before": Tombstone(held.descriptor, 2**60, expires, bytes.fromhex(first)),
            "a descriptor of one's own": Tombstone(forged.raw, 2**60, expires, b"mine"),
            "for ever": Tombstone(held.descriptor, 2**60, expires + 10**9, bytes.fromhex(receipt.token)),
        }
        for tombstone in tombstones.values():
            raw = records.sign(tombstone, STRANGER, sim.id).raw
            for node in sim.holders("calc"):
                with contextlib.suppress(titan.BadMessage, titan.Forbidden):
                    assert await order(sim, node, Bury(raw)) == "wrong token"
            outsider = next(node for node in sim.nodes if node not in sim.holders("calc"))
            with sim.network.on_host(outsider.ip):
                await outsider.running.overlay.announce(object_id, [raw])
        await sim.settle(seconds=600)
        assert len(sim.holders("calc")) >= 3
        assert await (await sim.client()).send("calc", "x") == "x"


async def test_pins_of_strangers_that_are_deleted_do_not_hide_the_data_of_others() -> None:
    async with SimulatedPool(50) as sim:
        name = await (await sim.client()).put(DATA, policy=titan.Policy(cache=False))
        await sim.settle(seconds=30)
        held = next(row for row in sim.holders(name)[0].database.replicas())
        content = records.check(held.descriptor, Descriptor, sim.id).value.content
        graves = []
        for number, size in enumerate((90, 150)):
            stranger = SigningKey(bytes([number + 1]) * 32)
            policy = titan.Policy(requires={"room": "x" * size})
            pin = forge(sim, stranger, name=name, kind="data", content=content, type="", policy=policy)
            tombstone = Tombstone(pin.raw, pin.value.version, 1_700_000_000.0 + sim.now + 86400)
            graves.append(records.sign(tombstone, stranger, sim.id).raw)
        assert FIT - 50 < sum(map(len, graves)) < FIT - 30, "together they fill a reply"
        outsider = next(node for node in sim.nodes if node not in sim.holders(name))
        with sim.network.on_host(outsider.ip):
            assert await outsider.running.overlay.announce(names.object_id(sim.id, name), graves)
        assert await (await sim.client(through=outsider)).get(name) == DATA


async def test_nobody_but_the_publisher_moves_an_object_away() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        for node in sim.holders("calc"):
            with pytest.raises(titan.Forbidden):
                await order(sim, node, StepDown(names.object_id(sim.id, "calc")))
        assert len(sim.holders("calc")) == 3


async def test_a_withdrawal_that_is_sent_again_takes_nothing_back() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        target = sim.nodes[5]
        only = titan.Policy(min_copies=1, max_copies=1, requires={"node": target.key.id.hex()})
        heard: list[bytes] = []
        announce_many = target.running.overlay.announce_many

        async def listening(items: Any) -> Any:
            heard.extend(raw for _, raw in items)
            return await announce_many(items)

        target.running.overlay.announce_many = listening  # type: ignore[method-assign]
        receipt = await pool.publish(Calculator, "calc", policy=only)
        assert await pool.delete("calc", receipt.token) == "deleted"
        await sim.settle(seconds=30)
        withdrawals = [raw for raw in heard if records.check(raw, Advertisement, sim.id).value.withdrawn]
        assert withdrawals
        await pool.publish(Calculator, "calc", policy=only)
        replayer = sim.nodes[2]
        with sim.network.on_host(replayer.ip):
            await replayer.running.overlay.announce(names.object_id(sim.id, "calc"), withdrawals)
        assert await (await sim.client()).send("calc", "back") == "back"


# --- senders --------------------------------------------------------------------------------------------------


async def test_a_grant_that_speaks_for_another_is_not_believed() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client(user=STRANGER)
        assert await pool.send("calc", []) == STRANGER.id.hex()
        # A link that presents somebody else's delegation speaks for its own key alone.
        thief = await sim.client(user=SigningKey(b"t" * 32))
        await thief._member.links.close()
        thief._member.introduction = pool._member.introduction
        thief._member.wire()
        thief._router = thief._member.router
        assert await thief.send("calc", []) == thief._member.key.id.hex()


# --- the directory --------------------------------------------------------------------------------------------


def serve(node: SimulatedNode, method: str, answer: Callable[[Contact, bytes], bytes]) -> None:
    node.running.overlay.serve(method, answer)


async def everyone_is_answered(sim: SimulatedPool, liars: list[SimulatedNode]) -> None:
    for node in sim.nodes:
        if node not in liars:
            assert await sim.pool(node).send("calc", "x") == "x"
    reader = await sim.client(through=next(node for node in sim.nodes if node not in liars))
    assert await reader.send("calc", "x") == "x"
    with pytest.raises(titan.NotFound):
        await reader.send("nothing/here", "x")


async def test_nodes_that_answer_lookups_with_garbage_stop_nobody() -> None:
    async with SimulatedPool(14) as sim:
        noise = Random(7)
        liars = sim.nodes[1:5]
        for liar in liars:
            for method in ("find_node", "find_holders", "store", "probe"):
                serve(liar, method, lambda contact, body: noise.randbytes(noise.randrange(400)))
        # Who knows only a liar knows nobody: programs begin at a node that is honest.
        await (await sim.client(through=sim.nodes[0])).publish(Calculator, "calc")
        await everyone_is_answered(sim, liars)


async def test_a_public_node_sends_no_census_into_private_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: set[str] = set()
    connected = Links._connected

    def recorded(links: Links, node: Any, address: Address) -> Any:
        dialled.add(address[0])
        return connected(links, node, address)

    monkeypatch.setattr(Links, "_connected", recorded)
    async with SimulatedPool(6, machine=lambda number: public(f"5.9.{number}.1")) as sim:
        made_up = [f"{bytes([n] * 32).hex()}@{ip}:22" for n, ip in enumerate(("10.9.9.9", "127.0.0.1"))]
        told(sim.nodes[3], to(("titan.Neighbours",), made_up))
        pool = await sim.client()
        assert len(await pool.census()) == 6
    assert dialled and not dialled & {"10.9.9.9", "127.0.0.1"}


async def test_a_directory_that_promises_more_and_refuses_it_stops_nobody() -> None:
    async with SimulatedPool(14) as sim:
        liars = sim.nodes[1:5]
        first_page = codec.encode(Holders(b"", [], [], b"nobody"))

        def promise(contact: Contact, body: bytes) -> bytes:
            if not codec.decode(body, FindHolders).count:  # no contacts: it reads on
                raise titan.Gone("it was deleted")
            return first_page

        for liar in liars:
            serve(liar, "find_holders", promise)
        await sim.publish(Calculator, "calc")
        await everyone_is_answered(sim, liars)


async def test_a_directory_that_forgets_what_it_was_told_loses_nothing() -> None:
    async with SimulatedPool(14) as sim:
        liars = sim.nodes[1:5]
        empty = codec.encode(Holders(b"", [], []))
        for liar in liars:
            serve(liar, "find_holders", lambda contact, body: empty)
        await sim.publish(Calculator, "calc")
        await everyone_is_answered(sim, liars)
