"""What the engines of agreement have in common: events in, `Ready` out.

An engine (`raft.py`, `bft.py`) is a plain state machine. It reads no clock, opens no file and draws no randomness: the
shell hands it events with the time, and does what the `Ready` says, in this order:

    1. send `send_now`; write `persist` to the log (one fsync may serve many groups)
    2. when that is durable: send `send_after_persist`, and hand in `Persisted(ready.number)`
    3. execute `committed`, in order; answer `reads` once their index has been executed
    4. hand in `TimerDue` at `timer`, if nothing has set another time before

What must be durable before it may be told to others is said in one place: in which of the two lists a message stands.
"""

from enum import IntEnum
from typing import Any, Protocol

import msgspec


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

    index: int
    """Height; the first is 1."""
    term: int
    """Term (Raft) or view (BFT) in which it was proposed."""
    kind: EntryKind
    data: bytes


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """One fixed membership of a group: an epoch. Members are 32-byte node ids, sorted."""

    epoch: int
    members: tuple[bytes, ...]
    """Voters: 2t + 1 (crash faults) or 3t + 1 (byzantine)."""
    learners: tuple[bytes, ...] = ()
    """Receive the log, do not vote."""


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
    """The shell's number for it, returned in `Ready.accepted` or `Ready.refused`."""
    kind: EntryKind = EntryKind.COMMANDS


class ReadAsked(msgspec.Struct, frozen=True):
    """A linearizable read: at which index may it be executed?"""

    ref: int


class Persisted(msgspec.Struct, frozen=True):
    """All that the Ready with this number, and those before it, wanted on disk is durable now."""

    number: int


class TimerDue(msgspec.Struct, frozen=True):
    """The time asked for in `Ready.timer` has come."""


class SnapshotTaken(msgspec.Struct, frozen=True):
    """The shell has a durable snapshot of the state as executed up to this index: the log before it may go."""

    index: int


Event = Received | Proposed | ReadAsked | Persisted | TimerDue | SnapshotTaken


# ---- effects -------------------------------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """A message to one peer."""

    to: bytes
    message: Any


class Refused(msgspec.Struct, frozen=True):
    """A proposal or a read that this member does not take."""

    ref: int
    leader: bytes | None
    """Who would, as far as is known."""


class Accepted(msgspec.Struct, frozen=True):
    """A proposal that stands in the log now. Committed only when it comes back in `committed`, at this place."""

    ref: int
    index: int
    term: int


class ReadReady(msgspec.Struct, frozen=True):
    """The read may be executed once `index` has been."""

    ref: int
    index: int


class Ready:
    """What one event leads to. Empty lists cost nothing."""

    __slots__ = (
        "accepted",
        "committed",
        "number",
        "persist",
        "reads",
        "refused",
        "send_after_persist",
        "send_now",
        "timer",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        """Counts up from 1; `Persisted` names it."""
        self.persist: list[Any] = []
        """Structs of the engine's own, for the log, in this order; `Engine.restore` reads them back."""
        self.send_now: list[Send] = []
        self.send_after_persist: list[Send] = []
        self.committed: list[Entry] = []
        self.accepted: list[Accepted] = []
        self.refused: list[Refused] = []
        self.reads: list[ReadReady] = []
        self.timer: float | None = None
        """When the engine wants `TimerDue` (same clock as `now`); None: never."""


class Engine(Protocol):
    """One member's part in the agreement of one group."""

    def step(self, event: Event, now: float) -> Ready:
        """Takes one event in. Total: a message that makes no sense is dropped, and counted."""
