"""A Raft member's log: the entries in memory, and how much of them the disk has confirmed."""

from collections import deque
from collections.abc import Iterable

from titan_overlay.errors import StorageError
from titan_overlay.mutable.engine import Checkpoint, Entry, EntryKind
from titan_overlay.mutable.raft_messages import HardState, LogBase, LogEntries, Record

ENTRY_OVERHEAD = 32
"""Bytes that an entry takes in a message beside its data, at most."""
LET_GO_BYTES = 4 << 20
"""Of entries that nobody needs any more: to free all that a snapshot stands for at once holds up everybody."""
LET_GO_OVERHEAD = 1024
"""What an entry counts for beside its data: some thousands take a millisecond."""


class RaftLog:
    """Entries `base + 1` to `last`. The one at `base` is known by its term alone; all up to it are committed."""

    __slots__ = ("_held", "_marks", "base", "base_term", "durable", "gone", "last", "stop")

    def __init__(self, base: int = 0, base_term: int = 0) -> None:
        self.base = base
        self.base_term = base_term
        self.last = base
        """Index of the last entry."""
        self.durable = base
        """Up to here the log is on disk; it may have had entries above that were not cut since."""
        self.stop: int | None = None
        """Height of the stop sign, RECONFIG, if it is here: nothing above it is ever committed."""
        self._held: list[Entry] = []
        self.gone: list[Entry] = []
        """Needed no more, and not let go yet."""
        self._marks: deque[tuple[int, int]] = deque()  # (number of a Ready, last index that it wrote), not confirmed

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        return self._held[-1].term if self._held else self.base_term

    def term_at(self, index: int) -> int:
        """Term of the entry at `base` or above."""
        return self.base_term if index == self.base else self._held[index - self.base - 1].term

    def holds(self, index: int, term: int) -> bool:
        """Whether there is an entry of that term at that index."""
        return self.base <= index <= self.last and self.term_at(index) == term

    def between(self, first: int, last: int) -> list[Entry]:
        """Entries `first` to `last`, both included."""
        return self._held[first - self.base - 1 : last - self.base]

    def batch(self, first: int, bytes_max: int) -> list[Entry]:
        """Entries from `first` on, of about `bytes_max` bytes together, but at least one if there is one."""
        start = stop = first - self.base - 1
        held, room = self._held, bytes_max
        while stop < len(held):
            room -= len(held[stop].data) + ENTRY_OVERHEAD
            if room < 0 and stop > start:
                break
            stop += 1
        return held[start:stop]

    def trailing(self, index: int, entries_max: int, bytes_max: int) -> int:
        """The base of a log that keeps so much of what leads to `index`, at most."""
        room, lowest = bytes_max, max(self.base, index - entries_max)
        while index > lowest:
            room -= len(self._held[index - self.base - 1].data) + ENTRY_OVERHEAD
            if room < 0:
                break
            index -= 1
        return index

    def last_at_most(self, index: int, term: int) -> int:
        """The highest index, not above `index`, whose entry's term is not above `term`: no higher one can match.

        Below `base` nothing is known: `base` is the answer then.
        """
        index = min(index, self.last)
        while index > self.base and self.term_at(index) > term:
            index -= 1
        return max(index, self.base)

    def news(self, entries: list[Entry]) -> list[Entry]:
        """What of these is not here: from the first on that is missing, or of another term."""
        for position, entry in enumerate(entries):
            if entry.index > self.last or (entry.index > self.base and self.term_at(entry.index) != entry.term):
                return entries[position:]
        return []

    def append(self, entries: list[Entry]) -> None:
        """Puts entries behind the last."""
        self._held += entries
        self.last += len(entries)
        if self.stop is None:
            self.stop = next((entry.index for entry in entries if entry.kind is EntryKind.RECONFIG), None)

    def cut(self, index: int) -> None:
        """Takes away the entry at `index` and all behind it."""
        if index > self.last:
            return
        del self._held[index - self.base - 1 :]
        self.last = index - 1
        self.durable = min(self.durable, index - 1)
        self._marks = deque((number, min(last, index - 1)) for number, last in self._marks)
        if self.stop is not None and self.stop >= index:
            self.stop = None

    def rebase(self, index: int, term: int) -> None:
        """Begins after the entry (`index`, `term`). If it is here, what follows it stays; else nothing does."""
        self.gone += self._held[: max(0, index - self.base)]
        if self.holds(index, term):
            del self._held[: index - self.base]
            self.durable = max(self.durable, index)
        else:
            self._held.clear()
            self.last = index
            self._marks.clear()
            self.durable = index
            self.stop = None
        self.base, self.base_term = index, term

    def let_go(self) -> None:
        """Frees some of what nobody needs any more."""
        gone, room = self.gone, LET_GO_BYTES
        while gone and room > 0:
            room -= len(gone.pop().data) + LET_GO_OVERHEAD

    # ---- the disk ----------------------------------------------------------------------------------------------

    def writing(self, number: int) -> None:
        """The Ready with that number writes what is here."""
        self._marks.append((number, self.last))

    def confirm(self, number: int) -> None:
        """What that Ready, and those before it, wrote is durable."""
        while self._marks and self._marks[0][0] <= number:
            self.durable = max(self.durable, self._marks.popleft()[1])

    def image(self, bytes_max: int) -> list[Record]:
        """Records that make this log anew, of about `bytes_max` bytes each."""
        records: list[Record] = [LogBase(self.base, self.base_term)]
        first = self.base + 1
        while first <= self.last:
            entries = self.batch(first, bytes_max)
            records.append(LogEntries(entries))
            first += len(entries)
        return records


def restore(records: Iterable[Record], state: Checkpoint) -> tuple[HardState, RaftLog, list[Record]]:
    """What the disk knows of a member: its hard state, its log, and records to be written to make them agree.

    Args:
        state: what the member has executed and saved. It may be ahead of the log: what is committed is durable at a
            quorum, but need not be so here.

    Raises:
        StorageError: the records fit neither each other nor the state.
    """
    hard, log, missing = HardState(0, None), RaftLog(), list[Record]()
    for record in records:
        match record:
            case HardState():
                hard = record
            case LogEntries(entries) if entries and log.base < entries[0].index <= log.last + 1:
                log.cut(entries[0].index)
                log.append(entries)
            case LogBase(index, term):
                log.rebase(index, term)
            case _:
                raise StorageError(
                    f"the log of a group lost records: it ends at {log.last}, then comes {record}; "
                    "this member must not vote again, it has to join anew"
                )
    if state.index < log.base:
        raise StorageError(f"a group's log begins at {log.base}, its state ends at {state.index}: fetch the state anew")
    if not log.holds(state.index, state.term):
        log.rebase(state.index, state.term)
        missing.append(LogBase(state.index, state.term))
    log.durable = log.last
    return hard, log, missing
