"""Who may delete what: tombstones are checked by everyone who sees one."""

from hashlib import sha256

import pytest

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import records
from titan_overlay.identity.ids import PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Policy, Tombstone, check_tombstone, tombstone_seconds

POOL_KEY, OWNER, STRANGER = (SigningKey(bytes(31) + bytes([number])) for number in (1, 2, 3))
POOL = PoolId(POOL_KEY.public)
NOW = 1_700_000_000.0
TOKEN = b"only the publisher knows"
THING = records.sign(
    Descriptor(f"~{fingerprint(OWNER.public)}/thing", "service", "echo", 5, NOW, token_hash=sha256(TOKEN).digest()),
    OWNER,
    POOL,
)


def tombstone(signer: SigningKey, *, version: int = 5, token: bytes = b"", life: float = 86400.0) -> bytes:
    return records.sign(Tombstone(THING.raw, version, NOW + life, token), signer, POOL).raw


def test_the_publisher_deletes_without_a_token_any_version() -> None:
    assert check_tombstone(tombstone(OWNER, version=9), Rights(POOL), NOW).value.version == 9


def test_whoever_has_the_token_deletes_that_version() -> None:
    assert check_tombstone(tombstone(STRANGER, token=TOKEN), Rights(POOL), NOW).value.version == 5


@pytest.mark.parametrize("token", [b"", b"a guess"])
def test_a_wrong_token_deletes_nothing(token: bytes) -> None:
    with pytest.raises(Forbidden):
        check_tombstone(tombstone(STRANGER, token=token), Rights(POOL), NOW)


def test_a_token_does_not_delete_later_versions() -> None:
    with pytest.raises(Forbidden):
        check_tombstone(tombstone(STRANGER, token=TOKEN, version=6), Rights(POOL), NOW)


def test_a_tombstone_lasts_thirty_days_or_the_time_to_live_and_no_longer() -> None:
    longest = 30 * 86400.0
    assert tombstone_seconds(Policy()) == longest
    assert tombstone_seconds(Policy(ttl=90 * 86400.0)) == 90 * 86400.0
    check_tombstone(tombstone(OWNER, life=longest), Rights(POOL), NOW)
    with pytest.raises(BadMessage):
        check_tombstone(tombstone(OWNER, life=longest + 86400), Rights(POOL), NOW)
    with pytest.raises(BadMessage):
        check_tombstone(tombstone(OWNER, life=10.0), Rights(POOL), NOW + 1000)


def test_a_tombstone_holds_in_one_pool() -> None:
    with pytest.raises(BadMessage):
        check_tombstone(tombstone(OWNER), Rights(PoolId(STRANGER.public)), NOW)
