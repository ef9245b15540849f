r"""A vote, without I/O: who is to be asked, which answers count, and when a majority stands.

As many candidates as the policy has votes are asked at once; for one that fails, or is late, another. If all of them
agree, that is the answer. If two answers differ, the vote is *disputed*, and as many again are asked: the majority
is then one of the whole electorate, of twice as many voters, or of all candidates where they are fewer.

    v asked -- all agree ----------------------------------------------------> elected
            \- two differ --> 2 v asked -- more than half of them agree ---> elected
                                        \- no answer has so many --------------> none

Colluding liars so have to be all of those asked first, or more than half of those asked at last; for a share of liars
below one half either is less likely than more than half of the first. A tie is no answer, so that where half of the
candidates lie the asker more often learns that there is none.

What counts as agreement with an answer is equality to it. For a comparison that is not transitive (`close`) this says
exactly what a majority is: one value with which most agree, though they need not agree with each other. Where there are
several, the one with the most agreement wins, of those the one that came first.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from titan_overlay.pool.finding.comparing import Comparison, Form

C = TypeVar("C")


def majority(voters: int) -> int:
    """How many of so many have to agree."""
    return voters // 2 + 1


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
        votes: asked at first; as many have to answer as have a majority among them.
        candidates: whom to ask, in this order, each at most once.
    """

    def __init__(self, votes: int, candidates: Iterable[C], comparison: Comparison) -> None:
        self.votes = votes
        self.ballots: list[Ballot[C]] = []
        self._comparison = comparison
        self._asked: set[C] = set()
        self._waiting = deque(dict.fromkeys(candidates))
        self._awaited: set[C] = set()
        """Asked, and have neither answered nor failed nor kept us waiting."""
        self._late: set[C] = set()

    def start(self) -> list[C]:
        """Whom to ask first."""
        return self._fill()

    def answered(self, voter: C, form: Form) -> list[C]:
        """Its answer came: whom to ask as well."""
        if voter not in self._awaited and voter not in self._late:
            return []
        self._awaited.discard(voter)
        self._late.discard(voter)
        ballot = Ballot(voter, form)
        for other in self.ballots:
            if self._comparison.same(ballot.form, other.form):
                other.agreed += 1
                ballot.agreed += 1
        self.ballots.append(ballot)
        return self._fill()

    def failed(self, voter: C) -> list[C]:
        """It will not answer: whom to ask in its place."""
        self._awaited.discard(voter)
        self._late.discard(voter)
        return self._fill()

    def late(self, voter: C) -> list[C]:
        """It keeps us waiting: whom to ask as well. It may still answer."""
        if voter in self._awaited:
            self._awaited.remove(voter)
            self._late.add(voter)
        return self._fill()

    def more(self, candidates: Iterable[C]) -> list[C]:
        """Candidates that were not known before: whom of them to ask."""
        self._waiting.extend(each for each in dict.fromkeys(candidates) if each not in self._asked)
        return self._fill()

    def _fill(self) -> list[C]:
        """As many as are missing, while there are any."""
        if self.elected is not None:
            return []
        missing = max(0, self.electorate - len(self.ballots) - len(self._awaited))
        chosen = [self._waiting.popleft() for _ in range(min(missing, len(self._waiting)))]
        self._awaited.update(chosen)
        self._asked.update(chosen)
        return chosen

    @property
    def asked(self) -> int:
        """Candidates that were."""
        return len(self._asked)

    @property
    def disputed(self) -> bool:
        """Whether no answer is equal to all others."""
        return self.leading < len(self.ballots)

    @property
    def electorate(self) -> int:
        """How many are to answer. Those that are silent are among them: that helps no liar."""
        return self._widest if self.disputed else self.votes

    @property
    def _widest(self) -> int:
        known = len(self._asked) + len(self._waiting)
        return max(self.votes, min(2 * self.votes, known), len(self.ballots))

    @property
    def needed(self) -> int:
        """How many have to agree, at least."""
        return majority(self.electorate)

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
        """The answer, once whatever else may come in time cannot change it."""
        leader = self.leader
        if leader is None or leader.agreed < self.needed:
            return None
        settled = leader.agreed >= min(self.votes, majority(self._widest))
        return leader if settled or not self._awaited else None

    @property
    def hopeless(self) -> bool:
        """Whether no answer can get a majority any more, whatever the rest of the electorate answers."""
        if not self.disputed:
            return False
        left = self.electorate - len(self.ballots)
        most = self.leading
        if left and not self._comparison.transitive:
            most = len(self.ballots)  # one that lies between the others may agree with all of them
        return most + left < self.needed
