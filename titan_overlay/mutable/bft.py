"""BFT: a group of 3t + 1 members agrees on one order, whatever t of them do.

Two-phase chained agreement with a stable leader: the family of HotStuff-2 (Malkhi and Nayak, 2023) and Jolteon
(Gelashvili et al., 2022), with the pacemaker of DiemBFT v4. All members vote to all, and one block is under way:

    leader                 everybody                          everybody
    propose block b  -->   b on disk; first vote to all  -->  Q first votes: a certificate for b
                                                              certificate on disk; second vote to all
                                                         -->  Q second votes: b is committed; the leader goes on

A *view* is one leader's reign and has any number of blocks. Each block names the certificate of the block that it
follows. Who is disappointed gives the view up: it signs a *timeout* that carries its highest certificate. Q timeouts
for a view are a *timeout certificate*; with it the next leader begins the next view, on a certificate that is not below
any of those Q.

Why two blocks that conflict are never both committed stands in `bft_safety.py`, which has all that it rests on.

Why it gets on
--------------
A member that waits sends everything again from time to time; who is behind in views is sent what ended them; t + 1
timeouts for a later view, of which one is honest, make everybody give that view up. So once messages arrive, all honest
members are in one view before long, views last longer each time (`bft_pacemaker.py`), and of t + 1 leaders in a row
one is honest. Votes need the whole chain of the parent (so that what commits can be executed); it is fetched from
whoever signed for it. A leader that orders other requests but not the one that waits longest is given up as well.
"""

from collections.abc import Callable, Iterable

from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    ChainRequest,
    CheckpointVote,
    Command,
    Equivocation,
    Message,
    Phase,
    Proposal,
    Record,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from titan_overlay.mutable.bft_order import Order
from titan_overlay.mutable.bft_pacemaker import BftSettings, Pacemaker
from titan_overlay.mutable.bft_queue import Queue
from titan_overlay.mutable.bft_safety import Safety
from titan_overlay.mutable.bft_tally import Timeouts, Votes
from titan_overlay.mutable.engine import (
    Accepted,
    Checkpoint,
    Entry,
    EntryKind,
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
    RequestsWait,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    Status,
    TimerDue,
    TransferAsked,
)

Valid = Callable[[EntryKind, bytes], bool]
"""Whether an entry may be ordered: its requests are signed by their senders, a reconfiguration is right."""

_NOOP = (Command(EntryKind.NOOP, b""),)


