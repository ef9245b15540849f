"""States of a group at one member: when a snapshot is taken, how one that is behind gets one from another member."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING

import msgspec

from titan_overlay.errors import BadMessage, LinkError, NotHere, RemotableError, StorageError, Unavailable
from titan_overlay.mutable import talk
from titan_overlay.mutable.code import LacksCode
from titan_overlay.mutable.engine import Checkpoint, Entry, Fetch
from titan_overlay.mutable.snapshots import Head, Snapshots, Stored
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

SNAPSHOT_LOG_BYTES = 4 << 20
"""A snapshot is taken when the log behind the last one has grown by this, or by twice what the last one had."""
PAUSE_SECONDS = 0.001
"""After each chunk of a snapshot that nobody waits for: about twice what it takes to make one."""
PIECE_BYTES = 256 << 10
FETCH_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
"""So long a member that may lie is given for all of a state; twice as long once none has come to its end in time."""


class States:
    """See the module.

    Args:
        checkpoint: of the snapshot that is on disk.
    """

    def __init__(self, group: "Group", snapshots: Snapshots, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._group = group
        self._snapshots = snapshots
        self._fetching = False
        self._patience = PATIENCE_SECONDS if group.byzantine else inf
        self._taking = False
        self.written_root = b""
        """Of the snapshot at the checkpoint, if this member has made it; members that agree have the same."""
        self.log_bytes = 0
        """Of entries since the last snapshot."""
        self._bytes = 0
        self._writing = asyncio.Lock()
        self._root: tuple[int, bytes] | None = None
        """Of the state at this height."""

    @property
    def log_is_short(self) -> bool:
        """The log has little that the snapshot on disk has as well, and no other is being made."""
        return self.log_bytes <= SNAPSHOT_LOG_BYTES and not self._taking

    # ---- taking ----------------------------------------------------------------------------------------------

    def executed(self, entry: Entry) -> None:
        """Takes a snapshot where the log has grown enough."""
        self.log_bytes += len(entry.data)
        if self._group.byzantine:
            return  # its engine says when: all members do it at the same heights
        if self.log_bytes > max(SNAPSHOT_LOG_BYTES, 2 * self._bytes) and not self._taking:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Takes a snapshot at this height. Of a byzantine group, the members compare its root once it is on disk."""
        group = self._group
        self.log_bytes = 0
        try:
            # The state of this moment, even if its turn to be written comes later.
            chunks = group.machine.snapshot()
        except Exception as why:  # of the object's own
            log.error("%s: no snapshot can be taken, the log goes on: %s", group.machine.name, why)
            return
        self._taking = True
        group.spawn(self._take(Checkpoint(entry.index, entry.term), group.configuration.epoch, chunks))

    async def _take(self, checkpoint: Checkpoint, epoch: int, chunks: Iterable[bytes]) -> None:
        group = self._group
        try:
            async with self._writing:
                if self._is_overtaken(checkpoint, epoch):
                    return
                root = await self._write(checkpoint, chunks, pause=PAUSE_SECONDS)
        except StorageError as why:
            log.warning("%s: no snapshot was written, the log goes on: %s", group.machine.name, why)
            return
        finally:
            self._taking = False
        if epoch == group.configuration.epoch:
            group.snapshot_taken(msgspec.structs.replace(checkpoint, root=root) if group.byzantine else checkpoint)

    async def write(self, checkpoint: Checkpoint, chunks: Iterable[bytes], *, stopped: bool = False) -> bytes:
        """Puts a state on disk, with the chain of epochs; gives its root.

        Args:
            stopped: this member takes no part in the epoch any more, whatever comes.

        Raises:
            StorageError: the disk is full or broken.
        """
        async with self._writing:
            return await self._write(checkpoint, chunks, by=self._group.me if stopped else b"")

    async def _write(
        self, checkpoint: Checkpoint, chunks: Iterable[bytes], *, by: bytes = b"", pause: float = 0.0
    ) -> bytes:
        head = Head(self._group.machine.object_id, checkpoint, self._group.succession.chain, by)
        written = await self._snapshots.write(head, chunks, pause=pause)
        self._bytes = written.size
        self.checkpoint, self.written_root = checkpoint, written.root
        return written.root

    def _is_overtaken(self, checkpoint: Checkpoint, epoch: int) -> bool:
        """What is on disk is newer, and the log may begin there: a lower state has no use for it."""
        return self.checkpoint.index > checkpoint.index or epoch != self._group.configuration.epoch

    async def root(self) -> bytes:
        """Hash of the state as it is now; nothing must be executed until it is known."""
        height = self._group.machine.height
        if self._root is None or self._root[0] != height:
            digest = sha256()
            for chunk in self._group.machine.snapshot():
                digest.update(chunk)
                await asyncio.sleep(0)
            self._root = height, digest.digest()
        return self._root[1]

    # ---- giving and getting ------------------------------------------------------------------------------------

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        """A piece of this member's snapshot, for one that is behind.

        Raises:
            NotHere: it has none that high.
        """
        index = self.checkpoint.index
        if index < wanted.index or self._group.has_stopped:  # with what others may give up
            raise NotHere(f"this member has no snapshot of {self._group.machine.name!r} at {wanted.index}")
        try:
            size, data = await self._snapshots.piece(index, wanted.offset, PIECE_BYTES)
        except FileNotFoundError:
            raise NotHere("the snapshot has just been replaced; ask again") from None
        return talk.StatePiece(index, size, data)

    def fetch(self, fetch: Fetch) -> None:
        """Gets a state from another member and goes on from there; one at a time."""
        if not self._fetching:
            self._fetching = True
            self._group.spawn(self._fetch(fetch.checkpoint, fetch.sources))

    async def _fetch(self, checkpoint: Checkpoint, sources: Sequence[bytes]) -> None:
        group = self._group
        try:
            for source in sources:
                try:
                    await self._install(await self._fetch_from(source, checkpoint), checkpoint)
                    return
                except (LinkError, RemotableError, StorageError) as why:
                    log.info("%s: no state from %s: %s", group.machine.name, source.hex()[:12], why)
            self._patience *= 2
        except LacksCode as why:
            group.lacks(why)
        finally:
            self._fetching = False

    async def _fetch_from(self, source: bytes, checkpoint: Checkpoint) -> Stored:
        group, index, offset, size = self._group, checkpoint.index, 0, 0
        until = group.loop.time() + self._patience
        while (left := until - group.loop.time()) > 0:
            body = codec.encode(talk.StateWanted(index, offset))
            answer = await group.peers.ask(source, talk.STATE, body, min(FETCH_SECONDS, left))
            piece = codec.decode(answer, talk.StatePiece)
            if piece.index < checkpoint.index or (not piece.data and offset < piece.size):
                raise BadMessage("it offers an older state than was asked for, or nothing")
            if piece.index != index and offset:
                index, offset = piece.index, 0
                continue
            if not offset:
                index, size = piece.index, piece.size
                await self._snapshots.check_room(size)
            if piece.size != size or offset + len(piece.data) > size:
                raise BadMessage("its state has another size than it has said")
            await self._snapshots.add(piece.data, offset)
            offset += len(piece.data)
            if offset == size:
                return await self._snapshots.fetched()
        raise Unavailable("it takes too long")

    async def _install(self, stored: Stored, wanted: Checkpoint) -> None:
        """Goes on from a state that was fetched. BadMessage: it is not to be believed, or none of this object."""
        group = self._group
        group.succession.check(stored, wanted)
        restoring = group.machine.restoring()
        async for chunk in self._snapshots.chunks(stored):
            restoring.add(chunk)
        async with self._writing:
            restoring.check()
            # After a recovery a member goes back where it had executed what the others lack.
            news = group.succession.is_news(stored.head.chain)
            if self._is_late(stored) or (self.checkpoint.index > stored.checkpoint.index and not news):
                return
            await self._snapshots.keep(stored)
            self.checkpoint = stored.checkpoint if group.byzantine else stored.head.checkpoint
            self.written_root = b""
        if (self.checkpoint.index > group.machine.height or news) and not self._is_late(stored):
            self._root = None
            restoring.finish()
            group.installed(stored.head.chain, self.checkpoint)

    def _is_late(self, stored: Stored) -> bool:
        """This member has stopped while a state of that epoch was fetched, and has said where."""
        return self._group.has_stopped and not self._group.succession.is_news(stored.head.chain)
