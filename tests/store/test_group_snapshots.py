"""Snapshots of a group's store are made in small steps, whatever is in it. Counted, not timed."""

import gc

import pytest

from tests.store.test_group import Member
from titan_objects.store.group import snapshot, values
from titan_objects.store.group.messages import Section
from titan_objects.store.group.snapshot import Walk
from titan_objects.store.group.values import PIECE_BYTES


def many(command: bytes, count: int, large: bytes = b"") -> Section:
    """So many commands: `N` in their words is the number, `L` what is large."""
    words = command.split()
    return Section([[w.replace(b"N", b"%d" % number).replace(b"L", large) for w in words] for number in range(count)])


@pytest.mark.parametrize(
    "command", [b"rpush k L", b"sadd k NL", b"hset k N L", b"hset k NL v", b"zadd k N NL", b"xadd k N-1 f L"]
)
def test_no_step_has_much_in_it_however_large_the_elements_of_a_value_are(command: bytes) -> None:
    member, size = Member(), 5000
    member.run(many(command.replace(b"N-1", b"1N-1"), 500, b"x" * size))
    chunks = member.state()
    assert sum(map(len, chunks)) > 500 * size
    assert max(map(len, chunks)) < PIECE_BYTES + snapshot.CHUNK_BYTES + 2 * size
    assert member.restored(chunks).state() == chunks


def test_no_step_has_many_keys_or_elements_however_small_they_are() -> None:
    member = Member()
    member("SADD large " + " ".join(map(str, range(10_000))))
    member.run(many(b"set N v", 3000))
    for chunk in member.state()[1:]:
        [found] = [snapshot._chunk.decode(chunk).records]  # type: ignore[union-attr]
        assert len(found) <= snapshot.CHUNK_KEYS
        assert all(len(values._list.decode(each.value)) <= values.PIECE for each in found if each.key == b"large")


def test_what_a_walk_puts_aside_is_nothing_for_the_garbage_collector() -> None:
    """It would go through all of it again and again, which takes as long as all the steps together."""
    member = Member()
    member.run(many(b"sadd N m", 5000))
    chunks = Walk(member.store.engine, 0.0).chunks()
    next(chunks)
    member.run(many(b"sadd N m", 1))
    gc.collect()
    before = len(gc.get_objects())
    member.run(many(b"sadd N other", 5000))
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    chunks.close()


def test_what_was_put_aside_goes_bit_by_bit() -> None:
    member = Member()
    member.run(many(b"set N old", 5000))
    before = member.state()
    chunks = Walk(member.store.engine, member.store._alarm).chunks()
    made = [next(chunks)]
    member.run(many(b"set N new", 5000))
    made += chunks
    spent = member.store.engine.keyspace.spent
    assert made == before
    assert sum(map(len, spent)) == 5000 and max(map(len, spent)) < 100  # type: ignore[arg-type]
    for left in reversed(range(len(spent))):
        member("PING")
        assert len(spent) == left
