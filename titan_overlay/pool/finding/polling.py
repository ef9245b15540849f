r"""A vote, without I/O: who is to be asked, which answers count, and when a majority stands.

As many candidates as the policy has votes are asked at once; for one that fails, or is late, another. If all of them
agree, that is the answer. If two answers differ, the vote is *disputed*, and as many again are asked. More than half of
all who were asked have to agree, in either case: who failed or is late is counted as well, so that nobody gains by
keeping others from answering.

    v asked -- v agree ------------------------------------------------------> elected
            \- two differ --> 2 v asked -- more than half of them agree ---> elected
                                        \- no answer has so many --------------> none

Colluding liars so have to be all of those asked first, or more than half of those asked at last; for a share of liars
below one half either is less likely than more than half of the first. A tie is no answer, so that where half of the
candidates lie the asker more often learns that there is none.

Who is known at first is a directory's choice, and one may lie. So fewer than 2 v candidates decide a dispute, or what
fewer than v have answered, only once others have been looked for.

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
        votes: how many are asked at first.
        candidates: whom to ask, in this order, each at most once.
        are_all: there are no others, as far as can be found out.
    """

    def __init__(self, votes: int, candidates: Iterable[C], comparison: Comparison, *, are_all: bool = False) -> None:
        self.votes = votes
        self.ballots: list[Ballot[C]] = []
        self.disputed = False
        """Two answers differ. It stays so, though a third may be close to both."""
        self._comparison = comparison
        self._asked: set[C] = set()
        self._waiting = deque(dict.fromkeys(candidates))
        self._known = len(self._waiting)
        """Candidates, asked or not."""
        self._awaited: set[C] = set()
        """Asked, and have neither answered nor failed nor kept us waiting."""
        self._late: set[C] = set()
        self._looked = are_all
        """Others were looked for."""
        self._are_all = are_all
        """And there are no more candidates than are known."""

    # ---- what happens: whom to ask ----------------------------------------------------------------------------

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
        self.disputed = self.disputed or self.leading < len(self.ballots)
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

    def more(self, candidates: Iterable[C] | None) -> list[C]:
        """Others were looked for, and these found, or nobody knows (None): whom of them to ask."""
        self._looked = True
        self._are_all = candidates is not None
        known = self._asked.union(self._waiting)
        new = [each for each in dict.fromkeys(candidates or ()) if each not in known]
        self._waiting.extend(new)
        self._known += len(new)
        return self._fill()

    def close(self) -> None:
        """The time is over: who has not answered is late, and nobody else is asked."""
        self._late |= self._awaited
        self._awaited.clear()
        self._waiting.clear()
        self._looked = True

    def _fill(self) -> list[C]:
        """As many as are missing, while there are any. Who is late is replaced, but not for ever."""
        wanted = 2 * self.votes if self.disputed else max(self.votes, self.needed)
        missing = min(wanted - len(self.ballots) - len(self._awaited), self._room)
        chosen = [] if self.elected else [self._waiting.popleft() for _ in range(min(missing, len(self._waiting)))]
        self._awaited.update(chosen)
        self._asked.update(chosen)
        return chosen

    @property
    def _room(self) -> int:
        """As many may still be asked, beside those for who has failed."""
        return 2 * self.votes - len(self.ballots) - len(self._awaited) - len(self._late)

    # ---- how it stands -----------------------------------------------------------------------------------------

    @property
    def asked(self) -> int:
        """Candidates that were."""
        return len(self._asked)

    @property
    def is_short(self) -> bool:
        """Whether others should be looked for, before anything else."""
        if self._looked or self._waiting or self.elected is not None:
            return False
        return not self._may_decide if self.disputed else not self._awaited and self._room > 0

    @property
    def _may_decide(self) -> bool:
        """Whether those that are known may decide, though they differ, or fewer answer than there are votes."""
        return self._are_all or self._known >= 2 * self.votes

    @property
    def electorate(self) -> int:
        """How many are to answer: all who were asked, and in a dispute those who will be."""
        return max(self.votes, self.asked, min(2 * self.votes, self._known) if self.disputed else 0)

    @property
    def needed(self) -> int:
        """How many of them have to agree."""
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
        """The answer, once it has a majority of whoever may have to do with it."""
        leader = self.leader
        if leader is None or leader.agreed < self.needed:
            return None
        if not self.disputed and leader.agreed >= self.votes:
            return leader
        others = self._awaited or (self._waiting and self._room > 0)
        return leader if self._may_decide and (self.disputed or not others) else None

    @property
    def hopeless(self) -> bool:
        """Whether no answer can get a majority any more."""
        if not self.disputed:
            return False
        if not self._may_decide:
            return self._looked
        left = len(self._awaited) + len(self._late) + min(len(self._waiting), max(0, self._room))
        most = self.leading
        if left and not self._comparison.transitive:
            most = len(self.ballots)  # one that lies between the others may agree with all of them
        return most + left < self.needed
