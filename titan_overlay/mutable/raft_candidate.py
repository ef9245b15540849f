"""One attempt to become leader (Ongaro and Ousterhout 2014, section 5.2; Ongaro's thesis, section 9.6)."""

from typing import TYPE_CHECKING

from titan_overlay.mutable.raft_messages import PreVote, PreVoteReply, RequestVote

if TYPE_CHECKING:
    from titan_overlay.mutable.raft import Raft


class Candidate:
    """First the others are asked whether they would vote; a term is begun only where an election can be won."""

    name = "candidate"
    leader = None

    def __init__(self, member: "Raft") -> None:
        self.member = member
        self.standing = False
        """The term was begun."""
        self._votes = {member.me}
        self._ballot = 0
        """Number of the Ready that writes the vote for itself."""

    @property
    def won(self) -> bool:
        """Whether a quorum voted."""
        return self.standing and len(self._votes) >= self.member.quorum

    def ask(self) -> None:
        """Would you?"""
        member = self.member
        for peer in member.other_voters:
            member.send_now(peer, PreVote(member.term + 1, member.log.last, member.log.last_term))
        if member.quorum == 1:
            self.stand()

    def stand(self) -> None:
        """Begins a term, and votes for itself; the vote counts when it is on disk."""
        member = self.member
        self.standing = True
        self._votes = set()
        self._ballot = member.out.number
        member.begin_term(member.term + 1, member.me)
        for peer in member.other_voters:
            member.send_after_persist(peer, RequestVote(member.term, member.log.last, member.log.last_term))

    def on_pre_vote_reply(self, voter: bytes, reply: PreVoteReply) -> None:
        """One who would vote, or would not."""
        if reply.granted and not self.standing and reply.term == self.member.term + 1:
            self._votes.add(voter)
            if len(self._votes) >= self.member.quorum:
                self.member.await_leader()
                self.stand()

    def on_vote(self, voter: bytes) -> None:
        """One who voted."""
        if self.standing:
            self._votes.add(voter)

    def on_persisted(self, number: int) -> None:
        """The disk has done that much."""
        if self.standing and number >= self._ballot:
            self._votes.add(self.member.me)
