"""Services that are voted on: the answer is what a strict majority of those asked agrees on, or a clear error."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import titan_overlay as titan
from tests.sim.lying import SILENCE, lie, to
from tests.sim.voted import Careless, OddError, Slow, Streaming, Sums
from titan_overlay.config import NodeConfig
from titan_overlay.identity.conduct import Offence
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.lineage import LINEAGE_BYTES_MAX
from titan_overlay.pool.finding import votes
from titan_overlay.pool.orders import Recruit
from titan_overlay.testing.pool import PORT, Machine, SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

EIGHT = titan.Policy(votes=5, min_copies=8, max_copies=12)
TEN = titan.Policy(votes=5, min_copies=10, max_copies=12)


def liars(sim: SimulatedPool, count: int, told: Any, types: tuple[str, ...] = ("list",)) -> list[SimulatedNode]:
    chosen = sim.holders("sums")[:count]
    for node in chosen:
        lie(node, to(types, told))
    return chosen


async def test_the_result_says_how_many_were_asked_and_how_many_agreed() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        pool = await sim.client()
        assert await pool.send("sums", [1, 2]) == 3
        answer = await pool.ask("sums", [1, 2])
        assert answer.value == 3
        assert (answer.asked, answer.needed) == (5, 3)
        assert 3 <= answer.agreed <= answer.answered <= 5


async def test_a_minority_of_liars_changes_nothing_and_is_remembered() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        bad = liars(sim, 2, 666)
        pool = await sim.client()
        for _ in range(3):
            assert (await pool.ask("sums", [1, 2])).value == 3
            await sim.settle(seconds=20)
        conduct = pool._member.conduct
        for node in bad:
            assert Offence.DISSENT in {each.offence for each in conduct.report(node.key.id, sim.now).incidents}
            assert conduct.avoided(node.key.id, sim.now)
        for node in sim.holders("sums"):
            assert node in bad or not conduct.report(node.key.id, sim.now).incidents


async def test_once_remembered_liars_are_not_asked_while_there_are_others() -> None:
    async with SimulatedPool(20) as sim:
        await sim.publish(Sums, "sums", policy=EIGHT)
        bad = liars(sim, 2, 666)  # never the most of five
        pool = await sim.client()
        for _ in range(12):
            await pool.send("sums", [1, 2])
            await sim.settle(seconds=20)
        asked: list[SimulatedNode] = []
        for node in bad:
            lie(node, lambda send, node=node: asked.append(node))
        for _ in range(5):
            assert (await pool.ask("sums", [3, 4])).agreed >= 3
        assert not asked


async def test_without_a_majority_there_is_an_error_that_counts() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        for number, node in enumerate(sim.holders("sums")[:3]):
            lie(node, to(("list",), 600 + number))
        with pytest.raises(titan.Unavailable, match=r"5 holders asked, [45] answered, [12] agreed, 3 of 5 needed"):
            await (await sim.client()).send("sums", [1, 2])


async def test_three_of_five_that_collude_get_their_way_as_the_bound_says() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        liars(sim, 3, 666)
        assert await (await sim.client()).send("sums", [1, 2]) == 666


async def test_liars_who_are_most_of_those_asked_first_lose_to_those_asked_after() -> None:
    async with SimulatedPool(22) as sim:
        await sim.publish(Sums, "sums", policy=TEN)
        liars(sim, 4, 666)
        for _ in range(12):  # strangers: a quarter of them meets three liars among the first five
            answer = await (await sim.client()).ask("sums", [1, 2])
            assert answer.value == 3
            assert (answer.asked, answer.needed) in [(5, 3), (10, 6), (11, 6), (12, 6)]


async def test_liars_do_not_win_because_the_others_are_slow() -> None:
    async with SimulatedPool(22) as sim:
        await sim.publish(Slow, "sums")
        liars(sim, 4, 666)
        for _ in range(3):
            answer = await (await sim.client()).ask("sums", [1, 2])
            assert (answer.value, answer.agreed, answer.needed) == (3, 6, 6)


async def test_a_directory_that_names_few_holders_does_not_choose_who_votes() -> None:
    async with SimulatedPool(22) as sim:
        await sim.publish(Sums, "sums", policy=TEN)
        bad = liars(sim, 3, 666)
        for _ in range(3):
            pool = await sim.client()
            places, object_id = pool._router.places, pool._router.object_id("sums")
            place = await places.find(object_id, deadline=sim.now + 10, fresh=True)
            told = [each for each in place.holders if each.signer in {node.key.id for node in bad}]
            place.holders = told + [each for each in place.holders if each not in told][:2]
            answer = await pool.ask("sums", [1, 2])
            assert (answer.value, answer.asked, answer.needed) == (3, 10, 6)


async def test_at_the_deadline_those_who_agree_are_enough_though_one_is_silent() -> None:
    async with SimulatedPool(22) as sim:
        await sim.publish(Sums, "sums", policy=TEN)
        pool = await sim.client()
        await pool.send("sums", [1, 2])
        liars(sim, 1, SILENCE)
        answers = [await pool.ask("sums", [1, 2], timeout=0.5) for _ in range(6)]
        assert {(each.value, each.asked, each.needed) for each in answers} == {(3, 5, 3)}
        assert {each.agreed for each in answers} == {4, 5}


async def test_an_error_of_the_object_is_an_answer_that_can_have_a_majority() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        liars(sim, 2, 0)
        pool = await sim.client()
        with pytest.raises(OddError, match="3 numbers"):
            await pool.send("sums", [1, 2, 3])
        for node in sim.holders("sums")[:3]:
            lie(node, to(("list",), titan.Forbidden("not you")))
        with pytest.raises(titan.Forbidden, match="not you"):
            await pool.send("sums", [1, 2])


async def test_silent_voters_are_replaced_within_the_deadline() -> None:
    async with SimulatedPool(20) as sim:
        await sim.publish(Sums, "sums", policy=EIGHT)
        liars(sim, 3, SILENCE)
        pool = await sim.client()
        for _ in range(4):
            answer = await pool.ask("sums", [1, 2])
            assert answer.value == 3
            assert answer.agreed >= 3


async def test_with_too_many_silent_ones_the_error_comes_within_the_deadline_and_counts() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        liars(sim, 3, SILENCE)
        pool = await sim.client()
        started = sim.now
        with pytest.raises(titan.Unavailable, match="5 holders asked, 2 answered, 2 agreed, 3 of 5 needed"):
            await pool.send("sums", [1, 2], timeout=4.0)
        assert sim.now - started <= 4.0


async def test_dead_voters_are_replaced_by_those_that_took_their_copies() -> None:
    async with SimulatedPool(16) as sim:
        await sim.publish(Sums, "sums")
        pool = await sim.client()
        assert await pool.send("sums", [1, 2]) == 3
        for node in sim.holders("sums")[:3]:
            sim.kill(node)
        await sim.settle(lambda: len(sim.holders("sums")) >= 5, within=300)
        assert (await pool.ask("sums", [1, 2])).value == 3


async def test_numbers_that_are_close_agree_where_the_policy_says_so() -> None:
    policy = titan.Policy(votes=5, min_copies=5, compare="close:1e-6")
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums", policy=policy)
        for number, node in enumerate(sim.holders("sums")):
            lie(node, to(("dict",), 1.5 * (1 + number * 1e-8)))
        answer = await (await sim.client()).ask("sums", {"a": 1.0, "b": 2.0})
        assert answer.value == pytest.approx(1.5)
        assert answer.agreed >= 3


def public(*addresses: str) -> Callable[[int], Machine]:
    """Machines with these addresses, which they know themselves: so few peers could not tell them."""
    return lambda number: Machine(ip=addresses[number], config=NodeConfig(advertise=(f"{addresses[number]}:{PORT}",)))


async def test_holders_in_one_subnet_have_one_vote_together() -> None:
    apart = ["80.1.0.1"]
    together = [f"81.2.69.{number}" for number in range(1, 14)]
    async with SimulatedPool(14, machine=public(*apart, *together)) as sim:
        with pytest.raises(titan.Unavailable, match=r"of 2 distinct owners and subnets, and its policy needs 5"):
            await sim.publish(Sums, "sums")
        with pytest.raises(titan.Unavailable, match=r"3 of 5 holders .* have to agree, and 2 are known"):
            await (await sim.client()).send("sums", [1, 2])


async def test_publishing_spreads_the_copies_over_subnets() -> None:
    addresses = [f"81.2.{number % 8}.{number + 1}" for number in range(24)]
    async with SimulatedPool(24, machine=public(*addresses)) as sim:
        await sim.publish(Sums, "sums")
        assert (await (await sim.client()).ask("sums", [1, 2])).value == 3


async def test_what_may_run_only_once_cannot_be_voted_on() -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        with pytest.raises(titan.BadMessage, match="book may not run more than once"):
            await pool.publish(Careless, "careless")
        with pytest.raises(titan.BadMessage, match="count"):
            await pool.publish(Streaming, "streaming")
        await pool.publish(Careless, "careless", policy=titan.Policy())
        # Somebody signs it by hand.
        place = await pool._router.places.find(pool._router.object_id("careless"), deadline=sim.now + 10)
        descriptor, _ = pool._publisher.describe(
            "careless",
            "service",
            titan.Policy(votes=3),
            type=place.descriptor.value.type,
            bundle=place.descriptor.value.bundle,
            idempotent=place.descriptor.value.idempotent,
        )
        pool._router.places.remember(descriptor, place.holders)
        with pytest.raises(titan.BadMessage, match=r"'int' is not declared idempotent"):
            await pool.send("careless", 7)


async def test_questions_about_the_copy_itself_are_not_voted_on_and_streams_are_refused() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        pool = await sim.client()
        assert isinstance(await pool.send("sums", titan.Ping()), titan.Pong)
        assert "list" in await pool.send("sums", titan.Schema())
        with pytest.raises(titan.BadMessage, match="voted on"):
            async for _ in pool.stream("sums", [1]):
                pass


async def test_votes_of_which_the_caller_thinks_better_leave_nothing_behind() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        liars(sim, 5, SILENCE)
        pool = await sim.client()
        asking = asyncio.ensure_future(pool.send("sums", [1, 2], timeout=30.0))
        await sim.settle(seconds=3)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await sim.settle(seconds=1)
        assert all(pool._member.links.in_flight(node.key.id) == 0 for node in sim.nodes)


async def test_who_holds_it_asks_nobody_else() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        holder = sim.holders("sums")[0]
        answer = await sim.pool(holder).ask("sums", [1, 2])
        assert (answer.value, answer.asked, answer.agreed) == (3, 1, 1)


async def test_a_nodes_own_user_can_ask_what_it_has_seen_of_another_and_nobody_else_can() -> None:
    async with SimulatedPool(14) as sim:
        await sim.publish(Sums, "sums")
        (bad,) = liars(sim, 1, 666)
        asker = next(node for node in sim.nodes if node not in sim.holders("sums"))
        for _ in range(3):
            await sim.pool(asker).send("sums", [1, 2])
            await sim.settle(seconds=20)
        question = titan.Conduct(bad.key.id)
        seen = await sim.pool(asker).send(asker.name, question)
        assert {each.what for each in seen.misdeeds} == {"vote with the minority"}
        assert seen.avoided_for > 0 and seen.latency is not None and 0 <= seen.misdeeds[-1].ago < 30
        with pytest.raises(titan.Forbidden):
            await (await sim.client()).send(asker.name, question)


async def intrude(sim: SimulatedPool) -> list[SimulatedNode]:
    """Who was not asked to hold it does so, and lies. They have the right to, as all here."""
    asked = sim.holders("sums")
    row = next(each for each in asked[0].database.replicas() if each.descriptor)
    intruders = [each for each in sim.live() if each not in asked]
    for node in intruders:
        with sim.network.on_host(node.ip):
            source = Contact(asked[0].key.id, asked[0].ip, PORT)
            await node.running.admission.recruit(Recruit(row.descriptor), source, node.running.keeper.hold)
        lie(node, to(("list",), 666))
    await sim.settle(seconds=180)
    return intruders


async def test_who_hosts_unasked_does_not_vote_and_drives_nobody_out() -> None:
    async with SimulatedPool(24) as sim:
        await sim.publish(Sums, "sums")
        asked = sim.holders("sums")
        assert len(await intrude(sim)) > 2 * len(asked)
        assert set(asked) <= set(sim.holders("sums"))
        for _ in range(5):
            assert await (await sim.client()).send("sums", [1, 2]) == 3


async def test_who_hosts_unasked_takes_no_seat_that_was_left() -> None:
    async with SimulatedPool(24) as sim:
        await sim.publish(Sums, "sums")
        asked = sim.holders("sums")
        liars(sim, 2, 666)
        await intrude(sim)
        sim.kill(asked[-1])
        for _ in range(5):
            with pytest.raises(titan.Unavailable, match="5 holders asked, 4 answered, 2 agreed, 3 of 5 needed"):
                await (await sim.client()).send("sums", [1, 2], timeout=10)


async def test_who_hosts_unasked_votes_where_those_that_were_asked_can_elect_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SimulatedPool(24) as sim:
        await sim.publish(Sums, "sums", policy=EIGHT)
        shown = votes.asked_to
        monkeypatch.setattr(votes, "asked_to", lambda *known: dict(sorted(shown(*known).items(), key=id)[:2]))
        answer = await (await sim.client()).ask("sums", [1, 2])
        assert (answer.value, answer.asked) == (3, 5)


async def test_whom_a_holder_asks_votes_when_the_publishers_choice_has_died() -> None:
    async with SimulatedPool(20) as sim:
        await sim.publish(Sums, "sums")
        first = sim.holders("sums")
        for node in first[:2]:
            sim.kill(node)
        await sim.settle(lambda: len(sim.holders("sums")) >= len(first), within=300)
        heirs = [each for each in sim.holders("sums") if each not in first]
        lines = [row.lineage for each in heirs for row in each.database.replicas() if row.lineage]
        assert len(lines) == len(heirs) and {len(each) for each in lines} == {LINEAGE_BYTES_MAX}
        assert await (await sim.client()).send("sums", [1, 2]) == 3
