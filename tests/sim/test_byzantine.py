"""Mutable objects whose members may lie."""

import asyncio
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit, Pay, Withdraw
from tests.sim.test_mutable import balance, group, leader_of
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.links import Links
from titan_overlay.mutable import proofs, talk
from titan_overlay.mutable.authenticators import CODE_BYTES
from titan_overlay.mutable.expected import QUEUE_SECONDS
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.intake import WAITING_BYTES_MAX
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.requests import VOUCHED_MAX, Reply, Request
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.places import Place, Places
from titan_overlay.pool.message import encode_message
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool
from titan_overlay.wire import codec

pytestmark = pytest.mark.loops("virtual")

LIARS, CRASHES = titan.Policy(faults=1, byzantine=True), titan.Policy(faults=1)
SENDER = SigningKey(b"s" * 32)


def lie(node: SimulatedNode, name: str) -> None:
    """From now on it says that everybody is rich."""
    machine = group(node, name).machine
    execute = machine.execute

    def lying(entry: object) -> Executed:
        done = execute(entry)  # type: ignore[arg-type]
        done.replies = [Reply(codec.encode(10**9)) for _ in done.replies]
        return done

    machine.execute = lying  # type: ignore[method-assign]


async def test_a_group_of_four_orders_and_executes_once() -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        receipt = await pool.publish(Bank, "bank/main", policy=LIARS)
        assert len(receipt.holders) == 4
        assert await pool.send("bank/main", Withdraw("rent", 300)) == 700
        assert await pool.send("bank/main", Withdraw("rent", 100), once="rent-11") == 600
        assert await pool.send("bank/main", Withdraw("rent", 100), once="rent-11") == 600
        assert await (await sim.client()).read("bank/main", "rent") == 600
        with pytest.raises(titan.RemoteError, match="no money"):
            await pool.send("bank/main", Withdraw("rent", 3000))
        await sim.settle(seconds=5)
        assert {balance(node, "bank/main") for node in sim.holders("bank/main")} == {600}


async def test_the_leader_alone_is_told_and_others_vouch_for_what_it_says() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        for node in sim.holders("bank/main"):
            group(node, "bank/main").front.submit = None  # type: ignore[assignment,method-assign]
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1002
        assert await pool.read("bank/main", "rent") == 1002


async def test_wrong_codes_of_the_fastest_member_make_nobody_ask_all() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        members = [group(node, "bank/main") for node in sim.holders("bank/main")]
        liar, *others = (each for each in members if not each.leads)
        liar.front.intake._vouching._code = lambda request, reply: bytes(CODE_BYTES)  # type: ignore[attr-defined]
        for each in others:
            vouch_late(each)
        for each in members:
            each.front.submit = None  # type: ignore[assignment,method-assign]
        for turn in range(2, 12):
            assert await pool.send("bank/main", Deposit("rent", 1)) == 1000 + turn


async def test_a_newcomer_whose_look_up_shows_one_member_finds_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        members = [group(node, "bank/main") for node in sim.holders("bank/main")]
        leader = next(each for each in members if each.leads)
        for each in members:
            each.front.submit = None  # type: ignore[assignment,method-assign]
        newcomer = await sim.client()
        find, peer_of = Places.find, Links.peer_of
        strangers = {leader.me}

        async def find_one(self: Places, *args: Any, **options: Any) -> Place:
            place = await find(self, *args, **options)
            if options.get("fresh"):
                strangers.clear()
                return place
            others = [each for each in place.holders if each.signer not in strangers]
            return Place(place.descriptor, others[:1], place.learned)

        monkeypatch.setattr(Places, "find", find_one)
        monkeypatch.setattr(Links, "peer_of", lambda self, id: None if id in strangers else peer_of(self, id))
        assert await newcomer.send("bank/main", Deposit("rent", 1)) == 1002
        assert leader.leads


def vouch_late(slow: Group) -> None:
    """From now on others are faster."""
    post = slow.peers.post

    def late(member: bytes, type: str, body: bytes) -> None:
        slow.loop.call_later(0.5 if type == talk.VOUCH else 0.0, post, member, type, body)

    slow.peers.post = late  # type: ignore[method-assign]


async def test_large_requests_do_not_stall_a_group() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        sendings = (pool.send("bank/main", Deposit(str(each) + "x" * 200_000, 1)) for each in range(8))
        assert len(await asyncio.gather(*sendings)) == 8


