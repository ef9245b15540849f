"""The store's core: commands, the time and a generator in; replies and effects out. It does no I/O.

`run` is the one way in which commands are executed, for a client's connection and for a batch that a group has agreed
on: the caller brings the moment (`now`, unix milliseconds) and has brought `chance`. What the commands wrote is in
`effects` afterwards, as commands that need neither clock nor chance (`replay` takes those); replies are in each
session's `out`, and the sessions that got any without having asked are in `outgoing`.

Three flags are read for each command, so that the common one pays for nothing else:

    session.gate    this client's commands need a closer look (AUTH, MULTI, ACL, subscribed, caching)
    gate            everybody's do (MONITOR, maxmemory, a rewrite of the log, no disk to write to, a pause)
    observed        changes have to be told to somebody (WATCH, blocked clients, keyspace events, maxmemory, caches)
"""

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Protocol

from titan_objects.store.acl import Acl
from titan_objects.store.acl_user import almighty
from titan_objects.store.admission import Admission
from titan_objects.store.blocking import Serve, Waiter, WaitingRoom
from titan_objects.store.config import Config
from titan_objects.store.keyspace import Database, Keyspace
from titan_objects.store.leaving import Leaving
from titan_objects.store.lua.functions import Functions
from titan_objects.store.lua.scripts import Scripts
from titan_objects.store.memory import Meter
from titan_objects.store.monitors import Monitors
from titan_objects.store.pausing import Pause
from titan_objects.store.pubsub import Exchange
from titan_objects.store.replication import Replication
from titan_objects.store.resp import RESP2, CommandError, Resp2
from titan_objects.store.sampling import Samples
from titan_objects.store.scans import Scans
from titan_objects.store.session import Session
from titan_objects.store.stats import Stats
from titan_objects.store.table import Args, Command, Handler, Table
from titan_objects.store.tracking import Tracking
from titan_objects.store.usage import Usage, Usages
from titan_objects.store.watching import Watching
from titan_objects.store.written import Written

if TYPE_CHECKING:
    from titan_objects.store.commands.migrate import Migration

_LOG = logging.getLogger("titan_objects.store")

_INTERNAL = b"ERR internal error: the command was given up; the log has the reason"

EXPIRE_LIMIT = 1000
"""How many keys and fields one `tick` removes: about a millisecond's work."""

SLICE = 16
"""Commands of a pipeline after which its replies are counted; a shorter one is not held up by that."""

LONG_SLICE, LONG_BYTES = 128, 16 << 10
"""Commands after which they are counted again where those of the slice before had no more bytes than that."""

NO_LIMIT = 1 << 60
"""Bytes: more than there can be."""

_BY_ITSELF = frozenset((b"expired", b"hexpired", b"evicted"))
"""Events that no client has brought about."""


class Chance(Protocol):
    """What commands draw from: a `random.Random`, seeded by whoever runs them."""

    def randrange(self, stop: int, /) -> int: ...
    def random(self) -> float: ...
    def getrandbits(self, bits: int, /) -> int: ...


def _nobody(key: bytes) -> None:
    """Who halts waits for no key."""


def _no_sleep(seconds: float) -> None:
    """Of a store without a shell around."""


def wrong_arity(command: Command) -> CommandError:
    """A call has the wrong number of words."""
    return CommandError(f"ERR wrong number of arguments for '{command.name}' command")


def _unknown(args: Args) -> CommandError:
    """There is no such command; the words behind it are shown as far as Redis shows them."""
    given = b""
    for word in args[1:]:
        if len(given) >= 128:
            break
        given += b"'%b' " % word.partition(b"\0")[0][: 128 - len(given)]
    return CommandError(b"ERR unknown command '%b', with args beginning with: %b" % (args[0][:128], given))


Row = tuple[Handler, int, int, Command, Usage]


