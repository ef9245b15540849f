"""What crosses the wire in a handshake, and what its proofs cover (see `handshake.py` for how they are used)."""

import struct
from collections.abc import Callable
from hashlib import blake2b

from titan_overlay.identity.credentials import DATAGRAM_BYTES
from titan_overlay.identity.keys import Ephemeral
from titan_overlay.identity.poolrecord import PoolRecord

VERSION = 1
HELLO, COOKIE, INIT, RESP, REFUSED, ASK, RULES = range(1, 8)

HELLO_BYTES = 128
HELLO_FORM = struct.Struct(">BB8s32s")
COOKIE_FORM = struct.Struct(">BB8s32s32sB32sI16s")
INIT_FORM = struct.Struct(">BB8sI16sBBI32s32sH")
RESP_FORM = struct.Struct(">B8sI16sB18sH")
REFUSED_FORM = struct.Struct(">B8sB32s")
ASK_FORM = struct.Struct(">BB8s")
RULES_FORM = struct.Struct(">B8s")
ASK_BYTES = 512
"""Padded, so that the pool record that comes back is no larger than what asked for it."""

assert RULES_FORM.size + PoolRecord.LIMIT <= ASK_BYTES
assert COOKIE_FORM.size <= HELLO_BYTES and REFUSED_FORM.size <= HELLO_BYTES

WRONG_POOL, WRONG_VERSION, NOT_ADMITTED, WRONG_NODE, UNSOLVED, INTRUDER, CHEAP = range(1, 8)
REASONS = {
    WRONG_POOL: "it belongs to another pool",
    WRONG_VERSION: "it speaks another version of the protocol",
    NOT_ADMITTED: "its pool is private, and this key has no grant to join it that holds",
    WRONG_NODE: "another node answers at that address",
    UNSOLVED: "this node's key does not solve the pool's puzzle; start it again, to be told what helps",
    INTRUDER: "it has no grant to be in this private pool",
    CHEAP: "its key does not solve the pool's puzzle",
}

CLIENT, SERVING = 0, 1
"""Roles: who does not serve never enters a routing table."""

MAX_CREDENTIALS_BYTES = DATAGRAM_BYTES
UNKNOWN_POOL = bytes(32)
"""In the HELLO of a node that does not know its pool yet."""

EPOCH_SECONDS = 60.0
COOKIE_SECONDS = 30.0


class Epoch:
    """A secret and an ephemeral that serve all cookies of one minute."""

    __slots__ = ("ephemeral", "number", "secret")

    def __init__(self, number: int, token_bytes: Callable[[int], bytes]) -> None:
        self.number = number
        self.secret = token_bytes(32)
        self.ephemeral = Ephemeral(token_bytes(32))


PEER_ROLE = 32 + 32 + 32 + 1
"""Where the responder's role stands in what is signed."""


def covered(
    pool: bytes,
    initiator: bytes,
    responder: bytes,
    roles: bytes,
    initiator_ephemeral: bytes,
    responder_ephemeral: bytes,
    cookie: bytes,
    receive_id: int,
    credentials: bytes,
) -> bytes:
    """All of fixed length but the last, so no two handshakes cover the same bytes."""
    return b"".join(
        (
            pool,
            initiator,
            responder,
            roles,
            initiator_ephemeral,
            responder_ephemeral,
            cookie,
            receive_id.to_bytes(4, "big"),
            len(credentials).to_bytes(2, "big"),
            credentials,
        )
    )


def session_keys(secret: bytes, signed: bytes, *, called: bool) -> bytes:
    """The key of what this side sends, and of what it receives: 32 bytes each. `called`: the other side began."""
    both = blake2b(signed, digest_size=64, key=secret, person=b"titan/1/session").digest()
    return both[32:] + both[:32] if called else both


def cookie_mac(secret: bytes, nonce: bytes, minted: int, role: int, address: tuple[str, int]) -> bytes:
    """What proves that a nonce came back from the address it was given to."""
    bound = b"%b%d/%d/%d/%b" % (nonce, minted, role, address[1], address[0].encode())
    return blake2b(bound, digest_size=16, key=secret, person=b"titan/1/cookie").digest()
