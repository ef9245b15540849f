"""What drives an engine: the order in which things are kept, said and handed in."""

import asyncio
from types import SimpleNamespace
from typing import Any

from titan_overlay.mutable.drive import Drive
from titan_overlay.mutable.engine import Event, Persisted, Ready, Send, TimerDue


class Engine:
    """At each timer it wants something kept, and then said."""

    def step(self, event: Event, now: float) -> Ready:
        ready = Ready(1)
        ready.persist.append("x")
        ready.send_after_persist.append(Send(b"peer", "kept"))
        return ready


class Table:
    """A group and its log as far as a drive sees them; `happened` is what came of it, in order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.happened: list[str] = []
        self.saved: asyncio.Future[None] = self.loop.create_future()
        group: Any = SimpleNamespace(
            loop=self.loop,
            peers=SimpleNamespace(post=self._post),
            ambient=SimpleNamespace(wall=lambda: 0.0),
            step=self._step,
        )
        log: Any = SimpleNamespace(append=lambda records: self.saved)
        engine: Any = Engine()
        self.drive = Drive(group, engine, 1, log)

    def _post(self, peer: bytes, type: str, body: bytes) -> None:
        """As links do: all that is sent in one turn of the loop leaves together."""
        self.loop.call_soon(self.happened.append, "it has left")

    def _step(self, event: Event) -> None:
        assert isinstance(event, Persisted)
        self.happened.append("persisted")


async def turns(loop_turns: int) -> None:
    for _ in range(loop_turns):
        await asyncio.sleep(0)


async def test_what_was_kept_is_said_before_what_follows_from_it_is_executed():
    table = Table()
    table.drive.step(TimerDue())
    await turns(4)
    assert table.happened == [], "nothing is said before it is durable"
    table.saved.set_result(None)
    await turns(4)
    assert table.happened == ["it has left", "persisted"]


async def test_an_epoch_that_ends_meanwhile_is_told_of_nothing_more():
    table = Table()
    table.drive.step(TimerDue())
    table.saved.set_result(None)
    await turns(1)  # it was kept, and said
    table.drive.stop()
    await turns(4)
    assert table.happened == ["it has left"]
