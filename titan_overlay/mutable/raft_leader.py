"""What a Raft leader does while it leads: replicates, counts, answers reads, hands over, and falls asleep.

Ongaro and Ousterhout 2014, sections 5.3 and 5.4.2; Ongaro's thesis, sections 3.10 (transfer), 6.2 (a leader without a
quorum steps down), 6.4 (reads without an entry) and 10.2 (pipelining; the leader's disk works in parallel).

It is thrifty, as Moraru, Andersen and Kaminsky call it ("There Is More Consensus in Egalitarian Parliaments", SOSP
2013): an entry goes at once to those who brought about the last commit, and a little later, with what has come
meanwhile, to the others. They have less to do, and where one of the first does not answer, they take its place. With
each heartbeat all are told at once again, and who answers first may be another.
"""

from math import inf
from typing import TYPE_CHECKING

from titan_overlay.mutable.engine import Accepted, Entry, EntryKind, Proposed, ReadReady, Refused
from titan_overlay.mutable.raft_messages import (
    AppendEntries,
    AppendRejected,
    AppendReply,
    InstallSnapshot,
    ReadIndexReply,
    Sleep,
    TimeoutNow,
)
from titan_overlay.mutable.raft_progress import Pace, Progress

if TYPE_CHECKING:
    from titan_overlay.mutable.raft import Raft

Reader = tuple[bytes, int, int]
"""Who asked at which index it may read, the nonce of its run, and its number for the question."""


