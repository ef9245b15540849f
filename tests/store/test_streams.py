"""Streams: waiting readers, and what the log makes of groups."""

from pathlib import Path

import pytest

from tests.store.core import NOW, Core
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError


def test_a_reader_waits_for_the_next_entry() -> None:
    core = Core()
    client = core.connect()
    assert client("XREAD BLOCK 0 STREAMS s $") is ...
    core("XADD s 1-1 a b")
    assert client.heard() == [[[b"s", [[b"1-1", [b"a", b"b"]]]]]]


def test_consumers_share_what_comes_and_each_waits_its_turn() -> None:
    core = Core()
    first, second = core.connect(), core.connect()
    core("XGROUP CREATE s g $ MKSTREAM")
    first("XREADGROUP GROUP g one COUNT 1 BLOCK 0 STREAMS s >")
    second("XREADGROUP GROUP g two COUNT 1 BLOCK 0 STREAMS s >")
    core("XADD s 1-1 a 1")
    assert (len(first.heard()), len(second.heard())) == (1, 0)
    core("XADD s 2-1 a 2")
    assert len(second.heard()) == 1
    assert core("XPENDING s g") == [2, b"1-1", b"2-1", [[b"one", b"1"], [b"two", b"1"]]]


def test_a_wait_for_an_entry_ends_at_its_time() -> None:
    core = Core()
    client = core.connect()
    client("XREAD BLOCK 20 STREAMS s 0")
    core.pass_time(20)
    assert client.heard() == [None]


def test_ids_follow_the_clock_and_the_log_has_them() -> None:
    core = Core()
    assert core("XADD s * a 1") == b"4000000000000-0"
    assert core("XADD s * a 2") == b"4000000000000-1"
    core.now -= 5
    assert core("XADD s MAXLEN ~ 2 * a 3") == b"4000000000000-2"
    assert core.effects() == [
        "XADD s 4000000000000-0 a 1",
        "XADD s 4000000000000-1 a 2",
        "XADD s MAXLEN = 2 4000000000000-2 a 3",
    ]


def test_what_the_log_makes_of_a_group_is_the_group() -> None:
    core = Core()
    for command in (
        "XADD s 1-1 a 1",
        "XADD s 2-1 a 2",
        "XADD s 3-1 a 3",
        "XGROUP CREATE s g 0",
        "XREADGROUP GROUP g one COUNT 2 STREAMS s >",
        "XREADGROUP GROUP g two NOACK STREAMS s >",
        "XACK s g 1-1",
        "XCLAIM s g two 0 2-1",
        "XDEL s 1-1",
        "XAUTOCLAIM s g one 0 0",
    ):
        core(command)
    again = Core()
    again.engine.now = again.now
    assert again.engine.replay([list(effect) for effect in core.engine.effects]) is None
    for question in ("XRANGE s - +", "XPENDING s g", "XPENDING s g - + 9", "XINFO GROUPS s", "XINFO STREAM s"):
        assert again(question) == core(question), question


async def test_consumers_are_idle_since_the_start_and_entries_since_they_were_given(tmp_path: Path) -> None:
    clock = NOW
    store = Store(tmp_path, now=lambda: clock)
    for command in ("XGROUP CREATE s g 0 MKSTREAM", "XADD s 1-1 a 1", "XREADGROUP GROUP g one STREAMS s >"):
        await store.execute(command.encode().split())
    await store.close()
    clock += 60_000
    again = Store(tmp_path, now=lambda: clock)
    clock += 7_000
    assert (await again.execute([b"XINFO", b"CONSUMERS", b"s", b"g"]))[0][-1] == 7_000
    assert (await again.execute([b"XPENDING", b"s", b"g", b"-", b"+", b"9"]))[0][2] == 67_000
    await again.close()


@pytest.mark.parametrize("option", ["IDLE 9999999999999", "TIME 9999999999999", "IDLE -5000", "TIME -1"])
def test_no_entry_was_given_in_the_future_nor_before_all_time(option: str) -> None:
    core = Core()
    for command in ("XGROUP CREATE s g 0 MKSTREAM", "XADD s 1-1 a 1", "XREADGROUP GROUP g one STREAMS s >"):
        core(command)
    core.pass_time(1000)
    core(f"XCLAIM s g one 0 1-1 {option}")
    assert core("XPENDING s g - + 9") == [[b"1-1", b"one", 0, 2]], "it was given now, as Redis has it"


@pytest.mark.parametrize(
    "command",
    ["DEL s", "SET s x", "RENAME s t", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "PEXPIRE s 0", "MOVE s 1", "UNLINK s"],
)
def test_whoever_waits_for_a_group_is_told_when_its_stream_is_gone(command: str) -> None:
    core = Core()
    core("XGROUP CREATE s g $ MKSTREAM")
    client, other, reader = core.connect(), core.connect(), core.connect()
    client("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
    other("XREADGROUP GROUP g d BLOCK 0 STREAMS s >")
    reader("XREAD BLOCK 0 STREAMS s $")
    core(command)
    for each in (client, other):
        (told,) = each.heard()
        assert isinstance(told, CommandError) and told.text == b"UNBLOCKED the stream key no longer exists"
        assert each("PING") == b"PONG"
    assert reader.heard() == []
    core("DEL s")
    core("XADD s 7-1 a b")
    assert len(reader.heard()) == 1, "who reads without a group waits for a new one"


def test_whoever_waits_for_a_group_is_told_when_its_stream_ends() -> None:
    core = Core()
    core("XGROUP CREATE s g $ MKSTREAM")
    core("PEXPIRE s 100")
    client = core.connect()
    client("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
    core.pass_time(200)
    assert "UNBLOCKED" in str(client.heard()[0])
