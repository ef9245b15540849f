"""Quorums that are lost for good."""

from collections.abc import Callable

import pytest

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.test_mutable import balance, group, leader_of
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable.code import LacksCode
from titan_overlay.mutable.engine import Entry, EntryKind
from titan_overlay.mutable.recovery import Recovery, RecoveryPlan
from titan_overlay.mutable.requests import Request
from titan_overlay.mutable.status import status_of
from titan_overlay.mutable.talk import GIVEN_UP
from titan_overlay.pool.message import encode_message
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

NAME = "bank/main"
CRASHES, LIARS = titan.Policy(faults=1), titan.Policy(faults=1, byzantine=True)


def yes(plan: RecoveryPlan) -> bool:
    return True


@pytest.mark.parametrize(("policy", "kill"), [(CRASHES, 2), (LIARS, 2)], ids=["raft", "bft"])
async def test_the_owner_has_it_go_on_and_it_grows_again(policy: titan.Policy, kill: int) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=policy)
        for turn in range(1, 5):
            assert await pool.send(NAME, Deposit("rent", 1)) == 1000 + turn
        await sim.settle(seconds=2)
        members = sim.holders(NAME)
        dead = [sim.kill(node) for node in members[:kill]]
        await sim.settle(seconds=20)
        shown: list[RecoveryPlan] = []
        assert await pool.recover(NAME, lambda plan: bool(shown.append(plan))) == 0, "not confirmed, not done"
        assert set(shown[0].lost) == {node.key.id.hex() for node in dead}
        assert "WILL BE LOST" in shown[0].says
        epoch = await pool.recover(NAME, yes)
        assert epoch > 1
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1005
        await sim.settle(lambda: len(group(members[-1], NAME).configuration.members) == len(members), within=120)
        await sim.settle(seconds=5)
        health = await pool.group(NAME)
        assert (health.health, len(health.members)) == ("well", len(members))
        for node in dead:
            await sim.restart(node)
        await sim.settle(seconds=30)
        given_up = {node for node in dead if node in sim.holders(NAME) and not group(node, NAME).is_member}
        assert not given_up, "who was given up has given its place up, or was asked anew"
        keys = f"log/keys/{group(members[-1], NAME).machine.object_id.hex()}"
        gone = [node for node in dead if node not in sim.holders(NAME)]
        assert not [node for node in gone if await node.disk.size(keys) is not None], "nobody votes with its keys again"
        assert await (await sim.client()).send(NAME, Deposit("rent", 1), timeout=30) == 1006
        await sim.settle(seconds=2)
        named = {each.node for each in (await pool.group(NAME)).members}
        assert {balance(node, NAME) for node in sim.holders(NAME) if node.key.id.hex() in named} == {1006}


def part(sim: SimulatedPool, *sides: list[SimulatedNode]) -> Callable[[], None]:
    """Members on different sides tell each other nothing, until what this gives is called."""
    peers = {node: group(node, NAME).peers for side in sides for node in side}
    posts = {node: each.post for node, each in peers.items()}

    def only_to(side: list[SimulatedNode], post: Callable[[bytes, str, bytes], None]) -> Callable[..., None]:
        near = {node.key.id for node in side}
        return lambda member, type, body: post(member, type, body) if member in near else None

    for side in sides:
        for node in side:
            peers[node].post = only_to(side, posts[node])  # type: ignore[method-assign]

    def heal() -> None:
        for node, each in peers.items():
            each.post = posts[node]  # type: ignore[method-assign]

    return heal


def order(node: SimulatedNode, once: str) -> None:
    """A member that leads, or thinks so, is asked for something, and nobody waits for the answer."""
    type, body = encode_message(Deposit("rent", 100))
    group(node, NAME).front.propose([Request(b"s" * 32, 0, 0, 0, once, type, body)])


@pytest.mark.parametrize(("elected", "left"), [(True, 1010), (False, 1000 + 6 * 100)], ids=["a later term", "longer"])
async def test_of_tails_that_differ_the_one_counts_that_may_have_been_acknowledged(elected: bool, left: int) -> None:
    """Two of five are left. The tail of an old leader gives way to what a later one has acknowledged, however long."""
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=titan.Policy(faults=2))
        await sim.settle(seconds=2)
        old = leader_of(sim, NAME)
        behind, *others = (node for node in sim.holders(NAME) if node is not old)
        heal = part(sim, [old, behind], others)
        for once in "abcdef":
            order(old, once)
            await sim.settle(seconds=0.1)
        if elected:
            await sim.settle(lambda: any(group(node, NAME).leads for node in others), within=30)
            assert await pool.send(NAME, Deposit("rent", 10), timeout=30) == 1010
        last = {node: group(node, NAME).engine.status() for node in (behind, others[-1])}
        assert last[behind].last > last[others[-1]].last, "the tail to be dropped, or kept, is the longer one"
        for node in (old, *others[:-1]):
            sim.kill(node)
        heal()
        await sim.settle(seconds=8)
        await pool.recover(NAME, yes)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == left + 1
        await sim.settle(lambda: {balance(behind, NAME), balance(others[-1], NAME)} == {left + 1}, within=10)


