"""Clients that wait for a key: who waits for what, who comes first, and until when."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from titan_objects.store.resp import CommandError

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.keyspace import Database
    from titan_objects.store.session import Session

Where = tuple["Database", bytes]

Serve = Callable[[bytes], bytes | None]
"""Tries a key that has changed: the encoded reply, or None if there is nothing for this client yet."""


class Waiter:
    """One blocking command that waits.

    Attributes:
        until: unix milliseconds, 0 for ever.
        on_gone: the reply when one of its keys is gone; None: it waits for a new one.
        touches: all keys that it names.
    """

    __slots__ = ("db", "keys", "on_gone", "on_timeout", "serve", "session", "touches", "until", "word")

    def __init__(
        self,
        session: "Session",
        db: "Database",
        keys: Iterable[bytes],
        until: int,
        serve: Serve,
        on_timeout: bytes,
        on_gone: bytes | None = None,
    ) -> None:
        self.session = session
        self.db = db
        self.keys = list(dict.fromkeys(keys))
        self.until = until
        self.serve = serve
        self.on_timeout = on_timeout
        self.on_gone = on_gone
        self.touches: list[bytes] = []


class WaitingRoom:
    """All waiters, first come first served for each key.

    Attributes:
        ready: keys that have changed since `serve`, and that somebody waits for.
        resumed: clients that wait no more, and have sent further commands meanwhile.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._by_key: dict[Where, dict[Waiter, None]] = {}
        self._deadlines: list[tuple[int, int, Waiter]] = []
        self._serial = 0
        self.count = 0
        self.ready: dict[Where, None] = {}
        self.resumed: deque[Session] = deque()

    def __contains__(self, key: "Where") -> bool:
        return key in self._by_key

    def add(self, waiter: Waiter) -> None:
        """Its client begins to wait."""
        waiter.session.waiter = waiter
        self.count += 1
        for key in waiter.keys:
            self._by_key.setdefault((waiter.db, key), {})[waiter] = None
        if waiter.until:
            self._serial += 1
            heapq.heappush(self._deadlines, (waiter.until, self._serial, waiter))
        self._engine.look()

    def remove(self, waiter: Waiter) -> None:
        """Waits no more. Its deadline is dropped when it comes up, or when dropped ones are the most."""
        waiter.session.waiter = None
        self.count -= 1
        for key in waiter.keys:
            waiting = self._by_key.get((waiter.db, key))
            if waiting is not None:
                waiting.pop(waiter, None)
                if not waiting:
                    del self._by_key[waiter.db, key]
        if len(self._deadlines) > 2 * self.count + 64:
            self._deadlines = [each for each in self._deadlines if each[2].session.waiter is each[2]]
            heapq.heapify(self._deadlines)

    def release(self, waiter: Waiter, reply: bytes) -> None:
        """Ends a wait with this reply."""
        engine, session = self._engine, waiter.session
        self.remove(waiter)
        if reply:
            engine.deliver(session, reply)
        if session.replies == "skip":
            session.skipped()
        if session.backlog:
            self.resumed.append(session)
        engine.look()

    def serve(self) -> None:
        """Serves who waits for what has changed."""
        engine = self._engine
        session, db, reply = engine.session, engine.db, engine.reply
        while self.ready:
            where = next(iter(self.ready))
            del self.ready[where]
            engine.db, key = where
            for waiter in list(self._by_key.get(where, ())):
                if engine.db.get(key) is None:
                    if waiter.on_gone is not None:
                        self.release(waiter, waiter.on_gone)
                    continue
                engine.session, engine.reply = waiter.session, waiter.session.resp
                answer = self._served(waiter, key)
                if answer is not None:
                    waiter.session.wrote = True
                    self.release(waiter, answer)
        engine.session, engine.db, engine.reply = session, db, reply

    def _served(self, waiter: Waiter, key: bytes) -> bytes | None:
        engine = self._engine
        if engine.preserve is not None:
            for touched in waiter.touches:
                engine.preserve(waiter.db, touched)
        try:
            return waiter.serve(key)
        except CommandError as why:
            return why.reply
        finally:
            engine.logged()

    def look_at(self, databases: Iterable["Database"]) -> None:
        """These have other contents now."""
        for where in self._by_key:
            if where[0] in databases and where[1] in where[0].data:
                self.ready[where] = None

    def overdue(self, now: int) -> list[Waiter]:
        """Those that have waited long enough; takes them off the list of deadlines only."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter.session.waiter is waiter:
                found.append(waiter)
        return found
