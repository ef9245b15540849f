"""Full disks and clocks that jump: nothing acknowledged is lost, and it heals by itself."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

import titan_overlay as titan
from tests.sim.bank import Bank, Deposit
from tests.sim.calculator import Calculator
from tests.sim.test_mutable import balance, group
from titan_overlay.ambient import Ambient
from titan_overlay.errors import StorageError
from titan_overlay.identity.ids import ObjectId
from titan_overlay.storage.rows import MemoryDatabase, ReplicaRow
from titan_overlay.testing.pool import SimulatedNode, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

SLOW = pytest.mark.slow

HOUR = 3600.0
ONE = titan.Policy(min_copies=1, max_copies=1, cache=False)


# --- a full disk ----------------------------------------------------------------------------------------------


class FullDatabase(MemoryDatabase):
    """A database on a disk that fills up when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False

    def _write(self) -> None:
        self.read_only = self.full
        if self.full:
            raise StorageError("no room for node.db: the disk is full")

    def put_replica(self, row: ReplicaRow) -> None:
        self._write()
        super().put_replica(row)

    def drop_replica(self, object_id: ObjectId) -> None:
        self._write()
        super().drop_replica(object_id)

    def put_pin(self, object_id: ObjectId, publisher: bytes, raw: bytes) -> None:
        self._write()
        super().put_pin(object_id, publisher, raw)

    def put_tombstone(self, object_id: ObjectId, raw: bytes, expires: float) -> None:
        self._write()
        super().put_tombstone(object_id, raw, expires)

    def put_peers(self, rows: Any) -> None:
        self._write()
        super().put_peers(rows)


def fill(node: SimulatedNode, full: bool = True) -> None:
    """No more room on this machine, or room again."""
    database = node.database
    assert isinstance(database, FullDatabase)
    database.full = full
    node.disk.capacity = node.disk.used if full else 1 << 40


def only_on(node: SimulatedNode) -> titan.Policy:
    return titan.Policy(min_copies=1, max_copies=1, cache=False, requires={"node": node.key.id.hex()})


def full_pool() -> SimulatedPool:
    return SimulatedPool(8, database=lambda number: FullDatabase())


async def test_a_node_with_a_full_disk_serves_what_it_holds_and_takes_nothing_new(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "titan")
    async with full_pool() as sim:
        pool = await sim.client()
        node = sim.nodes[3]
        name = await pool.put(b"kept" * 100_000, policy=only_on(node))
        await pool.publish(Calculator, "calc", policy=only_on(node))
        fill(node)
        await sim.settle(seconds=3 * HOUR)  # many times the life of an advertisement
        reader = await sim.client()
        assert await reader.get(name) == b"kept" * 100_000
        assert await reader.send("calc", "still there") == "still there"
        for attempt in (
            pool.put(b"new" * 100_000, policy=only_on(node)),
            pool.put(b"small", policy=only_on(node)),
            pool.publish(Calculator, "another", policy=only_on(node)),
        ):
            with pytest.raises(titan.Unavailable, match=r"read-only|no room"):
                await attempt
        info = await pool.describe(node.name)
        assert isinstance(info, titan.NodeInfo)
        assert info.reason and not info.hosting
        assert "read-only from now on, what is here stays and is served" in caplog.text
        assert not [record for record in caplog.records if record.exc_info], "nothing was unforeseen"


async def test_it_takes_replicas_again_once_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "titan")
    async with full_pool() as sim:
        pool, node = await sim.client(), sim.nodes[3]
        database = node.database
        assert isinstance(database, FullDatabase)
        database.full = True
        for _ in range(2):
            with pytest.raises(titan.Unavailable, match="read-only"):
                await pool.put(b"some bytes" * 1000, policy=only_on(node))
        assert node.running.blobs.used() == 0, "what could not be kept takes no room"
        database.full = False
        await sim.settle(seconds=120)
        name = await pool.put(b"some bytes" * 1000, policy=only_on(node))
        assert await pool.get(name) == b"some bytes" * 1000
        info = await pool.describe(node.name)
        assert isinstance(info, titan.NodeInfo)
        assert (info.reason, info.hosting) == ("", True)
        assert caplog.text.count("read-only from now on") == caplog.text.count("no longer read-only") == 1


async def write_much(pool: titan.Pool) -> None:
    """More than the room by which the log is ahead of what is written to it."""
    for turn in range(9):
        await pool.send("bank/main", Deposit(str(turn) * 500_000, 1), timeout=20)