async def test_a_member_that_may_lie_and_was_behind_is_recovered_with_the_others() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=LIARS)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        behind, *others = sorted(sim.holders(NAME), key=lambda node: group(node, NAME).leads)
        heal = part(sim, [behind], others)
        for turn in range(2, 5):
            assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1000 + turn
        assert balance(behind, NAME) == 1001
        for node in others[:2]:
            sim.kill(node)
        await sim.settle(seconds=8)
        with pytest.raises(titan.Unavailable, match="nothing has been given up"):
            await pool.recover(NAME, yes)
        heal()
        await pool.recover(NAME, yes)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1005
        await sim.settle(lambda: {balance(behind, NAME), balance(others[2], NAME)} == {1005}, within=10)


async def test_where_there_is_a_quorum_nobody_recovers_anything() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        with pytest.raises(titan.Conflict, match="nothing to recover"):
            await pool.recover(NAME, yes)
        sim.kill(sim.holders(NAME)[0])
        with pytest.raises(titan.Conflict, match="nothing to recover"):
            await pool.recover(NAME, yes)


async def test_only_the_owner_recovers() -> None:
    async with SimulatedPool(6) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME)
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        for node in sim.holders(NAME)[:2]:
            sim.kill(node)
        await sim.settle(seconds=8)
        with pytest.raises(titan.Forbidden, match="only that key may recover it"):
            await pool.recover(NAME, yes, key=SigningKey(b"k" * 32))
        (left,) = sim.holders(NAME)
        assert not group(left, NAME).trouble
        with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
            await pool.send(NAME, Deposit("rent", 1), timeout=3)


@pytest.mark.parametrize(("policy", "left"), [(titan.Policy(faults=2), 2), (LIARS, 2)], ids=["raft", "bft"])
async def test_who_has_stopped_does_not_go_on_after_a_restart(
    policy: titan.Policy, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is cut off half-way. Lost members come back, and would be a quorum with those that have said where
    they stand: what it ordered then would be lost when the owner finishes.
    """
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=policy)
        for turn in range(1, 5):
            assert await pool.send(NAME, Deposit("rent", 1)) == 1000 + turn
        await sim.settle(seconds=2)
        stopped, lost = sim.holders(NAME)[:left], sim.holders(NAME)[left:]
        for node in lost:
            sim.kill(node)
        await sim.settle(seconds=8)

        async def cut_off(*_: object) -> None:
            raise titan.Unavailable("cut off")

        begin = Recovery._begin
        monkeypatch.setattr(Recovery, "_begin", cut_off)
        with pytest.raises(titan.Unavailable, match="cut off"):
            await pool.recover(NAME, yes)
        monkeypatch.setattr(Recovery, "_begin", begin)
        for node in stopped:
            sim.kill(node)
            await sim.restart(node)
        await sim.restart(lost[0])
        await sim.settle(seconds=15)
        assert {status_of(group(node, NAME)).role for node in stopped} == {GIVEN_UP}
        assert {balance(node, NAME) for node in stopped} == {1004}
        with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
            await pool.send(NAME, Deposit("rent", 1), timeout=5)
        await pool.recover(NAME, yes)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1005
        await sim.settle(lambda: {balance(node, NAME) for node in (*stopped, lost[0])} == {1005}, within=30)


async def test_who_cannot_execute_what_is_left_says_so_and_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=titan.Policy(faults=2))
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        await sim.settle(seconds=2)
        unfit, *_ = left = [node for node in sim.holders(NAME) if not group(node, NAME).leads][:2]
        for node in sim.holders(NAME):
            if node not in left:
                sim.kill(node)
        machine, engine = group(unfit, NAME).machine, group(unfit, NAME).engine

        def lacks(entry: object) -> None:
            raise LacksCode("there is no such bundle")

        monkeypatch.setattr(machine, "execute", lacks)
        monkeypatch.setattr(engine, "remains", lambda: [Entry(machine.height + 1, 1, EntryKind.COMMANDS, b"")])
        await sim.settle(seconds=8)
        with pytest.raises(titan.Unavailable, match="cannot run the object's present code"):
            await pool.recover(NAME, yes)
        assert "no such bundle" in group(unfit, NAME).trouble
        await pool.recover(NAME, yes)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1002


async def test_who_has_executed_what_is_left_by_half_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again it would go on behind the entry, as if it had executed it, and have the longest log."""
    async with SimulatedPool(8) as sim:
        pool = await sim.client()
        await pool.publish(Bank, NAME, policy=titan.Policy(faults=2))
        assert await pool.send(NAME, Deposit("rent", 1)) == 1001
        await sim.settle(seconds=2)
        broken, other = left = [node for node in sim.holders(NAME) if not group(node, NAME).leads][:2]
        for node in sim.holders(NAME):
            if node not in left:
                sim.kill(node)
        machine, engine = group(broken, NAME).machine, group(broken, NAME).engine
        end = machine.height + 1

        def by_half(entry: Entry) -> None:
            machine.height = entry.index
            raise RuntimeError("it is not deterministic")

        monkeypatch.setattr(machine, "execute", by_half)
        monkeypatch.setattr(engine, "remains", lambda: [Entry(end, 1, EntryKind.COMMANDS, b"")])
        await sim.settle(seconds=8)
        with pytest.raises(titan.Unavailable, match=f"cannot execute entry {end}"):
            await pool.recover(NAME, yes)
        monkeypatch.undo()
        shown: list[RecoveryPlan] = []
        await pool.recover(NAME, lambda plan: not shown.append(plan))
        assert shown[0].left == (other.key.id.hex(),)
        assert await pool.send(NAME, Deposit("rent", 1), timeout=30) == 1002
