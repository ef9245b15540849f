"""Moving keys to another server (MIGRATE), while commands go on here.

Redis holds up everybody until a key has been moved. Here a key may change on its way: it is let go only if it is still
what the other server has confirmed, and is sent again otherwise. So at every moment one of the two has all of it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from titan_objects.store.commands.migrate import Migration
from titan_objects.store.rdb_writing import dump
from titan_objects.store.resp import OK, CommandError, bulks

if TYPE_CHECKING:
    from titan_objects.store.host import Store

MIGRATIONS_MAX = 16
"""Commands that are under way at once; others wait for their turn."""

BATCH_BYTES = 1 << 20
"""After which the other server has to confirm."""

ROUNDS_MAX = 10
"""How often a key is sent that changes again and again."""


@dataclass(frozen=True)
class _Sent:
    key: bytes
    payload: bytes
    until: int | None


class Migrations:
    """All that are under way."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(MIGRATIONS_MAX)

    def begin(self) -> None:
        """Begins with those that the engine was asked for."""
        engine = self._store.engine
        wanted, engine.migrations = engine.migrations, []
        for migration in wanted:
            task = asyncio.get_running_loop().create_task(self._run(migration))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends. What is not confirmed stays here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, migration: Migration) -> None:
        try:
            async with self._turn:
                await self._move(migration)
            reply = OK
        except CommandError as why:
            reply = why.reply
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as why:
            where, text = f"{migration.host}:{migration.port}", str(why) or type(why).__name__
            reply = CommandError(
                f"IOERR error or timeout with {where}: {text}; what it has not confirmed is here, and may be there too"
            ).reply
        waiter = migration.waiter
        if waiter.session.waiter is waiter:
            waiter.session.wrote = True
            self._store.engine.waiting.release(waiter, reply)
            self._store.schedule_flush()

    async def _move(self, migration: Migration) -> None:
        """Raises CommandError: what was refused, or could not be let go; OSError and its like: the link is cut."""
        seconds = migration.timeout_ms / 1000
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(migration.host, migration.port)
        try:
            link = _Link(reader, writer, seconds)
            if migration.options.login:
                await link.ask([b"AUTH", *migration.options.login])
            await link.ask([b"SELECT", b"%d" % migration.database])
            keys, replace = migration.options.keys, migration.options.replace
            for _ in range(ROUNDS_MAX):
                keys = await self._round(migration, link, keys, replace)
                if not keys:
                    return
                replace = True
            raise CommandError(
                b"ERR '%b' has changed again each time it was sent: it is here, and there as it was" % keys[0][:128]
            )
        finally:
            writer.close()

    async def _round(self, migration: Migration, link: "_Link", keys: list[bytes], replace: bool) -> list[bytes]:
        """Sends keys, and lets go of them; those that have changed meanwhile."""
        left, changed = deque(keys), []
        refused: CommandError | None = None
        while left:
            batch = self._send(migration, link, left, replace)
            await link.sent()
            for sent in batch:
                try:
                    await link.confirmed()
                except CommandError as why:
                    refused = refused or why
                    continue
                if not migration.options.copy and not self._let_go(migration, sent):
                    changed.append(sent.key)
        if refused is not None:
            raise refused
        return changed

    def _send(self, migration: Migration, link: "_Link", left: deque[bytes], replace: bool) -> list[_Sent]:
        db, now = migration.db, self._store.now()
        batch: list[_Sent] = []
        size = 0
        while left and size < BATCH_BYTES:
            key = left.popleft()
            value, until = db.data.get(key), db.expires.get(key)
            if value is None or (until is not None and until <= now):
                continue
            sent = _Sent(key, dump(value), until)
            ttl = 0 if until is None else until - now
            link.tell([b"RESTORE", key, b"%d" % ttl, sent.payload, *([b"REPLACE"] if replace else [])])
            batch.append(sent)
            size += len(sent.payload)
        return batch

    def _let_go(self, migration: Migration, sent: _Sent) -> bool:
        """Deletes a key, unless it has changed."""
        store, db = self._store, migration.db
        value = db.data.get(sent.key)
        if value is None:
            return True
        if db.expires.get(sent.key) != sent.until or dump(value) != sent.payload:
            return False
        store.delete(db, sent.key)
        return True


class _Link:
    """A connection to the other server. OSError and its like: it is cut, or silent for too long."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader, self._writer, self._seconds = reader, writer, seconds

    def tell(self, words: list[bytes]) -> None:
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
