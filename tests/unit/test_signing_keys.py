"""Signatures, by the published vectors."""

import pytest

from titan_overlay.identity.keys import SigningKey, verify

# RFC 8032, section 7.1: seed, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"), [tuple(map(bytes.fromhex, each)) for each in VECTORS]
)
def test_signatures_are_those_of_the_standard(seed: bytes, public: bytes, message: bytes, signature: bytes) -> None:
    key = SigningKey(seed)
    assert key.public == public
    assert key.sign(message) == signature
    assert verify(public, signature, message)
    assert not verify(public, signature, message + b"!")


def test_what_is_malformed_does_not_verify() -> None:
    key = SigningKey(bytes(32))
    signature = key.sign(b"all of it")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not verify(key.public, wrong, b"all of it")
    for stranger in (b"", key.public[:-1], key.public + b"\0", bytes(32), b"\xff" * 32):
        assert not verify(stranger, signature, b"all of it")
    assert not verify(key.public, signature + b"all", b" of it"), "where the signature ends is not the sender's to say"
