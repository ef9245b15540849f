"""Being followed: snapshots sent while commands go on, and the care for replicas that say nothing."""

import asyncio
from typing import TYPE_CHECKING

from titan_objects.store import rdb_writing
from titan_objects.store.replication import GETACK, PING, Replica
from titan_objects.store.rewriting import Records, Rewrite
from titan_objects.store.session import Session

if TYPE_CHECKING:
    from titan_objects.store.host import Store

SLICE_PAUSE = 0.001
"""Between two slices of a snapshot clients are served."""


class Leading:
    """Sends replicas what they ask for. Nothing is forked, and nothing is written to the disk first."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._state = store.engine.replication
        self._task: asyncio.Task[None] | None = None
        self._pinged_ms = self._looked_ms = store.now()

    def begin(self) -> None:
        """Replicas have asked for a snapshot; those that ask meanwhile share the next one."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def ask(self) -> None:
        """Clients wait for replicas: those are asked how far they are."""
        self._state.place_waiters()
        self._store.feed(GETACK)

    def look_after(self, now: int) -> None:
        """Lets replicas know that this server lives, and lets go those that seem not to."""
        if not self._state.replicas or now - self._looked_ms < 1000:
            return
        self._looked_ms = now
        config = self._store.config
        if now - self._pinged_ms >= int(config.get("repl-ping-replica-period")) * 1000:
            self._pinged_ms = now
            self._store.feed(PING)
        for session, replica in self._state.replicas.items():
            silent = now - replica.heard_ms > int(config.get("repl-timeout")) * 1000
            too_far = 0 < self._store.replica_limit < replica.pending_bytes
            if replica.sent:
                gone = too_far
            else:
                gone = silent and replica.state == "online" and not replica.bare
            if gone:
                self._cut(session)

    def _cut(self, session: Session) -> None:
        session.closing = session.killed = True
        self._store.engine.outgoing[session] = None
        self._store.schedule_flush()

    async def _run(self) -> None:
        try:
            while self._state.to_sync:
                async with self._store.snapshots:
                    asked = self._state.to_sync
                    without = asked[0].snapshot_without
                    self._state.to_sync = [each for each in asked if each.snapshot_without != without]
                    alike = [each for each in asked if each.snapshot_without == without]
                    await self._send([each for each in alike if each.session in self._state.replicas], without)
        finally:
            self._task = None

    async def _send(self, replicas: list[Replica], without: frozenset[bytes]) -> None:
        engine = self._store.engine
        engine.rewind_log()
        self._store.note_effects()
        mark = b"%040x" % engine.chance.getrandbits(160)
        for replica in replicas:
            engine.stats.full_syncs += 1
            self._state.begin_snapshot(replica)
            if not replica.bare:
                replica.session.out.append(b"+FULLRESYNC %b %d\r\n" % (self._state.id.encode(), engine.written))
            replica.session.out.append(b"$EOF:%b\r\n" % mark)
        version = rdb_writing.VERSION_WITH_ENDS if self._state.with_ends else rdb_writing.VERSION
        chunks = [rdb_writing.header(version, replicated=True)]
        rewrite = Rewrite(engine, chunks.append, Records(), without)
        engine.preserve = rewrite.preserve
        engine.look()
        try:
            more = True
            while more and replicas:
                more = rewrite.step()
                self._pass_on(replicas, b"".join(chunks))
                chunks.clear()
                await asyncio.sleep(SLICE_PAUSE)
                replicas = await self._until_read(replicas)
        finally:
            engine.preserve = None
            engine.look()
        self._pass_on(replicas, rdb_writing.END + mark)
        for replica in replicas:
            if replica.snapshot_only:
                replica.session.closing = True
            replica.sent = not replica.snapshot_only
            replica.heard_ms = self._store.now()
        self._store.schedule_flush()
        more = True
        while more:
            more = rewrite.clean_up()
            await asyncio.sleep(0)

    def _pass_on(self, replicas: list[Replica], data: bytes) -> None:
        for replica in replicas:
            replica.session.out.append(data)
            self._store.engine.outgoing[replica.session] = None
        self._store.schedule_flush()

    async def _until_read(self, replicas: list[Replica]) -> list[Replica]:
        """Waits until all have taken most of what they were sent; those that are left."""
        most = self._store.replica_limit
        patience_ms = int(self._store.config.get("repl-timeout")) * 1000
        begun = self._store.now()
        while True:
            impatient = self._store.now() - begun > patience_ms  # the log's rewrite waits for them, among others
            for replica in replicas:
                too_slow = impatient and self._store.is_full(replica.session)
                if too_slow or 0 < most < replica.pending_bytes:
                    self._cut(replica.session)
            replicas = [each for each in replicas if each.session in self._state.replicas and not each.session.killed]
            if not any(self._store.is_full(each.session) for each in replicas):
                return replicas
            await asyncio.sleep(SLICE_PAUSE)

    async def close(self) -> None:
        """Ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
