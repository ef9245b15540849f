"""Who follows whom, and how far they are: the part of replication that decides, without a socket.

What a leader logs is a stream of bytes; an offset counts them from the leader's first on. The last of them are kept in
a backlog, from which a replica whose link was cut goes on; one that is too far behind gets a snapshot. The protocol is
Redis's own (PSYNC), so a redis-server can be either end.
"""

from collections import deque
from typing import TYPE_CHECKING

from titan_objects.store.resp import bulks, integer
from titan_objects.store.session import Session

if TYPE_CHECKING:
    from titan_objects.store.blocking import Waiter
    from titan_objects.store.engine import Engine

GETACK = bulks([b"REPLCONF", b"GETACK", b"*"])
PING = bulks([b"PING"])


class Replica:
    """One server that follows this one.

    Attributes:
        state: `wait_bgsave` until its snapshot begins, `send_bulk` while that is sent, then `online`.
        pending: the stream since the snapshot's moment, while the snapshot is sent.
        bare: it has asked by SYNC, and acknowledges nothing but the snapshot.
        snapshot_only, snapshot_without: what it has asked for, as its session has it.
        sent: its snapshot is out, and it has not said yet that it has read it. It finds the snapshot's end only if
            nothing comes with it.
        acknowledged: how far it says it is; `heard_ms`: when it said so.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.state = "wait_bgsave"
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.acknowledged = 0
        self.heard_ms = 0
        self.bare = False
        self.snapshot_only = session.snapshot_only
        self.snapshot_without = session.snapshot_without
        self.sent = False


class Backlog:
    """The last bytes of the stream."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.size = 0
        self.end = 0

    @property
    def begin(self) -> int:
        """The offset of the first byte that is kept."""
        return self.end - self.size

    def restart(self, offset: int) -> None:
        """Forgets all; the stream goes on from there."""
        self._pieces.clear()
        self.size, self.end = 0, offset

    def append(self, data: bytes, most: int) -> None:
        """Adds to the stream, and lets go what is more than `most` bytes old."""
        self._pieces.append(data)
        self.size += len(data)
        self.end += len(data)
        while self._pieces and self.size - len(self._pieces[0]) >= most:
            self.size -= len(self._pieces.popleft())

    def since(self, offset: int) -> bytes | None:
        """The stream from there on; None: it is not kept, or lies ahead."""
        if not self.begin <= offset <= self.end:
            return None
        return b"".join(self._pieces)[offset - self.begin :]


