"""The way of commands from a door to the group: what comes together in a turn of the loop, from however many clients,
travels as one message and takes one place in the order.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

import titan_overlay as titan
from titan_objects.store.group.messages import Done, Look, Rest, Run, Section

_LOG = logging.getLogger("titan_objects.store")

TOGETHER_BYTES = 192 << 10
"""Of the commands in one message."""
COMMAND_BYTES_MAX = 512 << 10
"""Of one command: the group takes no more at once."""
ANSWER_SECONDS = 30.0
UNDER_WAY_MAX = 2
"""Messages with writes that one door has under way; what comes meanwhile travels together."""

Way = Literal["ordered", "latest", "stale"]


class Piece:
    """Commands of one client that travel together.

    Args:
        size: of their words, bytes.
        answered: is given what became of them, or why nobody knows.
    """

    __slots__ = ("answered", "section", "size")

    def __init__(
        self, section: Section, size: int, answered: Callable[["Piece", Done | titan.TitanError], None]
    ) -> None:
        self.section = section
        self.size = size
        self.answered = answered


class Sending:
    """See the module.

    Args:
        now: unix milliseconds.
        settled: called once all replies that came together have been given.
    """

    def __init__(self, pool: titan.Pool, name: str, now: Callable[[], int], settled: Callable[[], None]) -> None:
        self._pool = pool
        self._name = name
        self._now = now
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Way, list[Piece]] = {"ordered": [], "latest": [], "stale": []}
        self._drop: list[int] = []
        self._scheduled = False
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, way: Way, piece: Piece) -> None:
        """Sends it with what else comes in this turn of the loop."""
        self._waiting[way].append(piece)
        self._soon()

    def drop(self, guard: int) -> None:
        """Nobody needs that guard any more; it travels with the next commands."""
        self._drop.append(guard)

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._spawn(self._flush())

    async def _flush(self) -> None:
        """Begins in the turn after the one in which it was made."""
        self._scheduled = False
        messages = [self._look(pieces, stale=False) for pieces in self._portions("latest")]
        messages += [self._look(pieces, stale=True) for pieces in self._portions("stale")]
        while self._waiting["ordered"] and self._under_way < UNDER_WAY_MAX:
            self._under_way += 1
            messages.append(self._order(self._portion(self._waiting["ordered"])))
        for message in messages[1:]:
            self._spawn(message)
        if messages:  # mostly there is but one, which needs no turn and no task of its own
            await messages[0]

    def _portions(self, way: Way) -> list[list[Piece]]:
        portions = []
        while self._waiting[way]:
            portions.append(self._portion(self._waiting[way]))
        return portions

    def _portion(self, pieces: list[Piece]) -> list[Piece]:
        """Takes off as many as may travel together."""
        size = count = 0
        for piece in pieces:
            size += piece.size
            if count and size > TOGETHER_BYTES:
                break
            count += 1
        taken = pieces[:count]
        del pieces[:count]
        return taken

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _order(self, pieces: list[Piece]) -> None:
        drop, self._drop = self._drop, []
        message = Run([piece.section for piece in pieces], drop)
        try:
            outcome = await self._pool.send(self._name, message, timeout=ANSWER_SECONDS)
        except Exception as why:
            self._drop += drop
            self._fail(pieces, why)
        else:
            for piece, done in zip(pieces, outcome.done, strict=True):
                if not done.executed and done.waiting is None:
                    self._waiting["ordered"].append(piece)
                else:
                    piece.answered(piece, done if done.parked is None else await self._fetched(done, done.parked))
        finally:
            self._under_way -= 1
            if self._waiting["ordered"]:
                self._soon()
        self._settled()

    async def _fetched(self, done: Done, parked: tuple[int, int]) -> Done | titan.TitanError:
        """With replies that are too long to travel at once."""
        (number, size), data = parked, b""
        try:
            while len(data) < size:
                more = await self._pool.read(self._name, Rest(number, len(data)), timeout=ANSWER_SECONDS)
                if not more:
                    raise titan.Unavailable("the replies are not kept any more", maybe_executed=True)
                data += more
        except Exception as why:
            return told(why)
        return msgspec.structs.replace(done, replies=data, parked=None)

    async def _look(self, pieces: list[Piece], *, stale: bool) -> None:
        message = Look([piece.section for piece in pieces], 0 if stale else self._now())
        try:
            replies = await self._pool.read(self._name, message, stale_ok=stale, timeout=ANSWER_SECONDS)
        except Exception as why:
            self._fail(pieces, why)
        else:
            if replies is None:  # it matters what time it is, or they are long
                self._waiting["ordered"] += pieces
                self._soon()
                return
            for piece, each in zip(pieces, replies, strict=True):
                section = piece.section
                piece.answered(piece, Done(each, section.db, len(section.commands), section.guard))
        self._settled()

    def _fail(self, pieces: Sequence[Piece], why: Exception) -> None:
        reason = told(why)
        _LOG.warning("%s does not answer: %s", self._name, reason)
        for piece in pieces:
            piece.answered(piece, reason)


def told(why: Exception) -> titan.TitanError:
    """What clients are told of a failure. One that nobody foresaw is in the log, with where it came from."""
    if isinstance(why, titan.TitanError):
        return why
    _LOG.error("a door failed", exc_info=why)
    return titan.Unavailable("an error inside of the door, whose log has the reason", maybe_executed=True)
