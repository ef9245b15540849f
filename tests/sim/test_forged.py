"""What a reader believes: nothing that is forged, ever, and of two true statements always the same one."""

from hashlib import sha256
from random import Random

import pytest

import titan_overlay as titan
from tests.sim.calculator import Calculator
from tests.sim.lying import Answer, lie
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor, Tombstone
from titan_overlay.overlay.bodies import Holders
from titan_overlay.pool.hosting.data import Read
from titan_overlay.pool.orders import NodeInfo
from titan_overlay.testing.pool import PORT, SimulatedNode, SimulatedPool
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

pytestmark = pytest.mark.loops("virtual")

STRANGER = SigningKey(b"s" * 32)
EPOCH = 1_700_000_000.0
EIGHT = titan.Policy(min_copies=8, max_copies=12, cache=False)


def bent(raw: bytes, at: int = -1) -> bytes:
    return raw[:at] + bytes((raw[at] ^ 1,)) + (raw[at + 1 :] if at != -1 else b"")


def describing(raw: bytes) -> Answer:
    return lambda send: codec.encode(raw) if send.type == "titan.Describe" else None


def descriptor(sim: SimulatedPool, name: str) -> Signed[Descriptor]:
    held = sim.holders(name)[0].running.host.get(names.object_id(sim.id, name))
    assert held is not None
    return held.descriptor


def changed(value: Descriptor, **fields: object) -> Descriptor:
    return Descriptor(**{name: fields.get(name, getattr(value, name)) for name in Descriptor.__struct_fields__})


async def test_a_forged_description_is_never_believed_even_where_nobody_tells_the_truth() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Calculator, "calc")
        await sim.publish(Calculator, "other")
        true = descriptor(sim, "calc")
        forged = {
            "not signed by whoever it says": bent(true.raw),
            "changed on the way": bent(true.raw, 200),
            "another object's": descriptor(sim, "other").raw,
            "another pool's": records.sign(true.value, sim.user, PoolId(STRANGER.public)).raw,
            "by somebody without the right": records.sign(
                changed(true.value, version=2**60, grant=b""), STRANGER, sim.id
            ).raw,
            "with somebody else's grant": records.sign(changed(true.value, version=2**60), STRANGER, sim.id).raw,
            "another kind of record": records.sign(
                Advertisement(names.object_id(sim.id, "calc"), "10.0.0.1", PORT, 1, EPOCH + 9e9), sim.user, sim.id
            ).raw,
            "nothing": b"",
        }
        lying: list[bytes] = [b""]
        for node in sim.nodes:
            lie(node, lambda send: codec.encode(lying[0]) if send.type == "titan.Describe" else None)
        for what, raw in forged.items():
            lying[0] = raw
            reader = await sim.client()
            with pytest.raises((titan.Unavailable, titan.NotFound, titan.DeadlineExceeded)):
                await reader.describe("calc", timeout=4.0)
            assert reader._router.places.known(names.object_id(sim.id, "calc")) is None, what


def telling(node: SimulatedNode, raws: list[bytes], tombstones: list[bytes]) -> None:
    """Whoever looks anything up there is told these statements, and of no contact."""
    body = codec.encode(Holders(b"", raws, tombstones))
    node.running.overlay.serve("find_holders", lambda contact, body_=b"": body)


async def test_forged_statements_in_the_directory_neither_hide_nor_delete_nor_redirect() -> None:
    async with SimulatedPool(14) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        name = await pool.put(b"data" * 500, policy=EIGHT)
        for wanted in ("calc", name):
            object_id = names.object_id(sim.id, wanted)
            true = descriptor(sim, wanted)
            honest = sim.holders(wanted)[0]
            own = honest.running.keeper.own_advertisement(object_id)
            assert own is not None
            elsewhere = Advertisement(object_id, sim.nodes[3].ip, PORT, 2**60, EPOCH + sim.now + 1200)
            gone = Advertisement(object_id, honest.ip, PORT, 2**60, EPOCH + sim.now + 1200, withdrawn=True)
            expires = EPOCH + sim.now + 86400
            raws = [
                bent(own.raw),
                bent(own.raw, 120),
                records.sign(elsewhere, honest.key, PoolId(STRANGER.public)).raw,
                bent(records.sign(gone, STRANGER, sim.id).raw, 40),
                records.sign(Advertisement(bytes(32), honest.ip, PORT, 2**60, expires), honest.key, sim.id).raw,
                records.sign(Advertisement(object_id, honest.ip, PORT, 2**60, 1.0), honest.key, sim.id).raw,
            ]
            tombstones = [
                records.sign(Tombstone(true.raw, 2**60, expires), STRANGER, sim.id).raw,
                records.sign(Tombstone(true.raw, 2**60, expires, b"guess"), STRANGER, sim.id).raw,
                bent(records.sign(Tombstone(true.raw, 2**60, expires), sim.user, sim.id).raw),
                records.sign(Tombstone(true.raw, 2**60, expires), sim.user, PoolId(STRANGER.public)).raw,
            ]
            liars = [node for node in sim.nodes if node not in sim.holders(wanted)][:4]
            for number, liar in enumerate(liars):
                telling(liar, raws[number::4], tombstones[number : number + 1])
            for _ in range(4):
                reader = await sim.client()
                message = Read() if wanted == name else "x"
                assert await reader.send(wanted, message) == (b"data" * 500 if wanted == name else "x")
                place = reader._router.places.known(object_id)
                assert place is not None
                assert {each.signer for each in place.holders} <= {node.key.id for node in sim.holders(wanted)}


