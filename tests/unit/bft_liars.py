"""Members that lie. They know all that was ever said, sign what they like, and never have another's signature."""

import random
from collections.abc import Callable

from tests.unit.bft_cluster import Cluster, Member, name
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    Claim,
    Command,
    Phase,
    Proposal,
    Rank,
    Signed,
    Timeout,
    TimeoutCertificate,
    Vote,
    decode_message,
)
from titan_overlay.mutable.engine import (
    EntryKind,
    Event,
    Persisted,
    Proposed,
    Ready,
    Received,
    RequestsWait,
    Send,
    TimerDue,
)


class Knowledge:
    """What liars have learnt from everything that was said: they work together."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read = 0
        self.blocks: dict[bytes, Block] = {}
        self.certificates: dict[tuple[Rank, Phase, bytes], Certificate] = {}
        self.votes: dict[tuple[Rank, Phase, bytes], dict[bytes, bytes]] = {}
        self.claims: dict[int, dict[bytes, list[Claim]]] = {}
        self.view = 1

    def learn(self) -> None:
        for raw in self._cluster.seen[self._read :]:
            match decode_message(raw):
                case Proposal(block, signature):
                    digest = self._block(block)
                    leader = self._cluster.configuration.members[block.view % len(self._cluster.configuration.members)]
                    self._vote(block.rank, Phase.FIRST, digest, leader, signature)
                case Vote() as vote:
                    self._vote(vote.rank, vote.phase, vote.block, vote.member, vote.signature)
                case Timeout() as timeout:
                    self.claim(timeout)
                case Certificate() as certificate:
                    self._certificate(certificate)
                case ChainReply() as reply:
                    for block in reply.blocks:
                        self._block(block)
                    self._certificate(reply.certificate)
                    self._certificate(reply.committed)
                case _:
                    pass
        self._read = len(self._cluster.seen)
        quorum = 2 * ((len(self._cluster.configuration.members) - 1) // 3) + 1
        for (rank, phase, block), votes in self.votes.items():
            if len(votes) >= quorum and (rank, phase, block) not in self.certificates:
                signed = tuple(Signed(member, signature) for member, signature in list(votes.items())[:quorum])
                self.certificates[rank, phase, block] = Certificate(*rank, phase, block, signed)

    def _block(self, block: Block) -> bytes:
        digest = block.digest()
        self.blocks[digest] = block
        self._certificate(block.justify)
        self.view = max(self.view, block.view)
        return digest

    def _certificate(self, certificate: Certificate) -> None:
        self.certificates[certificate.rank, certificate.phase, certificate.block] = certificate

    def _vote(self, rank: Rank, phase: Phase, block: bytes, member: bytes, signature: bytes) -> None:
        self.votes.setdefault((rank, phase, block), {})[member] = signature

    def claim(self, timeout: Timeout) -> None:
        claim = Claim(*timeout.high.rank, timeout.high.block, timeout.member, timeout.signature)
        self.claims.setdefault(timeout.view, {}).setdefault(timeout.member, []).append(claim)
        self._certificate(timeout.high)
        self.view = max(self.view, timeout.view)


class Liar:
    """One member that lies.

    With `faces` it also runs the honest code twice under one key, each for its own part of the others (Bano et al.,
    "Twins: BFT systems made robust", 2020): that is equivocation in every role, without writing it.
    """

    def __init__(self, cluster: Cluster, me: bytes, knowledge: Knowledge, chance: random.Random) -> None:
        self.cluster = cluster
        self.me = me
        self.chance = chance
        self.known = knowledge
        self.committee: Committee = cluster.committee(me)
        self.old: Committee = cluster.committee(me, epoch=cluster.configuration.epoch + 1)
        self.side = {other: chance.randrange(2) for other in self.committee.others}
        self.faces = [cluster.engine(me, Member(cluster, me).snapshots[0][0], []) for _ in range(2)]
        self.timers: list[float | None] = [None, None]
        self.count = 0
        for face in range(2):
            self._face(face, TimerDue())

    # ---- two faces ---------------------------------------------------------------------------------------------

    def _face(self, face: int, event: Event) -> None:
        ready: Ready = self.faces[face].step(event, self.cluster.now)
        self.timers[face] = ready.timer
        for send in [*ready.send_now, *ready.send_after_persist]:
            if self.side[send.to] == face:
                self.cluster.post(self.me, [send])
        if ready.persist:
            self._face(face, Persisted(ready.number))

    def receive(self, sender: bytes, raw: bytes) -> None:
        message = decode_message(raw)
        if self.chance.random() < 0.1:
            self.side[sender] = self.chance.randrange(2)
        for face in range(2):
            if self.chance.random() < 0.9:
                self._face(face, Received(sender, message))

    def twin_step(self) -> None:
        face = self.chance.randrange(2)
        self.count += 1
        request = b"liar %d" % self.count
        if self.faces[face].status().leader == self.me:
            self._face(face, Proposed(request, self.count))
        elif self.chance.random() < 0.2:
            self._face(face, RequestsWait(True))
        timer = self.timers[face]
        if timer is not None and timer <= self.cluster.now:
            self._face(face, TimerDue())

    # ---- lies --------------------------------------------------------------------------------------------------

    def act(self) -> None:
        self.known.learn()
        lies: list[Callable[[], None]] = [
            self.replay,
            self.vote_for_anything,
            self.claim_a_stale_certificate,
            self.propose_anything,
            self.propose_anything,
            self.open_with_a_choice_of_timeouts,
            self.open_with_a_choice_of_timeouts,
            self.forge_a_certificate,
            self.another_epoch,
            self.tell_of_a_certificate,
            self.twin_step,
            self.twin_step,
        ]
        self.chance.choice(lies)()

    def send(self, *messages: object) -> None:
        """To some of the others."""
        for message in messages:
            some = [other for other in self.committee.others if self.chance.random() < 0.7]
            self.cluster.post(self.me, [Send(other, message) for other in some])

    def replay(self) -> None:
        if self.cluster.seen:
            self.send(decode_message(self.chance.choice(self.cluster.seen[-400:])))

    def _some_block(self) -> tuple[Rank, bytes] | None:
        recent = list(self.known.blocks.items())[-6:]
        if not recent:
            return None
        digest, block = self.chance.choice(recent)
        return block.rank, digest

    def vote_for_anything(self) -> None:
        found = self._some_block()
        if found is not None:
            self.send(self.committee.vote(found[0], self.chance.choice(list(Phase)), found[1]))

    def _some_certificate(self) -> Certificate:
        return self.chance.choice([self.committee.origin, *list(self.known.certificates.values())[-8:]])

    def claim_a_stale_certificate(self) -> None:
        view = max(1, self.known.view + self.chance.randrange(-1, 2))
        timeout = self.committee.timeout(view, self._some_certificate())
        self.known.claim(timeout)
        self.send(timeout)

    def _block_on(self, justify: Certificate, view: int) -> Block:
        parent = self.known.blocks.get(justify.block)
        self.count += 1
        kind, data = self.chance.choice([(EntryKind.NOOP, b""), (EntryKind.COMMANDS, b"lie %d" % self.count)])
        first = parent.last + 1 if parent else 1
        return Block(view, justify.height + 1, first, justify, (Command(kind, data),))

    def _proposal(self, block: Block, timeouts: TimeoutCertificate | None) -> Proposal:
        signature = self.committee.vote(block.rank, Phase.FIRST, block.digest()).signature
        return Proposal(block, signature, timeouts)

    def _my_view(self) -> int:
        """The latest that it leads, give or take one reign."""
        n = len(self.committee.members)
        view = self.known.view + 1
        while self.committee.leader(view) != self.me:
            view -= 1
        return max(view, view % n)

    def propose_anything(self) -> None:
        view = self._my_view()
        for _ in range(2):
            self.send(self._proposal(self._block_on(self._some_certificate(), view), None))

    def open_with_a_choice_of_timeouts(self) -> None:
        """Any Q of the timeouts of a view, its own as stale as it likes, and any certificate."""
        view = self._my_view()
        mine = self.committee.timeout(view - 1, self._some_certificate()) if view > 1 else None
        if mine is not None:
            self.known.claim(mine)
        claims = self.known.claims.get(view - 1, {})
        quorum = self.committee.quorum
        if len(claims) < quorum:
            return
        for _ in range(2):
            chosen = self.chance.sample(sorted(claims), quorum)
            timeouts = TimeoutCertificate(view - 1, tuple(self.chance.choice(claims[member]) for member in chosen))
            fitting = [each for each in self.known.certificates.values() if each.rank >= timeouts.high]
            justify = self.chance.choice(fitting or [self._some_certificate()])
            if self.chance.random() < 0.2:
                justify = self._some_certificate()
            self.send(self._proposal(self._block_on(justify, view), timeouts))

    def forge_a_certificate(self) -> None:
        """Of what votes there are, its own repeated, others' invented."""
        found = self._some_block()
        if found is None:
            return
        rank, digest = found
        phase = self.chance.choice(list(Phase))
        votes = dict(self.known.votes.get((rank, phase, digest), {}))
        votes[self.me] = self.committee.vote(rank, phase, digest).signature
        signed = [Signed(member, signature) for member, signature in votes.items()]
        while len(signed) < self.committee.quorum:
            signed.append(self.chance.choice([signed[-1], Signed(name(self.chance.randrange(8)), b"\0" * 64)]))
        forged = Certificate(*rank, phase, digest, tuple(signed[: self.committee.quorum]))
        self.send(forged, self.committee.timeout(self.known.view, forged))

    def another_epoch(self) -> None:
        found = self._some_block()
        if found is not None:
            self.send(self.old.vote(found[0], self.chance.choice(list(Phase)), found[1]))

    def tell_of_a_certificate(self) -> None:
        """A true one, to some only: they know more than the others then."""
        self.send(self._some_certificate())
