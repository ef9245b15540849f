"""Keepers keep copies alive, and no more of them than they should."""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256

import pytest

from tests.unit.village import OWNER, POOL, Village, describe
from titan_overlay import testing
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.statements import Policy, Tombstone

Story = Callable[[Village], Awaitable[None]]


def in_village(story: Story, homes: int = 12, seed: int = 1, **settings: float) -> None:
    async def main() -> None:
        village = Village(homes, seed=seed, **settings)
        try:
            await story(village)
        finally:
            await village.close()

    testing.run(main, seed=seed)


@pytest.mark.parametrize("data", [False, True], ids=["service", "data"])
def test_a_holder_that_dies_is_replaced(data: bool) -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3), data=data)
        await asyncio.sleep(120)
        assert len(village.holders(thing)) == 3
        await village.holders(thing)[0].die()
        await village.until(lambda: len(village.holders(thing)) == 3, 60)
        await asyncio.sleep(300)
        assert len(village.holders(thing)) == 3
        repairs = [each for home in village.homes for each in home.keeper.figures.repairs]
        assert repairs and all(0 < each.seconds_noticed <= each.seconds_silent < 90 for each in repairs)

    in_village(story)


def test_one_survivor_brings_all_copies_back() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2, 3, 4], Policy(min_copies=5))
        await asyncio.sleep(60)
        for home in village.holders(thing)[1:]:
            await home.die()
        await village.until(lambda: len(village.holders(thing)) == 5, 60)

    in_village(story)


def test_a_repair_makes_one_copy_not_one_for_each_who_noticed() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2, 3, 4, 5], Policy(min_copies=6, max_copies=8))
        await asyncio.sleep(120)
        made = sum(home.keeper.figures.copies_made for home in village.homes)
        assert made == 0
        await village.holders(thing)[2].die()
        await asyncio.sleep(400)
        assert sum(home.keeper.figures.copies_made for home in village.homes) == 1

    in_village(story)


def test_holders_recruited_without_knowing_each_other_do_not_multiply() -> None:
    async def story(village: Village) -> None:
        descriptor = describe("thing", Policy(min_copies=3), village.homes[0].ambient.wall())
        for number in (0, 1, 2):
            thing = await village.place(descriptor, [number])
        await asyncio.sleep(600)
        assert len(village.holders(thing)) == 3
        assert all(home.keeper.copies(thing) == 3 for home in village.holders(thing))

    in_village(story)


def test_surplus_steps_down_to_the_maximum() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", list(range(10)), Policy(min_copies=2, max_copies=4))
        await village.until(lambda: len(village.holders(thing)) == 4, 300)
        await asyncio.sleep(300)
        assert len(village.holders(thing)) == 4
        assert sum(home.keeper.figures.stepped_down for home in village.homes) == 6

    in_village(story)


def test_a_second_singleton_is_told_and_goes() -> None:
    async def story(village: Village) -> None:
        descriptor = describe("one", Policy(min_copies=1, max_copies=1), village.homes[0].ambient.wall())
        await village.place(descriptor, [0])
        thing = await village.place(descriptor, [1])
        await village.until(lambda: len(village.holders(thing)) == 1, 120)
        await asyncio.sleep(300)
        assert len(village.holders(thing)) == 1

    in_village(story)


def test_a_bound_object_is_never_copied() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("lamp", [3], Policy(min_copies=1, max_copies=1, bound=True))
        await asyncio.sleep(4000)
        assert village.holders(thing) == [village.homes[3]]
        await village.homes[3].keeper.leave()
        assert len(village.holders(thing)) == 1

    in_village(story)


def test_a_replica_ends_with_its_time_to_live() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3, ttl=300.0))
        await asyncio.sleep(299)
        assert len(village.holders(thing)) == 3
        await village.until(lambda: not village.holders(thing), 5)
        await asyncio.sleep(120)
        assert not village.holders(thing)

    in_village(story)


def test_the_end_of_one_replica_is_mended_before_it_comes() -> None:
    async def story(village: Village) -> None:
        policy = Policy(min_copies=3, ttl=3000.0)
        descriptor = describe("thing", policy, village.homes[0].ambient.wall())
        await village.place(descriptor, [0])
        await asyncio.sleep(600)
        thing = await village.place(descriptor, [1, 2, 3])
        for _ in range(2000):
            await asyncio.sleep(1)
            assert len(village.holders(thing)) >= 3

    in_village(story)


