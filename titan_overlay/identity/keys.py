"""Keys. This file alone knows which library signs and agrees on secrets.

Node, pool and user keys are Ed25519 (RFC 8032); session keys come from ephemeral X25519 (RFC 7748).
Verification is a pure function, so its results are remembered: a record that many objects share (a grant, a
descriptor) is checked once.
"""

from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from titan_overlay.identity.ids import NodeId, node_id

KEY_BYTES = 32
SIGNATURE_BYTES = 64


class SigningKey:
    """An Ed25519 key pair: signs records, stands for a node, a user or a pool.

    Args:
        seed: the 32 secret bytes of RFC 8032.
    """

    __slots__ = ("_key", "id", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ValueError(f"an Ed25519 seed has {KEY_BYTES} bytes, this one {len(seed)}")
        self.seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._key.public_key().public_bytes_raw()
        self.id: NodeId = node_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64-byte signature of the message."""
        return self._key.sign(message)

    def derive(self, purpose: bytes, salt: bytes) -> bytes:
        """32 secret bytes for this purpose, that only who has the key can compute (HKDF-SHA256, RFC 5869)."""
        return HKDF(SHA256(), KEY_BYTES, salt, b"titan/1/" + purpose).derive(self.seed)

    def __repr__(self) -> str:
        return f"SigningKey({self.id.hex()[:12]}…)"


class Verifier(Protocol):
    """Checks one signature."""

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool: ...


def _ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's signature of `message`. False, never an error, for malformed input.

    For what is seen once (handshakes); records use `verify_record`.
    """
    return _ed25519(public, signature, message)


verify_record: Verifier = lru_cache(maxsize=16384)(_ed25519)
"""As `verify`, remembering the answer: the same records are seen again and again."""


class Ephemeral:
    """One half of an X25519 agreement, used for one handshake and forgotten."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(seed)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    def agree(self, peer_public: bytes) -> bytes | None:
        """32 shared secret bytes, or None where the peer's half is malformed or of low order."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            return None
