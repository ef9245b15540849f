"""Cryptography that costs nothing and protects nothing, for simulations that ask for it by name.

`with fake_crypto():` puts hashes in the place of Ed25519 and X25519 in `titan_overlay.identity.keys`, the one room that
knows them. Everything else runs unchanged: records are still signed, checked, and refused when altered; but whoever
knows a public key can forge its signatures, so an adversary may be simulated with it only if it never does. Keys made
outside do not work inside, nor the other way round.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from nacl.exceptions import BadSignatureError

from titan_overlay.identity import keys


def _public_of(seed: bytes) -> bytes:
    return hashlib.blake2b(seed, digest_size=keys.KEY_BYTES, person=b"titan/fake/key").digest()


def _signature(public: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public, digest_size=keys.SIGNATURE_BYTES, person=b"titan/fake/sig").digest()


def _keypair(seed: bytes) -> tuple[bytes, bytes]:
    """The key that signs is the public one."""
    public = _public_of(seed)
    return public, public


def _sign(message: bytes, key: bytes) -> bytes:
    return _signature(key, message) + message


def _open(signed: bytes, public: bytes) -> bytes:
    signature, message = signed[: keys.SIGNATURE_BYTES], signed[keys.SIGNATURE_BYTES :]
    if signature != _signature(public, message):
        raise BadSignatureError
    return message


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


class _Private:
    """Agrees with another one on a secret."""

    __slots__ = ("_public",)

    def __init__(self, public: _Public) -> None:
        self._public = public

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> Self:
        return cls(_Public(_public_of(seed)))

    def public_key(self) -> _Public:
        return self._public

    def exchange(self, peer: _Public) -> bytes:
        both = b"".join(sorted((self._public.raw, peer.raw)))
        return hashlib.blake2b(both, digest_size=32, person=b"titan/fake/dh").digest()


_FAKES: dict[str, Callable[..., Any]] = {
    "crypto_sign_seed_keypair": _keypair,
    "crypto_sign": _sign,
    "crypto_sign_open": _open,
    "X25519PrivateKey": _Private,
    "X25519PublicKey": _Public,
}
"""By the names that the room of keys has for what it takes from libraries."""


@contextmanager
def fake_crypto() -> Iterator[None]:
    """Fake signatures and key agreement inside; a run that uses it must say so in its result."""
    real = {name: getattr(keys, name) for name in _FAKES}
    for name, function in _FAKES.items():
        setattr(keys, name, function)
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
