"""Attacks on a group of four, move by move: in each, two honest members commit different blocks if the engine leaves
one rule out (`bft_mutants.py`), and an honest engine does not.

Member v mod 4 leads view v. Every scene takes the engine to try, and raises AssertionError where two orders part.
"""

from collections.abc import Sequence

from tests.unit import bft_mutants as mutants
from tests.unit.bft_cluster import Cluster, Member, name
from titan_overlay.mutable.bft import Bft
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    ChainRequest,
    Claim,
    Command,
    Phase,
    Proposal,
    Signed,
    Timeout,
    TimeoutCertificate,
    Vote,
    decode_message,
)
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import EntryKind, PeerSilent, Proposed, Send


class Scene(Cluster):
    """Four members, of which some lie as the scene tells them to."""

    def __init__(self, engine: type[Bft] = Bft, liars: Sequence[int] = (), n: int = 4) -> None:
        super().__init__(n, liars, settings=BftSettings(), engine=engine)
        self.signing = {number: self.committee(name(number)) for number in liars}

    def member(self, number: int) -> Member:
        return self.honest[name(number)]

    def propose(self, leader: int, data: bytes) -> None:
        self.refs += 1
        self.member(leader).step(Proposed(data, self.refs))

    def give_up(self, *numbers: int) -> None:
        """Their leader seems dead to these members."""
        for number in numbers:
            engine = self.member(number).engine
            self.member(number).step(PeerSilent(engine.committee.leader(engine.view)))
        self.flush()

    def lie(self, liar: int, message: object, *to: int) -> None:
        self.post(name(liar), [Send(name(number), message) for number in to])

    def block(self, view: int, justify: Certificate, data: bytes, first: int = 1) -> Block:
        return Block(view, justify.height + 1, first, justify, (Command(EntryKind.COMMANDS, data),))

    def proposal(self, liar: int, block: Block, timeouts: TimeoutCertificate | None = None) -> Proposal:
        vote = self.signing[liar].vote(block.rank, Phase.FIRST, block.digest())
        return Proposal(block, vote.signature, timeouts)

    def vote(self, liar: int, block: Block, *to: int) -> None:
        """Both votes for a block."""
        for phase in Phase:
            self.lie(liar, self.signing[liar].vote(block.rank, phase, block.digest()), *to)

    def certificate(self, block: Block, phase: Phase = Phase.FIRST) -> Certificate:
        """Of the votes that were seen."""
        digest, found = block.digest(), {}
        for raw in self.seen:
            match decode_message(raw):
                case Vote() as vote if (vote.phase, vote.block) == (phase, digest):
                    found[vote.member] = vote.signature
                case Proposal(proposed, signature) if phase is Phase.FIRST and proposed == block:
                    found[self.configuration.members[block.view % 4]] = signature
                case _:
                    pass
        return Certificate(*block.rank, phase, digest, tuple(Signed(*each) for each in sorted(found.items())[:3]))

    def timeouts(self, view: int, *also: Timeout) -> TimeoutCertificate:
        """Of the timeouts that were seen, with these in the place of their members'."""
        found = {}
        for raw in self.seen:
            message = decode_message(raw)
            if isinstance(message, Timeout) and message.view == view:
                found[message.member] = message
        found |= {timeout.member: timeout for timeout in also}
        chosen = [timeout for timeout in found.values() if timeout not in also][: 3 - len(also)] + list(also)
        return TimeoutCertificate(
            view, tuple(Claim(*each.high.rank, each.high.block, each.member, each.signature) for each in chosen)
        )

    def proposed(self, view: int) -> Block | None:
        """The block that the leader of a view has proposed last."""
        found = [decode_message(raw) for raw in self.seen]
        return next(
            (each.block for each in found[::-1] if isinstance(each, Proposal) and each.block.view == view), None
        )

    def end(self) -> None:
        """Everything that is under way arrives."""
        self.settle()


def the(block: Block | None) -> Block:
    assert block is not None, "the leader has proposed"
    return block


