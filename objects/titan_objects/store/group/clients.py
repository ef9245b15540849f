"""What a door knows of its clients, its own settings, and the commands that are there because it is a door."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.acl_user import User
from titan_objects.store.commands.replication import wanted_copies
from titan_objects.store.config import SETTINGS, Config
from titan_objects.store.engine import Engine
from titan_objects.store.globs import matcher
from titan_objects.store.keyspace import Database
from titan_objects.store.resp import OK, CommandError, integer
from titan_objects.store.session import Session
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.group.blocked import Blocked


class DoorConfig(Config):
    """Settings of a door, and the last that was heard of the group's."""

    def __init__(self, **values: str) -> None:
        super().__init__(**{"appendonly": "no", **values})
        if self.get("databases") != SETTINGS["databases"][0]:
            raise ValueError(
                f"databases: a store that a group keeps has {SETTINGS['databases'][0]}, whatever a door says"
            )
        self.of_group: dict[str, str] = {}

    def matching(self, pattern: bytes) -> dict[str, str]:
        match = matcher(pattern.lower())
        group = {name: value for name, value in self.of_group.items() if match(name.encode())}
        return super().matching(pattern) | group


class DoorSession(Session):
    """A client of a door.

    Attributes:
        guard: number of the guard on the keys that it watches; 0: none.
        stale: what it reads may be behind (READONLY).
        blocked: what it waits for.
    """

    __slots__ = ("blocked", "guard", "stale")

    def __init__(self, id: int, db: Database, user: User | None, now: int = 0) -> None:
        super().__init__(id, db, user, now)
        self.guard = 0
        self.stale = False
        self.blocked: Blocked | None = None

    @property
    def owed(self) -> bool:
        """As for any session; a command that blocks waits for others."""
        return self.busy and self.blocked is None


def own_commands(faults: Callable[[], int], hold: Callable[[DoorSession, int, bytes], None]) -> Group:
    """Commands that are there because this is a door.

    Args:
        faults: so many other members have what was acknowledged, at least.
        hold: lets a client wait for so many milliseconds (0: for ever), and then have that reply.
    """
    group = Group("cluster")

    @group.command("readonly", 1, "loading stale fast", since="3.0.0")
    def readonly(e: Engine, a: Args) -> bytes:
        """Lets this connection read what may be behind."""
        assert isinstance(e.session, DoorSession)
        e.session.stale = True
        return OK

    @group.command("readwrite", 1, "loading stale fast", since="3.0.0")
    def readwrite(e: Engine, a: Args) -> bytes:
        """Lets this connection read what is the latest, again."""
        assert isinstance(e.session, DoorSession)
        e.session.stale = False
        return OK

    @group.command("wait", 3, "noscript", since="3.0.0")
    def wait(e: Engine, a: Args) -> bytes | None:
        """Says how many other members have what was acknowledged; where more are wanted, when the time is over."""
        wanted, timeout_ms = wanted_copies(a)
        count = faults()
        if wanted <= count:
            return integer(count)
        assert isinstance(e.session, DoorSession)
        hold(e.session, timeout_ms, integer(count))
        return None

    @group.command("debug", -2, "admin noscript loading stale")
    def debug(e: Engine, a: Args) -> bytes:
        """Is refused: members of a group have to stay the same."""
        raise CommandError(
            b"ERR DEBUG is not there in a group: members execute nothing but what they have agreed upon, and a member "
            b"that sleeps or reloads alone would fall behind or differ"
        )

    return group
