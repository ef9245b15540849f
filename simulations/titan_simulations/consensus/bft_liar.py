"""A member of a byzantine group that lies, in the place of its engine.

It signs what it likes with its own key, has heard what was said to it, says it again in other ways, and never has
another's signature. It also runs the honest engine twice under its one key, each face towards its own part of the
others (Bano et al., "Twins: BFT systems made robust", 2020): so it equivocates in every role, without that having
been written.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from titan_overlay.ambient import Random
from titan_overlay.mutable.bft import Bft
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    Claim,
    Command,
    Message,
    Phase,
    Proposal,
    Rank,
    Signed,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from titan_overlay.mutable.engine import (
    Entry,
    EntryKind,
    Event,
    Persisted,
    Proposed,
    Ready,
    Received,
    RequestsWait,
    Send,
    Status,
    TimerDue,
)

KEPT = 64
"""Of each sort, what was heard last."""

Voted = tuple[Rank, Phase, bytes]


class Knowledge:
    """What one liar has heard, or several that work together."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self.said: OrderedDict[int, Message] = OrderedDict()
        self.blocks: OrderedDict[bytes, Block] = OrderedDict()
        self.certificates: OrderedDict[Voted, Certificate] = OrderedDict()
        self.votes: OrderedDict[Voted, dict[bytes, bytes]] = OrderedDict()
        self.claims: OrderedDict[int, dict[bytes, list[Claim]]] = OrderedDict()
        """By view and member: a liar has several for one view."""
        self.view = 1
        self._count = 0

    def learn(self, message: Message) -> None:
        """Something was said."""
        self._count += 1
        _keep(self.said, self._count, message)
        match message:
            case Proposal(block, signature):
                digest = self._block(block)
                self._vote((block.rank, Phase.FIRST, digest), self._committee.leader(block.view), signature)
            case Vote():
                self._vote((message.rank, message.phase, message.block), message.member, message.signature)
            case Timeout():
                self.claim(message)
            case Certificate():
                self._certificate(message)
            case ChainReply():
                for block in message.blocks:
                    self._block(block)
                self._certificate(message.certificate)
                self._certificate(message.committed)
            case _:
                pass

    def claim(self, timeout: Timeout) -> None:
        """A view was given up, with a certificate."""
        claim = Claim(*timeout.high.rank, timeout.high.block, timeout.member, timeout.signature)
        claims = self.claims.get(timeout.view, {})
        claims[timeout.member] = [*claims.get(timeout.member, [])[-4:], claim]
        _keep(self.claims, timeout.view, claims)
        self._certificate(timeout.high)
        self.view = max(self.view, timeout.view)

    def _block(self, block: Block) -> bytes:
        digest = block.digest()
        _keep(self.blocks, digest, block)
        self._certificate(block.justify)
        self.view = max(self.view, block.view)
        return digest

    def _certificate(self, certificate: Certificate) -> None:
        _keep(self.certificates, (certificate.rank, certificate.phase, certificate.block), certificate)

    def _vote(self, voted: Voted, member: bytes, signature: bytes) -> None:
        votes = self.votes.get(voted, {})
        votes[member] = signature
        _keep(self.votes, voted, votes)
        quorum = self._committee.quorum
        if len(votes) == quorum:
            (view, height), phase, block = voted
            self._certificate(Certificate(view, height, phase, block, tuple(Signed(*each) for each in votes.items())))


def _keep(table: OrderedDict[Any, Any], key: object, value: object) -> None:
    table[key] = value
    if len(table) > KEPT:
        table.popitem(last=False)


