"""What the store knows of one connection: its database, transaction, subscriptions, user and protocol version."""

from typing import TYPE_CHECKING

from titan_objects.store.resp import RESP2, Resp2

if TYPE_CHECKING:
    from titan_objects.store.acl_user import User
    from titan_objects.store.blocking import Waiter
    from titan_objects.store.keyspace import Database
    from titan_objects.store.table import Args
    from titan_objects.store.tracking import Tracker


class Session:
    """One client.

    Attributes:
        out: encoded replies and messages that the client has not been sent.
        gate: its commands need a closer look: not authenticated, in MULTI, subscribed, restricted, without
            replies, or kept informed of changes.
        queue: commands since MULTI; None outside.
        doomed: EXEC will refuse, because a watched key has changed.
        waiter: what a blocking command waits for; while it does, what comes in is kept in `backlog`.
        busy: its last command is executed elsewhere and not answered yet; likewise.
        last_command: the first word of what came last; last_subcommand: the name of what was executed last of commands
            that contain others (`config|get`).
        told: it is sent what it does not ask for, and held to the limits of subscribers.
        wrote: replies in `out` say that something was written.
        closing: to be closed once its replies are sent; None: at once.
        snapshot_only: as a replica it wants a snapshot, and nothing after it.
        snapshot_without: what it does not want in that: `functions`, `data`.
    """

    __slots__ = (
        "address",
        "backlog",
        "busy",
        "capabilities",
        "channels",
        "closing",
        "created_ms",
        "db",
        "doomed",
        "flawed",
        "gate",
        "id",
        "killed",
        "last_command",
        "last_ms",
        "last_subcommand",
        "library",
        "local_address",
        "name",
        "no_evict",
        "out",
        "patterns",
        "queue",
        "replica_port",
        "replies",
        "resp",
        "shards",
        "snapshot_only",
        "snapshot_without",
        "told",
        "tracker",
        "user",
        "waiter",
        "watched",
        "wrote",
    )

    def __init__(self, id: int, db: "Database", user: "User | None", now: int = 0) -> None:
        self.id = id
        self.db = db
        self.user = user
        self.resp: Resp2 = RESP2
        self.out: list[bytes] = []
        self.queue: list[Args] | None = None
        self.flawed = False
        self.watched: set[tuple[Database, bytes]] = set()
        self.doomed = False
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, None] = {}
        self.shards: dict[bytes, None] = {}
        self.told = False
        self.waiter: Waiter | None = None
        self.backlog: list[Args] = []
        self.busy = False
        self.replies = "on"
        self.closing = False
        self.killed = False
        self.wrote = False
        self.no_evict = False
        self.tracker: Tracker | None = None
        self.name = b""
        self.capabilities: frozenset[bytes] = frozenset()
        self.replica_port = 0
        self.snapshot_only = False
        self.snapshot_without: frozenset[bytes] = frozenset()
        self.library = {b"lib-name": b"", b"lib-ver": b""}
        self.address = ""
        self.local_address = ""
        self.created_ms = now
        self.last_ms = now
        self.last_command = b""
        self.last_subcommand = ""
        self.gate = False
        self.look()

    def look(self) -> None:
        """Works out `gate` anew; to be called after any change that it depends on."""
        self.gate = (
            self.user is None
            or not self.user.unrestricted
            or self.queue is not None
            or self.replies != "on"
            or self.subscribed
            or self.tracker is not None
        )

    def skipped(self) -> None:
        """The reply that it did not want (CLIENT REPLY SKIP) was not sent."""
        self.replies = "on"
        self.look()

    @property
    def waits(self) -> bool:
        """What comes in is not executed before something else has happened."""
        return self.busy or self.waiter is not None

    @property
    def owed(self) -> bool:
        """An answer is under way, and waits for nothing that another client does."""
        return self.busy

    @property
    def subscribed(self) -> bool:
        """Whether any channel is listened to."""
        return bool(self.channels or self.patterns or self.shards)

    @property
    def subscriptions(self) -> int:
        """Channels and patterns, as (un)subscribing counts them."""
        return len(self.channels) + len(self.patterns)
