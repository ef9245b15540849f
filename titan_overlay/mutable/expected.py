"""Requests that a member of a byzantine group knows of and that have not been executed.

Senders tell all members, so that no leader can drop a request unseen: each member expects it, whoever leads proposes
it, and the one that has waited longest is what a leader is measured by.
"""

import asyncio
from collections.abc import Callable

from titan_overlay.errors import NotHere, Overloaded, RemotableError
from titan_overlay.mutable.requests import OPEN, Reply, Request
from titan_overlay.mutable.waiting import Batch, fail
from titan_overlay.wire import codec

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
    """In the order of arrival."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._requests: dict[Key, tuple[Request, asyncio.Future[bytes]]] = {}
        self._fresh: list[Request] = []
        """Not proposed by this member, in this view."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def oldest(self) -> Key | None:
        """The one that has waited longest."""
        return next(iter(self._requests), None)

    @property
    def oldest_request(self) -> Request | None:
        """The same, itself."""
        oldest = self.oldest
        return None if oldest is None else self._requests[oldest][0]

    def refuse(self, request: Request, why: RemotableError) -> None:
        """It will not be ordered."""
        _, future = self._requests.pop(key_of(request), (None, None))
        if future is not None:
            fail([future], why)

    def add(self, request: Request, *, leads: bool) -> "asyncio.Future[bytes]":
        """Its encoded `Reply`, once it has been executed. Overloaded: too many wait.

        Args:
            leads: whether this member is to propose it.
        """
        key = key_of(request)
        known = self._requests.get(key)
        if known is not None and not known[1].done():
            return known[1]
        if len(self._requests) >= EXPECTED_MAX:
            raise Overloaded(f"{EXPECTED_MAX} messages wait for {self._name!r}", retry_after=0.5)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._requests[key] = request, future
        if leads:
            self._fresh.append(request)
        return future

    def all_anew(self) -> None:
        """This member leads now: whatever an earlier leader did not get ordered is to be proposed."""
        self._fresh = [request for request, _ in self._requests.values()]

    def batches(self, may: Callable[[Request], bool]) -> list[Batch]:
        """What is to be proposed: all that `may` be."""
        made = []
        fresh = [each for each in self._fresh if key_of(each) in self._requests and may(each)]
        self._fresh = []
        for start in range(0, len(fresh), BATCH_REQUESTS):
            batch = Batch()
            batch.requests = fresh[start : start + BATCH_REQUESTS]
            made.append(batch)
        return made

    def executed(self, requests: tuple[Request, ...], replies: list[Reply]) -> None:
        """These have been, with these replies."""
        for request, reply in zip(requests, replies, strict=True):
            _, future = self._requests.pop(key_of(request), (None, None))
            if future is not None and not future.done():
                future.set_result(codec.encode(reply))

    def close(self, why: NotHere) -> None:
        fail((future for _, future in self._requests.values()), why)
        self._requests.clear()
        self._fresh.clear()
