"""The shell around the engine: its clock, its log, and the way of replies back to clients.

All that one turn of the loop brings about is written to the log at once, confirmed by the disk at once (`appendfsync
always`), and only then answered.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import titan_overlay as titan
from titan_objects.store import system
from titan_objects.store.admission import READ_ONLY
from titan_objects.store.aof import AppendLog
from titan_objects.store.commands import all_commands
from titan_objects.store.config import Config
from titan_objects.store.connection import WRITE_HIGH_BYTES, Sink, send_out
from titan_objects.store.effects import encode
from titan_objects.store.engine import Engine
from titan_objects.store.following import Following
from titan_objects.store.keyspace import Database
from titan_objects.store.leading import Leading
from titan_objects.store.log_care import LogCare
from titan_objects.store.migrating import Migrations
from titan_objects.store.resp import OK, CommandError, decode
from titan_objects.store.session import Session
from titan_objects.store.table import Args
from titan_objects.store.whole_file import WholeFile

_LOG = logging.getLogger("titan_objects.store")

TICK_SECONDS = 0.01
"""The longest pause between two looks at what has expired; nothing is later than that and a turn of the loop."""

EFFECTS_MAX = 4096
"""That wait for the end of a turn of the loop; if it brings about more, they are passed on at once."""

RETRY_SECONDS = 1.0
"""After a write that failed, the disk is tried again so often."""

_NOT_SAVED = CommandError(b"ERR the append-only file could not be rewritten; the log of the server has the reason")
_FULL = b"MISCONF Errors writing to the append-only file: %b. Writes are refused until the disk takes them again."


class Store:
    """One store on this machine.

    Args:
        directory: where its log lies; None: nothing is kept, and nothing survives the process.
        config: its settings.
        now: unix milliseconds.

    Raises:
        ConfigError, StorageError: as `AppendLog.open`; or the file of users is wrong.
    """

    def __init__(
        self, directory: Path | None, config: Config | None = None, now: Callable[[], int] = system.unix_ms
    ) -> None:
        self.config = config or Config()
        self.now = now
        self.engine = Engine(all_commands(), system.generator(), self.config)
        self.engine.surroundings = system.surroundings
        self.engine.seconds, self.engine.sleep = system.monotonic, system.sleep
        self.engine.may_follow = True
        self.engine.output_max = WRITE_HIGH_BYTES
        self.engine.now = self.engine.stats.started_ms = self.engine.stats.last_rewrite_ms = now()
        if self.config.get("aclfile"):
            self.engine.acl.keeper = WholeFile(Path(self.config.get("aclfile")))
            try:
                self.engine.acl.load()
            except CommandError as why:
                raise titan.ConfigError(str(why).removeprefix("ERR ")) from None
        self.sinks: dict[Session, Sink] = {}
        self.stopped = asyncio.Event()
        self.writable = asyncio.Event()
        """The disk takes the log."""
        self.writable.set()
        self._log: AppendLog | None = None
        if directory is not None and self.config.get("appendonly") == "yes":
            self._log = AppendLog(directory, self.config.get("appenddirname"), self.config.get("appendfilename"))
            self._log.refuse_others()
            self._log.open(self.engine)
            self.engine.forget_usage()  # nobody has called what the log holds
        self._loop = asyncio.get_running_loop()
        self._flushing = False
        self._raw: list[bytes] = []
        """Commands as they came, all of which were effects: the first `_raw_effects`, which wait for the turn's end."""
        self._raw_effects = 0
        self._sync_always = True
        self._latency_ms = 0
        self._retry: asyncio.TimerHandle | None = None
        self.snapshots = asyncio.Lock()  # the engine keeps one moment at a time
        self.replica_limit = 0
        self._care = LogCare(self, self._log) if self._log is not None else None
        self._leading = Leading(self)
        self._following = Following(self)
        self._migrations = Migrations(self)
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self.config.watch(self._on_config)
        self._on_config()
        if self.config.get("replicaof"):
            host, port = self.config.get("replicaof").split()
            self.engine.replication.follow(host, int(port))
            self._following.look()

    # ---- commands ------------------------------------------------------------------------------------------------

    def connect(self, sink: Sink, address: str = "", local_address: str = "") -> Session:
        """A new client, whose replies go there."""
        session = self.engine.connect(self.now(), address, local_address)
        self.sinks[session] = sink
        return session

    def let_in(self, sink: Sink, address: str = "") -> Session:
        """A program that is the user `default` without a password: it is of this process, or its key was looked at."""
        session = self.connect(sink, address)
        session.user = self.engine.acl.default
        session.look()
        return session

    def disconnect(self, session: Session) -> None:
        """A client is gone."""
        self.sinks.pop(session, None)
        self.engine.disconnect(session)

    def run(self, session: Session, commands: list[Args], raw: bytes = b"") -> None:
        """Executes commands.

        Args:
            raw: the very bytes that they came in, if `encode` makes just these of them: they may be logged as they are.
        """
        engine = self.engine
        engine.run(session, commands, self.now())
        written = len(engine.effects) - self._raw_effects
        if written:
            session.wrote = True
            as_they_came = written == len(commands) and raw and engine.verbatim
            if as_they_came:
                self._raw.append(raw)
                self._raw_effects += written
            if not as_they_came or self._raw_effects > EFFECTS_MAX:
                self._pass_on()
        if engine.requests:
            self._obey()
        # Not on the spot: what one turn of the loop answers goes out together, which costs less for each.
        engine.outgoing[session] = None
        if not self._flushing:
            self.schedule_flush()

    def apply(self, commands: list[Args]) -> list[bytes]:
        """Executes what the server that is followed has executed; the errors."""
        errors = self.engine.apply(commands, self.now())
        self.note_effects()
        return errors

    def delete(self, db: Database, key: bytes) -> None:
        """Removes a key. Raises CommandError: nothing may be written here now."""
        engine = self.engine
        engine.now = engine.keyspace.now = self.now()
        engine.session, engine.db = engine.internal, db
        if engine.replication.leader is not None:
            raise CommandError(READ_ONLY)
        engine.call([b"DEL", key])
        self.note_effects()

    def note_effects(self) -> None:
        """Passes on what was written: to the log, and to replicas."""
        self._pass_on()
        self.schedule_flush()

    def _pass_on(self) -> None:
        """Passes on all effects: first those that are logged as they came, then those that came last."""
        engine = self.engine
        effects = engine.effects
        engine.stats.changes += len(effects)
        if self._raw:
            self._log_and_feed(b"".join(self._raw))
            del effects[: self._raw_effects]
            self._raw.clear()
            self._raw_effects = 0
        if effects:
            self._log_and_feed(encode(effects))
            effects.clear()
        engine.verbatim = True

    def _log_and_feed(self, data: bytes) -> None:
        if self._log is not None:
            self._log.pending.append(data)
        if self.engine.replication.leader is None:
            self._feed(data)

    def feed(self, data: bytes) -> None:
        """More of the stream that replicas follow."""
        self._pass_on()
        self._feed(data)
        self.schedule_flush()

    def _feed(self, data: bytes) -> None:
        self.engine.written += len(data)
        self.engine.replication.feed(data)

    def schedule_flush(self) -> None:
        """What is pending goes out at the end of this turn of the loop."""
        if not self._flushing and (self.engine.outgoing or (self._log is not None and self._log.pending)):
            self._flushing = True
            self._loop.call_soon(self.flush)

    def is_full(self, session: Session) -> bool:
        """Whether a client has left much unread."""
        sink = self.sinks.get(session)
        return sink is not None and sink.full

    async def execute(self, args: Args) -> Any:
        """Executes one command for a program in this process, and waits until it is durable.

        Returns:
            bytes, int, float, bool, None, a list or a dict.

        Raises:
            CommandError: what a client would be told.
        """
        caller = _Caller(self._loop)
        session = self.let_in(caller)
        try:
            self.run(session, [args])
            reply = decode(await caller.answered)
        finally:
            self.disconnect(session)
        if isinstance(reply, CommandError):
            raise reply
        return reply

    # ---- replies -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Writes out what is pending, and then sends what waits for that."""
        self._flushing = False
        self._pass_on()
        if self._log is not None and self._log.pending:
            self._write_out(self._log)
        send_out(self.engine.outgoing, self.sinks)
        if self.engine.halted:
            self._loop.call_soon(self.drained)

    def _write_out(self, log: AppendLog) -> None:
        begun = system.monotonic()
        sync = self._sync_always or self.engine.refuse_writes is not None
        try:
            log.write_out(sync)
            self.engine.stats.log_bytes = log.size
            self._note_latency("aof-fsync-always" if sync else "aof-write", begun)
        except OSError as why:
            self.on_full_disk(why)
        else:
            if self.engine.refuse_writes is not None:
                self._on_disk_again()

    def drained(self) -> None:
        """Clients have read, perhaps: those that have halted and are not full go on."""
        engine = self.engine
        ready = [session for session in engine.halted if not session.out and not self.is_full(session)]
        if ready:
            engine.resume(ready, self.now())
            self.note_effects()
            if engine.requests:
                self._obey()

    def on_full_disk(self, why: OSError) -> None:
        """Refuses writes until the disk takes the log again."""
        error = CommandError(_FULL % (why.strerror or "unknown").encode())
        if self.engine.refuse_writes is None:
            _LOG.error("the log cannot be written: %s; writes are refused, reads are answered", why)
        self.engine.refuse_writes = error
        self.writable.clear()
        self.engine.look()
        # What was executed stays in memory and goes to the log when the disk takes it; nobody is told it is safe.
        for session in self.engine.outgoing:
            if session.wrote:
                session.out[:] = [each if each.startswith(b">") else error.reply for each in session.out]
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._pass_on()
        if self._log is not None:
            self._write_out(self._log)  # even if nothing is pending: it may be the confirming that failed
        self.flush()

    def _on_disk_again(self) -> None:
        _LOG.warning("the log can be written again")
        self.engine.refuse_writes = None
        self.writable.set()
        self.engine.look()

    def _note_latency(self, event: str, begun: float) -> None:
        ms = int((system.monotonic() - begun) * 1000)
        if 0 < self._latency_ms <= ms:
            self.engine.stats.latency.note(event, self.now() // 1000, ms)

    # ---- time ----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        engine = self.engine
        begun = system.monotonic()
        more = engine.tick(self.now())
        self._note_latency("expire-cycle", begun)
        if engine.effects:
            self.note_effects()
        if engine.requests:  # of a command that has waited until now, or of what stood behind it
            self._obey()
        self._leading.look_after(engine.now)
        if engine.outgoing or (self._log is not None and self._log.pending):
            self.flush()
        pause = 0.0 if more else TICK_SECONDS
        self._timer = self._loop.call_later(pause, self._tick)
        if self._care is not None and not more:
            self._care.look(sync=not self._sync_always and self.config.get("appendfsync") == "everysec")

    def _on_config(self) -> None:
        self._sync_always = self.config.get("appendfsync") == "always"
        if self._log is not None:
            self._log.confirmed_soon = self.config.get("appendfsync") != "no"
        self._latency_ms = int(self.config.get("latency-monitor-threshold"))
        self.replica_limit = self.config.output_limits()["slave"][0]

    # ---- what commands ask for -----------------------------------------------------------------------------------

    def _obey(self) -> None:
        self._pass_on()
        requests, self.engine.requests = self.engine.requests, []
        for request in requests:
            if request == "rewrite":
                self.rewrite()
            elif request == "shutdown":
                self.stopped.set()
            elif request == "replicate":
                self._leading.begin()
            elif request == "acknowledge":
                self._leading.ask()
            elif request == "migrate":
                self._migrations.begin()
            elif request == "follow":
                self._following.look()

    def rewrite(self) -> None:
        """Begins to rewrite the log, unless that is under way."""
        if self._care is not None:
            self._care.rewrite()
        else:
            self.saved(done=True)  # there is none

    def saved(self, *, done: bool) -> None:
        """The log is rewritten, or that has failed: who waits for it is told."""
        engine = self.engine
        waiters, engine.saving = engine.saving, []
        reply = OK if done else _NOT_SAVED.reply
        for waiter in waiters:
            if waiter.session.waiter is waiter:
                engine.waiting.release(waiter, reply)
        self.schedule_flush()

    async def close(self) -> None:
        """Ends: what is pending is written, clients are let go."""
        self._timer.cancel()
        if self._retry is not None:
            self._retry.cancel()
        await self._leading.close()
        await self._following.close()
        await self._migrations.close()
        if self._care is not None:
            await self._care.close()
        self.flush()
        for sink in list(self.sinks.values()):
            sink.close()
        if self._log is not None:
            try:
                self._log.close()
            except OSError as why:
                raise titan.StorageError(f"the log could not be written out: {why}") from None


class _Caller:
    """The sink of one command from this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered: asyncio.Future[bytes] = loop.create_future()

    full = False

    def send(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data)

    def unanswered(self) -> None:
        """It waits on."""

    def close(self) -> None:
        if not self.answered.done():
            self.answered.set_exception(titan.Unavailable("the store has ended", maybe_executed=True))
