"""The routing table: who gets in, who leaves, who is close, who is looked at."""

from hashlib import sha256
from itertools import pairwise
from random import Random

import pytest

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, distance
from titan_overlay.overlay import routing
from titan_overlay.overlay import subnets as routing_subnets
from titan_overlay.overlay.routing import RoutingTable

NEVER = float("-inf")


def contact(number: int) -> Contact:
    return Contact(NodeId(sha256(b"%d" % number).digest()), f"10.0.{number >> 8}.{number & 255}", 4747)


ME = contact(0).id


def table_of(count: int, k: int = 20) -> RoutingTable:
    table = RoutingTable(ME, k)
    for number in range(1, count + 1):
        table.add(contact(number), 0.0)
    return table


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 500])
def test_selection_of_the_closest_is_exact(count: int) -> None:
    table = table_of(count)
    inside = list(table)
    for number in range(200):
        target = sha256(b"target %d" % number).digest()
        exact = sorted(inside, key=lambda c: distance(c.id, target))
        assert table.closest(target, 8) == exact[:8]
    near_me = sorted(inside, key=lambda c: distance(c.id, ME))
    assert table.closest(ME, 25) == near_me[:25]


def test_an_id_that_is_known_is_its_own_closest() -> None:
    table = table_of(50)
    assert all(table.closest(each.id, 1) == [each] for each in table)


def test_every_contact_lies_in_the_range_of_its_bucket_and_the_closest_are_all_kept() -> None:
    table = table_of(3000)
    for bucket in table.buckets:
        assert len(bucket) <= 20
        assert all(bucket.has_in_range(entry) for entry in bucket.nodes.values())
    assert table.buckets[-1].has_in_range(Contact(ME))
    ranges = sorted(bucket.range for bucket in table.buckets)
    assert ranges[0][0] == 0 and ranges[-1][1] == 2**256 - 1
    assert all(a[1] + 1 == b[0] for a, b in pairwise(ranges))
    nearest = sorted((contact(n) for n in range(1, 3001)), key=lambda c: distance(c.id, ME))[:10]
    assert table.closest(ME, 10) == nearest
    assert len(table) == len(list(table)) == sum(len(bucket) for bucket in table.buckets)


def test_old_contacts_are_preferred_and_newcomers_wait() -> None:
    table = table_of(3000)
    before = list(table)
    for number in range(3001, 3100):
        table.add(contact(number), 1.0)
    assert set(before) <= set(table)
    assert all(len(b.replacement_nodes) <= routing.REPLACEMENTS for b in table.buckets)


def test_this_node_never_enters() -> None:
    table = RoutingTable(ME, 20)
    assert not table.add(Contact(ME, "10.0.0.1", 1), 0.0)


def test_a_contact_leaves_after_two_silences_with_a_pause_between() -> None:
    table = table_of(5)
    victim = contact(3)
    assert not table.silent(victim, 100.0)
    assert victim not in table.closest(victim.id, 5), "who is in doubt is not told to others"
    assert not table.silent(victim, 101.0), "calls that fail together are one silence"
    assert victim.id in table
    assert table.silent(victim, 106.0)
    assert victim.id not in table


def test_a_contact_that_answers_after_all_is_trusted_again() -> None:
    table = table_of(5)
    table.silent(contact(3), 100.0)
    table.alive(contact(3).id)
    assert table.closest(contact(3).id, 1) == [contact(3)]
    assert not table.silent(contact(3), 200.0)


def test_silence_at_an_old_address_says_nothing_against_the_new() -> None:
    table = table_of(5)
    moved = Contact(contact(3).id, "10.9.9.9", 9)
    table.add(moved, 50.0)
    for now in (100.0, 200.0, 300.0):
        assert not table.silent(contact(3), now)
    assert table.get(moved.id) == moved


def test_the_longer_a_contact_is_known_the_less_often_it_is_pinged() -> None:
    table = table_of(1)
    one = contact(1)
    assert table.due(299.0, lambda _: NEVER, 9) == []
    assert table.due(300.0, lambda _: NEVER, 9) == [one]
    assert table.due(2000.0 + 999.0, lambda _: 2000.0, 9) == []
    assert table.due(2000.0 + 1000.0, lambda _: 2000.0, 9) == [one]
    assert table.due(90_000.0 + 1799.0, lambda _: 90_000.0, 9) == []
    assert table.due(90_000.0 + 1800.0, lambda _: 90_000.0, 9) == [one]


def test_traffic_of_any_kind_spares_the_ping() -> None:
    table = table_of(30)
    for now in range(0, 5000, 50):
        assert table.due(float(now), lambda _, now=now: float(now) - 10, 99) == []


def test_at_most_so_many_pings_at_once() -> None:
    table = table_of(200)
    assert len(table.due(1000.0, lambda _: NEVER, 8)) == 8
    assert len(table.due(1000.0, lambda _: NEVER, 8)) == 8, "and the rest is not forgotten"


def test_a_silent_contact_is_tried_again_after_its_pause() -> None:
    table = table_of(5)
    table.silent(contact(3), 100.0)
    assert table.due(104.9, lambda _: 100.0, 9) == []
    assert table.due(105.0, lambda _: 100.0, 9) == [contact(3)]


