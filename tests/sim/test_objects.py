"""Objects by name, on a simulated pool: published, found, called, moved, deleted, kept alive."""

import asyncio
import logging
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.calculator import Add, Calculator, NegativeError, Whence
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.keeping import admission
from titan_overlay.pool.orders import Accepted, Recruit
from titan_overlay.testing.pool import PORT, SimulatedPool

pytestmark = pytest.mark.loops("virtual")


async def test_a_published_service_answers_from_anywhere_at_once() -> None:
    async with SimulatedPool(12) as sim:
        receipt = await sim.publish(Calculator, "calc")
        assert len(receipt.holders) == 3
        for node in sim.nodes:
            assert await sim.pool(node).send("calc", Add(2, 3)) == 5


async def test_the_only_node_of_a_pool_takes_what_it_publishes_itself() -> None:
    async with SimulatedPool(1) as sim:
        node = sim.nodes[0]
        own = sim.pool(node)
        large = bytes(range(256)) * 5000
        name = await own.put(large)
        await own.publish(Calculator, "~me/calc")
        await own.publish(Bank, "bank/main", policy=titan.Policy(faults=0))
        assert await own.send("~me/calc", Add(2, 3)) == 5
        assert await own.send("bank/main", Deposit("ann", 7)) == 7
        away = await sim.client()
        assert await away.get(name) == large
        await sim.restart(node)
        assert await away.get(name) == large
        own = sim.pool(node)
        assert await own.send("~me/calc", Add(2, 3)) == 5
        assert await own.send("bank/main", Deposit("ann", 7)) == 14


SPEAKER = """
import titan_overlay as titan

@titan.service
class Speaker:
    async def speak(self, text: str) -> str:
        return text * {version}
"""


async def test_a_holder_that_publishes_a_new_version_gives_its_code(tmp_path: Path) -> None:
    source = tmp_path / "speaker.py"
    async with SimulatedPool(1) as sim:
        own, away = sim.pool(sim.nodes[0]), await sim.client()
        for version in (1, 2):
            source.write_text(SPEAKER.format(version=version))
            receipt = await own.publish(f"{source}:Speaker", "~me/speaker")
            assert await own.send("~me/speaker", "ha") == "ha" * version
            assert await away.send(receipt.name, "ha") == "ha" * version


async def test_where_others_take_it_the_publisher_does_not() -> None:
    async with SimulatedPool(6) as sim:
        own = sim.pool(sim.nodes[0])
        receipt = await own.put_receipt(b"x" * 1000, policy=titan.Policy(min_copies=4, max_copies=5))
        assert sim.nodes[0].key.id.hex() not in receipt.holders and len(receipt.holders) == 4
        receipt = await own.put_receipt(b"y" * 1000, policy=titan.Policy(min_copies=6, max_copies=8))
        assert sim.nodes[0].key.id.hex() in receipt.holders and len(receipt.holders) == 6


async def test_a_name_that_nobody_published_is_not_found() -> None:
    async with SimulatedPool(8) as sim:
        with pytest.raises(titan.NotFound, match=r"nodes asked") as caught:
            await (await sim.client()).send("nobody/home", "x", timeout=10)
        assert caught.value.asked > 0


async def test_no_object_is_published_under_a_name_that_a_grant_would_take_for_a_pattern() -> None:
    async with SimulatedPool(4) as sim:
        for kind, name in ((Calculator, "weather/*"), (Calculator, "*"), (Calculator, "~me/*"), (Bank, "bank/*")):
            with pytest.raises(titan.BadMessage, match="stands for all names like it"):
                await sim.publish(kind, name)


async def test_a_service_is_never_asked_to_do_once_or_read_what_only_mutable_objects_can() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        away = await sim.client()
        holder = sim.pool(sim.holders("calc")[0])
        for pool in (away, holder):
            for _ in range(3):  # looked up, known, on the beaten path
                with pytest.raises(titan.BadMessage, match="only mutable objects know once"):
                    await pool.send("calc", Add(2, 3), once="rent-11")
                with pytest.raises(titan.BadMessage, match="only mutable objects know once"):
                    await pool.read("calc", Add(2, 3))
                assert await pool.send("calc", Add(2, 3)) == 5
        for asked in (away.group("calc"), away.recover("calc", lambda plan: True)):
            with pytest.raises(titan.BadMessage, match="only mutable objects have members"):
                await asked
        with pytest.raises(titan.BadMessage, match="is a node"):
            await away.send(f"node:{sim.nodes[0].key.id.hex()}", titan.Ping(), once="rent-11")


