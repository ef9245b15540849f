"""What a Raft follower does: it takes its log from a leader (Ongaro and Ousterhout 2014, sections 5.3 and 7)."""

from typing import TYPE_CHECKING

from titan_overlay.mutable.engine import Fetch
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    InstallSnapshot,
    ReadIndexReply,
    Sleep,
)

if TYPE_CHECKING:
    from titan_overlay.mutable.raft import Raft


class Follower:
    """One member's time behind one leader, or behind whoever will be one. Learners are followers for good."""

    def __init__(self, member: "Raft", leader: bytes | None) -> None:
        self.member = member
        self.name = "follower" if member.votes_here else "learner"
        self.leader = leader
        self.heard = float("-inf")
        """When the leader was last heard of."""
        self.matched = member.commit
        """Up to here the log is known to be as the leader's: what is committed is so, whoever leads (5.4.3)."""
        self.agreed = member.commit
        """Up to here it is known to be committed, too."""

    @property
    def content(self) -> bool:
        """Hears its leader, and so does not help to unseat it (thesis, section 4.2.3)."""
        return self.leader is not None and self.member.now < self.heard + self.member.settings.election

    def hear(self) -> None:
        """The leader lives."""
        self.heard = self.member.now
        self.member.leader_lives()

    def on_append(self, leader: bytes, append: AppendEntries) -> None:
        """Entries, or a heartbeat."""
        member, log = self.member, self.member.log
        prev, entries = append.prev_index, append.entries
        if prev > member.commit and not log.holds(prev, append.prev_term):
            hint = log.last_at_most(prev, append.prev_term)
            rejected = AppendRejected(member.term, append.round, prev, hint, log.term_at(hint))
            member.send_after_persist(leader, rejected)
            return
        last = prev + len(entries)
        news = log.news(entries)
        if (news and news[0].index <= self.agreed) or any(e.index != i for i, e in enumerate(entries, prev + 1)):
            member.dropped += 1  # from no sound member: numbers that do not follow, or another order than was agreed
            return
        if news:
            log.cut(news[0].index)  # only where it differs: an append that is late must not shorten the log
            member.append(news)
        self.matched = max(self.matched, last)
        self._agree(append.commit)
        if not news:  # else once they are on disk: the leader waits for that, and nobody for what is executed here
            self._commit()
        if entries:
            member.send_after_persist(leader, AppendReply(member.term, append.round, last))
        else:
            # Says nothing new about the log, so it need not wait for it.
            member.send_in_term(leader, AppendReply(member.term, append.round, min(last, log.durable)))

    def on_persisted(self) -> None:
        """Entries are on disk, and the leader was told."""
        self._commit()

    def _agree(self, index: int) -> None:
        """The leader has committed all up to there."""
        self.agreed = max(self.agreed, min(index, self.matched))

    def _commit(self) -> None:
        """What is agreed may be executed."""
        self.member.commit_to(self.agreed)

    def on_install_snapshot(self, leader: bytes, install: InstallSnapshot) -> None:
        """The leader's log does not go back far enough: a state will have to do."""
        member = self.member
        if install.checkpoint.index > member.commit:
            member.out.fetch = Fetch(install.checkpoint, (leader,))
        member.send_in_term(leader, AppendReply(member.term, install.round, min(member.commit, member.log.durable)))

    def installed(self, index: int) -> None:
        """The state is here."""
        self.matched = self.agreed = index
        if self.leader is not None:
            self.member.send_after_persist(self.leader, AppendReply(self.member.term, 0, index))

    def on_sleep(self, sleep: Sleep) -> None:
        """No more heartbeats; unless something was missed."""
        member = self.member
        if member.log.last == self.matched == sleep.index:
            self._agree(sleep.index)
            self._commit()
            member.sleep()

    def on_read_index_reply(self, reply: ReadIndexReply) -> None:
        """The leader says what is committed, sooner than with its next append."""
        if reply.term == self.member.term:
            self._agree(reply.index)
            self._commit()
