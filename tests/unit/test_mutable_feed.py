"""The feed of changes: bounded by their number and by their size."""

import pytest

import titan_overlay as titan
from titan_overlay.mutable.feed import KEPT_BYTES_MAX, KEPT_MAX, Feed


def change(number: int, size: int = 0) -> titan.Change:
    return titan.Change(number, number, 0.0, b"", "str", b"", bytes(size))


async def first(feed: Feed, start: int) -> int:
    async for found in feed.watch(start):
        return found.number
    raise AssertionError("a watch has no end")


async def test_so_many_changes_are_kept():
    feed = Feed(0)
    feed.add([change(number) for number in range(1, KEPT_MAX + 11)])
    assert await first(feed, 11) == 11
    with pytest.raises(titan.Conflict, match="earliest is 11"):
        await first(feed, 10)


async def test_large_changes_are_not_kept_for_long():
    feed = Feed(0)
    for number in range(1, 11):
        feed.add([change(number, KEPT_BYTES_MAX // 4)])
    assert await first(feed, 7) == 7
    with pytest.raises(titan.Conflict):
        await first(feed, 6)
    feed.add([change(11, KEPT_BYTES_MAX * 2)])
    assert await first(feed, 11) == 11
