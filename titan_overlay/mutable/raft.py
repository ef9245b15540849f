"""Raft: a group of 2t + 1 members agrees on one order, whoever of t crash.

Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), with names as in its figure 2;
and from Ongaro's thesis (2014). A member is a `Follower`, a `Candidate` or a `Leader`, each in a file of its own; what
it is in every role stands here. Membership is fixed for an epoch (see `engine.py`): there is nothing of chapter 4.

    follower -- silence --> candidate -- a quorum would vote, a new term, a quorum votes --> leader
       ^----------- a leader of this term or a later one, or any later term, or no quorum -----'

What is durable is said to others only after the disk has said so: replies stand in `send_after_persist`, the leader's
own match counts from `Persisted` on, and so does a candidate's vote for itself.
"""

from collections.abc import Iterable

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.mutable.engine import (
    Checkpoint,
    Configuration,
    Entry,
    Event,
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
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    Status,
    TimerDue,
    TransferAsked,
)
from titan_overlay.mutable.raft_candidate import Candidate
from titan_overlay.mutable.raft_follower import Follower
from titan_overlay.mutable.raft_leader import Leader
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
from titan_overlay.mutable.raft_settings import DEFAULTS, RaftSettings


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
        self.commit = checkpoint.index
        self.snapshot = checkpoint
        self.role: Follower | Candidate | Leader = Follower(self, None)
        self.asleep = False
        self.dropped = 0
        self._acknowledged: dict[bytes, tuple[int, int]] = {}
        self._random = random
        self._term_written = self._term_durable = 0
        """Numbers of the Ready that wrote the term last, and of the last that is durable."""
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
        if self.log.gone:
            self.log.let_go()
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
            case TransferAsked() if isinstance(self.role, Leader):
                self.role.transfer(event.to)
            case _:
                pass  # a transfer that is not for this member; RequestsWait: leaders here do not lie
        if out.persist:
            self.log.writing(out.number)
        out.timer = self._deadline
        return out

    def image(self) -> list[Record]:
        """Records that restore this member by themselves."""
        return [HardState(self.term, self.vote), *self.log.image(self.settings.append_bytes_max)]

    def remains(self) -> list[Entry]:
        """What may have been committed by a quorum that is lost."""
        last = self.log.last if self.log.stop is None else self.log.stop - 1
        return self.log.between(self.commit + 1, last)

    def status(self) -> Status:
        """How things stand."""
        heard = {peer: each.heard for peer, each in self.role.progress.items()} if isinstance(self.role, Leader) else {}
        return Status(
            role=self.role.name,
            leader=self.leader,
            term=self.term,
            first=self.log.base + 1,
            last=self.log.last,
            committed=self.commit,
            stopped=self.stopped,
            asleep=self.asleep,
            peers={peer: PeerStatus(*self._acknowledged.get(peer, (0, 0)), heard.get(peer)) for peer in self.peers},
            dropped=self.dropped,
            last_term=self.log.last_term,
        )

    @property
    def leader(self) -> bytes | None:
        """Who leads, as far as this member knows."""
        return self.role.leader

    @property
    def stopped(self) -> bool:
        """The stop sign is committed: this epoch is over."""
        return self.log.stop is not None and self.commit >= self.log.stop

    # ---- requests ----------------------------------------------------------------------------------------------

    def _propose(self, proposed: Proposed) -> None:
        if isinstance(self.role, Leader):
            self.role.propose(proposed)
        else:
            self.out.refused.append(Refused(proposed.ref, self.role.leader))

    def _read(self, ref: int) -> None:
        if isinstance(self.role, Leader):
            self.role.read((self.me, self._nonce, ref))
        elif self.role.leader is not None and not self.stopped:
            self.send_now(self.role.leader, ReadIndex(self._nonce, ref))
        else:
            self.out.refused.append(Refused(ref, None))

    def _on_read_index_reply(self, leader: bytes, reply: ReadIndexReply) -> None:
        if reply.nonce == self._nonce:
            if isinstance(self.role, Follower) and leader == self.role.leader:
                self.role.on_read_index_reply(reply)
            self.out.reads.append(ReadReady(reply.ref, reply.index))

    # ---- time --------------------------------------------------------------------------------------------------

    def set_timer(self, seconds: float) -> None:
        """`TimerDue` in so many seconds."""
        self._deadline = self.now + seconds

    def await_leader(self) -> None:
        """Sets the election timer; drawn at random, so that seldom two stand at once (section 5.2)."""
        if self.votes_here:
            # Alone, nobody else can stand; but a candidate still waits for its own vote to be on disk.
            alone = self.quorum == 1 and not isinstance(self.role, Candidate)
            election = 0.0 if alone else self.settings.election
            self._timeout = self._random.uniform(election, 2 * election)
            self.set_timer(self._timeout)

    def leader_lives(self) -> None:
        """The election timer begins anew."""
        self.asleep = False
        if self.votes_here:
            self.set_timer(self._timeout)

    def _timer_due(self) -> None:
        if self._deadline is None:
            if not self.asleep:
                self.await_leader()  # the first event of all
        elif self.now >= self._deadline:
            if isinstance(self.role, Leader):
                self.role.timer_due()
            else:
                self._stand_for_election().ask()

    def sleep(self) -> None:
        """Nothing more is to be said, until there is news."""
        self.asleep = True
        self._deadline = None

    def wake(self) -> None:
        """There is news."""
        if not self.asleep:
            return
        self.asleep = False
        if isinstance(self.role, Leader):
            self.role.awake()
        elif isinstance(self.role, Follower):
            self.role.hear()
            self.await_leader()

    def _doubt(self, peer: bytes) -> None:
        if self.asleep and isinstance(self.role, Follower) and peer == self.role.leader:
            self.asleep = False
            self.role.heard = float("-inf")
            self.await_leader()

    # ---- elections (sections 5.2, 5.4.1; thesis 4.2.3, 9.6) ----------------------------------------------------

    def begin_term(self, term: int, vote: bytes | None) -> None:
        """A term, and the vote given in it."""
        self.term, self.vote = term, vote
        self.out.persist.append(HardState(term, vote))
        self._term_written = self.out.number

    def follow(self, term: int, leader: bytes | None) -> None:
        """Becomes a follower: of a leader, or of whoever will be one."""
        if term > self.term:
            self.begin_term(term, None)
        if isinstance(self.role, Leader):
            self.role.end(leader)
        self.role = Follower(self, leader)
        self.asleep = False
        self.await_leader()

    def _stand_for_election(self) -> Candidate:
        self.role = candidate = Candidate(self)
        self.await_leader()
        return candidate

    def _lead_if_won(self) -> None:
        if isinstance(self.role, Candidate) and self.role.won:
            self.role = leader = Leader(self)
            leader.begin()

    def _on_pre_vote(self, sender: bytes, asked: PreVote) -> None:
        self.wake()
        content = isinstance(self.role, Leader) or (isinstance(self.role, Follower) and self.role.content)
        ahead = not self._is_behind(asked)
        granted = asked.term > self.term and not content and not ahead
        self.send_after_persist(sender, PreVoteReply(asked.term if granted else self.term, granted))
        if ahead and not content and isinstance(self.role, Follower):
            # The other cannot win, and is right that nobody leads; drawn at random, as several may be ahead.
            soon = self._random.uniform(0.0, self.settings.heartbeat)
            if self._deadline is None or self.now + soon < self._deadline:
                self.set_timer(soon)

    def _on_pre_vote_reply(self, sender: bytes, reply: PreVoteReply) -> None:
        if not reply.granted and reply.term > self.term:
            self.follow(reply.term, None)
        elif isinstance(self.role, Candidate) and sender in self.other_voters:
            self.role.on_pre_vote_reply(sender, reply)

    def _on_request_vote(self, sender: bytes, asked: RequestVote) -> None:
        granted = self._is_behind(asked) and self.vote in (None, sender)
        if granted and self.vote is None:
            self.begin_term(self.term, sender)
            self.await_leader()
        self.send_after_persist(sender, VoteReply(self.term, granted))

    def _on_vote_reply(self, sender: bytes, reply: VoteReply) -> None:
        if reply.granted:
            self.acknowledged(sender, 0)
            if isinstance(self.role, Candidate):
                self.role.on_vote(sender)
                self._lead_if_won()

    def _is_behind(self, candidate: PreVote | RequestVote) -> bool:
        """Whether the log here has nothing that the candidate's lacks, as far as their ends tell (section 5.4.1)."""
        return (candidate.last_term, candidate.last_index) >= (self.log.last_term, self.log.last)

    # ---- the log -----------------------------------------------------------------------------------------------

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

    def _persisted(self, number: int) -> None:
        self.log.confirm(number)
        self._term_durable = number
        if isinstance(self.role, Leader):
            self.role.advance_commit()
        elif isinstance(self.role, Candidate):
            self.role.on_persisted(number)
            self._lead_if_won()
        else:
            self.role.on_persisted()

    def _installed(self, state: Checkpoint) -> None:
        if state.index <= self.commit:
            return
        self.log.rebase(state.index, state.term)
        self.out.persist.append(LogBase(state.index, state.term))
        self.snapshot = state
        self.commit = state.index
        if isinstance(self.role, Follower):
            self.role.installed(state.index)

    def _compact(self, state: Checkpoint) -> None:
        # The stop sign stays in the log: who never sees it would think that the epoch goes on.
        if self.snapshot.index < state.index <= self.commit and state.index != self.log.stop:
            self.snapshot = state
            settings = self.settings
            base = self.log.trailing(state.index, settings.trailing_entries, settings.trailing_bytes_max)
            self.log.rebase(base, self.log.term_at(base))
            self.out.shrunk = True

    # ---- messages ----------------------------------------------------------------------------------------------

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
                if isinstance(self.role, Leader):
                    self.role.read((sender, message.nonce, message.ref))
                return
            case ReadIndexReply():
                self._on_read_index_reply(sender, message)
                return
        if isinstance(message, AppendEntries | InstallSnapshot | Sleep):
            self._from_leader(sender, message)
        elif message.term >= self.term:
            if message.term > self.term:
                self.follow(message.term, None)
            self._from_peer(sender, message)

    def _from_leader(self, leader: bytes, message: AppendEntries | InstallSnapshot | Sleep) -> None:
        if message.term < self.term:  # it learns that others are further
            self.send_after_persist(leader, AppendRejected(self.term, 0, 0, 0, 0))
            return
        if message.term > self.term or (not isinstance(self.role, Leader) and self.role.leader != leader):
            self.follow(message.term, leader)
        if not isinstance(self.role, Follower):
            self.dropped += 1  # there are no two leaders in one term
            return
        self.role.hear()
        match message:
            case AppendEntries():
                self.role.on_append(leader, message)
            case InstallSnapshot():
                self.role.on_install_snapshot(leader, message)
            case Sleep():
                self.role.on_sleep(message)

    def _from_peer(self, sender: bytes, message: Message) -> None:
        role = self.role
        match message:
            case AppendReply() if isinstance(role, Leader):
                role.on_append_reply(sender, message)
            case AppendRejected() if isinstance(role, Leader):
                role.on_append_rejected(sender, message)
            case RequestVote() if self.votes_here:
                self._on_request_vote(sender, message)
            case VoteReply() if sender in self.other_voters:
                self._on_vote_reply(sender, message)
            case TimeoutNow() if sender == role.leader and self.votes_here:
                self._stand_for_election().stand()
            case _:
                self.dropped += 1

    def acknowledged(self, peer: bytes, index: int) -> None:
        """The peer said in this term that it has the log up to there, or voted."""
        if (self.term, index) > self._acknowledged.get(peer, (0, 0)):
            self._acknowledged[peer] = (self.term, index)

    def _learners_changed(self, learners: tuple[bytes, ...]) -> None:
        self.configuration = msgspec.structs.replace(self.configuration, learners=learners)
        self.other_voters = tuple(peer for peer in self.configuration.members if peer != self.me)
        self.peers = (*self.other_voters, *(peer for peer in learners if peer != self.me))
        if isinstance(self.role, Leader):
            self.wake()
            self.role.learners_changed()

    def send_now(self, to: bytes, message: Message) -> None:
        """Nothing in the message depends on the disk."""
        self.out.send_now.append(Send(to, message))

    def send_in_term(self, to: bytes, message: Message) -> None:
        """Nothing in the message depends on the disk, but the term that it speaks in."""
        if self._term_written > self._term_durable:
            self.send_after_persist(to, message)
        else:
            self.send_now(to, message)

    def send_after_persist(self, to: bytes, message: Message) -> None:
        """What the message says must be on disk first."""
        self.out.send_after_persist.append(Send(to, message))
