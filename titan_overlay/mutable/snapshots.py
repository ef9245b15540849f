"""Snapshots of a group on disk: one file each, whole or not there, checked before it is believed.

    magic 8 | length u32 | head (msgpack) | length u32 | chunk | ... | length u32 = 0 | SHA-256 of all before it

The newest that is whole counts; a crash while one is written leaves the one before it. No snapshot is ever in memory as
a whole: it is written, hashed, sent and read in pieces, and others have their turn in between.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from hashlib import sha256

import msgspec

from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.mutable.engine import Checkpoint
from titan_overlay.mutable.epochs import Chain
from titan_overlay.storage.disk import Disk
from titan_overlay.wire import codec

MAGIC = b"titan\0g1"
LENGTH = struct.Struct(">I")
CHUNK_BYTES_MAX = 16 << 20
"""Of one chunk, as it comes from the object: so much is in memory at once."""
READ_BYTES = 256 << 10
WRITE_BYTES = 256 << 10
"""What is hashed and written in one turn of the loop."""
SYNC_BYTES = 4 << 20
"""So much is written and not durable, at most: what the log writes meanwhile waits for all of it on many disks."""
DIRECTORY = "groups"


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is of."""

    object_id: bytes
    checkpoint: Checkpoint
    """Its root may be missing: it is known only once all has been written."""
    chain: Chain
    """Who has been a member, up to the epoch of the checkpoint."""
    stopped: bytes = b""
    """The member whose snapshot this is, where the owner has given its epoch up: it never takes part in that again."""


class Stored(msgspec.Struct, frozen=True):
    """A snapshot on disk that was read once, and is whole."""

    head: Head
    root: bytes
    """Hash of the state in it."""
    path: str

    @property
    def checkpoint(self) -> Checkpoint:
        """Of the head, with the root that the file really has."""
        return msgspec.structs.replace(self.head.checkpoint, root=self.root)


class Written(msgspec.Struct, frozen=True):
    """What was put on disk."""

    size: int
    """In bytes."""
    root: bytes


