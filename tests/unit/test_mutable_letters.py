"""Who speaks for a mutable object: as many of its members as cannot all lie."""

import msgspec
import pytest

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Policy
from titan_overlay.mutable import letters
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import (
    Certificate,
    Chain,
    Charter,
    Start,
    configuration_hash,
    configured,
    covered,
)
from titan_overlay.mutable.letters import Letters, Seal
from titan_overlay.mutable.requests import Request
from titan_overlay.wire import codec

OWNER = SigningKey(b"o" * 32)
POOL = PoolId(OWNER.public)
MEMBERS = [bytes([number]) * 32 for number in range(1, 5)]
NEWCOMER = b"\x09" * 32
ORIGIN, TARGET = names.object_id(POOL, "bank/one"), names.object_id(POOL, "bank/two")


def key(member: bytes, epoch: int) -> SigningKey:
    return SigningKey(member[:31] + bytes([epoch]))


def members(epoch: int, ids: list[bytes] = MEMBERS) -> Configuration:
    return configured(epoch, ((each, key(each, epoch).public) for each in ids))


FIRST, SECOND = members(1), members(2, [*MEMBERS[1:], NEWCOMER])
START = codec.encode(Start(ORIGIN, SECOND, 7, b"r" * 32, configuration_hash(FIRST)))
PROOF = Certificate(START, tuple((each, key(each, 1).sign(covered(POOL, START))) for each in MEMBERS[:3]))
CHAINS = {1: Chain(FIRST), 2: Chain(FIRST, (PROOF,))}


def described(owner: SigningKey = OWNER, *, byzantine: bool = True) -> bytes:
    policy = Policy(faults=1, byzantine=byzantine)
    value = Descriptor("bank/one", "mutable", "Bank", 1, 1000.0, policy, genesis=configuration_hash(FIRST))
    return records.sign(value, owner, POOL).raw


def sealed(
    *signers: bytes, epoch: int = 1, target: bytes = TARGET, descriptor: bytes = b"", number: int = 3
) -> Request:
    plain = letters.letter(ORIGIN, number, "Deposit", b"100")
    said = letters.covered(POOL, epoch, plain, target)
    signatures = tuple((each, key(each, epoch).sign(said)) for each in signers)
    seal = Seal(descriptor or described(), codec.encode(CHAINS[epoch]), signatures)
    return msgspec.structs.replace(plain, proof=codec.encode(seal))


def test_more_members_than_can_lie_speak_for_an_object() -> None:
    known = Letters(Rights(POOL))
    known.check(sealed(*MEMBERS[1:3]), TARGET)
    known.check(sealed(*MEMBERS[1:3], epoch=2), TARGET)
    known.check(sealed(MEMBERS[0], descriptor=described(byzantine=False)), TARGET)


@pytest.mark.parametrize(
    "letter",
    [
        sealed(MEMBERS[0]),
        sealed(MEMBERS[0], MEMBERS[0]),
        sealed(MEMBERS[0], NEWCOMER),
        sealed(MEMBERS[0], MEMBERS[1], epoch=2),
        sealed(*MEMBERS[:2], target=ORIGIN),
        sealed(*MEMBERS[:2], descriptor=described(SigningKey(b"x" * 32))),
        msgspec.structs.replace(sealed(*MEMBERS[:2]), body=b"900"),
        msgspec.structs.replace(sealed(*MEMBERS[:2]), sequence=4),
        msgspec.structs.replace(sealed(*MEMBERS[:2]), sender=TARGET),
        msgspec.structs.replace(sealed(*MEMBERS[:2]), proof=bytes(64)),
    ],
    ids=[
        "one of four", "one, twice", "no member", "not any more", "for another", "whose owner is none", "another text",
        "another number", "another sender", "no seal",
    ],
)  # fmt: skip
def test_what_they_have_not_sealed_is_not_theirs(letter: Request) -> None:
    with pytest.raises(Forbidden):
        Letters(Rights(POOL)).check(letter, TARGET)


def test_nothing_new_comes_from_an_epoch_that_is_known_to_be_over() -> None:
    known = Letters(Rights(POOL))
    old, new = sealed(*MEMBERS[:2]), sealed(*MEMBERS[1:3], epoch=2)
    known.receive(old, TARGET)
    known.receive(new, TARGET)
    with pytest.raises(Forbidden, match="is over"):
        known.receive(old, TARGET)
    known.check(old, TARGET)  # what a member has not heard of may still be ordered: all find the same


def test_only_a_member_says_that_a_letter_has_arrived_and_for_itself() -> None:
    charter = Charter(ORIGIN, POOL, configuration_hash(FIRST), byzantine=True, owner=OWNER.public, size=4)
    said = letters.covered_arrival(POOL, ORIGIN, 1, 3)
    right = letters.arrival(MEMBERS[0], 3, key(MEMBERS[0], 1).sign(said))
    letters.check_arrival(right, charter, FIRST)
    for wrong in (
        msgspec.structs.replace(right, sender=MEMBERS[1]),
        msgspec.structs.replace(right, once="arrived/4", body=codec.encode(4)),
    ):
        with pytest.raises(Forbidden):
            letters.check_arrival(wrong, charter, FIRST)
    for wrong in (msgspec.structs.replace(right, once="again"), msgspec.structs.replace(right, body=b"\xc1")):
        with pytest.raises(BadMessage):
            letters.check_arrival(wrong, charter, FIRST)
