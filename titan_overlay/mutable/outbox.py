"""The outbox of a mutable object: whoever leads brings what is in it to where it belongs, as often as it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.mutable.requests import DELIVERED, Request
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

PAUSE_SECONDS = (0.2, 30.0)
"""Shortest and longest pause before a message is brought again."""


class Outbox:
    """Messages leave it once their arrival has been ordered, so that a new leader knows of it."""

    def __init__(self, group: "Group", deliver: Callable[[int, str, str, bytes], Awaitable[None]]) -> None:
        self._group = group
        self._deliver = deliver
        self._sending: set[int] = set()

    def drain(self) -> None:
        """Begins with what is new."""
        group = self._group
        if not group.machine.outbox or not group.leads:
            return
        for number, later in group.machine.outbox.items():
            if number not in self._sending:
                self._sending.add(number)
                group.spawn(self._bring(number, later.name, later.type, later.body))

    async def _bring(self, number: int, name: str, type: str, body: bytes) -> None:
        group = self._group
        pause, longest = PAUSE_SECONDS
        try:
            while group.leads and number in group.machine.outbox:
                try:
                    await self._deliver(number, name, type, body)
                except (RemotableError, LinkError) as why:
                    log.info("%s: %r does not take its message yet: %s", group.machine.name, name, why)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
                    continue
                group.propose([Request(group.me, 0, 0, 0, "", DELIVERED, codec.encode(number))])
                return
        finally:
            self._sending.discard(number)
