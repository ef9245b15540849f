"""Mutable objects in a whole pool: strict consistency from anywhere, whoever dies."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import msgspec
import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit, Ledger, Order, Pay, Withdraw
from titan_overlay import node as node_room
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable import drive, letters, machine, states
from titan_overlay.mutable.demand import JUDGED
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.letters import Seal
from titan_overlay.mutable.log import SEGMENTS_KEPT, LogSettings
from titan_overlay.mutable.requests import REQUEST_BYTES_MAX
from titan_overlay.mutable.runner import GroupRunner
from titan_overlay.pool.message import encode_message
from titan_overlay.pool.orders import Recruit
from titan_overlay.testing.pool import PORT, SimulatedNode, SimulatedPool
from titan_overlay.wire import codec
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

pytestmark = pytest.mark.loops("virtual")


def group(node: SimulatedNode, name: str) -> Group:
    """A node's part in the group."""
    resident = node.running.host.get(names.object_id(node.running.overlay.pool, name))
    assert resident is not None
    assert isinstance(resident.runner, GroupRunner)
    return resident.runner.group


def leader_of(sim: SimulatedPool, name: str) -> SimulatedNode:
    return next(node for node in sim.holders(name) if group(node, name).leads)


def balance(node: SimulatedNode, name: str) -> int:
    return int(group(node, name).machine.instance.balances["rent"])


async def test_a_message_is_executed_once_and_read_from_anywhere() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        receipt = await pool.publish(Bank, "bank/main")
        assert len(receipt.holders) == 3
        assert await pool.send("bank/main", Withdraw("rent", 300)) == 700
        other = await sim.client()
        assert await other.send("bank/main", Withdraw("rent", 100)) == 600
        for node in sim.nodes:
            assert await sim.pool(node).send("bank/main", "rent") == 600
            assert await sim.pool(node).read("bank/main", "rent") == 600


async def test_a_batch_of_messages_is_one_place_in_the_order() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        messages = [Withdraw("rent", 300), Withdraw("rent", 3000), "rent", Deposit("food", 5)]
        left, failed, seen, food = await pool.send_batch("bank/main", messages, once="monday")
        assert (left, seen, food) == (700, 700, 5)
        assert isinstance(failed, titan.RemoteError) and "no money" in str(failed)
        again = await pool.send_batch("bank/main", messages, once="monday")
        assert [again[0], again[3]] == [700, 5]
        changes = [change async for change in islice(pool.watch("bank/main", start=1), 3)]
        assert len({change.height for change in changes}) == 1
        with pytest.raises(titan.BadMessage, match="4096"):
            await pool.send_batch("bank/main", ["rent"] * 5000)


async def islice(items: AsyncGenerator[titan.Change, None], count: int) -> AsyncGenerator[titan.Change, None]:
    async with aclosing(items):
        async for item in items:
            yield item
            count -= 1
            if not count:
                return


@pytest.mark.parametrize("byzantine", [False, True], ids=["believed", "may lie"])
async def test_a_message_that_members_could_not_send_each_other_is_refused(byzantine: bool) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=titan.Policy(faults=1, byzantine=byzantine))
        for beyond in (200, 180, 100, 50):  # which still fits into the frame that brings it, or nearly
            with pytest.raises(titan.BadMessage, match="put it as data"):
                await pool.send("bank/main", Deposit("x" * (MAX_PAYLOAD_BYTES - beyond), 1))
        for account in ("largest" + "x" * (REQUEST_BYTES_MAX - 1000), "rent"):
            assert await pool.send("bank/main", Deposit(account, 7)) in (7, 1007)
        local = sim.pool(leader_of(sim, "bank/main"))  # there is no link on the way
        with pytest.raises(titan.BadMessage, match="put it as data"):
            await local.send("bank/main", Deposit("x" * (MAX_PAYLOAD_BYTES - 500), 1))
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1008


