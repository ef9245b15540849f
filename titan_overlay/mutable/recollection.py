"""What a member that was started again must hear before it votes: what it has promised. No I/O.

A disk can come back as it was earlier: a backup was restored, a virtual machine set back. Nothing on it says so, and
its owner would vote a second time where it has voted, or deny an entry that it has acknowledged. The others remember
what they were told. So a member that was started again asks them, and votes only when enough of them know of nothing
that its disk has forgotten; one that has forgotten something never votes under its key again.

*Enough* is a quorum of others: every quorum that counted on this member has one of them. When that many cannot be
reached for `PATIENCE_SECONDS`, a quorum with this member in it is enough, or a group in which t members are gone for
good could not go on after another one's restart. Members remember for as long as they run.
"""

import msgspec

from titan_overlay.mutable.engine import Count, Status

PATIENCE_SECONDS = 10.0
ASK_AGAIN_SECONDS = 0.5


class Promise(msgspec.Struct, frozen=True, array_like=True, order=True):
    """What a member has told another: the highest of all that it said."""

    term: Count = 0
    """Or view."""
    index: Count = 0


def kept(status: Status) -> Promise:
    """What the disk has, of one whose status this is at its start."""
    return Promise(status.term, status.last)


def promised(status: Status, member: bytes) -> Promise:
    """What `member` has told the one whose status this is."""
    known = status.peers.get(member)
    return Promise() if known is None else Promise(known.acknowledged_term, known.acknowledged_index)


class Recollection:
    """The answers.

    Args:
        own: what the disk has.
        others: members that can be asked.
        quorum: of the group.
        witnesses: so many must say the same before this member believes that it has forgotten something: one more than
            can lie.
    """

    def __init__(self, own: Promise, others: tuple[bytes, ...], quorum: int, witnesses: int) -> None:
        self._own = own
        self._others = others
        self._quorum = quorum
        self._witnesses = witnesses
        self._told: dict[bytes, Promise] = {}

    @property
    def missing(self) -> list[bytes]:
        """Who has not answered."""
        return [each for each in self._others if each not in self._told]

    @property
    def forgotten(self) -> Promise | None:
        """What others were told and the disk does not know."""
        beyond = sorted((each for each in self._told.values() if each > self._own), reverse=True)
        return beyond[self._witnesses - 1] if len(beyond) >= self._witnesses else None

    def hear(self, member: bytes, promise: Promise) -> None:
        """An answer."""
        if member in self._others:
            self._told[member] = promise

    def is_enough(self, waited: float) -> bool:
        """Whether this member may vote, after so many seconds of asking."""
        patient = waited < PATIENCE_SECONDS
        needed = min(self._quorum, len(self._others)) if patient else self._quorum - 1
        return len(self._told) >= needed and self.forgotten is None
