"""Engines that leave one of the rules out (R1 to R6 in `titan_overlay/mutable/bft_safety.py`). The tests must notice
each."""

from titan_overlay.mutable.bft import Bft
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import Block, Certificate, GaveUp, Message, Proposal, Record, Timeout, Vote
from titan_overlay.mutable.bft_safety import Safety
from titan_overlay.mutable.engine import Event, Ready


class CountsTVotes(Bft):
    """Takes t votes for a quorum, where 2t + 1 are."""

    def __init__(self, committee: Committee, *rest: object) -> None:
        committee.quorum = committee.faults
        super().__init__(committee, *rest)  # type: ignore[arg-type]


class Unsafe(Bft):
    """Has other rules than it should."""

    rules: type[Safety]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._safety.__class__ = self.rules


class VotesTwice(Unsafe):
    """R1: votes for a second block of a rank."""

    class rules(Safety):  # noqa: N801
        def is_free(self, block: Block) -> bool:
            return self.voted_rank <= block.rank


class OpensTwice(Unsafe):
    """R2: votes for a second block that opens the same view, if only its rank is higher."""

    class rules(Safety):  # noqa: N801
        def is_free(self, block: Block) -> bool:
            return self.voted_rank < block.rank


class AcceptsLowExtension(Unsafe):
    """R2: votes for a block that extends a certificate below those claimed in its timeouts."""

    class rules(Safety):  # noqa: N801
        def is_in_order(self, proposal: Proposal) -> bool:
            block, timeouts = proposal.block, proposal.timeouts
            if timeouts is None:
                return super().is_in_order(proposal)
            return block.height == block.justify.height + 1 and self._committee.ends(timeouts)


class NeedsNoTimeouts(Unsafe):
    """R2, R3: votes for a block of a new view that shows no reason for a new view."""

    class rules(Safety):  # noqa: N801
        def is_in_order(self, proposal: Proposal) -> bool:
            return proposal.block.height == proposal.block.justify.height + 1


class ForgetsCertificates(Bft):
    """R4: gives the second vote without the certificate on disk."""

    def step(self, event: Event, now: float) -> Ready:
        ready = super().step(event, now)
        ready.persist = [GaveUp(0) if isinstance(record, Certificate) else record for record in ready.persist]
        return ready


class VotesAfterTimeout(Unsafe):
    """R5: votes in a view that it has given up."""

    class rules(Safety):  # noqa: N801
        def may_vote(self, view: int) -> bool:
            return self._committee.votes


class ForgetsTimeouts(Bft):
    """R5: after a restart it does not know which views it has given up."""

    def _restore(self, records: tuple[Record, ...]) -> None:
        super()._restore(tuple(record for record in records if not isinstance(record, GaveUp)))


class SpeaksTooSoon(Unsafe):
    """R6: votes before the disk has what it voted for."""

    class rules(Safety):  # noqa: N801
        def _say(self, said: Vote | Timeout, message: Message, out: Ready) -> None:
            super()._say(said, message, out)
            out.send_now += out.send_after_persist
            out.send_after_persist = []
