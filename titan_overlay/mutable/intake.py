"""How requests come into the order of a group. Crash and byzantine groups differ here, and the maker of their engine
brings what fits it: `Waiting` (waiting.py), `Expected` (expected.py).
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from titan_overlay.errors import NotHere, RemotableError
from titan_overlay.mutable.engine import Entry
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.requests import Request
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body

BATCH_BYTES = 256 << 10
"""Of requests that are proposed together: an entry fits into a frame, and into an engine's queue."""
WAITING_MAX = 8192
"""Requests that wait at one member."""
WAITING_BYTES_MAX = 8 << 20


class Intake(Protocol):
    """The requests that one member knows of. Who waits, and cannot be served here, is told `NotHere`, or another error
    that says what to do.
    """

    def add(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        """A request that is to be ordered; its encoded `Reply`, once it has been executed.

        Args:
            teller: public key of the user who brings it.

        Raises:
            Overloaded: too many wait. Forbidden: the teller may not speak for its sender.
        """
        ...

    def told(self, type: str, body: Body, sender: Sender) -> Begun:
        """What groups of one kind alone are told, a type of `talk.BYZANTINE`.

        Raises (by the future too):
            BadMessage: this group is of the other kind. NotHere: another member leads, or all have to be asked.
        """
        ...

    def flush(self) -> None:
        """A turn of the loop is over: proposes what is to be proposed now."""

    def leads_now(self) -> None:
        """This member has become the leader."""

    def leads_no_more(self) -> None:
        """Another member leads, or none."""

    def timer_waits(self) -> None:
        """An agreed timer is due, and another member should say so."""

    def accepted(self, ref: int, index: int, term: int) -> None:
        """What was proposed as `ref` has this place in the log."""

    def refused(self, ref: int, why: RemotableError) -> None:
        """The engine does not take what was proposed as `ref`."""

    def executed(self, entry: Entry, done: Executed) -> None:
        """An entry was executed."""

    def passed_over(self, height: int, why: RemotableError) -> None:
        """The state jumped to this height: what was ordered below it is not known here."""

    def send_away(self, why: NotHere) -> None:
        """All who wait for an order go elsewhere."""


def fail(waiting: "Iterable[asyncio.Future[Any]]", why: RemotableError) -> None:
    """Those who still wait are told."""
    for future in waiting:
        if not future.done():
            future.set_exception(why)


def batches(requests: Iterable[Request], requests_max: int) -> Iterator[list[Request]]:
    """Requests as they are proposed, in their order; one that is larger than a batch goes alone."""
    batch: list[Request] = []
    room = BATCH_BYTES
    for each in requests:
        if batch and (room < each.size or len(batch) >= requests_max):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(each)
        room -= each.size
    if batch:
        yield batch
