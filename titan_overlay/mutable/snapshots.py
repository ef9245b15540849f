"""Snapshots of a group on disk: one file each, whole or not there, checked before it is believed.

    magic 8 | length u32 | head (msgpack) | length u32 | chunk | ... | length u32 = 0 | SHA-256 of all before it

The newest that is whole counts; a crash while one is written leaves the one before it.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

import msgspec

from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.mutable.engine import Checkpoint
from titan_overlay.mutable.epochs import Chain
from titan_overlay.storage.disk import Disk
from titan_overlay.wire import codec

MAGIC = b"titan\0g1"
LENGTH = struct.Struct(">I")
CHUNK_BYTES_MAX = 1 << 30
DIRECTORY = "groups"


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is of."""

    object_id: bytes
    checkpoint: Checkpoint
    chain: Chain
    """Who has been a member, up to the epoch of the checkpoint."""


class Snapshots:
    """The snapshots of one object at one member."""

    def __init__(self, disk: Disk, object_id: bytes) -> None:
        self._disk = disk
        self._object_id = object_id
        self._directory = f"{DIRECTORY}/{object_id.hex()}"

    def _path(self, index: int) -> str:
        return f"{self._directory}/{index:016x}.snapshot"

    async def write(self, head: Head, chunks: Iterable[bytes]) -> int:
        """Puts a snapshot on disk, durably, and removes those before it. Returns its size in bytes.

        Raises:
            StorageError: the disk is full or broken; the snapshot before it stays.
        """
        target = self._path(head.checkpoint.index)
        trial = f"{target}.new"
        await self._disk.remove(trial)
        digest = sha256()
        size = 0
        for piece in _frames(head, chunks):
            digest.update(piece)
            size += len(piece)
            await self._disk.append(trial, piece)
        await self._disk.append(trial, digest.digest())
        await self._settle(trial, target)
        return size + digest.digest_size

    async def _settle(self, trial: str, target: str) -> None:
        await self._disk.sync(trial)
        await self._disk.replace(trial, target)
        for path in await self._disk.list(f"{self._directory}/"):
            if path != target:
                await self._disk.remove(path)

    async def newest(self) -> "tuple[Head, list[bytes]] | None":
        """The newest snapshot, or None where there is none.

        Raises:
            StorageError: there are some, and none is whole.
        """
        damaged = ""
        for path in reversed(await self._disk.list(f"{self._directory}/")):
            if not path.endswith(".snapshot"):
                continue
            try:
                return parse(await self._disk.read(path), self._object_id)
            except BadMessage as why:
                damaged = f"{path}: {why}"
        if damaged:
            raise StorageError(f"no snapshot of this group is whole ({damaged})")
        return None

    async def piece(self, index: int, offset: int, size: int) -> tuple[int, bytes]:
        """Size of a snapshot's file, and some of its bytes. FileNotFoundError: there is none (any more)."""
        path = self._path(index)
        whole = await self._disk.size(path)
        if whole is None:
            raise FileNotFoundError(path)
        return whole, await self._disk.read(path, offset, size)

    async def add(self, data: bytes, at: int) -> None:
        """A piece of a snapshot that is being fetched."""
        if at == 0:
            await self._disk.remove(self._incoming)
        await self._disk.append(self._incoming, data)

    async def fetched(self, check: Callable[[Head], None]) -> "tuple[Head, list[bytes]]":
        """What was fetched is whole now: checks it and makes it the newest.

        Args:
            check: raises BadMessage where it is not to be believed.

        Raises:
            BadMessage: it is no snapshot of this object.
        """
        head, chunks = parse(await self._disk.read(self._incoming), self._object_id)
        check(head)
        await self._settle(self._incoming, self._path(head.checkpoint.index))
        return head, chunks

    @property
    def _incoming(self) -> str:
        return f"{self._directory}/incoming"

    async def remove(self) -> None:
        """All of them: the object is not held here any more."""
        for path in await self._disk.list(f"{self._directory}/"):
            await self._disk.remove(path)


def _frames(head: Head, chunks: Iterable[bytes]) -> Iterator[bytes]:
    encoded = codec.encode(head)
    yield MAGIC + LENGTH.pack(len(encoded)) + encoded
    for chunk in chunks:
        if chunk:
            yield LENGTH.pack(len(chunk)) + chunk
    yield LENGTH.pack(0)


def parse(data: bytes, object_id: bytes) -> "tuple[Head, list[bytes]]":
    """Head and chunks of a snapshot's file.

    Raises:
        BadMessage: damaged, or of another object.
    """
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + 32:
        raise BadMessage("not a snapshot of a group")
    if sha256(memoryview(data)[:-32]).digest() != data[-32:]:
        raise BadMessage("the snapshot is damaged")
    chunks: list[bytes] = []
    place = len(MAGIC)
    try:
        while True:
            (length,) = LENGTH.unpack_from(data, place)
            place += LENGTH.size
            if length == 0:
                break
            chunks.append(data[place : place + length])
            place += length
    except struct.error:
        raise BadMessage("the snapshot ends too early") from None
    if place != len(data) - 32 or not chunks:
        raise BadMessage("the snapshot has no head, or something behind its end")
    head = codec.decode(chunks[0], Head)
    if head.object_id != object_id:
        raise BadMessage("the snapshot is of another object")
    return head, chunks[1:]