@titan.service
class Fickle:
    """Begins, and then has no room; or is not the one to ask."""

    async def begin(self, why: str) -> None:
        raise titan.Overloaded("no room", retry_after=0.1) if why == "overloaded" else titan.NotHere("not me")


@pytest.mark.parametrize("why", ["overloaded", "not here"])
async def test_what_may_run_once_is_sent_to_no_other_where_a_handler_had_begun(why: str) -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Fickle, "fickle")
        pool = await sim.client()
        for sent in (1, 2, 3):
            with pytest.raises((titan.Overloaded, titan.NotHere)) as refused:
                await pool.send("fickle", why)
            assert refused.value.maybe_executed  # type: ignore[attr-defined]
            assert sum(node.running.host.counters()["messages"] for node in sim.nodes) == sent


async def test_a_stream_of_replies_arrives_in_order() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client()
        assert [item async for item in pool.stream("calc", 500)] == list(range(500))


async def test_a_stream_that_is_not_read_on_leaves_its_place_also_on_the_node_that_asks() -> None:
    async with SimulatedPool(1) as sim:
        own = sim.pool(sim.nodes[0])
        await own.publish(Calculator, "~me/calc")
        stream = own.stream("~me/calc", 500)
        assert await anext(stream) == 0
        assert (await own.send("~me/calc", titan.Stats())).running == 1
        await stream.aclose()
        async with asyncio.timeout(10):
            while (await own.send("~me/calc", titan.Stats())).running:
                await asyncio.sleep(0.1)


async def test_a_handler_is_told_whose_share_of_the_node_a_message_takes() -> None:
    async with SimulatedPool(4) as sim:
        await sim.publish(Calculator, "calc")
        for holder in sim.holders("calc"):
            assert await sim.pool(holder).send("calc", Whence()) == "", "what is asked on its own machine"
        whence = await (await sim.client()).send("calc", Whence())
        assert whence.startswith("10."), "one address of a private network"


async def test_errors_of_handlers_come_back_as_what_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "titan_overlay.object")  # pytest cannot pass it on
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client()
        with pytest.raises(titan.RemoteError) as plain:
            await pool.send("calc", {})
        assert plain.value.type == "KeyError" and plain.value.correlation
        with pytest.raises(NegativeError) as own:
            await pool.send("calc", {"value": 7})
        assert own.value.value == 7
        with pytest.raises(titan.RemoteError, match=r"^\\ud800$"):
            await pool.send("calc", {"half": 0})
        with pytest.raises(titan.BadMessage, match="str"):
            await pool.send("calc", b"bytes are not among them")
        assert await pool.send("calc", "still alive") == "still alive"


async def test_a_handler_that_takes_too_long_ends_at_the_deadline() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        with pytest.raises(titan.DeadlineExceeded):
            await (await sim.client()).send("calc", 30.0, timeout=2)


async def test_objects_call_each_other_and_see_who_asks() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "one")
        await sim.publish(Calculator, "two")
        pool = await sim.client()
        seen = await pool.send("one", ["two"])
        holders = {each.key.id.hex() for name in ("one", "two") for each in sim.holders(name)}
        assert seen in holders, "the second object is asked by the node of the first, not by the user"
        assert await pool.send("one", []) == sim.user.id.hex()


async def test_a_chain_of_calls_in_a_circle_ends() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "ring")
        with pytest.raises((titan.ReentrantCall, titan.BadMessage)):
            await (await sim.client()).send("ring", ["ring"] * 40)


async def test_a_new_version_replaces_the_old_one_everywhere() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        first = await pool.publish(Calculator, "calc")
        second = await pool.publish(Calculator, "calc", policy=titan.Policy(min_copies=4))
        assert second.version > first.version
        assert {each.version for each in await pool.locate("calc")} == {second.version}
        assert len(sim.holders("calc")) == 4


