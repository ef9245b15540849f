"""A Raft member takes in anything that decodes, in any order, and stays in one piece."""

import random

from titan_overlay.ambient import Random
from titan_overlay.mutable.engine import (
    GENESIS,
    Checkpoint,
    Configuration,
    Entry,
    EntryKind,
    Event,
    LearnersChanged,
    PeerSilent,
    Persisted,
    Proposed,
    ReadAsked,
    Received,
    RequestsWait,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    InstallSnapshot,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    Sleep,
    TimeoutNow,
    VoteReply,
)
from titan_overlay.mutable.raft_settings import RaftSettings

IDS = [bytes([number]) * 32 for number in range(5)]
SETTINGS = RaftSettings(trailing_entries=2, uncommitted_max=8, reads_max=4, appends_in_flight_max=2)


def some_message(chance: random.Random, member: Raft) -> Message:
    def number(most: int = 9) -> int:
        return chance.choice([0, chance.randrange(most), chance.randrange(most), 1 << 60 if most == 99 else 1])

    first = number()
    term = max(0, member.term + chance.choice([0, 0, 0, 0, 1, -1]))
    kinds = [EntryKind.COMMANDS, EntryKind.COMMANDS, EntryKind.NOOP, EntryKind.RECONFIG]
    entries = [
        Entry(first + 1 + place if chance.random() < 0.9 else number(99), number(), chance.choice(kinds), b"x")
        for place in range(chance.randrange(4))
    ]
    return chance.choice(
        [
            AppendEntries(term, number(), first, number(), number(99), entries),
            AppendReply(term, number(), number(99)),
            AppendRejected(term, number(), number(99), number(99), number()),
            InstallSnapshot(term, number(), Checkpoint(number(99), number())),
            PreVote(term, number(99), number()),
            PreVoteReply(term + 1, chance.random() < 0.5),
            RequestVote(term, number(99), number()),
            VoteReply(term, chance.random() < 0.5),
            TimeoutNow(term),
            Sleep(term, number()),
            ReadIndex(number(99), number(99)),
            ReadIndexReply(term, number(99), number(99), number(99)),
        ]
    )


def some_event(chance: random.Random, member: Raft, last_number: int) -> Event:
    if member.status().role == "candidate" and chance.random() < 0.7:  # or it would hardly ever lead
        votes = [PreVoteReply(member.term + 1, True), VoteReply(member.term, True)]
        return chance.choice([Persisted(last_number), *(Received(IDS[1], vote) for vote in votes)])
    executed = Checkpoint(member.commit, member.log.term_at(member.commit))
    return chance.choices(
        [
            Received(chance.choice(IDS), some_message(chance, member)),
            TimerDue(),
            Persisted(last_number),
            Proposed(b"x", last_number),
            ReadAsked(last_number),
            SnapshotTaken(executed),
            SnapshotInstalled(Checkpoint(member.commit + chance.randrange(4), member.term)),
            PeerSilent(chance.choice(IDS)),
            LearnersChanged(tuple(chance.sample(IDS[3:], chance.randrange(3)))),
            TransferAsked(chance.choice([None, *IDS])),
            RequestsWait(chance.random() < 0.5),
        ],
        weights=(30, 6, 6, 6, 3, 2, 1, 1, 1, 1, 1),
    )[0]


def test_whatever_comes_a_member_stays_in_one_piece():
    roles = set()
    for seed in range(40):
        chance = random.Random(seed)
        member = Raft(IDS[0], Configuration(1, tuple(IDS[:3]), (IDS[3],)), GENESIS, [], Random(seed), SETTINGS)
        now, number, executed, term = 0.0, 0, 0, 0
        for _ in range(120):
            now += chance.random() * 0.4
            event = some_event(chance, member, number)
            ready = member.step(event, now)
            number = ready.number
            assert member.log.base <= member.commit <= member.log.last
            assert member.log.durable <= member.log.last
            assert member.term >= term
            if isinstance(event, SnapshotInstalled):
                executed = max(executed, event.checkpoint.index)
            assert [entry.index for entry in ready.committed] == [
                *range(executed + 1, executed + 1 + len(ready.committed))
            ]
            executed += len(ready.committed)
            term = member.term
            roles.add(member.status().role)
            member.image()
    assert roles == {"follower", "candidate", "leader"}
