"""What a machine of the simulation keeps: a log with group commit, and snapshots.

The real log has its own tests, sector by sector. Here only its promise counts: of what was written, a loss of power
keeps what was synced, and of the rest a beginning.
"""

from collections.abc import Callable
from typing import NamedTuple

from titan_overlay.ambient import Random
from titan_simulations.consensus.events import Act, Events


class Written(NamedTuple):
    """Records of one epoch, written at once."""

    epoch: int
    replaces: bool
    """All earlier ones of this epoch are void."""
    records: list[bytes]


class SimulatedDisk:
    """One machine's. `sync_seconds` may be changed at any time."""

    def __init__(self, events: Events, sync_seconds: Callable[[], float]) -> None:
        self.sync_seconds = sync_seconds
        self.snapshot: bytes | None = None
        self._height = 0
        self._events = events
        self._log: list[Written] = []
        self._durable = 0
        self._waiting: list[tuple[int, Act]] = []
        self._syncing = False
        self._gone = False

    def write(self, written: Written, done: Act) -> None:
        """Calls `done` when this, and all that was written before, is durable."""
        if written.records:
            self._log.append(written)
        self._waiting.append((len(self._log), done))
        if not self._syncing:
            self._sync()

    def save(self, height: int, snapshot: bytes, done: Act) -> None:
        """Puts a snapshot in the place of a lower one, whole or not at all. One that comes late is dropped: the log may
        begin at the higher one already. `done`: it, or a higher one, is durable.
        """

        def saved() -> None:
            if self._gone:
                return
            if height >= self._height:
                self.snapshot, self._height = snapshot, height
            done()

        self._events.after(2 * self.sync_seconds(), saved)

    def records(self, epoch: int) -> list[bytes]:
        """What the log has of an epoch."""
        found: list[bytes] = []
        for written in self._log:
            if written.epoch == epoch:
                found = [*written.records] if written.replaces else found + written.records
        return found

    def _sync(self) -> None:
        # One fsync for all that has been written by now; what comes meanwhile waits for the next.
        self._syncing = True
        upto = len(self._log)
        self._events.after(self.sync_seconds(), lambda: self._synced(upto))

    def _synced(self, upto: int) -> None:
        if self._gone:
            return
        self._durable = upto
        ready = [done for count, done in self._waiting if count <= upto]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > upto]
        self._syncing = False
        if self._waiting:
            self._sync()
        for done in ready:
            if not self._gone:
                done()

    def crash(self, random: Random, power: bool) -> "SimulatedDisk":
        """The disk that the next start finds; nothing that waits for this one is ever called."""
        self._gone = True
        survivor = SimulatedDisk(self._events, self.sync_seconds)
        keep = random.randint(self._durable, len(self._log)) if power else len(self._log)
        survivor._log = self._log[:keep]
        survivor._durable = keep
        survivor.snapshot, survivor._height = self.snapshot, self._height
        return survivor
