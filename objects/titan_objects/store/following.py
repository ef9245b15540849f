"""Following another server: the link to it, its snapshot, and its stream of commands."""

import asyncio
import logging
import mmap
import re
import tempfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from titan_objects.store.effects import encode, recreate
from titan_objects.store.parser import Damaged, ProtocolError, make_reader, only_words
from titan_objects.store.rdb import Reader
from titan_objects.store.resp import bulks
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.host import Store
    from titan_objects.store.replication import Leader

_LOG = logging.getLogger("titan_objects.store")

RETRY_SECONDS = 1.0
READ_BYTES = 1 << 16
SLICE_KEYS = 200
"""Keys of a snapshot that are read at once: about a millisecond's work where they are small."""

MARK_BYTES = 40


class LinkError(Exception):
    """The other server said what does not belong there, or nothing."""


class Following:
    """Keeps a store what another server is, until it is told to stop."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begins or ends, as the store was told by REPLICAOF."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        leader = self._store.engine.replication.leader
        if leader is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(leader))

    async def _run(self, leader: "Leader") -> None:
        while True:
            try:
                await self._follow(leader)
            except (OSError, ValueError, LinkError, Damaged, ProtocolError, asyncio.IncompleteReadError) as why:
                _LOG.warning("the link to %s:%d is cut: %s", leader.host, leader.port, why or type(why).__name__)
            leader.link = "connect"
            await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, leader: "Leader") -> None:
        timeout = int(self._store.config.get("repl-timeout"))
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(leader.host, leader.port)
        try:
            link = _Link(reader, writer, timeout)
            await self._introduce(link)
            await self._synchronize(link, leader)
            leader.link = "connected"
            await self._execute(link, leader)
        finally:
            self._store.engine.loading = False
            self._store.engine.look()
            writer.close()

    async def _introduce(self, link: "_Link") -> None:
        config = self._store.config
        password, user = config.get("masterauth"), config.get("masteruser")
        if password:
            await link.ask("AUTH", *([user] if user else []), password)
        await link.ask("PING")
        await link.ask("REPLCONF", "listening-port", config.get("port"))
        await link.ask("REPLCONF", "capa", "eof", "capa", "psync2")

    async def _synchronize(self, link: "_Link", leader: "Leader") -> None:
        asked = ("PSYNC", leader.id, str(leader.offset + 1)) if leader.offset >= 0 else ("PSYNC", "?", "-1")
        answer = await link.ask(*asked)
        found = re.fullmatch(r"CONTINUE(?: (\S+))?|FULLRESYNC (\S+) (\d+)", answer)
        if found is None:
            raise LinkError(f"it answers PSYNC with {answer!r}")
        known, id, offset = found.groups()
        if id is None:
            leader.id = known or leader.id
        else:
            leader.link, leader.offset = "sync", -1  # until all is there, there is nothing to go on from
            with tempfile.TemporaryFile() as file:
                await link.read_snapshot(file)
                async with self._store.snapshots:  # a rewrite must not begin within the log's transaction
                    await self._load(file)
            leader.id, leader.offset = id, int(offset)

    async def _load(self, file: IO[bytes]) -> None:
        """Puts a snapshot in place of all that is here; the log gets it as one transaction."""
        store, engine = self._store, self._store.engine
        engine.loading = True
        engine.look()
        engine.rewind_log()
        engine.flush(engine.databases)
        engine.functions.flush()
        engine.effects += ([b"MULTI"], [b"FLUSHALL"], [b"FUNCTION", b"FLUSH"])
        store.note_effects()
        try:
            stream_db = await self._read(file)
        except Exception:
            self._end_load()  # with what was read so far: nothing later may stand in a transaction that never ends
            raise
        self._end_load()
        engine.internal.db = engine.databases[stream_db]

    async def _read(self, file: IO[bytes]) -> int:
        """Reads a snapshot; the database in which the stream behind it begins."""
        store, engine = self._store, self._store.engine
        logged_db = 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = Reader(data)
            for count, (db, key) in enumerate(reader.keys(engine), 1):
                if db.index != logged_db:
                    logged_db = db.index
                    engine.effects.append([b"SELECT", b"%d" % logged_db])
                engine.effects += recreate(key, db.data[key], db.expires.get(key))
                if count % SLICE_KEYS == 0:
                    store.note_effects()
                    await asyncio.sleep(0)
        return reader.stream_db

    def _end_load(self) -> None:
        engine = self._store.engine
        engine.effects += ([b"FUNCTION", b"LOAD", each.source] for each in engine.functions.libraries.values())
        engine.effects += ([b"SELECT", b"0"], [b"EXEC"])
        self._store.note_effects()
        engine.loading = False
        engine.look()

    async def _execute(self, link: "_Link", leader: "Leader") -> None:
        reader = make_reader()
        stream = _Stream()
        acknowledging = asyncio.get_running_loop().create_task(self._acknowledge(link, leader))
        try:
            while True:
                data = link.take_rest() or await link.read()
                leader.heard_ms = self._store.now()
                reader.feed(data)
                commands: list[Args] = []
                commands.extend(iter(reader.gets, False))  # type: ignore[arg-type]
                if not only_words(commands):
                    raise LinkError("its stream holds what is no command")
                whole = stream.whole(commands)
                if not whole:
                    continue
                self._check_databases(whole)
                await self._store.writable.wait()  # refused while the disk is full, it would be missing for ever
                for error in self._store.apply([each for each in whole if each[0].upper() != b"REPLCONF"]):
                    _LOG.error("a command of %s:%d failed here: %r", leader.host, leader.port, error)
                leader.offset += len(encode(whole))
                if any(each[0].upper() == b"REPLCONF" for each in whole):
                    link.tell("REPLCONF", "ACK", str(leader.offset))
        finally:
            acknowledging.cancel()

    def _check_databases(self, commands: list[Args]) -> None:
        """Before any of these is executed: what belongs into a database that is not here must not come into another.

        Raises:
            LinkError: there are too few; once there are more, it goes on from here.
        """
        most = len(self._store.engine.databases)
        for args in commands:
            if args[0].upper() == b"SELECT" and not (len(args) == 2 and args[1].isdigit() and int(args[1]) < most):
                raise LinkError(f"it uses the database {args[1:]}; set databases to more than {most} and start again")

    async def _acknowledge(self, link: "_Link", leader: "Leader") -> None:
        while not link.over:
            link.tell("REPLCONF", "ACK", str(leader.offset))
            await asyncio.sleep(1.0)

    async def close(self) -> None:
        """Ends."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None


