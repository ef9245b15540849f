"""Requests that a member of a byzantine group knows of and that have not been executed.

Senders tell all members, so that no leader can drop a request unseen: each member expects it, whoever leads proposes
it, and the one that has waited longest is what a leader is measured by.
"""

import asyncio
from typing import TYPE_CHECKING

from titan_overlay.errors import Forbidden, NotHere, Overloaded, RemotableError
from titan_overlay.mutable.engine import Entry, RequestsWait
from titan_overlay.mutable.intake import fail
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.proofs import Proofs
from titan_overlay.mutable.requests import OPEN, Request
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

EXPECTED_MAX = 8192
BATCH_REQUESTS = 512

Key = tuple[bytes, int, int, str, bytes]


def key_of(request: Request) -> Key:
    """What makes it the same request when it comes again."""
    return (
        request.sender,
        request.session,
        request.sequence,
        request.once,
        request.proof if request.type == OPEN else b"",
    )


class Expected:
    """An `Intake`, in the order of arrival.

    Args:
        proofs: checks who asked; the same that the engine's votes go by.
    """

    def __init__(self, group: "Group", proofs: Proofs) -> None:
        self._group = group
        self._proofs = proofs
        self._requests: dict[Key, tuple[Request, asyncio.Future[bytes]]] = {}
        self._fresh: list[Request] = []
        """Not proposed by this member, in this view."""
        self._oldest: Key | None = None
        """That the engine was told of."""

    def add(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        self._proofs.heard(request, teller)
        done = self._group.machine.reply_to(request)
        if done is not None:  # who is told of it only now must not wait for it to be ordered once more
            future: asyncio.Future[bytes] = self._group.loop.create_future()
            future.set_result(codec.encode(done))
            return future
        key = key_of(request)
        known = self._requests.get(key)
        if known is not None and not known[1].done():
            return known[1]
        if len(self._requests) >= EXPECTED_MAX:
            raise Overloaded(f"{EXPECTED_MAX} messages wait for {self._group.machine.name!r}", retry_after=0.5)
        future = self._group.loop.create_future()
        self._requests[key] = request, future
        if self._group.leads:
            self._fresh.append(request)
        return future

    def flush(self) -> None:
        if self._group.leads:
            fresh = [each for each in self._fresh if key_of(each) in self._requests and self._is_signed(each)]
            self._fresh = []
            for start in range(0, len(fresh), BATCH_REQUESTS):
                self._group.propose(fresh[start : start + BATCH_REQUESTS])
        self._tell_oldest()

    def _is_signed(self, request: Request) -> bool:
        """Whether its sender has signed it. What is not is nobody's fault but the sender's, and is let go."""
        try:
            self._proofs.check(request)
        except Forbidden as why:
            _, future = self._requests.pop(key_of(request))
            fail([future], why)
            return False
        return True

    def _tell_oldest(self) -> None:
        """A leader is measured by the request that has waited longest, of those whose sender has signed it."""
        oldest = next(iter(self._requests), None)
        while oldest is not None and not self._is_signed(self._requests[oldest][0]):
            oldest = next(iter(self._requests), None)
        if oldest != self._oldest:
            self._oldest = oldest
            self._group.step(RequestsWait(oldest is not None))

    def leads_now(self) -> None:
        """Whatever an earlier leader did not get ordered is to be proposed."""
        self._fresh = [request for request, _ in self._requests.values()]

    def accepted(self, ref: int, index: int, term: int) -> None:
        """A request is known by itself, wherever it stands."""

    def refused(self, ref: int, why: RemotableError) -> None:
        """Another member proposes it then."""

    def executed(self, entry: Entry, done: Executed) -> None:
        if not self._requests:
            return
        for request, reply in zip(done.requests, done.replies, strict=True):
            _, future = self._requests.pop(key_of(request), (None, None))
            if future is not None and not future.done():
                future.set_result(codec.encode(reply))
        self._tell_oldest()

    def passed_over(self, height: int, why: RemotableError) -> None:
        """Whether it was among them shows when it is asked for again."""

    def send_away(self, why: NotHere) -> None:
        fail((future for _, future in self._requests.values()), why)
        self._requests.clear()
        self._fresh.clear()
        self._oldest = None
