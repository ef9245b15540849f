"""Secrets that a member shares with each who asks, and what is said under them: message authentication codes, which
cost a fiftieth of a signature (the authenticators of Castro and Liskov, "Practical Byzantine Fault Tolerance", 1999).

A member gives a sender its key over a link, which has proven both. The sender adds a code for each member to the
signature of its request, so that members vote for what the leader alone was told; each member adds one to its reply, so
that the leader can bring all of them. A code convinces only the two who have the key, and that is all it is asked for.

    proof of a request = 64 bytes signature, then 16 bytes for each member in the order of the configuration
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from titan_overlay.identity.keys import SIGNATURE_BYTES

CODE_BYTES: Final = 16
KEY_BYTES: Final = 32
SENDERS_MAX = 4096
"""Whose keys a member keeps at hand."""
NO_CODE = bytes(CODE_BYTES)


class SharedKeys:
    """A member's side. Keys are derived: nothing is kept for a sender.

    Args:
        secret: 32 bytes that only this member has.
    """

    def __init__(self, secret: bytes) -> None:
        @lru_cache(maxsize=SENDERS_MAX)
        def derived(public: bytes) -> bytes:
            return blake2b(public, key=secret, digest_size=KEY_BYTES, person=b"titan/1/share").digest()

        self.of = derived
        """The key that is shared with the user who has this public key."""


def request_code(key: bytes, said: bytes) -> bytes:
    """The sender of a request to a member: I ask for this."""
    return blake2b(said, key=key, digest_size=CODE_BYTES, person=b"titan/1/request").digest()


def reply_code(key: bytes, said: bytes, reply: bytes) -> bytes:
    """A member to the sender of a request: it was ordered, and came to this.

    Args:
        said: what the sender signed: encoded values, which show where they end.
    """
    return blake2b(said + reply, key=key, digest_size=CODE_BYTES, person=b"titan/1/reply").digest()


def attach(signature: bytes, said: bytes, keys: Iterable[bytes | None]) -> bytes:
    """A proof with a code for each member. None: that member looks at the signature."""
    return signature + b"".join(NO_CODE if key is None else request_code(key, said) for key in keys)


def signature_of(proof: bytes) -> bytes:
    """Of the sender, over all that it asks for."""
    return proof[:SIGNATURE_BYTES]


def has_codes(proof: bytes) -> bool:
    """Whether the sender also tells members one by one."""
    return len(proof) > SIGNATURE_BYTES


def is_for(key: bytes, seat: int, proof: bytes, said: bytes) -> bool:
    """Whether a proof has the right code for the member with this place in the configuration."""
    start = SIGNATURE_BYTES + seat * CODE_BYTES
    return compare_digest(proof[start : start + CODE_BYTES], request_code(key, said))


def count(codes: Sequence[tuple[bytes, bytes]], keys: dict[bytes, bytes], said: bytes, reply: bytes) -> int:
    """How many members vouch for a reply.

    Args:
        codes: (member, its code).
        keys: of the members that are asked, without who brings the codes.
    """
    given = dict(codes)  # one for each member, however many a liar sends
    return sum(
        compare_digest(given[member], reply_code(key, said, reply)) for member, key in keys.items() if member in given
    )
