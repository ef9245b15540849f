"""Snapshots on disk: whole or not there, checked before they are believed, never in memory as a whole."""

import asyncio
from hashlib import sha256
from itertools import pairwise

import pytest

from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.mutable import snapshots
from titan_overlay.mutable.engine import Checkpoint, Configuration
from titan_overlay.mutable.epochs import Chain
from titan_overlay.mutable.snapshots import Head, Snapshots, Stored
from titan_overlay.testing.disk import MemoryDisk

pytestmark = pytest.mark.loops("virtual")

OBJECT = b"o" * 32
CHAIN = Chain(Configuration(1, (b"a" * 32,), keys=(b"k" * 32,)))


def head(index: int, object_id: bytes = OBJECT) -> Head:
    return Head(object_id, Checkpoint(index, 1), CHAIN)


async def chunks_of(store: Snapshots, stored: Stored) -> list[bytes]:
    return [chunk async for chunk in store.chunks(stored)]


async def test_what_was_written_is_read_back_with_its_root() -> None:
    store = Snapshots(MemoryDisk(), OBJECT)
    chunks = [b"one", b"", b"x" * 700_000, b"two"]
    written = await store.write(head(7), iter(chunks))
    assert written.root == sha256(b"".join(chunks)).digest()
    stored = await store.newest()
    assert stored is not None
    assert (stored.head, stored.checkpoint) == (head(7), Checkpoint(7, 1, written.root))
    assert await chunks_of(store, stored) == [b"one", b"x" * 700_000, b"two"]


async def test_the_newest_replaces_those_before_it_and_not_what_is_being_fetched() -> None:
    disk = MemoryDisk()
    store = Snapshots(disk, OBJECT)
    await store.write(head(1), [b"old"])
    await store.add(b"half of a", 0)
    await store.write(head(2), [b"new"])
    stored = await store.newest()
    assert stored is not None and stored.head.checkpoint.index == 2
    assert len(await disk.list("groups/")) == 2


async def test_a_snapshot_goes_to_disk_bit_by_bit_whatever_its_chunks() -> None:
    """So that no turn of the loop is long, and what a log writes meanwhile waits for little of it."""
    disk, sizes, synced = MemoryDisk(), [0], [0]

    def watch(operation: str, path: str) -> None:
        sizes.append(disk.used)
        if operation == "sync":
            synced.append(disk.used)

    disk.on_operation = watch
    await Snapshots(disk, OBJECT).write(head(1), [b"x" * (5 << 20), *[b"y" * 60_000] * 100])
    assert max(after - before for before, after in pairwise(sizes)) <= snapshots.WRITE_BYTES + 64
    assert max(after - before for before, after in pairwise(synced)) < snapshots.SYNC_BYTES + snapshots.WRITE_BYTES + 64


async def test_between_two_chunks_others_have_a_while() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    await Snapshots(MemoryDisk(sync_seconds=0.0), OBJECT).write(head(1), [b"x"] * 50, pause=0.001)
    assert loop.time() - before == pytest.approx(0.05)


async def test_a_snapshot_that_was_not_finished_does_not_count() -> None:
    disk = MemoryDisk()
    store = Snapshots(disk, OBJECT)
    await store.write(head(1), [b"old"])

    def breaks() -> object:
        yield b"some"
        raise StorageError("full")

    with pytest.raises(StorageError):
        await store.write(head(2), breaks())  # type: ignore[arg-type]
    stored = await store.newest()
    assert stored is not None and stored.head.checkpoint.index == 1


async def test_any_flipped_byte_or_missing_end_is_noticed() -> None:
    disk = MemoryDisk()
    store = Snapshots(disk, OBJECT)
    await store.write(head(1), [b"state"])
    (path,) = await disk.list("groups/")
    whole = await disk.read(path)
    for place in range(len(whole)):
        await disk.write(path, bytes([whole[place] ^ 0x41]), place)
        with pytest.raises(StorageError, match="no snapshot"):
            await store.newest()
        await disk.write(path, whole[place : place + 1], place)
    await disk.append(path, b"more")
    with pytest.raises(StorageError, match="damaged"):
        await store.newest()
    for size in range(len(whole)):
        await disk.truncate(path, size)
        with pytest.raises(StorageError):
            await store.newest()
        await disk.write(path, whole)


async def test_what_is_fetched_is_checked_and_kept_only_once_it_is_believed() -> None:
    disk = MemoryDisk()
    source, store = Snapshots(MemoryDisk(), OBJECT), Snapshots(disk, OBJECT)
    await source.write(head(9), [b"state"])
    size, data = await source.piece(9, 0, 1 << 20)
    await store.add(data[:20], 0)
    with pytest.raises(BadMessage):
        await store.fetched()
    await store.add(data[20:], 20)
    stored = await store.fetched()
    assert (size, await store.newest()) == (len(data), None)
    await store.keep(stored)
    again = await store.newest()
    assert again is not None and await chunks_of(store, again) == [b"state"]


async def test_a_snapshot_of_another_object_is_refused() -> None:
    disk = MemoryDisk()
    await Snapshots(disk, OBJECT).write(head(1, b"x" * 32), [b"state"])
    with pytest.raises(StorageError, match="another object"):
        await Snapshots(disk, OBJECT).newest()


async def test_a_chunk_that_is_too_large_is_refused_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_BYTES_MAX", 10)
    with pytest.raises(StorageError, match="10 are the most"):
        await Snapshots(MemoryDisk(), OBJECT).write(head(1), [b"x" * 11])