def test_a_replacement_is_looked_at_before_it_enters() -> None:
    table = table_of(3000)
    bucket = table.buckets[0]
    waiting = list(bucket.replacement_nodes.values())
    leaver = bucket.get_nodes()[0]
    table.remove(leaver.id)
    assert len(bucket) == 19
    assert table.due(10.0, lambda _: 10.0, 99) == [waiting[0]], "who has waited for longest comes first"
    assert table.add(waiting[0], 10.0)
    assert len(bucket) == 20 and waiting[0].id not in bucket.replacement_nodes


def test_a_flood_of_newcomers_displaces_nobody_and_gets_no_place_that_falls_free() -> None:
    table = table_of(3000)
    before, waiting = set(table), [list(b.replacement_nodes.values()) for b in table.buckets]
    for number in range(10_000, 14_000):
        table.add(contact(number), 1.0)
    assert {c for c in table if c.long_id not in {contact(n).long_id for n in range(10_000, 14_000)}} >= before
    assert [list(b.replacement_nodes.values()) for b in table.buckets][:6] == waiting[:6]

    bucket = table.buckets[0]
    table.remove(bucket.get_nodes()[0].id)
    for number in range(14_000, 14_100):
        table.add(contact(number), 2.0)
    assert len(bucket) == 19, "those who have waited are asked first"
    assert table.due(10.0, lambda _: 10.0, 1) == [waiting[0][0]]


def test_a_false_address_takes_nobody_out_of_the_line() -> None:
    table = table_of(3000)
    waiting = list(table.buckets[0].replacement_nodes.values())
    for each in waiting:
        table.silent(Contact(each.id, "10.66.6.6", 6), 1.0)
    assert list(table.buckets[0].replacement_nodes.values()) == waiting


# --- subnets --------------------------------------------------------------------------------------------------


def public(number: int, ip: str) -> Contact:
    return Contact(contact(number).id, ip, 4747)


def far(count: int) -> list[int]:
    """Numbers of contacts in the first bucket."""
    return [n for n in range(1, 4 * count + 40) if contact(n).id[0] & 128 != ME[0] & 128][:count]


def test_of_one_public_subnet_two_contacts_enter_a_bucket_and_ten_a_table() -> None:
    table = table_of(40, k=64)
    hour = 3600.0
    inside = [n for n in range(100, 400) if table.add(public(n, f"8.8.8.{n % 250 + 1}"), n * hour)]
    assert 2 <= len(inside) <= routing_subnets.PER_TABLE
    assert len(far(9)) == 9
    assert sum(table.add(public(n, f"1.1.1.{n}"), (1000 + n) * hour) for n in far(9)) == routing_subnets.PER_BUCKET
    assert (
        sum(table.add(public(n, f"2001:500:2::{n}"), (2000 + n) * hour) for n in far(9)) == routing_subnets.PER_BUCKET
    )


def test_a_burst_of_joins_from_one_subnet_enters_as_a_trickle() -> None:
    table = RoutingTable(ME, 64)
    [first, second] = [public(n, f"8.8.8.{n}") for n in far(2)]
    other = public(far(3)[2], "9.9.9.9")
    assert table.add(first, 0.0)
    assert not table.add(second, 1.0), "it waits"
    assert table.add(other, 1.0), "nobody waits for another subnet"
    assert second in table.due(routing_subnets.PAUSE_SECONDS, lambda _: 0.0, 9)
    assert table.add(second, routing_subnets.PAUSE_SECONDS)


def test_a_place_that_falls_free_is_free_for_its_subnet_again() -> None:
    table = RoutingTable(ME, 64)
    one, two, three = [public(n, f"8.8.8.{n}") for n in far(3)]
    assert table.add(one, 0.0) and table.add(two, 100.0) and not table.add(three, 200.0)
    table.remove(one.id)
    assert table.add(three, 300.0)
    moved = Contact(two.id, "9.9.9.9", 4747)
    assert table.add(moved, 400.0) and table.get(two.id) == moved
    assert table.add(one, 500.0)


def test_private_addresses_are_not_counted() -> None:
    table = RoutingTable(ME, 64)
    assert all(table.add(public(n, f"192.168.1.{n}"), 0.0) for n in far(20))


def test_buckets_are_refreshed_one_at_a_time_and_not_again_within_the_hour() -> None:
    table = table_of(500)
    for contact in table.buckets[1].get_nodes()[:3]:
        table.remove(contact.id)
    random = Random(1)
    refreshed = []
    while (target := table.stale(10_000.0, random)) is not None:
        refreshed.append(int.from_bytes(target, "big"))
    *others, deepest = table.buckets
    stale = [bucket for bucket in others if len(bucket) < 20] + [deepest]
    assert table.buckets[1] in stale and table.buckets[0] not in stale, "a full one has nothing to gain"
    for bucket in table.buckets:
        assert sum(bucket.range[0] <= each <= bucket.range[1] for each in refreshed) == (bucket in stale)
    assert table.stale(10_000.0 + 2000.0, random) is None
    assert table.stale(10_000.0 + 5000.0, random) is not None


