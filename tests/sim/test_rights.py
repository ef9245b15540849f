"""Rights in a whole pool: private pools, callers, revocations that spread however some keep silent about them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.calculator import Calculator
from titan_overlay import introduction
from titan_overlay.config import NodeConfig
from titan_overlay.identity import names, records
from titan_overlay.identity.grants import CLOCK_TOLERANCE, Right, issue
from titan_overlay.identity.ids import solves_puzzle
from titan_overlay.identity.invitations import invite, redeem
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import STRANGER, PoolRecord
from titan_overlay.identity.records import Signed
from titan_overlay.identity.revocations import Entry, RevocationList, key_entry
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Tombstone, check_descriptor
from titan_overlay.member import RENEW_SECONDS
from titan_overlay.pool.hosting.runner import Runner, ServiceRunner
from titan_overlay.pool.keeping.supplies import Supplies
from titan_overlay.pool.orders import Bury, Learn, News
from titan_overlay.pool.questions import Bundle
from titan_overlay.rules import recall
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

PRIVATE = PoolRecord(version=1, strangers=0)
ANN, BOB = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
TRUSTING = NodeConfig(trust=(ANN.public.hex(), BOB.public.hex()))
"""Nodes run what they publish."""


async def tell(sim: SimulatedPool, node: SimulatedNode, news: News) -> int:
    """What `titan revoke` and `titan pool set` do, to one node."""
    return await sim.pool(node).send(node.name, Learn(news))


def listed(sim: SimulatedPool, *entries: Entry, number: int = 1) -> News:
    return News(b"", [records.sign(RevocationList(number, entries), sim.pool_key, sim.id).raw])


def record(sim: SimulatedPool, value: PoolRecord) -> News:
    return News(records.sign(value, sim.pool_key, sim.id).raw)


def wall(sim: SimulatedPool) -> float:
    return sim.nodes[0].running.ambient.wall()


# --- rights that have ended ---------------------------------------------------------------------------------------


@titan.service("*", policy=titan.Policy(min_copies=1))
class Imposter:
    async def say(self, message: str) -> str:
        return "who asks?"


def imposture(sim: SimulatedPool, grant: bytes, created: float, version: int) -> Signed[Descriptor]:
    """What ANN signs as if it had been published by this grant at that time."""
    policy = titan.Policy(min_copies=1, hosts="anyone", reduplicate=False)
    made = Descriptor("calc", "service", "Imposter", version, created, policy, grant=grant)
    return records.sign(made, ANN, sim.id)


async def test_a_right_that_has_ended_takes_nothing_over_and_deletes_nothing() -> None:
    async with SimulatedPool(10, seed=3) as sim:
        began = wall(sim)
        grant = issue(sim.pool_key, sim.id, ANN.id, Right.PUBLISH, now=began, expires=began + 600, pattern="calc").raw
        await sim.publish(Calculator, "calc")
        await sim.settle(seconds=3600)
        liar = next(each for each in sim.nodes[1:] if each not in sim.holders("calc"))
        within = began + 590  # after the founder has published
        with pytest.raises(titan.BadMessage, match="after the time of its publication"):
            check_descriptor(imposture(sim, grant, within, 2**62).raw, None, liar.running.rights)
        signed = imposture(sim, grant, within, int(within * 1000))
        await liar.running.admission.adopt(signed, ServiceRunner(Imposter()), liar.running.keeper.hold)
        for seconds in (30, 1800):
            await sim.settle(seconds=seconds)
            assert await (await sim.client()).send("calc", "hello") == "hello"
        assert len(sim.holders("calc")) >= 3
        tombstone = records.sign(Tombstone(signed.raw, signed.value.version, wall(sim) + 3600), ANN, sim.id).raw
        await liar.running.overlay.announce(names.object_id(sim.id, "calc"), [tombstone])
        client = await sim.client()
        for node in sim.holders("calc"):
            if node is not liar:
                assert await client.send(node.name, Bury(tombstone)) == "wrong token"
        assert await (await sim.client()).send("calc", "hello") == "hello"


async def test_what_was_published_outlives_the_right_and_its_publisher_can_still_delete_it() -> None:
    async with SimulatedPool(10, config=TRUSTING) as sim:
        began = wall(sim)
        grant = issue(sim.pool_key, sim.id, ANN.id, Right.PUBLISH, now=began, expires=began + 600, pattern="calc").raw
        ann = await sim.client(user=ANN)
        ann._member.grants[:] = [grant]
        await ann.publish(Calculator, "calc")
        await sim.settle(seconds=3600)
        assert await (await sim.client()).send("calc", "hello") == "hello"
        assert await ann.delete("calc") == "deleted"
        with pytest.raises(titan.Gone):
            await (await sim.client()).send("calc", "hello")


# --- private pools --------------------------------------------------------------------------------------------


async def test_a_private_pool_works_among_those_who_may_join() -> None:
    async with SimulatedPool(8, rules=PRIVATE) as sim:
        await sim.publish(Calculator, "calc")
        assert await (await sim.client()).send("calc", "hello") == "hello"
        name = await (await sim.client()).put(b"among us")
        assert await sim.pool(3).get(name) == b"among us"


async def test_a_stranger_is_refused_with_the_command_that_helps() -> None:
    async with SimulatedPool(4, rules=PRIVATE) as sim:
        with pytest.raises(titan.ConfigError, match=rf"private.*titan grant {ANN.public.hex()} join"):
            await sim.client(user=ANN, grants=[])
        with pytest.raises(titan.ConfigError, match="private"):
            await sim.client(user=ANN, grants=[sim.grant(ANN, Right.CALL)])
        with pytest.raises(titan.ConfigError, match="private"):
            await sim.client(user=ANN, grants=[sim.grant(BOB)])
        node = sim.make_node()
        node.grants.clear()
        with pytest.raises(titan.ConfigError, match=f"titan grant {node.key.public.hex()} join,call"):
            await sim.restart(node)


async def test_an_invitation_opens_a_private_pool() -> None:
    async with SimulatedPool(4, rules=PRIVATE) as sim:
        now = wall(sim)
        line = invite(
            sim.pool_key, sim.id, Right.JOIN | Right.CALL | Right.HOST, seed=b"i" * 32, now=now, expires=now + 3600
        )
        node = sim.make_node()
        node.grants[:] = [redeem(line, sim.id, node.key.id).raw]
        await sim.restart(node)
        guest = await sim.client(user=ANN, grants=[redeem(line, sim.id, ANN.id).raw])
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=5))
        assert node in sim.holders("calc")
        assert await guest.send("calc", "hello") == "hello"


async def test_a_pool_that_becomes_private_parts_with_strangers() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc")
        stranger = await sim.client(user=ANN, grants=[])
        assert await stranger.send("calc", "hello") == "hello"
        assert await tell(sim, sim.nodes[3], record(sim, PoolRecord(version=2, strangers=0))) == 1
        await sim.settle(lambda: all(each.running.rights.record.private for each in sim.live()), within=60)
        await asyncio.sleep(1)
        assert stranger._member.user.id not in {
            each.running.rights.speaker(peer.credentials, peer.id, peer.public, wall(sim)).id
            for each in sim.live()
            for peer in each.running.links.peers()
        }
        with pytest.raises(titan.TitanError):
            await stranger.send("calc", "hello")
        assert await (await sim.client()).send("calc", "hello") == "hello"


async def test_who_loses_the_right_to_join_is_out() -> None:
    async with SimulatedPool(8, rules=PRIVATE) as sim:
        await sim.publish(Calculator, "calc")
        ann = await sim.client(user=ANN)
        assert await ann.send("calc", "hello") == "hello"
        gone = [key_entry(key, wall(sim)) for key in (ANN.id, sim.nodes[5].key.id)]
        assert await tell(sim, sim.nodes[2], listed(sim, *gone)) == 1
        others = [each for each in sim.live() if each is not sim.nodes[5]]
        await sim.settle(lambda: all(map(knows, others)), within=300)
        await sim.settle(seconds=1)
        with pytest.raises(titan.TitanError):
            await ann.send("calc", "hello")
        assert all(sim.nodes[5].key.id not in each.running.overlay.table for each in others)
        assert all(sim.nodes[5].key.id not in {p.id for p in each.running.links.peers()} for each in others)


# --- callers --------------------------------------------------------------------------------------------------


async def test_an_object_for_granted_callers_answers_nobody_else() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(callers="granted"))
        may = await sim.client(user=ANN, grants=[sim.grant(ANN, Right.CALL, "calc")])
        may_not = await sim.client(user=BOB, grants=[sim.grant(BOB, Right.CALL, "other")])
        assert await may.send("calc", "hello") == "hello"
        assert [item async for item in may.stream("calc", 2)] == [0, 1]
        with pytest.raises(titan.Forbidden, match=f"titan grant {BOB.public.hex()} call --names 'calc'"):
            await may_not.send("calc", "hello")
        with pytest.raises(titan.Forbidden):
            _ = [item async for item in may_not.stream("calc", 2)]
        assert (await may_not.describe("calc")).policy.callers == "granted", "what it is, anybody may ask"
        for question in (titan.Stats(), Bundle()):
            assert await may.send("calc", question)
            with pytest.raises(titan.Forbidden):  # its code and its use are not what it is
                await may_not.send("calc", question)
        publisher = await sim.client(grants=[])
        assert await publisher.send("calc", "mine") == "mine"
        sim.kill(sim.holders("calc")[0])
        await sim.settle(lambda: len(sim.holders("calc")) >= 3, within=300)  # who may host has the code


async def test_where_anybody_may_hold_an_object_anybody_may_have_its_code() -> None:
    async with SimulatedPool(4) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(callers="granted", hosts="anyone"))
        stranger = await sim.client(user=BOB, grants=[])
        assert await stranger.send("calc", Bundle())
        with pytest.raises(titan.Forbidden):
            await stranger.send("calc", "hello")


async def test_where_strangers_may_not_call_nodes_still_work_together() -> None:
    async with SimulatedPool(8, rules=PoolRecord(version=1, strangers=int(Right.JOIN))) as sim:
        await sim.publish(Calculator, "calc")
        stranger = await sim.client(user=ANN, grants=[])
        with pytest.raises(titan.Forbidden, match="call"):
            await stranger.send("calc", "hello")
        sim.kill(sim.holders("calc")[0])
        await sim.settle(lambda: len(sim.holders("calc")) == 3, within=300)
        assert await (await sim.client()).send("calc", "hello") == "hello"


async def test_a_program_that_runs_for_long_goes_on_speaking_for_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introduction, "DELEGATION_SECONDS", 4 * RENEW_SECONDS)
    async with SimulatedPool(4) as sim:
        await sim.publish(Calculator, "calc")
        ann = await sim.client(user=ANN)
        for _ in range(24):
            assert await ann.send("calc", []) == ANN.id.hex()
            await sim.settle(seconds=RENEW_SECONDS / 3)


async def test_a_delegation_that_has_ended_speaks_for_nobody_although_the_link_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(introduction, "DELEGATION_SECONDS", 600.0)
    async with SimulatedPool(4) as sim:
        await sim.publish(Calculator, "calc")
        ann = await sim.client(user=ANN)
        ann._member.show_credentials = lambda: None  # type: ignore[method-assign]
        assert await ann.send("calc", []) == ANN.id.hex()
        for _ in range(10):
            await sim.settle(seconds=100)
            told = await ann.send("calc", [])
        assert told == ann._member.key.id.hex()


async def test_a_grant_to_call_that_comes_later_opens_the_object_although_links_are_open() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(callers="granted"))
        await sim.publish(Calculator, "open", policy=titan.Policy(min_copies=6))
        node = next(each for each in sim.live() if each not in sim.holders("calc"))
        node.running.grants[:] = [sim.grant(node.key, STRANGER | Right.HOST, "open")]
        node.running.revise()
        pool = sim.pool(node)
        assert await pool.send("open", "hello") == "hello"
        with pytest.raises(titan.Forbidden):
            await pool.send("calc", "hello")
        assert node.running.hold_grant(sim.grant(node.key, Right.CALL, "calc"))
        assert await pool.send("calc", "hello") == "hello"


@pytest.mark.parametrize("how", ["expires", "is revoked", "is renewed"])
async def test_who_watches_sees_nothing_more_once_the_right_has_ended(how: str) -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=titan.Policy(faults=1, callers="granted"))
        end = wall(sim) + 15 - CLOCK_TOLERANCE
        short = issue(sim.pool_key, sim.id, ANN.id, Right.CALL, now=end - 60, expires=end, pattern="bank/*").raw
        ann = await sim.client(
            user=ANN, grants=[sim.grant(ANN, Right.CALL, "bank/*") if how == "is revoked" else short]
        )
        seen: list[titan.Change] = []

        async def watch() -> None:
            async for change in ann.watch("bank/main", start=1):
                seen.append(change)

        watching = asyncio.create_task(watch())
        await pool.send("bank/main", Deposit("rent", 1))
        await sim.settle(lambda: len(seen) == 1, within=20)
        if how == "is revoked":
            for node in sim.holders("bank/main"):
                await tell(sim, node, listed(sim, key_entry(ANN.id, wall(sim))))
        elif how == "is renewed":
            ann._member.grants.append(sim.grant(ANN, Right.CALL, "bank/*"))
            ann._member.show_credentials()
        await sim.settle(seconds=1 if how == "is revoked" else 16)
        await pool.send("bank/main", Deposit("rent", 1))
        if how == "is renewed":
            await sim.settle(lambda: len(seen) == 2, within=20)
            watching.cancel()
            return
        with pytest.raises(titan.Forbidden, match="titan grant"):
            await asyncio.wait_for(watching, 60)
        assert len(seen) == 1, "what came later is not shown"


# --- revocation -----------------------------------------------------------------------------------------------


def knows(node: SimulatedNode, number: int = 1) -> bool:
    return number in node.running.rights.revocations.numbers().values()


async def test_a_revocation_reaches_everybody_although_some_drop_it() -> None:
    async with SimulatedPool(30) as sim:
        silent = sim.nodes[10:20]
        for liar in silent:
            liar.running.gossip.learn = lambda news: 0  # type: ignore[method-assign]
            liar.running.gossip.answer = lambda question: News()  # type: ignore[method-assign]
        assert await tell(sim, sim.nodes[0], listed(sim, key_entry(ANN.id, wall(sim)))) == 1
        honest = [each for each in sim.nodes if each not in silent]
        await sim.settle(lambda: all(map(knows, honest)), within=300)
        assert not any(map(knows, silent))


async def test_who_was_away_hears_of_it_and_forgets_it_in_no_restart() -> None:
    async with SimulatedPool(6) as sim:
        sim.kill(5)
        await tell(sim, sim.nodes[0], listed(sim, key_entry(ANN.id, wall(sim)), number=7))
        await sim.settle(seconds=30)
        await sim.restart(5)
        await sim.settle(lambda: knows(sim.nodes[5], 7), within=300)
        remembered = Rights(sim.id)
        recall(sim.nodes[5].database, remembered, wall(sim))
        assert remembered.revocations.numbers() == sim.nodes[5].running.rights.revocations.numbers() != {}


async def test_a_revoked_key_publishes_no_more_and_what_it_published_goes() -> None:
    async with SimulatedPool(10, config=TRUSTING) as sim:
        ann = await sim.client(user=ANN)
        await ann.publish(Calculator, "weather/berlin")
        await ann.publish(Calculator, "~me/own")
        await sim.publish(Calculator, "traffic/berlin")
        own = f"~{ann.id}/own"
        await tell(sim, sim.nodes[4], listed(sim, key_entry(ANN.id, wall(sim))))
        await sim.settle(lambda: not sim.holders("weather/berlin"), within=60)
        await sim.settle(lambda: all(map(knows, sim.live())), within=300)
        with pytest.raises((titan.Forbidden, titan.Unavailable), match="may not publish"):
            await ann.publish(Calculator, "weather/paris")
        await sim.settle(seconds=120)
        assert not sim.holders("weather/berlin") and not sim.holders("weather/paris")
        assert len(sim.holders("traffic/berlin")) == 3 and len(sim.holders(own)) == 3
        pool = await sim.client()
        with pytest.raises(titan.NotFound):
            await pool.send("weather/berlin", "hello")
        assert await pool.send(own, "hello") == "hello", "names of its own are its own"


async def test_what_is_revoked_while_it_is_being_taken_in_is_not_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(6, config=TRUSTING) as sim:
        ann = await sim.client(user=ANN)
        on_the_way = asyncio.Event()
        fetch = Supplies.runner

        async def slow(self: Supplies, descriptor: Signed[Descriptor], *rest: Any) -> Runner:
            on_the_way.set()
            await sim.settle(lambda: all(map(knows, sim.live())), within=300)
            return await fetch(self, descriptor, *rest)

        monkeypatch.setattr(Supplies, "runner", slow)
        publishing = asyncio.create_task(ann.publish(Calculator, "weather/berlin", timeout=200))
        await on_the_way.wait()
        for node in sim.live():
            await tell(sim, node, listed(sim, key_entry(ANN.id, wall(sim))))
        with pytest.raises(titan.TitanError):
            await publishing
        assert not sim.holders("weather/berlin")
        assert not any(node.running.database.replicas() for node in sim.live())


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_holder_whose_right_to_host_was_revoked_is_replaced(obeys: bool) -> None:
    async with SimulatedPool(12) as sim:
        await sim.publish(Calculator, "calc")
        await sim.settle(seconds=60)
        revoked = sim.holders("calc")[0]
        if not obeys:
            revoked.running.rights.learn_list = lambda raw, now: False  # type: ignore[method-assign]
        others = [each for each in sim.nodes if each is not revoked]
        await tell(sim, others[0], listed(sim, key_entry(revoked.key.id, wall(sim))))
        await sim.settle(lambda: sum(each is not revoked for each in sim.holders("calc")) >= 3, within=600)
        pool = await sim.client()
        assert revoked.key.id.hex() not in {each.node for each in await pool.locate("calc")}
        assert await pool.send("calc", "hello") == "hello"


async def test_a_grant_to_host_that_comes_later_is_used_at_once() -> None:
    async with SimulatedPool(4) as sim:
        for node in sim.nodes:
            node.running.grants[:] = [sim.grant(node.key, STRANGER)]
        with pytest.raises(titan.Unavailable, match=r"titan grant \w+ host"):
            await sim.publish(Calculator, "calc")
        for node in sim.nodes:
            assert node.running.hold_grant(sim.grant(node.key, Right.HOST))
            assert not node.running.hold_grant(sim.grant(ANN, Right.HOST)), "another's"
        await sim.publish(Calculator, "calc")
        assert len(sim.holders("calc")) == 3


# --- the puzzle -----------------------------------------------------------------------------------------------


async def test_a_node_that_has_not_solved_the_puzzle_serves_nobody() -> None:
    def unsolved(accept: Callable[[SigningKey], bool]) -> SigningKey:
        keys = (SigningKey(bytes(30) + number.to_bytes(2, "big")) for number in range(1000))
        return next(key for key in keys if accept(key))

    async with SimulatedPool(5, rules=PoolRecord(version=1, puzzle_bits=4)) as sim:
        assert all(solves_puzzle(each.key.id, 4) for each in sim.nodes)
        cheap = sim.make_node()
        cheap.key = unsolved(lambda key: not solves_puzzle(key.id, 4))
        with pytest.raises(titan.ConfigError, match="puzzle of 4 bits"):
            await sim.restart(cheap)
        assert all(cheap.key.id not in each.running.overlay.table for each in sim.live())
        await tell(sim, sim.nodes[1], record(sim, PoolRecord(version=2, puzzle_bits=6)))
        able = {each.number for each in sim.live() if solves_puzzle(each.key.id, 6)}
        await sim.settle(
            lambda: {each.number for each in sim.live() if each.running.overlay.serving} == able, within=300
        )


async def test_what_was_passed_on_works_in_the_pool_and_ends_with_its_parent() -> None:
    async with SimulatedPool(8, config=TRUSTING) as sim:
        parent = sim.grant(ANN, Right.PUBLISH, "weather/*", depth=1)
        now = wall(sim)
        child = issue(
            ANN, sim.id, BOB.id, Right.PUBLISH, now=now, expires=now + 3600, pattern="weather/berlin", parent=parent
        ).raw
        bob = await sim.client(user=BOB, grants=[child])
        await bob.publish(Calculator, "weather/berlin")
        with pytest.raises(titan.Forbidden):
            await bob.publish(Calculator, "weather/paris")
        assert len(sim.holders("weather/berlin")) == 3
        await tell(sim, sim.nodes[0], listed(sim, key_entry(ANN.id, now)))
        await sim.settle(lambda: not sim.holders("weather/berlin"), within=60)
