"""Codes under shared keys: whom they convince, and of what."""

from titan_overlay.mutable.authenticators import (
    SharedKeys,
    attach,
    count,
    has_codes,
    is_for,
    reply_code,
    signature_of,
)

ALICE, BOB = b"a" * 32, b"b" * 32
FIRST, SECOND, THIRD = (SharedKeys(bytes([each]) * 32) for each in range(3))
SIGNATURE = b"s" * 64


def test_each_member_finds_its_own_code_behind_the_signature() -> None:
    proof = attach(SIGNATURE, b"pay", [FIRST.of(ALICE), None, THIRD.of(ALICE)])
    assert signature_of(proof) == SIGNATURE
    assert has_codes(proof)
    assert not has_codes(SIGNATURE)
    assert is_for(FIRST.of(ALICE), 0, proof, b"pay")
    assert is_for(THIRD.of(ALICE), 2, proof, b"pay")
    assert not is_for(SECOND.of(ALICE), 1, proof, b"pay"), "its key was not known"
    assert not is_for(THIRD.of(ALICE), 3, proof, b"pay"), "there is no such place"
    assert not is_for(FIRST.of(ALICE), 0, proof, b"pay more")
    assert not is_for(FIRST.of(BOB), 0, proof, b"pay"), "another's key"
    assert not is_for(FIRST.of(ALICE), 2, proof, b"pay"), "another's place"


def test_a_reply_is_vouched_for_once_by_each_member_whose_code_is_right() -> None:
    keys = {b"1": FIRST.of(ALICE), b"2": SECOND.of(ALICE)}
    right = [(b"1", reply_code(keys[b"1"], b"pay", b"ok")), (b"2", reply_code(keys[b"2"], b"pay", b"ok"))]
    assert count(right, keys, b"pay", b"ok") == 2
    assert count([right[0], right[0]], keys, b"pay", b"ok") == 1, "a member has one voice"
    assert count([(b"2", right[0][1])], keys, b"pay", b"ok") == 0, "nobody speaks for another"
    assert count([(b"3", right[0][1])], keys, b"pay", b"ok") == 0, "who is not asked has none"
    assert count(right, keys, b"pay", b"no") == 0
    assert count(right, keys, b"pay less", b"ok") == 0
    assert count([(b"1", b"")], keys, b"pay", b"ok") == 0
