"""A vote, without I/O: who is to be asked, which answers count, and when a majority stands.

As many candidates as the policy has votes are asked at once; each has a *seat*. A seat whose candidate failed, or is
late, is offered to the next candidate as well; the first answer that comes for a seat is its vote, later ones are not
counted. So there are never more votes than seats, and the majority is always measured against the seats:
m = votes // 2 + 1.

An answer is *elected* when m votes, its own among them, are equal to it. For a comparison that is not transitive
(`close`) this says exactly what a majority is: one value with which m agree, though they need not agree with each
other. Where there are several, the one with the most agreement wins, of those the one that came first.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from titan_overlay.pool.finding.comparing import Comparison, Form

C = TypeVar("C")


def majority(votes: int) -> int:
    """How many of so many seats have to agree."""
    return votes // 2 + 1


class Ballot(Generic[C]):
    """One vote that counts."""

    __slots__ = ("agreed", "form", "voter")

    def __init__(self, voter: C, form: Form) -> None:
        self.voter = voter
        self.form = form
        self.agreed = 1
        """Votes that are equal to this one, itself included."""


class Poll(Generic[C]):
    """One vote under way.

    Args:
        votes: seats.
        candidates: whom to ask, in this order, each at most once.
    """

    def __init__(self, votes: int, candidates: Iterable[C], comparison: Comparison) -> None:
        self.votes = votes
        self.majority = majority(votes)
        self.asked = 0
        self.ballots: list[Ballot[C]] = []
        self._waiting = deque(dict.fromkeys(candidates))
        self._comparison = comparison
        self._seats: dict[C, int] = {}
        """Candidates that have been asked and have neither answered nor failed."""
        self._filled: set[int] = set()
        self._late: set[C] = set()

    def start(self) -> list[C]:
        """Whom to ask first."""
        return [each for seat in range(self.votes) for each in self._offer(seat)]

    def answered(self, voter: C, form: Form) -> bool:
        """Its answer came. Whether it counts: not where another has answered for the same seat."""
        seat = self._seats.pop(voter, None)
        if seat is None or seat in self._filled:
            return False
        self._filled.add(seat)
        ballot = Ballot(voter, form)
        for other in self.ballots:
            if self._comparison.same(ballot.form, other.form):
                other.agreed += 1
                ballot.agreed += 1
        self.ballots.append(ballot)
        return True

    def failed(self, voter: C) -> list[C]:
        """It will not answer: whom to ask in its place."""
        seat = self._seats.pop(voter, None)
        if seat is None or seat in self._filled or voter in self._late:
            return []  # late: somebody else was asked already
        return self._offer(seat)

    def late(self, voter: C) -> list[C]:
        """It keeps us waiting: whom to ask as well."""
        seat = self._seats.get(voter)
        if seat is None or seat in self._filled or voter in self._late:
            return []
        self._late.add(voter)
        return self._offer(seat)

    def more(self, candidates: Iterable[C]) -> list[C]:
        """New ones, none of them known before: whom to ask for seats that nobody is to answer for any more."""
        self._waiting.extend(candidates)
        vacant = set(range(self.votes)) - self._filled - set(self._seats.values())
        return [each for seat in sorted(vacant) for each in self._offer(seat)]

    def _offer(self, seat: int) -> list[C]:
        if not self._waiting:
            return []
        candidate = self._waiting.popleft()
        self._seats[candidate] = seat
        self.asked += 1
        return [candidate]

    @property
    def leader(self) -> Ballot[C] | None:
        """The vote with which most agree, the earliest of those."""
        return max(self.ballots, key=lambda each: each.agreed, default=None)

    @property
    def leading(self) -> int:
        """How many agree with the leader."""
        leader = self.leader
        return 0 if leader is None else leader.agreed

    @property
    def elected(self) -> Ballot[C] | None:
        """The answer, once it has a majority."""
        leader = self.leader
        return leader if leader is not None and leader.agreed >= self.majority else None

    @property
    def hopeless(self) -> bool:
        """Whether no answer can get a majority any more, whatever is answered for the seats that are left."""
        unfilled = self.votes - len(self._filled)
        most = self.leading
        if unfilled and not self._comparison.transitive:
            most = len(self.ballots)  # one that lies between the others may agree with all of them
        return most + unfilled < self.majority

    def dissenters(self, elected: Ballot[C]) -> list[C]:
        """Who voted otherwise than the elected answer."""
        return [each.voter for each in self.ballots if not self._comparison.same(each.form, elected.form)]
