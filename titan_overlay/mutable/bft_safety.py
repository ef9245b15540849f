"""What a member may sign, and what it has signed: all that safety rests on (the safety module of DiemBFT v4).

Why two blocks that conflict are never both committed
-----------------------------------------------------
What an honest member keeps to (each line is an `if` below, and a mutant in the tests that leaves it out):

    R1  It gives a first vote to one block of a rank (view, height), and in a view only upwards.
    R2  A block that opens view v comes with a timeout certificate for v - 1 and extends a certificate that is not below
        the highest claimed in it; and it is the first that the member votes for in v. (View 1 opens on the epoch's
        origin.)
    R3  Any other block of view v extends a certificate of view v.
    R4  It gives a second vote for b only with a certificate for b on its disk.
    R5  Once it has given up view v, which is on its disk first, it votes in no view up to v. Its timeouts claim the
        highest certificate that it has.
    R6  What it has said is on its disk. After a restart it is bound by all of it.

*In one view.* Two sets of Q share an honest member. So at most one block can get a certificate for each rank (R1), and
at most one opening block of a view can (R2). By R3 every certified block of v descends from that opening block, through
certified blocks of v, one at each height. So the certified blocks of a view are a chain.

*Across views.* Let b be committed, in view v at height h. Claim: every certified block of rank (v, h) or above descends
from b, or is b. By induction over rank; for view v it has just been said. Let c open view w > v and be certified. Its
timeout certificate for w - 1 >= v and the second votes for b have an honest member in common. It did not vote after it
had given up w - 1 (R5), so it voted first, and had the certificate of b by then (R4, R6). So it claimed (v, h) or
above, and c extends a certificate at or above (v, h) (R2), of a lower view than w. By induction that descends from b.
Blocks that follow c in w descend from c (R3).

Second votes of Q commit; then no certificate that conflicts can exist, and without one nothing that conflicts commits.
A certificate of the second phase counts as one of the first everywhere: an honest one among the Q has seen that.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    GaveUp,
    Message,
    Phase,
    Proposal,
    Rank,
    Record,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from titan_overlay.mutable.engine import Ready, Send


class Safety:
    """One member's signatures. In memory it may be ahead of the disk; what others have, and what counts, is not."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self.gave_up = 0
        """No votes in views up to this one (R5)."""
        self.voted_rank: Rank = (0, 0)
        """No first vote for anything at or below this rank (R1)."""
        self.voted_digest = b""
        self._voted: Proposal | None = None
        self._second_rank: Rank = (0, 0)
        """Second votes were given up to here. To give one again is harmless: there is one certificate for a rank."""
        self._unsaid: deque[tuple[int, Vote | Timeout]] = deque()
        """With the number of the Ready that makes them durable."""
        self._votes: dict[Phase, Vote] = {}
        """The last ones that are durable."""
        self._timeout: Timeout | None = None
        """The same."""

    def restore(self, records: Sequence[Record], high: Certificate) -> None:
        """Is bound by what the log has.

        Args:
            high: the highest certificate in it.
        """
        for record in records:
            match record:
                case Proposal(block) if block.rank > self.voted_rank:
                    self._voted, self.voted_rank, self.voted_digest = record, block.rank, block.digest()
                case GaveUp(view):
                    self.gave_up = max(self.gave_up, view)
                case _:
                    pass
        if self._voted is not None:
            self._unsaid.append((0, self._committee.vote(self.voted_rank, Phase.FIRST, self.voted_digest)))
        if self.gave_up:
            self._unsaid.append((0, self._committee.timeout(self.gave_up, high)))

    def image(self) -> list[Record]:
        """Records that restore this."""
        voted: list[Record] = [self._voted] if self._voted else []
        return [*voted, GaveUp(self.gave_up)]

    # ---- votes -------------------------------------------------------------------------------------------------

    def may_vote(self, view: int) -> bool:
        """R5."""
        return self._committee.votes and self.gave_up < view

    def is_in_order(self, proposal: Proposal) -> bool:
        """R2 and R3, as far as they are about the proposal alone. The certificate that it extends has been checked."""
        block, timeouts = proposal.block, proposal.timeouts
        if block.height != block.justify.height + 1:
            return False
        if block.justify.view == block.view:
            return timeouts is None
        if block.view == 1:
            return timeouts is None and block.justify == self._committee.origin
        return (
            timeouts is not None
            and timeouts.view == block.view - 1
            and block.justify.view < block.view
            and block.justify.rank >= timeouts.high
            and self._committee.ends(timeouts)
        )

    def is_free(self, block: Block) -> bool:
        """R1, and the end of R2: whether no vote that was given stands against one for this block."""
        opens = block.justify.view < block.view
        return self.voted_rank[0] < block.view if opens else self.voted_rank < block.rank

    def vote_first(self, block: Block, digest: bytes, timeouts: TimeoutCertificate | None, out: Ready) -> None:
        """For a block that is in order, and to which this member is free. The leader's vote is its proposal."""
        vote = self._committee.vote(block.rank, Phase.FIRST, digest)
        self._voted = Proposal(block, vote.signature, timeouts)
        self.voted_rank, self.voted_digest = block.rank, digest
        out.persist.append(self._voted)
        leads = self._committee.leader(block.view) == self._committee.me
        self._say(vote, self._voted if leads else vote, out)

    def vote_second(self, high: Certificate, view: int, out: Ready) -> None:
        """For what was certified in this view (R4: the certificate is in `persist`, of this Ready or one before)."""
        if high.phase is Phase.SECOND or high.view != view or high.rank <= self._second_rank:
            return
        self._second_rank = high.rank
        if not out.persist:
            out.persist.append(high)  # after a restart: so that `Persisted` comes
        vote = self._committee.vote(high.rank, Phase.SECOND, high.block)
        self._say(vote, vote, out)

    def give_up(self, view: int, high: Certificate, out: Ready) -> None:
        """R5."""
        self.gave_up = view
        out.persist.append(GaveUp(view))
        timeout = self._committee.timeout(view, high)
        self._say(timeout, timeout, out)

    # ---- saying ------------------------------------------------------------------------------------------------

    def _say(self, said: Vote | Timeout, message: Message, out: Ready) -> None:
        """R6: to others, and for this member's own count, once it is durable."""
        out.send_after_persist += [Send(member, message) for member in self._committee.others]
        self._unsaid.append((out.number, said))

    def said(self, durable: int) -> Iterator[Vote | Timeout]:
        """What counts now: said up to this Ready, which is durable (0: said before the start)."""
        while self._unsaid and self._unsaid[0][0] <= durable:
            said = self._unsaid.popleft()[1]
            if isinstance(said, Timeout):
                self._timeout = said
            else:
                self._votes[said.phase] = said
            yield said

    def again(self, view: int, committed: int, high: Certificate) -> list[Message]:
        """What was said in this view about blocks above this height, and may have been lost.

        Args:
            high: the highest certificate, which a timeout that is repeated carries.
        """
        again: list[Message] = []
        if self._timeout is not None and self._timeout.view == view:
            if self._timeout.high != high:
                self._timeout = self._committee.timeout(view, high)
            again.append(self._timeout)
        leads = self._committee.leader(view) == self._committee.me
        for phase, vote in self._votes.items():
            if vote.view == view and vote.height > committed:
                proposal = self._voted if leads and phase is Phase.FIRST else None
                again.append(proposal or vote)
        return again
