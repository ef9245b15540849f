"""Checkpoints: what Q members say the state is after every so many blocks (Castro and Liskov, PBFT, section 4.3).

A state is executed by everybody and signed; Q equal statements make it *stable*. Then nobody needs the blocks before
it: who is further behind fetches the state from any member, and believes it for its root.
"""

from titan_overlay.mutable.bft_blocks import Position
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import CheckpointVote, Signed, StableCheckpoint
from titan_overlay.mutable.engine import Checkpoint


class Checkpoints:
    """States of this member, statements of others, and the last one that is stable."""

    __slots__ = ("_committee", "_due", "_latest", "agreed", "stable")

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._due: dict[int, Position] = {}
        """Where a state of our own is expected, by index. Bounded by the window."""
        self._latest: dict[bytes, CheckpointVote] = {}
        """One place for each member."""
        self.agreed: StableCheckpoint | None = None
        """The highest that Q have signed; this member may not be there yet."""
        self.stable: StableCheckpoint | None = None
        """The highest that this member has executed, or fetched, too."""

    @property
    def unsettled(self) -> CheckpointVote | None:
        """What this member said last, if that is not stable: others may not have heard it."""
        mine = self._latest.get(self._committee.me)
        return mine if mine is not None and (self.stable is None or mine.height > self.stable.height) else None

    def expect(self, position: Position) -> None:
        """The state at this place is to be signed once the shell has it."""
        self._due[position.index] = position

    def taken(self, state: Checkpoint) -> CheckpointVote | None:
        """The shell has this state: what to tell everybody. None: nobody agrees on states at this place."""
        position = self._due.get(state.index)
        if position is None or not state.root or not self._committee.votes:
            return None
        self._due = {index: each for index, each in self._due.items() if index > state.index}
        return self._committee.checkpoint(position.height, position.block, state)

    def add(self, vote: CheckpointVote) -> None:
        """A statement from its member, checked."""
        before = self._latest.get(vote.member)
        if before is not None and before.height > vote.height:
            return
        self._latest[vote.member] = vote
        alike = [
            each
            for each in self._latest.values()
            if (each.height, each.block, each.state) == (vote.height, vote.block, vote.state)
        ]
        if len(alike) >= self._committee.quorum:
            signatures = tuple(Signed(each.member, each.signature) for each in alike)
            self.agree(StableCheckpoint(vote.height, vote.block, vote.state, signatures))

    def agree(self, checkpoint: StableCheckpoint) -> None:
        """Q have signed it."""
        if self.agreed is None or checkpoint.height > self.agreed.height:
            self.agreed = checkpoint

    def settle(self, checkpoint: StableCheckpoint) -> None:
        """This member has that state, and blocks before it may go."""
        self.stable = checkpoint
        self.agree(checkpoint)
        self._due = {index: each for index, each in self._due.items() if index > checkpoint.state.index}