@pytest.mark.parametrize("letter", ["k", "\u20ac"])
async def test_a_key_counts_with_its_bytes(letter: str) -> None:
    key = letter * ((REQUEST_BYTES_MAX + 8_000) // len(letter.encode()))
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        with pytest.raises(titan.BadMessage, match="put it as data"):
            await pool.send("bank/main", Deposit("rent", 1), once=key, timeout=10)
        assert await pool.send("bank/main", Deposit("rent", 1), timeout=10) == 1001


@pytest.mark.parametrize("lost", [False, True], ids=["sent one by one", "some lost"])
async def test_large_messages_that_come_together_are_executed_by_all(
    lost: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if lost:
        monkeypatch.setattr(drive, "STEP_BYTES_MAX", 1 << 30)
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        follower = next(node for node in sim.holders("bank/main") if not group(node, "bank/main").leads)
        sizes = ([250_000] * 3 + [900_000]) * 3
        for turn in range(2):
            if turn:
                sim.kill(follower)
            deposits = [Deposit(f"{at}{'x' * size}", 1) for at, size in enumerate(sizes)]
            sendings = (pool.send("bank/main", each, timeout=60) for each in deposits)
            assert await asyncio.gather(*sendings) == [turn + 1] * len(sizes)
        await sim.restart(follower)
        await sim.settle(seconds=8)
        assert len({group(node, "bank/main").machine.root() for node in sim.holders("bank/main")}) == 1
        assert lost == ("in one frame" in caplog.text)


async def test_messages_that_are_large_together_are_not_too_much_for_the_log() -> None:
    """Between two states that members agree on there may be more than a disk is given at once."""
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=titan.Policy(faults=1, byzantine=True))
        members = sim.holders("bank/main")
        logs = [group(node, "bank/main")._drive._wal._log for node in members]  # type: ignore[attr-defined]
        for log in logs:
            log.settings = msgspec.structs.replace(log.settings, waiting_bytes_max=1 << 20, segment_bytes=1 << 20)
        for turn in range(1, 290):
            assert await pool.send("bank/main", Deposit("x" * 10_000, 1)) == turn
        await sim.settle(seconds=2)
        assert not [log.failed for log in logs if log.failed]
        assert all(log.segments < 4 for log in logs), "what a state has in it goes from the log"


@pytest.mark.parametrize("byzantine", [False, True], ids=["raft", "bft"])
@pytest.mark.parametrize("leads", [False, True], ids=["a follower's", "the leader's"])
async def test_a_disk_that_stands_still_for_a_while_ends_no_member(byzantine: bool, leads: bool) -> None:
    """The others go on without it, and what they order must not pile up before it."""
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=titan.Policy(faults=1, byzantine=byzantine))
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        slow = next(node for node in sim.holders("bank/main") if group(node, "bank/main").leads == leads)
        log = group(slow, "bank/main")._drive._wal._log  # type: ignore[attr-defined]
        log.settings = msgspec.structs.replace(log.settings, waiting_bytes_max=1 << 20)
        slow.disk.sync_seconds = 20.0
        for turn in range(30):
            assert await pool.send("bank/main", Deposit(f"{turn}{'x' * 100_000}", 1), timeout=300) == 1
        slow.disk.sync_seconds = 0.0
        assert not log.failed
        await sim.settle(seconds=60)
        assert len({group(node, "bank/main").machine.root() for node in sim.holders("bank/main")}) == 1


async def test_a_handler_that_raises_is_an_error_and_changes_nothing() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        with pytest.raises(titan.RemoteError, match="no money"):
            await pool.send("bank/main", Withdraw("rent", 3000))
        assert await pool.read("bank/main", "rent") == 1000