class Bft:
    """An `Engine` for byzantine faults.

    Args:
        committee: the members and their keys.
        checkpoint: the state that the shell has and executes from.
        records: what the log has of this member in this epoch, in order.
        valid: asked about each entry of a proposal before this member votes for it.

    Raises:
        StorageError: the records begin beyond the checkpoint.
    """

    def __init__(
        self,
        committee: Committee,
        checkpoint: Checkpoint,
        records: Iterable[Record],
        valid: Valid,
        settings: BftSettings = BftSettings(),  # noqa: B008 -- frozen
    ) -> None:
        self.committee = committee
        self.view = 1
        """Never falls, but by a restart: then it is at least as high as any in which this member has voted."""
        self.dropped = 0
        self.evidence: dict[bytes, Equivocation] = {}
        """One proof for each member that was caught."""
        self._valid = valid
        self._order = Order(committee, settings, checkpoint)
        self._safety = Safety(committee)
        self._opening: TimeoutCertificate | None = None
        """What began this view, if this member has it."""
        self._held: Proposal | None = None
        """Waits for its parent."""
        self._votes = {phase: Votes(committee, phase) for phase in Phase}
        self._timeouts = Timeouts(committee)
        self._queue = Queue(settings)
        self._asked = False
        """A request for blocks is under way."""
        self._turn = 0
        """Whom to ask."""
        self._pacemaker = Pacemaker(settings)
        self._heard: dict[bytes, float] = {}
        self._learners: tuple[bytes, ...] = ()
        self._tips: dict[bytes, bytes] = {}
        """The blocks that learners have come to."""
        self._now = 0.0
        self._out = Ready(0)
        self._restore(tuple(records))

    def _restore(self, records: tuple[Record, ...]) -> None:
        self._order.restore(records)
        self._safety.restore(records, self._order.high)
        for record in records:
            if isinstance(record, Equivocation):
                self.evidence[record.first.member] = record
        self.view = max(1, self._safety.voted_rank[0], self._order.high.view, self._safety.gave_up)

    # ---- the engine's face -------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> Ready:
        """Takes one event in."""
        self._now = now
        self._out = out = Ready(self._out.number + 1)
        for said in self._safety.said(event.number if isinstance(event, Persisted) else 0):
            self._collect(said) if isinstance(said, Timeout) else self._count(said)
        match event:
            case Received(sender, message):
                self.dropped += not self._received(sender, message)
            case Proposed():
                self._enqueue(event)
            case ReadAsked(ref):
                out.reads.append(ReadReady(ref, self._order.executed))
            case RequestsWait(waiting):
                self._pacemaker.requests(waiting, now)
            case TimerDue():
                self._timer_due()
            case SnapshotTaken(state):
                self._state_taken(state)
            case SnapshotInstalled(state):
                self.dropped += not self._order.installed(state, out)
                self._asked = False
            case LearnersChanged(learners):
                self._learners = learners
                self._tips = {learner: self._tips.get(learner, b"") for learner in learners}
            case PeerSilent(peer):
                if peer == self.committee.leader(self.view):
                    self._give_up(self.view)
            case TransferAsked():
                if self._leads:
                    self._give_up(self.view)
        self._advance()
        out.timer = self._timer()
        return out

    @property
    def leader(self) -> bytes | None:
        """Who proposes in this view, unless this member has given it up."""
        over = self._safety.gave_up >= self.view or self._order.stop is not None
        return None if over else self.committee.leader(self.view)

    def image(self) -> list[Record]:
        """Records that restore this member by themselves."""
        return [*self._order.image(), *self._safety.image(), *self.evidence.values()]

    def remains(self) -> list[Entry]:
        """Nothing: what was acknowledged is certified to be committed, and t + 1 members know."""
        return []

    def status(self) -> Status:
        """How things stand."""
        order, committee = self._order, self.committee
        role = "candidate" if self._safety.gave_up >= self.view else "leader" if self._leads else "follower"
        committed = order.blocks.committed.index
        return Status(
            role=role if committee.votes else "learner",
            leader=self.leader,
            term=self.view,
            first=min([block.first for block in order.blocks.decided()], default=committed + 1),
            last=max([block.last for block in order.blocks.undecided()], default=committed),
            committed=committed if order.stop is None else order.stop,
            stopped=order.stop is not None,
            asleep=self._timer() is None,
            peers={member: self._peer_status(member) for member in committee.others + self._learners},
            dropped=self.dropped,
            last_term=order.blocks.committed.view,
        )

    def _peer_status(self, member: bytes) -> PeerStatus:
        vote, heard = self._votes[Phase.FIRST].latest(member), self._heard.get(member)
        view, block = (vote.view, vote.block) if vote is not None else (0, self._tips.get(member, b""))
        position = self._order.blocks.position(block)
        return PeerStatus(view, position.index if position else 0, heard)

    # ---- what arrives ------------------------------------------------------------------------------------------

    def _received(self, sender: bytes, message: Message) -> bool:
        """Whether it made sense."""
        if sender in self._tips and isinstance(message, ChainRequest):
            self._tips[sender] = message.tip
        elif sender not in self.committee.others:
            return False
        self._heard[sender] = self._now
        match message:
            case ChainRequest():
                self._on_chain_request(sender, message)
                return True
            case Proposal():
                return self._on_proposal(sender, message)
            case Vote(member=member):
                if member == sender:
                    self._count(message)
                return member == sender
            case Timeout():
                return self._on_timeout(sender, message)
            case TimeoutCertificate():
                return self._on_timeout_certificate(message)
            case Certificate():
                return self._believe(message)
            case ChainReply():
                return self._on_chain_reply(sender, message)
            case CheckpointVote():
                return self._on_checkpoint_vote(sender, message)

    def _advance(self) -> None:
        """Does what has become possible."""
        order, out = self._order, self._out
        if order.commit(out):
            self._pacemaker.commit(self._now)
            self._state_taken(order.snapshot)
        order.settle(out)
        if order.stop is not None:
            self._refuse_all()
        if self._may_vote:
            self._safety.vote_second(order.high, self.view, out)
        if self._held is not None:
            held, self._held = self._held, None
            self._consider(held, held.block.digest())
        self._propose()
        late = self._held is not None or order.missing
        if late:
            self._ask()
        else:
            self._asked = False
        self._observe(late)

    # ---- certificates and views --------------------------------------------------------------------------------

    def _believe(self, certificate: Certificate) -> bool:
        """A certificate from elsewhere: if it is one, it counts."""
        if not self.committee.certifies(certificate):
            return False
        self._adopt(certificate)
        return True

    def _adopt(self, certificate: Certificate) -> None:
        """A certificate that holds shows that its view has begun."""
        if self._order.learn(certificate):
            # The next block carries a commit's certificate too, and Q members have the one that it rests on.
            second = certificate.phase is Phase.SECOND
            (self._out.unhurried if second else self._out.persist).append(certificate)
        self._enter(certificate.view, None)

    def _enter(self, view: int, opening: TimeoutCertificate | None) -> None:
        if view == self.view and self._opening is None:
            self._opening = opening
        if view <= self.view:
            return
        self.view = view
        self._opening = opening
        self._held = None
        self._pacemaker.enter(self._now)
        if not self._leads:
            self._refuse_all()

    @property
    def _leads(self) -> bool:
        return self.committee.leader(self.view) == self.committee.me

    @property
    def _may_vote(self) -> bool:
        return self._safety.may_vote(self.view) and self._order.stop is None

    # ---- proposing ---------------------------------------------------------------------------------------------

    def _enqueue(self, proposed: Proposed) -> None:
        leader = self.committee.leader(max(self.view, self._safety.gave_up + 1))
        if leader != self.committee.me or not self._may_vote or not self._queue.offer(proposed):
            self._out.refused.append(Refused(proposed.ref, leader))

    def _refuse_all(self) -> None:
        leader = self.committee.leader(max(self.view, self._safety.gave_up + 1))
        self._out.refused += [Refused(each.ref, leader) for each in self._queue.clear()]

    def _propose(self) -> None:
        """The next block, if this member leads, the last is committed, and there is something to order."""
        order = self._order
        if not (self._leads and self._may_vote):
            return
        voted = self._safety.voted_rank
        opens = voted[0] < self.view
        if opens and not self._may_open:
            return
        if not opens and not order.high.rank == voted == (self.view, order.committed):
            return
        path = order.blocks.path(order.high.block)
        if path is None or not order.in_window(order.high.height + 1):
            return
        # What an earlier leader left certified is committed first, by itself.
        batch = [] if path else self._queue.take()
        commands = _NOOP if path else tuple(Command(each.kind, each.data) for each in batch)
        if not commands:
            return
        parent = order.blocks.position(order.high.block) or order.blocks.committed
        block = Block(self.view, parent.height + 1, parent.index + 1, order.high, commands)
        self._out.accepted += [Accepted(each.ref, index, self.view) for index, each in enumerate(batch, block.first)]
        self._vote_first(block, block.digest(), self._opening if opens else None)

    @property
    def _may_open(self) -> bool:
        """Whether there is what the first block of this view needs (R2)."""
        return self.view == 1 or (self._opening is not None and self._order.high.rank >= self._opening.high)

    # ---- the first vote ----------------------------------------------------------------------------------------

    def _on_proposal(self, leader: bytes, proposal: Proposal) -> bool:
        block = proposal.block
        if leader != self.committee.leader(block.view):
            return False
        if block.view < self.view:
            return True
        digest = block.digest()
        vote = Vote(*block.rank, Phase.FIRST, digest, leader, proposal.signature)
        if not (self.committee.is_vote(vote) and self._believe(block.justify) and self._safety.is_in_order(proposal)):
            return False
        self._enter(block.view, proposal.timeouts)
        self._count(vote)
        self._consider(proposal, digest)
        return True

    def _consider(self, proposal: Proposal, digest: bytes) -> None:
        """Votes for a proposal that is in order, unless what this member has said forbids it."""
        block, order = proposal.block, self._order
        if block.view != self.view or not self._may_vote:
            return
        if not self._safety.is_free(block):
            if digest == self._safety.voted_digest:
                self._say_again(self.committee.leader(block.view))
            return
        if order.blocks.path(block.justify.block) is None:
            if block.height > order.committed:
                self._held = proposal
            return
        parent = order.blocks.position(block.justify.block) or order.blocks.committed
        if (
            block.first != parent.index + 1
            or not order.in_window(block.height)
            or not order.may_be_handed_on(block)
            or not all(self._may_be_ordered(command) for command in block.commands)
        ):
            self.dropped += 1
            return
        self._vote_first(block, digest, proposal.timeouts)

    def _may_be_ordered(self, command: Command) -> bool:
        return not command.data if command.kind is EntryKind.NOOP else self._valid(command.kind, command.data)

    def _vote_first(self, block: Block, digest: bytes, timeouts: TimeoutCertificate | None) -> None:
        self._order.blocks.add(digest, block)
        self._safety.vote_first(block, digest, timeouts, self._out)

    def _count(self, vote: Vote) -> None:
        match self._votes[vote.phase].add(vote):
            case Certificate() as certificate:
                self._adopt(certificate)
            case Equivocation() as caught if vote.member not in self.evidence:
                self.evidence[vote.member] = caught
                self._out.persist.append(caught)
                self._out.evidence.append(caught)

    # ---- giving a view up (Jolteon, section 3) --------------------------------------------------

    def _give_up(self, view: int) -> None:
        """R5. Also a view that this member has not been in: others have."""
        over = view < self.view or view <= self._safety.gave_up or self._order.stop is not None
        if over or not self.committee.votes:
            return
        self._enter(view, None)
        self._safety.give_up(view, self._order.high, self._out)
        self._refuse_all()

    def _on_timeout(self, sender: bytes, timeout: Timeout) -> bool:
        if timeout.member != sender:
            return False
        if timeout.view < self.view:
            self._help(sender, timeout)
            return True
        if not self.committee.is_timeout(timeout):
            return False
        self._adopt(timeout.high)
        self._collect(timeout)
        if timeout.view == self.view and self._timer() is None:
            self._say_again(sender)  # who sleeps repeats nothing by itself, and the sender may lack just that
        if timeout.view == self.view and sender == self.committee.leader(self.view):
            self._give_up(self.view)  # its leader resigns
        return True

    def _collect(self, timeout: Timeout) -> None:
        self._timeouts.add(timeout)
        ended = self._timeouts.certificate(timeout.view)
        if ended is not None:
            self._enter(timeout.view + 1, ended)
        self._give_up(self._timeouts.joined())

    def _on_timeout_certificate(self, timeouts: TimeoutCertificate) -> bool:
        if timeouts.view < self.view - 1:
            return True
        if not self.committee.ends(timeouts):
            return False
        self._enter(timeouts.view + 1, timeouts)
        return True

    def _help(self, sender: bytes, timeout: Timeout) -> None:
        """To who is behind: what began this view."""
        if self._order.high.rank > timeout.high.rank:
            self._send(sender, self._order.high)
        if self._opening is not None:
            self._send(sender, self._opening)

    # ---- time --------------------------------------------------------------------------------------------------

    def _observe(self, late: bool) -> None:
        """Tells the pacemaker what this member waits for, beside requests.

        Args:
            late: others have what this member needs.
        """
        order = self._order
        if order.stop is not None:
            return
        view, height = self._safety.voted_rank
        proposed = view == self.view and height > order.committed
        # Whoever commits what this member has yet to fetch has a leader that does its work.
        on_leader = (proposed or order.high.height > order.committed) and order.goal.height <= order.committed
        self._pacemaker.observe(on_leader, late or not self.committee.votes, self._now)

    def _timer(self) -> float | None:
        if self._order.stop is not None:
            return None
        repeat, expires = self._pacemaker.repeat, self._pacemaker.expires
        if repeat is None or expires is None or not self._may_vote:
            return repeat
        return min(repeat, expires)

    def _timer_due(self) -> None:
        expires, repeat = self._pacemaker.expires, self._pacemaker.repeat
        if repeat is not None and self._now >= repeat:
            self._pacemaker.repeated(self._now)
            self._repeat()
        if expires is not None and self._now >= expires:
            self._give_up(self.view)

    def _repeat(self) -> None:
        """Something is late: says again what may have been lost, and asks one member after the other what it knows."""
        for member in self.committee.others:
            self._say_again(member)
        self._asked = False
        self._turn += 1
        self._ask()
        self._order.fetch_again(self._out)

    def _say_again(self, member: bytes) -> None:
        state = self._order.checkpoints.unsettled
        if state is not None:
            self._send(member, state)
        for message in self._safety.again(self.view, self._order.committed, self._order.high):
            self._send(member, message)

    def _send(self, member: bytes, message: Message) -> None:
        self._out.send_now.append(Send(member, message))

    # ---- catching up, and states -------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Asks a member for blocks, always the same one until it fails, unless an answer is awaited."""
        others = self.committee.others
        if others and not self._asked:
            self._asked = True
            self._send(others[self._turn % len(others)], self._order.request())

    def _on_chain_request(self, sender: bytes, request: ChainRequest) -> None:
        reply = self._order.reply(request)
        if reply is not None:
            self._send(sender, reply)

    def _on_chain_reply(self, sender: bytes, reply: ChainReply) -> bool:
        if not (self._believe(reply.certificate) and self._believe(reply.committed)):
            return False
        grown = self._order.absorb(reply, sender, self._out)
        if grown:
            self._asked = False
        return grown is not None

    def _state_taken(self, state: Checkpoint) -> None:
        vote = self._order.taken(state)
        if vote is not None:
            for member in self.committee.others:
                self._send(member, vote)

    def _on_checkpoint_vote(self, sender: bytes, vote: CheckpointVote) -> bool:
        if vote.member != sender or not self.committee.is_checkpoint(vote):
            return False
        self._order.checkpoints.add(vote)
        return True
