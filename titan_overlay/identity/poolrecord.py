"""The pool record: the rules of a pool that its key signs, and that anybody can check by the pool's id."""

from typing import Annotated, ClassVar

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity import records
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.records import Count, Record, Signed

STRANGER = Right.JOIN | Right.CALL
"""What anyone may do in a pool unless it says otherwise (and hold data, which verifies itself)."""

PUZZLE_BITS_DEFAULT = 8
"""Of new pools. An honest node pays it once, in some ten milliseconds; each bit more doubles the price."""
PUZZLE_BITS_MAX = 32


class PoolRecord(Record, frozen=True, array_like=True):
    """What holds in the whole pool. The higher version wins; version 0 is what holds where none was ever signed."""

    LABEL: ClassVar[bytes] = b"pool"
    LIMIT: ClassVar[int] = 400
    """It is told to strangers, in one datagram that is no larger than theirs."""

    version: Count = 0
    puzzle_bits: Annotated[int, msgspec.Meta(ge=0, le=PUZZLE_BITS_MAX)] = 0
    """Leading zero bits that the hash of a serving node's id must have (S/Kademlia paper, 4.1)."""
    strangers: Annotated[int, msgspec.Meta(ge=0, le=63)] = int(STRANGER)
    """`Right`s that need no grant. Without `JOIN` among them the pool is private."""

    @property
    def private(self) -> bool:
        """Whether only keys with a grant may join."""
        return not self.strangers & Right.JOIN


def check_record(raw: bytes, pool: PoolId | None) -> Signed[PoolRecord]:
    """The record in these bytes, signed by the pool's own key.

    Args:
        pool: None where it is not known yet: the record itself says which (trust on first use).

    Raises:
        BadMessage: it is not.
    """
    pool = pool or PoolId(records.claimed_key(raw))
    signed = records.check(raw, PoolRecord, pool)
    if signed.public != pool:
        raise BadMessage("this pool record was not signed by the pool's key")
    return signed
