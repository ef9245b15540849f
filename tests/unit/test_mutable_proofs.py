"""Who asked: by the link over which a request came, or by its signature."""

import msgspec
import pytest

from titan_overlay.errors import Forbidden
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.mutable import proofs
from titan_overlay.mutable.authenticators import SharedKeys
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Charter, configuration_hash
from titan_overlay.mutable.letters import Letters
from titan_overlay.mutable.proofs import Proofs
from titan_overlay.mutable.requests import DELIVERED, Batch, Request
from titan_overlay.wire import codec

ALICE, BOB = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
POOL = PoolId(SigningKey(b"p" * 32).public)
OBJECT = b"o" * 32
MEMBERS = Configuration(1, (b"m" * 32,), keys=(b"k" * 32,))
GENESIS = configuration_hash(MEMBERS)
CHARTER = Charter(OBJECT, POOL, GENESIS, byzantine=True, owner=ALICE.public, size=1)

KEYS = SharedKeys(b"s" * 32)


def signed(sequence: int = 1, key: SigningKey = ALICE) -> Request:
    return proofs.sign(Request(b"", 7, sequence, 0, "", "int", codec.encode(5)), key, POOL, OBJECT)


def falsely(request: Request) -> Request:
    return msgspec.structs.replace(request, proof=bytes(64))


def batch(*requests: Request, now: float = 1000.0) -> bytes:
    return codec.encode(Batch(now, b"seed", requests))


def test_a_signed_request_may_be_ordered_and_one_that_nobody_signed_may_not() -> None:
    checks = Proofs(CHARTER, KEYS, Letters(Rights(POOL)))
    assert checks.holds(batch(signed(1), signed(2, BOB)), 1000.0)
    assert not checks.holds(batch(signed(1), falsely(signed(2))), 1000.0)
    assert not checks.holds(batch(msgspec.structs.replace(signed(1), sender=BOB.public)), 1000.0)
    assert not checks.holds(batch(msgspec.structs.replace(signed(1), body=codec.encode(6))), 1000.0)
    checks.sit(b"m" * 32, MEMBERS)
    assert not checks.holds(batch(msgspec.structs.replace(signed(1), type=DELIVERED)), 1000.0)
    assert not checks.holds(batch(msgspec.structs.replace(signed(1), session=0)), 1000.0), "no letter without a seal"
    assert not checks.holds(b"\xc1", 1000.0)
    assert not checks.holds(batch(signed(1), now=2000.0), 1000.0), "nothing comes from the future"


def test_what_the_sender_itself_has_told_is_voted_for_but_not_proposed_without_a_signature() -> None:
    checks = Proofs(CHARTER, KEYS, Letters(Rights(POOL)))
    request = falsely(signed())
    checks.heard(request, ALICE.public)
    assert checks.holds(batch(request), 1000.0)
    with pytest.raises(Forbidden):
        checks.check(request)
    assert not checks.holds(batch(msgspec.structs.replace(request, body=codec.encode(6))), 1000.0)


def test_what_another_brings_needs_the_senders_signature() -> None:
    checks = Proofs(CHARTER, KEYS, Letters(Rights(POOL)))
    checks.heard(signed(), BOB.public)
    with pytest.raises(Forbidden):
        checks.heard(falsely(signed()), BOB.public)


def test_each_signature_is_checked_once_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def verify(public: bytes, signature: bytes, statement: bytes) -> bool:
        checked.append(signature)
        return True

    monkeypatch.setattr(proofs, "verify", verify)
    checks = Proofs(CHARTER, KEYS, Letters(Rights(POOL)), seen_max=3)
    for request in (signed(1), signed(1)):
        checks.heard(request, ALICE.public)
        checks.check(request)
        assert checks.holds(batch(request), 1000.0)
    assert len(checked) == 1
    for sequence in range(2, 6):
        checks.check(signed(sequence))
    checks.check(signed(1))
    assert len(checked) == 6