def a_leader_equivocates(engine: type[Bft]) -> None:
    """The leader of view 1 lies: one block is committed at member 0, another certified for member 3, who leads view 3
    and goes on from that. (R1)"""
    scene = Scene(engine, liars=[1])
    origin = scene.signing[1].origin
    one, other = scene.block(1, origin, b"one"), scene.block(1, origin, b"other")
    scene.lie(1, scene.proposal(1, one), 0, 2)
    scene.let(Proposal)
    scene.lie(1, scene.proposal(1, other), 0, 2, 3)
    scene.let(Proposal)
    scene.vote(1, one, 0, 2)
    scene.vote(1, other, 3)
    scene.let(Vote, phase=Phase.FIRST, block=one.digest(), to=0)
    scene.let(Vote, phase=Phase.FIRST, block=one.digest(), to=2)
    scene.let(Vote, phase=Phase.SECOND, block=one.digest(), to=0)
    scene.let(Vote, phase=Phase.FIRST, block=other.digest(), to=3)
    assert [entry.data for entry in scene.member(0).order] == [b"one"]
    for view in (1, 2):
        scene.give_up(2, 3)
        scene.lie(1, scene.signing[1].timeout(view, origin), 2, 3)
        scene.let(Timeout, view=view)
        scene.let(Timeout, view=view)
    scene.propose(3, b"more")
    scene.flush()
    scene.let(Proposal, sender=3)
    block = scene.proposed(3)
    if block is not None:
        scene.vote(1, block, 2, 3)
    scene.end()


def a_lone_vote_is_counted(engine: type[Bft]) -> None:
    """The leader of view 1 tells everybody something else, and votes for each. (Q votes)"""
    scene = Scene(engine, liars=[1])
    for number in (0, 2, 3):
        block = scene.block(1, scene.signing[1].origin, b"for %d" % number)
        scene.lie(1, scene.proposal(1, block), number)
        scene.vote(1, block, number)
    scene.end()


def a_new_leader_ignores_the_lock(engine: type[Bft], *, timeouts: bool = True) -> None:
    """A block is committed at member 1. The leader of view 2 lies, and begins at the origin again. (R2, R3)"""
    scene = Scene(engine, liars=[2])
    origin = scene.signing[2].origin
    scene.propose(1, b"first")
    scene.let(Proposal, to=0)
    first = the(scene.proposed(1))
    scene.vote(2, first, 0, 1)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    scene.let(Vote, phase=Phase.FIRST, to=1)
    scene.let(Vote, phase=Phase.SECOND, to=1)
    assert [entry.data for entry in scene.member(1).order] == [b"first"]
    scene.give_up(0, 3)
    other = scene.block(2, origin, b"second")
    reason = scene.timeouts(1, scene.signing[2].timeout(1, origin)) if timeouts else None
    scene.lie(2, scene.proposal(2, other, reason), 0, 3)
    scene.let(Proposal, sender=2)
    scene.vote(2, other, 0, 3)
    scene.let(Vote, block=other.digest())
    scene.end()


def a_new_leader_needs_no_reason(engine: type[Bft]) -> None:
    """As before, without any timeouts. (R2, R3)"""
    a_new_leader_ignores_the_lock(engine, timeouts=False)


def two_openings_of_one_view(engine: type[Bft]) -> None:
    """The leader of view 2 lies, and has timeouts enough to open on the origin and on a block of view 1. (R2)"""
    scene = Scene(engine, liars=[2])
    origin = scene.signing[2].origin
    scene.propose(1, b"first")
    scene.let(Proposal, to=0)
    first = the(scene.proposed(1))
    scene.lie(2, scene.signing[2].vote(first.rank, Phase.FIRST, first.digest()), 0)
    scene.give_up(1, 3)  # without the certificate
    low = scene.timeouts(1, scene.signing[2].timeout(1, origin))
    scene.let(Vote, phase=Phase.FIRST, to=0)
    lock = scene.certificate(first)
    scene.give_up(0)
    high = scene.timeouts(1, scene.signing[2].timeout(1, lock))
    short, long = scene.block(2, origin, b"short"), scene.block(2, lock, b"long", first=2)
    scene.lie(2, scene.proposal(2, short, low), 1, 3)
    scene.let(Proposal, sender=2)
    scene.vote(2, short, 1, 3)
    scene.let(Vote, phase=Phase.FIRST, block=short.digest(), to=1)
    scene.let(Vote, phase=Phase.FIRST, block=short.digest(), to=3)
    scene.let(Vote, phase=Phase.SECOND, block=short.digest(), to=1)
    assert [entry.data for entry in scene.member(1).order] == [b"short"]
    scene.lie(2, scene.proposal(2, long, high), 0, 3)
    scene.let(Proposal, ChainRequest, ChainReply)
    scene.vote(2, long, 0, 3)
    scene.end()