@pytest.mark.parametrize("byzantine", [False, True], ids=["raft", "bft"])
async def test_members_whose_disk_was_full_take_part_again_once_there_is_room(byzantine: bool) -> None:
    policy = titan.Policy(faults=1, byzantine=byzantine)
    async with SimulatedPool(4 if byzantine else 3) as sim:
        pool = await sim.client()
        await pool.publish(Bank, "bank/main", policy=policy)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1001
        members = sim.holders("bank/main")
        for node in members[:2]:
            node.disk.capacity = node.disk.used
        with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
            await write_much(pool)
        await sim.settle(seconds=120)
        for node in members[:2]:
            info = await pool.describe(node.name)
            assert isinstance(info, titan.NodeInfo)
            assert "the disk is full" in info.reason
            node.disk.capacity = 1 << 40
        await sim.settle(seconds=60)
        assert all(not group(node, "bank/main").is_absent for node in members)
        assert await pool.send("bank/main", Deposit("rent", 1)) == 1002
        await sim.settle(seconds=5)
        assert {balance(node, "bank/main") for node in members} == {1002}
        assert [node.running.groupless for node in members] == [""] * len(members)


async def test_what_a_full_disk_holds_is_there_after_a_restart() -> None:
    async with full_pool() as sim:
        pool, node = await sim.client(), sim.nodes[3]
        name = await pool.put(b"kept" * 100_000, policy=only_on(node))
        fill(node)
        with pytest.raises(titan.Unavailable):
            await pool.put(b"new" * 100_000, policy=only_on(node))
        await sim.settle(seconds=HOUR)
        sim.kill(node)
        await sim.restart(node)
        assert await (await sim.client()).get(name) == b"kept" * 100_000


async def test_others_stand_in_for_a_node_that_cannot_take_a_replica() -> None:
    async with full_pool() as sim:
        for node in sim.nodes[:4]:
            fill(node)
        receipt = await sim.publish(Calculator, "calc")
        assert len(receipt.holders) == 3
        assert not {each.number for each in sim.holders("calc")} & {0, 1, 2, 3}


async def test_a_node_with_a_full_disk_stops_cleanly() -> None:
    async with full_pool() as sim:
        await sim.publish(Calculator, "calc", policy=titan.Policy(min_copies=2))
        await sim.settle()
        node = sim.holders("calc")[0]
        fill(node)
        await sim.stop(node)
        assert node not in sim.holders("calc")
        assert await (await sim.client()).send("calc", "x") == "x"
        assert len([each for each in sim.holders("calc") if each.alive]) >= 2


async def test_a_deletion_that_cannot_be_written_is_not_reported_as_done() -> None:
    async with full_pool() as sim:
        pool, node = await sim.client(), sim.nodes[3]
        receipt = await pool.publish(Calculator, "calc", policy=only_on(node))
        fill(node)
        with pytest.raises(titan.Unavailable, match="nothing was deleted"):
            await pool.delete("calc", receipt.token)
        assert await pool.send("calc", "still there") == "still there"
        fill(node, full=False)
        assert await pool.delete("calc", receipt.token) == "deleted"


# --- power cuts -----------------------------------------------------------------------------------------------


async def test_what_ends_on_a_full_disk_makes_room() -> None:
    async with full_pool() as sim:
        pool, node = await sim.client(), sim.nodes[3]
        await pool.put(b"ends" * 100_000, policy=structs.replace(only_on(node), ttl=HOUR))
        assert isinstance(node.database, FullDatabase)
        node.database.full = True
        await sim.settle(seconds=2 * HOUR)
        assert node.running.blobs.used() == 0
        node.database.full = False
        await sim.restart(node)
        await sim.settle()
        assert node.database.replicas() == []


async def test_content_whose_row_was_never_written_takes_no_room_after_a_restart() -> None:
    async with SimulatedPool(6) as sim:
        pool, node = await sim.client(), sim.nodes[3]
        kept = await pool.put(b"kept" * 1000, policy=only_on(node))
        await pool.publish(Calculator, "calc", policy=only_on(node))
        used = node.running.blobs.used()
        await node.running.blobs.import_file(b"orphan" * 100_000)  # and then the power went
        sim.kill(node)
        await sim.restart(node)
        assert node.running.blobs.used() == used
        reader = await sim.client()
        assert await reader.get(kept) == b"kept" * 1000
        assert await reader.send("calc", "still there") == "still there"


async def test_content_that_a_damaged_database_has_forgotten_is_left_alone() -> None:
    async with SimulatedPool(6) as sim:
        pool, node = await sim.client(), sim.nodes[3]
        await pool.put(b"kept" * 1000, policy=only_on(node))
        used = node.running.blobs.used()
        sim.kill(node)
        node.database = MemoryDatabase()
        node.database.notices.append("it was damaged")
        for _ in range(2):
            await sim.restart(node)
            await (await sim.client()).publish(Calculator, f"calc/{sim.now}", policy=only_on(node))
            assert node.running.blobs.used() >= used
            node.database.notices.clear()


# --- clocks ---------------------------------------------------------------------------------------------------

