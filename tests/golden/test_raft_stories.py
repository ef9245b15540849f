"""Stories of a Raft group, message by message, as they are written down in `raft/`.

A change of the protocol shows here as a change of the story: read it, and if it is right, let the new one be written
with `TITAN_GOLDEN=write`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paper.raft_group import Group, id_of
from titan_overlay.mutable.engine import Checkpoint, EntryKind, SnapshotInstalled, SnapshotTaken, TransferAsked
from titan_overlay.mutable.raft_settings import RaftSettings

STORIES: dict[str, Callable[[], Group]] = {}


def story(tell: Callable[[], Group]) -> Callable[[], Group]:
    STORIES[tell.__name__] = tell
    return tell


@story
def an_election_and_a_write() -> Group:
    group = Group()
    group.tell("# A hears nothing of a leader, asks whether it would be elected, and is")
    group.elect("A")
    group.tell("# A client's request goes to B, who was the first to answer the last time: that makes a majority")
    group.propose("A", b"x=1")
    group.deliver()
    group.tell("# A little later C hears of it, too, and of all that has come since")
    group.spread("A")
    group.deliver()
    group.tell("# The others learn that it is committed with the next heartbeat")
    group.heartbeat("A")
    group.deliver()
    return group


@story
def a_leader_dies_and_comes_back() -> Group:
    group = Group()
    group.elect("A")
    group.story.clear()
    group.tell("# x reaches B, y reaches nobody, then A loses power")
    group.propose("A", b"x=1")
    group.deliver(lambda mail: mail[1] == "B")
    group.mail.clear()
    group.propose("A", b"y=2")
    group.mail.clear()
    group.crash("A")
    group.tell("# C stands first, but lacks x; B has it and is elected, and x is saved")
    group.time_out("C")
    group.deliver()
    group.elect("B")
    group.tell("# A is back with y in its log, which was never acknowledged: it is overwritten")
    group.start("A")
    group.propose("B", b"z=3")
    group.deliver()
    group.heartbeat("B")
    group.deliver()
    return group


@story
def a_follower_needs_a_state() -> Group:
    group = Group(settings=RaftSettings(trailing_entries=0))
    group.elect("A")
    group.crash("C")
    group.propose("A", b"x=1")
    group.deliver()
    group.story.clear()
    group.tell("# C was away; what it lacks is gone from A's log, so it fetches a state")
    group.step("A", SnapshotTaken(Checkpoint(2, 1)))
    group.start("C")
    group.heartbeat("A")
    group.deliver()
    group.tell(f"C fetches the state at {group.fetch['C'].checkpoint.index}, and has it")
    group.step("C", SnapshotInstalled(group.fetch["C"].checkpoint))
    group.deliver()
    group.tell("# and goes on with the log")
    group.propose("A", b"y=2")
    group.spread("A")
    group.deliver()
    return group


@story
def a_read_without_an_entry() -> Group:
    group = Group()
    group.elect("A")
    group.propose("A", b"x=1")
    group.deliver()
    group.story.clear()
    group.tell("# C asks the leader, which asks whether it still is; then C reads at that index, for which it")
    group.tell("# needs an entry that it would have heard of a little later")
    group.read("C")
    group.deliver()
    group.tell(f"C may read at {group.reads['C'][0].index}")
    return group


@story
def a_leader_hands_over() -> Group:
    group = Group()
    group.elect("A")
    group.story.clear()
    group.tell("# A is about to stop: B stands at once, and nobody waits for a timeout")
    group.step("A", TransferAsked(id_of("B")))
    group.deliver()
    return group


@story
def a_group_falls_asleep_and_wakes() -> Group:
    group = Group(settings=RaftSettings(sleep_after=0.2))
    group.elect("A")
    group.heartbeat("A")
    group.deliver()
    group.story.clear()
    group.tell("# Nobody has asked for anything for a while, and all agree: no more heartbeats, no more timers")
    group.heartbeat("A")
    group.deliver()
    assert set(group.timers.values()) == {None}
    group.tell("# until somebody asks")
    group.propose("A", b"x=1")
    group.deliver()
    return group


@story
def the_end_of_an_epoch() -> Group:
    group = Group()
    group.elect("A")
    group.story.clear()
    group.tell("# The next configuration is ordered like everything else; nothing behind it counts")
    group.propose("A", b"next", EntryKind.RECONFIG)
    group.propose("A", b"too late")
    group.tell("A refuses that")
    assert len(group.refused["A"]) == 1
    group.deliver()
    group.heartbeat("A")
    group.deliver()
    return group


@pytest.mark.parametrize("name", STORIES)
def test_the_story_is_as_it_was_written_down(name):
    path = Path(__file__).parent / "raft" / f"{name}.txt"
    told = "\n".join(STORIES[name]().story) + "\n"
    if os.environ.get("TITAN_GOLDEN") == "write":
        path.write_text(told, encoding="utf-8")
    assert told == path.read_text(encoding="utf-8")


def test_every_story_that_is_written_down_is_told():
    assert {path.stem for path in (Path(__file__).parent / "raft").glob("*.txt")} == set(STORIES)