async def test_a_founder_that_published_when_it_was_alone_is_found_by_those_who_came_later() -> None:
    async with SimulatedPool(1) as sim:
        await sim.publish(Calculator, "calc")
        for _ in range(4):
            await sim.add_node()
        await sim.settle()
        receipt = await sim.publish(Calculator, "calc")
        founder, *others = sim.live()
        assert founder.running.key.id.hex() in receipt.holders
        overlays = [other.running.overlay for other in others]
        calc = names.object_id(overlays[0].pool, "calc")
        wall = founder.running.ambient.wall()
        assert [len(each.directory.get(calc, wall).advertisements) for each in overlays] == [3] * 4


async def test_what_a_founder_published_is_found_while_the_pool_grows_around_it() -> None:
    async with SimulatedPool(1) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=1, max_copies=1))
        for _ in range(30):
            await sim.add_node()
        await asyncio.sleep(60)
        founder, *others = sim.live()
        calc = names.object_id(founder.running.overlay.pool, "calc")
        wall = founder.running.ambient.wall()
        know = sum(bool(each.running.overlay.directory.get(calc, wall).advertisements) for each in others)
        assert know >= 8


async def test_deletion_tells_its_four_outcomes_apart() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        receipt = await pool.publish(Calculator, "calc")
        stranger = await sim.client(user=SigningKey(b"s" * 32))
        stranger._member.grants.clear()
        assert await stranger.delete("calc") == "wrong token"
        assert await stranger.delete("calc", "00" * 16) == "wrong token"
        assert await stranger.delete("nothing/here") == "nothing to delete"
        assert await stranger.delete("calc", receipt.token) == "deleted", "who has the token may delete"
        assert await pool.delete("calc") == "already gone"
        with pytest.raises(titan.Gone):
            await pool.send("calc", "x")
        assert not sim.holders("calc")
        await pool.publish(Calculator, "calc")
        assert await pool.send("calc", "back") == "back"


async def test_data_lives_while_anyone_pins_it() -> None:
    async with SimulatedPool(12) as sim:
        mine, theirs = await sim.client(), await sim.client(user=SigningKey(b"t" * 32))
        name = await mine.put(b"shared bytes")
        assert await theirs.put(b"shared bytes") == name
        assert await mine.delete(name) == "deleted"
        assert await theirs.get(name) == b"shared bytes"
        assert await theirs.delete(name) == "deleted"
        with pytest.raises((titan.NotFound, titan.Gone)):
            await (await sim.client()).get(name)


async def test_data_of_many_chunks_comes_back_whole() -> None:
    async with SimulatedPool(10) as sim:
        content = bytes(range(256)) * 8192
        name = await (await sim.client()).put(content)
        assert await (await sim.client()).get(name) == content


async def test_a_holder_that_dies_is_replaced() -> None:
    async with SimulatedPool(16) as sim:
        await sim.publish(Calculator, "calc")
        await sim.settle()
        for holder in sim.holders("calc")[:2]:
            sim.kill(holder)
        took = await sim.settle(lambda: len(sim.holders("calc")) >= 3, within=180)
        assert took > 0
        assert await (await sim.client()).send("calc", "x") == "x"


async def test_messages_are_answered_while_holders_die() -> None:
    async with SimulatedPool(20) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client()
        await sim.settle()
        for _ in range(5):
            sim.kill(sim.holders("calc")[0])
            for number in range(5):
                assert await pool.send("calc", f"message {number}", timeout=10) == f"message {number}"
            await sim.settle(lambda: len(sim.holders("calc")) >= 3, within=180)


async def test_a_clean_stop_hands_over_before_it_leaves() -> None:
    async with SimulatedPool(12) as sim:
        await sim.publish(Calculator, "calc")
        await sim.settle()
        await sim.stop(sim.holders("calc")[0])
        assert len(sim.holders("calc")) >= 3


