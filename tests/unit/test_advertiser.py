"""What a node holds can be found: advertised again and again, withdrawn when it goes."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

import pytest

from titan_overlay import testing
from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Advertisement
from titan_overlay.pool.keeping.advertiser import SLICE_SECONDS, Advertiser

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)


def thing(number: int) -> ObjectId:
    return ObjectId(sha256(b"thing %d" % number).digest())


class Town:
    """An advertiser, and a directory that takes down what it announces."""

    def __init__(self, **more: object) -> None:
        loop = asyncio.get_running_loop()
        self.wall_offset = 0.0
        ambient = Ambient.seeded(1, loop)
        self.ambient = Ambient(lambda: ambient.wall() + self.wall_offset, ambient.random, ambient.token_bytes)
        self.address = ("10.0.0.1", 4747)
        self.batches: list[tuple[float, list[Advertisement]]] = []
        self.remembered: dict[ObjectId, int] = {}
        self.down = False
        self.size = 1.0
        self.advertiser = Advertiser(
            self,
            KEY,
            POOL,
            self.ambient,
            contact=lambda: Contact(KEY.id, *self.address),
            interval=600.0,
            remember=self.remembered.__setitem__,
            **more,  # type: ignore[arg-type]
        )

    async def announce(self, object_id: ObjectId, raws: Sequence[bytes]) -> int:
        return (await self.announce_many([(object_id, raw) for raw in raws]))[object_id]

    async def announce_many(self, items: Sequence[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
        await asyncio.sleep(0.2)
        if self.down:
            raise LinkError("nobody answers")
        found = [records.check(raw, Advertisement, POOL).value for _, raw in items]
        self.batches.append((asyncio.get_running_loop().time(), found))
        return {object_id: 8 for object_id, _ in items}

    def estimated_size(self) -> float:
        return self.size

    def of(self, object_id: ObjectId) -> list[tuple[float, Advertisement]]:
        return [(at, each) for at, batch in self.batches for each in batch if each.object_id == object_id]


def in_town(story: Callable[[Town], Awaitable[None]], **more: object) -> None:
    async def main() -> None:
        town = Town(**more)
        town.advertiser.start()
        try:
            await story(town)
        finally:
            await town.advertiser.stop(withdraw=False)

    testing.run(main, seed=1)


def test_those_who_have_joined_since_are_told_once_they_are_as_many_as_those_who_know() -> None:
    async def story(town: Town) -> None:
        town.size = 10.0
        town.advertiser.add(thing(1), version=1)
        await asyncio.sleep(1)
        for size, times in ((19.0, 1), (20.0, 2), (39.0, 2), (10.0, 2), (45.0, 3)):
            town.size = size
            await asyncio.sleep(2 * SLICE_SECONDS)
            assert len(town.of(thing(1))) == times, size

    in_town(story)


def test_a_new_object_is_advertised_at_once_and_then_once_per_interval() -> None:
    async def story(town: Town) -> None:
        town.advertiser.add(thing(1), version=3)
        await asyncio.sleep(1)
        ((_, first),) = town.of(thing(1))
        assert (first.host, first.port, first.version, first.withdrawn) == ("10.0.0.1", 4747, 3, False)
        assert first.expires == pytest.approx(town.ambient.wall() + 1500, abs=2)
        await asyncio.sleep(12_000)
        times = [at for at, _ in town.of(thing(1))]
        gaps = [b - a for a, b in itertools.pairwise(times[1:])]
        assert 18 <= len(gaps) <= 22 and all(500 <= gap <= 700 for gap in gaps)
        assert times[1] - times[0] < 1000, "before the first has run out"

    in_town(story)


def test_many_objects_are_swept_in_the_order_of_ids_and_without_bursts() -> None:
    async def story(town: Town) -> None:
        for number in range(1000):
            town.advertiser.add(thing(number), version=1)
        await asyncio.sleep(700)
        town.batches.clear()
        await asyncio.sleep(1200)
        assert sum(len(batch) for _, batch in town.batches) == pytest.approx(2000, rel=0.15)
        for _, batch in town.batches:
            assert len(batch) < 3 * 1000 * SLICE_SECONDS / 600
            ids = [each.object_id for each in batch]
            wraps = sum(a > b for a, b in itertools.pairwise(ids))
            assert wraps <= 1
        assert town.advertiser.lag() == 0

    in_town(story)


def test_sequence_numbers_grow_even_when_the_clock_goes_back() -> None:
    async def story(town: Town) -> None:
        town.advertiser.add(thing(1), version=1, sequence=int((town.ambient.wall() + 5000) * 1000))
        await asyncio.sleep(700)
        town.wall_offset = -1e6
        await asyncio.sleep(1300)
        sequences = [each.sequence for _, each in town.of(thing(1))]
        assert len(sequences) >= 3 and sequences == sorted(set(sequences))
        assert town.remembered[thing(1)] == sequences[-1]

    in_town(story)


def test_what_goes_is_withdrawn() -> None:
    async def story(town: Town) -> None:
        town.advertiser.add(thing(1), version=1)
        await asyncio.sleep(1)
        town.advertiser.remove(thing(1))
        await asyncio.sleep(1)
        (_, first), (_, last) = town.of(thing(1))
        assert last.withdrawn and last.sequence > first.sequence and last.expires >= first.expires
        assert town.advertiser.current(thing(1)) is None
        await asyncio.sleep(2000)
        assert len(town.of(thing(1))) == 2

    in_town(story)


def test_a_clean_stop_withdraws_everything() -> None:
    async def story(town: Town) -> None:
        for number in range(20):
            town.advertiser.add(thing(number), version=1)
        await asyncio.sleep(1)
        await town.advertiser.stop()
        assert all(town.of(thing(number))[-1][1].withdrawn for number in range(20))

    in_town(story)


def test_a_clean_stop_is_bounded_although_nobody_answers() -> None:
    async def story(town: Town) -> None:
        town.advertiser.add(thing(1), version=1)

        async def for_ever(items: Sequence[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
            await asyncio.sleep(3600)
            return {}

        town.announce_many = for_ever  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        await town.advertiser.stop(timeout=2.0)
        assert asyncio.get_running_loop().time() - began <= 2.0

    in_town(story)


def test_a_new_address_is_advertised_within_five_seconds() -> None:
    async def story(town: Town) -> None:
        for number in range(300):
            town.advertiser.add(thing(number), version=1)
        await asyncio.sleep(100)
        town.address = ("10.9.9.9", 4848)
        town.advertiser.moved()
        await asyncio.sleep(5)
        assert all(town.of(thing(number))[-1][1].host == "10.9.9.9" for number in range(300))

    in_town(story)


def test_what_nobody_took_is_tried_again_and_the_lag_shows() -> None:
    async def story(town: Town) -> None:
        town.down = True
        town.advertiser.add(thing(1), version=1)
        await asyncio.sleep(2000)
        assert town.advertiser.lag() > 1000 and town.advertiser.failed > 4
        town.down = False
        await asyncio.sleep(301)
        assert town.of(thing(1)) and town.advertiser.lag() == 0

    in_town(story)


def test_an_advertisement_never_outlives_its_replica() -> None:
    async def story(town: Town) -> None:
        end = asyncio.get_running_loop().time() + 300
        town.advertiser.add(thing(1), version=1, expires=end, passing=True)
        await asyncio.sleep(1)
        ((_, only),) = town.of(thing(1))
        assert only.passing and only.expires == pytest.approx(town.ambient.wall() + 299, abs=0.5)
        await asyncio.sleep(1000)
        assert town.advertiser.current(thing(1)) is None
        assert len(town.of(thing(1))) == 1

    in_town(story)


def test_publishing_learns_how_many_directory_nodes_know_of_it() -> None:
    async def story(town: Town) -> None:
        town.advertiser.add(thing(1), version=1)
        assert await town.advertiser.announce_now(thing(1)) == 8
        await asyncio.sleep(5)
        assert len(town.of(thing(1))) == 1
        town.down = True
        town.advertiser.add(thing(2), version=1)
        assert await town.advertiser.announce_now(thing(2)) == 0

    in_town(story)
