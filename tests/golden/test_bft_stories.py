"""Stories of a byzantine group, message by message, as they are written down in `bft/`.

A change of the protocol shows here as a change of the story: read it, and if it is right, let the new one be written
with `TITAN_GOLDEN=write`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.bft_scenes import Scene
from titan_overlay.mutable.bft_messages import (
    Block,
    Certificate,
    ChainReply,
    ChainRequest,
    CheckpointVote,
    GaveUp,
    Phase,
    Proposal,
    StableCheckpoint,
    Timeout,
    TimeoutCertificate,
    Vote,
)
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import Entry, Event, Proposed, Received, SnapshotTaken

NAMES = "ABCD"


def who(member: bytes) -> str:
    return NAMES[member[0]]


class Story(Scene):
    """A scene of members A to D that writes down what happens."""

    def __init__(self, **settings: object) -> None:
        self.lines: list[str] = []
        self.blocks: dict[bytes, str] = {}
        super().__init__()
        self.settings = BftSettings(**settings)
        for member in self.honest.values():
            member.start()
            step = member.step
            member.step = lambda event, me=member.me, step=step: self.watched(me, step, event)

    def tell(self, line: str) -> None:
        self.lines.append(line)

    def watched(self, me: bytes, step: Callable[[Event], None], event: Event) -> None:
        match event:
            case Received(sender, message):
                self.tell(f"{who(sender)} -> {who(me)}  {self.words(message)}")
            case Proposed(data):
                self.tell(f"{who(me)} is to order {data.decode()}")
            case SnapshotTaken(state):
                self.tell(f"    {who(me)} has the state at {state.index}")
        unwritten = len(self.honest[me].unwritten)
        step(event)
        for ready in list(self.honest[me].unwritten)[unwritten:]:
            for record in ready.persist:
                self.tell(f"    {who(me)} writes {self.words(record)}")

    def executed(self, me: bytes, entry: Entry) -> None:
        super().executed(me, entry)
        self.tell(f"    {who(me)} executes {entry.index}: {entry.data.decode() or 'nothing'}")

    def block_name(self, digest: bytes) -> str:
        return self.blocks.get(digest, "the origin")

    def words(self, said: object) -> str:
        match said:
            case Block():
                text = ",".join(command.data.decode() or "nothing" for command in said.commands)
                self.blocks.setdefault(said.digest(), f"[{said.view}.{said.height} {text}]")
                return self.block_name(said.digest())
            case Proposal(block, _, timeouts):
                why = f", because {self.words(timeouts)}" if timeouts else ""
                return f"proposal of {self.words(block)} on {self.words(block.justify)}{why}"
            case Vote():
                return f"{said.phase.name.lower()} vote for {self.block_name(said.block)}"
            case Certificate(phase=phase):
                kind = "certificate of" if phase is Phase.FIRST else "proof of commit of"
                members = "".join(sorted(who(each.member) for each in said.signatures))
                return (
                    self.block_name(said.block) if not members else f"{kind} {self.block_name(said.block)} by {members}"
                )
            case Timeout():
                return f"gives view {said.view} up, with {self.words(said.high)}"
            case GaveUp(view):
                return f"that it gave view {view} up"
            case TimeoutCertificate():
                return f"{''.join(sorted(who(each.member) for each in said.claims))} gave view {said.view} up"
            case ChainRequest(committed, tip):
                return f"what follows {self.block_name(tip)}? ({committed} blocks are committed here)"
            case ChainReply():
                blocks = " ".join(self.words(block) for block in said.blocks) or "nothing"
                state = f", and {self.words(said.checkpoint)}" if said.checkpoint else ""
                return f"{blocks}, to {self.words(said.certificate)}{state}"
            case CheckpointVote():
                return f"my state after block {said.height} is {said.state.root.hex()[:8]}"
            case StableCheckpoint():
                return f"the stable state after block {said.height}"
        return type(said).__name__


STORIES: dict[str, Callable[[], Story]] = {}


def story(tell: Callable[[], Story]) -> Callable[[], Story]:
    STORIES[tell.__name__] = tell
    return tell


@story
def a_block_is_committed() -> Story:
    scene = Story()
    scene.tell("# B leads view 1. Its proposal is its first vote, and leaves when it is on disk")
    scene.propose(1, b"x=1")
    scene.let(Proposal)
    scene.tell("# Three first votes are a certificate; it is written before the second vote")
    scene.let(Vote, phase=Phase.FIRST)
    scene.tell("# Three second votes commit")
    scene.let(Vote, phase=Phase.SECOND)
    return scene


@story
def a_leader_dies_with_a_lock_behind() -> Story:
    scene = Story()
    scene.propose(1, b"x=1")
    scene.let(Proposal)
    scene.let(Vote, phase=Phase.FIRST, to=0)
    scene.bag.clear()
    scene.member(1).crash()
    scene.lines.clear()
    scene.tell("# B proposed x, of which A alone has a certificate; then B died. The others give its view up")
    scene.give_up(0, 2, 3)
    scene.let(Timeout)
    scene.tell("# C leads view 2. It goes on from what A had locked, and commits that with an empty entry")
    scene.let()
    scene.tell("# Then it orders what it is asked to")
    scene.propose(2, b"y=2")
    scene.let()
    return scene


@story
def a_state_becomes_stable() -> Story:
    scene = Story(checkpoint_blocks=2)
    scene.tell("# Members agree on the state after every second block; what is before it goes")
    scene.propose(1, b"x=1")
    scene.let()
    scene.lines.clear()
    scene.propose(1, b"x=2")
    scene.let()
    scene.tell(f"A's log begins with {scene.member(0).engine.status().first}")
    return scene


@pytest.mark.parametrize("name_of_story", STORIES)
def test_a_story_is_what_it_was(name_of_story: str) -> None:
    told = "\n".join(STORIES[name_of_story]().lines) + "\n"
    page = Path(__file__).parent / "bft" / f"{name_of_story}.txt"
    if os.environ.get("TITAN_GOLDEN") == "write":
        page.write_text(told, encoding="utf-8")
    assert told == page.read_text(encoding="utf-8")