def test_two_halves_of_a_healed_partition_agree_on_the_copies() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2, 3], Policy(min_copies=4, max_copies=4))
        await asyncio.sleep(60)
        village.cut(village.homes[:1] + village.homes[1:2] + village.homes[4:8])
        await village.until(lambda: len(village.holders(thing)) == 8, 300)
        village.heal()
        await village.until(lambda: len(village.holders(thing)) == 4, 2400)
        await asyncio.sleep(120)
        assert len(village.holders(thing)) == 4

    in_village(story)


def test_now_and_then_an_unanswered_probe_moves_nothing() -> None:
    async def story(village: Village) -> None:
        village.loss = 0.02
        things = [await village.publish(f"thing {each}", [each, each + 1, each + 2], Policy()) for each in range(9)]
        await asyncio.sleep(3600)
        assert sum(home.keeper.figures.misses for home in village.homes) > 10
        assert sum(home.keeper.figures.copies_made for home in village.homes) <= 3
        assert all(3 <= len(village.holders(thing)) <= 4 for thing in things)

    in_village(story)


def test_a_new_address_is_advertised_and_the_others_stay_in_touch() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3))
        await asyncio.sleep(60)
        home = village.homes[0]
        home.contact = Contact(home.id, "10.7.7.7", 4747)
        home.keeper.moved()
        await asyncio.sleep(5)
        assert village.directory[thing][home.id].value.host == "10.7.7.7"
        await asyncio.sleep(120)
        assert home.contact in village.homes[1].keeper.holders(thing)

    in_village(story)


def test_who_refuses_is_passed_over() -> None:
    async def story(village: Village) -> None:
        for home in village.homes[4:11]:
            home.full = True
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3))
        await asyncio.sleep(60)
        await village.homes[0].die()
        await village.until(lambda: len(village.holders(thing)) == 3, 90)
        assert not any(home.full for home in village.holders(thing))

    in_village(story)


def test_lost_content_is_noticed_and_copied_anew() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3), data=True)
        await asyncio.sleep(60)
        village.homes[1].lost_chunks = village.homes[1].full = True
        await village.until(lambda: thing in village.homes[1].released, 3700)  # at the next sample
        await village.until(lambda: len(village.holders(thing)) == 3, 60)
        assert village.homes[1].keeper.figures.lost_content == 1

    in_village(story)


# ---- leaving and coming back ---------------------------------------------------------------------------------


def test_a_clean_stop_hands_over_and_withdraws() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3))
        await asyncio.sleep(60)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await village.homes[0].keeper.leave()
        assert loop.time() - began < 10
        assert village.directory[thing][village.homes[0].id].value.withdrawn
        village.homes[0].alive = False
        for _ in range(600):
            assert len(village.holders(thing)) == 3
            await asyncio.sleep(1)

    in_village(story)


def test_a_clean_stop_takes_less_than_ten_seconds_although_nobody_answers() -> None:
    async def story(village: Village) -> None:
        for name in range(50):
            await village.publish(f"thing {name}", [0, 1, 2], Policy(min_copies=3))
        await asyncio.sleep(60)
        village.timeout = 5.0
        for home in village.homes[1:]:
            await home.die()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await village.homes[0].keeper.leave()
        assert loop.time() - began < 10

    in_village(story)


def test_where_enough_are_left_a_clean_stop_copies_nothing() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2, 3], Policy(min_copies=3))
        await asyncio.sleep(60)
        await village.homes[0].keeper.leave()
        village.homes[0].alive = False
        await asyncio.sleep(300)
        assert len(village.holders(thing)) == 3
        assert sum(home.keeper.figures.copies_made for home in village.homes) == 0

    in_village(story)


def test_replicas_of_the_last_run_meet_the_others_again() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3, max_copies=3))
        await asyncio.sleep(60)
        old = village.homes[0]
        (row,) = old.database.replicas()
        await old.die()
        await village.until(lambda: len(village.holders(thing)) == 3, 90)
        home = village.rebuild(0)
        assert await home.keeper.still_wanted(row)
        await home.keeper.resume(records.check(row.descriptor, type(describe("x", Policy(), 0.0).value), POOL), row)
        home.database.put_replica(row)
        assert len(village.holders(thing)) == 4
        await village.until(lambda: len(village.holders(thing)) == 3, 300)

    in_village(story)


