"""The blocks that a member has: a chain that is committed, and above it a tree of those that may yet be."""

from collections.abc import Sequence

import msgspec

from titan_overlay.mutable.bft_messages import Block, Certificate, ChainRequest

COMMAND_OVERHEAD = 16
"""Bytes that a command takes beside its data, at most."""


class Position(msgspec.Struct, frozen=True):
    """A place in the chain."""

    height: int
    index: int
    """Of the last entry up to and including this block."""
    view: int
    block: bytes


class Blocks:
    """All blocks above the anchor.

    Invariants: `anchor` is the last stable checkpoint or where the epoch began; `committed` descends from it, through
    blocks that are all here; nothing at or below `committed` is here but its ancestors.
    """

    __slots__ = ("_held", "_open", "anchor", "committed")

    def __init__(self, anchor: Position) -> None:
        self._held: dict[bytes, Block] = {}
        self._open: set[bytes] = set()
        """Those not committed."""
        self.anchor = anchor
        self.committed = anchor

    def add(self, digest: bytes, block: Block) -> bool:
        """Keeps a block that may be committed one day. False: it is known, or its height is decided."""
        if digest in self._held or block.height <= self.committed.height:
            return False
        self._held[digest] = block
        self._open.add(digest)
        return True

    def position(self, digest: bytes) -> Position | None:
        """Of a block that is here or is the anchor."""
        block = self._held.get(digest)
        if block is not None:
            return Position(block.height, block.last, block.view, digest)
        return self.anchor if digest == self.anchor.block else None

    def path(self, digest: bytes) -> list[tuple[bytes, Block]] | None:
        """What lies between the committed block and this one, it included. None: some of it is missing, or this block
        does not follow the committed one.
        """
        found = []
        while digest != self.committed.block:
            block = self._held.get(digest)
            if block is None or block.height <= self.committed.height:
                return None
            found.append((digest, block))
            digest = block.justify.block
        return found[::-1]

    def commit(self, digest: bytes) -> None:
        """The next block of the path is decided; its rivals go."""
        block = self._held[digest]
        self.committed = Position(block.height, block.last, block.view, digest)
        self._open.discard(digest)
        for rival in [each for each in self._open if self._held[each].height <= block.height]:
            self._open.discard(rival)
            del self._held[rival]

    def decided(self) -> list[Block]:
        """The committed blocks above the anchor, in order."""
        return [block for digest, block in self._held.items() if digest not in self._open]

    def undecided(self) -> list[Block]:
        """The others."""
        return [self._held[digest] for digest in self._held if digest in self._open]

    def raise_anchor(self, position: Position) -> None:
        """A checkpoint has become stable: what leads to it is not needed. It may lie beyond what is here."""
        self.anchor = position
        if position.height > self.committed.height:
            self.committed = position
        for digest in [each for each, block in self._held.items() if block.height <= position.height]:
            del self._held[digest]
            self._open.discard(digest)

    def following(self, request: ChainRequest, head: Certificate, bytes_max: int) -> tuple[list[Block], Certificate]:
        """What leads to the certified block `head`: from the asker's tip on if that is on the way, else from its
        committed height on. At least one block if there is any, and no more than `bytes_max` otherwise; with the
        certificate of the last.
        """
        found: list[Block] = []
        digest = head.block
        while digest != request.tip:
            block = self._held.get(digest)
            if block is None or block.height <= request.committed:
                break
            found.append(block)
            digest = block.justify.block
        found.reverse()
        room = bytes_max
        for number, block in enumerate(found):
            room -= size_of(block)
            if room < 0 and number:
                return found[:number], block.justify
        return found, head


def size_of(block: Block) -> int:
    """Bytes of what it orders, about."""
    return sum(len(command.data) + COMMAND_OVERHEAD for command in block.commands)


def linked_blocks(blocks: Sequence[Block], last: bytes) -> list[tuple[bytes, Block]] | None:
    """The blocks with their digests, if each follows the one before it and `last` is the digest of the last."""
    found = []
    for block in reversed(blocks):
        digest = block.digest()
        if digest != last:
            return None
        found.append((digest, block))
        last = block.justify.block
    return found[::-1]
