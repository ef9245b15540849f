"""The engine as members of a group run it: all that they decide follows from the order of commands, agreed time and
agreed chance.

Clients, their sessions and their waiting are the doors' affair. What is left of them here are *guards*: a guard stands
on some keys, and falls when one of them changes. `WATCH` sets one, for `EXEC` to look at; a command that would wait
sets one, for its door to hear when it is worth trying again.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from titan_objects.store.acl_user import User
from titan_objects.store.blocking import Serve, Waiter
from titan_objects.store.config import Config
from titan_objects.store.engine import Engine
from titan_objects.store.group.messages import Done, News, Published, Section, Waiting
from titan_objects.store.group.places import GROUP_SETTINGS, Place, Places, group_table
from titan_objects.store.group.scanning import HashScans
from titan_objects.store.keyspace import Database
from titan_objects.store.lua.scripts import Scripts
from titan_objects.store.memory import Meter
from titan_objects.store.resp import RESP2, RESP3, CommandError
from titan_objects.store.sampling import key_by_chance
from titan_objects.store.session import Session
from titan_objects.store.streams import Stream, shown
from titan_objects.store.table import Args

GUARDS_MAX = 65_536
"""The oldest makes room: its EXEC refuses, its waiter tries again."""
PARKED_BYTES_MAX = 64 << 20
"""Of replies that are fetched in pieces; the oldest make room."""
REPLIES_BYTES_MAX = 512 << 10
"""Of replies to what only reads, and of a piece; after so many the rest of a section is left to be sent again."""
AT_ONCE_BYTES_MAX = 400 << 10
"""Of replies that travel with what is published: together they fit into one frame."""
LONG_BYTES_MAX = 4 << 20
"""Of longer replies that one message brings about: sections that come after so many are left to be sent again."""
PUBLISHED_MAX = 4096
PUBLISHED_BYTES_MAX = 512 << 10
"""Messages that one entry of the log may bring to listeners; what a script publishes beyond that is lost."""


class Generator(Protocol):
    """What `ctx.random` is."""

    def randrange(self, stop: int, /) -> int: ...
    def random(self) -> float: ...
    def getrandbits(self, bits: int, /) -> int: ...


class Walker(Protocol):
    """One walk through the store."""

    def preserve(self, db: Database, key: bytes) -> None:
        """This key is about to change."""


class _Chance:
    """Draws from what the entry at hand has agreed on; a generator is made only for commands that draw."""

    def __init__(self) -> None:
        self.source: Callable[[], Generator]

    def randrange(self, stop: int, /) -> int:
        return self.source().randrange(stop)

    def random(self) -> float:
        return self.source().random()

    def getrandbits(self, bits: int, /) -> int:
        return self.source().getrandbits(bits)


class Guard(Session):
    """See the module. `awaited`: a door wants to hear when it falls."""

    __slots__ = ("awaited",)

    def __init__(self, id: int, db: Database, user: User, awaited: bool) -> None:
        super().__init__(id, db, user)
        self.awaited = awaited


class AgreedEngine(Engine):
    """See the module."""

    _peeks = False
    """Commands are answered that leave no trace, such as one of which keys are used."""

    def __init__(self) -> None:
        self.agreed = _Chance()
        super().__init__(group_table(), self.agreed, Config(appendonly="no"))
        self.output_max = REPLIES_BYTES_MAX
        self.keeps_counts = False  # what reads has no place in the order
        self.scans = self._hash_scans = HashScans(self)
        self.scripts = Scripts(self, agreed=True)
        self.places = Places(self.table)
        self.guards: dict[int, Guard] = {}
        """By number, oldest first."""
        self.last_guard = 0
        self.published: list[Published] = []
        self.published_bytes = 0
        self.touched: set[int] = set()
        self.last_parked = 0
        self._parked: dict[int, bytes] = {}
        self._visitor = Session(0, self.databases[0], self.acl.default)
        self._walks: list[Walker] = []
        self._guard: Guard | None = None
        self._heard: dict[bytes, int] = {}
        self._blocked: tuple[list[bytes], int, bytes] | None = None

    # ---- what doors ask for --------------------------------------------------------------------------------------

    def begin(self, now: int, source: Callable[[], Generator]) -> None:
        """An entry of the log: what is past its time goes first."""
        self.agreed.source = source
        self.tick(now)
        self._hash_scans.look()

    def end(self) -> None:
        """Nothing is left over from it but the state, and news."""
        self.effects.clear()
        self.requests.clear()
        self.outgoing.clear()
        if self.meter is not None:
            self.meter.measure()  # here, so that all members count at the same moments

    def take_news(self) -> News:
        """What doors must hear of."""
        if not self.published and not self.touched:
            return _NO_NEWS
        news = News(self.published, sorted(self.touched))
        self.drop(news.touched)
        self.published, self.published_bytes, self.touched = [], 0, set()
        return news

    def execute(self, section: Section) -> Done:
        """Executes commands of one connection, up to one that waits or to replies that are long."""
        self._guard = self.guards.get(section.guard)
        self._heard = section.heard
        if section.atomic:
            return self._transaction(section)
        session = self._prepared(self._visitor, section)
        commands = section.commands
        self.run(session, commands, self.now)
        executed = len(commands) - self._let_go(session)
        waiting = self._wait(commands[executed - 1]) if self._blocked is not None else None
        return self._done(session, executed, waiting)

    def _let_go(self, session: Session) -> int:
        """It waits for nothing here. How many of its commands were not executed."""
        left = len(session.backlog)
        session.backlog.clear()
        session.waiter = None
        if self.halted:
            self.waiting.remove(self.halted.pop(session))
            self.look()
        return left

    def _transaction(self, section: Section) -> Done:
        guard = self._guard
        if guard is None and section.guard:
            nothing = RESP3 if section.resp == 3 else RESP2
            return Done(nothing.null_array, section.db, 1)
        session = self._prepared(guard or self._visitor, section)
        session.queue = section.commands
        self.run(session, [[b"EXEC"]], self.now)
        if guard is not None:
            del self.guards[section.guard]
            self._guard = None
        return self._done(session, 1, None)

    def _prepared(self, session: Session, section: Section) -> Session:
        session.db = self.databases[section.db]
        session.resp = RESP3 if section.resp == 3 else RESP2
        return session

    def _done(self, session: Session, executed: int, waiting: Waiting | None) -> Done:
        replies = b"".join(session.out)
        session.out.clear()
        guard = self._guard.id if self._guard is not None else 0
        return Done(replies, session.db.index, executed, guard, waiting)

    def peek(self, sections: Iterable[Section], now: int) -> list[bytes] | None:
        """Answers commands that read, and leaves no trace; None: it depends on the time, or is long.

        Args:
            now: by the clock of who asks.
        """
        size = 0
        due = self.keyspace.wheel.next()
        if due is not None and due <= now:
            return None
        agreed, gate = self.now, self.gate
        self.gate, self._peeks = False, True
        replies = []
        try:
            for section in sections:
                session = self._prepared(self._visitor, section)
                self.run(session, section.commands, max(agreed, now))
                replies.append(self._done(session, len(section.commands), None).replies)
                size += len(replies[-1])
                if self._let_go(session) or size > REPLIES_BYTES_MAX:
                    return None
        finally:
            self.now = self.keyspace.now = agreed
            self.gate, self._peeks = gate or bool(self._walks), False  # a scan may have begun
        return replies

    def park(self, done: Done) -> Done:
        """Keeps replies that are too long to travel at once."""
        size = len(done.replies)
        if size > PARKED_BYTES_MAX:
            error = CommandError(f"ERR the replies have {size} bytes, a group gives {PARKED_BYTES_MAX} at most")
            return msgspec.structs.replace(done, replies=error.reply * (done.executed - (done.waiting is not None)))
        self.last_parked += 1
        self._parked[self.last_parked] = done.replies
        while sum(map(len, self._parked.values())) > PARKED_BYTES_MAX:
            del self._parked[next(iter(self._parked))]
        return msgspec.structs.replace(done, replies=b"", parked=(self.last_parked, size))

    def parked(self, number: int, offset: int) -> bytes | None:
        """A piece of them."""
        found = self._parked.get(number)
        return None if found is None else found[max(0, offset) : max(0, offset) + REPLIES_BYTES_MAX]

    def ask(self, args: Args) -> bytes:
        """Executes one command for a program; one that would wait answers that there is nothing."""
        could_block, self.may_block = self.may_block, False
        try:
            return self._done(self._asked(args), 1, None).replies
        finally:
            self.may_block = could_block

    def _asked(self, args: Args) -> Session:
        self._guard, self._heard = None, {}
        session = self._visitor
        session.db, session.resp = self.databases[0], RESP3
        self.run(session, [args], self.now)
        return session

    def look(self) -> None:
        super().look()
        if self._peeks:
            self.gate = False

    # ---- guards --------------------------------------------------------------------------------------------------

    def drop(self, numbers: Iterable[int]) -> None:
        """Takes guards away."""
        for number in numbers:
            guard = self.guards.pop(number, None)
            if guard is not None:
                self.unwatch(guard)

    def set_guard(self, number: int, places: Iterable[tuple[int, bytes]], *, fallen: bool, awaited: bool) -> Guard:
        """A guard on these keys, each with its database."""
        if len(self.guards) >= GUARDS_MAX:
            oldest = next(iter(self.guards))
            if self.guards[oldest].awaited:
                self.touched.add(oldest)
            self.drop((oldest,))
        guard = self.guards[number] = Guard(number, self.databases[0], self.acl.default, awaited)
        for index, key in places:
            self.watching.add(guard, self.databases[index], key)
        self.look()
        guard.doomed = fallen
        return guard

    def _new_guard(self, *, awaited: bool) -> Guard:
        self.last_guard += 1
        return self.set_guard(self.last_guard, (), fallen=False, awaited=awaited)

    def watch(self, session: Session, key: bytes) -> None:
        if self._guard is None:
            self._guard = self._new_guard(awaited=False)
        super().watch(self._guard, key)

    def tell(self, db: Database, key: bytes, event: bytes, kind: str) -> None:
        for guard in self.watching.by_key.get((db, key), ()):
            if isinstance(guard, Guard) and guard.awaited:
                self.touched.add(guard.id)
        super().tell(db, key, event, kind)

    # ---- snapshots -----------------------------------------------------------------------------------------------

    def add_walk(self, walk: Walker) -> None:
        """It hears of each key that is about to change."""
        self._walks.append(walk)
        self.preserve = self.keyspace.preserve = self._preserve
        self.look()

    def remove_walk(self, walk: Walker) -> None:
        """It has come to its end."""
        self._walks.remove(walk)
        if not self._walks:
            self.preserve = self.keyspace.preserve = None
        self.look()

    def _preserve(self, db: Database, key: bytes) -> None:
        for walk in self._walks:
            walk.preserve(db, key)

    def flush(self, databases: Iterable[Database]) -> None:
        super().flush(databases)
        self._hash_scans.flushed()

    def metered(self) -> Meter:
        """What watches the memory. ValueError: nothing does."""
        if self.meter is None:
            raise ValueError("memory is not limited")
        return self.meter

    # ---- waiting -------------------------------------------------------------------------------------------------

    def block(
        self, keys: Iterable[bytes], until: int, serve: Serve, on_timeout: bytes, on_gone: bytes | None = None
    ) -> bytes | None:
        if not self.may_block:
            return on_timeout
        self._blocked = (list(dict.fromkeys(keys)), until, on_timeout)
        self.session.waiter = Waiter(self.session, self.db, (), until, serve, on_timeout)  # so that it runs no further
        return None

    def _wait(self, args: Args) -> Waiting:
        assert self._blocked is not None
        keys, until, nothing = self._blocked
        self._blocked = None
        guard = self._new_guard(awaited=True)
        for key in keys:
            super().watch(guard, key)
        ms = max(1, until - self.now) if until else 0
        return Waiting(guard.id, ms, self._again(args), nothing)

    def _again(self, args: Args) -> Args:
        """The command to try later: `$` of XREAD is the end of the stream as it is now."""
        if args[0].upper() != b"XREAD":
            return args
        half = (len(args) - [word.upper() for word in args].index(b"STREAMS") - 1) // 2
        words = list(args)
        for at in range(len(words) - half, len(words)):
            if words[at] == b"$":
                value = self.db.get(words[at - half])
                words[at] = shown(value.last) if isinstance(value, Stream) else b"0-0"
        return words

    # ---- memory --------------------------------------------------------------------------------------------------

    def new_meter(self) -> Meter:
        meter = super().new_meter()
        while meter.more():
            pass  # all at once: how far it is would have to be part of the state
        return meter

    # ---- chance --------------------------------------------------------------------------------------------------

    def random_key(self) -> bytes | None:
        return key_by_chance(self.db, self.chance)  # all keys are looked at, for it must follow from the state alone

    # ---- what is heard elsewhere ---------------------------------------------------------------------------------

    def publish(self, channel: bytes, message: bytes, shard: bool = False) -> int:
        size = self.published_bytes + len(channel) + len(message)
        if len(self.published) < PUBLISHED_MAX and size <= PUBLISHED_BYTES_MAX:
            self.published_bytes = size
            self.published.append(Published(channel, message, shard))
        return self._heard.get(channel, 0)

    def reads_only(self, commands: Iterable[Args]) -> bool:
        """Whether all of these may be answered without a place in the order."""
        return all(args and self.places.find(args) is Place.READ for args in commands)

    def settings(self) -> dict[str, str]:
        """Of the group, by name."""
        known: dict[str, Any] = self.config.matching(b"*")
        return {name: value for name, value in known.items() if name in GROUP_SETTINGS}


_NO_NEWS = News()
