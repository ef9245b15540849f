"""Half of the nodes lie about what they hold: who asks gets what was published, within the default deadline."""

from random import Random
from typing import Any

import pytest

import titan_overlay as titan
from tests.sim.calculator import Calculator
from tests.sim.lying import SILENCE, Answer, lie, to
from titan_overlay.identity import names, records
from titan_overlay.identity.conduct import Offence
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Advertisement, Content, Descriptor
from titan_overlay.pool.hosting.data import Read
from titan_overlay.storage.files import describe_bytes
from titan_overlay.testing.pool import PORT, SimulatedNode, SimulatedPool
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

pytestmark = pytest.mark.loops("virtual")

EIGHT = titan.Policy(min_copies=8, max_copies=12, cache=False)
STRANGER = SigningKey(b"s" * 32)
CONTENTS = ("titan.Read", "titan.Fetch", "titan.Manifest")

LIES: dict[str, Answer] = {
    "takes every question and answers none": lambda send: SILENCE,
    "says that it has nothing": lambda send: titan.NotHere("no"),
    "answers with garbage": lambda send: codec.encode(["garbage"]),
    "says that it is overloaded": lambda send: titan.Overloaded("later", retry_after=1e9),
    "describes the data and then stalls": to(CONTENTS, SILENCE),
    "sends other bytes": to(CONTENTS, bytes(2000)),
    "does not describe it": to(("titan.Describe",), SILENCE),
    "says that it was deleted": to(CONTENTS, titan.Gone("no")),
    "says that it may not be read": to(CONTENTS, titan.Forbidden("no")),
    "says that time ran out": to(CONTENTS, titan.DeadlineExceeded("no")),
    "says that an error was raised": lambda send: titan.RemoteError("no"),
}


def liars_of(sim: SimulatedPool) -> list[SimulatedNode]:
    return sim.nodes[1::2]


async def stored(sim: SimulatedPool, sizes: list[int]) -> dict[str, bytes]:
    """Data by name, each held by at least one honest node."""
    pool = await sim.client(through=0)
    found = {}
    for number, size in enumerate(sizes):
        data = Random(number).randbytes(size)
        name = await pool.put(data, policy=EIGHT)
        if set(sim.holders(name)) - set(liars_of(sim)):
            found[name] = data
    assert len(found) >= len(sizes) - 1
    return found


async def test_data_is_read_whatever_half_of_the_nodes_answer() -> None:
    async with SimulatedPool(30) as sim:
        small, large = await stored(sim, [2000] * 3), await stored(sim, [600_000])
        lying: list[Answer] = [lambda send: None]
        for node in liars_of(sim):
            lie(node, lambda send: lying[0](send))
        for what, answer in LIES.items():
            lying[0] = answer
            for name, data in small.items():
                reader = await sim.client(through=0)
                assert await reader.send(name, Read()) == data, what
                assert await (await sim.client(through=0)).get(name, timeout=10.0) == data, what
            for name, data in large.items():
                assert await (await sim.client(through=0)).get(name, timeout=10.0) == data, what


async def test_a_message_reaches_an_honest_holder_of_a_service_whatever_half_of_the_nodes_do() -> None:
    async with SimulatedPool(30) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=8, max_copies=12))
        assert set(sim.holders("calc")) - set(liars_of(sim))
        lying: list[Answer] = [lambda send: None]
        for node in liars_of(sim):
            lie(node, lambda send: lying[0](send))
        for what in ("takes every question and answers none", "says that it has nothing", "does not describe it"):
            lying[0] = LIES[what]
            for _ in range(4):
                assert await (await sim.client(through=0)).send("calc", "x") == "x", what


async def test_who_sent_wrong_bytes_is_remembered_and_asked_last() -> None:
    async with SimulatedPool(20) as sim:
        (name, data), *_ = (await stored(sim, [2000])).items()
        asked: list[SimulatedNode] = []

        def lying(node: SimulatedNode) -> Answer:
            def answer(send: Send) -> Any:
                if send.type not in CONTENTS:
                    return None
                asked.append(node)
                return codec.encode(bytes(2000))

            return answer

        bad = [node for node in liars_of(sim) if node in sim.holders(name)]
        for node in bad:
            lie(node, lying(node))
        reader = await sim.client(through=0)
        for _ in range(40):
            assert await reader.get(name) == data
            reader._router.places.forget(reader._router.object_id(name))
        conduct = reader._member.conduct
        caught = [node for node in bad if conduct.avoided(node.key.id, sim.now)]
        assert caught
        for node in caught:
            assert asked.count(node) == 1, "once bitten"
            (incident,) = conduct.report(node.key.id, sim.now).incidents
            assert incident.offence is Offence.WRONG and name[:19] in incident.why
        for node in sim.holders(name):
            assert node in bad or not conduct.report(node.key.id, sim.now).incidents