class Snapshots:
    """The snapshots of one object at one member."""

    def __init__(self, disk: Disk, object_id: bytes) -> None:
        self._disk = disk
        self._object_id = object_id
        self._directory = f"{DIRECTORY}/{object_id.hex()}"

    def _path(self, index: int) -> str:
        return f"{self._directory}/{index:016x}.snapshot"

    async def write(self, head: Head, chunks: Iterable[bytes], *, pause: float = 0.0) -> Written:
        """Puts a snapshot on disk, durably, and removes those before it. One at a time.

        Args:
            pause: seconds after each chunk, which are others'.

        Raises:
            StorageError: the disk is full or broken, or a chunk is too large; the snapshot before it stays.
        """
        target = self._path(head.checkpoint.index)
        trial = f"{target}.new"
        await self._disk.remove(trial)
        encoded = codec.encode(head)
        digest, root, size, synced = sha256(), sha256(), 0, 0

        async def put(piece: bytes) -> None:
            nonlocal size, synced
            digest.update(piece)
            size += len(piece)
            await self._disk.append(trial, piece)
            if size - synced >= SYNC_BYTES:
                await self._disk.sync(trial)
                synced = size

        await put(MAGIC + LENGTH.pack(len(encoded)) + encoded)
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise StorageError(f"a chunk of a snapshot has {len(chunk)} bytes, {CHUNK_BYTES_MAX} are the most")
            begin = LENGTH.pack(len(chunk))
            for start in range(0, len(chunk), WRITE_BYTES):
                piece = chunk[start : start + WRITE_BYTES]
                root.update(piece)
                await put(begin + piece)
                begin = b""
            if pause:
                await asyncio.sleep(pause)
        await put(LENGTH.pack(0))
        await self._disk.append(trial, digest.digest())
        await self._settle(trial, target)
        return Written(size + digest.digest_size, root.digest())

    async def _settle(self, trial: str, target: str) -> None:
        await self._disk.sync(trial)
        await self._disk.replace(trial, target)
        for path in await self._disk.list(f"{self._directory}/"):
            if path not in (target, self._incoming):
                await self._disk.remove(path)

    async def newest(self) -> Stored | None:
        """The newest snapshot, or None where there is none.

        Raises:
            StorageError: there are some, and none is whole.
        """
        damaged = ""
        for path in reversed(await self._disk.list(f"{self._directory}/")):
            if not path.endswith(".snapshot"):
                continue
            try:
                return await self._checked(path)
            except BadMessage as why:
                damaged = f"{path}: {why}"
        if damaged:
            raise StorageError(f"no snapshot of this group is whole ({damaged})")
        return None

    async def _checked(self, path: str) -> Stored:
        """Reads a file to its end. BadMessage: it is no snapshot of this object, or damaged."""
        head: Head | None = None
        root = sha256()
        async for chunk in self._frames(path):
            if head is not None:
                root.update(chunk)
                continue
            head = codec.decode(chunk, Head)
            if head.object_id != self._object_id:
                raise BadMessage("the snapshot is of another object")
        if head is None:
            raise BadMessage("the snapshot has no head")
        return Stored(head, root.digest(), path)

    async def chunks(self, stored: Stored) -> AsyncIterator[bytes]:
        """What the state is made of, as it was written. BadMessage: the file has been damaged since it was checked."""
        frames = self._frames(stored.path)
        await anext(frames)
        async for chunk in frames:
            yield chunk

    async def _frames(self, path: str) -> AsyncIterator[bytes]:
        """Head and chunks. BadMessage: not a snapshot, or damaged, which shows at its end."""
        reader = _Reader(self._disk, path)
        if await reader.take(len(MAGIC)) != MAGIC:
            raise BadMessage("not a snapshot of a group")
        while True:
            (length,) = LENGTH.unpack(await reader.take(LENGTH.size))
            if length == 0:
                break
            if length > CHUNK_BYTES_MAX:
                raise BadMessage(f"a chunk of {length} bytes")
            yield await reader.take(length)
        digest = reader.digest.digest()
        if await reader.take(len(digest)) != digest or not await reader.at_end():
            raise BadMessage("the snapshot is damaged")

    async def piece(self, index: int, offset: int, size: int) -> tuple[int, bytes]:
        """Size of a snapshot's file, and some of its bytes. FileNotFoundError: there is none (any more)."""
        path = self._path(index)
        whole = await self._disk.size(path)
        if whole is None:
            raise FileNotFoundError(path)
        return whole, await self._disk.read(path, offset, size)

    async def check_room(self, size: int) -> None:
        """Whether a snapshot of this size may be fetched. StorageError: it would take more than half of what is left:
        who offers it may lie, and the log of all groups needs room.
        """
        free = await self._disk.free()
        if size > free // 2:
            raise StorageError(f"a snapshot of {size} bytes is more than half of the {free} that the disk has left")

    async def add(self, data: bytes, at: int) -> None:
        """A piece of a snapshot that is being fetched."""
        if at == 0:
            await self._disk.remove(self._incoming)
        await self._disk.append(self._incoming, data)

    async def fetched(self) -> Stored:
        """What was fetched is whole now. BadMessage: it is no snapshot of this object."""
        return await self._checked(self._incoming)

    async def keep(self, fetched: Stored) -> None:
        """What was fetched is believed: it is the newest from now on."""
        await self._settle(fetched.path, self._path(fetched.head.checkpoint.index))

    @property
    def _incoming(self) -> str:
        return f"{self._directory}/incoming"

    async def remove(self) -> None:
        """All of them: the object is not held here any more."""
        for path in await self._disk.list(f"{self._directory}/"):
            await self._disk.remove(path)


class _Reader:
    """Bytes of a file, one after the other; `digest` is of all that were taken."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.digest = sha256()
        self._disk = disk
        self._path = path
        self._offset = 0
        self._buffer = b""
        self._place = 0

    async def take(self, count: int) -> bytes:
        """BadMessage: the file ends before."""
        while len(self._buffer) - self._place < count:
            wanted = max(READ_BYTES, count)
            more = await self._disk.read(self._path, self._offset, wanted)
            if not more:
                raise BadMessage("the snapshot ends too early")
            self._offset += len(more)
            self._buffer = self._buffer[self._place :] + more
            self._place = 0
        taken = self._buffer[self._place : self._place + count]
        self._place += count
        self.digest.update(taken)
        return taken

    async def at_end(self) -> bool:
        return self._place == len(self._buffer) and not await self._disk.read(self._path, self._offset, 1)
