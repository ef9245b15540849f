"""Raft: a group of 2t + 1 members agrees on one order, whoever of t crash.

Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), with names as in its figure 2; and
from Ongaro's thesis (2014): pre-vote (9.6), members that stay with a leader they hear (4.2.3), and what a leader does
(`raft_leader.py`). Membership is fixed for an epoch (see `engine.py`), so there is nothing of chapter 4.

    follower -- silence --> pre-candidate -- quorum would vote --> candidate -- quorum votes --> leader
       ^------------- a leader of this term or a later one, or any later term, or no quorum -------'

What is durable is said to others only after the disk has said so: replies stand in `send_after_persist`, the leader's
own match counts from `Persisted` on, and so does a candidate's vote for itself.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.mutable.engine import (
    Checkpoint,
    Configuration,
    Entry,
    Event,
    Fetch,
    LearnersChanged,
    PeerSilent,
    PeerStatus,
    Persisted,
    Proposed,
    ReadAsked,
    ReadReady,
    Ready,
    Received,
    Refused,
    RequestsWait,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    Status,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.raft_leader import Leadership
from titan_overlay.mutable.raft_log import restore
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    HardState,
    InstallSnapshot,
    LogBase,
    LogEntries,
    Message,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    Record,
    RequestVote,
    Sleep,
    TimeoutNow,
    VoteReply,
)


class Role(Enum):
    """What a member does in this term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class RaftSettings(msgspec.Struct, frozen=True):
    """Times in seconds; every bound that a group's memory and traffic have."""

    heartbeat: float = 0.1
    election: float = 0.5
    """A follower waits for its leader between this and twice this, drawn anew each time."""
    sleep_after: float = 5.0
    """Without requests for so long, a group that agrees on everything stops its heartbeats."""
    appends_in_flight_max: int = 64
    bytes_in_flight_max: int = 1 << 20
    append_bytes_max: int = 1 << 18
    uncommitted_max: int = 4096
    """Entries that a leader takes on without knowing them committed."""
    reads_max: int = 4096
    trailing_entries: int = 1024
    """Entries kept behind a snapshot, so that who is a little late needs no whole state."""


DEFAULTS = RaftSettings()