async def test_the_member_by_way_of_which_nearly_all_requests_come_leads_before_long() -> None:
    async with SimulatedPool(5) as sim:
        away = await sim.client()
        await away.publish(Bank, "bank/main")
        await away.send("bank/main", Deposit("ann", 1))
        first = leader_of(sim, "bank/main")
        for _ in range(JUDGED):
            await away.send("bank/main", Deposit("ann", 1))
        assert leader_of(sim, "bank/main") is first, "whoever is no member has the same way to each"
        door = next(node for node in sim.holders("bank/main") if node is not first)
        for _ in range(2 * JUDGED):
            await sim.pool(door).send("bank/main", Deposit("ann", 1))
        assert leader_of(sim, "bank/main") is door
        assert await away.read("bank/main", "ann") == 3 * JUDGED + 1
        for _ in range(JUDGED // 4):  # two that take turns leave it where it is
            for node in (first, door) * 2:
                await sim.pool(node).send("bank/main", Deposit("ann", 1))
        assert leader_of(sim, "bank/main") is door


async def test_the_leader_dies_and_nothing_is_lost_or_done_twice() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        expected = 1000
        for turn in range(12):
            if turn == 4:
                leader = leader_of(sim, "bank/main")
                sim.kill(leader)
            expected -= 10
            assert await pool.send("bank/main", Withdraw("rent", 10)) == expected
        await sim.restart(leader)
        await sim.settle(seconds=10)
        assert await pool.read("bank/main", "rent") == expected
        assert all(balance(node, "bank/main") == expected for node in sim.holders("bank/main"))


async def test_all_members_lose_power_and_come_back() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        for turn in range(5):
            await pool.send("bank/main", Withdraw("rent", 10), once=f"turn-{turn}")
        members = sim.holders("bank/main")
        for node in members:
            sim.kill(node)
        with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
            await pool.send("bank/main", Withdraw("rent", 10), timeout=3)
        for node in members:
            await sim.restart(node)
        assert await pool.send("bank/main", Withdraw("rent", 10), once="turn-4", timeout=30) == 950
        assert await pool.read("bank/main", "rent") == 950


async def test_members_that_have_come_to_different_states_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "SNAPSHOT_LOG_BYTES", 0)
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        odd = sim.holders("bank/main")[0]
        for differ in (False, True):
            group(odd, "bank/main").machine.instance.balances["rent"] += differ
            for _ in range(40):
                await pool.send("bank/main", Withdraw("rent", 1))
            await sim.settle(seconds=2)
            health = await pool.group("bank/main")
            assert (health.health == "diverged") is differ
        assert odd.key.id.hex()[:12] in health.says


async def test_a_group_says_how_its_members_are() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        for _ in range(4):
            await pool.send("bank/main", Withdraw("rent", 10))
        await sim.settle(seconds=2)
        health = await pool.group("bank/main")
        leader = leader_of(sim, "bank/main")
        assert (health.health, health.epoch, health.quorum, health.present) == ("well", 1, 2, 3)
        assert health.leader == leader.key.id.hex()
        assert {each.node for each in health.members} == {node.key.id.hex() for node in sim.holders("bank/main")}
        assert {(each.executed, each.lag) for each in health.members} == {(health.committed, 0)}
        dead, other = (node for node in sim.holders("bank/main") if node is not leader)
        sim.kill(dead)
        health = await pool.group("bank/main")
        assert health.health == "degraded"
        assert [each.node for each in health.members if each.role == "silent"] == [dead.key.id.hex()]
        sim.kill(other)
        await sim.settle(seconds=5)
        health = await pool.group("bank/main")
        assert (health.health, health.present) == ("unavailable", 1)
        with pytest.raises(titan.BadMessage, match="only mutable objects"):
            await pool.group(await pool.put(b"data"))


async def test_what_is_sent_later_arrives_exactly_once() -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one")
        await pool.publish(Bank, "bank/two")
        for _ in range(5):
            await pool.send("bank/one", Pay("bank/two", "rent", 100))
        await pool.send("bank/one", Pay("bank/two", "rent", 10**10))  # which that one does not like
        sim.kill(leader_of(sim, "bank/one"))
        await sim.settle(seconds=20)
        assert await pool.read("bank/one", "rent") == 500 - 10**10
        assert await pool.read("bank/two", "rent") == 1500
        assert not group(leader_of(sim, "bank/one"), "bank/one").machine.outbox, "what came to nothing has come, too"


@pytest.mark.parametrize("byzantine", [False, True], ids=["believed", "may lie"])
async def test_a_letter_for_whose_effects_there_is_no_room_comes_again(
    byzantine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "OUTBOX_MAX", 1)
    policy = titan.Policy(faults=1, byzantine=byzantine)
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        for name in ("bank/a", "bank/b"):
            await pool.publish(Bank, name, policy=policy)
        await pool.send("bank/b", Pay("bank/late", "rent", 1))
        await pool.send("bank/a", Order("bank/b", Pay("bank/late", "rent", 100)))
        await sim.settle(seconds=20)
        assert await pool.read("bank/b", "rent") == 999, "its outbox is full"
        await pool.publish(Bank, "bank/late", policy=policy)
        for name in ("bank/a", "bank/b"):
            await sim.settle(lambda name=name: not group(sim.holders(name)[0], name).machine.outbox, within=120)
        assert await pool.read("bank/b", "rent") == 899
        assert await pool.read("bank/late", "rent") == 1101


