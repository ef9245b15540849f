"""The disk: the same promises from the real one and from its twin in memory."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import StorageError
from titan_overlay.storage import disk as disk_module
from titan_overlay.storage.disk import Disk, RealDisk, check_path
from titan_overlay.testing.disk import MemoryDisk


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "memory":
        yield MemoryDisk()
        return
    real = RealDisk(tmp_path / "root")
    yield real
    real.close()


async def test_what_is_written_is_read_back(disk: Disk) -> None:
    await disk.write("a/b/c", b"hello")
    assert await disk.read("a/b/c") == b"hello"
    await disk.write("a/b/c", b"LL", 2)
    assert await disk.read("a/b/c") == b"heLLo"
    assert await disk.read("a/b/c", 1, 3) == b"eLL"
    assert await disk.read("a/b/c", 3, 100) == b"Lo"
    assert await disk.read("a/b/c", 100, 5) == b""
    assert await disk.size("a/b/c") == 5


async def test_a_gap_reads_as_zeros(disk: Disk) -> None:
    await disk.write("f", b"end", 1000)
    assert await disk.read("f") == bytes(1000) + b"end"


async def test_appends_follow_each_other(disk: Disk) -> None:
    for number in range(20):
        await disk.append("log", bytes([number]))
    assert await disk.read("log") == bytes(range(20))


async def test_a_log_writes_through_to_whatever_has_the_path_then(disk: Disk) -> None:
    await disk.write_through("log/1", b"abc", 0)
    await disk.write_through("log/1", b"de", 3)
    await disk.write_through("log/2", b"f", 0)
    await disk.write_through("log/1", b"g", 5)
    assert await disk.read("log/1") == b"abcdeg"
    await disk.write("new", b"123456789")
    await disk.sync("new")
    await disk.replace("new", "log/1")
    await disk.write_through("log/1", b"x", 1)
    assert await disk.read("log/1") == b"1x3456789"
    await disk.remove("log/1")
    await disk.write_through("log/1", b"new", 0)
    assert await disk.read("log/1") == b"new"


async def test_an_empty_write_makes_an_empty_file(disk: Disk) -> None:
    await disk.write("empty", b"")
    assert await disk.size("empty") == 0
    assert await disk.read("empty") == b""


async def test_a_file_is_cut_and_extended(disk: Disk) -> None:
    await disk.write("f", b"0123456789")
    await disk.truncate("f", 4)
    assert await disk.read("f") == b"0123"
    await disk.truncate("f", 6)
    assert await disk.read("f") == b"0123\0\0"


async def test_replace_takes_the_place_of_what_was_there(disk: Disk) -> None:
    await disk.write("new", b"new")
    await disk.write("d/old", b"old")
    await disk.sync("new")
    await disk.replace("new", "d/old")
    assert await disk.read("d/old") == b"new"
    assert await disk.size("new") is None
    await disk.replace("d/old", "e/other")
    assert await disk.list("") == ["e/other"]


async def test_files_are_listed_by_the_beginning_of_their_path(disk: Disk) -> None:
    for path in ("blobs/ab/1", "blobs/ab/2", "blobs/b", "log/1", "blobsy"):
        await disk.write(path, b"")
    assert await disk.list("blobs/") == ["blobs/ab/1", "blobs/ab/2", "blobs/b"]
    assert await disk.list("blobs/ab/1") == ["blobs/ab/1"]
    assert await disk.list("blobs") == ["blobs/ab/1", "blobs/ab/2", "blobs/b", "blobsy"]
    assert await disk.list("nothing/") == []
    assert len(await disk.list("")) == 5


async def test_removing_is_for_good_and_twice_is_no_error(disk: Disk) -> None:
    await disk.write("f", b"x")
    await disk.remove("f")
    await disk.remove("f")
    assert await disk.size("f") is None


async def test_a_file_that_is_not_there_is_said_to_be_missing(disk: Disk) -> None:
    for operation in (disk.read("f"), disk.truncate("f", 1), disk.sync("f"), disk.replace("f", "g")):
        with pytest.raises(FileNotFoundError):
            await operation
    assert await disk.size("f") is None
    assert await disk.list("f") == []


@pytest.mark.parametrize("path", ["", "/etc/passwd", "..", "a/../../b", "a//b", "./a", "a/.", "a/", "a\0b", "a\\b"])
async def test_a_path_that_leads_outside_is_refused(disk: Disk, path: str) -> None:
    for operation in (
        disk.read(path),
        disk.write(path, b""),
        disk.append(path, b""),
        disk.truncate(path, 0),
        disk.sync(path),
        disk.replace(path, "x"),
        disk.remove(path),
        disk.size(path),
    ):
        with pytest.raises(StorageError):
            await operation
    await disk.write("x", b"")
    with pytest.raises(StorageError):
        await disk.replace("x", path)


@given(st.text(alphabet="ab./\\\0", max_size=12))
def test_no_path_that_passes_leads_outside(path: str) -> None:
    try:
        check_path(path)
    except StorageError:
        return
    assert os.path.normpath(path) == path and not path.startswith("/") and path.partition("/")[0] != ".."


async def test_a_file_below_a_file_is_an_error_and_no_surprise(disk: Disk) -> None:
    await disk.write("f", b"x")
    with pytest.raises(StorageError):
        await disk.write("f/g", b"y")
    assert await disk.read("f") == b"x"


async def test_operations_at_once_do_not_mix(disk: Disk) -> None:
    async def one(number: int) -> bytes:
        path = f"files/{number}"
        for turn in range(5):
            await disk.write(path, bytes([number, turn]), turn * 2)
        await disk.sync(path)
        return await disk.read(path)

    results = await asyncio.gather(*(one(number) for number in range(20)))
    assert results == [bytes(byte for turn in range(5) for byte in (number, turn)) for number in range(20)]


async def test_there_is_room_and_it_is_counted(disk: Disk) -> None:
    assert await disk.free() > 0


# --- the real one alone ---


async def test_a_full_disk_says_so_keeps_what_was_there_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    await disk.write("f", b"kept")

    def no_room(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_room)
        with pytest.raises(StorageError, match="is full"):
            await disk.append("f", b"more")
        assert disk.full
        with pytest.raises(StorageError, match="is full"):
            await disk.write_through("f", b"more", 4)
    assert await disk.read("f") == b"kept"
    await disk.write_through("f", b"!", 4)
    assert not disk.full
    assert await disk.read("f") == b"kept!"
    disk.close()


async def test_a_write_that_the_system_splits_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:7], offset))
    monkeypatch.setattr(os, "pread", lambda file, size, offset: read(file, min(size, 5), offset))
    disk = RealDisk(tmp_path)
    data = bytes(range(256))
    await disk.write("f", data, 3)
    assert await disk.read("f", 3) == data
    disk.close()


async def test_sync_makes_the_file_and_the_names_above_it_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(disk_module, "_fsync", synced.append)
    disk = RealDisk(tmp_path)
    await disk.write("a/b/f", b"x")
    await disk.sync("a/b/f")
    assert synced == [tmp_path / "a/b/f", tmp_path / "a/b", tmp_path / "a", tmp_path]
    synced.clear()
    await disk.write("a/b/f", b"y")
    await disk.sync("a/b/f")
    assert synced == [tmp_path / "a/b/f"]  # its name is durable already
    synced.clear()
    await disk.replace("a/b/f", "a/g")
    assert synced == [tmp_path / "a", tmp_path]
    synced.clear()
    await disk.write_through("a/h", b"x", 0)
    await disk.write_through("a/h", b"y", 1)
    assert synced == [tmp_path / "a", tmp_path]
    disk.close()


async def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "root")
    await disk.write("d/f", b"secret")
    assert (tmp_path / "root/d/f").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "root/d").stat().st_mode & 0o777 == 0o700
    disk.close()
