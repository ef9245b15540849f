"""The members of one epoch as signers: who leads, what is signed, and what Q signatures prove.

    n = 3t + 1 members, t of them may lie; Q = 2t + 1.

Any two sets of Q members have t + 1 in common, so at least one that is honest; and Q members are left when t are
silent. Everything in `bft.py` that is called safe rests on these two sentences.

Each signature is checked once: those seen are remembered, so that a certificate made of votes that have arrived by
themselves costs nothing, and one from elsewhere costs only the votes that have not. Per block a member so checks O(n)
signatures, although all vote to all.
"""

from collections.abc import Callable, Iterable
from hashlib import sha256
from struct import Struct
from typing import Protocol

from titan_overlay.mutable.bft_messages import (
    Certificate,
    CheckpointVote,
    Claim,
    Phase,
    Rank,
    Signed,
    StableCheckpoint,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from titan_overlay.mutable.engine import Checkpoint, Configuration

Sign = Callable[[bytes], bytes]
"""This member's signature with its voting key of this group and epoch."""


class Verify(Protocol):
    """Whether the signature is that of this member's voting key of this group and epoch. Never raises."""

    def __call__(self, member: bytes, signature: bytes, statement: bytes) -> bool: ...


_VOTE = Struct(">QQB")
_TIMEOUT = Struct(">QQQ")
_CHECKPOINT = Struct(">QQQ")
_REMEMBERED = 64
"""Signatures remembered for each member."""


class Committee:
    """Knows the keys of one group in one epoch.

    Args:
        me: this node; where it is not among the members it is a learner, and signs nothing.
        pool, group: 32-byte ids, part of every statement.
    """

    def __init__(
        self, me: bytes, configuration: Configuration, pool: bytes, group: bytes, sign: Sign, verify: Verify
    ) -> None:
        self.me = me
        self.members = configuration.members
        self.faults = (len(self.members) - 1) // 3
        self.quorum = (len(self.members) + self.faults) // 2 + 1
        """Any two of this size have t + 1 members in common: of 3t + 1 members, 2t + 1. Groups that grow again after a
        recovery have other numbers for a while."""
        self.epoch = configuration.epoch
        self.votes = me in self.members
        self.others = tuple(member for member in self.members if member != me)
        self._domain = pool + group + self.epoch.to_bytes(8, "big")
        self.origin = Certificate(0, 0, Phase.SECOND, sha256(b"titan/1/bft/origin\0" + self._domain).digest(), ())
        """Of the block that the epoch begins with, which is agreed without votes."""
        self._sign = sign
        self._verify = verify
        self._seen: dict[tuple[bytes, bytes, bytes], None] = {}
        self._seen_max = _REMEMBERED * len(self.members)

    def leader(self, view: int) -> bytes:
        """Who proposes in this view."""
        return self.members[view % len(self.members)]

    # ---- what this member says ---------------------------------------------------------------------------------

    def vote(self, rank: Rank, phase: Phase, block: bytes) -> Vote:
        """This member's vote, to be told once what it says is durable."""
        statement = self._vote_statement(rank, phase, block)
        return Vote(*rank, phase, block, self.me, self._signed(statement))

    def timeout(self, view: int, high: Certificate) -> Timeout:
        """This member gives up a view."""
        statement = self._timeout_statement(view, high.rank, high.block)
        return Timeout(view, high, self.me, self._signed(statement))

    def checkpoint(self, height: int, block: bytes, state: Checkpoint) -> CheckpointVote:
        """This member's state after a block."""
        return CheckpointVote(
            height, block, state, self.me, self._signed(self._checkpoint_statement(height, block, state))
        )

    # ---- what others say ---------------------------------------------------------------------------------------

    def is_vote(self, vote: Vote) -> bool:
        """Whether the vote is its member's."""
        return self._holds(vote.member, vote.signature, self._vote_statement(vote.rank, vote.phase, vote.block))

    def is_timeout(self, timeout: Timeout) -> bool:
        """Whether the timeout is its member's, and the certificate in it holds."""
        high = timeout.high
        statement = self._timeout_statement(timeout.view, high.rank, high.block)
        return self._holds(timeout.member, timeout.signature, statement) and self.certifies(high)

    def is_checkpoint(self, vote: CheckpointVote) -> bool:
        """Whether the statement about a state is its member's."""
        return self._holds(vote.member, vote.signature, self._checkpoint_statement(vote.height, vote.block, vote.state))

    def certifies(self, certificate: Certificate) -> bool:
        """Whether Q members have voted for this block."""
        if certificate.view == 0:
            return certificate == self.origin
        statement = self._vote_statement(certificate.rank, certificate.phase, certificate.block)
        return self._quorum_signed(certificate.signatures, statement)

    def ends(self, timeouts: TimeoutCertificate) -> bool:
        """Whether Q members have given up this view."""
        members = {claim.member for claim in timeouts.claims}
        return len(members) == len(timeouts.claims) >= self.quorum and all(
            self._is_claim(timeouts.view, claim) for claim in timeouts.claims
        )

    def stabilises(self, checkpoint: StableCheckpoint) -> bool:
        """Whether Q members have this state."""
        statement = self._checkpoint_statement(checkpoint.height, checkpoint.block, checkpoint.state)
        return self._quorum_signed(checkpoint.signatures, statement)

    # ---- signatures --------------------------------------------------------------------------------------------

    def _is_claim(self, view: int, claim: Claim) -> bool:
        statement = self._timeout_statement(view, (claim.view, claim.height), claim.block)
        return self._holds(claim.member, claim.signature, statement)

    def _quorum_signed(self, signatures: Iterable[Signed], statement: bytes) -> bool:
        signatures = tuple(signatures)
        members = {each.member for each in signatures}
        return len(members) == len(signatures) >= self.quorum and all(
            self._holds(each.member, each.signature, statement) for each in signatures
        )

    def _signed(self, statement: bytes) -> bytes:
        signature = self._sign(statement)
        self._remember((self.me, signature, statement))
        return signature

    def _holds(self, member: bytes, signature: bytes, statement: bytes) -> bool:
        key = (member, signature, statement)
        if key in self._seen:
            return True
        if member not in self.members or not self._verify(member, signature, statement):
            return False
        self._remember(key)
        return True

    def _remember(self, key: tuple[bytes, bytes, bytes]) -> None:
        while len(self._seen) >= self._seen_max:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None

    def _vote_statement(self, rank: Rank, phase: Phase, block: bytes) -> bytes:
        return b"titan/1/bft/vote\0" + self._domain + _VOTE.pack(*rank, phase) + block

    def _timeout_statement(self, view: int, high: Rank, block: bytes) -> bytes:
        return b"titan/1/bft/timeout\0" + self._domain + _TIMEOUT.pack(view, *high) + block

    def _checkpoint_statement(self, height: int, block: bytes, state: Checkpoint) -> bytes:
        head = b"titan/1/bft/checkpoint\0" + self._domain + _CHECKPOINT.pack(height, state.index, state.term)
        return head + block + state.root
