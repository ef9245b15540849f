"""States of a group at one member: when a snapshot is taken, how one that is behind gets one from another member."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_overlay.errors import BadMessage, LinkError, NotHere, RemotableError, StorageError
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Checkpoint, Entry, Fetch
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

SNAPSHOT_LOG_BYTES = 4 << 20
"""A snapshot is taken when the log behind the last one has grown by this, or by twice what the last one had."""
PIECE_BYTES = 256 << 10
FETCH_SECONDS = 10.0


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
        self._taking = False
        self._log_bytes = 0
        self._bytes = 0

    # ---- taking ----------------------------------------------------------------------------------------------

    def executed(self, entry: Entry) -> None:
        """Takes a snapshot where the log has grown enough."""
        self._log_bytes += len(entry.data)
        if self._group.proofs is not None:
            return  # its engine says when: all members do it at the same heights
        if self._log_bytes > max(SNAPSHOT_LOG_BYTES, 2 * self._bytes) and not self._taking:
            self._taking = True
            self._log_bytes = 0
            self._group.spawn(self._take(Checkpoint(entry.index, entry.term)))

    def agree(self, entry: Entry) -> None:
        """The members compare their states at this height: what is here is signed, once it is on disk."""
        self._taking = True
        self._log_bytes = 0
        root = self._group.machine.root()
        self._group.spawn(self._take(Checkpoint(entry.index, entry.term, root)))

    async def _take(self, checkpoint: Checkpoint) -> None:
        epoch = self._group.configuration.epoch
        try:
            await self.write(checkpoint)
        except StorageError as why:
            log.warning("%s: no snapshot was written, the log goes on: %s", self._group.machine.name, why)
            return
        finally:
            self._taking = False
        if epoch == self._group.configuration.epoch:
            self._group.snapshot_taken(checkpoint)

    async def write(self, checkpoint: Checkpoint) -> None:
        """Puts the state as it is now on disk, with the chain of epochs."""
        machine = self._group.machine
        head = Head(machine.object_id, checkpoint, self._group.chain)
        self._bytes = await self._snapshots.write(head, machine.snapshot())
        self.checkpoint = checkpoint

    # ---- giving and getting ------------------------------------------------------------------------------------

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        """A piece of this member's snapshot, for one that is behind.

        Raises:
            NotHere: it has none that high.
        """
        index = self.checkpoint.index
        if index < wanted.index:
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
                    await self._fetch_from(source, checkpoint)
                    return
                except (LinkError, RemotableError, StorageError) as why:
                    log.info("%s: no state from %s: %s", group.machine.name, source.hex()[:12], why)
        finally:
            self._fetching = False

    async def _fetch_from(self, source: bytes, checkpoint: Checkpoint) -> None:
        index, offset = checkpoint.index, 0
        while True:
            body = codec.encode(talk.StateWanted(index, offset))
            answer = await self._group.peers.ask(source, talk.STATE, body, FETCH_SECONDS)
            piece = codec.decode(answer, talk.StatePiece)
            if piece.index < checkpoint.index or (not piece.data and offset < piece.size):
                raise BadMessage("it offers an older state than was asked for, or nothing")
            if piece.index != index and offset:
                index, offset = piece.index, 0
                continue
            index = piece.index
            await self._snapshots.add(piece.data, offset)
            offset += len(piece.data)
            if offset >= piece.size:
                break
        succession = self._group.succession
        head, chunks = await self._snapshots.fetched(lambda head: succession.check(head, checkpoint))
        if head.checkpoint.index > self._group.machine.height:
            self.checkpoint = head.checkpoint
            self._group.installed(head, chunks)
