"""The write-ahead log: what it said is durable is there after any crash, and nothing else is."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from titan_overlay import testing
from titan_overlay.ambient import Ambient, Random
from titan_overlay.errors import StorageError
from titan_overlay.mutable.log import SEGMENTS_KEPT, Log, LogSettings
from titan_overlay.mutable.log_format import (
    Act,
    Damage,
    Identity,
    Scan,
    Written,
    encode_batch,
    encode_header,
)
from titan_overlay.mutable.members import GroupLog, GroupLogs
from titan_overlay.storage.disk import RealDisk
from titan_overlay.testing import MemoryDisk

NODE, OTHER = b"\x01" * 32, b"\x02" * 32
A, B = b"a" * 32, b"b" * 32
SMALL = LogSettings(segment_bytes=300, piece_bytes=150)


def ambient(seed: int = 1) -> Ambient:
    entropy = Random(seed)
    return Ambient(lambda: 0.0, entropy, entropy.randbytes)


async def opened(disk, settings: LogSettings = SMALL, node: bytes = NODE) -> Log:
    return await Log.open(disk, node, ambient(), settings)


async def contents(disk) -> dict[bytes, list[bytes]]:
    log = await opened(disk)
    return {group: log.take(group) for group in log.groups()}


def test_what_was_written_is_there_in_order_when_the_log_is_opened_again():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"1"])
        await log.replace(B, [b"x"])
        for record in (b"2", b"3", b"4"):
            await log.write(A, [record, record])
        identity = log.identity
        await log.close()
        again = await opened(disk)
        assert again.identity == identity
        assert again.groups() == [A, B]
        assert again.take(A) == [b"1", b"2", b"2", b"3", b"3", b"4", b"4"]
        assert again.take(B) == [b"x"]
        assert again.take(B) == []

    testing.run(main)


def test_one_fsync_serves_all_that_wait():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk, LogSettings())
        await log.replace(A, [])
        before = disk.syncs
        futures = [log.write(A, [b"%d" % number]) for number in range(100)]
        for future in futures:
            await future
        assert disk.syncs - before <= 2

    testing.run(main)


def test_a_write_without_records_waits_for_those_before_it():
    async def main():
        disk = MemoryDisk(sync_seconds=1.0)
        log = await opened(disk)
        await log.replace(A, [b"1"])
        first, empty = log.write(A, [b"2"]), log.write(A, [])
        await empty
        assert first.done()
        syncs = disk.syncs
        await log.write(A, [])
        assert disk.syncs == syncs

    testing.run(main)


def test_a_group_begins_by_saying_all_that_it_needs():
    async def main():
        log = await opened(MemoryDisk())
        with pytest.raises(ValueError, match="begins with"):
            log.write(A, [b"1"])

    testing.run(main)


def test_segments_that_no_group_needs_are_removed():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"a" * 50])
        await log.replace(B, [b"b" * 50])
        for _ in range(20):
            await log.write(A, [b"more" * 20])
        assert log.segments > 5
        assert log.holding_back() == [A, B]
        await log.replace(A, [b"anew"])
        assert log.holding_back() == [B]
        await log.drop(B)
        await log.close()
        assert log.segments == 1
        assert len(await disk.list("log/0")) == 1
        assert await contents(disk) == {A: [b"anew"]}

    testing.run(main)


def test_what_a_group_says_anew_goes_in_pieces_and_nobody_waits_for_all_of_it():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk, LogSettings(segment_bytes=300, piece_bytes=100))
        records = [b"%d" % number * 50 for number in range(20)]
        await log.replace(A, [])
        await log.replace(B, [])
        for record in records:
            await log.write(A, [record])
        whole = log.replace(A, records)
        for number in range(2):
            await log.write(A, [b"later"])
            await log.write(B, [b"%d" % number])
        assert not whole.done() and log.segments > 5
        await whole
        for _ in range(10):
            await log.write(A, [b"last"])
        await log.drop(B)
        await log.close()
        assert len(await disk.list("log/0")) == log.segments < 20  # those before it began are gone
        assert await contents(disk) == {A: [*records, *[b"later"] * 2, *[b"last"] * 10]}

    testing.run(main)


def test_what_a_group_says_anew_does_not_count_before_it_is_complete():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"old"])
        log.replace(A, [b"x" * 80] * 30)
        await log.write(A, [b"new"])
        assert await contents(disk.power_loss(Random(1))) == {A: [b"old", b"new"]}

    testing.run(main)


def test_who_waits_for_what_was_given_up_is_told_when_what_came_after_is_durable():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"old"])
        given_up = log.replace(A, [b"x" * 80] * 30)
        await log.write(A, [b"new"])
        log.replace(A, [b"y" * 80] * 4)
        await given_up
        assert await contents(disk.power_loss(Random(1))) == {A: [b"y" * 80] * 4}

    testing.run(main)


def test_a_log_that_fails_says_so_to_who_waits_for_all_of_it():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk, LogSettings(piece_bytes=100))
        await log.replace(A, [b"1"])
        whole = log.replace(A, [b"x" * 80] * 30)
        await log.write(A, [b"2"])
        disk.on_operation = broken
        with pytest.raises(StorageError, match="broken"):
            await whole

    def broken(operation: str, path: str) -> None:
        raise StorageError("the disk is broken")

    testing.run(main)


def test_groups_that_hold_old_segments_back_are_called_to_order():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"a" * 50])
        await log.replace(B, [b"b" * 50])
        await log.close()
        log = await opened(disk)
        assert log.take(B) == [b"b" * 50]
        log.on_held_back = lambda group: log.replace(group, [b"anew"])
        busy = b"c" * 32
        await log.replace(busy, [])
        for _ in range(50):
            await log.replace(busy, [b"all"])
            await log.write(busy, [b"more" * 20])
        await log.close()
        assert log.segments <= SEGMENTS_KEPT + 2
        assert await contents(disk) == {A: [b"a" * 50], B: [b"anew"], busy: [b"all", b"more" * 20]}

    testing.run(main)


@pytest.mark.parametrize("size", [150, 280, 300, 900])
@pytest.mark.parametrize("many", [1, 9])
@pytest.mark.parametrize("each", [10, 100, 700])
def test_writing_groups_anew_comes_to_its_end_whatever_their_sizes(size: int, many: int, each: int):
    """Where each fills a segment, where together they fill more than are to be kept, and where others write much."""

    async def main():
        settings = LogSettings(segment_bytes=300, piece_bytes=30)
        disk = MemoryDisk()
        log = await opened(disk, settings)
        sleeping = {b"%032d" % number: [b"x" * 10] * (size // 10) for number in range(2 * many)}
        for group, records in sleeping.items():
            await log.replace(group, [])
            await log.write(group, records)
        await log.close()
        log = await opened(disk, settings)
        taken = list(sleeping)[::2]
        for group in taken:
            log.take(group)
        log.on_held_back = lambda group: log.replace(group, sleeping[group]) if group in taken else None
        await log.replace(A, [])
        segments = []
        for number in range(1200):
            await (log.write(A, [b"y" * each]) if number % 20 else log.replace(A, [b"new"]))
            segments.append(log.segments)
        async with asyncio.timeout(30):
            await log.close()  # it comes to rest
        assert max(segments[800:]) <= max(segments[400:800]) + 2, "there is no end to it"
        assert await contents(disk) == {**sleeping, A: [b"new", *[b"y" * each] * 19]}

    testing.run(main)


def test_sleeping_groups_are_called_to_order_also_where_each_run_is_short():
    async def main():
        disk, segments = MemoryDisk(), []
        log = await opened(disk)
        await log.replace(A, [b"a" * 20])
        await log.replace(B, [])
        for _ in range(60):
            await log.close()
            log = await opened(disk)
            log.take(B)
            await log.replace(B, [])
            await log.write(B, [b"b" * 150])  # half a segment
            segments.append(log.segments)
        await log.close()
        assert max(segments) <= SEGMENTS_KEPT + 2
        assert await contents(disk) == {A: [b"a" * 20], B: [b"b" * 150]}

    testing.run(main)


def test_sleeping_groups_that_are_too_many_for_the_queue_are_written_anew_by_and_by():
    async def main():
        settings = LogSettings(segment_bytes=3000, piece_bytes=300, waiting_bytes_max=3000)
        disk = MemoryDisk()
        log = await opened(disk, settings)
        sleeping = {b"%032d" % number: [b"a" * 200] for number in range(30)}
        for group in sleeping:
            await log.replace(group, [])
        for group, records in sleeping.items():
            await log.write(group, records)
        await log.replace(B, [])
        await log.close()
        log = await opened(disk, settings)
        log.take(B)
        assert len(log.holding_back()) * 200 > settings.waiting_bytes_max, "as many begin in one segment"
        segments = []
        for number in range(1200):
            await (log.write(B, [b"b" * 200]) if number % 20 else log.replace(B, [b"new"]))
            segments.append(log.segments)
        await log.close()
        assert max(segments[800:]) <= max(segments[400:800]) + 2, "there is no end to it"
        assert await contents(disk) == {**sleeping, B: [b"new", *[b"b" * 200] * 19]}

    testing.run(main)


def test_a_group_that_is_dropped_as_a_segment_begins_is_gone():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"a" * 20])
        await log.replace(B, [])
        await log.close()
        log = await opened(disk)
        log.take(B)
        while log.segments <= SEGMENTS_KEPT or log._offset < SMALL.segment_bytes:
            await log.write(B, [b"b" * 150])
        await log.drop(A)
        assert list(await contents(disk)) == [B]

    testing.run(main)


def test_groups_that_are_discarded_before_they_are_on_the_disk_leave_it():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        logs = GroupLogs(log, A)
        logs.open(1)
        logs.drop()
        logs.open(1).append([1])
        logs.drop()
        await log.replace(B, [])
        assert await contents(disk) == {B: []}
        for _ in range(60):
            await log.replace(B, [b"b" * 150])
        await log.close()
        assert log.segments <= 2

    testing.run(main)


def test_a_log_of_another_node_is_refused_and_left_as_it_is():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"1"])
        with pytest.raises(StorageError, match="belongs to node 0101"):
            await opened(disk, node=OTHER)
        assert await contents(disk) == {A: [b"1"]}

    testing.run(main)


def test_a_segment_of_another_node_is_damage():
    async def main():
        disk, foreign = MemoryDisk(), MemoryDisk()
        await (await opened(disk)).replace(A, [b"1"])
        await (await opened(foreign, node=OTHER)).replace(A, [b"2"])
        name = "log/0000000000000001.log"
        await disk.write(name, await foreign.read(name))
        with pytest.raises(Damage, match="from another log"):
            await opened(disk)

    testing.run(main)


def test_a_lost_log_is_begun_anew_as_another_one():
    async def main():
        first = await Log.open(MemoryDisk(), NODE, ambient(1))
        second = await Log.open(MemoryDisk(), NODE, ambient(2))
        assert first.identity != second.identity
        assert second.groups() == []

    testing.run(main)


def test_an_old_copy_of_the_identity_file_is_damage():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"1"])
        old = await disk.read("log/identity")
        for _ in range(9):
            await log.write(A, [b"more" * 50])
        await log.close()
        await disk.write("log/identity", old)
        with pytest.raises(Damage, match="old one"):
            await opened(disk)

    testing.run(main)


@pytest.mark.parametrize("lost", ["log/identity", "log/0000000000000002.log"])
def test_a_file_that_is_missing_is_damage_for_ever(lost):
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        await log.replace(A, [b"1"])
        for _ in range(9):
            await log.write(A, [b"more" * 50])
        await log.close()
        kept = await disk.read(lost)
        await disk.remove(lost)
        with pytest.raises(Damage, match="missing"):
            await opened(disk)
        await disk.write(lost, kept)
        with pytest.raises(Damage, match="retired"):
            await opened(disk)

    testing.run(main)


def test_a_torn_tail_is_cut_and_said(caplog):
    async def main():
        disk = MemoryDisk()
        log = await opened(disk, LogSettings())
        await log.replace(A, [b"1"])
        await log.write(A, [b"2"])
        name = "log/0000000000000001.log"
        await disk.write(name, b"\0", len((await disk.read(name)).rstrip(b"\0")) - 1)
        assert await contents(disk) == {A: [b"1"]}
        assert "was not finished" in caplog.text
        log = await opened(disk)
        await log.write(A, [b"3"])
        assert await contents(disk) == {A: [b"1", b"3"]}

    testing.run(main)


def test_a_file_is_ahead_of_what_is_written_also_after_a_restart(caplog):
    async def main():
        disk, changes = MemoryDisk(), list[str]()
        log = await opened(disk, LogSettings())
        await log.replace(A, [b"0"])
        disk.on_operation = lambda name, path: changes.append(name)
        for number in range(1, 4):
            log = await opened(disk, LogSettings())
            changes.clear()
            for _ in range(20):
                await log.write(A, [b"%d" % number])
            await log.close()
            assert "truncate" not in changes and changes.count("sync") == 20
        assert await contents(disk) == {A: [b"0"] + [b"1"] * 20 + [b"2"] * 20 + [b"3"] * 20}
        assert not caplog.text

    testing.run(main)


def test_where_the_disk_has_no_room_to_be_ahead_what_fits_is_written():
    async def main():
        disk = MemoryDisk(capacity=5000)
        log = await opened(disk, LogSettings())
        await log.replace(A, [b"x" * 1000])
        await log.write(A, [b"y" * 1000])
        assert await contents(disk) == {A: [b"x" * 1000, b"y" * 1000]}
        with pytest.raises(StorageError, match="full"):
            await log.write(A, [b"z" * 4000])

    testing.run(main)


@pytest.mark.parametrize("room", [0, 100])
def test_damage_before_the_last_batch_is_always_found(room: int):
    """Every bit of the last segment but those of its last batch."""
    identity = Identity(NODE, b"s" * 32, 1, 1)
    raw = encode_header(identity, 1, 1)
    for sequence in (1, 2, 3):
        last = len(raw)
        raw += encode_batch(identity, sequence, [Written(A, Act.REPLACE, [b"record"])])
    raw += bytes(room)
    for bit in range(last * 8):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damage):
            Scan(identity, 1, bytes(bad))


def test_damage_in_the_last_batch_is_taken_for_a_tear_never_for_other_records():
    identity = Identity(NODE, b"s" * 32, 1, 1)
    raw = encode_header(identity, 1, 1) + encode_batch(identity, 1, [Written(A, Act.REPLACE, [b"1"])])
    last = len(raw)
    raw += encode_batch(identity, 2, [Written(A, Act.APPEND, [b"2"])])
    for bit in range(last * 8, len(raw) * 8):
        bad = bytearray(raw)
        bad[bit // 8] ^= 1 << bit % 8
        scan = Scan(identity, 1, bytes(bad))
        assert (len(scan.batches), scan.end, scan.torn) == (1, last, True)


def test_a_record_that_looks_like_a_batch_is_only_a_record():
    """Whoever sends messages decides bytes of the log, but does not know its identity."""
    identity, guessed = Identity(NODE, b"s" * 32, 1, 1), Identity(NODE, b"g" * 32, 1, 1)
    fake = encode_batch(guessed, 2, [Written(A, Act.DROP, [])])
    raw = encode_header(identity, 1, 1) + encode_batch(identity, 1, [Written(A, Act.REPLACE, [fake])])
    scan = Scan(identity, 1, raw[:-1])
    assert scan.batches == []
    assert scan.torn


class Lives:
    """Two groups that write at random while the machine crashes at random operations of its disk.

    In some lives one of them sleeps: nobody takes it, and it writes nothing, but it may be dropped.

    `possible`: for each group all states that a crash may leave, the oldest first.
    """

    def __init__(self, seed: str, settings: LogSettings = SMALL) -> None:
        self.settings = settings
        self.chance = random.Random(seed)
        self.possible: dict[bytes, list[list[bytes]]] = {A: [[]], B: [[]]}
        self.asleep: bytes | None = None

    async def live(self, disk: MemoryDisk) -> None:
        """Looks at what is there, and writes until the crash."""
        operations = iter(range(self.chance.randrange(4, self.chance.choice([60, 250]))))

        def maybe_crash(operation: str, path: str) -> None:
            if next(operations, None) is None:
                raise StorageError("crash")

        disk.on_operation = maybe_crash
        with contextlib.suppress(Crash):
            log = await self.open(disk)
            while True:
                await self.write(log)
        disk.on_operation = None

    async def open(self, disk: MemoryDisk) -> Log:
        try:
            log = await opened(disk, self.settings)
        except Damage:
            raise
        except StorageError:
            raise Crash from None
        self.asleep = self.chance.choice([None, None, A, B])
        for group, possible in self.possible.items():
            if group == self.asleep:
                continue
            found = log.take(group)
            assert found in possible
            assert bool(found) == (group in log.groups()), "what was dropped is gone, what was not is there"
            possible[:] = [found]
        return log

    async def write(self, log: Log) -> None:
        waits = []
        for _ in range(self.chance.randrange(1, 5)):
            group = self.chance.choice([A, B])
            possible = self.possible[group]
            if self.chance.random() < 0.05:
                waits.append(log.drop(group))
                possible.append([])
                self.asleep = None if group == self.asleep else self.asleep
                continue
            if group == self.asleep:
                continue
            record = self.chance.randbytes(self.chance.choice([5, 90, 600]))
            kind = self.chance.random()
            if possible[-1] and kind < 0.2:
                waits.append(log.replace(group, possible[-1]))  # the same anew, in pieces
            elif not possible[-1] or kind < 0.3:
                waits.append(log.replace(group, [record]))
                possible.append([record])
            else:
                waits.append(log.write(group, [record]))
                possible.append([*possible[-1], record])
        results = await asyncio.gather(*waits, return_exceptions=True)
        if any(isinstance(result, StorageError) for result in results):
            raise Crash
        for group, possible in self.possible.items():
            if group != self.asleep:
                del possible[:-1]  # acknowledged: nothing older will do


class Crash(Exception):
    """The machine stops here."""


async def lose_power(lives: Lives, times: int) -> None:
    disk = MemoryDisk()
    for _ in range(times):
        await lives.live(disk)
        disk = disk.power_loss(lives.chance)


def test_a_power_loss_at_any_operation_loses_nothing_acknowledged_and_invents_nothing():
    async def main():
        for seed in range(200):
            await lose_power(Lives(f"power/{seed}"), 6)

    testing.run(main)


def test_a_kill_at_any_operation_loses_nothing_acknowledged_and_invents_nothing():
    async def main():
        for seed in range(40):
            lives, disk = Lives(f"kill/{seed}"), MemoryDisk()
            for _ in range(6):
                await lives.live(disk)
                disk = disk.process_loss()

    testing.run(main)


def test_without_fsync_a_power_loss_does_lose_what_was_acknowledged():
    """So the test above would notice."""

    async def main():
        with pytest.raises((AssertionError, Damage)):
            await lose_power(Lives("power/1", LogSettings(segment_bytes=300, fsync=False)), 50)

    testing.run(main)


def test_a_disk_that_is_broken_is_not_taken_for_a_full_one():
    async def main():
        disk = MemoryDisk()
        log = await opened(disk)
        log.on_full = lambda: pytest.fail("nobody knows what is on that disk")
        await log.replace(A, [b"1"])
        disk.on_operation = broken
        with pytest.raises(StorageError, match="broken"):
            await log.write(A, [b"2"])
        await log.close()
        assert "broken" in log.failed

    def broken(operation: str, path: str) -> None:
        raise StorageError("the disk is broken")

    testing.run(main)


def test_a_full_disk_fails_the_writes_and_keeps_what_was_there():
    async def main():
        disk = MemoryDisk(capacity=600)
        log = await opened(disk)
        told: list[str] = []
        log.on_full = lambda: told.append(log.failed)
        await log.replace(A, [b"1"])
        with pytest.raises(StorageError, match="full"):
            await log.write(A, [b"x" * 1000])
        await log.close()
        assert told == [log.failed] and "full" in log.failed
        with pytest.raises(StorageError, match="read again"):
            await log.write(A, [b"2"])
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        log.drop(A)  # nobody waits for that
        assert not complaints
        disk.capacity = 10_000
        log = await opened(disk)
        assert log.take(A) == [b"1"]
        await log.write(A, [b"2"])
        assert await contents(disk) == {A: [b"1", b"2"]}

    testing.run(main)


def test_a_disk_that_does_not_keep_up_ends_the_log_before_memory_is_full():
    async def main():
        log = await opened(MemoryDisk(), LogSettings(waiting_bytes_max=1000))
        await log.replace(A, [])
        first = log.write(A, [b"x" * 600])
        assert log.crowded
        second = log.write(A, [b"x" * 600])
        for future in (first, second):
            with pytest.raises(StorageError, match="wait for the disk"):
                await future

    testing.run(main)


def test_what_could_as_well_be_left_out_is_where_it_would_be_too_much_for_the_disk():
    async def main():
        log = await opened(MemoryDisk(), LogSettings(waiting_bytes_max=1000))
        epoch = GroupLog(log, A)
        behind = epoch.append([b"x" * 600])
        assert not epoch.compact([b"x" * 600])
        await behind
        assert not log.failed
        assert epoch.compact([b"x" * 100])
        await log.write(A, [])

    testing.run(main)


def test_without_fsync_the_log_says_so(caplog):
    async def main():
        disk = MemoryDisk()
        log = await opened(disk, LogSettings(fsync=False))
        await log.replace(A, [])
        syncs = disk.syncs
        await log.write(A, [b"1"])
        assert disk.syncs == syncs
        assert "without fsync" in caplog.text

    testing.run(main)


async def test_the_log_on_a_real_disk(tmp_path: Path):
    disk = RealDisk(tmp_path)
    log = await opened(disk)
    await log.replace(A, [b"1"])
    for number in range(20):
        await log.write(A, [b"%d" % number * 40])
    await log.replace(A, [b"all"])
    await log.close()
    assert [path.name for path in sorted((tmp_path / "log").iterdir())][-1] == "identity"
    assert await contents(disk) == {A: [b"all"]}
    disk.close()