@pytest.mark.parametrize("byzantine", [False, True], ids=["believed", "may lie"])
async def test_what_is_sent_to_an_object_that_was_deleted_leaves_the_outbox(byzantine: bool) -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one", policy=titan.Policy(faults=1, byzantine=byzantine))
        await pool.publish(Bank, "bank/two")
        await pool.send("bank/one", Pay("bank/two", "rent", 100))
        await sim.settle(seconds=5)
        await pool.delete("bank/two")
        await pool.send("bank/one", Pay("bank/two", "rent", 100))
        await pool.send("bank/one", Pay("bank/never", "rent", 100))
        await sim.settle(seconds=15)
        outbox = group(leader_of(sim, "bank/one"), "bank/one").machine.outbox
        assert [each.name for each in outbox.values()] == ["bank/two", "bank/never"], "it might be published anew"
        await sim.settle(seconds=400)
        for node in sim.holders("bank/one"):
            left = group(node, "bank/one").machine.outbox
            assert [each.name for each in left.values()] == ["bank/never"], "which may be there some day"


@pytest.mark.parametrize("byzantine", [False, True], ids=["believed", "may lie"])
async def test_nobody_makes_up_what_an_object_sends(byzantine: bool) -> None:
    """Not a stranger with the descriptor and the chain of epochs, which anybody can have, and a key of its own."""
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one")
        await pool.publish(Bank, "bank/two", policy=titan.Policy(faults=1, byzantine=byzantine))
        member, object_id = group(sim.holders("bank/one")[0], "bank/one"), names.object_id(sim.id, "bank/one")
        liar = next(each for each in sim.live() if each not in sim.holders("bank/one"))
        type, body = encode_message(Deposit("rent", 10**9))
        place = await liar.running.router.places.find(object_id, deadline=sim.loop.time() + 5)
        said = letters.covered(sim.id, 1, letters.letter(object_id, 1, type, body), names.object_id(sim.id, "bank/two"))
        forged = Seal(place.descriptor.raw, codec.encode(member.succession.chain), ((member.me, liar.key.sign(said)),))
        for seal in (codec.encode(forged), codec.encode(None)):
            with pytest.raises(titan.Forbidden):
                await liar.running.router.call(
                    "bank/two", type, body, deadline=sim.loop.time() + 5, origin=(object_id, 1, seal)
                )
        assert await pool.read("bank/two", "rent") == 1000


async def test_a_scheduled_message_comes_at_its_agreed_time() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one")
        await pool.publish(Bank, "bank/two")
        await pool.send("bank/one", Pay("bank/two", "rent", 100, after=60.0))
        await sim.settle(seconds=50)
        assert await pool.read("bank/one", "rent") == 1000
        await sim.settle(seconds=20)
        assert await pool.read("bank/one", "rent") == 900
        assert await pool.read("bank/two", "rent") == 1100


async def test_who_watches_sees_every_change_once_whichever_member_dies() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        seen: list[titan.Change] = []

        async def watch() -> None:
            async for change in pool.watch("bank/main", start=1):
                seen.append(change)

        watching = asyncio.create_task(watch())
        other = await sim.client()
        for turn in range(10):
            if turn == 5:
                sim.kill(leader_of(sim, "bank/main"))
            await other.send("bank/main", Deposit("rent", 1))
        await sim.settle(seconds=60)  # a link to a peer that lost power is given up after two probes
        watching.cancel()
        assert [change.number for change in seen] == list(range(1, 11))


async def test_who_watches_what_is_to_come_misses_nothing_when_the_first_member_dies_before_it_comes() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        other = await sim.client()
        await other.send("bank/main", Deposit("rent", 1))
        seen: list[titan.Change] = []

        async def watch() -> None:
            async for change in pool.watch("bank/main"):
                seen.append(change)

        watching = asyncio.create_task(watch())
        await sim.settle()
        sim.kill(next(node for node in sim.holders("bank/main") if group(node, "bank/main").feed._waiting))
        for _ in range(5):
            await other.send("bank/main", Deposit("rent", 1), timeout=60)
        await sim.settle(seconds=60)
        watching.cancel()
        assert [change.number for change in seen] == [2, 3, 4, 5, 6]


