"""What everybody who has the descriptor checks before it believes that a quorum was given up."""

import msgspec
import pytest

from tests.paper.raft_group import Group
from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable.engine import EntryKind
from titan_overlay.mutable.epochs import (
    EPOCHS_SKIPPED,
    Certificate,
    Chain,
    Charter,
    RecoveryOrder,
    Start,
    configuration_hash,
    configured,
    covered_recovery,
)
from titan_overlay.wire import codec

OWNER, THIEF = SigningKey(b"o" * 32), SigningKey(b"t" * 32)
GROUP, POOL = b"g" * 32, PoolId(b"p" * 32)
PAIRS = [(bytes([number]) * 32, bytes([number + 100]) * 32) for number in (1, 2, 3)]
OLD = configured(1, PAIRS)
LEFT = configured(1 + EPOCHS_SKIPPED, PAIRS[:1])
CHARTER = Charter(GROUP, POOL, configuration_hash(OLD), byzantine=False, owner=OWNER.public, size=3)
START = Start(GROUP, LEFT, 20, b"r" * 32, configuration_hash(OLD))


def chain(start: Start, signer: SigningKey = OWNER) -> Chain:
    raw = codec.encode(start)
    return Chain(OLD, (Certificate(raw, (), signer.sign(covered_recovery(POOL, raw))),))


def changed(**what: object) -> Start:
    return msgspec.structs.replace(START, **what)  # type: ignore[arg-type]


def test_the_owners_word_is_a_link_of_the_chain() -> None:
    assert CHARTER.current(chain(START)) == LEFT
    assert CHARTER.quorum(LEFT) == 1


@pytest.mark.parametrize(
    "false",
    [
        chain(START, THIEF),
        chain(changed(object_id=b"h" * 32)),
        chain(changed(previous=b"x" * 32)),
        chain(changed(configuration=configured(2, PAIRS[:1]))),
        chain(changed(configuration=configured(1 + EPOCHS_SKIPPED, [(b"s" * 32, b"k" * 32)]))),
        chain(changed(configuration=configured(1 + EPOCHS_SKIPPED, [(PAIRS[0][0], b"k" * 32)]))),
        Chain(OLD, (Certificate(codec.encode(START), ()),)),
    ],
    ids=["a thief", "another object", "another epoch", "the next epoch", "a stranger", "another key", "nobody"],
)
def test_nothing_else_is(false: Chain) -> None:
    with pytest.raises(BadMessage):
        CHARTER.current(false)


def test_members_stop_for_the_owner_alone() -> None:
    order = RecoveryOrder(GROUP, configuration_hash(OLD), LEFT)
    signed = covered_recovery(POOL, codec.encode(order))
    CHARTER.check_order(order, OWNER.sign(signed), OLD)
    with pytest.raises(Forbidden):
        CHARTER.check_order(order, THIEF.sign(signed), OLD)
    with pytest.raises(BadMessage):
        CHARTER.check_order(order, OWNER.sign(signed), configured(2, PAIRS))


def test_what_may_have_been_committed_is_kept() -> None:
    """A follower does not know yet that its leader has counted it."""
    group = Group()
    group.time_out("A")
    group.deliver(lambda mail: True)
    group.propose("A", b"acknowledged")
    group.deliver(lambda mail: mail[1] == "B")
    engine = group.engines["B"]
    assert engine.status().committed < engine.status().last
    assert [entry.data for entry in engine.remains() if entry.kind is EntryKind.COMMANDS] == [b"acknowledged"]
    assert engine.status().last_term == 1