def describing(raw: bytes) -> Answer:
    return lambda send: codec.encode(raw) if send.type == "titan.Describe" else None


async def test_a_false_description_of_data_keeps_nobody_from_reading_it() -> None:
    async with SimulatedPool(20) as sim:
        misled = 0
        for name, data in (await stored(sim, [2000, 600_000])).items():
            for content in (Content(len(data), 256 << 10, b"m" * 32), Content(1 << 40, 256 << 10, b"m" * 32)):
                false = Descriptor(name, "data", "", 2**60, 1_700_000_000.0, content=content)
                raw = records.sign(false, STRANGER, sim.id).raw
                for node in liars_of(sim):
                    lie(node, describing(raw))
                reader = await sim.client(through=0)
                assert await reader.get(name, timeout=10.0) == data
                misled += bool(reader._router.places._doubted)
                for node in sim.nodes[::2]:
                    assert not reader._member.conduct.avoided(node.key.id, sim.now), "it is not taken for the liar"
        assert misled, "the false one came first at least once"


@pytest.mark.parametrize(
    "policy",
    [
        titan.Policy(min_copies=1, bound=True, requires={"node": "f" * 64}),
        titan.Policy(max_bytes=1),
        titan.Policy(callers="granted"),
        titan.Policy(min_copies=5, votes=5),
    ],
)
async def test_a_description_of_data_that_asks_for_what_nobody_has_keeps_nobody_from_reading_it(
    policy: titan.Policy,
) -> None:
    async with SimulatedPool(20) as sim:
        for name, data in (await stored(sim, [2000, 600_000])).items():
            _, content, _ = describe_bytes(data)
            strange = Descriptor(name, "data", "", 2**60, 1_700_000_000.0, policy, content=content)
            raw = records.sign(strange, STRANGER, sim.id).raw
            for node in liars_of(sim):
                lie(node, describing(raw))
            for _ in range(3):
                reader = await sim.client(through=0)
                assert await reader.get(name, timeout=10.0) == data


async def test_an_old_description_of_a_service_is_not_believed_where_a_newer_one_is_shown() -> None:
    async with SimulatedPool(20) as sim:
        pool = await sim.client(through=0)
        eight = titan.Policy(min_copies=8, max_copies=12)
        await pool.publish(Calculator, "calc", policy=eight)
        object_id = names.object_id(sim.id, "calc")
        old = sim.holders("calc")[0].running.host.get(object_id)
        assert old is not None
        raw = old.descriptor.raw
        await sim.settle(seconds=5)
        receipt = await pool.publish(Calculator, "calc", policy=eight)
        for node in liars_of(sim):
            lie(node, describing(raw))
        for _ in range(6):
            described = await (await sim.client(through=0)).describe("calc")
            assert isinstance(described, titan.Description)
            assert described.version == receipt.version


async def advertise(sim: SimulatedPool, node: SimulatedNode, object_id: ObjectId) -> None:
    expires = 1_700_000_000.0 + sim.now + 1200
    raw = records.sign(Advertisement(object_id, node.ip, PORT, 2**50, expires, 2**60), node.key, sim.id).raw
    with sim.network.on_host(node.ip):
        await node.running.overlay.announce(object_id, [raw])


async def test_a_crowd_that_claims_to_hold_data_does_not_hide_who_does() -> None:
    async with SimulatedPool(30) as sim:
        for name, data in (await stored(sim, [2000] * 3)).items():
            for node in liars_of(sim):
                await advertise(sim, node, names.object_id(sim.id, name))
                lie(node, LIES["says that it has nothing"])
            assert await (await sim.client(through=0)).get(name, timeout=10.0) == data
            assert await (await sim.client(through=0)).send(name, Read()) == data
