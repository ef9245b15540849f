"""What the engines of agreement have in common: events in, `Ready` out.

An engine (`raft.py`, `bft.py`) is a plain state machine. It reads no clock, opens no file and draws no randomness of
its own: the shell hands it events with the time, and does what the `Ready` says:

    1. send `send_now`, and write `persist` to the log (one fsync may serve many groups)
    2. execute `committed`, in order; answer `reads` once their index has been executed. Neither waits for the disk:
       what is committed is durable at a quorum already
    3. once `persist` of this Ready *and of all before it* is durable: send `send_after_persist` (also where `persist`
       is empty), then hand in `Persisted(ready.number)` where `persist` was not empty
       `unhurried` is for the log as well, and nothing waits for it: it may go with what is written next
    4. hand in `TimerDue` at `timer`. Each Ready replaces the time that the one before it set; being early is harmless

What must be durable before it may be told to others is said in one place: in which of the two lists a message stands.

An engine serves one epoch: one fixed `Configuration`. The entry RECONFIG is its stop sign (`EntryKind.RECONFIG`): the
shell then starts a new engine for the next epoch, whose first height is the one after the stop sign. Heights go on
across epochs, terms begin anew; the shell says with every message which group and epoch it belongs to, and an engine
sees only those of its own.

An idle engine sleeps: it asks for no timer and sends nothing, so that a node can have thousands. Whether peers live is
then watched for all groups at once by the shell, which hands in `PeerSilent`.
"""

from enum import IntEnum
from typing import Annotated, Any, Protocol

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
"""A height, a term, a number: what a peer sends in its place is refused by the decoder."""


class EntryKind(IntEnum):
    """What an entry of the order is."""

    COMMANDS = 0
    """A batch of requests, opaque to the engine."""
    NOOP = 1
    """Empty: the first of a new leader."""
    RECONFIG = 2
    """The next `Configuration`; the epoch ends with this height, and entries behind it are never executed."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place in the order of a group."""

    index: Count
    """Height; the first is 1."""
    term: Count
    """Term (Raft) or view (BFT) in which it was proposed."""
    kind: EntryKind
    data: bytes


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """One fixed membership of a group: an epoch. Members are 32-byte node ids, sorted."""

    epoch: Count
    members: tuple[bytes, ...]
    """Voters: 2t + 1 (crash faults) or 3t + 1 (byzantine)."""
    learners: tuple[bytes, ...] = ()
    """Receive the log, do not vote. The only part that may change within an epoch: see `LearnersChanged`."""
    keys: tuple[bytes, ...] = ()
    """Public voting key of each member, in their order."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """A state of the object: what executing the order up to `index` gives."""

    index: Count
    term: Count
    """Of the entry at `index`; 0 where an epoch begins."""
    root: bytes = b""
    """Hash of the state, where the engine agrees on one (BFT)."""


GENESIS = Checkpoint(0, 0)
"""The state of a new object, before its first entry."""


# ---- events --------------------------------------------------------------------------------------------------


class Received(msgspec.Struct, frozen=True):
    """A message from a peer, whose id the link has proven."""

    sender: bytes
    message: Any
    """A Struct of the engine's own."""


class Proposed(msgspec.Struct, frozen=True):
    """A batch to be ordered. Only a leader takes it; others answer with `Refused`."""

    data: bytes
    ref: int
    """The shell's number for it, returned in `Ready.accepted` or `Ready.refused`; never used twice."""
    kind: EntryKind = EntryKind.COMMANDS


class ReadAsked(msgspec.Struct, frozen=True):
    """A linearizable read: at which index may it be executed? Any member may be asked.

    There may be no answer at all (a message was lost, a leader died): the shell asks again, with a new `ref`.
    """

    ref: int
    """As in `Proposed`."""


class RequestsWait(msgspec.Struct, frozen=True):
    """Whether the shell knows of requests that have not been executed: a leader that does not order them must go.

    Said anew whenever another request has become the one that has waited longest, and only then: it is by that one
    that a leader is measured. Raft, whose leaders do not lie, does not need to know.
    """

    waiting: bool


class Persisted(msgspec.Struct, frozen=True):
    """All that the Ready with this number, and those before it, wanted on disk is durable now."""

    number: int


class TimerDue(msgspec.Struct, frozen=True):
    """The time asked for in `Ready.timer` has come."""


class PeerSilent(msgspec.Struct, frozen=True):
    """The node of a member has not been heard of for a while, in any group: sleepers that rely on it must wake."""

    peer: bytes


class SnapshotTaken(msgspec.Struct, frozen=True):
    """The shell has a durable snapshot of this state, which it executed itself: the log before it may go."""

    checkpoint: Checkpoint


class SnapshotInstalled(msgspec.Struct, frozen=True):
    """The shell has fetched what `Ready.fetch` asked for (or a later state), and it is durable and executed."""

    checkpoint: Checkpoint


class LearnersChanged(msgspec.Struct, frozen=True):
    """Who learns from now on. No vote changes, so each member is told by its own shell, when it suits."""

    learners: tuple[bytes, ...]