async def test_the_bytes_that_wait_at_a_member_are_bounded() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        members = [group(node, "bank/main") for node in sim.holders("bank/main")]
        member = next(each for each in members if not each.leads)
        sender, body = bytes(32), bytes(WAITING_BYTES_MAX // 4)
        waiting = [
            member.front.submit(Request(sender, 0, 0, 0, str(each), "Deposit", body), sender) for each in range(4)
        ]
        with pytest.raises(titan.Overloaded, match="4 messages wait for 'bank/main'"):
            member.front.submit(Request(sender, 0, 0, 0, "5", "Deposit", body), sender)
        assert all(each.cancel() for each in waiting)


async def test_who_gives_up_waiting_leaves_others_that_wait_for_the_same() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        leader = group(leader_of(sim, "bank/main"), "bank/main")
        request = signed_by_itself(leader, "twice")
        told = [leader.front.submit(request, SENDER.public) for _ in range(2)]
        body = codec.encode(request)
        entrusted = [leader.front.told(talk.ENTRUST, body, Sender(NodeId(bytes(32)), bytes(32))) for _ in range(2)]
        for waiting in (told, entrusted):
            assert isinstance(waiting[0], asyncio.Future) and waiting[0].cancel()
        assert codec.decode(await told[1], Reply) == Reply(codec.encode(1002))
        assert isinstance(entrusted[1], asyncio.Future) and not entrusted[1].cancelled()


def signed_by_itself(member: Group, key: str) -> Request:
    """Of a sender who tells members by hand."""
    type, body = encode_message(Deposit("rent", 1))
    charter = member.succession._charter
    return proofs.sign(Request(b"", 0, 0, 0, key, type, body), SENDER, charter.pool, charter.object_id)


async def test_a_queue_that_is_too_long_to_wait_in_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        for node in sim.holders("bank/main"):  # nothing is ordered any more
            monkeypatch.setattr(group(node, "bank/main").front, "propose", lambda *_: None)
        leader = group(leader_of(sim, "bank/main"), "bank/main")
        type, body = encode_message(Deposit("rent", 1))
        for each in range(VOUCHED_MAX + 1):
            request = proofs.sign(
                Request(b"", 0, 0, 0, str(each), type, body), SENDER, sim.id, leader.machine.object_id
            )
            leader.front.submit(request, SENDER.public)
        await sim.settle(seconds=QUEUE_SECONDS + 0.1)
        with pytest.raises(titan.Overloaded, match="513 messages wait"):
            leader.front.submit(msgspec.structs.replace(request, once="one more"), SENDER.public)


async def test_who_finds_members_with_too_much_to_do_is_told_so_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()

        def busy(*_: object) -> None:
            raise titan.Overloaded("513 messages wait", retry_after=0.5)

        for name, policy in (("bank/liars", LIARS), ("bank/crashes", CRASHES)):
            await pool.publish(Bank, name, policy=policy)
            assert await pool.send(name, Deposit("rent", 1)) == 1001
            for node in sim.holders(name):
                monkeypatch.setattr(group(node, name).front.intake, "_expect" if policy is LIARS else "add", busy)
            with pytest.raises(titan.Overloaded, match="messages wait"):
                await pool.send(name, Deposit("rent", 1), timeout=5)


@pytest.mark.parametrize("leads", [True, False])
async def test_the_word_of_one_liar_is_not_believed(leads: bool) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 0)) == 1000
        members = sim.holders("bank/main")
        lie(next(node for node in members if group(node, "bank/main").leads == leads), "bank/main")
        for turn in range(1, 6):
            assert await pool.send("bank/main", Deposit("rent", 1)) == 1000 + turn


async def test_a_leader_that_dies_stalls_nobody_for_long_and_is_replaced() -> None:
    async with SimulatedPool(9) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        sim.kill(leader_of(sim, "bank/main"))
        for turn in range(2, 6):
            assert await pool.send("bank/main", Deposit("rent", 1), timeout=30) == 1000 + turn
        await sim.settle(seconds=60)
        members = sim.holders("bank/main")
        assert len(members) == 4
        assert {balance(node, "bank/main") for node in members} == {1005}
        assert await pool.send("bank/main", Deposit("rent", 1), timeout=30) == 1006