async def test_the_only_member_watches_itself() -> None:
    async with SimulatedPool(1) as sim:
        client = await sim.client()
        await client.publish(Bank, "bank/main", policy=titan.Policy(faults=0))
        await client.send("bank/main", Deposit("rent", 1))
        changes = sim.pool(sim.nodes[0]).watch("bank/main", start=1)
        async with asyncio.timeout(60):
            assert [each.number async for each in islice(changes, 1)] == [1]


async def test_a_pool_with_too_few_hosts_says_how_many_are_needed() -> None:
    async with SimulatedPool(2) as sim:
        pool = await sim.client()
        with pytest.raises(titan.Unavailable, match="needs 3 members"):
            await pool.publish(Bank, "bank/main")


async def test_one_copy_works_alone() -> None:
    async with SimulatedPool(1) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=titan.Policy(faults=0))
        assert await pool.send("bank/main", Withdraw("rent", 300)) == 700
        assert await sim.pool(sim.nodes[0]).read("bank/main", "rent") == 700


async def test_members_vote_with_new_keys_in_a_new_epoch_and_the_old_ones_are_erased() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        assert await pool.send("bank/main", Withdraw("rent", 10)) == 990
        first, other, dead = (node.key.id for node in sorted(sim.holders("bank/main"), key=lambda node: node.key.id))
        before = group(sim.holders("bank/main")[0], "bank/main").configuration
        sim.kill(next(node for node in sim.nodes if node.key.id == dead))
        await sim.settle(seconds=45)
        members = sim.holders("bank/main")
        after = group(members[0], "bank/main").configuration
        assert after.epoch == 2
        assert not set(before.keys) & set(after.keys)
        for node in members:
            path = f"log/keys/{group(node, 'bank/main').machine.object_id.hex()}"
            secrets = codec.decode(await node.disk.read(path), list[bytes])
            assert [SigningKey(each).public in after.keys for each in secrets] == [True]
        assert {first, other} < set(after.members)


async def test_a_node_that_nobody_has_learn_any_more_gives_the_object_up() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        assert await pool.send("bank/main", Withdraw("rent", 10)) == 990
        leader, members = leader_of(sim, "bank/main"), sim.holders("bank/main")
        there = await pool._router.places.find(
            names.object_id(sim.id, "bank/main"), name="bank/main", deadline=sim.now + 5
        )
        other = next(node for node in sim.nodes if node not in members)
        contact = other.running.overlay.contact
        await leader.running.recruiter.recruit(there.descriptor, count=1, only=contact)
        assert other in sim.holders("bank/main")
        await sim.settle(lambda: sim.holders("bank/main") == members, within=120)
        assert await pool.send("bank/main", Withdraw("rent", 10)) == 980


async def test_a_name_that_is_published_again_begins_anew() -> None:
    async with SimulatedPool(5) as sim:
        pool = await sim.client()
        receipt = await pool.publish(Bank, "bank/main")
        assert await pool.send("bank/main", Withdraw("rent", 10)) == 990
        await pool.delete("bank/main", receipt.token)
        await sim.settle(seconds=30)
        await pool.publish(Bank, "bank/main")
        assert await pool.send("bank/main", Withdraw("rent", 1)) == 999


async def test_a_member_that_dies_is_replaced_and_then_another() -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        expected = 1000
        dead = []
        for _ in range(3):
            for _ in range(5):
                expected -= 10
                assert await pool.send("bank/main", Withdraw("rent", 10)) == expected
            dead.append(sim.kill(sim.holders("bank/main")[0]))
            await sim.settle(seconds=45)
            members = sim.holders("bank/main")
            assert len(members) == 3
            assert {balance(node, "bank/main") for node in members} == {expected}
        epochs = {group(node, "bank/main").configuration.epoch for node in sim.holders("bank/main")}
        assert epochs == {4}
        for node in dead:
            await sim.restart(node)
        await sim.settle(seconds=30)
        assert len(sim.holders("bank/main")) == 3, "who was replaced has given it up"
        assert await (await sim.client()).send("bank/main", Withdraw("rent", 10)) == expected - 10