async def test_a_pin_that_is_forged_is_not_taken_and_takes_nothing_away() -> None:
    async with SimulatedPool(10) as sim:
        owner = await sim.client()
        receipt = await owner.put_receipt(b"kept" * 100, policy=EIGHT)
        true = descriptor(sim, receipt.name)
        forged = [
            bent(true.raw),
            records.sign(changed(true.value, token_hash=sha256(b"mine").digest()), STRANGER, PoolId(bytes(32))).raw,
        ]
        for node in sim.holders(receipt.name)[:-1]:
            lie(node, lambda send: codec.encode(forged) if send.type == "titan.Pins" else None)
        thief = await sim.client(user=STRANGER, grants=[])
        assert await thief.delete(receipt.name, b"mine".hex()) == "wrong token"
        assert await thief.delete(receipt.name) in ("nothing to delete", "wrong token")
        await sim.settle(seconds=60)
        assert await (await sim.client()).get(receipt.name) == b"kept" * 100


async def test_a_node_that_calls_itself_another_in_a_census_is_not_taken_for_it() -> None:
    async with SimulatedPool(8) as sim:
        liar, victim = sim.nodes[2], sim.nodes[5]

        def claim(send: Send) -> bytes | None:
            if send.type != "titan.Census":
                return None
            figures = ["1.0", {"gpu": "yes"}, 1, 1, 0.0, 0.0, 0, 0, 0, True, True, 0, 0.0]
            return codec.encode(NodeInfo(victim.key.id.hex(), "6.6.6.6:6", *figures))

        lie(liar, claim)
        pool = await sim.client()
        infos = await pool.census()
        assert len(infos) == 7 and not await pool.census(["gpu=yes"])
        with pytest.raises(titan.BadMessage, match="answers as another node"):
            await pool.describe(liar.name)
        assert (await pool.send(victim.name, titan.Ping())).holder == victim.key.id.hex()


async def test_two_descriptions_of_one_version_are_told_apart_the_same_by_everybody_and_nobody_goes_back() -> None:
    async with SimulatedPool(20) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=8, max_copies=12))
        first = descriptor(sim, "calc")
        # The publisher itself signs another one of the same version.
        second = records.sign(changed(first.value, policy=titan.Policy(min_copies=7, max_copies=12)), sim.user, sim.id)
        wins, loses = sorted((first, second), key=lambda each: sha256(each.raw).digest())
        chance = Random(7)
        shown: dict[SimulatedNode, bytes] = {}
        for node in sim.nodes:
            lie(node, lambda send, node=node: codec.encode(shown[node]) if send.type == "titan.Describe" else None)
        readers = [await sim.client() for _ in range(4)]
        object_id = names.object_id(sim.id, "calc")
        best: dict[int, bytes] = {}
        for turn in range(6):
            for node in sim.nodes:
                shown[node] = loses.raw if turn == 0 else chance.choice((wins, loses)).raw
            for number, reader in enumerate(readers):
                places = reader._router.places
                places.forget(object_id)
                place = await places.find(object_id, deadline=sim.now + 10.0, fresh=True)
                if best.get(number) == wins.raw:
                    assert place.descriptor.raw == wins.raw, "it went back"
                best[number] = place.descriptor.raw
        for node in sim.nodes:
            shown[node] = wins.raw
        assert loses.raw in best.values(), "the other one is believed for a while"
        await sim.settle(seconds=700)
        for reader in readers:
            place = await reader._router.places.find(object_id, deadline=sim.now + 10.0, fresh=True)
            assert place.descriptor.raw == wins.raw
