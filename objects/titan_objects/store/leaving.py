"""Keys and fields of hashes that go without a client's command: their time is over, or there is not enough memory."""

from typing import TYPE_CHECKING

from titan_objects.store.keyspace import Database

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

FIELDS_MAX = 1000
"""Fields in one command of the log."""


class Leaving:
    """Has the log, the counters and whoever listens know of it. Of one engine."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def expired(self, db: Database, key: bytes) -> None:
        """A key has been removed because its time is over."""
        engine = self._engine
        engine.stats.expired += 1
        self._log(db, [b"DEL", key])
        if engine.observed:
            engine.tell(db, key, b"expired", "x")

    def fields_expired(self, db: Database, key: bytes, gone: list[bytes]) -> None:
        """Fields of a hash have been removed because their time is over, and with the last of them the key."""
        engine = self._engine
        engine.stats.expired_fields += len(gone)
        for at in range(0, len(gone), FIELDS_MAX):
            self._log(db, [b"HDEL", key, *gone[at : at + FIELDS_MAX]])
        if engine.observed:
            engine.tell(db, key, b"hexpired", "h")
            if key not in db.data:
                engine.tell(db, key, b"del", "g")

    def evict(self, db: Database, key: bytes) -> None:
        """Removes a key because there is not enough memory."""
        engine = self._engine
        if engine.preserve is not None:
            engine.preserve(db, key)
        db.delete(key)
        engine.stats.evicted += 1
        self._log(db, [b"DEL", key])
        engine.tell(db, key, b"evicted", "e")

    def _log(self, db: Database, effect: list[bytes]) -> None:
        engine = self._engine
        current, engine.db = engine.db, db
        engine.emit(effect)
        engine.db = current
