"""The content-addressed store: whole or not there, within its quota, and able to go on where it was stopped."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage, Conflict, NotHere, Overloaded, StorageError
from titan_overlay.identity.statements import Content
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import CHUNK_BYTES, chunk_count
from titan_overlay.storage.disk import RealDisk
from titan_overlay.storage.files import (
    FileSink,
    MemorySink,
    describe,
    describe_bytes,
    open_source,
    save,
)
from titan_overlay.testing.disk import MemoryDisk

QUOTA = 64 << 20


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def chunk(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


async def opened(disk: MemoryDisk | RealDisk, max_bytes: int = QUOTA) -> Blobs:
    blobs = Blobs(disk, max_bytes)
    await blobs.open()
    return blobs


async def begin(blobs: Blobs, data: bytes) -> bytes:
    content_id, content, manifest = describe_bytes(data)
    await blobs.begin(content_id, content, manifest)
    return content_id


async def fill(blobs: Blobs, data: bytes, order: list[int] | None = None) -> bytes:
    content_id = await begin(blobs, data)
    for index in order or blobs.missing(content_id):
        await blobs.put_chunk(content_id, index, chunk(data, index))
    await blobs.finish(content_id)
    return content_id


async def read_back(blobs: Blobs, content_id: bytes) -> bytes:
    count = len(await blobs.manifest(content_id)) // 32
    return b"".join([await blobs.read_chunk(content_id, index) for index in range(count)])


# --- whole contents ---


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17]
)
async def test_a_content_comes_back_as_it_went_in(size: int, tmp_path: Path) -> None:
    data = some_bytes(size)
    for disk in (MemoryDisk(), RealDisk(tmp_path)):
        blobs = await opened(disk)
        content_id = await fill(blobs, data)
        assert content_id == sha256(data).digest()
        assert blobs.has(content_id) and blobs.size(content_id) == size
        assert await read_back(blobs, content_id) == data
        assert await blobs.manifest(content_id) == describe_bytes(data)[2]
        again = await opened(disk)
        assert again.has(content_id) and again.used() == blobs.used()
        assert await read_back(again, content_id) == data
        disk.close()


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)))
async def test_chunks_may_come_in_any_order(order: list[int]) -> None:
    data = some_bytes(5 * CHUNK_BYTES + 99)
    blobs = await opened(MemoryDisk())
    content_id = await fill(blobs, data, order)
    assert await read_back(blobs, content_id) == data


async def test_chunks_may_come_all_at_once_and_twice() -> None:
    data = some_bytes(9 * CHUNK_BYTES)
    blobs = await opened(MemoryDisk(operation_seconds=0.001))
    content_id = await begin(blobs, data)
    order = [*range(9), *reversed(range(9))]
    await asyncio.gather(*(blobs.put_chunk(content_id, index, chunk(data, index)) for index in order))
    await asyncio.gather(*(blobs.finish(content_id) for _ in range(3)))
    assert await read_back(blobs, content_id) == data


async def test_it_is_not_there_before_it_is_whole() -> None:
    data = some_bytes(2 * CHUNK_BYTES)
    blobs = await opened(MemoryDisk())
    content_id = await begin(blobs, data)
    assert blobs.missing(content_id) == [0, 1]
    await blobs.put_chunk(content_id, 1, chunk(data, 1))
    assert blobs.missing(content_id) == [0]
    assert not blobs.has(content_id)
    with pytest.raises(NotHere):
        await blobs.read_chunk(content_id, 1)
    with pytest.raises(BadMessage, match="1 of 2 chunks are missing"):
        await blobs.finish(content_id)
    await blobs.put_chunk(content_id, 0, chunk(data, 0))
    assert not blobs.has(content_id)
    await blobs.finish(content_id)
    assert blobs.has(content_id) and blobs.missing(content_id) == []


async def test_a_small_blob_is_one_file() -> None:
    disk = MemoryDisk()
    blobs = await opened(disk)
    await fill(blobs, b"small")
    assert len(await disk.list("")) == 1


async def test_bundles_are_put_and_got_whole() -> None:
    blobs = await opened(MemoryDisk())
    code = b"class Echo: ..."
    digest = sha256(code).digest()
    assert await blobs.get_small(digest) is None
    await blobs.put_small(digest, code)
    await blobs.put_small(digest, code)
    assert await blobs.get_small(digest) == code
    with pytest.raises(BadMessage, match="these bytes are sha256"):
        await blobs.put_small(digest, b"other code")


# --- what does not verify ---


async def test_a_wrong_chunk_is_refused_and_the_right_one_taken_later() -> None:
    data = some_bytes(2 * CHUNK_BYTES + 5)
    blobs = await opened(MemoryDisk())
    content_id = await begin(blobs, data)
    for index, wrong in ((0, chunk(data, 1)), (0, b""), (2, chunk(data, 2) + b"x"), (3, b""), (-1, chunk(data, 2))):
        with pytest.raises(BadMessage):
            await blobs.put_chunk(content_id, index, wrong)
    assert blobs.missing(content_id) == [0, 1, 2]
    assert await fill(blobs, data) == content_id


async def test_a_manifest_that_the_descriptor_does_not_name_is_refused() -> None:
    content_id, content, manifest = describe_bytes(some_bytes(2 * CHUNK_BYTES))
    blobs = await opened(MemoryDisk())
    bad = [
        (content_id, content, manifest[:-1] + bytes([manifest[-1] ^ 1])),
        (content_id, content, manifest[:-32]),
        (content_id, content, b""),
        (content_id, Content(content.size + CHUNK_BYTES, CHUNK_BYTES, content.manifest), manifest),
        (content_id, Content(-1, CHUNK_BYTES, content.manifest), manifest),
        (content_id, Content(content.size, 1 << 40, content.manifest), manifest),
        (content_id, Content(content.size, 0, content.manifest), manifest),
        (content_id[:-1], content, manifest),
    ]
    for arguments in bad:
        with pytest.raises(BadMessage):
            await blobs.begin(*arguments)
    assert blobs.used() == 0 and blobs.partial() == []


async def test_a_content_whose_name_is_a_lie_is_thrown_away() -> None:
    """The publisher signed a manifest that is not of the content that the name says."""
    data = some_bytes(2 * CHUNK_BYTES)
    _, content, manifest = describe_bytes(data)
    disk = MemoryDisk()
    blobs = await opened(disk)
    lie = b"l" * 32
    await blobs.begin(lie, content, manifest)
    for index in range(2):
        await blobs.put_chunk(lie, index, chunk(data, index))
    with pytest.raises(BadMessage, match="thrown away"):
        await blobs.finish(lie)
    assert not blobs.has(lie) and blobs.used() == 0 and await disk.list("") == []


async def test_bytes_that_changed_on_the_disk_are_set_aside_and_never_served() -> None:
    data = some_bytes(3 * CHUNK_BYTES)
    disk = MemoryDisk()
    blobs = await opened(disk)
    content_id = await fill(blobs, data)
    disk.corrupt(f"blobs/{content_id.hex()[:2]}/{content_id.hex()}", random.Random(1))
    with pytest.raises(NotHere, match="damaged"):
        await read_back(blobs, content_id)
    assert not blobs.has(content_id) and blobs.used() == 0
    assert [path.rpartition(".")[2] for path in await disk.list("")] == ["corrupt"]
    assert await fill(blobs, data) == content_id
    assert await read_back(blobs, content_id) == data


async def test_a_lost_manifest_is_made_anew_from_the_content() -> None:
    data = some_bytes(3 * CHUNK_BYTES)
    disk = MemoryDisk()
    content_id = await fill(await opened(disk), data)
    await disk.remove(f"blobs/{content_id.hex()[:2]}/{content_id.hex()}.manifest")
    blobs = await opened(disk)
    assert await read_back(blobs, content_id) == data


async def test_a_content_that_somebody_deleted_by_hand_is_not_here() -> None:
    disk = MemoryDisk()
    blobs = await opened(disk)
    content_id = await fill(blobs, b"data")
    await disk.remove(f"blobs/{content_id.hex()[:2]}/{content_id.hex()}")
    with pytest.raises(NotHere):
        await blobs.read_chunk(content_id, 0)
    assert not blobs.has(content_id)


# --- going on after an interruption ---


async def test_it_goes_on_where_it_was_stopped() -> None:
    data = some_bytes(6 * CHUNK_BYTES)
    disk = MemoryDisk()
    first = await opened(disk)
    content_id = await begin(first, data)
    for index in (0, 1, 4):
        await first.put_chunk(content_id, index, chunk(data, index))
    second = await opened(disk.process_loss())
    assert second.partial() == [content_id] and second.used() > 0
    await begin(second, data)
    assert second.missing(content_id) == [2, 3, 5]
    assert await fill(second, data) == content_id
    assert await read_back(second, content_id) == data


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), written=st.lists(st.integers(0, 5), max_size=8), finish=st.booleans())
async def test_after_a_loss_of_power_nothing_false_is_there(seed: int, written: list[int], finish: bool) -> None:
    data = some_bytes(5 * CHUNK_BYTES + 1234)
    disk = MemoryDisk(sync_seconds=0.0)
    first = await opened(disk)
    content_id = await begin(first, data)
    for index in range(6) if finish else written:
        await first.put_chunk(content_id, index, chunk(data, index))
    if finish:
        await first.finish(content_id)
    survivor = disk.power_loss(random.Random(seed))
    second = await opened(survivor)
    assert second.has(content_id) is finish
    if not finish:
        await begin(second, data)
        assert set(range(6)) - set(second.missing(content_id)) <= set(written)
        await fill(second, data)
    assert await read_back(second, content_id) == data


async def test_what_an_interruption_left_and_nobody_can_use_is_cleared_away() -> None:
    disk = MemoryDisk()
    await disk.write("blobs/incoming-1", b"half an import")
    await disk.write(f"blobs/ab/{'ab' * 32}.manifest", bytes(64))
    await disk.write("blobs/ab/README", b"?")
    await disk.write("elsewhere", b"not ours")
    blobs = await opened(disk)
    assert await disk.list("") == ["elsewhere"]
    assert blobs.used() == 0


# --- room ---


async def test_a_content_above_the_quota_is_refused_naming_it() -> None:
    blobs = await opened(MemoryDisk(), max_bytes=3 << 20)
    await fill(blobs, some_bytes(2 << 20))
    with pytest.raises(Overloaded, match=r"2\.0 MiB.*lends 3 MiB.*--max-bytes"):
        await begin(blobs, some_bytes(2 << 20, seed=2))
    assert blobs.partial() == []
    await fill(blobs, some_bytes(1000, seed=3))


async def test_a_content_above_all_that_is_lent_is_refused_naming_what_it_needs() -> None:
    blobs = await opened(MemoryDisk(), max_bytes=1 << 30)
    content = Content(1 << 30, CHUNK_BYTES, bytes(32))
    with pytest.raises(Overloaded, match=r"1\.0 GiB: this node lends 1 GiB; .*--max-bytes \(1025MiB at least"):
        blobs.check_room(content)
    blobs.check_room(Content((1 << 30) - (1 << 20), CHUNK_BYTES, bytes(32)))


async def test_what_is_begun_has_its_room() -> None:
    blobs = await opened(MemoryDisk(), max_bytes=3 << 20)
    first = await begin(blobs, some_bytes(2 << 20))
    with pytest.raises(Overloaded):
        await begin(blobs, some_bytes(2 << 20, seed=2))
    await blobs.remove(first)
    assert blobs.used() == 0
    await fill(blobs, some_bytes(2 << 20, seed=2))


async def test_a_transfer_that_fails_gives_its_room_back_and_keeps_what_came() -> None:
    """Or anybody could fill a node with promises of content that never comes."""
    data = some_bytes(2 << 20)
    disk = MemoryDisk()
    blobs = await opened(disk, max_bytes=3 << 20)
    content_id = await begin(blobs, data)
    await blobs.put_chunk(content_id, 3, chunk(data, 3))
    blobs.suspend(content_id)
    blobs.suspend(content_id)
    assert blobs.used() == CHUNK_BYTES and blobs.partial() == [content_id]
    await begin(blobs, data)
    assert blobs.missing(content_id) == [0, 1, 2, 4, 5, 6, 7]
    blobs.suspend(content_id)
    other = await fill(blobs, some_bytes(3 << 20, seed=2)[: -(1 << 10)])
    assert blobs.has(other) and blobs.partial() == []
    await blobs.remove(other)
    assert blobs.used() == 0 and await disk.list("") == []


async def test_of_two_transfers_of_one_content_one_may_fail() -> None:
    data = some_bytes(2 * CHUNK_BYTES)
    blobs = await opened(MemoryDisk())
    content_id = await begin(blobs, data)
    await begin(blobs, data)
    blobs.suspend(content_id)
    for index in range(2):
        await blobs.put_chunk(content_id, index, chunk(data, index))
    await blobs.finish(content_id)
    blobs.suspend(content_id)
    assert blobs.has(content_id) and await read_back(blobs, content_id) == data


@pytest.mark.loops("virtual")
async def test_a_small_blob_that_two_put_at_once_is_there_for_both() -> None:
    data = some_bytes(3000)
    content_id = describe_bytes(data)[0]
    for step in range(40):  # the second begins at one point of the first after the other
        blobs = await opened(MemoryDisk(operation_seconds=1e-3, sync_seconds=5e-3))
        first = asyncio.ensure_future(blobs.put_small(content_id, data))
        await asyncio.sleep(step * 0.5e-3)
        await blobs.put_small(content_id, data)
        await first
        assert await blobs.get_small(content_id) == data
        assert blobs.used() == len(data)


async def test_begun_twice_at_once_is_reserved_once() -> None:
    data = some_bytes(1 << 20)
    blobs = await opened(MemoryDisk(operation_seconds=0.001))
    content_id, *_ = await asyncio.gather(*(begin(blobs, data) for _ in range(4)))
    reserved = blobs.used()
    await fill(blobs, data)
    assert blobs.used() == reserved
    await blobs.remove(content_id)
    assert blobs.used() == 0


async def test_a_disk_with_less_room_than_the_quota_refuses_as_well() -> None:
    blobs = await opened(MemoryDisk(capacity=1 << 20))
    with pytest.raises(Overloaded, match="the disk of this node has"):
        await begin(blobs, some_bytes(2 << 20))
    assert blobs.used() == 0


async def test_a_disk_that_fills_up_half_way_loses_nothing() -> None:
    disk = MemoryDisk()
    blobs = await opened(disk)
    kept = await fill(blobs, some_bytes(1 << 20))
    data = some_bytes(1 << 20, seed=2)
    content_id = await begin(blobs, data)
    await blobs.put_chunk(content_id, 0, chunk(data, 0))
    disk.capacity = disk.used
    with pytest.raises(StorageError, match="full"):
        await blobs.put_chunk(content_id, 1, chunk(data, 1))
    assert await read_back(blobs, kept) == some_bytes(1 << 20)
    disk.capacity = 1 << 40
    assert await fill(blobs, data) == content_id


async def test_leftovers_give_way_when_room_is_short() -> None:
    disk = MemoryDisk()
    abandoned = some_bytes(2 << 20)
    first = await opened(disk)
    content_id = await begin(first, abandoned)
    for index in range(7):
        await first.put_chunk(content_id, index, chunk(abandoned, index))
    second = await opened(disk, max_bytes=3 << 20)
    assert second.used() > 1 << 20
    wanted = await fill(second, some_bytes(2 << 20, seed=2))
    assert second.has(wanted) and second.partial() == []
    assert all(wanted.hex() in path for path in await disk.list(""))


async def test_removing_frees_the_room_whole_or_begun() -> None:
    disk = MemoryDisk()
    blobs = await opened(disk)
    whole = await fill(blobs, some_bytes(3 * CHUNK_BYTES))
    begun = await begin(blobs, some_bytes(3 * CHUNK_BYTES, seed=2))
    await blobs.put_chunk(begun, 0, chunk(some_bytes(3 * CHUNK_BYTES, seed=2), 0))
    for content_id in (whole, begun, whole, b"n" * 32):
        await blobs.remove(content_id)
    assert blobs.used() == 0 and await disk.list("") == [] and blobs.ids() == []
    with pytest.raises(NotHere):
        await blobs.put_chunk(begun, 1, b"")


# --- files of the user's ---


async def test_a_file_is_described_imported_and_given_out_alike(tmp_path: Path) -> None:
    data = some_bytes(3 * CHUNK_BYTES + 7)
    path = tmp_path / "file"
    path.write_bytes(data)
    expected = describe_bytes(data)
    seen: list[tuple[int, int]] = []
    assert await describe(path, lambda done, total: seen.append((done, total))) == expected
    assert seen[-1] == (len(data), len(data)) and len(seen) == 4
    disk = RealDisk(tmp_path / "store")
    blobs = await opened(disk)
    assert await blobs.import_file(path) == expected
    assert await blobs.import_file(path) == expected
    assert await blobs.import_file(data) == expected
    assert await read_back(blobs, expected[0]) == data
    assert blobs.used() == len(data) + 32 * 4
    assert len(await disk.list("")) == 2
    for source in (await open_source(path), await open_source(str(path)), await open_source(data)):
        assert (source.digest, source.content, await source.manifest()) == expected
        assert b"".join([await source.read_chunk(index) for index in range(chunk_count(source.content))]) == data
        for index in (-1, 4):
            with pytest.raises(BadMessage):
                await source.read_chunk(index)
    disk.close()


@pytest.mark.parametrize("source", [5, None, [1, 2], ["a"], 1.5, {}])
async def test_what_is_neither_bytes_nor_a_path_is_no_content(source: Any) -> None:
    with pytest.raises(BadMessage, match="data is bytes, or the path of a file, not of type"):
        await open_source(source)


async def test_an_empty_file_is_a_content_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    disk = RealDisk(tmp_path / "store")
    blobs = await opened(disk)
    content_id, content, manifest = await blobs.import_file(tmp_path / "empty")
    assert (content_id, content.size, manifest) == (sha256().digest(), 0, b"")
    assert blobs.has(content_id) and await blobs.get_small(content_id) == b""
    disk.close()


async def test_a_file_that_is_too_large_is_not_read_at_all(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    disk = RealDisk(tmp_path / "store")
    blobs = await opened(disk)
    with pytest.raises(Overloaded):
        await blobs.import_file(tmp_path / "sparse")
    assert blobs.used() == 0 and await disk.list("") == []
    disk.close()


async def test_no_file_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StorageError, match="there is no file"):
            await describe(path)


async def test_a_file_that_changes_while_it_is_given_out_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(some_bytes(1000))
    source = await open_source(path)
    path.write_bytes(some_bytes(1000, seed=2))
    with pytest.raises(Conflict, match="put it again"):
        await source.read_chunk(0)
    path.unlink()
    with pytest.raises(Conflict, match="put it again"):
        await source.read_chunk(0)


async def test_a_download_into_a_file_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    data = some_bytes(4 * CHUNK_BYTES + 3)
    content_id, content, manifest = describe_bytes(data)
    target = tmp_path / "target"
    target.write_bytes(b"an older version")
    first = FileSink(target)
    await first.begin(content_id, content, manifest)
    for index in (0, 3):
        await first.put_chunk(content_id, index, chunk(data, index))
    second = FileSink(target)
    await second.begin(content_id, content, manifest)
    assert second.missing(content_id) == [1, 2, 4]
    for index in (4, 2, 1):
        await second.put_chunk(content_id, index, chunk(data, index))
    assert target.read_bytes() == b"an older version"
    await second.finish(content_id)
    assert target.read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
async def test_a_file_that_was_fetched_is_for_whom_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    data = some_bytes(CHUNK_BYTES + 3)
    content_id, content, manifest = describe_bytes(data)
    before = os.umask(umask)
    try:
        sink = FileSink(tmp_path / "fetched")
        await sink.begin(content_id, content, manifest)
        for index in sink.missing(content_id):
            await sink.put_chunk(content_id, index, chunk(data, index))
        await sink.finish(content_id)
        await save(_pieces(data), tmp_path / "unsealed")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_what_is_left_of_another_download_does_not_disturb(tmp_path: Path) -> None:
    data = some_bytes(CHUNK_BYTES + 3)
    content_id, content, manifest = describe_bytes(data)
    (tmp_path / "target.part").write_bytes(some_bytes(3 * CHUNK_BYTES, seed=2))
    sink = FileSink(tmp_path / "target")
    await sink.begin(content_id, content, manifest)
    assert sink.missing(content_id) == [0, 1]
    for index in (0, 1):
        await sink.put_chunk(content_id, index, chunk(data, index))
    await sink.finish(content_id)
    assert (tmp_path / "target").read_bytes() == data


async def test_a_directory_is_no_place_for_a_download(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name a file"):
        await FileSink(tmp_path).begin(*describe_bytes(b"x"))


async def test_a_sink_in_memory_verifies_too() -> None:
    data = some_bytes(CHUNK_BYTES + 3)
    content_id, content, manifest = describe_bytes(data)
    sink = MemorySink()
    await sink.begin(content_id, content, manifest)
    with pytest.raises(BadMessage):
        await sink.put_chunk(content_id, 0, chunk(data, 1))
    with pytest.raises(BadMessage):
        sink.value()
    await sink.put_chunk(content_id, 1, chunk(data, 1))
    with pytest.raises(BadMessage, match="missing"):
        await sink.finish(content_id)
    await sink.put_chunk(content_id, 0, chunk(data, 0))
    await sink.finish(content_id)
    assert sink.value() == data
    liar = MemorySink()
    await liar.begin(b"l" * 32, content, manifest)
    for index in (0, 1):
        await liar.put_chunk(b"l" * 32, index, chunk(data, index))
    with pytest.raises(BadMessage, match="are not sha256"):
        await liar.finish(b"l" * 32)
