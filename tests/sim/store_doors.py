"""Doors to a group's store, and clients of theirs, on simulated machines."""

import asyncio
from random import Random
from typing import Any

from titan_objects.store.group.door import Door
from titan_objects.store.resp import decode_all
from titan_overlay.ambient import SIMULATED_EPOCH
from titan_overlay.testing.pool import SimulatedPool

NAME = "store/main"


class Client:
    """A connection to a door, as a Redis client has one."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = False
        self.full = False
        self.session = door.connect(self, "10.0.0.1:1")

    def send(self, data: bytes) -> None:
        for value in decode_all(data):
            self._replies.put_nowait(value)

    def unanswered(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def leave(self) -> None:
        self.door.disconnect(self.session)

    def put(self, *commands: str) -> None:
        """Sends commands, as one pipeline."""
        self.door.run(self.session, [command.encode().split() for command in commands])

    async def hear(self, seconds: float = 60.0) -> Any:
        """The next reply or message."""
        return await asyncio.wait_for(self._replies.get(), seconds)

    async def __call__(self, *commands: str, expect: int | None = None) -> Any:
        """The reply to a command; of several, all replies. `expect`: how many come."""
        self.put(*commands)
        replies = [await self.hear() for _ in range(len(commands) if expect is None else expect)]
        return replies if len(replies) > 1 else replies[0] if replies else None

    @property
    def quiet(self) -> bool:
        """Nothing has come that was not taken."""
        return self._replies.empty()


def door_on(sim: SimulatedPool, node: Any = None) -> Door:
    """A door on a node."""
    pool = sim.pool(node)
    return Door(pool, NAME, now=lambda: int((SIMULATED_EPOCH + sim.now) * 1000), chance=Random(1))
