"""The largest object that can be published can also be deleted."""

from titan_overlay.errors import BadMessage
from titan_overlay.identity import records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Descriptor, Policy, Tombstone

KEY = SigningKey(b"k" * 32)
POOL = PoolId(SigningKey(b"p" * 32).public)


def descriptor(name_bytes: int, labels: int) -> Descriptor:
    policy = Policy(requires={f"label{number}": "x" * 20 for number in range(labels)})
    return Descriptor(
        "n" * name_bytes, "service", "C" * 40, 2**60, 1e9, policy, b"t" * 32, b"b" * 32, None, ("*",), b"g" * 160
    )


def test_the_longest_name_fits() -> None:
    signed = records.sign(descriptor(255, 1), KEY, POOL)
    records.sign(Tombstone(signed.raw, 2**60, 1e10, b"t" * 16), KEY, POOL)


def sizes_that_fit() -> int:
    """How many labels a descriptor can carry; each of them is ended by a tombstone on the way."""
    for labels in range(30):
        try:
            signed = records.sign(descriptor(200, labels), KEY, POOL)
        except BadMessage:
            return labels
        records.sign(Tombstone(signed.raw, 2**60, 1e10, b"t" * 16), KEY, POOL)
    return 30


def test_whatever_fits_can_be_ended() -> None:
    assert 0 < sizes_that_fit() < 30