def test_a_bucket_that_splits_off_is_refreshed_though_the_neighbourhood_was_looked_up() -> None:
    """Who has just joined knows its neighbours and hardly anybody else: that half of the pool is what it lacks."""
    table = RoutingTable(ME, 20)
    everybody = sorted((contact(number) for number in range(1, 1001)), key=lambda each: distance(each.id, ME))
    for each in [everybody[-1], *everybody[:20]]:
        table.add(each, 100.0)
    table.touch(ME, 100.0)
    assert len(table.buckets[0]) == 1
    target = table.stale(100.0, Random(1))
    assert (
        target is not None and table.buckets[0].range[0] <= int.from_bytes(target, "big") <= table.buckets[0].range[1]
    )


def test_a_bucket_with_few_contacts_is_looked_at_again_while_that_brings_some() -> None:
    table = table_of(500)
    random, now = Random(1), 10_000.0
    there = table.buckets[0].get_nodes()
    for each in there[4:]:
        table.remove(each.id)
    while table.stale(now, random) is not None:
        pass
    for each in there[4:9]:
        table.add(each, now)
    assert table.stale(now, random) is not None
    assert table.stale(now, random) is None, "that brought nobody"
    for each in there[9:12]:
        table.add(each, now)
    assert table.stale(now, random) is None, "half of the places are taken"


def test_who_was_found_in_a_bucket_spares_its_refresh() -> None:
    table = table_of(15)
    table.touch(sha256(b"x").digest(), 500.0)
    assert table.stale(1000.0, Random(1)) is None


@pytest.mark.parametrize("count", [3, 100, 1000, 4000])
def test_the_size_of_the_overlay_is_estimated_from_the_neighbourhood(count: int) -> None:
    estimates = []
    for me in range(10_000, 10_021):
        table = RoutingTable(contact(me).id, 20)
        for number in range(1, count):
            table.add(contact(number), 0.0)
        estimates.append(table.estimated_size())
    assert sorted(estimates)[10] == pytest.approx(count, rel=0.25)


# --- who is a candidate ---------------------------------------------------------------------------------------


def split_table() -> RoutingTable:
    """Found contacts have split it into some buckets; then the far ones were emptied."""
    table = table_of(200)
    for node in [node for b in table.buckets[:-1] for node in (*b.nodes, *b.replacement_nodes)]:
        table.remove(node)
    return table


def test_guests_get_at_most_half_of_a_far_bucket_and_leave_the_rest_to_who_is_found() -> None:
    table = split_table()
    for number in range(1000, 3000):
        table.add(contact(number), 1.0, guest=True)
    far = table.buckets[0]
    assert len(far) == 10, "however many call"
    assert not far.replacement_nodes
    found = [c for c in map(contact, range(3000, 3100)) if far.has_in_range(c)][:10]
    assert all(table.add(each, 2.0) for each in found)
    assert len(far) == 20


def test_in_the_own_neighbourhood_every_guest_is_welcome() -> None:
    table = split_table()
    for number in range(1000, 3000):
        table.add(contact(number), 1.0, guest=True)
    nearest = sorted((contact(n) for n in range(1000, 3000)), key=lambda c: distance(c.id, ME))[:10]
    assert all(each.id in table for each in nearest)


def test_guests_that_call_before_anybody_is_found_keep_half_of_what_splits_off() -> None:
    """Whoever joins knows nobody: its whole table is its neighbourhood, and liars may be the first to call."""
    table = RoutingTable(ME, 20)
    callers = [contact(number) for number in far(20)]
    for each in callers:
        assert table.add(each, 0.0, guest=True)
    near = sorted((contact(number) for number in range(100, 1100)), key=lambda each: distance(each.id, ME))[:20]
    for each in near:
        table.add(each, 1.0)
    assert [each for each in table if each in callers] == callers[:10], "those that came first"
    assert len(table) == 30 == len(list(table))
    found = [contact(number) for number in far(40)[20:30]]
    assert all(table.add(each, 2.0) for each in found)


def test_a_guest_that_is_found_too_leaves_the_place_of_a_guest_to_another() -> None:
    table = split_table()
    far = table.buckets[0]
    callers = [c for c in map(contact, range(1000, 1100)) if far.has_in_range(c)]
    for each in callers[:10]:
        assert table.add(each, 1.0, guest=True)
    assert not table.add(callers[10], 1.0, guest=True)
    table.add(callers[0], 2.0)
    assert table.add(callers[10], 3.0, guest=True)
    table.add(callers[0], 4.0, guest=True)
    assert not table.add(callers[11], 5.0, guest=True), "how one came first counts"


def test_a_guest_that_has_left_makes_room_for_another() -> None:
    table = split_table()
    far = table.buckets[0]
    callers = [c for c in map(contact, range(1000, 1100)) if far.has_in_range(c)]
    for each in callers[:10]:
        table.add(each, 1.0, guest=True)
    table.remove(callers[3].id)
    assert table.add(callers[10], 2.0, guest=True)
