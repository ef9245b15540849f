"""WATCH: which clients watch which keys, whose transactions EXEC refuses once one of them has changed."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titan_objects.store.blocking import Where
    from titan_objects.store.keyspace import Database
    from titan_objects.store.session import Session


class Watching:
    """The watched keys of one store.

    Attributes:
        by_key: who watches a key of a database.
    """

    def __init__(self) -> None:
        self.by_key: dict[Where, set[Session]] = {}

    def add(self, session: "Session", db: "Database", key: bytes) -> None:
        """That client watches this key as well."""
        session.watched.add((db, key))
        self.by_key.setdefault((db, key), set()).add(session)

    def leave(self, session: "Session") -> None:
        """It watches nothing more, and nothing has changed."""
        for where in session.watched:
            sessions = self.by_key.get(where)
            if sessions is not None:
                sessions.discard(session)
                if not sessions:
                    del self.by_key[where]
        session.watched.clear()
        session.doomed = False

    def there(self, databases: Collection["Database"]) -> "list[Where]":
        """Watched keys of these databases which one of them has."""
        return [each for each in self.by_key if each[0] in databases and any(each[1] in db.data for db in databases)]