async def test_a_moved_object_answers_all_the_time() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc", policy=titan.Policy(min_copies=1, max_copies=1))
        await sim.settle()
        target = next(each for each in sim.live() if each not in sim.holders("calc"))
        stop = asyncio.Event()

        async def ask() -> int:
            answered = 0
            while not stop.is_set():
                assert await pool.send("calc", "x") == "x"
                answered += 1
                await asyncio.sleep(0.05)
            return answered

        asking = asyncio.create_task(ask())
        await asyncio.sleep(1)
        await pool.move("calc", target.name)
        await asyncio.sleep(5)
        stop.set()
        assert await asking > 30
        assert sim.holders("calc") == [target]


async def test_publishing_without_a_grant_names_what_helps() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client(user=SigningKey(b"u" * 32))
        pool._member.grants.clear()
        with pytest.raises(titan.Forbidden, match=r"titan grant .* publish --names"):
            await pool.publish(Calculator, "weather/berlin")
        with pytest.raises(titan.Unavailable, match=r"0 of \d+ nodes accept .*--trust"):
            await pool.publish(Calculator, "~me/berlin")


async def test_nodes_are_objects() -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        pong = await pool.send(sim.nodes[3].name, titan.Ping())
        assert pong.holder == sim.nodes[3].key.id.hex()
        everyone = await pool.census()
        assert [each.id for each in everyone] == sorted(each.key.id.hex() for each in sim.nodes)
        assert await pool.census(["cores>=100000"]) == []
        replies = await pool.multicast([each.name for each in sim.nodes[:3]], titan.Ping())
        assert all(reply.holder == name.removeprefix("node:") for name, reply in replies.items())
        with pytest.raises(titan.NotFound):
            await pool.send(names.node_name(SigningKey(b"n" * 32).id), titan.Ping())


async def test_every_object_answers_questions() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc")
        pool = await sim.client()
        info = await pool.send("calc", titan.Info())
        assert (info.name, info.kind, info.type) == ("calc", "service", "Calculator")
        assert "test.Add" in await pool.send("calc", titan.Schema())
        await pool.send("calc", "x")
        assert (await pool.send("calc", titan.Stats())).messages >= 0


async def test_a_reference_is_sugar_over_send() -> None:
    async with SimulatedPool(6) as sim:
        await sim.publish(Calculator, "calc")
        calculator = (await sim.client()).ref(Calculator, "calc")
        assert await calculator.add(Add(20, 22)) == 42
        with pytest.raises(titan.BadMessage, match=r"takes a test\.Add"):
            await calculator.add("text")  # type: ignore[arg-type]


async def test_a_replica_survives_a_restart_of_its_node() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        name = await pool.put(b"kept through the power cut" * 100)
        holder = sim.holders(name)[0]
        sim.kill(holder)
        await sim.restart(holder)
        assert holder in sim.holders(name)
        assert holder.running.host.get(bytes.fromhex(name.removeprefix("sha256:"))) is not None


async def test_a_replica_that_slept_through_the_deletion_does_not_come_back() -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        receipt = await pool.publish(Calculator, "calc")
        await sim.settle()
        sleeper = sim.holders("calc")[0]
        sim.kill(sleeper)
        assert await pool.delete("calc", receipt.token) == "deleted"
        await sim.settle(seconds=2000)
        await sim.restart(sleeper)
        await sim.settle()
        with pytest.raises(titan.Gone):
            await pool.send("calc", "x")
        assert not sim.holders("calc")


async def test_the_two_sides_of_a_partition_meet_again_with_few_enough_copies() -> None:
    async with SimulatedPool(16) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=3, max_copies=4))
        await sim.settle()
        sim.partition(sim.nodes[:8], sim.nodes[8:])
        await sim.settle(seconds=300)
        assert await sim.pool(0).send("calc", "x") == "x"
        sim.heal()
        await sim.settle(lambda: 3 <= len(sim.holders("calc")) <= 4, within=4000)


async def test_a_grant_to_delete_deletes_what_others_published() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "weather/berlin")
        janitor = SigningKey(b"j" * 32)
        pool = await sim.client(user=janitor, grants=[sim.grant(janitor, Right.DELETE, "weather/*")])
        assert await pool.delete("weather/berlin") == "deleted"
        await sim.publish(Calculator, "traffic/berlin")
        assert await pool.delete("traffic/berlin") == "wrong token"