@pytest.mark.parametrize("seed", [5, 7])
async def test_all_members_lose_power_and_nothing_acknowledged_is_lost(seed: int) -> None:
    async with SimulatedPool(8, seed=seed) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        for turn in range(1, 6):
            assert await pool.send("bank/main", Deposit("rent", 1)) == 1000 + turn
        members = sim.holders("bank/main")
        for node in members:
            sim.kill(node)
        for node in members:
            await sim.restart(node)
        assert await pool.send("bank/main", Deposit("rent", 1), timeout=60) == 1006


async def test_a_sender_who_signs_falsely_is_refused_and_costs_no_leader_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SimulatedPool(6) as sim:
        pool, other = await sim.client(), await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        members = sim.holders("bank/main")
        before = {group(node, "bank/main").engine.status().term for node in members}
        honest = proofs.sign
        monkeypatch.setattr(proofs, "sign", lambda *args: msgspec.structs.replace(honest(*args), proof=bytes(64)))
        with pytest.raises(titan.Forbidden, match="signed by its sender"):
            await other.send("bank/main", Deposit("rent", 1), once="false")
        await sim.settle(seconds=10)
        monkeypatch.setattr(proofs, "sign", honest)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1002
        assert {group(node, "bank/main").engine.status().term for node in members} == before


@pytest.mark.parametrize("told", [1, 3])
async def test_a_sender_who_tells_all_but_the_leader_costs_it_no_place(told: int) -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        members = [group(node, "bank/main") for node in sim.holders("bank/main")]
        before = [(each.engine.status().term, each.engine.status().role) for each in members]
        for turn in range(2):
            request = signed_by_itself(members[0], str(turn))
            for each in [each for each in members if not each.leads][:told]:
                each.front.submit(request, SENDER.public)
            await sim.settle(seconds=5)
        assert await pool.read("bank/main", "rent") == 1003
        assert [(each.engine.status().term, each.engine.status().role) for each in members] == before


async def test_a_leader_that_tells_no_time_is_replaced_once_a_timer_is_late() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=LIARS)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        liar = leader_of(sim, "bank/main")
        group(liar, "bank/main").alarm._ring = lambda: None  # type: ignore[method-assign]
        await pool.send("bank/main", Pay("", "rent", 100, after=2.0))
        await sim.settle(seconds=30)
        assert {balance(node, "bank/main") for node in sim.holders("bank/main")} == {901}
        assert leader_of(sim, "bank/main") is not liar


@pytest.mark.parametrize(
    ("one", "two"), [(LIARS, CRASHES), (CRASHES, LIARS), (LIARS, LIARS)], ids=["from", "to", "between"]
)
async def test_what_is_sent_later_arrives_exactly_once(one: titan.Policy, two: titan.Policy) -> None:
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one", policy=one)
        await pool.publish(Bank, "bank/two", policy=two)
        for _ in range(4):
            await pool.send("bank/one", Pay("bank/two", "rent", 100))
        sim.kill(leader_of(sim, "bank/one"))
        await pool.send("bank/one", Pay("bank/two", "rent", 100), timeout=30)
        await sim.settle(seconds=20)
        assert await pool.read("bank/one", "rent") == 500
        assert await pool.read("bank/two", "rent") == 1500
        assert not any(group(node, "bank/one").machine.outbox for node in sim.holders("bank/one"))


async def test_a_liar_loses_nothing_of_an_outbox_and_holds_nothing_back() -> None:
    """The leader says of all that it has arrived, and brings nothing."""
    async with SimulatedPool(10) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one", policy=LIARS)
        await pool.publish(Bank, "bank/two")
        assert await pool.send("bank/one", Deposit("rent", 0)) == 1000
        liar = group(leader_of(sim, "bank/one"), "bank/one")

        async def arrived(*_: object) -> None:
            return

        liar.outbox._deliver = arrived
        for _ in range(3):
            await pool.send("bank/one", Pay("bank/two", "rent", 100))
        await sim.settle(seconds=10)
        assert await pool.read("bank/two", "rent") == 1300
        assert not liar.machine.outbox


async def test_an_outbox_is_emptied_after_all_members_lost_power() -> None:
    async with SimulatedPool(9) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/one", policy=LIARS)
        await pool.send("bank/one", Pay("bank/two", "rent", 100))  # which is not there yet
        members = [sim.kill(node) for node in sim.holders("bank/one")]
        for node in members:
            await sim.restart(node)
        await pool.publish(Bank, "bank/two")
        await sim.settle(seconds=40)
        assert await pool.read("bank/two", "rent") == 1100
        assert not any(group(node, "bank/one").machine.outbox for node in members)
