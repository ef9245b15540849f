"""What is done to the log of a store beside the writing: the disk confirms it every second, and it is rewritten."""

import asyncio
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from titan_objects.store.aof import PIECE_BYTES, AppendLog, remove, sync_directory
from titan_objects.store.rewriting import Rewrite

if TYPE_CHECKING:
    from titan_objects.store.host import Store

_LOG = logging.getLogger("titan_objects.store")

SLICE_PAUSE = 0.001
"""Between two slices of a rewrite clients are served."""

RETRY_MS = 60_000
"""After a rewrite that failed, the log is rewritten by itself no sooner: it fills the disk each time."""


class LogCare:
    """For the log of one store."""

    def __init__(self, store: "Store", log: AppendLog) -> None:
        self._store = store
        self._log = log
        self._rewriting: asyncio.Task[None] | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._one_sync = asyncio.Lock()
        self._not_before_ms = 0
        self._measure()

    def look(self, *, sync: bool) -> None:
        """Begins what has to be done. `sync`: the disk is to confirm the log every second."""
        log, config = self._log, self._store.config
        if sync and self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync_every_second())
        growth = int(config.get("auto-aof-rewrite-percentage"))
        least = int(config.get("auto-aof-rewrite-min-size"))
        due = growth and log.size > least and log.size > log.base_size * (100 + growth) / 100
        if due and self._rewriting is None and self._store.now() >= self._not_before_ms:
            self.rewrite()

    def rewrite(self) -> None:
        """Begins to rewrite the log, unless that is under way."""
        if self._rewriting is None:
            self._store.engine.stats.rewriting = True
            self._rewriting = asyncio.get_running_loop().create_task(self._rewrite())

    async def close(self) -> None:
        """Ends what is under way."""
        for task in (self._rewriting, self._syncing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _sync_every_second(self) -> None:
        try:
            try:
                await self._sync_elsewhere()
            except OSError as why:
                self._store.on_full_disk(why)
            await asyncio.sleep(1.0)
        finally:
            self._syncing = None

    async def _sync_elsewhere(self) -> None:
        """Once whoever does so just now is done. Raises OSError."""
        async with self._one_sync:
            await self._log.sync_elsewhere()

    async def _rewrite(self) -> None:
        async with self._store.snapshots:
            await self._rewrite_alone()

    async def _rewrite_alone(self) -> None:
        log, engine = self._log, self._store.engine
        stats = engine.stats
        done = False
        try:
            await self._sync_elsewhere()  # so that little is left to be confirmed while everybody waits
            engine.rewind_log()
            self._store.note_effects()
            before = stats.changes
            path = log.begin_rewrite()
            with path.open("wb") as file:
                rewrite = Rewrite(engine, file.write)
                engine.preserve = rewrite.preserve
                engine.look()
                more = True
                synced = 0
                while more:
                    more = rewrite.step()
                    await asyncio.sleep(SLICE_PAUSE)
                    if (written := file.tell()) - synced > PIECE_BYTES:
                        synced = written
                        await self._sync(file)
                engine.preserve = None
                engine.look()
                more = True
                while more:
                    more = rewrite.clean_up()
                    await asyncio.sleep(0)
                await self._sync(file)
            log.end_rewrite(path)
            sync_directory(log.directory)
            await asyncio.to_thread(remove, log.history())
            log.forget_history()
            stats.last_rewrite, stats.last_rewrite_ms = "ok", self._store.now()
            stats.changes -= before
            done = True
            self._measure()
        except OSError as why:
            stats.last_rewrite = "err"
            self._not_before_ms = self._store.now() + RETRY_MS
            log.give_up_rewrite()
            _LOG.error("the log could not be rewritten: %s; it goes on growing", why)
        finally:
            engine.preserve = None
            engine.look()
            stats.rewriting = False
            self._rewriting = None
            self._store.saved(done=done)

    async def _sync(self, file: BinaryIO) -> None:
        """A little at a time: the log, which everybody waits for, is not confirmed before what was written earlier."""
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())

    def _measure(self) -> None:
        stats = self._store.engine.stats
        stats.log_bytes, stats.log_base_bytes = self._log.size, self._log.base_size
