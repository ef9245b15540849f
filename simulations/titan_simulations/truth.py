"""What is really so in a simulated pool, whatever its nodes believe: who holds what, when, and for how long.

`WatchedDatabase` is the database that each simulated node is given; it tells `Truth` of every replica that comes and
goes at the instant it does, so nothing is sampled.
"""

from collections.abc import Callable, Iterable

import msgspec

from titan_overlay.identity.ids import ObjectId
from titan_overlay.storage.rows import MemoryDatabase, ReplicaRow

PERIOD_DEATHS = 100
"""A rate of deaths is measured over so many: with heavy-tailed sessions it falls steeply while all are new."""


class Tracked:
    """One object under observation."""

    __slots__ = ("below_since", "copies", "holders", "lost_at", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.holders: dict[int, bool] = {}
        """Live node -> whether its replica is a passing cache."""
        self.copies = 0
        """Counted ones."""
        self.below_since: float | None = None
        self.lost_at: float | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the copies from `begin` until one moment; the meaning of each field is that in `Truth`."""

    replica_seconds: float
    passing_seconds: float
    below_seconds: float
    deaths: int
    death_rates: tuple[tuple[float, float], ...]
    copies_made: int
    copies_dropped: int
    repair_seconds: tuple[float, ...]
    lost: int


class Truth:
    """Counts copies, and integrates over time what the life-cycle is judged by.

    Integrals and lists cover the time since `begin`.
    """

    def __init__(self, min_copies: int, clock: Callable[[], float]) -> None:
        self.min_copies = min_copies
        self._clock = clock
        self.objects: dict[ObjectId, Tracked] = {}
        self._gone: set[int] = set()
        self._held: dict[int, dict[ObjectId, None]] = {}
        self._at = 0.0
        self.copies = self.passing = self.below = 0
        self.replica_seconds = self.passing_seconds = self.below_seconds = 0.0
        self.deaths = 0
        """Counted copies that went with their node."""
        self._periods: list[tuple[float, float]] = []
        self._period = (0.0, 0.0, 0)
        """When this one began, and what `replica_seconds` and `deaths` were then."""
        self.copies_made = self.copies_dropped = 0
        self.repair_seconds: list[float] = []
        """From falling below `min_copies` to being back, one entry a repair."""
        self.lost: list[Tracked] = []

    def watch(self, object_id: ObjectId, name: str) -> None:
        """From now on this object counts; called once it is published."""
        found = self.objects.setdefault(object_id, Tracked(name))
        found.name = name

    def begin(self) -> None:
        """Forgets the integrals; what is held now stays held. Objects that are short now count as short from now."""
        now = self._advance()
        self.replica_seconds = self.passing_seconds = self.below_seconds = 0.0
        self.deaths = self.copies_made = self.copies_dropped = 0
        self._periods.clear()
        self._period = (now, 0.0, 0)
        self.repair_seconds.clear()
        self.lost.clear()
        self.below = 0
        for each in self.objects.values():
            each.below_since = each.lost_at = None
            self._judge(each, now)

    def death_rates(self) -> list[tuple[float, float]]:
        """(seconds, rate at which a copy died in them, per second), from `begin` until now."""
        return [*self._periods, self._rate(self._advance())]

    def _rate(self, now: float) -> tuple[float, float]:
        began, replica_seconds, deaths = self._period
        held = self.replica_seconds - replica_seconds
        return now - began, (self.deaths - deaths) / held if held else 0.0

    def kept(self) -> Kept:
        """All that up to now; what comes later changes nothing of it."""
        return Kept(
            death_rates=tuple(self.death_rates()),
            replica_seconds=self.replica_seconds,
            passing_seconds=self.passing_seconds,
            below_seconds=self.below_seconds,
            deaths=self.deaths,
            copies_made=self.copies_made,
            copies_dropped=self.copies_dropped,
            repair_seconds=tuple(self.repair_seconds),
            lost=len(self.lost),
        )

    def gained(self, node: int, object_id: ObjectId, *, passing: bool) -> None:
        """A node holds a replica now, or says so again."""
        if node not in self._gone and self._hold(node, object_id, passing) and not passing:
            self.copies_made += 1

    def returned(self, node: int, kept: Iterable[ReplicaRow]) -> None:
        """A node that had died is there again, with what its disk kept."""
        self._gone.discard(node)
        for row in kept:
            self._hold(node, row.object_id, row.passing)

    def _hold(self, node: int, object_id: ObjectId, passing: bool) -> bool:
        """Whether that is news."""
        now = self._advance()
        each = self.objects.setdefault(object_id, Tracked(""))
        before = each.holders.get(node)
        if before == passing:
            return False
        if before is not None:
            self._count(each, before, -1)
        each.holders[node] = passing
        self._held.setdefault(node, {})[object_id] = None
        self._count(each, passing, 1)
        self._judge(each, now)
        return True

    def dropped(self, node: int, object_id: ObjectId) -> None:
        """A node has given up a replica."""
        if node not in self._gone and object_id in self._held.get(node, ()):
            now = self._advance()
            del self._held[node][object_id]
            if not self._remove(node, object_id, now):
                self.copies_dropped += 1

    def died(self, node: int) -> None:
        """A node is gone, with all that it held."""
        now = self._advance()
        self._gone.add(node)
        for object_id in self._held.pop(node, {}):
            if not self._remove(node, object_id, now):
                self.deaths += 1
        if self.deaths - self._period[2] >= PERIOD_DEATHS:
            self._periods.append(self._rate(now))
            self._period = (now, self.replica_seconds, self.deaths)

    def _remove(self, node: int, object_id: ObjectId, now: float) -> bool:
        each = self.objects[object_id]
        passing = each.holders.pop(node)
        self._count(each, passing, -1)
        self._judge(each, now)
        return passing

    def _count(self, each: Tracked, passing: bool, change: int) -> None:
        if passing:
            self.passing += change
        else:
            each.copies += change
            self.copies += change

    def _judge(self, each: Tracked, now: float) -> None:
        if not each.name:
            return  # still being published
        if each.copies == 0 and each.lost_at is None:
            each.lost_at = now
            self.lost.append(each)
        short = each.copies < self.min_copies
        if short and each.below_since is None:
            each.below_since = now
            self.below += 1
        elif not short and each.below_since is not None:
            self.repair_seconds.append(now - each.below_since)
            each.below_since = None
            self.below -= 1

    def _advance(self) -> float:
        now = self._clock()
        passed = now - self._at
        if passed > 0:
            self.replica_seconds += self.copies * passed
            self.passing_seconds += self.passing * passed
            self.below_seconds += self.below * passed
            self._at = now
        return now


class WatchedDatabase(MemoryDatabase):
    """A database in memory that tells the truth what it is told."""

    __slots__ = ("_node", "_truth")

    def __init__(self, truth: Truth, node: int) -> None:
        super().__init__()
        self._truth = truth
        self._node = node

    def put_replica(self, row: ReplicaRow) -> None:
        super().put_replica(row)
        self._truth.gained(self._node, row.object_id, passing=row.passing)

    def drop_replica(self, object_id: ObjectId) -> None:
        super().drop_replica(object_id)
        self._truth.dropped(self._node, object_id)