async def test_what_keeps_a_member_from_being_replaced_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with SimulatedPool(4) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        await pool.send("bank/main", Withdraw("rent", 10))
        for node in sim.nodes.copy():
            if node not in sim.holders("bank/main"):
                sim.kill(node)
        leader = leader_of(sim, "bank/main")
        sim.kill(next(node for node in sim.holders("bank/main") if node is not leader))
        await sim.settle(seconds=90)
        assert len(re.findall("takes no part and is being replaced", caplog.text)) == 1
        assert 1 <= len(re.findall("no member more yet", caplog.text)) <= 3  # for each reason


async def test_an_object_whose_state_cannot_be_kept_goes_on_with_the_members_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states, "SNAPSHOT_LOG_BYTES", 0)
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Ledger, "ledger/main")
        slow = next(node for node in sim.holders("ledger/main") if not group(node, "ledger/main").leads)
        sim.kill(slow)
        assert [await pool.send("ledger/main", f"{n}") for n in range(1, 21)] == list(range(1, 21))
        await sim.restart(slow)  # and is told of them all at once
        await sim.settle(seconds=10)
        members = sim.holders("ledger/main")
        lines = [f"{n}" for n in range(1, 21)]
        assert [group(node, "ledger/main").machine.instance.lines for node in members] == [lines] * 3
        sim.kill(slow)
        await sim.settle(seconds=45)
        assert await pool.send("ledger/main", "21") == 21, "no epoch has ended that could not be followed by another"
        assert await pool.read("ledger/main", True) == "21"


async def test_a_membership_that_comes_to_nothing_leaves_no_keys_behind() -> None:
    async with SimulatedPool(6) as sim:
        await (await sim.client()).publish("cache", "cache/main")
        node = next(each for each in sim.live() if each not in sim.holders("cache/main"))
        descriptor = sim.holders("cache/main")[0].database.replicas()[0].descriptor
        nobody = Contact(NodeId(bytes(32)), "10.9.9.9", PORT)
        node.running.may_host(descriptor)
        with sim.network.on_host(node.ip), pytest.raises(titan.TitanError, match="who the members are"):
            await node.running.admission.recruit(Recruit(descriptor=descriptor), nobody, node.running.keeper.hold)
        assert not node.running.voting_keys._open
        assert await node.disk.list("log/keys/") == []


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_of_a_group_that_a_node_has_left_nothing_stays_on_its_disk(how: str) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        await pool.send("bank/main", Deposit("rent", 1))
        left = sim.holders("bank/main")
        if how == "deleted":
            assert await pool.delete("bank/main") == "deleted"
        else:
            left = [node for node in left if not group(node, "bank/main").leads][:1]
            group(left[0], "bank/main").resign("a test says so")
        await sim.settle(lambda: not set(left) & set(sim.holders("bank/main")), within=120)
        await sim.settle()
        for node in left:
            assert await node.disk.list("groups/") == await node.disk.list("log/keys/") == []
            assert node.running.groups_log.groups() == [], "no segment of the log is kept for its sake"
        if how == "replaced":
            assert await pool.send("bank/main", Deposit("rent", 1)) == 1002


async def test_a_member_that_is_let_go_while_the_group_counts_on_it_keeps_what_it_has_on_disk() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main")
        await pool.send("bank/main", Deposit("rent", 1))
        node = next(each for each in sim.holders("bank/main") if not group(each, "bank/main").leads)
        await node.running.keeper.let_go(group(node, "bank/main").machine.object_id)
        assert node not in sim.holders("bank/main")
        assert await node.disk.list("groups/") and await node.disk.list("log/keys/")
        assert node.running.groups_log.groups()


async def test_a_group_that_is_never_used_keeps_nothing_of_what_others_have_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_room, "LogSettings", partial(LogSettings, segment_bytes=16 << 10))
    monkeypatch.setattr(states, "SNAPSHOT_LOG_BYTES", 32 << 10)
    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/quiet")
        await pool.send("bank/quiet", Deposit("rent", 1))
        await pool.publish(Bank, "bank/busy")
        for _ in range(300):
            await pool.send("bank/busy", Deposit("x" * 1000, 1))
        await sim.settle()
        assert all(each.running.groups_log.segments <= SEGMENTS_KEPT + 4 for each in sim.nodes)
        for each in sim.nodes:
            await sim.restart(each)
        await sim.settle()
        for name, account, money in (("bank/quiet", "rent", 1001), ("bank/busy", "x" * 1000, 300)):
            assert await (await sim.client()).read(name, account, timeout=60) == money