def a_certificate_is_forgotten(engine: type[Bft]) -> None:
    """Member 0 helps to commit a block, loses power, and helps to open view 2. (R4)"""
    scene = Scene(engine, liars=[3])
    scene.propose(1, b"first")
    scene.let(Proposal, to=0)
    first = the(scene.proposed(1))
    scene.vote(3, first, 0, 1)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    scene.let(Vote, phase=Phase.FIRST, to=1)
    scene.let(Vote, phase=Phase.SECOND, to=1)
    assert [entry.data for entry in scene.member(1).order] == [b"first"]
    _open_without(scene, 0)


def _open_without(scene: Scene, restarted: int) -> None:
    """This member restarts, and with member 2 and the liar 3 goes on to view 2, which 2 leads."""
    scene.member(restarted).crash()
    scene.bag.clear()
    scene.member(restarted).start()
    scene.give_up(restarted, 2)
    scene.lie(3, scene.signing[3].timeout(1, scene.signing[3].origin), restarted, 2)
    scene.let(Timeout, to=2)
    scene.let(Timeout, to=restarted)
    scene.propose(2, b"second")
    scene.let(Proposal, sender=2)
    second = scene.proposed(2)
    if second is not None:
        scene.vote(3, second, restarted, 2)
    scene.let(Vote, view=2, to=2)
    scene.let(Vote, view=2, to=restarted)
    scene.end()


def a_timeout_is_taken_back(engine: type[Bft]) -> None:
    """Member 0 has given up view 1, which is told to the next leader; then the votes of view 1 arrive. (R5)"""
    scene = Scene(engine, liars=[3])
    _vote_late(scene)


def a_timeout_is_forgotten(engine: type[Bft]) -> None:
    """The same, and member 0 loses power in between. (R5)"""
    scene = Scene(engine, liars=[3])
    _vote_late(scene, crash=True)


def _vote_late(scene: Scene, *, crash: bool = False) -> None:
    scene.propose(1, b"first")
    scene.flush()
    first = the(scene.proposed(1))
    scene.give_up(0, 2)
    scene.lie(3, scene.signing[3].timeout(1, scene.signing[3].origin), 2)
    scene.let(Timeout, to=2)  # view 2 may begin, on the origin
    if crash:
        scene.member(0).crash()
        scene.member(0).start()
    scene.let(Proposal, to=0)
    scene.vote(3, first, 0, 1)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    scene.let(Vote, phase=Phase.FIRST, to=1)
    scene.let(Vote, phase=Phase.SECOND, to=1)
    scene.propose(2, b"second")
    scene.flush()
    scene.let(Proposal, sender=2)
    second = the(scene.proposed(2))
    scene.vote(3, second, 0, 2)
    scene.let(Vote, view=2, to=0)
    scene.let(Vote, view=2, to=2)
    scene.end()


def a_vote_is_lost_with_the_power(engine: type[Bft]) -> None:
    """Member 0 votes, and loses power before its disk has written. (R6)"""
    scene = Scene(engine, liars=[3])
    scene.propose(1, b"first")
    scene.flush()
    first = the(scene.proposed(1))
    position = next(each for each, post in enumerate(scene.bag) if post[1] == name(0))
    scene.deliver(position)  # and nothing is written
    scene.vote(3, first, 0, 1)
    lock = scene.certificate(first)
    if len(lock.signatures) == 3:  # member 0 has spoken
        scene.lie(3, lock, 0)
        scene.deliver(len(scene.bag) - 1)
    while (position := next((each for each, post in enumerate(scene.bag) if post[1] == name(1)), None)) is not None:
        scene.deliver(position)
        while scene.member(1).unwritten:
            scene.member(1).write()
    _open_without(scene, 0)


SCENES = {
    mutants.VotesTwice: a_leader_equivocates,
    mutants.CountsTVotes: a_lone_vote_is_counted,
    mutants.AcceptsLowExtension: a_new_leader_ignores_the_lock,
    mutants.NeedsNoTimeouts: a_new_leader_needs_no_reason,
    mutants.OpensTwice: two_openings_of_one_view,
    mutants.ForgetsCertificates: a_certificate_is_forgotten,
    mutants.VotesAfterTimeout: a_timeout_is_taken_back,
    mutants.ForgetsTimeouts: a_timeout_is_forgotten,
    mutants.SpeaksTooSoon: a_vote_is_lost_with_the_power,
}