class _Stream:
    """Keeps a transaction until it is whole: a link that is cut within one must not leave half of it."""

    def __init__(self) -> None:
        self._held: list[Args] = []
        self._open = False

    def whole(self, commands: list[Args]) -> list[Args]:
        end = 0
        held = len(self._held)
        self._held += commands
        for at in range(held, len(self._held)):
            word = self._held[at][0].upper()
            if word == b"MULTI":
                self._open = True
            elif word == b"EXEC":
                self._open = False
            if not self._open:
                end = at + 1
        whole, self._held = self._held[:end], self._held[end:]
        return whole


class _Link:
    """A connection to the other server: lines, a snapshot, then a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._reader, self._writer, self._timeout = reader, writer, timeout
        self._rest = b""

    @property
    def over(self) -> bool:
        """Nothing can be told any more."""
        return self._writer.is_closing()

    def tell(self, *words: str) -> None:
        """Raises LinkError: it has ended."""
        if self.over:  # asyncio would pass over it, and uvloop raise what nobody foresees
            raise LinkError("it has closed the connection")
        self._writer.write(bulks([word.encode() for word in words]))

    async def ask(self, *words: str) -> str:
        """Asks, and returns the status. Raises LinkError: it refuses."""
        self.tell(*words)
        line = await self._line()
        if not line.startswith("+"):
            raise LinkError(f"it answers {words[0]} with {line!r}")
        return line[1:]

    async def _line(self) -> str:
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    line = await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                raise LinkError("it sends no lines") from None
            if line.strip():  # empty ones say that it is still at work
                return line.strip().decode("utf-8", "replace")

    async def read(self) -> bytes:
        async with asyncio.timeout(self._timeout):
            data = await self._reader.read(READ_BYTES)
        if not data:
            raise LinkError("it has closed the connection")
        return data

    def take_rest(self) -> bytes:
        """What came behind the snapshot."""
        rest, self._rest = self._rest, b""
        return rest

    async def read_snapshot(self, file: IO[bytes]) -> None:
        """Reads one into a file, by its size or up to its mark. Raises LinkError."""
        head = await self._line()
        found = re.fullmatch(r"\$(?:EOF:(.{40})|(\d+))", head)
        if found is None:
            raise LinkError(f"a snapshot cannot begin with {head!r}")
        if found[1] is not None:
            await self._read_until(found[1].encode(), file)
            return
        left = int(found[2])
        if not left:
            raise LinkError("its snapshot is empty")
        while left:
            data = await self.read()
            file.write(data[:left])
            self._rest = data[left:]
            left -= min(left, len(data))
        file.flush()

    async def _read_until(self, mark: bytes, file: IO[bytes]) -> None:
        held = b""
        while True:
            held += await self.read()
            at = held.find(mark)
            if at >= 0:
                file.write(held[:at])
                file.flush()
                self._rest = held[at + MARK_BYTES :]
                return
            file.write(held[:-MARK_BYTES])
            held = held[-MARK_BYTES:]