class Leader:
    """The address of the server that is followed here, and the state of the link to it.

    Attributes:
        link: `connect`, `sync` or `connected`, as ROLE has it.
        offset: how much of its stream was executed; -1: nothing was yet.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.link = "connect"
        self.id = ""
        self.offset = -1
        self.heard_ms = 0


class Replication:
    """What a store knows of its replicas and of its leader.

    Attributes:
        leader: who is followed; None: nobody, this is a leader.
        to_sync: replicas that need a snapshot; the shell around sends it.
        with_ends: snapshots for replicas say that they have to know fields that end.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._id = ""
        self.replicas: dict[Session, Replica] = {}
        self.backlog = Backlog()
        self.leader: Leader | None = None
        self.to_sync: list[Replica] = []
        self.with_ends = False
        self._waiting: dict[Waiter, tuple[int, int]] = {}
        self._unplaced: list[Waiter] = []

    @property
    def id(self) -> str:
        """Names the history of this store's data; it is another after a restart.

        Drawn when it is first asked for: a store that a group keeps is never followed, and draws nothing.
        """
        if not self._id:
            self._id = f"{self._engine.chance.getrandbits(160):040x}"
        return self._id

    # ---- leading -------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """More of the stream, for all replicas."""
        engine = self._engine
        if not self.replicas and not self.backlog.size:
            return
        if engine.keyspace.has_known_ends and not self.with_ends:
            self.with_ends = True
            self._begin_anew()  # a redis-server before 7.4 would skip what it does not know, and its transaction
            return
        most = int(engine.config.get("repl-backlog-size"))
        if self.backlog.end != engine.written - len(data):
            self.backlog.restart(engine.written - len(data))
        self.backlog.append(data, most)
        for replica in self.replicas.values():
            if replica.state == "online":
                replica.session.out.append(data)
                engine.outgoing[replica.session] = None
            elif replica.state == "send_bulk" and not replica.snapshot_only:
                replica.pending.append(data)
                replica.pending_bytes += len(data)

    def take_up(self, session: Session, id: str, offset: int) -> None:
        """A server wants to follow: from `offset` on if it knows this history, else from a snapshot."""
        replica = self._join(session)
        rest = self.backlog.since(offset) if id == self.id and not session.snapshot_only else None
        if rest is None:
            self.to_sync.append(replica)
            self._engine.requests.append("replicate")
            return
        self._engine.stats.partial_syncs += 1
        session.out += (b"+CONTINUE %b\r\n" % self.id.encode(), rest)
        replica.state = "online"
        replica.acknowledged = offset

    def take_up_bare(self, session: Session) -> None:
        """As `take_up` without a history, for those that ask by SYNC."""
        replica = self._join(session)
        replica.bare = True
        self.to_sync.append(replica)
        self._engine.requests.append("replicate")

    def _join(self, session: Session) -> Replica:
        if not self.replicas and not self.backlog.size:
            self.backlog.restart(self._engine.written)
            self.with_ends = self._engine.keyspace.has_known_ends
        replica = self.replicas[session] = Replica(session)
        replica.heard_ms = self._engine.now
        return replica

    def begin_snapshot(self, replica: Replica) -> None:
        """The snapshot shows this moment; what follows is kept for the replica."""
        replica.state = "send_bulk"
        replica.acknowledged = self._engine.written

    def go_online(self, replica: Replica) -> None:
        """The snapshot was read; the replica gets what has happened since, and all that follows."""
        replica.state = "online"
        replica.sent = False
        replica.session.out += replica.pending
        replica.pending.clear()
        replica.pending_bytes = 0
        self._engine.outgoing[replica.session] = None

    def leave(self, session: Session) -> None:
        """A client is gone, which may have been a replica or have waited for some."""
        self.replicas.pop(session, None)
        for waiter in [each for each in self._waiting if each.session is session]:
            del self._waiting[waiter]

    def acknowledge(self, session: Session, offset: int) -> None:
        """A replica says how far it is."""
        replica = self.replicas.get(session)
        if replica is None:
            return
        if replica.sent:
            self.go_online(replica)
        replica.acknowledged = max(replica.acknowledged, offset)
        replica.heard_ms = self._engine.now
        for waiter, (target, wanted) in list(self._waiting.items()):
            if waiter.session.waiter is not waiter:
                del self._waiting[waiter]
                continue
            count = self.count(target)
            waiter.on_timeout = integer(count)
            if count >= wanted:
                del self._waiting[waiter]
                self._engine.waiting.release(waiter, integer(count))

    def count(self, offset: int) -> int:
        """How many replicas have all up to there."""
        return sum(each.state == "online" and each.acknowledged >= offset for each in self.replicas.values())

    def wait(self, waiter: "Waiter", wanted: int) -> None:
        """That client waits for so many replicas; what it waits for is known when its commands are logged."""
        self._waiting[waiter] = (1 << 63, wanted)
        self._unplaced.append(waiter)
        self._engine.requests.append("acknowledge")

    def place_waiters(self) -> None:
        """All that was executed is in the stream: who waits, waits for that."""
        for waiter in self._unplaced:
            if waiter in self._waiting:
                self._waiting[waiter] = (self._engine.written, self._waiting[waiter][1])
        self._unplaced.clear()
        self._waiting = {each: found for each, found in self._waiting.items() if each.session.waiter is each}

    # ---- following -----------------------------------------------------------------------------------------------

    def follow(self, host: str, port: int) -> None:
        """This store holds what that server holds, from now on."""
        self.leader = Leader(host, port)
        self._let_replicas_go()
        self._engine.look()

    def lead(self) -> None:
        """This store follows nobody: its history is its own from now on."""
        if self.leader is None:
            return
        self.leader = None
        self._begin_anew()
        self._engine.look()

    def _begin_anew(self) -> None:
        """The stream is the beginning of another history: whoever follows needs a snapshot."""
        self._id = ""
        self._let_replicas_go()

    def _let_replicas_go(self) -> None:
        self.backlog.restart(0)
        for session in self.replicas:
            session.closing = session.killed = True
            self._engine.outgoing[session] = None
