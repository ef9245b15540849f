"""What crosses the wire in a probe (see `probes.py` for how it is used)."""

import msgspec

from titan_overlay.identity.contacts import Contact, is_dialable, of_addresses, unpack_addresses
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.subnets import nameable
from titan_overlay.pool.keeping.proofs import PROOF_BYTES
from titan_overlay.pool.keeping.roster import SHORT_BYTES

NONCE_BYTES = 8
DIGEST_BYTES = 4
ENTRY_BYTES = SHORT_BYTES + PROOF_BYTES + DIGEST_BYTES + 1
ANSWER_BYTES = 1 + PROOF_BYTES
ENTRIES_MAX = 40
MEMBERS_MAX = 16
"""Holders in one list; the list begins at another one each time."""
BODY_BYTES_MAX = 1000
"""A body with its session's header must fit in one datagram of 1,200 bytes."""
NO_PROOF = bytes(PROOF_BYTES)

# Flags of an entry.
LEAVING = 1
UNREADY = 2
ENDS_SOON = 4

# Status of an answer, and its flags.
HELD = 0
NOT_HERE = 1
NOT_READY = 2
"""Held, but the sample of this epoch has yet to be read."""
DIFFERENT = 3
"""The proof does not hold: another version, or other bytes."""
BURIED = 4
"""Deleted; the tombstone can be asked for."""
STATUS = 0x0F
VIEWS_DIFFER = 0x10
ANSWER_ENDS_SOON = 0x20

# What a list says of a holder.
COUNTS = 0
ARRIVES = 1
LOST = 2


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One holder in a list."""

    id: bytes
    addresses: bytes
    """Packed (`identity.contacts`): 6, 18 or 24 bytes; none of one that was lost."""
    state: int = COUNTS

    def contact(self, by: str) -> Contact | None:
        """Where it can be reached, if that is an address, and one that a peer at the address `by` may name."""
        try:
            addresses = unpack_addresses(self.addresses)
        except ValueError:
            return None
        named = nameable(by, addresses)
        return of_addresses(NodeId(self.id), *named) if named and all(is_dialable(*each) for each in named) else None


class Listing(msgspec.Struct, frozen=True, array_like=True):
    """Holders that the sender knows, of the object at this place in the request."""

    index: int
    members: tuple[Member, ...]


class Version(msgspec.Struct, frozen=True, array_like=True):
    """What the answering side holds, where proofs differ."""

    index: int
    version: int
    descriptor: bytes
    """SHA-256 of the signed descriptor."""


class Request(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A probe of up to `ENTRIES_MAX` objects that both nodes hold."""

    epoch: int
    nonce: bytes
    entries: bytes
    """Per object: prefix of its id, proof, digest of holders, flags."""
    listings: tuple[Listing, ...] = ()


class Reply(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """The answer to a probe."""

    answers: bytes
    """Per object in the order of the request: status and flags, proof."""
    listings: tuple[Listing, ...] = ()
    versions: tuple[Version, ...] = ()