# ---- versions and deletion -----------------------------------------------------------------------------------


def test_an_old_version_gives_way_to_the_new_one() -> None:
    async def story(village: Village) -> None:
        thing = await village.publish("thing", [0, 1, 2], Policy(min_copies=3))
        await asyncio.sleep(60)
        await village.publish("thing", [0, 1], Policy(min_copies=3), version=2)

        def all_new() -> bool:
            versions = [each.version for home in village.homes for each in home.keeper.holdings()]
            return versions == [2, 2, 2]

        await village.until(all_new, 300)
        assert len(village.holders(thing)) == 3

    in_village(story)


@pytest.mark.parametrize("told", ["one holder", "the directory"])
def test_a_deletion_reaches_all_holders(told: str) -> None:
    async def story(village: Village) -> None:
        token = b"secret"
        wall = village.homes[0].ambient.wall()
        descriptor = describe("thing", Policy(min_copies=3), wall, token_hash=sha256(token).digest())
        thing = await village.place(descriptor, [0, 1, 2])
        await asyncio.sleep(60)
        tombstone = records.sign(Tombstone(descriptor.raw, 1, wall + 86400.0, token), OWNER, POOL)
        if told == "one holder":
            outcome, proven = await village.homes[0].bury(tombstone.raw)
            assert outcome == "deleted"
            await village.homes[0].keeper.deleted(proven)
        else:
            village.store(thing, tombstone.raw)
        await village.until(lambda: not village.holders(thing), 3700)
        await asyncio.sleep(300)
        assert not village.holders(thing)
        assert village.tombstones[thing].raw == tombstone.raw

    in_village(story)


def test_a_replica_that_was_away_for_long_asks_whether_it_was_deleted() -> None:
    async def story(village: Village) -> None:
        token = b"secret"
        descriptor = describe(
            "thing", Policy(min_copies=1), village.homes[0].ambient.wall(), token_hash=sha256(token).digest()
        )
        thing = await village.place(descriptor, [0])
        (row,) = village.homes[0].database.replicas()
        await village.homes[0].die()
        await asyncio.sleep(86400)
        tombstone = Tombstone(descriptor.raw, 1, village.homes[1].ambient.wall() + 86400.0, token)
        village.store(thing, records.sign(tombstone, OWNER, POOL).raw)
        assert not await village.rebuild(0).keeper.still_wanted(row)

    in_village(story)


# ---- what it costs -------------------------------------------------------------------------------------------


def test_upkeep_stays_within_its_budget() -> None:
    """At most 25 bytes a second for each replica, advertising included (below 10 of them are advertisements)."""

    async def story(village: Village) -> None:
        for number in range(40):
            await village.publish(f"thing {number}", [number % 20, (number + 7) % 20, (number + 13) % 20], Policy())
        await asyncio.sleep(120)
        village.bytes.clear()
        await asyncio.sleep(1200)
        assert village.bytes["probe"] / 1200 / 120 < 15
        assert set(village.bytes) == {"probe"}

    in_village(story, homes=20)


def test_a_pair_of_nodes_shares_one_probe_for_all_its_objects() -> None:
    async def story(village: Village) -> None:
        for number in range(30):
            await village.publish(f"thing {number}", [0, 1], Policy(min_copies=2))
        await asyncio.sleep(120)
        village.messages.clear()
        await asyncio.sleep(300)
        assert village.messages["probe"] <= 2 * 300 / (0.85 * 30) + 2

    in_village(story)


def test_the_same_seed_gives_the_same_story() -> None:
    def tell(seed: int) -> list[object]:
        heard: list[object] = []

        async def story(village: Village) -> None:
            thing = await village.publish("thing", [0, 1, 2, 3], Policy(min_copies=4))
            await asyncio.sleep(60)
            await village.holders(thing)[1].die()
            await asyncio.sleep(200)
            heard.append([home.contact.ip for home in village.holders(thing)])
            heard.append(village.bytes)
            heard.append([list(home.keeper.figures.repairs) for home in village.homes])

        in_village(story, seed=seed)
        return heard

    assert tell(5) == tell(5)