Jump = Callable[[str, float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """`jump("node/3", seconds)`: the wall clock of a machine (or "" for all) is off by so much from now on."""
    offsets: dict[str, float] = {}
    seeded = Ambient.seeded

    def jumping(seed: int | str, loop: Any) -> Ambient:
        made = seeded(seed, loop)
        who = "/".join(str(seed).split("/")[1:3])
        return dataclasses.replace(made, wall=lambda: made.wall() + offsets.get(who, offsets.get("", 0.0)))

    monkeypatch.setattr(Ambient, "seeded", jumping)
    return offsets.__setitem__


@pytest.mark.parametrize("hours", [6, pytest.param(-6, marks=SLOW), pytest.param(-400_000, marks=SLOW)])
async def test_one_clock_that_jumps_disturbs_nobody_and_heals_when_it_is_right_again(jump: Jump, hours: int) -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        name = await pool.put(b"some bytes" * 1000)
        await sim.settle(seconds=120)
        node = sim.holders("calc")[0]
        jump(f"node/{node.number}", hours * HOUR)
        for _ in range(8):
            await sim.settle(seconds=300)
            reader = await sim.client()
            assert await reader.send("calc", "x") == "x"
            assert await reader.get(name) == b"some bytes" * 1000
        jump(f"node/{node.number}", 0.0)
        await sim.settle(seconds=2 * HOUR)
        for held in ("calc", name):
            assert 3 <= len(sim.holders(held)) <= 8
        assert await sim.pool(node).send("calc", "x") == "x"
        found = await (await sim.client()).locate("calc")
        assert {each.node for each in found} == {each.key.id.hex() for each in sim.holders("calc")}


@pytest.mark.parametrize("hours", [pytest.param(6, marks=SLOW), -6])
async def test_all_clocks_that_jump_together_lose_nothing(jump: Jump, hours: int) -> None:
    async with SimulatedPool(12) as sim:
        pool = await sim.client()
        await pool.publish(Calculator, "calc")
        name = await pool.put(b"some bytes" * 1000)
        await sim.settle(seconds=120)
        jump("", hours * HOUR)
        await sim.settle(seconds=30 * 60)
        reader = await sim.client()
        assert await reader.send("calc", "x") == "x"
        assert await reader.get(name) == b"some bytes" * 1000
        await sim.settle(seconds=2 * HOUR)
        for held in ("calc", name):
            assert 3 <= len(sim.holders(held)) <= 8


async def test_a_machine_that_wakes_up_in_1970_forgets_none_of_its_replicas(jump: Jump) -> None:
    async with SimulatedPool(8) as sim:
        pool, node = await sim.client(), sim.nodes[3]
        name = await pool.put(b"kept" * 1000, policy=only_on(node))
        await pool.publish(Calculator, "calc", policy=only_on(node))
        sim.kill(node)
        jump("node/3", -1_700_000_000.0)
        await sim.restart(node)
        await sim.settle(seconds=HOUR)
        sim.kill(node)
        jump("node/3", 0.0)
        await sim.restart(node)
        reader = await sim.client()
        assert await reader.get(name) == b"kept" * 1000
        assert await reader.send("calc", "back") == "back"


@pytest.mark.parametrize(("hours", "says"), [(6, "check the clocks"), (-6, "a newer one .* is the clock")])
async def test_a_publisher_whose_clock_is_wrong_is_told_so(jump: Jump, hours: int, says: str) -> None:
    async with SimulatedPool(8) as sim:
        await sim.publish(Calculator, "calc")
        jump("client/1", hours * HOUR)
        pool = await sim.client()
        with pytest.raises((titan.Unavailable, titan.Conflict), match=says):
            await pool.publish(Calculator, "calc")
        assert await (await sim.client()).send("calc", "x") == "x"
        if hours > 0:
            with pytest.raises(titan.Unavailable, match=says):
                await pool.publish(Calculator, "another")


async def test_a_machine_that_was_asleep_is_found_again_soon_after_it_wakes(jump: Jump) -> None:
    async with SimulatedPool(8) as sim:
        node = sim.nodes[3]
        await (await sim.client()).publish(Calculator, "calc", policy=only_on(node))
        await sim.settle(seconds=120)
        jump("", 8 * HOUR)  # the clock on the wall went on, and the loop of a machine that sleeps does not
        await sim.settle(seconds=120)
        assert await (await sim.client()).send("calc", "x") == "x"


async def test_a_program_that_was_asleep_for_weeks_speaks_for_its_user_again(jump: Jump) -> None:
    async with SimulatedPool(8) as sim:
        private = titan.Policy(callers="granted")
        await sim.publish(Calculator, "calc", policy=private)
        pool = await sim.client()
        assert await pool.send("calc", "x") == "x"
        jump("", 40 * 24 * HOUR)
        await sim.settle(seconds=120)
        assert await pool.send("calc", "x") == "x"
