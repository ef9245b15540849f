"""Conduct: what this node has seen peers do wrong. Local, explainable, forgetting. No I/O, no clock of its own.

Only first-hand evidence comes in: what a peer sent in its own session or over its own link, or signed and did not keep.
What third parties say of a peer is never asked, and nothing that comes from an address without a session counts, so
nobody can blacken somebody else.

Two accounts are kept for each peer, both halved every hour:

- *proven*: what no honest node does (bytes that are not what their name says, garbage inside a session);
- *doubtful*: what bad luck does to honest nodes too (silence, a broken promise, a vote with the minority). Each good
  answer takes a fifth off this account, so that a peer is avoided for failing often, not for being asked often: one
  that fails a share p of the time hovers around 5 p / (1 - p) times the weight of its failures.

Who is *avoided* is asked after everybody else, never not at all: a wrong judgement costs little. Only proven offences
end a session. (The beta reputation of Josang and Ismail, 2002, also weighs good against bad; a sum is easier to
explain.)
"""

from collections import deque
from enum import Enum
from heapq import nsmallest
from math import log2
from typing import NamedTuple

from titan_overlay.identity.ids import NodeId

HALF_LIFE_SECONDS = 3600.0
AVOIDED_FROM = 4.0
"""Burden from which a peer is asked last."""
PAID_OFF = 0.2
"""Share of the doubtful account that a good answer takes away."""
AT_ONCE_SECONDS = 10.0
"""Doubtful offences of one kind within this time count once: many requests may fail for one reason."""
PEERS_MAX = 4096
INCIDENTS_MAX = 16
WHY_MAX = 200


class Offence(Enum):
    """What a peer can do wrong: how it is called, what it weighs, and whether it is proof of more than bad luck."""

    WRONG = ("wrong answer", 8.0, True)
    """Bytes that are not what their name says, proven by the hash."""
    GARBAGE = ("invalid message", 0.26, True)
    """What cannot be decoded, in the peer's own session: sixteen within minutes are too many."""
    BREACH = ("breach of the protocol", 1.5, True)
    """A link that ended because of what the peer sent."""
    DISSENT = ("vote with the minority", 2.0, False)
    BROKEN = ("broken promise", 1.0, False)
    """It advertises an object and does not have it."""
    SILENCE = ("silence", 1.0, False)
    """No answer over a link that was open, or in a session."""

    def __init__(self, text: str, weight: float, proven: bool) -> None:
        self.text = text
        self.weight = weight
        self.proven = proven


class Incident(NamedTuple):
    """One thing that went wrong. `at`: loop time."""

    at: float
    offence: Offence
    why: str


class Report(NamedTuple):
    """What is known against one peer."""

    burden: float
    avoided_for: float
    """Seconds that it will still be asked last, if nothing more happens; 0: it is not avoided."""
    incidents: tuple[Incident, ...]
    """The latest `INCIDENTS_MAX`, oldest first."""


class _Record:
    __slots__ = ("at", "doubtful", "incidents", "latest", "proven")

    def __init__(self, now: float) -> None:
        self.at = now
        """When the accounts were last halved by their age."""
        self.proven = 0.0
        self.doubtful = 0.0
        self.incidents: deque[Incident] = deque(maxlen=INCIDENTS_MAX)
        self.latest: dict[Offence, float] = {}

    def left(self, now: float) -> float:
        """What time has left of both accounts, as a share."""
        return float(0.5 ** (max(0.0, now - self.at) / HALF_LIFE_SECONDS))

    def settle(self, now: float) -> None:
        left = self.left(now)
        self.at = max(self.at, now)
        self.proven *= left
        self.doubtful *= left


class Conduct:
    """One node's memory of how its peers behave. Peers without an offence cost nothing.

    Args:
        peers_max: remembered at most; those with the least against them are forgotten first.
    """

    def __init__(self, peers_max: int = PEERS_MAX) -> None:
        self._peers_max = peers_max
        self._records: dict[NodeId, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def blame(self, peer: NodeId, offence: Offence, why: str, now: float) -> None:
        """It did this; `why` is kept for people."""
        record = self._records.get(peer)
        if record is None:
            if len(self._records) >= self._peers_max:
                self._make_room(now)
            record = self._records[peer] = _Record(now)
        record.settle(now)
        if offence.proven:
            record.proven += offence.weight
        elif now - record.latest.get(offence, -AT_ONCE_SECONDS) >= AT_ONCE_SECONDS:
            record.doubtful += offence.weight
            record.latest[offence] = now
        record.incidents.append(Incident(now, offence, why[:WHY_MAX]))

    def praise(self, peer: NodeId, now: float) -> None:
        """It gave an answer that held: to a hash, or to a majority."""
        record = self._records.get(peer)
        if record is not None:
            record.settle(now)
            record.doubtful *= 1.0 - PAID_OFF

    def burden(self, peer: NodeId, now: float) -> float:
        """How much there is against it; 0: nothing is known."""
        record = self._records.get(peer)
        return 0.0 if record is None else (record.proven + record.doubtful) * record.left(now)

    def avoided(self, peer: NodeId, now: float) -> bool:
        """Whether others are asked before it."""
        return peer in self._records and self.burden(peer, now) >= AVOIDED_FROM

    def guilty(self, peer: NodeId, now: float) -> bool:
        """Whether enough is proven against it to have no session with it."""
        record = self._records.get(peer)
        return record is not None and record.proven * record.left(now) >= AVOIDED_FROM

    def report(self, peer: NodeId, now: float) -> Report:
        """What there is against it, with reasons."""
        burden = self.burden(peer, now)
        record = self._records.get(peer)
        return Report(burden, _seconds_above(burden), () if record is None else tuple(record.incidents))

    def _make_room(self, now: float) -> None:
        count = max(1, self._peers_max // 8)
        for peer in nsmallest(count, self._records, key=lambda each: self.burden(each, now)):
            del self._records[peer]


def _seconds_above(burden: float) -> float:
    """How long until a burden has fallen to `AVOIDED_FROM`."""
    return HALF_LIFE_SECONDS * log2(burden / AVOIDED_FROM) if burden >= AVOIDED_FROM else 0.0
