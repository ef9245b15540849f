"""A door: what Redis clients talk to where a group keeps the store. Any node, or any program of the pool, can open one.

What belongs to a connection is kept here, by an engine that holds no keys: who it is, its database, MULTI and its
queue, what it listens to, what it waits for. Everything else goes to the group (`sending.py`). The commands of one
client are executed in their order: while some are under way, those that come after them wait.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import titan_overlay as titan
from titan_objects.store import system
from titan_objects.store.commands.migrate import parsed
from titan_objects.store.connection import WRITE_HIGH_BYTES, Sink, send_out
from titan_objects.store.engine import Chance, Engine
from titan_objects.store.group.blocked import Blocked, Room
from titan_objects.store.group.clients import DoorConfig, DoorSession, own_commands
from titan_objects.store.group.listening import Listening
from titan_objects.store.group.messages import Done, News, Section
from titan_objects.store.group.moving import GroupSource
from titan_objects.store.group.places import GROUP_SETTINGS, Place, Places, door_table
from titan_objects.store.group.sending import (
    ANSWER_SECONDS,
    COMMAND_BYTES_MAX,
    TOGETHER_BYTES,
    Piece,
    Sending,
    Way,
    told,
)
from titan_objects.store.group.surveying import Surveying
from titan_objects.store.migrating import MIGRATIONS_MAX, moved
from titan_objects.store.resp import CommandError
from titan_objects.store.session import Session
from titan_objects.store.table import Args

_LOG = logging.getLogger("titan_objects.store")

QUIET_SECONDS = 10.0
"""After so long without anybody who listens or waits, the door does not watch the group any more."""

_TOO_LONG = b"ERR a command of %d bytes: a group orders at most %d at once"


class Door:
    """See the module. To a `Server` it is what a `Store` is.

    Args:
        name: of the object that the group keeps.
        now: unix milliseconds.
        chance: for passwords that users ask for, and marks.
    """

    def __init__(
        self,
        pool: titan.Pool,
        name: str,
        *,
        config: DoorConfig | None = None,
        now: Callable[[], int] = system.unix_ms,
        chance: Chance | None = None,
    ) -> None:
        self.now = now
        self.config = config or DoorConfig()
        self._chance = chance or system.generator()
        self._surveying = Surveying(pool, name, self.config)
        table = door_table(own_commands(lambda: self._surveying.faults, self._hold))
        self.engine = Engine(table, self._chance, self.config)
        self.engine.surroundings = self._surveying.surroundings
        self.engine.seconds = system.monotonic
        self.engine.stats.started_ms = now()
        self._places = Places(table)
        self._sinks: dict[Session, Sink] = {}
        self._halted: set[DoorSession] = set()
        """Clients that go on once they have read."""
        self._loop = asyncio.get_running_loop()
        self._sending = Sending(pool, name, now, self.flush)
        self._source = GroupSource(self._submit_alone, self._sending.drop, now)
        self._moving = asyncio.Semaphore(MIGRATIONS_MAX)
        self._room = Room(self._try_again, self._give_up, self._sending.drop)
        self._listening = Listening(pool, name, self._hear, self._room.try_all, self._token)
        self._flushing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet = self._loop.call_later(QUIET_SECONDS, self._rest)

    # ---- clients -------------------------------------------------------------------------------------------------

    def connect(self, sink: Sink, address: str = "", local_address: str = "") -> Session:
        """A new client, whose replies go there."""
        session = self.engine.connect(self.now(), address, local_address, make=DoorSession)
        self._sinks[session] = sink
        return session

    def disconnect(self, session: Session) -> None:
        """A client is gone."""
        assert isinstance(session, DoorSession)
        self._sinks.pop(session, None)
        self._halted.discard(session)
        self._forget_guard(session)
        if session.blocked is not None:
            self._room.remove(session.blocked)
            self._forget(session.blocked)
        self.engine.disconnect(session)

    def run(self, session: Session, commands: list[Args], raw: bytes = b"") -> None:
        """Executes commands, after those of the same client that are under way."""
        assert isinstance(session, DoorSession)
        session.last_ms = self.now()
        if session.busy:
            session.backlog += commands
        elif not self._go_at_once(session, commands, len(raw)):
            self._go_on(session, commands, len(raw))
            if session.out or session.closing:
                self.engine.outgoing[session] = None
        if self.engine.outgoing:
            self._flush_soon()

    def drained(self) -> None:
        """Clients have read, perhaps: those that have halted and are not full go on."""
        ready = [session for session in self._halted if not self._has_much_to_read(session)]
        for session in ready:
            self._halted.discard(session)
            self._resume(session)
        if ready:
            self._flush_soon()

    async def close(self) -> None:
        """Lets everybody go."""
        self._quiet.cancel()
        await self._listening.stop()
        await self._sending.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sink in list(self._sinks.values()):
            sink.close()

    # ---- the way of a command ------------------------------------------------------------------------------------

    def _go_at_once(self, session: DoorSession, commands: list[Args], size: int) -> bool:
        """The common case, which costs least: all is for the group, and nothing needs a closer look."""
        if session.gate or self.engine.gate or not 0 < size <= TOGETHER_BYTES:
            return False
        place_of = self._places.by_word.get
        furthest = max([place_of(args[0], Place.VARIES) for args in commands])
        if furthest > Place.ORDERED:
            return False
        self.engine.usages.count(commands)
        way: Way = "ordered" if furthest else "stale" if session.stale else "latest"
        self._submit(
            session, way, Section(commands, session.db.index, session.resp.version, False, session.guard), size
        )
        return True

    def _go_on(self, session: DoorSession, commands: list[Args], size: int = 0) -> None:
        """Executes what it can, up to the first thing that has to be waited for.

        Args:
            size: of all commands, if it is known.
        """
        while commands and not session.busy:
            place = self._place(session, commands[0])
            if place > Place.WAITS:
                args, commands = commands[0], commands[1:]
                self._at_the_door(session, args, place)
                size = 0
                if session.closing:
                    return
                continue
            count = self._together(session, commands, size)
            if count == 0:
                session.out.append(CommandError(_TOO_LONG % (_size(commands[0]), COMMAND_BYTES_MAX)).reply)
                commands = commands[1:]
                continue
            taken, commands = (commands, []) if count == len(commands) else (commands[:count], commands[count:])
            self._send(session, taken, size)
        session.backlog[:0] = commands

    def _place(self, session: DoorSession, args: Args) -> Place:
        """Where a command of this client is executed as the client is now."""
        place = self._places.by_word.get(args[0])
        if place is None or place >= Place.EXEC:
            place = self._places.find(args)
        if place is Place.SETTING and all(word.decode("latin-1").lower() in GROUP_SETTINGS for word in args[2::2]):
            place = Place.ORDERED
        if not session.gate:
            return Place.DOOR if place is Place.EXEC else place
        user = session.user
        if user is None or (session.subscribed and session.resp.version == 2):
            return Place.DOOR
        if session.queue is not None:
            return Place.EXEC if place is Place.EXEC else Place.DOOR
        if place is not Place.DOOR and not user.unrestricted:
            command = self.engine.table.find_full(args)
            if command is not None and user.denial(command, args) is not None:
                return Place.DOOR  # where it is refused
        return place

    def _together(self, session: DoorSession, commands: list[Args], size: int) -> int:
        """How many of these, from the first on, travel in one section; 0: the first is too large."""
        if session.replies != "on":
            return 1
        measured = size > TOGETHER_BYTES or size == 0
        total = 0
        for count, args in enumerate(commands):
            if count:
                place = self._place(session, args)
                if place > Place.WAITS:
                    return count
                if place is Place.WAITS:
                    return count + 1
            if measured:
                total += _size(args)
                if total > TOGETHER_BYTES:
                    return count or int(total <= COMMAND_BYTES_MAX)
            if not count and self._place(session, args) is Place.WAITS:
                return 1
        return len(commands)

    def _send(self, session: DoorSession, commands: list[Args], size: int = 0) -> None:
        """Has commands executed by the group."""
        way: Way = "stale" if session.stale else "latest"
        heard: dict[bytes, int] = {}
        for args in commands:
            place = self._places.find(args)
            if place is not Place.READ:
                way = "ordered"
                if place is Place.PUBLISH and len(args) == 3:
                    heard[args[1]] = self._listeners(args)
        self._show(session, commands)
        last = self.engine.table.find_full(commands[-1])
        session.last_subcommand = last.name if last is not None else ""
        section = Section(commands, session.db.index, session.resp.version, False, session.guard, heard)
        self._submit(session, way, section, size or sum(map(_size, commands)))

    def _show(self, session: DoorSession, commands: list[Args]) -> None:
        """Counts what is not executed here, and shows it to those who monitor this door."""
        engine = self.engine
        engine.usages.count(commands)
        if engine.monitors:
            for args in commands:
                command = engine.table.find_full(args)
                if command is not None:
                    engine.monitors.show(session.address, session.db.index, command, args, self.now())

    def _listeners(self, args: Args) -> int:
        exchange = self.engine.exchange
        return sum(1 for _ in exchange.deliveries(args[1], b"", shard=args[0][:1] in b"sS"))

    def _submit(self, session: DoorSession, way: Way, section: Section, size: int) -> None:
        session.busy = True
        gaps = self._room.gaps
        self._sending.add(way, Piece(section, size, lambda piece, done: self._take(session, piece, done, gaps)))

    def _at_the_door(self, session: DoorSession, args: Args, place: Place) -> None:
        """A command that is executed here."""
        if place is Place.EXEC and session.queue is not None and len(args) == 1:
            self._exec(session, session.queue)
        elif place is Place.SETTING and any(w.decode("latin-1").lower() in GROUP_SETTINGS for w in args[2::2]):
            session.out.append(CommandError(b"ERR set what concerns the group and what concerns this door apart").reply)
        elif place is Place.MIGRATE:
            self._show(session, [args])
            session.busy = True
            self._spawn(self._migrate(session, args))
        elif place is Place.SURVEY:
            self._wait_for(session, self._surveying.survey(), args)
        elif place is Place.INFO:
            self._wait_for(session, self._surveying.look(), args)
        elif place is Place.COPIES and not self._surveying.faults:
            self._wait_for(session, self._surveying.describe(), args)
        elif self._must_listen_first(session, args):
            self._wait_for(session, self._listening.ready(), args)
        else:
            self._run_here(session, args)

    def _must_listen_first(self, session: DoorSession, args: Args) -> bool:
        """Whether it subscribes: what is published after the confirmation must be heard."""
        subscribes = args[0][-9:].upper() == b"SUBSCRIBE" and args[0][-11:-9].upper() != b"UN"
        return subscribes and not self._listening.is_ready and session.user is not None and session.queue is None

    def _wait_for(self, session: DoorSession, what: Coroutine[Any, Any, None], args: Args) -> None:
        """Executes a command here, once something has happened."""
        session.busy = True
        self._spawn(self._afterwards(session, what, args))

    async def _afterwards(self, session: DoorSession, what: Coroutine[Any, Any, None], args: Args) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await what
        except Exception as why:
            session.out.append(_failure(why).reply)
        else:
            if session in self._sinks:
                self._run_here(session, args)
        if session in self._sinks:
            if session.blocked is None:
                self._resume(session)
            self.flush()

    async def _migrate(self, session: DoorSession, args: Args) -> None:
        """Moves keys of the group to another server."""
        try:
            async with self._moving:
                reply = await moved(self._source, parsed(args, session.db))
        except CommandError as why:
            reply = why.reply
        except Exception as why:
            reply = _failure(why).reply
        if session in self._sinks:
            self._reply(session, reply)
            self._resume(session)
            self.flush()

    def _submit_alone(self, section: Section, answer: Callable[[Done | titan.TitanError], None]) -> None:
        size = sum(map(_size, section.commands))
        self._sending.add("ordered", Piece(section, size, lambda piece, done: answer(done)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run_here(self, session: DoorSession, args: Args) -> None:
        within = session.queue is not None
        self.engine.run(session, [args], self.now())
        self.engine.requests.clear()
        ended = session.queue is None if within else len(args) == 1 and args[0].upper() in (b"UNWATCH", b"RESET")
        if session.guard and ended:
            self._forget_guard(session)

    def _exec(self, session: DoorSession, queue: list[Args]) -> None:
        guard = session.guard
        size = sum(map(_size, queue))
        if not self._still_may(session, queue):
            session.flawed = True  # members do not know the user: all or nothing
        if session.flawed or not (queue or guard) or size > COMMAND_BYTES_MAX:
            if size > COMMAND_BYTES_MAX:
                session.flawed = True
            self._run_here(session, [b"EXEC"])
            self._forget_guard(session)
            return
        session.queue, session.guard = None, 0
        session.look()
        heard = {a[1]: self._listeners(a) for a in queue if len(a) == 3 and self._places.find(a) is Place.PUBLISH}
        self._show(session, [*queue, [b"EXEC"]])
        self._submit(
            session, "ordered", Section(queue, session.db.index, session.resp.version, True, guard, heard), size
        )

    def _still_may(self, session: DoorSession, queue: list[Args]) -> bool:
        """Whether the user may do all of this, as the rules are now."""
        try:
            for args in queue:
                self.engine.acl.check_queued(session, args, self.now())
        except CommandError:
            return False
        return True

    def _forget_guard(self, session: DoorSession) -> None:
        if session.guard:
            self._sending.drop(session.guard)
            session.guard = 0

    # ---- answers -------------------------------------------------------------------------------------------------

    def _take(self, session: DoorSession, piece: Piece, done: Done | titan.TitanError, gaps: int) -> None:
        """Nobody waits for ever: whom the door fails at this point, it lets go."""
        try:
            self._answered(session, piece, done, gaps)
        except Exception:
            _LOG.exception("the answer for client %s is lost: it is cut off", session.address)
            session.closing = session.killed = True
            self.engine.outgoing[session] = None

    def _answered(self, session: DoorSession, piece: Piece, done: Done | titan.TitanError, gaps: int) -> None:
        section = piece.section
        if isinstance(done, titan.TitanError):
            count = 1 if section.atomic else len(section.commands)
            self._reply(session, _failure(done).reply * count)
        elif session not in self._sinks:  # it has gone meanwhile
            session.guard = done.guard
            self._forget_guard(session)
            if done.waiting is not None:
                self._sending.drop(done.waiting.guard)
            return
        else:
            self._reply(session, done.replies)
            session.db = self.engine.databases[done.db]
            session.guard = done.guard
            if not section.atomic:
                session.backlog[:0] = section.commands[done.executed :]
            if done.waiting is not None:
                self._begin_to_listen()
                self.engine.outgoing[session] = None
                self._room.add(session, done.waiting, gaps)
                return
        if session.blocked is not None:
            self._room.remove(session.blocked)
            session.blocked = None
        self._resume(session)

    def _try_again(self, blocked: Blocked) -> None:
        session = blocked.session
        section = Section([blocked.again], session.db.index, session.resp.version, False, session.guard)
        self._submit(session, "ordered", section, _size(blocked.again))

    def _hold(self, session: DoorSession, ms: int, reply: bytes) -> None:
        session.busy = True
        self._room.hold(session, ms, reply)

    def _give_up(self, blocked: Blocked) -> None:
        session = blocked.session
        self._forget(blocked)
        self._reply(session, blocked.nothing)
        self._resume(session)
        self._flush_soon()

    def _forget(self, blocked: Blocked) -> None:
        blocked.session.blocked = None
        if blocked.guard:
            self._sending.drop(blocked.guard)

    def _resume(self, session: DoorSession) -> None:
        """Goes on with what the client has sent meanwhile."""
        session.busy = False
        self.engine.outgoing[session] = None
        if session.backlog and self._has_much_to_read(session):
            session.busy = True
            self._halted.add(session)
        elif session.backlog:
            commands, session.backlog = session.backlog, []
            self._go_on(session, commands)

    def _has_much_to_read(self, session: DoorSession) -> bool:
        sink = self._sinks.get(session)
        return sink is not None and (sink.full or sum(map(len, session.out)) > WRITE_HIGH_BYTES)

    def _reply(self, session: DoorSession, replies: bytes) -> None:
        if session.replies == "on":
            session.out.append(replies)
        elif session.replies == "skip-next":
            session.replies = "on"
            session.look()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Sends all replies that are there."""
        self._flushing = False
        send_out(self.engine.outgoing, self._sinks)
        if self._halted:
            self._loop.call_soon(self.drained)

    # ---- what is heard of the group ------------------------------------------------------------------------------

    def _hear(self, news: News) -> None:
        for each in news.published:
            self.engine.publish(each.channel, each.message, each.shard)
        self._room.touched(news.touched)
        self.flush()

    def _begin_to_listen(self) -> None:
        if not self._listening.is_ready:
            self._spawn(self._listening.ready())

    def _rest(self) -> None:
        """Watches the group no more where nobody needs it."""
        exchange = self.engine.exchange
        listened = exchange.channels or exchange.patterns or exchange.shards
        if not (self._room or listened or self._listening.awaited):
            self._spawn(self._listening.stop())
        self._quiet = self._loop.call_later(QUIET_SECONDS, self._rest)

    def _token(self) -> bytes:
        return self._chance.getrandbits(64).to_bytes(8, "big")


def _size(args: Args) -> int:
    return sum(map(len, args)) + 8 * len(args)


def _failure(why: Exception) -> CommandError:
    """What a client is told of commands of which nobody knows what became."""
    if not isinstance(why, TimeoutError):
        why = told(why)
    text = " ".join(str(why).split()) or "no answer came in time"
    if getattr(why, "maybe_executed", True):
        return CommandError(f"UNAVAILABLE the group has not answered; the command may have been executed: {text}")
    return CommandError(f"UNAVAILABLE the group does not take the command, which was not executed: {text}")
