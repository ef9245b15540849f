"""The order as one member knows it: which blocks it has, what is certified, committed, executed, and agreed as a state.

Nothing here votes. It keeps what certificates say, hands committed entries to the shell, and gives and takes what a
member that is behind needs: blocks, which prove themselves by a certificate of the last one, or the state at a stable
checkpoint, which proves itself by its root.
"""

from collections.abc import Iterable

from titan_overlay.errors import StorageError
from titan_overlay.mutable.bft_blocks import Blocks, Position, linked_blocks, size_of
from titan_overlay.mutable.bft_checkpoints import Checkpoints
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    ChainRequest,
    CheckpointVote,
    Diverged,
    Phase,
    Proposal,
    Record,
    StableCheckpoint,
)
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import Checkpoint, EntryKind, Fetch, Ready


class Order:
    """Blocks, certificates and states.

    Args:
        checkpoint: the state that the shell has and executes from.
    """

    def __init__(self, committee: Committee, settings: BftSettings, checkpoint: Checkpoint) -> None:
        self._committee = committee
        self._settings = settings
        # The index matters for the first block of the epoch alone: until that is committed, the checkpoint is where
        # the epoch began.
        self.blocks = Blocks(Position(0, checkpoint.index, 0, committee.origin.block))
        self.high = committee.origin
        """The highest certificate that is known: the lock, and what the next block extends."""
        self.goal = committee.origin
        """The highest certificate of the second phase: what it certifies is committed, here or to be fetched."""
        self._tip = committee.origin
        """The last block of the replies so far: further requests go on from there."""
        self.executed = checkpoint.index
        """Highest index handed to the shell, or installed by it."""
        self.stop: int | None = None
        """Index of RECONFIG, once committed: nothing above is executed."""
        self.checkpoints = Checkpoints(committee)
        self.snapshot = checkpoint
        """The last state that the shell has on disk."""
        self._wanted: StableCheckpoint | None = None
        """What the shell was asked to fetch."""

    def restore(self, records: Iterable[Record]) -> None:
        """Takes in what the log has.

        Raises:
            StorageError: it begins beyond the checkpoint.
        """
        for record in records:
            match record:
                case Proposal(block):
                    self.blocks.add(block.digest(), block)
                case Block():
                    self.blocks.add(record.digest(), record)
                case Certificate():
                    self.learn(record)
                case StableCheckpoint():
                    self._begin_at(record)
        if self.executed < self.blocks.anchor.index:
            raise StorageError(
                f"the log begins at {self.blocks.anchor.index}, the state ends at {self.executed}: fetch it anew"
            )

    def image(self) -> list[Record]:
        """Records that restore this."""
        stable = self.checkpoints.stable
        start: list[Record] = [stable] if stable else []
        return [*start, *self.blocks.decided(), *self.blocks.undecided(), self.goal, self.high]

    @property
    def committed(self) -> int:
        """Height of the last block that is committed and here."""
        return self.blocks.committed.height

    # ---- certificates ------------------------------------------------------------------------------------------

    def learn(self, certificate: Certificate) -> bool:
        """A certificate that holds. False: it is no news."""
        news = False
        if (certificate.rank, certificate.phase) > (self.high.rank, self.high.phase):
            self.high, news = certificate, True
        if certificate.phase is Phase.SECOND and certificate.height > self.goal.height:
            self.goal, news = certificate, True
        return news

    @property
    def missing(self) -> bool:
        """Whether something is certified that is not here, or committed that cannot be executed yet."""
        behind = self._wanted is not None or self.goal.height > self.committed
        return behind or self.blocks.path(self.high.block) is None

    def in_window(self, height: int) -> bool:
        """Whether there is room for a block of this height above the last stable checkpoint."""
        return height <= self.blocks.anchor.height + self._settings.window_blocks

    def may_be_handed_on(self, block: Block) -> bool:
        """Whether it fits into a reply to who has missed it."""
        return size_of(block) <= self._settings.block_bytes_bound

    def commit(self, out: Ready) -> bool:
        """Commits what is to be committed and here. False: nothing is."""
        path = self.blocks.path(self.goal.block) if self.goal.height > self.committed else None
        if path and path[0][1].first > self.executed + 1:
            self._fetch_origin(path[0][1].first - 1, out)
            return False
        before = self.executed
        for digest, block in path or ():
            self.blocks.commit(digest)
            self._hand_over(block, out)
        if self._wanted is not None and before < self._wanted.state.index <= self.executed:
            self._wanted = None  # the blocks came first
        return bool(path)

    def _hand_over(self, block: Block, out: Ready) -> None:
        """A committed block goes to the shell, as far as it has not been there."""
        for entry in block.entries():
            if self.stop is not None:
                return
            if entry.index > self.executed:
                self.executed = entry.index
                out.committed.append(entry)
            if entry.kind is EntryKind.RECONFIG:
                self.stop = entry.index
        if self.stop is not None or block.height % self._settings.checkpoint_blocks:
            return
        if block.last >= self.snapshot.index:
            self.checkpoints.expect(Position(block.height, block.last, block.view, block.digest()))
        if block.last > self.snapshot.index:
            out.checkpoints.append(block.last)

    # ---- catching up -------------------------------------------------------------------------------------------

    def request(self) -> ChainRequest:
        """What to ask others for."""
        tips = [self.high.block, self._tip.block, self.blocks.committed.block]
        return ChainRequest(self.committed, next(tip for tip in tips if self.blocks.path(tip) is not None))

    def reply(self, request: ChainRequest) -> ChainReply | None:
        """What this member has that the asker has not."""
        head = self.high if self.blocks.path(self.high.block) is not None else self.goal
        blocks, certificate = self.blocks.following(request, head, self._settings.reply_bytes_max)
        stable = self.checkpoints.stable if request.committed < self.blocks.anchor.height else None
        if not blocks and stable is None and self.goal.height <= request.committed:
            return None
        return ChainReply(tuple(blocks), certificate, self.goal, stable)

    def absorb(self, reply: ChainReply, sender: bytes, out: Ready) -> bool | None:
        """Takes blocks in, whose certificates the caller checks.

        Returns:
            None: they prove nothing. Otherwise whether the chain that is here has grown.
        """
        linked = linked_blocks(reply.blocks, reply.certificate.block)
        if linked is None or (reply.checkpoint is not None and not self._committee.stabilises(reply.checkpoint)):
            return None
        if reply.checkpoint is not None:
            self.checkpoints.agree(reply.checkpoint)
            if reply.checkpoint.state.index > self.executed:
                self._fetch(reply.checkpoint, sender, out)
        if not linked or self.blocks.position(linked[0][1].justify.block) is None:
            return False
        new = [block for digest, block in linked if self.blocks.add(digest, block)]
        out.persist += new
        before, self._tip = self._tip, reply.certificate
        return bool(new) or before.rank < reply.certificate.rank

    # ---- states (PBFT, section 4.3) ----------------------------------------------------------------------------

    def taken(self, state: Checkpoint) -> CheckpointVote | None:
        """The shell has this state on disk. Returns what to tell the others."""
        if state.index >= self.snapshot.index:
            self.snapshot = state
        vote = self.checkpoints.taken(state)
        if vote is not None:
            self.checkpoints.add(vote)
        return vote

    def settle(self, out: Ready) -> None:
        """Where Q have signed a state that the shell has too, the log begins."""
        agreed, mine = self.checkpoints.agreed, self.snapshot
        if agreed is None or agreed is self.checkpoints.stable:
            return
        if self._wanted is not None:
            if agreed.height > self._wanted.height:
                self._fetch(agreed, None, out)
        elif mine.index == agreed.state.index and mine.root != agreed.state.root:
            out.evidence.append(Diverged(mine, agreed))
            self._fetch(agreed, None, out)
        elif mine.index >= agreed.state.index:
            out.persist.append(agreed)
            self._begin_at(agreed)
            out.shrunk = True

    def installed(self, state: Checkpoint, out: Ready) -> bool:
        """The shell has a state. False: it is neither the one that was asked for nor a later one that is stable."""
        wanted, agreed = self._wanted, self.checkpoints.agreed
        if wanted is None:
            return False
        if agreed is not None and state == agreed.state:
            wanted = agreed
        elif state != wanted.state and (wanted.height or state.index != wanted.state.index):
            return False
        self._wanted = None
        self.snapshot = state
        self.executed = state.index
        self.stop = None
        if wanted.height:
            out.persist.append(wanted)
            self._begin_at(wanted)
        for block in self.blocks.decided():
            self._hand_over(block, out)  # only where the state that was here was not the agreed one
        return True

    def fetch_again(self, out: Ready) -> None:
        """The shell may have given up on it."""
        if self._wanted is not None:
            self._fetch(self._wanted, None, out)

    def _fetch_origin(self, index: int, out: Ready) -> None:
        """A member that has no state of this epoch begins with the one that the epoch began with. Its root is not known
        here: the last epoch has certified it.
        """
        if self._wanted is None:
            origin = self._committee.origin
            self._fetch(StableCheckpoint(0, origin.block, Checkpoint(index, 0), ()), None, out)

    def _fetch(self, wanted: StableCheckpoint, first: bytes | None, out: Ready) -> None:
        signers = [each.member for each in wanted.signatures if each.member != self._committee.me]
        sources = signers or self._committee.others
        self._wanted = wanted
        out.fetch = Fetch(wanted.state, tuple(sorted(sources, key=lambda member: member != first)))

    def _begin_at(self, checkpoint: StableCheckpoint) -> None:
        self.checkpoints.settle(checkpoint)
        state = checkpoint.state
        self.blocks.raise_anchor(Position(checkpoint.height, state.index, state.term, checkpoint.block))
