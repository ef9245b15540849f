"""Distinct owners and subnets, as far as they can be seen."""

import pytest

from titan_overlay.identity import grants, records
from titan_overlay.identity.contacts import Contact, pack_address
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement
from titan_overlay.identity.subnets import subnet
from titan_overlay.pool.finding.voters import distinct, owner_of

POOL_KEY = SigningKey(b"p" * 32)
POOL = PoolId(POOL_KEY.public)
NOW = 1_700_000_000.0
DAY = 86400.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("81.2.69.1", 1), ("81.2.69.254", 2), True),
        (("81.2.69.1", 1), ("81.2.70.1", 1), False),
        (("2001:4860:1::1", 1), ("2001:4860:1:ffff::1", 1), True),
        (("2001:4860:1::1", 1), ("2001:4860:2::1", 1), False),
        (("::ffff:81.2.69.1", 1), ("81.2.69.9", 1), True),
        (("10.0.0.1", 1), ("10.0.0.2", 1), False),
        (("10.0.0.1", 1), ("10.0.0.1", 2), True),
        (("fd00::1", 1), ("fd00::2", 1), False),
        (("127.0.0.1", 1), ("127.0.0.1", 2), False),
        (("127.0.0.1", 1), ("127.0.0.1", 1), True),
    ],
)
def test_what_counts_as_one_subnet(one: tuple[str, int], other: tuple[str, int], same: bool) -> None:
    assert (subnet(*one) == subnet(*other)) is same


@pytest.mark.parametrize("bad", ["", "evil.example", "0.0.0.0", "::", "224.0.0.1", "1.2.3", "\x00", "fe80::1%25eth0/"])
def test_what_is_no_address_of_one_machine_has_no_subnet(bad: str) -> None:
    assert subnet(bad, 1) == "" or bad.startswith("fe80")


def holder(number: int, ip: str, by: SigningKey | None = None, parent: bytes = b"", grant: bytes = b"") -> Signed:
    key = SigningKey(bytes([number]) * 32)
    if by is not None:
        grant = grants.issue(by, POOL, key.id, Right.HOST, now=NOW, expires=NOW + DAY, parent=parent).raw
    return records.sign(Advertisement(bytes(32), ip, 4747, 1, NOW + DAY, grant=grant), key, POOL)


def contact_of(advertisement: Signed[Advertisement]) -> Contact:
    return advertisement.value.contact(advertisement.signer)


def chosen(holders: list[Signed]) -> list[int]:
    return [holders.index(each) for each in distinct(holders, POOL, contact_of)]


def public(number: int) -> str:
    return f"81.2.{number}.1"


def test_holders_that_the_pool_has_granted_are_owners_of_their_own() -> None:
    assert chosen([holder(n, public(n), POOL_KEY) for n in range(1, 5)]) == [0, 1, 2, 3]


def test_holders_in_one_subnet_count_once() -> None:
    assert chosen([holder(n, f"81.2.69.{n}", POOL_KEY) for n in range(1, 5)]) == [0]


def test_all_that_one_key_has_passed_on_counts_once_however_it_was_passed_on() -> None:
    trader, middle = SigningKey(b"t" * 32), SigningKey(b"m" * 32)
    to_trader = grants.issue(POOL_KEY, POOL, trader.id, Right.HOST, now=NOW, expires=NOW + DAY, depth=2).raw
    to_middle = grants.issue(
        trader, POOL, middle.id, Right.HOST, now=NOW, expires=NOW + DAY, depth=1, parent=to_trader
    ).raw
    holders = [
        holder(1, public(1), trader, to_trader),
        holder(2, public(2), trader, to_trader),
        holder(3, public(3), middle, to_middle),
        holder(4, public(4), POOL_KEY),
    ]
    assert {owner_of(each, POOL) for each in holders[:3]} == {trader.id}
    assert chosen(holders) == [0, 3]


def test_in_a_private_network_each_address_counts() -> None:
    trader = SigningKey(b"t" * 32)
    to_trader = grants.issue(POOL_KEY, POOL, trader.id, Right.HOST, now=NOW, expires=NOW + DAY, depth=1).raw
    assert chosen([holder(n, f"10.0.0.{n % 2}", trader, to_trader) for n in range(1, 4)]) == [0, 1]


def test_a_holder_that_shares_any_of_its_addresses_with_another_counts_with_it() -> None:
    def both(number: int, ip: str, ip6: str) -> Signed:
        key = SigningKey(bytes([number]) * 32)
        other = pack_address((ip6, 4747))
        return records.sign(Advertisement(bytes(32), ip, 4747, 1, NOW + DAY, other=other), key, POOL)

    holders = [
        both(1, public(1), "2001:4860:1::1"),
        both(2, public(2), "2001:4860:1::2"),
        both(3, public(1), "2001:4860:3::1"),
        both(4, public(4), "2001:4860:4::1"),
    ]
    assert chosen(holders) == [0, 3]


def test_without_a_grant_that_holds_a_node_stands_for_itself() -> None:
    assert chosen([holder(1, public(1), grant=b"\xc1"), holder(2, public(2))]) == [0, 1]