class TransferAsked(msgspec.Struct, frozen=True):
    """Please let another lead: before a clean stop, say. A member that does not lead drops it."""

    to: bytes | None = None
    """None: whoever is furthest."""


Event = (
    Received
    | Proposed
    | ReadAsked
    | RequestsWait
    | Persisted
    | TimerDue
    | PeerSilent
    | SnapshotTaken
    | SnapshotInstalled
    | LearnersChanged
    | TransferAsked
)


# ---- effects -------------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """A message to one peer."""

    to: bytes
    message: Any


class Refused(msgspec.Struct, frozen=True):
    """A proposal or a read that this member does not take."""

    ref: int
    leader: bytes | None
    """Who would, as far as is known. The member itself: it leads, but cannot take more just now."""


class Accepted(msgspec.Struct, frozen=True):
    """A proposal that stands in the log now. Committed only when it comes back in `committed`, at this place.

    If another entry comes back at this place, or a state at or above it is installed, nobody can tell from here
    whether the proposal was ordered: sessions make it safe to propose it again.
    """

    ref: int
    index: int
    term: int


class ReadReady(msgspec.Struct, frozen=True):
    """The read may be executed once `index` has been."""

    ref: int
    index: int


class Fetch(msgspec.Struct, frozen=True):
    """This member is too far behind for the log: its shell must fetch a state, in chunks, and install it.

    Asked for again until it is there; one that is being fetched already is no news. A root, where there is one, is
    agreed: what is fetched is checked against it, so any source will do.
    Where an epoch begins (term 0), its certificate has the root.
    """

    checkpoint: Checkpoint
    sources: tuple[bytes, ...]
    """Members that have it, the best first."""


class Ready:
    """What one event leads to."""

    __slots__ = (
        "accepted",
        "checkpoints",
        "committed",
        "evidence",
        "fetch",
        "number",
        "persist",
        "reads",
        "refused",
        "send_after_persist",
        "send_now",
        "shrunk",
        "timer",
        "unhurried",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        """Counts up from 1; `Persisted` names it."""
        self.persist: list[Any] = []
        """Structs of the engine's own, for the log, in this order; the engine's next start is given them back."""
        self.unhurried: list[Any] = []
        """The same, that stands in the log before all of `persist` and of later Readies. A crash may take it back."""
        self.send_now: list[Send] = []
        self.send_after_persist: list[Send] = []
        self.committed: list[Entry] = []
        """Every height once, in order, from the state that the engine was started with."""
        self.checkpoints: list[int] = []
        """Heights, among those of `committed`, at which the members agree on the state (BFT): the shell takes a
        snapshot when it has executed exactly up to there, and hands it in with its root."""
        self.accepted: list[Accepted] = []
        self.refused: list[Refused] = []
        self.reads: list[ReadReady] = []
        self.fetch: Fetch | None = None
        self.evidence: list[Any] = []
        """Signed proofs that a peer lied, to be kept and published, or that this member's own state is not what the
        others agree on (BFT)."""
        self.shrunk = False
        """`image` has become smaller: what a state has in it, which is on disk, the log need not have any more."""
        self.timer: float | None = None
        """When the engine wants `TimerDue` (same clock as `now`); None: never."""


class PeerStatus(msgspec.Struct, frozen=True):
    """What a member knows of another."""

    acknowledged_term: int = 0
    """The highest term or view in which the peer has voted for, or acknowledged, anything of this member."""
    acknowledged_index: int = 0
    """Up to which height the peer said it has the log on disk. With the term: what its disk must not fall behind."""
    heard: float | None = None
    """When it was last heard of in this group."""


class Status(msgspec.Struct, frozen=True):
    """How a member sees its group: for people, and for the shell's decisions about membership."""

    role: str
    """`leader`, `follower`, `candidate` or `learner`."""
    leader: bytes | None
    term: int
    first: int
    """Lowest height that is still in the log."""
    last: int
    """Highest height in the log."""
    committed: int
    stopped: bool
    """The stop sign is committed: this epoch is over."""
    asleep: bool
    peers: dict[bytes, PeerStatus]
    dropped: int
    """Messages that made no sense."""
    last_term: int = 0
    """Term or view of the highest entry: of two logs, that with the later one has more that may be committed."""


class Engine(Protocol):
    """One member's part in the agreement of one group, in one epoch.

    Engines are made from who they are, their `Configuration`, the `Checkpoint` that the shell starts from and the
    records that the log has of them (none: a new member). `timer` of the first Ready only comes with an event: a
    shell begins with `TimerDue`.
    """

    @property
    def leader(self) -> bytes | None:
        """Who leads, as far as this member knows."""
        ...

    def step(self, event: Event, now: float) -> Ready:
        """Takes one event in. Total: a message that makes no sense is dropped, and counted."""
        ...

    def image(self) -> list[Any]:
        """Records that are worth all that were persisted before them: the log writes them when it compacts."""
        ...

    def remains(self) -> list[Entry]:
        """What stands in the log above what is known to be committed, and may have been: for a recovery."""
        ...

    def status(self) -> Status:
        """How things stand."""
        ...