class Raft:
    """An `Engine` for crash faults.

    Args:
        checkpoint: the state that the shell has and executes from.
        records: what the log has of this member in this epoch, in order.
        random: draws election timeouts, and the nonce that tells this run's reads from an earlier one's.

    Raises:
        StorageError: the records fit neither each other nor the checkpoint.
    """

    def __init__(
        self,
        me: bytes,
        configuration: Configuration,
        checkpoint: Checkpoint,
        records: Iterable[Record],
        random: Random,
        settings: RaftSettings = DEFAULTS,
    ) -> None:
        self.me = me
        self.settings = settings
        self.configuration = configuration
        self.quorum = len(configuration.members) // 2 + 1
        self.votes_here = me in configuration.members
        # Durable (figure 2), with what the disk still lacks of it.
        hard, self.log, self._missing = restore(records, checkpoint)
        self.term, self.vote = hard.term, hard.vote
        # Volatile.
        self.role = Role.FOLLOWER
        self.leader: bytes | None = None
        self.commit = checkpoint.index
        self.snapshot = checkpoint
        self.asleep = False
        self.dropped = 0
        self._leadership: Leadership | None = None
        self._matched = self.commit
        """Follower: up to here, at least `commit`, the log is known to be as the leader's."""
        self._heard = float("-inf")
        """Follower: when the leader was last heard of."""
        self._votes: set[bytes] = set()
        self._ballot = 0
        """Candidate: number of the Ready that writes the vote for itself."""
        self._acknowledged: dict[bytes, tuple[int, int]] = {}
        self._random = random
        self._nonce = random.getrandbits(62)
        self._timeout = 0.0
        self._deadline: float | None = None
        self._learners_changed(configuration.learners)
        # Of the step that is being taken.
        self.now = 0.0
        self.out = Ready(0)

    # ---- the engine's face -------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> Ready:
        """Takes one event in."""
        self.now = now
        self.out = out = Ready(self.out.number + 1)
        if self._missing:
            out.persist += self._missing
            self._missing = []
        match event:
            case Received():
                self._received(event.sender, event.message)
            case Persisted():
                self._persisted(event.number)
            case Proposed():
                self._propose(event)
            case ReadAsked():
                self._read(event.ref)
            case TimerDue():
                self._timer_due()
            case SnapshotTaken():
                self._compact(event.checkpoint)
            case SnapshotInstalled():
                self._installed(event.checkpoint)
            case PeerSilent():
                self._doubt(event.peer)
            case LearnersChanged():
                self._learners_changed(event.learners)
            case TransferAsked():
                if self._leadership is not None:
                    self._leadership.transfer(event.to)
            case RequestsWait():
                pass
        if out.persist:
            self.log.writing(out.number)
        out.timer = self._deadline
        return out

    def image(self) -> list[Record]:
        """Records that restore this member by themselves."""
        return [HardState(self.term, self.vote), *self.log.image(self.settings.append_bytes_max)]

    def status(self) -> Status:
        """How things stand."""
        heard = self._leadership.progress if self._leadership is not None else {}
        peers = {
            peer: PeerStatus(*self._acknowledged.get(peer, (0, 0)), heard[peer].heard if peer in heard else None)
            for peer in self.peers
        }
        return Status(
            role=self.role.value if self.votes_here else "learner",
            leader=self.leader,
            term=self.term,
            first=self.log.base + 1,
            last=self.log.last,
            committed=self.commit,
            stopped=self.stopped,
            asleep=self.asleep,
            peers=peers,
            dropped=self.dropped,
        )

    @property
    def stopped(self) -> bool:
        """The stop sign is committed: this epoch is over."""
        return self.log.stop is not None and self.commit >= self.log.stop

    # ---- requests ----------------------------------------------------------------------------------------------

    def _propose(self, proposed: Proposed) -> None:
        if self._leadership is not None:
            self._leadership.propose(proposed)
        else:
            self.out.refused.append(Refused(proposed.ref, self.leader))

    def _read(self, ref: int) -> None:
        if self._leadership is not None:
            self._leadership.read((self.me, self._nonce, ref))
        elif self.leader is not None and not self.stopped:
            self.send_now(self.leader, ReadIndex(self._nonce, ref))
        else:
            self.out.refused.append(Refused(ref, None))

    def _on_read_index_reply(self, leader: bytes, reply: ReadIndexReply) -> None:
        if reply.nonce != self._nonce:
            return
        if leader == self.leader and reply.term == self.term:
            self.commit_to(min(reply.index, self._matched))  # the next append would say so, but later
        self.out.reads.append(ReadReady(reply.ref, reply.index))

    # ---- time --------------------------------------------------------------------------------------------------

    def set_timer(self, seconds: float) -> None:
        """`TimerDue` in so many seconds."""
        self._deadline = self.now + seconds

    def _await_leader(self) -> None:
        """Sets the election timer; drawn at random, so that seldom two stand at once (section 5.2)."""
        if self.votes_here:
            # Alone, nobody else can stand; but a candidate still waits for its own vote to be on disk.
            alone = self.quorum == 1 and self.role is not Role.CANDIDATE
            election = 0.0 if alone else self.settings.election
            self._timeout = self._random.uniform(election, 2 * election)
            self.set_timer(self._timeout)

    def _timer_due(self) -> None:
        if self._deadline is None:
            if not self.asleep:
                self._await_leader()  # the first event of all
        elif self.now >= self._deadline:
            if self._leadership is not None:
                self._leadership.heartbeat()
            else:
                self._pre_campaign()

    def sleep(self) -> None:
        """Nothing more is to be said, until there is news."""
        self.asleep = True
        self._deadline = None

    def wake(self) -> None:
        """There is news."""
        if self.asleep:
            self.asleep = False
            self._heard = self.now
            if self._leadership is not None:
                self._leadership.awake()
            else:
                self._await_leader()

    def _doubt(self, peer: bytes) -> None:
        if self.asleep and peer == self.leader:
            self.asleep = False
            self._heard = float("-inf")
            self._await_leader()

    # ---- elections (sections 5.2, 5.4.1; thesis 9.6, 4.2.3) ----------------------------------------------------

    def follow(self, term: int, leader: bytes | None) -> None:
        """Becomes a follower: of a leader, or of whoever will be one."""
        if term > self.term:
            self.term, self.vote = term, None
            self._save_hard_state()
        if self._leadership is not None:
            self._leadership.end(leader)
            self._leadership = None
        self.role, self.leader = Role.FOLLOWER, leader
        self.asleep = False
        self._matched = self.commit
        self._await_leader()

    def _pre_campaign(self) -> None:
        """Asks whether an election could be won, before a term is spent on it."""
        self.role, self.leader = Role.PRE_CANDIDATE, None
        self._votes = {self.me}
        self._await_leader()
        ask = PreVote(self.term + 1, self.log.last, self.log.last_term)
        for peer in self.other_voters:
            self.send_now(peer, ask)
        if self.quorum == 1:
            self._campaign()

    def _campaign(self) -> None:
        self.term, self.vote = self.term + 1, self.me
        self._save_hard_state()
        self.role, self.leader = Role.CANDIDATE, None
        self._votes = set()
        self._ballot = self.out.number
        self._await_leader()
        ask = RequestVote(self.term, self.log.last, self.log.last_term)
        for peer in self.other_voters:
            self._send_after_persist(peer, ask)

    def _on_pre_vote(self, sender: bytes, asked: PreVote) -> None:
        self.wake()
        # Who hears a leader does not help to unseat it, however far ahead the other's term is.
        hears = self.leader is not None and self.now < self._heard + self.settings.election
        content = self._leadership is not None or hears
        granted = asked.term > self.term and not content and self._is_behind(asked)
        self._send_after_persist(sender, PreVoteReply(asked.term if granted else self.term, granted))

    def _on_pre_vote_reply(self, sender: bytes, reply: PreVoteReply) -> None:
        if not reply.granted and reply.term > self.term:
            self.follow(reply.term, None)
        elif reply.granted and self.role is Role.PRE_CANDIDATE and reply.term == self.term + 1:
            self._votes.add(sender)
            if len(self._votes) >= self.quorum:
                self._campaign()

    def _on_request_vote(self, sender: bytes, asked: RequestVote) -> None:
        granted = self._is_behind(asked) and self.vote in (None, sender)
        if granted and self.vote is None:
            self.vote = sender
            self._save_hard_state()
            self._await_leader()
        self._send_after_persist(sender, VoteReply(self.term, granted))

    def _on_vote_reply(self, sender: bytes, reply: VoteReply) -> None:
        if reply.granted:
            self.acknowledged(sender, 0)
            self._count_vote(sender)

    def _count_vote(self, voter: bytes) -> None:
        if self.role is Role.CANDIDATE:
            self._votes.add(voter)
            if len(self._votes) >= self.quorum:
                self._lead()

    def _lead(self) -> None:
        self.role, self.leader = Role.LEADER, self.me
        self._leadership = Leadership(self)
        self.set_timer(self.settings.heartbeat)

    def _is_behind(self, candidate: PreVote | RequestVote) -> bool:
        """Whether the log here has nothing that the candidate's lacks, as far as their ends tell (section 5.4.1)."""
        return (candidate.last_term, candidate.last_index) >= (self.log.last_term, self.log.last)

    # ---- a follower's log (section 5.3) ------------------------------------------------------------------------

    def _hear(self, leader: bytes) -> None:
        if self.leader != leader or self.role is not Role.FOLLOWER:
            self.follow(self.term, leader)
        self._heard = self.now
        self.asleep = False
        if self.votes_here:
            self._deadline = self.now + self._timeout

    def _on_append(self, leader: bytes, append: AppendEntries) -> None:
        self._hear(leader)
        prev, entries, log = append.prev_index, append.entries, self.log
        # What is committed is as the leader's, whoever leads (leader completeness, section 5.4.3).
        if prev > self.commit and not log.holds(prev, append.prev_term):
            hint = log.last_at_most(prev, append.prev_term)
            rejected = AppendRejected(self.term, append.round, prev, hint, log.term_at(hint))
            self._send_after_persist(leader, rejected)
            return
        last = prev + len(entries)
        news = log.news(entries)
        if (news and news[0].index <= self.commit) or any(e.index != i for i, e in enumerate(entries, prev + 1)):
            self.dropped += 1  # not from a sound member: numbers that do not follow, or another order than was agreed
            return
        if news:
            log.cut(news[0].index)  # only where it differs: an append that is late must not shorten the log
            self.append(news)
        self._matched = max(self._matched, last)
        self.commit_to(min(append.commit, self._matched))
        if entries:
            self._send_after_persist(leader, AppendReply(self.term, append.round, last))
        else:
            # Says nothing new about the disk, so it need not wait for it.
            self.send_now(leader, AppendReply(self.term, append.round, min(last, log.durable)))

    def append(self, entries: list[Entry]) -> None:
        """Puts entries behind the last, here and on disk."""
        self.log.append(entries)
        self.out.persist.append(LogEntries(entries))

    def commit_to(self, index: int) -> None:
        """All up to there, but nothing behind the stop sign, is to be executed."""
        if self.log.stop is not None:
            index = min(index, self.log.stop)
        if index > self.commit:
            self.out.committed += self.log.between(self.commit + 1, index)
            self.commit = index

    def _on_sleep(self, leader: bytes, sleep: Sleep) -> None:
        self._hear(leader)
        if self.log.last == self._matched == sleep.index:
            self.commit_to(sleep.index)
            self.sleep()

    # ---- states instead of entries (section 7) -----------------------------------------------------------------

    def _on_install_snapshot(self, leader: bytes, install: InstallSnapshot) -> None:
        self._hear(leader)
        if install.checkpoint.index > self.commit:
            self.out.fetch = Fetch(install.checkpoint, (leader,))
        self.send_now(leader, AppendReply(self.term, install.round, min(self.commit, self.log.durable)))

    def _installed(self, state: Checkpoint) -> None:
        if state.index <= self.commit:
            return
        self.log.rebase(state.index, state.term)
        self.out.persist.append(LogBase(state.index, state.term))
        self.snapshot = state
        self.commit = state.index
        self._matched = max(self._matched, state.index)
        if self.leader is not None and self._leadership is None:
            self._send_after_persist(self.leader, AppendReply(self.term, 0, state.index))

    def _compact(self, state: Checkpoint) -> None:
        # The stop sign stays in the log: who never sees it would think that the epoch goes on.
        if self.snapshot.index < state.index <= self.commit and state.index != self.log.stop:
            self.snapshot = state
            base = max(self.log.base, state.index - self.settings.trailing_entries)
            self.log.rebase(base, self.log.term_at(base))

    # ---- messages and the disk ---------------------------------------------------------------------------------

    def _received(self, sender: bytes, message: Message) -> None:
        if sender not in self.peers:
            self.dropped += 1
            return
        match message:  # those that do not speak of the term that both are in
            case PreVote():
                if self.votes_here:
                    self._on_pre_vote(sender, message)
                return
            case PreVoteReply():
                self._on_pre_vote_reply(sender, message)
                return
            case ReadIndex():
                if self._leadership is not None:
                    self._leadership.read((sender, message.nonce, message.ref))
                return
            case ReadIndexReply():
                self._on_read_index_reply(sender, message)
                return
        leads = isinstance(message, AppendEntries | InstallSnapshot | Sleep)
        if message.term > self.term:
            self.follow(message.term, sender if leads else None)
        if message.term == self.term:
            self._received_in_term(sender, message)
        elif leads:  # a leader of the past learns of the present
            self._send_after_persist(sender, AppendRejected(self.term, 0, 0, 0, 0))

    def _received_in_term(self, sender: bytes, message: Message) -> None:
        leadership = self._leadership
        match message:
            case AppendEntries() if leadership is None:
                self._on_append(sender, message)
            case AppendReply() if leadership is not None:
                leadership.on_append_reply(sender, message)
            case AppendRejected() if leadership is not None:
                leadership.on_append_rejected(sender, message)
            case InstallSnapshot() if leadership is None:
                self._on_install_snapshot(sender, message)
            case RequestVote() if self.votes_here:
                self._on_request_vote(sender, message)
            case VoteReply() if sender in self.other_voters:
                self._on_vote_reply(sender, message)
            case TimeoutNow() if sender == self.leader and self.votes_here:
                self._campaign()
            case Sleep() if leadership is None:
                self._on_sleep(sender, message)
            case _:
                self.dropped += 1

    def _persisted(self, number: int) -> None:
        self.log.confirm(number)
        if self._leadership is not None:
            self._leadership.advance_commit()
        elif number >= self._ballot:
            self._count_vote(self.me)

    def _learners_changed(self, learners: tuple[bytes, ...]) -> None:
        self.configuration = msgspec.structs.replace(self.configuration, learners=learners)
        self.other_voters = tuple(peer for peer in self.configuration.members if peer != self.me)
        self.peers = (*self.other_voters, *(peer for peer in learners if peer != self.me))
        if self._leadership is not None:
            self.wake()
            self._leadership.learners_changed()

    def acknowledged(self, peer: bytes, index: int) -> None:
        """The peer said in this term that it has the log up to there, or voted."""
        if (self.term, index) > self._acknowledged.get(peer, (0, 0)):
            self._acknowledged[peer] = (self.term, index)

    def _save_hard_state(self) -> None:
        self.out.persist.append(HardState(self.term, self.vote))

    def send_now(self, to: bytes, message: Message) -> None:
        """Nothing in the message depends on the disk."""
        self.out.send_now.append(Send(to, message))

    def _send_after_persist(self, to: bytes, message: Message) -> None:
        self.out.send_after_persist.append(Send(to, message))
