"""With which a node votes: a key for each group and epoch."""

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey, verify
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import (
    Charter,
    KeyOffer,
    Turnover,
    configuration_hash,
    configured,
    covered_key,
    replaced,
)
from titan_overlay.mutable.voting_keys import OFFERED_MAX, GroupKeys, VotingKeys
from titan_overlay.testing.disk import MemoryDisk

pytestmark = pytest.mark.loops("virtual")

GROUP, POOL = ObjectId(b"g" * 32), PoolId(b"p" * 32)


def keys_on(disk: MemoryDisk) -> VotingKeys:
    return VotingKeys(disk, Ambient.system(), "log")


async def member(disk: MemoryDisk) -> tuple[GroupKeys, bytes]:
    """A node that has offered a key and uses it."""
    keys = keys_on(disk)
    public = keys.offer(GROUP)
    opened = await keys.open(GROUP)
    assert opened.use(public)
    return opened, public


async def test_what_was_offered_is_what_the_member_votes_with_also_after_a_restart() -> None:
    disk = MemoryDisk()
    _, public = await member(disk)
    again = await keys_on(disk).open(GROUP)
    assert again.use(public)
    assert verify(public, again.sign(b"vote"), b"vote")


async def test_an_offer_that_was_not_taken_is_forgotten_with_the_run() -> None:
    disk = MemoryDisk()
    public = keys_on(disk).offer(GROUP)
    assert not (await keys_on(disk).open(GROUP)).use(public)
    assert not await disk.list("")


async def test_the_next_key_is_durable_and_the_old_one_goes_when_its_epoch_is_over() -> None:
    disk = MemoryDisk()
    keys, first = await member(disk)
    second = await keys.next()
    assert await keys.next() == second, "one for each epoch"
    restarted = await keys_on(disk).open(GROUP)
    assert restarted.use(second)
    await restarted.erase()
    assert not (await keys_on(disk).open(GROUP)).use(first)
    assert restarted.use(second)
    assert await restarted.next() not in (first, second)


async def test_who_disowns_its_disk_has_no_key_any_more() -> None:
    disk = MemoryDisk()
    keys, public = await member(disk)
    await keys.forget()
    assert not keys.use(public)
    assert not (await keys_on(disk).open(GROUP)).use(public)


async def test_damaged_keys_are_an_error_that_names_the_file() -> None:
    disk = MemoryDisk()
    await disk.write(f"log/keys/{GROUP.hex()}", b"\x91\xc4\x01x")
    with pytest.raises(StorageError, match="log/keys/"):
        await keys_on(disk).open(GROUP)


async def test_offers_are_bounded() -> None:
    keys = keys_on(MemoryDisk())
    first = keys.offer(GROUP)
    for number in range(OFFERED_MAX):
        keys.offer(ObjectId(number.to_bytes(32, "big")))
    assert keys.offer(GROUP) != first


# ---- what the others check ---------------------------------------------------------------------------------------

OLD_KEYS = {bytes([number]) * 32: SigningKey(bytes([number]) * 32) for number in (1, 2, 3)}
OLD = configured(1, [(member, key.public) for member, key in OLD_KEYS.items()])
CHARTER = Charter(GROUP, POOL, configuration_hash(OLD), byzantine=False, owner=b"o" * 32, size=3)
ONE, TWO, THREE = OLD.members
NEWCOMER, FRESH = b"n" * 32, SigningKey(b"f" * 32)


def offer(member: bytes, key: bytes, *, signer: bytes | None = None, epoch: int = 2) -> KeyOffer:
    signature = OLD_KEYS[signer or member].sign(covered_key(POOL, GROUP, epoch, key))
    return KeyOffer(member, key, signature)


def turnover(*offers: KeyOffer) -> Turnover:
    return replaced(OLD, THREE, NEWCOMER, b"k" * 32, offers)


def test_members_that_stay_take_the_keys_that_they_offered_or_keep_theirs() -> None:
    made = turnover(offer(ONE, FRESH.public))
    CHARTER.check_turnover(made, OLD)
    assert dict(zip(made.configuration.members, made.configuration.keys, strict=True)) == {
        ONE: FRESH.public,
        TWO: OLD_KEYS[TWO].public,
        NEWCOMER: b"k" * 32,
    }


@pytest.mark.parametrize(
    "false",
    [
        turnover(offer(ONE, FRESH.public, signer=TWO)),
        turnover(offer(ONE, FRESH.public, epoch=3)),
        Turnover(turnover(offer(ONE, FRESH.public)).configuration),
        Turnover(turnover(offer(ONE, FRESH.public)).configuration, (offer(ONE, b"o" * 32),)),
        Turnover(Configuration(2, OLD.members[:2], keys=OLD.keys[:2])),
        Turnover(Configuration(2, OLD.members, keys=OLD.keys)),
    ],
    ids=["another's signature", "another epoch", "no offer", "an offer of another key", "a member less", "nobody new"],
)
def test_nobody_gives_a_member_a_key_that_it_has_not_offered(false: Turnover) -> None:
    with pytest.raises(BadMessage):
        CHARTER.check_turnover(false, OLD)
