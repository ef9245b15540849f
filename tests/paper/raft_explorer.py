"""Random walks through what can happen to a Raft group, with the five properties of figure 3 checked at every step.

Unlike the consensus simulation, nothing here is likely: any message may arrive next, or twice, or never; any member may
time out, crash and lose what was not synced, or find its disk done. (Ongaro and Ousterhout 2014, figure 3 and section
5.4.3.)
"""

import random
from typing import Any

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
    Ready,
    Received,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_leader import Leader
from titan_overlay.mutable.raft_settings import RaftSettings

SETTINGS = RaftSettings(trailing_entries=3, appends_in_flight_max=2, append_bytes_max=100, sleep_after=1.0)


class Member:
    """An engine, its disk, and what its shell has saved."""

    def __init__(self, id: bytes) -> None:
        self.id = id
        self.engine: Raft
        self.durable: list[Any] = []
        self.unsynced: list[Ready] = []
        self.saved = GENESIS


class Walk:
    """One random walk. Raises AssertionError where a property of figure 3 does not hold."""

    def __init__(self, members: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ids = [bytes([number + 1]) * 32 for number in range(members)]
        self.configuration = Configuration(1, tuple(self.ids))
        # Calm walks and wild ones.
        wild = self.chance.choice([1, 3, 10])
        self.weights = (400, self.chance.choice([40, 400]), 40, 20 * wild, 4 * wild, 4, 1, wild)
        self.now = 0.0
        self.mail: list[tuple[bytes, bytes, Any]] = []
        self.order: dict[int, Entry] = {}
        """What was committed, by whomever first."""
        self.leaders: dict[int, bytes] = {}
        self.committed = 0
        self._proposed = 0
        self.members = {id: Member(id) for id in self.ids}
        for member in self.members.values():
            self._start(member)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now += 0.001
            self._something_happens()
        self._check_log_matching()

    # -- what may happen --

    def _something_happens(self) -> None:
        member = self.members[self.chance.choice(self.ids)]
        acts = [self._deliver, self._sync, self._propose, self._time_out, self._crash, self._save, self._hand_over]
        self.chance.choices([*acts, self._lose], self.weights)[0](member)

    def _time_out(self, member: Member) -> None:
        deadline = member.engine._deadline
        if deadline is not None and (self.chance.random() < 0.3 or isinstance(member.engine.role, Leader)):
            self.now = max(self.now, deadline)
            self._step(member, TimerDue())

    def _hand_over(self, member: Member) -> None:
        self._step(member, TransferAsked(self.chance.choice(self.ids)))

    def _lose(self, member: Member) -> None:
        self.mail = [mail for mail in self.mail if self.chance.random() < 0.3]

    def _deliver(self, member: Member) -> None:
        if not self.mail:
            return
        # Mostly the oldest, or hardly anything would ever be agreed on.
        place = 0 if self.chance.random() < 0.8 else self.chance.randrange(len(self.mail))
        source, target, message = self.mail[place]
        if self.chance.random() > 0.05:
            del self.mail[place]
        self._step(self.members[target], Received(source, message))

    def _sync(self, member: Member) -> None:
        if member.unsynced:
            ready = member.unsynced.pop(0)
            member.durable += ready.persist
            self._post(member, ready.send_after_persist)
            if ready.persist:
                self._step(member, Persisted(ready.number))

    def _propose(self, member: Member) -> None:
        if isinstance(member.engine.role, Leader):
            self._proposed += 1
            self._step(member, Proposed(b"%d" % self._proposed, self._proposed))

    def _crash(self, member: Member) -> None:
        for ready in member.unsynced[: self.chance.randint(0, len(member.unsynced))]:
            member.durable += ready.persist
        self._start(member)

    def _start(self, member: Member) -> None:
        member.unsynced = []
        random = Random(self.chance.random())
        member.engine = Raft(member.id, self.configuration, member.saved, member.durable, random, SETTINGS)
        self._step(member, TimerDue())

    def _save(self, member: Member) -> None:
        commit = member.engine.commit
        if commit > member.saved.index:
            member.saved = Checkpoint(commit, member.engine.log.term_at(commit))
            self._step(member, SnapshotTaken(member.saved))

    # -- a step, and what must hold --

    def _step(self, member: Member, event: Event) -> None:
        ready = member.engine.step(event, self.now)
        member.unsynced.append(ready)
        self._post(member, ready.send_now)
        for entry in ready.committed:
            known = self.order.setdefault(entry.index, entry)
            assert known == entry, f"state machine safety: {known} and {entry}"
        if isinstance(member.engine.role, Leader):
            self._check_leader(member)
        if ready.fetch is not None and self.chance.random() < 0.5:
            member.saved = ready.fetch.checkpoint
            self._step(member, SnapshotInstalled(member.saved))

    def _check_leader(self, member: Member) -> None:
        engine = member.engine
        elected = self.leaders.setdefault(engine.term, member.id)
        assert elected == member.id, f"election safety: two leaders in term {engine.term}"
        log = engine.log
        for index, entry in self.order.items():
            if index > log.base and entry.term < engine.term:
                assert log.holds(index, entry.term), f"leader completeness: {entry} is missing in term {engine.term}"

    def _check_log_matching(self) -> None:
        logs = [member.engine.log for member in self.members.values()]
        for left in logs:
            for right in logs:
                first = max(left.base, right.base) + 1
                same = False
                for index in range(min(left.last, right.last), first - 1, -1):
                    same = same or left.term_at(index) == right.term_at(index)
                    if same:
                        assert left.between(index, index) == right.between(index, index), f"log matching at {index}"

    def _post(self, member: Member, sends: list[Any]) -> None:
        self.mail += [(member.id, send.to, send.message) for send in sends]
        del self.mail[:-200]


def explore(members: int, seeds: range, steps: int) -> int:
    """Walks; how many entries of clients were committed in all."""
    committed = 0
    for seed in seeds:
        walk = Walk(members, seed)
        walk.run(steps)
        committed += sum(entry.kind is EntryKind.COMMANDS for entry in walk.order.values())
    return committed
