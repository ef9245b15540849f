"""Cryptography that costs nothing and protects nothing, for simulations that ask for it by name.

`with fake_crypto():` puts hashes in the place of Ed25519 and X25519 in `titan_overlay.identity.keys`, the one room that
knows them. Everything else runs unchanged: records are still signed, checked, and refused when altered; but whoever
knows a public key can forge its signatures, so nothing that an adversary does may be simulated with it. Keys made
outside do not work inside, nor the other way round.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from cryptography.exceptions import InvalidSignature

from titan_overlay.identity import keys

_LIBRARY = ("Ed25519PrivateKey", "Ed25519PublicKey", "X25519PrivateKey", "X25519PublicKey")


class _Public:
    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> Self:
        if len(raw) != keys.KEY_BYTES:
            raise ValueError("a public key has 32 bytes")
        return cls(raw)

    def public_bytes_raw(self) -> bytes:
        return self.raw

    def verify(self, signature: bytes, message: bytes) -> None:
        if signature != _sign(self.raw, message):
            raise InvalidSignature


class _Private:
    """Signs, and agrees: the two uses share no key."""

    __slots__ = ("_public",)

    def __init__(self, public: _Public) -> None:
        self._public = public

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> Self:
        return cls(_Public(hashlib.blake2b(seed, digest_size=32, person=b"titan/fake/key").digest()))

    def public_key(self) -> _Public:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return _sign(self._public.raw, message)

    def exchange(self, peer: _Public) -> bytes:
        both = b"".join(sorted((self._public.raw, peer.raw)))
        return hashlib.blake2b(both, digest_size=32, person=b"titan/fake/dh").digest()


def _sign(public: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public, digest_size=64, person=b"titan/fake/sig").digest()


@contextmanager
def fake_crypto() -> Iterator[None]:
    """Fake signatures and key agreement inside; a run that uses it must say so in its result."""
    real = {name: getattr(keys, name) for name in _LIBRARY}
    for name in _LIBRARY:
        setattr(keys, name, _Private if "Private" in name else _Public)
    _forget()
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(keys, name, function)
        _forget()


def _forget() -> None:
    """What was verified in one world says nothing in the other."""
    keys.verify_record.cache_clear()  # type: ignore[attr-defined]  # an lru_cache behind the protocol