class LyingBft:
    """An `Engine` of a liar: each `TimerDue` is one lie, everything else is for its faces.

    Nothing of it reaches the disk. It executes what its first face does.

    Args:
        old: the same member in another epoch, whose signatures are worth nothing in this.
        face: makes an honest engine.
        knowledge: shared by liars that work together.
    """

    def __init__(
        self, committee: Committee, old: Committee, face: Callable[[], Bft], random: Random, knowledge: Knowledge
    ) -> None:
        self.committee = committee
        self.knowledge = knowledge
        self._old = old
        self._random = random
        self._faces = [face(), face()]
        self._side = {other: random.randrange(2) for other in committee.others}
        self._count = 0
        self._now = 0.0
        self._out = Ready(0)

    @property
    def leader(self) -> bytes | None:
        """As its first face has it."""
        return self._faces[0].leader

    def step(self, event: Event, now: float) -> Ready:
        """Takes one event in."""
        self._now = now
        self._out = out = Ready(self._out.number + 1)
        match event:
            case Received(sender, message):
                self.knowledge.learn(message)
                if self._random.random() < 0.1:
                    self._side[sender] = self._random.randrange(2)
                for face in range(2):
                    if self._random.random() < 0.9:
                        self._face(face, event)
            case TimerDue():
                self._lie()
            case Persisted():
                pass
            case Proposed():
                self._face(self._random.randrange(2), event)
            case _:
                for face in range(2):
                    self._face(face, event)
        out.timer = now + self._random.expovariate(1.0) * 0.05
        return out

    def image(self) -> list[Any]:
        """Nothing."""
        return []

    def remains(self) -> list[Entry]:
        """Nothing."""
        return []

    def status(self) -> Status:
        """As its first face has it."""
        return self._faces[0].status()

    def _face(self, face: int, event: Event) -> None:
        ready = self._faces[face].step(event, self._now)
        for send in [*ready.send_now, *ready.send_after_persist]:
            if self._side.get(send.to, face) == face:
                self._out.send_now.append(send)
        if face == 0:
            self._out.committed += ready.committed
            self._out.checkpoints += ready.checkpoints
            self._out.fetch = ready.fetch or self._out.fetch
        if ready.persist:
            self._face(face, Persisted(ready.number))

    # ---- lies --------------------------------------------------------------------------------------------------

    def _lie(self) -> None:
        lies = (
            (1, self._replay),
            (1, self._vote_for_anything),
            (1, self._claim_a_stale_certificate),
            (2, self._propose_anything),
            (2, self._open_with_a_choice_of_timeouts),
            (1, self._forge_a_certificate),
            (1, self._speak_of_another_epoch),
            (1, self._tell_some_of_a_certificate),
            (3, self._turn_a_face),
        )
        weights, acts = zip(*lies, strict=True)
        act: Callable[[], None] = self._random.choices(acts, weights)[0]
        act()

    def _say(self, *messages: Message) -> None:
        """To some of the others."""
        for message in messages:
            some = [other for other in self.committee.others if self._random.random() < 0.7]
            self._out.send_now += [Send(other, message) for other in some]

    def _turn_a_face(self) -> None:
        face = self._random.randrange(2)
        self._count += 1
        if self._faces[face].leader == self.committee.me:
            self._face(face, Proposed(b"liar %d" % self._count, self._count))
        elif self._random.random() < 0.2:
            self._face(face, RequestsWait(True))
        self._face(face, TimerDue())

    def _replay(self) -> None:
        if self.knowledge.said:
            self._say(self._random.choice(list(self.knowledge.said.values())))

    def _some_block(self) -> tuple[Rank, bytes] | None:
        recent = list(self.knowledge.blocks.items())[-6:]
        if not recent:
            return None
        digest, block = self._random.choice(recent)
        return block.rank, digest

    def _some_certificate(self) -> Certificate:
        return self._random.choice([self.committee.origin, *list(self.knowledge.certificates.values())[-8:]])

    def _vote_for_anything(self) -> None:
        found = self._some_block()
        if found is not None:
            self._say(self.committee.vote(found[0], self._random.choice(list(Phase)), found[1]))

    def _claim_a_stale_certificate(self) -> None:
        view = max(1, self.knowledge.view + self._random.randrange(-1, 2))
        timeout = self.committee.timeout(view, self._some_certificate())
        self.knowledge.claim(timeout)
        self._say(timeout)

    def _block_on(self, justify: Certificate, view: int) -> Block:
        parent = self.knowledge.blocks.get(justify.block)
        self._count += 1
        kind, data = self._random.choice([(EntryKind.NOOP, b""), (EntryKind.COMMANDS, b"lie %d" % self._count)])
        repeats = parent is not None and self._random.random() < 0.3
        commands = parent.commands if parent is not None and repeats else (Command(kind, data),)
        first = parent.last + 1 if parent is not None else 1
        return Block(view, justify.height + 1, first, justify, commands)

    def _proposal(self, block: Block, timeouts: TimeoutCertificate | None) -> Proposal:
        return Proposal(block, self.committee.vote(block.rank, Phase.FIRST, block.digest()).signature, timeouts)

    def _my_view(self) -> int:
        """The latest that it leads."""
        view = self.knowledge.view + 1
        while view > 1 and self.committee.leader(view) != self.committee.me:
            view -= 1
        return view

    def _propose_anything(self) -> None:
        view = self._my_view()
        for _ in range(2):
            self._say(self._proposal(self._block_on(self._some_certificate(), view), None))

    def _open_with_a_choice_of_timeouts(self) -> None:
        """Any Q of the timeouts of a view, its own as stale as it likes, and any certificate."""
        view = self._my_view()
        if view < 2:
            return
        self.knowledge.claim(self.committee.timeout(view - 1, self._some_certificate()))
        claims, quorum = self.knowledge.claims[view - 1], self.committee.quorum
        if len(claims) < quorum:
            return
        for _ in range(2):
            chosen = self._random.sample(sorted(claims), quorum)
            timeouts = TimeoutCertificate(view - 1, tuple(self._random.choice(claims[member]) for member in chosen))
            fitting = [each for each in self.knowledge.certificates.values() if each.rank >= timeouts.high]
            justify = self._some_certificate()
            if fitting and self._random.random() < 0.8:
                justify = self._random.choice(fitting)
            self._say(self._proposal(self._block_on(justify, view), timeouts))

    def _forge_a_certificate(self) -> None:
        """Of what votes there are, its own repeated, others' invented."""
        found = self._some_block()
        if found is None:
            return
        rank, digest = found
        phase = self._random.choice(list(Phase))
        votes = dict(self.knowledge.votes.get((rank, phase, digest), {}))
        votes[self.committee.me] = self.committee.vote(rank, phase, digest).signature
        signed = [Signed(*each) for each in votes.items()]
        while len(signed) < self.committee.quorum:
            signed.append(self._random.choice([signed[-1], Signed(self._random.choice(self.committee.members), b"")]))
        forged = Certificate(*rank, phase, digest, tuple(signed[: self.committee.quorum]))
        self._say(forged, self.committee.timeout(self.knowledge.view, forged))

    def _speak_of_another_epoch(self) -> None:
        found = self._some_block()
        if found is not None:
            self._say(self._old.vote(found[0], self._random.choice(list(Phase)), found[1]))

    def _tell_some_of_a_certificate(self) -> None:
        """A true one: they know more than the others then."""
        self._say(self._some_certificate())