class Engine(Written):
    """A store without a disk and without a network.

    Args:
        table: the commands it knows.
        chance: its source of randomness.
        config: its settings.

    Attributes:
        preserve: while a snapshot is written, called with each key before a command may change it.
        may_follow: the shell around can follow another server, and be followed.
        loading: what the server that is followed here holds is being read.
        refuse_writes: why nothing may be written, as an error; None: it may.
        output_max: after so many bytes of replies the rest of a pipeline waits until the client has read them.
        halted: clients that do so; the shell around says when they go on (`resume`).
        written: bytes of effects since the start, as the shell counts them.
        usages: how often each command was called.
        seconds: a clock of the shell around that times commands, for statistics alone.
        sleep: halts the shell around for so many seconds (DEBUG SLEEP).
        expires_by_itself: what is past its time is let go though nobody asks for it.
        keeps_counts: PFCOUNT leaves what it has counted in the value.
        surroundings: what the shell adds to INFO (memory, process, CPU), by section.
        requests: what commands asked of the shell around the engine ("rewrite", "save", "shutdown").
        migrations: keys that are to be moved to another server ("migrate"), and who waits; the shell empties it.
        saving: who waits until the log is rewritten (SAVE).
    """

    def __init__(self, table: Table, chance: Chance, config: Config | None = None) -> None:
        self.table = table
        self.chance = chance
        self.config = config or Config()
        self.leaving = Leaving(self)
        self.usages = Usages(table)
        self.rows: dict[bytes, Row] = {word: self._row_of(command) for word, command in table.by_word.items()}
        handler, low, high, command, _ = next(iter(self.rows.values()))
        self._nothing: Row = handler, low, high, command, Usage()
        """Of a command that has not come yet: what it is does not matter."""
        self.keyspace = Keyspace(int(self.config.get("databases")), self.leaving.expired, self.leaving.fields_expired)
        self.databases = self.keyspace.databases
        super().__init__(self.databases[0])
        self.acl = Acl(table, self.config)
        self.exchange = Exchange()
        self.waiting = WaitingRoom(self)
        self.stats = Stats()
        self.scans = Scans()
        self.scripts = Scripts(self)
        self.functions = Functions(self)
        self.replication = Replication(self)
        self.tracking = Tracking(self)
        self.pause = Pause(self)
        self.admission = Admission(self)
        self.sessions: dict[int, Session] = {}
        self._session_id = 0
        self.watching = Watching()
        self._samples = Samples()
        self.monitors = Monitors(self.deliver)

        self.outgoing: dict[Session, None] = {}
        self.output_max = NO_LIMIT
        self.halted: dict[Session, Waiter] = {}
        self.requests: list[str] = []
        self.migrations: list[tuple[Migration, Waiter]] = []
        self.saving: list[Waiter] = []
        self.written = 0
        self.surroundings: Callable[[], dict[str, dict[str, object]]] = dict
        self.seconds: Callable[[], float] = float
        self.sleep: Callable[[float], None] = _no_sleep
        self.expires_by_itself = True
        self.keeps_counts = True

        self.preserve: Callable[[Database, bytes], None] | None = None
        self.refuse_writes: CommandError | None = None
        self.loading = False
        self.may_follow = False
        self.gate = self.busy = False
        self.observed = False
        self.may_block = True
        self.meter: Meter | None = None

        self.now = 0
        self.reply: Resp2 = RESP2
        self.internal = Session(0, self.db, almighty("", table))  # whatever clients may do: it executes the log
        self.session = self.internal
        self.config.watch(self.look)
        self.look()

    # ---- sessions ------------------------------------------------------------------------------------------------

    def connect(
        self, now: int, address: str = "", local_address: str = "", make: Callable[..., Session] = Session
    ) -> Session:
        """A new client."""
        self._session_id += 1
        session = make(self._session_id, self.databases[0], self.acl.first_user(), now)
        session.address, session.local_address = address, local_address
        self.sessions[session.id] = session
        self.stats.connections += 1
        return session

    def disconnect(self, session: Session) -> None:
        """A client is gone: it waits, listens and watches no more."""
        self.sessions.pop(session.id, None)
        if session.waiter is not None:
            self.waiting.remove(session.waiter)
        self.halted.pop(session, None)
        session.backlog.clear()
        self.unwatch(session)
        self.exchange.leave(session)
        self.tracking.leave(session)
        self.pause.held.pop(session, None)
        self.replication.leave(session)
        self.monitors.leave(session)
        self.outgoing.pop(session, None)
        self.look()

    def look(self) -> None:
        """Works out `gate` and `observed` anew; to be called after any change that they depend on."""
        if self.config.counts_uses != (self.meter is not None):
            self.meter = self.new_meter() if self.config.counts_uses else None
        self.gate = bool(
            self.monitors
            or self.preserve
            or self.refuse_writes
            or self.meter
            or self.replication.leader
            or self.pause.until
        )
        self.keyspace.hides_expired = bool(self.replication.leader or self.pause.hides)
        self.observed = bool(
            self.watching.by_key or self.waiting.count or self.config.events or self.meter or self.tracking.clients
        )

    # ---- the way of a command ------------------------------------------------------------------------------------

    def run(self, session: Session, commands: list[Args], now: int) -> None:
        """Executes commands of one client; their replies are appended to `session.out`."""
        self.now = self.keyspace.now = now
        session.last_ms = now
        if session.waiter is not None:
            session.backlog += commands
            return
        if len(commands) <= SLICE:
            self._run(session, commands)
        else:
            self._run_long(session, commands)
        if self.waiting.resumed or self.tracking.pending:
            self._end_turn()

    def resume(self, sessions: Iterable[Session], now: int) -> None:
        """These clients have read what made them halt."""
        self.now = self.keyspace.now = now
        for session in sessions:
            self.waiting.release(self.halted.pop(session), b"")
        self._end_turn()

    def meanwhile(self, session: Session, commands: Iterable[Args]) -> None:
        """Executes commands of another client while a script runs, as far as they may be executed then."""
        before = self.session, self.db, self.reply, self.gate
        try:
            for args in commands:
                self.gate = self.busy = True
                self._run(session, [args])
                if session.closing:
                    break
        finally:
            self.busy = False
            self.session, self.db, self.reply, self.gate = before

    def _end_turn(self) -> None:
        """Clients that wait no more go on; those that cache are told what has changed meanwhile."""
        while self.waiting.resumed:
            session = self.waiting.resumed.popleft()
            pending, session.backlog = session.backlog, []
            before = len(self.effects)
            self._run_long(session, pending)
            if len(self.effects) > before:
                session.wrote = True
                self.verbatim = False  # they are not what the client that is run just now has sent
            self.outgoing[session] = None
        self.tracking.end_turn()

    def _run_long(self, session: Session, commands: list[Args]) -> None:
        """As `_run`, but no further than the client reads."""
        size = end = 0
        step = SLICE
        while end < len(commands):
            begin, end, before = end, end + step, len(session.out)
            self._run(session, commands[begin:end])
            if session.closing:
                return
            if session.waiter is None:
                if end >= len(commands):
                    return
                fresh = sum(map(len, islice(session.out, before, None)))
                step = LONG_SLICE if fresh <= LONG_BYTES else SLICE
                size += fresh
                if size <= self.output_max:
                    continue
                self.halted[session] = Waiter(session, session.db, (), 0, _nobody, b"")
                self.waiting.add(self.halted[session])
            session.backlog += commands[end:]
            return

    def _run(self, session: Session, commands: list[Args]) -> None:
        self.session = session
        self.db = session.db
        self.reply = session.resp
        rows = self.rows
        out = session.out
        pending = iter(commands)
        # The same command often comes many times in a row: it is looked up, counted and timed once for all of them.
        name: bytes | None = None
        left, begun = len(commands), 0.0
        handler, low, high, command, usage = self._nothing
        for args in pending:
            try:
                if args[0] != name:
                    if name is not None:
                        now = length_hint(pending) + 1
                        self._book(usage, left - now, begun)
                        left, name = now, None
                    handler, low, high, command, usage = rows.get(args[0]) or self._row(args)
                    name, begun = args[0], self.seconds() if usage.left <= 1 else 0.0
                if not low <= len(args) <= high:
                    usage.left += 1  # it was not executed
                    raise wrong_arity(command)
                if session.gate or self.gate:
                    usage.left += 1  # it is counted there, if it is executed
                    reply = self.admission.run(handler, command, args, usage)
                else:
                    reply = handler(self, args)
            except CommandError as why:
                left -= name is None  # there is no such command
                reply = self.admission.refusal(session, args, why)
            except Exception:
                _LOG.exception("%r failed", args[0])
                reply = CommandError(_INTERNAL).reply
            if self.dirty:
                if self._rewritten or self.db.index != self._logged_db:
                    self.note(args)
                else:  # what `note` does then, without the call
                    self.dirty = False
                    self.effects.append(args)
                if self.waiting.ready:
                    self._serve()
            if reply is not None:
                out.append(reply)
            elif session.waiter is not None:
                left -= length_hint(pending)
                session.backlog += pending
                session.waiter.touches = command.keys(args)
            elif session.closing:
                left -= length_hint(pending)
                break
        usage.left -= left
        if begun:
            usage.timed(self.seconds() - begun, left)

    def _book(self, usage: Usage, calls: int, begun: float) -> None:
        """So many calls of a command, one after another, are over; they were timed if they have begun at a time."""
        usage.left -= calls
        if begun:
            usage.timed(self.seconds() - begun, calls)

    def call(self, args: Args) -> bytes:
        """Executes one command for the current session, inside a transaction or a script.

        Raises:
            CommandError: it is not known, has the wrong number of words, or was refused.
        """
        try:
            handler, low, high, command, usage = self.rows.get(args[0]) or self._row(args)
            if not low <= len(args) <= high:
                raise wrong_arity(command)
            if self.gate:
                self.admission.admit_called(command, args)
        except CommandError:
            self.usages.count_error(args, rejected=True)
            raise
        try:
            reply = self.perform(handler, args, usage)
        except CommandError:
            self.usages.count_error(args)
            raise
        except Exception:
            _LOG.exception("%r failed", args[0])
            raise CommandError(_INTERNAL) from None
        finally:
            if self.dirty:
                self.note(args)
                if self.waiting.ready:
                    self._serve()
        if self.session.tracker is not None:
            self.tracking.note(command, args)
        return b"" if reply is None else reply

    def perform(self, handler: Handler, args: Args, usage: Usage) -> bytes | None:
        """Executes a command that may be; its call is counted."""
        usage.left -= 1
        return handler(self, args) if usage.left > 0 else self._timed(handler, args, usage)

    def _timed(self, handler: Handler, args: Args, usage: Usage) -> bytes | None:
        begun = self.seconds()
        try:
            return handler(self, args)
        finally:
            usage.timed(self.seconds() - begun)

    def _row_of(self, command: Command) -> Row:
        if not command.subcommands:
            return command.handler, command.low, command.high, command, self.usages.by_name[command.name]
        # What contains others is counted as those; this count is nobody's.
        return Engine._call_subcommand, command.low, command.high, command, Usage()

    def _call_subcommand(self, args: Args) -> bytes | None:
        """The handler of commands that contain others: goes by the second word."""
        found = self.subcommand(args)
        self.session.last_subcommand = found.name
        if found.subcommands and len(args) > 1:
            return found.handler(self, args)  # it has the error: there is no such sub-command
        return self.perform(found.handler, args, self.usages.by_name[found.name])

    def subcommand(self, args: Args) -> Command:
        """The sub-command of a call, or its command. Raises CommandError: it has the wrong number of words."""
        found = self.table.find_full(args)
        assert found is not None
        if not found.takes(len(args)):
            raise wrong_arity(found)
        return found

    def _row(self, args: Args) -> Row:
        word = args[0].lower()
        row = self.rows.get(word)
        if row is None:
            raise _unknown(args)
        return row

    def forget_usage(self) -> None:
        """Begins to count anew."""
        self.stats.reset()
        self.usages.reset()

    def _serve(self) -> None:
        """Serves who waited for what has just changed."""
        if self.may_block:
            self.waiting.serve()

    # ---- what handlers call --------------------------------------------------------------------------------------

    def touch(self, key: bytes, event: bytes = b"", kind: str = "g") -> None:
        """A key of the current database has changed.

        Args:
            event: name of the keyspace event; empty: none.
            kind: its class, a letter of `notify-keyspace-events`.
        """
        self.dirty = True
        if self.observed:
            self.tell(self.db, key, event, kind)

    def removed(self, key: bytes) -> None:
        """A value became empty: its key goes with it."""
        self.db.delete(key)
        self.touch(key, b"del")

    def random_key(self) -> bytes | None:
        """A key of the current database; None: it has none."""
        return self._samples.key(self.db, self.chance)

    def tell(self, db: Database, key: bytes, event: bytes, kind: str) -> None:
        """Brings a change to those that watch the key, wait for it or listen to events."""
        where = (db, key)
        if self.meter is not None:
            self.meter.note(db, key)
        for session in self.watching.by_key.get(where, ()):
            session.doomed = True
        if self.tracking.clients:
            self.tracking.changed(key, own=event not in _BY_ITSELF)
        if self.waiting.count and where in self.waiting:
            self.waiting.ready[where] = None
        if event and kind in self.config.events:
            self.notify(db, key, event)

    def notify(self, db: Database, key: bytes, event: bytes) -> None:
        """Publishes a keyspace event."""
        if "K" in self.config.events:
            self.publish(b"__keyspace@%d__:%b" % (db.index, key), event)
        if "E" in self.config.events:
            self.publish(b"__keyevent@%d__:%b" % (db.index, event), key)

    def publish(self, channel: bytes, message: bytes, shard: bool = False) -> int:
        """Brings a message to all that listen; says how many."""
        count = 0
        for session, data in self.exchange.deliveries(channel, message, shard):
            self.push(session, data)
            count += 1
        return count

    def push(self, session: Session, data: bytes) -> None:
        """Sends what a client has subscribed to, also if it wants no replies."""
        session.out.append(data)
        self.outgoing[session] = None

    def deliver(self, session: Session, data: bytes) -> None:
        """Sends what the client did not ask for just now."""
        if session.replies == "on":
            self.push(session, data)

    def watch(self, session: Session, key: bytes) -> None:
        """EXEC of that client will refuse if the key changes."""
        self.watching.add(session, self.db, key)
        self.look()

    def unwatch(self, session: Session) -> None:
        """Forgets what a client watched."""
        self.watching.leave(session)
        self.look()

    def flush(self, databases: Iterable[Database]) -> None:
        """Empties databases; who watches one of their keys is told."""
        for db in databases:
            self.waiting.look_at([db])
            if self.observed:
                for where in self.watching.there([db]):
                    self.tell(*where, b"", "g")
            db.clear()
        self.tracking.flushed()
        self._measure_anew()

    def _measure_anew(self) -> None:
        if self.meter is not None:
            self.meter = self.new_meter()

    def new_meter(self) -> Meter:
        """What watches the memory from now on."""
        return Meter(self)

    def swap(self, one: int, other: int) -> None:
        """Exchanges two databases; their clients see the other's keys from now on."""
        pair = (self.databases[one], self.databases[other])
        touched = self.watching.there(pair)
        self.waiting.look_at(pair)
        self.keyspace.swap(one, other)
        self.tracking.flushed()  # whoever caches goes by names alone
        for where in touched:
            self.tell(*where, b"", "g")
        self.waiting.look_at(pair)

    # ---- blocking ------------------------------------------------------------------------------------------------

    def block(
        self, keys: Iterable[bytes], until: int, serve: Serve, on_timeout: bytes, on_gone: bytes | None = None
    ) -> bytes | None:
        """Lets the current client wait, or answers at once where nobody may wait (transactions, scripts)."""
        if not self.may_block or self.session is self.internal:
            return on_timeout
        self.waiting.add(Waiter(self.session, self.db, keys, until, serve, on_timeout, on_gone))
        return None

    # ---- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: int) -> bool:
        """Expires keys and ends waits whose time is over. True: there is more to do at once."""
        self.now = self.keyspace.now = max(now, self.now)
        if self.pause.until and self.now >= self.pause.until:
            self.pause.end()
        lets_go = self.expires_by_itself and not self.keyspace.hides_expired
        many = lets_go and self.keyspace.expire_due(EXPIRE_LIMIT) >= EXPIRE_LIMIT
        if self.waiting.ready:
            self._serve()
        if self.keyspace.held or self.keyspace.spent:
            self.keyspace.list_on()
        for waiter in self.waiting.overdue(self.now):
            self.waiting.release(waiter, waiter.on_timeout)
        self._end_turn()
        if self.meter is not None:
            many |= self.meter.more()
        return many

    # ---- replay --------------------------------------------------------------------------------------------------

    def replay(self, commands: list[Args]) -> tuple[int, bytes] | None:
        """Executes what a log holds; nothing expires meanwhile. The index of the first that failed, and its error.

        It happens as of `now`: a consumer of a stream was seen last when its commands were executed again, as in Redis.
        """
        session = self.internal
        out = session.out
        self._run(session, commands)
        session.db = self.db
        self.effects.clear()
        self.verbatim = True
        failed = next(((at, reply) for at, reply in enumerate(out) if reply.startswith(b"-")), None)
        out.clear()
        return failed

    def apply(self, commands: list[Args], now: int) -> list[bytes]:
        """Executes what the server that is followed here has executed; nothing expires meanwhile. The errors."""
        session = self.internal
        self.now, self.keyspace.now = now, 0
        self._run(session, commands)
        self.keyspace.now = now
        errors = [reply for reply in session.out if reply.startswith(b"-")]
        session.out.clear()
        return errors
