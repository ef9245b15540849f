"""What a Raft leader knows of each of the others, and what it may send to it."""

from collections import deque
from enum import Enum

from titan_overlay.mutable.engine import Entry
from titan_overlay.mutable.raft_log import ENTRY_OVERHEAD


class Pace(Enum):
    """How entries are sent to a peer."""

    PROBE = "probe"
    """One message at a time: where the two logs part is not known."""
    REPLICATE = "replicate"
    """Pipelined: `next` runs ahead of what is acknowledged, within the window."""
    SNAPSHOT = "snapshot"
    """The entries that it needs are gone; it has been told to fetch a state."""


class Progress:
    """A leader's view of one peer. `match < next`, always."""

    __slots__ = (
        "_in_flight",
        "_in_flight_bytes",
        "heard",
        "match",
        "next",
        "pace",
        "probing",
        "round",
    )

    def __init__(self, next_index: int, now: float) -> None:
        # A new leader knows nothing, hopes for the best (figure 2, `nextIndex`), and gives everybody time.
        self.heard = now
        """When it last answered."""
        self.round = 0
        """The latest of the leader's questions that it has answered."""
        self.match = 0
        self._in_flight: deque[tuple[int, int]] = deque()  # last index and bytes of each append without an answer
        self.probe(next_index)

    def probe(self, next_index: int) -> None:
        """Where the logs part is to be found out, from `next_index` down."""
        self.pace = Pace.PROBE
        self.next = max(next_index, self.match + 1)
        self.probing = False
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def offer_snapshot(self) -> None:
        """Only a state will help."""
        self.probe(self.next)
        self.pace = Pace.SNAPSHOT

    def room(self, appends_max: int, bytes_max: int) -> bool:
        """Whether one more append may be sent."""
        if self.pace is Pace.REPLICATE:
            return len(self._in_flight) < appends_max and self._in_flight_bytes < bytes_max
        return self.pace is Pace.PROBE and not self.probing

    def sent(self, entries: list[Entry]) -> None:
        """These entries, which begin at `next`, are on their way."""
        if self.pace is Pace.PROBE:
            self.probing = True
            return
        self.next += len(entries)
        size = sum(len(each.data) + ENTRY_OVERHEAD for each in entries)
        self._in_flight.append((self.next - 1, size))
        self._in_flight_bytes += size

    def matches(self, match: int, first: int) -> None:
        """The peer has said that its log fits at least up to `match`; the log here can serve from `first` on."""
        if match > self.match:
            self.match = match
            in_flight = self._in_flight
            while in_flight and in_flight[0][0] <= match:
                self._in_flight_bytes -= in_flight.popleft()[1]
        if self.pace is Pace.SNAPSHOT and self.match + 1 < first:
            return
        if self.pace is not Pace.REPLICATE:
            # A probe that was answered ends the probing: what it asked about fits.
            self.pace = Pace.REPLICATE
            self.probing = False
        self.next = max(self.next, self.match + 1)

    def rejection_is_news(self, prev_index: int) -> bool:
        """Whether a rejected `prev_index` says something about the present."""
        if self.pace is Pace.PROBE:
            return prev_index == self.next - 1
        return self.pace is Pace.REPLICATE and prev_index > self.match
