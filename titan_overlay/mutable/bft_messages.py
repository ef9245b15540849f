"""What members of a byzantine group say to each other, and what they write down.

Names are those of HotStuff-2 (Malkhi and Nayak, 2023) and Jolteon (Gelashvili et al., 2022). Signatures cover more than
a message shows: the pool, the group and the epoch as well (`bft_committee.py`). All decoders are total: any bytes give
a value or `BadMessage`.
"""

from collections.abc import Callable
from enum import IntEnum
from hashlib import sha256
from typing import Annotated, Final

import msgspec

from titan_overlay.mutable.decoding import Bytes, total
from titan_overlay.mutable.engine import Checkpoint, Count, Entry, EntryKind
from titan_overlay.wire import codec

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
MemberId = Digest
Signature = Annotated[bytes, msgspec.Meta(max_length=64)]

Rank = tuple[int, int]
"""View and height. Certificates, and votes of one phase, are ordered by it."""


class Phase(IntEnum):
    """Which of the two votes."""

    FIRST = 1
    """The block is proposed in order, and on my disk. Q of them make a certificate."""
    SECOND = 2
    """A certificate for the block is on my disk. Q of them commit it."""


class Signed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member's signature."""

    member: MemberId
    signature: Signature


Signatures = Annotated[tuple[Signed, ...], msgspec.Meta(max_length=256)]


class Certificate(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Q members have voted for a block. Either phase certifies it; the second commits it too."""

    view: Count
    height: Count
    phase: Phase
    block: Digest
    signatures: Signatures

    @property
    def rank(self) -> Rank:
        """View and height of the block."""
        return self.view, self.height


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one place in the order holds."""

    kind: EntryKind
    data: bytes


class Block(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Entries that are agreed on together, and the certificate of the block that they follow."""

    view: Count
    height: Count
    """Counts blocks of this epoch; the first is 1."""
    first: Count
    """Index of the first entry."""
    justify: Certificate
    commands: Annotated[tuple[Command, ...], msgspec.Meta(min_length=1)]

    @property
    def rank(self) -> Rank:
        """View and height."""
        return self.view, self.height

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return self.first + len(self.commands) - 1

    def digest(self) -> bytes:
        """Hash of the block, and so of all before it."""
        return sha256(b"titan/1/bft/block\0" + codec.encode(self)).digest()

    def entries(self) -> list[Entry]:
        """As the shell executes them."""
        return [
            Entry(index, self.view, command.kind, command.data)
            for index, command in enumerate(self.commands, self.first)
        ]


class Claim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one member signed when it gave a view up: the rank and block of its highest certificate."""

    view: Count
    height: Count
    block: Digest
    member: MemberId
    signature: Signature


class TimeoutCertificate(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Q members have given up this view. The one after it begins."""

    view: Count
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(min_length=1, max_length=256)]

    @property
    def high(self) -> Rank:
        """The highest rank that is claimed: the next view extends a certificate that is not below it."""
        return max((claim.view, claim.height) for claim in self.claims)


class Proposal(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Leader to all: a block, with the leader's first vote for it. As a record: the block this member voted for."""

    block: Block
    signature: Signature
    timeouts: TimeoutCertificate | None
    """With the first block of a view: why there is a new view."""


class Vote(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Member to all."""

    view: Count
    height: Count
    phase: Phase
    block: Digest
    member: MemberId
    signature: Signature

    @property
    def rank(self) -> Rank:
        """View and height of the block."""
        return self.view, self.height


class Timeout(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Member to all: I vote no more in this view or any before it; this is the highest certificate I know."""

    view: Count
    high: Certificate
    member: MemberId
    signature: Signature


class ChainRequest(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """Please send what follows."""

    committed: Count
    """Height of my last committed block."""
    tip: Digest
    """The highest certified block whose whole chain I have."""


class StableCheckpoint(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Q members have signed the same state. As a record: the log before it is not needed."""

    height: Count
    block: Digest
    state: Checkpoint
    signatures: Signatures


class ChainReply(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Blocks in order; the certificate is of the last of them."""

    blocks: tuple[Block, ...]
    certificate: Certificate
    committed: Certificate
    """The sender's highest certificate of the second phase."""
    checkpoint: StableCheckpoint | None
    """Where the asker is behind it."""


class CheckpointVote(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Member to all: executing up to this block gives this state."""

    height: Count
    block: Digest
    state: Checkpoint
    member: MemberId
    signature: Signature


Message = Proposal | Vote | Timeout | TimeoutCertificate | Certificate | ChainRequest | ChainReply | CheckpointVote

# ---- records -------------------------------------------------------------------------------------------------


class GaveUp(msgspec.Struct, frozen=True, array_like=True, tag=20, gc=False):
    """This member votes no more in this view or any before it."""

    view: Count


class Equivocation(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Evidence: two votes of one member, in one view, height and phase, for different blocks."""

    epoch: Count
    first: Vote
    second: Vote


class Diverged(msgspec.Struct, frozen=True, array_like=True):
    """Evidence against this member itself: its state is not the one that Q have signed. A handler is not
    deterministic, or memory or disk are damaged.
    """

    mine: Checkpoint
    agreed: StableCheckpoint


Record = Proposal | Block | Certificate | GaveUp | StableCheckpoint | Equivocation

decode_message: Final[Callable[[Bytes], Message]] = total(Message, "a message between members of a byzantine group")
"""Raises BadMessage: these bytes are no message of this engine."""
decode_record: Final[Callable[[Bytes], Record]] = total(Record, "a record of a byzantine group's log")
"""Raises BadMessage: these bytes are no record of this engine."""
