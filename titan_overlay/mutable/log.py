"""The write-ahead log of a node: one for all its groups, so that one fsync serves all that wait for one.

A group hands in records and waits until they are durable. While one fsync runs, what others hand in gathers, and is
the next batch (group commit). From time to time a group writes everything that it needs anew (`replace`); segments
that nobody needs any more are removed.

A log belongs to one node, and is what that node votes with: `Log.identity` is named where the node is a member, so a
node whose log was lost, or was another one's, is not that member any more. A log with `Damage` is never used again:
the marker `retired` says why, for good.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import StorageError
from titan_overlay.mutable.log_anew import Anew, W, Waiter, tell
from titan_overlay.mutable.log_format import (
    HEADER_BYTES,
    Act,
    Contents,
    Damage,
    Identity,
    Scan,
    Written,
    decode_identity,
    encode_batch,
    encode_header,
    encode_identity,
    segment_name,
)
from titan_overlay.storage.disk import Disk

_log = logging.getLogger(__name__)

HELP = (
    "Nothing was overwritten. Move the directory away to start with a new log: the node then joins its groups as a new "
    "member, as one whose disk was lost"
)


ROOM_BYTES = 1 << 20
"""By so much a segment is ahead of what is written to it, up to its full size."""
SEGMENTS_KEPT = 4
"""Above it, groups for whose sake the oldest segment is kept are to write themselves anew."""


class LogSettings(msgspec.Struct, frozen=True):
    """Sizes in bytes."""

    directory: str = "log"
    """Below the root of the disk."""
    segment_bytes: int = 16 << 20
    """A new file is begun once one is as large."""
    waiting_bytes_max: int = 64 << 20
    """What may wait for the disk."""
    piece_bytes: int = 256 << 10
    """Of what a group says anew, so much goes with one batch."""
    fsync: bool = True
    """False: for simulations alone. A crash of the machine may then lose what was acknowledged."""


class Log:
    """Records of many groups on one disk, durable when `write` says so. Made by `Log.open`."""

    def __init__(self, disk: Disk, settings: LogSettings, identity: Identity) -> None:
        self.settings = settings
        self.failed = ""
        """Why nothing can be written any more; the log has to be opened again."""
        self.on_full: Callable[[], None] = lambda: None
        """Told once it has failed for want of room alone: what was confirmed is on the disk, whatever comes."""
        self.on_held_back: Callable[[bytes], None] = lambda group: None
        """Told, with each new segment, of a group that should write itself anew: much is kept for its sake alone."""
        self._disk = disk
        self._identity = identity
        self._contents = Contents()
        self._begun: set[bytes] = set()
        self._sequence = 1
        self._offset = 0
        self._size = 0
        """Of the last segment: what follows the offset is room."""
        self._waiting: deque[tuple[Written, Waiter]] = deque()
        self._waiting_bytes = 0
        self._anew: dict[bytes, Anew] = {}
        self._appended = settings.segment_bytes
        """Bytes that groups have added since some were called to order; how many before this run nobody knows."""
        self._writer: asyncio.Task[None] | None = None
        self._tidier: asyncio.Task[None] | None = None
        self._renaming = asyncio.Lock()
        """The identity file changes, by whoever has this."""

    @property
    def identity(self) -> bytes:
        """32 bytes that only this log has: the node votes as the owner of it. Secret; name a hash or a key of it."""
        return self._identity.log

    # ---- opening -----------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, disk: Disk, node: bytes, ambient: Ambient, settings: LogSettings = LogSettings()) -> "Log":  # noqa: B008
        """Reads the log of a node, or begins one.

        Raises:
            Damage: it is another node's, or something durable is gone; it must not be used, now or ever.
            StorageError: the disk is full or broken.
        """
        if not settings.fsync:
            _log.warning("the log is written without fsync: a power failure may lose what was acknowledged")
        place = settings.directory
        retired = await _read(disk, f"{place}/retired")
        if retired is not None:
            raise Damage(f"the log in {place}/ was retired: {retired.decode('utf-8', 'replace')}. {HELP}")
        try:
            return await cls._open(disk, node, ambient, settings)
        except Damage as why:
            # Looking again might find less wrong; the votes that are lost would be no less lost.
            await disk.write(f"{place}/retired", str(why).encode())
            await disk.sync(f"{place}/retired")
            raise Damage(f"the log in {place}/ cannot be used: {why}. {HELP}") from None

    @classmethod
    async def _open(cls, disk: Disk, node: bytes, ambient: Ambient, settings: LogSettings) -> "Log":
        place = settings.directory
        raw = await _read(disk, f"{place}/identity")
        sizes = {path: await disk.size(path) or 0 for path in await disk.list(f"{place}/") if path.endswith(".log")}
        if raw is None:
            if any(size > HEADER_BYTES for size in sizes.values()):
                raise Damage("its identity file is missing")
            log = cls(disk, settings, Identity(node, ambient.token_bytes(32), 1, 1))
            await log._make_segment(1)
            await log._save_identity(log._identity)
            return log
        identity = decode_identity(raw)
        if identity.node != node:
            raise StorageError(
                f"the log in {place}/ belongs to node {identity.node.hex()}, this is {node.hex()}: "
                "it is left as it is; choose another directory with --data DIR"
            )
        log = cls(disk, settings, identity)
        await log._recover(sizes)
        return log

    async def _recover(self, sizes: dict[str, int]) -> None:
        first, last = self._identity.first, self._identity.last
        torn = False
        if any(sizes[path] > HEADER_BYTES for path in sizes if path > self._path(last)):
            raise Damage("there are segments that its identity file does not know of: that file is an old one")
        for number in range(first, last + 1):
            path = self._path(number)
            if path not in sizes:
                raise Damage(f"segment {segment_name(number)} is missing")
            scan = Scan(self._identity, number, await self._disk.read(path))
            if number > first and scan.first != self._sequence:
                raise Damage(f"segment {segment_name(number)} does not follow the one before it")
            if scan.torn and number < last:
                raise Damage(f"segment {segment_name(number)} ends in the middle of a batch")
            for batch in scan.batches:
                self._contents.take(number, batch)
            self._sequence, self._offset = scan.sequence, scan.end
            torn, self._size = scan.torn, sizes[path]
        self._contents.check()
        if torn:
            _log.warning("the last write to the log was not finished: %s is cut at %d", self._path(last), self._offset)
            await self._disk.truncate(self._path(last), self._offset)
            self._size = self._offset
        # A batch that a killed process left in the page cache is whole, but not durable before this.
        await self._sync(self._path(last))
        self._begun.update(self._contents.since)
        for path in sizes:
            # Of a segment that was being made, or removed, when the node died; nothing in it counts.
            if not self._path(first) <= path <= self._path(last):
                await self._disk.remove(path)

    # ---- what was found ----------------------------------------------------------------------------------------

    def groups(self) -> list[bytes]:
        """Ids of the groups in the log, sorted: as it will be once all that was handed in is written."""
        return sorted(self._begun)

    def take(self, group: bytes) -> list[bytes]:
        """The records that were found of a group when the log was opened. They are given out once."""
        return self._contents.records.pop(group, [])

    # ---- writing -----------------------------------------------------------------------------------------------

    def write(self, group: bytes, records: list[bytes]) -> asyncio.Future[None]:
        """Done when the records, and all that were handed in before, are durable.

        No records: only what was handed in before is waited for.

        Raises:
            ValueError: a group begins with `replace`.
            StorageError (from the future): the disk is full or broken. Whether the records are on it is not known.
        """
        if group not in self._begun:
            raise ValueError(f"group {group.hex()} is not in this log: it begins with `replace`")
        return self._hand_in(Written(group, Act.APPEND, records), asyncio.get_running_loop().create_future())

    def replace(self, group: bytes, records: Iterable[bytes]) -> asyncio.Future[None]:
        """As `write`; these records are all that the group needs, what it wrote before may go.

        Many are taken and written in pieces; until they all are, what the group wrote before still counts, and so it
        must be worth the same. Who replaces them before waits for these.
        """
        done = self._give_up(group) or asyncio.get_running_loop().create_future()
        if group not in self._begun:
            self._begun.add(group)
            return self._hand_in(Written(group, Act.REPLACE, list(records)), done)
        anew = Anew(records, self.settings.piece_bytes, done)
        first, is_all = anew.take()
        if is_all:
            return self._hand_in(Written(group, Act.REPLACE, first), done)
        self._hand_in(Written(group, Act.BEGIN, first), None)
        if self.failed:
            tell(done, StorageError(self.failed))
        else:
            self._anew[group] = anew
        return done

    def drop(self, group: bytes) -> asyncio.Future[None]:
        """As `write`: the group leaves this log."""
        self._begun.discard(group)
        self.take(group)
        done = self._give_up(group) or asyncio.get_running_loop().create_future()
        return self._hand_in(Written(group, Act.DROP, []), done)

    def _give_up(self, group: bytes) -> Waiter:
        """Says no more of what it says anew. Who waits for that."""
        anew = self._anew.pop(group, None)
        return None if anew is None else anew.done

    def holding_back(self) -> list[bytes]:
        """Groups for whose sake the oldest segment is kept: if the log grows, they should write themselves anew."""
        since = self._contents.since
        oldest = self._contents.first_needed(self._identity.last)
        return sorted(group for group, segment in since.items() if segment == oldest < self._identity.last)

    @property
    def segments(self) -> int:
        """How many files there are."""
        return self._identity.last - self._identity.first + 1

    @property
    def crowded(self) -> bool:
        """The disk does not keep up: groups should take no new proposals until it does."""
        return self._waiting_bytes > self.settings.waiting_bytes_max // 2

    async def close(self) -> None:
        """Waits for what was handed in."""
        while tasks := [task for task in (self._writer, self._tidier) if task is not None]:
            await asyncio.wait(tasks)

    def _hand_in(self, write: Written, done: W) -> W:
        self._waiting_bytes += sum(map(len, write.records))
        if self._waiting_bytes > self.settings.waiting_bytes_max:
            self._fail(f"more than {self.settings.waiting_bytes_max} bytes wait for the disk")
        if self.failed:
            tell(done, StorageError(self.failed))
            return done
        self._waiting.append((write, done))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())
        return done

    def _fail(self, why: str) -> None:
        # Engines are ahead of the disk now, and after a failed fsync nobody knows what is on it (Rebello et al., "Can
        # Applications Recover from fsync Failures?", ATC 2020): only reading it again will tell.
        self.failed = self.failed or f"the log cannot be written until it is read again: {why}"
        for done in (*(done for _, done in self._waiting), *(each.done for each in self._anew.values())):
            tell(done, StorageError(self.failed))
        self._waiting.clear()
        self._anew.clear()

    async def _write_all(self) -> None:
        try:
            while self._waiting or self._anew:
                batch = list(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
                if self._anew:
                    batch.append(self._piece())
                await self._write_batch(batch)
                if self._tidier is None and self._contents.first_needed(self._identity.last) > self._identity.first:
                    self._tidier = asyncio.get_running_loop().create_task(self._tidy())
        except StorageError as why:
            self._disk_fails(why)
        finally:
            self._writer = None

    def _disk_fails(self, why: StorageError) -> None:
        self._fail(str(why))
        if self._disk.full:
            self.on_full()

    def _piece(self) -> tuple[Written, Waiter]:
        """Of the group that is saying everything anew and began first: the next piece."""
        group, anew = next(iter(self._anew.items()))
        piece, is_last = anew.take()
        if not is_last:
            return Written(group, Act.PIECE, piece), None
        del self._anew[group]
        return Written(group, Act.END, piece), anew.done

    async def _write_batch(self, batch: list[tuple[Written, Waiter]]) -> None:
        # A write without records waits for those before it, no more.
        writes = [write for write, _ in batch if write.records or write.act is not Act.APPEND]
        try:
            if writes:
                await self._append(writes)
        except BaseException as why:
            for _, done in batch:
                tell(done, StorageError(f"the log could not be written ({why})"))
            raise
        for _, done in batch:
            tell(done, None)

    async def _append(self, writes: list[Written]) -> None:
        if self._offset >= self.settings.segment_bytes:
            number = self._identity.last + 1
            await self._make_segment(number)
            async with self._renaming:
                await self._save_identity(msgspec.structs.replace(self._identity, last=number))
            self._call_to_order()
        path = self._path(self._identity.last)
        raw = encode_batch(self._identity, self._sequence, writes)
        if self.settings.fsync:
            if self._offset + len(raw) > self._size:
                await self._make_room(path, self._offset + len(raw))
            await self._disk.write_through(path, raw, self._offset)
        else:
            await self._disk.write(path, raw, self._offset)
        self._offset += len(raw)
        self._sequence += 1
        if any(each.act is Act.APPEND for each in writes):
            self._appended += len(raw) - sum(
                sum(map(len, each.records)) for each in writes if each.act is not Act.APPEND
            )
        self._contents.note(self._identity.last, writes)

    async def _make_room(self, path: str, end: int) -> None:
        """So that not each batch changes the size of its file, which the disk would have to confirm as well."""
        size = max(end, min(end + ROOM_BYTES, self.settings.segment_bytes))
        try:
            await self._disk.truncate(path, size)
        except StorageError:
            return  # what is written next may still fit
        self._size = size

    def _call_to_order(self) -> None:
        """A group that sleeps writes nothing, and would have all kept for ever that others have written since.

        What is written anew fills segments as well. So that this comes to its end, whatever the sizes, groups are
        called only after others have added as much as a segment holds, and as those that slept have had written; and
        who is at it goes on to its end. What does not fit into the queue now is called next time.
        """
        if self.segments <= SEGMENTS_KEPT or self._appended < self.settings.segment_bytes or self.crowded:
            return
        self._appended = 0
        for group in self.holding_back():
            if group in self._anew or group not in self._begun:
                continue
            found = self._contents.records.get(group)
            if found is None:
                asyncio.get_running_loop().call_soon(self.on_held_back, group)
            elif not self.crowded:  # nobody has taken it in this run
                self.replace(group, found)
                self._appended -= sum(map(len, found))

    async def _tidy(self) -> None:
        """Removes segments that nobody needs; nobody waits for that."""
        try:
            while (first := self._contents.first_needed(self._identity.last)) > (old := self._identity.first):
                async with self._renaming:
                    await self._save_identity(msgspec.structs.replace(self._identity, first=first))
                for number in range(old, first):
                    await self._disk.remove(self._path(number))
        except StorageError as why:
            self._disk_fails(why)
        finally:
            self._tidier = None

    async def _make_segment(self, number: int) -> None:
        header = encode_header(self._identity, number, self._sequence)
        path = self._path(number)
        await self._disk.write(path, header)
        await self._disk.truncate(path, len(header))
        await self._disk.sync(path)
        self._offset = self._size = len(header)

    async def _save_identity(self, identity: Identity) -> None:
        place = self.settings.directory
        temporary = f"{place}/identity.new"
        raw = encode_identity(identity)
        await self._disk.write(temporary, raw)
        await self._disk.truncate(temporary, len(raw))
        await self._disk.sync(temporary)
        await self._disk.replace(temporary, f"{place}/identity")
        self._identity = identity

    async def _sync(self, path: str) -> None:
        if self.settings.fsync:
            await self._disk.sync(path)

    def _path(self, number: int) -> str:
        return f"{self.settings.directory}/{segment_name(number)}"


async def _read(disk: Disk, path: str) -> bytes | None:
    try:
        return await disk.read(path)
    except FileNotFoundError:
        return None
