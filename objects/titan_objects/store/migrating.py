"""Moving keys to another server (MIGRATE), while commands go on here.

Redis holds up everybody until a key has been moved. Here a key may change on its way: it is let go only if it is still
what the other server has confirmed, and is sent again otherwise. So at every moment one of the two has all of it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from titan_objects.store.commands.migrate import NOKEY, Migration
from titan_objects.store.rdb_writing import dump
from titan_objects.store.resp import OK, CommandError, bulks

if TYPE_CHECKING:
    from titan_objects.store.blocking import Waiter
    from titan_objects.store.host import Store

MIGRATIONS_MAX = 16
"""Commands that are under way at once; others wait for their turn."""

BATCH_BYTES = 1 << 20
"""After which the other server has to confirm."""

ROUNDS_MAX = 10
"""How often a key is sent that changes again and again."""


@dataclass(frozen=True)
class Sent:
    """A key as it was read. `guard`: what stands on it since, in a group."""

    key: bytes
    payload: bytes
    until: int | None
    guard: int = 0


class Source(Protocol):
    """Where keys come from."""

    def now(self) -> int:
        """Unix milliseconds."""

    async def read(self, migration: Migration, left: deque[bytes]) -> list[Sent]:
        """Takes some keys off `left`; those of them that are there."""

    async def let_go(self, migration: Migration, sent: Sent) -> bool:
        """Deletes a key; False: it is not what was read."""

    def keep(self, sent: Sent) -> None:
        """It stays."""


async def moved(source: Source, migration: Migration) -> bytes:
    """Moves keys; the reply for who wanted that."""
    try:
        return await _move(source, migration)
    except CommandError as why:
        return why.reply
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as why:  # of a host's name
        where, text = f"{migration.host}:{migration.port}", str(why) or type(why).__name__
        return CommandError(
            f"IOERR error or timeout with {where}: {text}; what it has not confirmed is here, and may be there too"
        ).reply


async def _move(source: Source, migration: Migration) -> bytes:
    """Raises CommandError: what was refused, or could not be let go; OSError and its like: the link is cut."""
    seconds = migration.timeout_ms / 1000
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(migration.host, migration.port)
    try:
        link = _Link(reader, writer, seconds)
        if migration.options.login:
            await link.ask([b"AUTH", *migration.options.login])
        await link.ask([b"SELECT", b"%d" % migration.database])
        keys, replace, reply = migration.options.keys, migration.options.replace, NOKEY
        for _ in range(ROUNDS_MAX):
            found, keys = await _round(source, migration, link, keys, replace)
            reply = OK if found else reply
            if not keys:
                return reply
            replace = True
        raise CommandError(
            b"ERR '%b' has changed again each time it was sent: it is here, and there as it was" % keys[0][:128]
        )
    finally:
        writer.close()


async def _round(
    source: Source, migration: Migration, link: "_Link", keys: list[bytes], replace: bool
) -> tuple[bool, list[bytes]]:
    """Sends keys, and lets go of them; whether there were any, and those that have changed meanwhile."""
    left, changed = deque(keys), []
    refused: CommandError | None = None
    found = False
    while left:
        batch = deque(await source.read(migration, left))
        found |= bool(batch)
        try:
            for sent in batch:
                ttl = 0 if sent.until is None else max(1, sent.until - source.now())
                link.tell([b"RESTORE", sent.key, b"%d" % ttl, sent.payload, *([b"REPLACE"] if replace else [])])
            await link.sent()
            while batch:
                try:
                    await link.confirmed()
                except CommandError as why:
                    refused = refused or why
                    source.keep(batch.popleft())
                    continue
                sent = batch.popleft()
                if migration.options.copy:
                    source.keep(sent)
                elif not await source.let_go(migration, sent):
                    changed.append(sent.key)
        finally:
            for sent in batch:
                source.keep(sent)
    if refused is not None:
        raise refused
    return found, changed


class Migrations:
    """All that are under way from a store of this machine."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MIGRATIONS_MAX)

    def begin(self) -> None:
        """Begins with those that the engine was asked for."""
        engine = self._store.engine
        wanted, engine.migrations = engine.migrations, []
        for migration, waiter in wanted:
            task = asyncio.get_running_loop().create_task(self._run(migration, waiter))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends. What is not confirmed stays here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, migration: Migration, waiter: "Waiter") -> None:
        async with self._turn:
            reply = await moved(self, migration)
        if waiter.session.waiter is waiter:
            waiter.session.wrote = True
            self._store.engine.waiting.release(waiter, reply)
            self._store.schedule_flush()

    # ---- the source ----------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Unix milliseconds."""
        return self._store.now()

    async def read(self, migration: Migration, left: deque[bytes]) -> list[Sent]:
        """About a megabyte of keys."""
        db, now = migration.db, self._store.now()
        batch: list[Sent] = []
        size = 0
        while left and size < BATCH_BYTES:
            key = left.popleft()
            value, until = db.data.get(key), db.expires.get(key)
            if value is None or (until is not None and until <= now):
                continue
            batch.append(Sent(key, dump(value), until))
            size += len(batch[-1].payload)
        return batch

    async def let_go(self, migration: Migration, sent: Sent) -> bool:
        """Deletes a key, unless it has changed."""
        store, db = self._store, migration.db
        value = db.data.get(sent.key)
        if value is None:
            return True
        if db.expires.get(sent.key) != sent.until or dump(value) != sent.payload:
            return False
        store.delete(db, sent.key)
        return True

    def keep(self, sent: Sent) -> None:
        """It stays."""


class _Link:
    """A connection to the other server. OSError and its like: it is cut, or silent for too long."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader, self._writer, self._seconds = reader, writer, seconds

    def tell(self, words: list[bytes]) -> None:
        if self._writer.is_closing():  # asyncio would pass over it, and uvloop raise what nobody foresees
            raise ConnectionResetError("it has closed the connection")
        self._writer.write(bulks(words))

    async def sent(self) -> None:
        async with asyncio.timeout(self._seconds):
            await self._writer.drain()

    async def confirmed(self) -> None:
        """Takes one answer. Raises CommandError: it is a refusal."""
        async with asyncio.timeout(self._seconds):
            line = await self._reader.readuntil(b"\n")
        if not line.startswith(b"+"):
            raise CommandError(b"ERR Target instance replied with error: %b" % line[1:].strip())

    async def ask(self, words: list[bytes]) -> None:
        self.tell(words)
        await self.sent()
        await self.confirmed()
