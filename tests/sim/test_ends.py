"""When objects end: their time to live, and the wishes (pins) of those who want a piece of data kept."""

import pytest

import titan_overlay as titan
from tests.sim.calculator import Calculator
from titan_overlay.identity.grants import CLOCK_TOLERANCE, Right, issue
from titan_overlay.identity.keys import SigningKey
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

DATA = b"for today only"
MINE, THEIRS = SigningKey(b"m" * 32), SigningKey(b"t" * 32)


async def fresh(sim: SimulatedPool, user: SigningKey = MINE) -> titan.Pool:
    """A program that remembers nothing of earlier ones, and whose user has no grants."""
    pool = await sim.client(user=user)
    pool._member.grants.clear()
    return pool


@pytest.mark.parametrize("what", ["data", "service"])
async def test_an_object_ends_with_its_time_to_live_although_copies_were_replaced(what: str) -> None:
    async with SimulatedPool(12) as sim:
        pool, policy = await sim.client(), titan.Policy(ttl=1200)
        published = sim.now
        name = await pool.put(DATA, policy=policy) if what == "data" else "calc"
        if what == "service":
            await pool.publish(Calculator, name, policy=policy)
        await sim.settle(seconds=300)
        sim.kill(sim.holders(name)[0])
        await sim.settle(lambda: len(sim.holders(name)) == 3, within=300)
        await sim.settle(lambda: not sim.holders(name), within=1800)
        assert 1190 <= sim.now - published <= 1210
        await sim.settle(seconds=600)
        assert not sim.holders(name), "and nobody brings it back"


async def test_data_that_is_put_again_lives_on() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA, policy=titan.Policy(ttl=1000))
        await sim.settle(seconds=600)
        assert await (await fresh(sim)).put(DATA, policy=titan.Policy(ttl=1000)) == name
        await sim.settle(seconds=800)
        assert await (await fresh(sim)).get(name) == DATA
        await sim.settle(lambda: not sim.holders(name), within=400)


async def test_data_lives_as_long_as_the_most_patient_of_those_who_want_it() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA)
        await (await fresh(sim, THEIRS)).put(DATA, policy=titan.Policy(ttl=600))
        await sim.settle(seconds=1200)
        assert len(sim.holders(name)) == 3


async def test_each_publisher_takes_its_own_pin_away_from_any_program() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA)
        assert await (await fresh(sim, THEIRS)).put(DATA) == name
        assert await (await fresh(sim, THEIRS)).delete(name) == "deleted"
        assert await (await fresh(sim)).get(name) == DATA
        assert await (await fresh(sim)).delete(name) == "deleted"
        assert not sim.holders(name)


async def test_a_token_takes_away_the_pin_that_it_came_with() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA)
        theirs = await (await fresh(sim, THEIRS)).put_receipt(DATA)
        stranger = await fresh(sim, SigningKey(b"s" * 32))
        assert await stranger.delete(name) == "wrong token"
        assert await stranger.delete(name, theirs.token) == "deleted"
        assert await stranger.delete(name, theirs.token) == "wrong token", "it is used up, and mine is not theirs"
        assert len(sim.holders(name)) == 3


async def test_a_new_holder_learns_for_whom_it_holds() -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA)
        await (await fresh(sim, THEIRS)).put(DATA)
        await sim.settle(seconds=60)
        first = sim.holders(name)
        for gone in first:
            sim.kill(gone)
            await sim.settle(lambda: len(sim.holders(name)) == 3, within=600)
        assert not set(first) & set(sim.holders(name))
        assert await (await fresh(sim)).delete(name) == "deleted"
        assert await (await fresh(sim)).get(name) == DATA, "the other one still wants it"


async def test_a_token_that_is_named_decides_also_for_the_publisher() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        assert await pool.delete("calc", "00" * 16) == "wrong token"
        assert await pool.send("calc", "still here") == "still here"
        assert await pool.delete("calc") == "deleted"


async def test_a_holder_whose_right_to_host_ends_is_replaced_and_forgets_nothing() -> None:
    async with SimulatedPool(12) as sim:
        first = await sim.publish(Calculator, "calc")
        node = next(each for each in sim.nodes if each.key.id.hex() == first.holders[0])
        ends = node.running.ambient.wall() + 600
        node.running.grants[:] = [
            issue(sim.pool_key, sim.id, node.key.id, Right.HOST, now=ends - 600, expires=ends).raw
        ]
        await sim.publish(Calculator, "calc")
        assert node in sim.holders("calc")
        await sim.settle(seconds=600 - CLOCK_TOLERANCE)
        assert len(sim.holders("calc")) == 3
        await sim.settle(lambda: len(sim.holders("calc")) == 4, within=CLOCK_TOLERANCE + 900)
        assert node in sim.holders("calc"), "it keeps its copy: the grant may be renewed"
        pool = await sim.client()
        assert node.key.id.hex() not in {each.node for each in await pool.locate("calc")}, "but is asked no more"
        assert await pool.send("calc", "hello") == "hello"


@pytest.mark.parametrize("others", [False, True])
async def test_data_that_is_deleted_while_a_holder_is_away_does_not_come_back(others: bool) -> None:
    async with SimulatedPool(12) as sim:
        name = await (await fresh(sim)).put(DATA)
        if others:
            await (await fresh(sim, THEIRS)).put(DATA)
        await sim.settle(seconds=60)
        away = sim.holders(name)[0]
        sim.kill(away)
        assert await (await fresh(sim)).delete(name) == "deleted"
        await sim.restart(away)
        await sim.settle(seconds=120)
        if others:
            assert await (await fresh(sim)).get(name) == DATA, "the other one still wants it"
            assert await (await fresh(sim, THEIRS)).delete(name) == "deleted"
        await sim.settle(lambda: not sim.holders(name), within=300)
        with pytest.raises(titan.Gone):
            await (await fresh(sim)).get(name)
        assert await (await fresh(sim)).delete(name) == "already gone"
        assert await (await fresh(sim)).put(DATA) == name, "put again, it is there again"
        await sim.settle(seconds=1800)
        assert len(sim.holders(name)) == 3


async def test_data_whose_only_holder_is_away_is_said_to_be_deleted() -> None:
    async with SimulatedPool(6) as sim:
        name = await (await fresh(sim)).put(DATA, policy=titan.Policy(min_copies=2, max_copies=2))
        await sim.settle(seconds=60)
        away = sim.holders(name)[0]
        sim.kill(away)
        assert await (await fresh(sim)).delete(name) == "deleted"
        with pytest.raises(titan.Gone, match="was deleted"):
            await (await fresh(sim)).get(name)


async def test_the_code_of_a_service_that_is_gone_takes_no_room() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        for _ in range(3):
            await pool.publish(Calculator, "calc")
            await pool.publish(Calculator, "another")
            await pool.delete("calc")
            await sim.settle()
            assert await pool.send("another", "x") == "x"
        await pool.delete("another")
        await sim.settle()
        assert [each.running.blobs.used() for each in sim.live()] == [0] * 6
