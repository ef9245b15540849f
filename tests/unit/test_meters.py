"""What a peer may ask for, and its subnet: neither new sessions nor new keys give more."""

from hashlib import sha256

import pytest

from titan_overlay.buckets import Bucket, Limit
from titan_overlay.identity.ids import NodeId
from titan_overlay.meters import PEERS_OF_A_SUBNET, UNMETERED, Meters

TEN = Limit(1.0, 10.0)


def key(number: int) -> NodeId:
    return NodeId(sha256(b"key %d" % number).digest())


def taken(bucket: Bucket, now: float = 0.0) -> int:
    """How much may be taken at once."""
    count = 0
    while count < 1000 and not bucket.take(1, now):
        count += 1
    return count


def test_a_peer_that_comes_again_finds_its_bucket_as_it_left_it() -> None:
    meters = Meters(TEN)
    assert taken(meters.of(key(1), ("5.9.1.1", 1))) == 10
    assert taken(meters.of(key(1), ("5.9.1.1", 2))) == 0
    assert taken(meters.of(key(1), ("7.9.1.1", 1))) == 0, "from elsewhere likewise"


@pytest.mark.parametrize("address", ["5.9.1.{}", "2001:4860:0:{}::1", "192.168.1.7"])
def test_keys_of_one_subnet_have_no_more_together_than_a_few(address: str) -> None:
    meters = Meters(TEN)
    crowd = [meters.of(key(number), (address.format(number), 1000 + number)) for number in range(100)]
    assert sum(map(taken, crowd)) == 10 * PEERS_OF_A_SUBNET
    assert taken(meters.of(key(100), ("8.8.8.8", 1))) == 10, "others have theirs"


def test_addresses_of_a_private_network_have_each_their_own() -> None:
    meters = Meters(TEN)
    assert [taken(meters.of(key(number), (f"192.168.1.{number}", 1))) for number in range(1, 20)] == [10] * 19


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_programs_of_this_machine_are_not_metered(ip: str) -> None:
    meters = Meters(TEN)
    assert taken(meters.of(key(1), ("5.9.1.1", 1))) == 10
    assert meters.of(key(1), (ip, 1)) is UNMETERED
    assert taken(meters.of(key(1), ("5.9.1.1", 1))) == 0, "that it was here as well gives it nothing elsewhere"


def test_what_is_remembered_is_bounded_and_a_subnet_with_many_keys_stays_known() -> None:
    meters = Meters(TEN, peers_max=8)
    for number in range(100):
        taken(meters.of(key(number), ("5.9.1.1", 1)))
    assert len(meters._peers) == 8
    assert taken(meters.of(key(200), ("5.9.1.2", 1))) == 0
    for number in range(100):
        meters.of(key(number), (f"9.{number}.1.1", 1))
    assert len(meters._peers) == len(meters._subnets) == 8
