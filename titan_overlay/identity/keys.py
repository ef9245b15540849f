"""Keys. This file alone knows which library signs and agrees on secrets.

Node, pool and user keys are Ed25519 (RFC 8032), by libsodium, which signs and verifies in half of OpenSSL's time;
session keys come from ephemeral X25519 (RFC 7748).
Verification is a pure function, so its results are remembered: a record that many objects share (a grant, a
descriptor) is checked once.
"""

from functools import lru_cache
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

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
        self.public, self._key = crypto_sign_seed_keypair(seed)
        self.id: NodeId = node_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64-byte signature of the message."""
        return crypto_sign(message, self._key)[:SIGNATURE_BYTES]

    def derive(self, purpose: bytes, salt: bytes) -> bytes:
        """32 secret bytes for this purpose, that only who has the key can compute (HKDF-SHA256, RFC 5869)."""
        return HKDF(SHA256(), KEY_BYTES, salt, b"titan/1/" + purpose).derive(self.seed)

    def __repr__(self) -> str:
        return f"SigningKey({self.id.hex()[:12]}…)"


class Verifier(Protocol):
    """Checks one signature."""

    def __call__(self, public: bytes, signature: bytes, message: bytes) -> bool: ...


def _ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False  # the library finds the end of the signature by its length
    try:
        crypto_sign_open(signature + message, public)
    except BadSignatureError:
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
