"""A group of Raft members on a table: nothing moves unless a test moves it."""

from collections.abc import Callable
from typing import Any

from msgspec.msgpack import encode

from titan_overlay.ambient import Random
from titan_overlay.mutable.engine import (
    GENESIS,
    Checkpoint,
    Configuration,
    Entry,
    EntryKind,
    Event,
    Persisted,
    Proposed,
    ReadAsked,
    Ready,
    Received,
    Send,
    TimerDue,
)
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_messages import decode_message, decode_record
from titan_overlay.mutable.raft_settings import DEFAULTS, RaftSettings

Mail = tuple[str, str, Any]


def id_of(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def name_of(id: bytes | None) -> str:
    return "nobody" if id is None else id.rstrip(b".").decode()


class Group:
    """Members A, B, C, ... with a mailbox between them and a disk under each.

    mail: what is on its way. slow: members whose disks do not sync by themselves. cut: (from, to) that nothing passes.
    committed, reads, refused, accepted: by member, everything that its Readys said.
    """

    def __init__(self, members: str = "ABC", learners: str = "", settings: RaftSettings = DEFAULTS) -> None:
        self.settings = settings
        self.configuration = Configuration(1, tuple(map(id_of, members)), tuple(map(id_of, learners)))
        self.now = 0.0
        self.mail: list[Mail] = []
        self.slow: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.down: set[str] = set()
        self.engines: dict[str, Raft] = {}
        self.committed: dict[str, list[Entry]] = {}
        self.reads: dict[str, list[Any]] = {}
        self.refused: dict[str, list[Any]] = {}
        self.accepted: dict[str, list[Any]] = {}
        self.fetch: dict[str, Any] = {}
        self.durable: dict[str, list[bytes]] = {}
        self.unsynced: dict[str, list[Ready]] = {}
        self.timers: dict[str, float | None] = {}
        self.story: list[str] = []
        self._refs = 0
        for name in members + learners:
            self.durable[name] = []
            self.start(name)

    # -- machines --

    def start(self, name: str, checkpoint: Checkpoint = GENESIS) -> Raft:
        """Starts a member, for the first time or again, with what is on its disk."""
        self.down.discard(name)
        records = [decode_record(raw) for raw in self.durable[name]]
        random = Random(f"{name}/{len(records)}")
        engine = Raft(id_of(name), self.configuration, checkpoint, records, random, self.settings)
        self.engines[name] = engine
        self.committed[name], self.reads[name], self.refused[name], self.accepted[name] = [], [], [], []
        self.unsynced[name] = []
        self.step(name, TimerDue())
        return engine

    def crash(self, name: str) -> None:
        """Without what was not synced."""
        self.tell(f"{name} loses power")
        self.down.add(name)
        self.unsynced[name] = []

    def step(self, name: str, event: Event) -> Ready:
        """One event in; its effects on the table."""
        ready = self.engines[name].step(event, self.now)
        self._post(name, ready.send_now)
        self.committed[name] += ready.committed
        for entry in ready.committed:
            self.tell(f"{name} commits {entry.index} of term {entry.term}: {_content(entry)}")
        self.reads[name] += ready.reads
        self.refused[name] += ready.refused
        self.accepted[name] += ready.accepted
        if ready.fetch is not None:
            self.fetch[name] = ready.fetch
        self.timers[name] = ready.timer
        self.unsynced[name].append(ready)
        if name not in self.slow:
            self.sync(name)
        return ready

    def sync(self, name: str) -> None:
        """The disk has done everything."""
        while self.unsynced[name]:
            ready = self.unsynced[name].pop(0)
            self.durable[name] += [encode(record) for record in ready.persist]
            self._post(name, ready.send_after_persist)
            if ready.persist:
                self.step(name, Persisted(ready.number))

    def _post(self, name: str, sends: list[Send]) -> None:
        for send in sends:
            self.mail.append((name, name_of(send.to), decode_message(encode(send.message))))

    # -- messages --

    def receive(self, source: str, target: str, message: Any) -> None:
        """One message arrives."""
        self.tell(f"{source} -> {target}  {_words(message)}")
        self.step(target, Received(id_of(source), message))

    def passes(self, source: str, target: str) -> bool:
        return (source, target) not in self.cut and not {source, target} & self.down

    def deliver(self, only: Callable[[Mail], bool] = lambda mail: True) -> None:
        """Delivers what may pass, in order, until nothing of the kind is on its way; the rest stays, or is lost."""
        kept: list[Mail] = []
        while self.mail:
            mail = self.mail.pop(0)
            if not self.passes(*mail[:2]):
                continue
            if only(mail):
                self.receive(*mail)
            else:
                kept.append(mail)
        self.mail = kept

    def isolate(self, name: str) -> None:
        """Nothing passes to or from a member."""
        self.cut |= {(name, other) for other in self.engines} | {(other, name) for other in self.engines}

    def heal(self) -> None:
        self.cut.clear()

    # -- time and requests --

    def time_out(self, name: str) -> None:
        """Time goes on to the member's timer, and beyond what keeps the others with a leader."""
        timer = self.timers[name]
        assert timer is not None, f"{name} waits for nothing"
        self.now = max(self.now, timer, self.now + self.settings.election)
        self.tell(f"{name} times out")
        self.step(name, TimerDue())

    def elect(self, name: str) -> None:
        """The member stands, and everybody answers."""
        self.time_out(name)
        self.deliver()
        assert self.engines[name].role.name == "leader"

    def heartbeat(self, name: str) -> None:
        """A leader's timer goes off."""
        self.now += self.settings.heartbeat
        self.step(name, TimerDue())

    def spread(self, name: str) -> None:
        """A leader tells those, too, who were not needed for its last commit."""
        self.now += self.settings.spread_after
        self.step(name, TimerDue())

    def propose(self, name: str, data: bytes, kind: EntryKind = EntryKind.COMMANDS) -> Ready:
        self._refs += 1
        self.tell(f"client -> {name}  {data.decode()}")
        return self.step(name, Proposed(data, self._refs, kind))

    def read(self, name: str) -> int:
        self._refs += 1
        self.step(name, ReadAsked(self._refs))
        return self._refs

    def datas(self, name: str) -> list[bytes]:
        """What a member has committed, empty entries left out."""
        return [entry.data for entry in self.committed[name] if entry.data]

    def log(self, name: str) -> list[tuple[int, int]]:
        """(index, term) of every entry in a member's log."""
        log = self.engines[name].log
        return [(index, log.term_at(index)) for index in range(log.base + 1, log.last + 1)]

    def tell(self, line: str) -> None:
        self.story.append(line)


def _content(entry: Entry) -> str:
    return {EntryKind.NOOP: "nothing", EntryKind.RECONFIG: "the stop sign"}.get(entry.kind, entry.data.decode())


def _words(message: Any) -> str:
    parts = []
    for field in message.__struct_fields__:
        value = getattr(message, field)
        if field == "entries":
            value = "[" + ", ".join(f"{entry.index}/{entry.term} {_content(entry)}" for entry in value) + "]"
        elif field == "checkpoint":
            value = f"state at {value.index}/{value.term}"
        elif field in ("nonce", "ref", "round"):
            continue
        parts.append(f"{field}={value}")
    return f"{type(message).__name__} {' '.join(parts)}"