async def test_only_its_publisher_or_an_administrator_moves_an_object() -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=1, max_copies=1))
        target = next(each for each in sim.live() if each not in sim.holders("calc"))
        admin = SigningKey(b"a" * 32)
        pool = await sim.client(user=admin)
        pool._member.grants.clear()
        with pytest.raises(titan.Forbidden, match="administer"):
            await pool.move("calc", target.name)
        pool._member.grants.append(sim.grant(admin, Right.ADMINISTER, "calc"))
        await pool.move("calc", target.name)
        await sim.settle(lambda: sim.holders("calc") == [target])


async def test_the_pins_of_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PINS_KEPT", 3)
    async with SimulatedPool(3) as sim:
        for number in range(3):
            await (await sim.client(user=SigningKey(bytes([number + 1]) * 32))).put(b"wanted by many")
        with pytest.raises(titan.Unavailable, match="3 publishers want"):
            await (await sim.client(user=SigningKey(b"z" * 32))).put(b"wanted by many")
        again = await sim.client(user=SigningKey(bytes([1]) * 32))
        assert await again.put(b"wanted by many"), "who pins it already may renew"


async def test_locate_says_which_of_the_advertised_holders_do_not_answer() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        assert all(each.answers for each in await pool.locate("calc"))
        dead = sim.kill(sim.holders("calc")[0])
        found = {each.node: each.answers for each in await pool.locate("calc")}
        assert found.pop(dead.key.id.hex()) is False
        assert found and all(found.values())


async def test_publications_in_one_moment_have_an_order() -> None:
    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        receipts = await asyncio.gather(*(pool.publish("echo", "echo") for _ in range(3)))
        assert len({each.version for each in receipts}) == 3
        assert await pool.send("echo", "hello") == "hello"


async def test_what_is_let_go_while_it_is_published_here_is_not_held_after_a_restart() -> None:
    async with SimulatedPool(1) as sim:
        (node,) = sim.nodes
        await sim.pool(node).publish(Calculator, "~me/calc")
        (row,) = node.database.replicas()
        held = node.running.host.kept(row.object_id)
        assert held is not None
        node.running.host.offer(held.descriptor, ServiceRunner(Calculator()))
        await node.running.admission.release(row.object_id)
        assert node.database.replicas() == []


async def test_of_three_who_ask_for_a_replica_at_once_none_takes_it_away_again() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        name = await pool.put(b"kept" * 500_000, policy=titan.Policy(min_copies=2, max_copies=2, cache=False))
        holder, node = sim.holders(name)[0], next(each for each in sim.live() if each not in sim.holders(name))
        descriptor = holder.database.replicas()[0].descriptor
        door, hold = node.running.admission, node.running.keeper.hold
        nobody = Contact(NodeId(bytes(32)), "10.9.9.9", PORT)

        def ask(whom: Contact) -> "asyncio.Task[Accepted]":
            return asyncio.create_task(door.recruit(Recruit(descriptor=descriptor), whom, hold))

        asked: list[asyncio.Task[Accepted]] = []
        with sim.network.on_host(node.ip):
            in_vain, second = ask(nobody), ask(holder.running.overlay.contact)
            in_vain.add_done_callback(lambda _: asked.append(ask(holder.running.overlay.contact)))
            with pytest.raises(titan.Unavailable):
                await in_vain
            await asyncio.gather(second, *asked)
        assert node in sim.holders(name)


async def test_a_node_with_many_replicas_is_back_soon_after_a_night() -> None:
    async with SimulatedPool(12) as sim:
        pool, node = await sim.client(), sim.nodes[3]
        only_there = titan.Policy(min_copies=1, max_copies=1, cache=False, requires={"node": node.key.id.hex()})
        put = [await pool.put(b"%d" % number, policy=only_there) for number in range(60)]
        sim.kill(node)
        await sim.settle(seconds=8 * 3600)
        began = sim.now
        await sim.restart(node)
        assert sim.now - began < 10, "not one look-up after the other"
        assert [await pool.get(name) for name in put] == [b"%d" % number for number in range(60)]
