"""Clients that wait for a key: who waits for what, who comes first, and until when."""

import heapq
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titan_objects.store.keyspace import Database
    from titan_objects.store.session import Session

Serve = Callable[[bytes], bytes | None]
"""Tries a key that has changed: the encoded reply, or None if there is nothing for this client yet."""


class Waiter:
    """One blocking command that waits. `until`: unix milliseconds, 0 for ever; `touches`: all keys that it names."""

    __slots__ = ("db", "keys", "on_timeout", "serve", "session", "touches", "until", "word")

    def __init__(
        self,
        session: "Session",
        db: "Database",
        keys: Iterable[bytes],
        until: int,
        serve: Serve,
        on_timeout: bytes,
    ) -> None:
        self.session = session
        self.db = db
        self.keys = list(dict.fromkeys(keys))
        self.until = until
        self.serve = serve
        self.on_timeout = on_timeout
        self.touches: list[bytes] = []


class WaitingRoom:
    """All waiters, first come first served for each key."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Database, bytes], dict[Waiter, None]] = {}
        self._deadlines: list[tuple[int, int, Waiter]] = []
        self._serial = 0
        self.count = 0

    def __contains__(self, key: tuple["Database", bytes]) -> bool:
        return key in self._by_key

    def add(self, waiter: Waiter) -> None:
        """Begins to wait."""
        self.count += 1
        for key in waiter.keys:
            self._by_key.setdefault((waiter.db, key), {})[waiter] = None
        if waiter.until:
            self._serial += 1
            heapq.heappush(self._deadlines, (waiter.until, self._serial, waiter))

    def remove(self, waiter: Waiter) -> None:
        """Waits no more. Its deadline is dropped when it comes up, or when dropped ones are the most."""
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

    def waiting_for(self, db: "Database", key: bytes) -> list[Waiter]:
        """Those that wait for a key, first come first."""
        return list(self._by_key.get((db, key), ()))

    def keys_of(self, db: "Database") -> list[bytes]:
        """Keys of a database that somebody waits for."""
        return [key for waited, key in self._by_key if waited is db]

    def overdue(self, now: int) -> list[Waiter]:
        """Those that have waited long enough; takes them off the list of deadlines only."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter.session.waiter is waiter:
                found.append(waiter)
        return found

    def next(self) -> int | None:
        """When a waiter may have waited long enough."""
        return self._deadlines[0][0] if self._deadlines else None