class Leader:
    """One member's time as leader of one term."""

    name = "leader"

    def __init__(self, member: "Raft") -> None:
        self.member = member
        self.leader = member.me
        self.log = member.log
        self.progress: dict[bytes, Progress] = {}
        self.learners_changed()
        self._round = 0
        """Number of the latest question "do you still follow me?", which every append carries."""
        self._waiting: list[Reader] = []
        self._asked: list[Reader] = []
        self._read_index = 0
        self._transfer: tuple[bytes, float] | None = None
        """Who is to lead next, and until when that is tried."""
        self._active = member.now
        self._swift: frozenset[bytes] | None = None
        """Who brought about the last commit, beside this member. None: that is to be seen, and all are told at once."""
        self._spread = self.log.last
        """Up to here the others are to have the log, too."""
        self._spread_at = inf
        self._heartbeat_at = inf

    def begin(self) -> None:
        """An entry of its own tells the others, and lets it commit what is before it (section 5.4.2)."""
        member = self.member
        member.append([Entry(self.log.last + 1, member.term, EntryKind.NOOP, b"")])
        self._spread_all()
        self._beat_again()

    def learners_changed(self) -> None:
        """Others may be listening from now on."""
        member, known = self.member, self.progress
        self.progress = {peer: known.get(peer) or Progress(self.log.last + 1, member.now) for peer in member.peers}

    def end(self, leader: bytes | None) -> None:
        """Somebody else leads: whoever waits here is told."""
        for reader, _, ref in self._asked + self._waiting:
            if reader == self.member.me:
                self.member.out.refused.append(Refused(ref, leader))

    # ---- proposals and appends (section 5.3) -------------------------------------------------------------------

    def propose(self, proposed: Proposed) -> None:
        """Takes a batch into the log, or refuses it: too much is under way, or the epoch or the leadership ends."""
        member, log = self.member, self.log
        full = log.last - member.commit >= member.settings.uncommitted_max
        if full or log.stop is not None or self._transfer is not None:
            member.out.refused.append(Refused(proposed.ref, member.me))
            return
        member.wake()
        self._active = member.now
        index = log.last + 1
        member.append([Entry(index, member.term, proposed.kind, proposed.data)])
        member.out.accepted.append(Accepted(proposed.ref, index, member.term))
        if proposed.kind is EntryKind.RECONFIG:
            self._spread = log.last  # all have a part in what follows, and no member has to wait for it
        elif self._spread_at == inf and self.progress:
            self._spread_at = member.now + member.settings.spread_after
            self._set_timer()
        self._replicate_all()

    def _spread_all(self) -> None:
        """Everybody is to have everything now."""
        self._spread, self._spread_at = self.log.last, inf
        self._replicate_all()

    def _replicate_all(self) -> None:
        # Those who are equally far get the very same message, which its shell need encode but once.
        built: dict[int, AppendEntries] = {}
        for peer, progress in self.progress.items():
            self._replicate(peer, progress, built)

    def _replicate(self, peer: bytes, progress: Progress, built: dict[int, AppendEntries]) -> None:
        """Sends what fits into the window."""
        member, log, settings = self.member, self.log, self.member.settings
        last = log.last if self._swift is None or peer in self._swift else self._spread
        while progress.next <= last and progress.room(settings.appends_in_flight_max, settings.bytes_in_flight_max):
            first = progress.next
            if first <= log.base:
                self._greet(peer, progress)
                return
            append = built.get(first)
            if append is None:
                entries = log.batch(first, settings.append_bytes_max)
                append = AppendEntries(
                    member.term, self._round, first - 1, log.term_at(first - 1), member.commit, entries
                )
                built[first] = append
            member.send_now(peer, append)
            progress.sent(append.entries)

    def _greet(self, peer: bytes, progress: Progress) -> None:
        """A heartbeat: an append without entries, behind what was sent so far, so that losses show."""
        member, log = self.member, self.log
        prev = progress.next - 1
        if prev < log.base:
            progress.offer_snapshot()
            member.send_now(peer, InstallSnapshot(member.term, self._round, member.snapshot))
        else:
            append = AppendEntries(member.term, self._round, prev, log.term_at(prev), min(member.commit, prev), [])
            member.send_now(peer, append)

    def on_append_reply(self, peer: bytes, reply: AppendReply) -> None:
        """The peer's log fits, and is durable, up to `match`."""
        member = self.member
        if reply.match > self.log.last or reply.round > self._round:
            member.dropped += 1
            return
        progress = self.progress[peer]
        progress.heard = member.now
        progress.matches(reply.match, self.log.base + 1)
        member.acknowledged(peer, reply.match)
        self.advance_commit()
        self._answered(progress, reply.round)
        self._replicate(peer, progress, {})
        self._hand_over()

    def on_append_rejected(self, peer: bytes, reply: AppendRejected) -> None:
        """The logs part below `prev_index`."""
        if reply.round > self._round:
            self.member.dropped += 1
            return
        progress = self.progress[peer]
        progress.heard = self.member.now
        if progress.rejection_is_news(reply.prev_index):
            hint = min(reply.hint_index, reply.prev_index - 1)
            # Below the base no entry is known; to ask for what follows it leads to a snapshot.
            fits = self.log.last_at_most(hint, reply.hint_term) if hint > self.log.base else hint
            progress.probe(fits + 1)
            self._replicate(peer, progress, {})
        self._answered(progress, reply.round)

    def advance_commit(self) -> None:
        """An entry of this term at a quorum is committed, and all before it (section 5.4.2, figure 8)."""
        member, progress = self.member, self.progress
        matches = [
            self.log.durable if each == member.me else progress[each].match for each in member.configuration.members
        ]
        matches.sort()
        index = matches[-member.quorum]
        if index > member.commit and self.log.term_at(index) == member.term:
            self._swift = frozenset(peer for peer in member.other_voters if progress[peer].match >= index)
            member.commit_to(index)
            self._ask_round()

    # ---- time --------------------------------------------------------------------------------------------------

    def timer_due(self) -> None:
        """Whichever it was."""
        if self.member.now >= self._spread_at:
            self._spread_all()
        if self.member.now >= self._heartbeat_at:
            self.heartbeat()
        else:
            self._set_timer()

    def _beat_again(self) -> None:
        self._heartbeat_at = self.member.now + self.member.settings.heartbeat
        self._set_timer()

    def _set_timer(self) -> None:
        self.member.set_timer(min(self._spread_at, self._heartbeat_at) - self.member.now)

    def heartbeat(self) -> None:
        """Once in `settings.heartbeat`: still a quorum there? Anything left to say?"""
        member = self.member
        recent = member.now - member.settings.election
        present = [peer for peer, progress in self.progress.items() if progress.heard >= recent]
        if sum(peer in member.configuration.members for peer in present) + 1 < member.quorum:
            member.follow(member.term, None)  # somebody else may lead by now
            return
        if self._transfer is not None and member.now >= self._transfer[1]:
            self._transfer = None
        if self._nothing_left(present):
            for peer in self.progress:
                member.send_now(peer, Sleep(member.term, self.log.last))
            member.sleep()
            return
        for peer, progress in self.progress.items():
            self._greet(peer, progress)
        self._swift = None  # another may have become quicker, or has not been asked for a while
        self._beat_again()

    def _nothing_left(self, present: list[bytes]) -> bool:
        """Whether all who are there agree on everything, and nobody asked for anything for a while."""
        last = self.log.last
        return (
            self.member.now >= self._active + self.member.settings.sleep_after
            and self.member.commit == self.log.durable == last
            and not (self._asked or self._waiting or self._transfer)
            and all(self.progress[peer].match == last for peer in present)
        )

    def awake(self) -> None:
        """There is news: whether the others are still there is to be seen."""
        self._active = self.member.now
        for progress in self.progress.values():
            progress.heard = self.member.now
        self.heartbeat()

    # ---- reads (thesis, section 6.4) ---------------------------------------------------------------------------

    def read(self, reader: Reader) -> None:
        """A read may be executed at what is committed now, once a quorum has said that this is still the leader."""
        member = self.member
        if len(self._waiting) >= member.settings.reads_max or member.stopped:
            if reader[0] == member.me:
                member.out.refused.append(Refused(reader[2], member.me))
            return
        member.wake()
        self._active = member.now
        self._waiting.append(reader)
        if reader[0] != member.me:
            self._spread_all()  # it executes the read itself, as soon as it has what is committed by now
        self._ask_round()

    def _ask_round(self) -> None:
        """One question to all serves the reads that wait; those who come meanwhile wait for the next."""
        member = self.member
        if not self._waiting or self._asked or self.log.term_at(member.commit) != member.term:
            return  # a new leader knows what is committed only once an entry of its own is
        self._asked, self._waiting = self._waiting, []
        self._read_index = member.commit
        self._round += 1
        for peer in member.other_voters:
            self._greet(peer, self.progress[peer])
        self._count_round()

    def _answered(self, progress: Progress, round_: int) -> None:
        if round_ > progress.round:
            progress.round = round_
            self._count_round()

    def _count_round(self) -> None:
        member = self.member
        if not self._asked:
            return
        agree = 1 + sum(self.progress[peer].round >= self._round for peer in member.other_voters)
        if agree < member.quorum:
            return
        for reader, nonce, ref in self._asked:
            if reader == member.me:
                member.out.reads.append(ReadReady(ref, self._read_index))
            else:
                member.send_now(reader, ReadIndexReply(member.term, nonce, ref, self._read_index))
        self._asked = []
        self._ask_round()

    # ---- leadership transfer (thesis, section 3.10) ------------------------------------------------------------

    def transfer(self, to: bytes | None) -> None:
        """Hands over to a voter that keeps up, or to the one that is furthest; until it has stood, proposals are
        refused.
        """
        member, others = self.member, self.member.other_voters
        if not others:
            return
        chosen = to if to is not None else max(others, key=lambda peer: self.progress[peer].match)
        if chosen in others and (to is None or self.progress[chosen].pace is Pace.REPLICATE):
            member.wake()
            self._transfer = (chosen, member.now + member.settings.election)
            self._spread_all()
            self._hand_over()

    def _hand_over(self) -> None:
        if self._transfer is not None and self.progress[self._transfer[0]].match == self.log.last:
            self.member.send_now(self._transfer[0], TimeoutNow(self.member.term))
