"""Counting: votes become certificates, timeouts end views, and who votes twice is caught.

A member that follows the protocol votes in rising order of (view, height), so only its latest vote counts, and a tally
has one place for each member: no liar can fill it.
"""

from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Certificate,
    Claim,
    Equivocation,
    Phase,
    Rank,
    Signed,
    Timeout,
    TimeoutCertificate,
    Vote,
)


class Votes:
    """The latest vote of each member, of one phase."""

    __slots__ = ("_certified", "_committee", "_latest", "_phase")

    def __init__(self, committee: Committee, phase: Phase) -> None:
        self._committee = committee
        self._phase = phase
        self._latest: dict[bytes, Vote] = {}
        self._certified: Rank = (0, 0)
        """Up to here certificates have been made; signatures that come late need no check."""

    def add(self, vote: Vote) -> Certificate | Equivocation | None:
        """A vote that has arrived from its member. Its signature is checked when it matters."""
        before = self._latest.get(vote.member)
        if before is not None and before.rank >= vote.rank:
            if before.rank == vote.rank and before.block != vote.block:
                return self._compare(before, vote)
            return None
        self._latest[vote.member] = vote
        return None if vote.rank <= self._certified else self._count(vote)

    def latest(self, member: bytes) -> Vote | None:
        """Of this member, as it claims."""
        return self._latest.get(member)

    def _count(self, vote: Vote) -> Certificate | None:
        quorum = self._committee.quorum
        alike = [each for each in self._latest.values() if each.block == vote.block and each.rank == vote.rank]
        if len(alike) < quorum:
            return None
        proven: list[Signed] = []
        for each in alike:
            if self._committee.is_vote(each):
                proven.append(Signed(each.member, each.signature))
            else:
                del self._latest[each.member]
            if len(proven) == quorum:
                self._certified = vote.rank
                return Certificate(*vote.rank, self._phase, vote.block, tuple(proven))
        return None

    def _compare(self, before: Vote, vote: Vote) -> Equivocation | None:
        if not self._committee.is_vote(before):
            self._latest[vote.member] = vote  # the other one stood in the way of this
            return None
        return Equivocation(self._committee.epoch, before, vote) if self._committee.is_vote(vote) else None


class Timeouts:
    """The latest timeout of each member. Only those that have been checked come here."""

    __slots__ = ("_committee", "_latest")

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._latest: dict[bytes, Timeout] = {}

    def add(self, timeout: Timeout) -> None:
        """A timeout from its member."""
        before = self._latest.get(timeout.member)
        if before is None or (before.view, before.high.rank) < (timeout.view, timeout.high.rank):
            self._latest[timeout.member] = timeout

    def certificate(self, view: int) -> TimeoutCertificate | None:
        """That this view has ended, if Q members have given it up."""
        quorum = self._committee.quorum
        given_up = [each for each in self._latest.values() if each.view == view][:quorum]
        if len(given_up) < quorum:
            return None
        claims = (Claim(*each.high.rank, each.high.block, each.member, each.signature) for each in given_up)
        return TimeoutCertificate(view, tuple(claims))

    def joined(self) -> int:
        """The highest view that t + 1 members, one of them honest, have reached and given up; 0: none."""
        views = sorted((each.view for each in self._latest.values()), reverse=True)
        return views[self._committee.faults] if len(views) > self._committee.faults else 0
