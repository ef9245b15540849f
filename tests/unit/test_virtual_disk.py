"""The memory disk: the contract of `Disk`, and what a power loss may leave behind."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_overlay import testing
from titan_overlay.errors import StorageError
from titan_overlay.storage.disk import Disk
from titan_overlay.testing import MemoryDisk


def test_files_are_written_read_cut_listed_and_removed():
    async def main():
        disk: Disk = MemoryDisk()
        await disk.write("log/1", b"hello")
        await disk.append("log/1", b" world")
        await disk.write("log/1", b"J", 0)
        await disk.write("log/1", b"!", 13)
        assert await disk.read("log/1") == b"Jello world\0\0!"
        assert await disk.read("log/1", 6, 5) == b"world"
        assert await disk.read("log/1", 12, 50) == b"\0!"
        assert await disk.read("log/1", 99) == b""
        await disk.truncate("log/1", 5)
        await disk.truncate("log/1", 7)
        assert await disk.read("log/1") == b"Jello\0\0"
        await disk.append("a", b"")
        await disk.append("log/0", b"x")
        assert await disk.list("") == ["a", "log/0", "log/1"]
        assert await disk.list("log/") == ["log/0", "log/1"]
        await disk.replace("log/1", "a")
        assert await disk.list("") == ["a", "log/0"]
        assert (await disk.size("a"), await disk.size("log/1")) == (7, None)
        await disk.remove("a")
        await disk.remove("a")
        assert await disk.list("") == ["log/0"]

    testing.run(main)


def test_what_is_missing_is_file_not_found():
    async def main():
        disk = MemoryDisk()
        for act in (disk.read("x"), disk.truncate("x", 1), disk.sync("x"), disk.replace("x", "y")):
            with pytest.raises(FileNotFoundError):
                await act

    testing.run(main)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\\b", "a\0"])
def test_paths_that_lead_outside_are_refused(path):
    async def main():
        disk = MemoryDisk()
        await disk.write("ok", b"x")
        for act in (disk.read(path), disk.write(path, b""), disk.remove(path), disk.replace("ok", path)):
            with pytest.raises(StorageError):
                await act

    testing.run(main)


def test_a_full_disk_refuses_and_keeps_what_was_there():
    async def main():
        disk = MemoryDisk(capacity=100)
        await disk.write("a", bytes(60))
        with pytest.raises(StorageError, match="full"):
            await disk.append("a", bytes(41))
        assert disk.full
        assert await disk.size("a") == 60
        assert await disk.free() == 40
        await disk.write("a", bytes(60))
        await disk.write("b", bytes(40))
        assert not disk.full
        await disk.replace("b", "a")
        assert await disk.free() == 60
        await disk.truncate("a", 10)
        assert await disk.free() == 90
        await disk.remove("a")
        assert await disk.free() == 100

    testing.run(main)


def test_a_slow_disk_queues():
    async def main():
        loop, disk = asyncio.get_running_loop(), MemoryDisk(sync_seconds=0.5, bytes_per_second=1000)
        await disk.write("a", bytes(1000))
        assert loop.time() == pytest.approx(1.0)
        await asyncio.gather(*(disk.sync("a") for _ in range(4)))
        assert loop.time() == pytest.approx(3.0)

    testing.run(main)


def losses(disk_after, seeds=range(300)):
    """What a power loss leaves of the disk that `disk_after` makes, for many draws of luck."""

    async def main():
        found = []
        for seed in seeds:
            disk = await disk_after()
            disk = disk.power_loss(random.Random(seed))
            found.append({path: await disk.read(path) for path in await disk.list("")})
        return found

    return testing.run(main)


def test_what_was_synced_survives_and_what_was_not_may_be_lost_torn_or_there():
    async def disk_after():
        disk = MemoryDisk(sync_seconds=0)
        await disk.append("log", b"A" * 1000)
        await disk.sync("log")
        await disk.append("log", b"B" * 1000)
        await disk.append("log", b"C" * 1000)
        return disk

    found = [files["log"] for files in losses(disk_after)]
    assert all(data.startswith(b"A" * 1000) for data in found)
    assert b"A" * 1000 in found
    assert b"A" * 1000 + b"B" * 1000 + b"C" * 1000 in found
    torn = [data for data in found if b"\0" in data]
    assert torn, "a later sector may survive an earlier one"
    assert any(len(data) == 2000 for data in found)


def test_overwritten_bytes_are_old_or_new_by_sector():
    async def disk_after():
        disk = MemoryDisk(sync_seconds=0)
        await disk.write("f", b"o" * 2048)
        await disk.sync("f")
        await disk.write("f", b"n" * 2048)
        return disk

    seen = set()
    for files in losses(disk_after):
        data = files["f"]
        assert len(data) == 2048
        sectors = [data[start : start + 512] for start in range(0, 2048, 512)]
        assert all(sector in (b"o" * 512, b"n" * 512) for sector in sectors)
        seen.add(bytes(sector[0] for sector in sectors))
    assert len(seen) == 16


def test_a_file_never_synced_may_not_even_have_its_name():
    async def disk_after():
        disk = MemoryDisk(sync_seconds=0)
        await disk.write("new", b"x")
        return disk

    found = losses(disk_after)
    assert {} in found
    assert {"new": b"x"} in found
    assert {"new": b""} in found


def test_replace_without_sync_of_the_source_may_leave_an_empty_file_and_with_it_never():
    async def careless():
        return await replaced(sync=False)

    async def careful():
        return await replaced(sync=True)

    async def replaced(sync):
        disk = MemoryDisk(sync_seconds=0)
        await disk.write("config", b"old")
        await disk.sync("config")
        await disk.write("config.new", b"new")
        if sync:
            await disk.sync("config.new")
        await disk.replace("config.new", "config")
        return disk

    assert {"config": b""} in losses(careless)
    assert all(files == {"config": b"new"} for files in losses(careful))


def test_power_lost_during_a_replace_leaves_the_old_or_the_new_file():
    async def disk_after():
        disk = MemoryDisk(sync_seconds=1)
        for path in ("config", "config.new"):
            await disk.write(path, path.encode())
            await disk.sync(path)
        task = asyncio.create_task(disk.replace("config.new", "config"))
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_soon(task.cancel)
        return disk

    old, new = {"config": b"config", "config.new": b"config.new"}, {"config": b"config.new"}
    found = losses(disk_after)
    assert old in found
    assert new in found
    assert all(files in (old, new) for files in found)


def test_what_is_written_during_a_sync_is_not_covered_by_it():
    async def disk_after():
        disk = MemoryDisk(sync_seconds=1)
        await disk.append("log", b"A")
        syncing = asyncio.create_task(disk.sync("log"))
        await asyncio.sleep(0.5)
        await disk.append("log", b"B")
        await syncing
        return disk

    found = [files["log"] for files in losses(disk_after)]
    assert b"A" in found
    assert b"AB" in found
    assert all(data[:1] == b"A" for data in found)


def test_a_removed_file_may_be_back_until_the_next_sync():
    async def removed(then_sync):
        disk = MemoryDisk(sync_seconds=0)
        for path in ("a", "b"):
            await disk.write(path, b"x")
            await disk.sync(path)
        await disk.remove("a")
        if then_sync:
            await disk.sync("b")
        return disk

    assert {tuple(files) for files in losses(lambda: removed(False))} == {("a", "b"), ("b",)}
    assert {tuple(files) for files in losses(lambda: removed(True))} == {("b",)}


def test_old_changes_are_written_back_and_forgotten():
    async def main():
        disk = MemoryDisk()
        for _ in range(1000):
            await disk.write("f", bytes(100))
            await asyncio.sleep(1)
        return len(disk._names["f"].pending)

    assert testing.run(main) < 40


def test_a_dead_disk_answers_errors_and_its_successor_works():
    async def main():
        disk = MemoryDisk()
        await disk.write("f", b"x")
        syncing = asyncio.create_task(disk.sync("f"))
        await asyncio.sleep(0)
        after = disk.process_loss()
        with pytest.raises(StorageError, match="killed"):
            await syncing
        with pytest.raises(StorageError, match="killed"):
            await disk.write("f", b"y")
        assert await after.read("f") == b"x"
        lost = after.power_loss(random.Random(1))
        with pytest.raises(StorageError, match="power"):
            await after.list("")
        await lost.write("f", b"z")
        assert await lost.read("f") == b"z"

    testing.run(main)


def test_a_fault_can_be_put_at_any_operation():
    async def main():
        disk = MemoryDisk()
        operations = []

        def fail(name, path):
            operations.append((name, path))
            if name == "sync":
                raise StorageError("the disk is broken")

        disk.on_operation = fail
        await disk.write("f", b"x")
        with pytest.raises(StorageError, match="broken"):
            await disk.sync("f")
        assert operations == [("write", "f"), ("sync", "f")]

    testing.run(main)


def test_corruption_flips_one_bit():
    async def main():
        disk = MemoryDisk()
        await disk.write("f", bytes(100))
        disk.corrupt("f", random.Random(1))
        return sum(byte.bit_count() for byte in await disk.read("f"))

    assert testing.run(main) == 1


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3000), st.binary(min_size=1, max_size=1500)),
        st.tuples(st.just("append"), st.just(0), st.binary(max_size=1500)),
        st.tuples(st.just("truncate"), st.integers(0, 3000), st.just(b"")),
        st.tuples(st.just("sync"), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(operations, st.integers())
def test_every_sector_that_survives_is_one_that_was_there_since_the_last_sync(steps, seed):
    async def main():
        disk = MemoryDisk(sync_seconds=0)
        await disk.write("f", b"")
        await disk.sync("f")
        versions = [b""]
        for name, number, data in steps:
            if name == "write":
                await disk.write("f", data, number)
            elif name == "append":
                await disk.append("f", data)
            elif name == "truncate":
                await disk.truncate("f", number)
            else:
                await disk.sync("f")
                versions.clear()
            versions.append(await disk.read("f"))
        after = await disk.power_loss(random.Random(seed)).read("f")
        assert len(after) in {len(version) for version in versions}
        for start in range(0, len(after), 512):
            sector = after[start : start + 512]
            possible = {version[start : start + 512].ljust(512, b"\0")[: len(sector)] for version in versions}
            assert sector in possible

    testing.run(main)
