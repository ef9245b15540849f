"""Commands of a door's clients that wait. Each is tried again when its guard is touched, those that have waited longest
first, until it finds something or its time is over.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from titan_objects.store.group.messages import Waiting

if TYPE_CHECKING:
    from titan_objects.store.group.clients import DoorSession


EARLY_MAX = 4096
"""Guards that were touched before the answer came that names them, perhaps; of more, all count as touched."""


class Blocked:
    """One command that waits.

    Attributes:
        serial: in the order in which they began.
        until: loop time; None: for ever.
        guard: 0: none; it waits for its time to be over.
        trying: it is under way.
    """

    __slots__ = ("again", "guard", "nothing", "serial", "session", "timer", "trying", "until")

    def __init__(self, session: "DoorSession", serial: int, until: float | None) -> None:
        self.session = session
        self.serial = serial
        self.until = until
        self.guard = 0
        self.again: list[bytes] = []
        self.nothing = b""
        self.timer: asyncio.TimerHandle | None = None
        self.trying = False


class Room:
    """All that wait at a door.

    Args:
        again: tries one again.
        over: the time of one is over, and nothing was found.
        drop: nobody needs that guard any more.

    Attributes:
        gaps: counts the moments at which something may have been missed.
    """

    def __init__(
        self, again: Callable[[Blocked], None], over: Callable[[Blocked], None], drop: Callable[[int], None]
    ) -> None:
        self._again = again
        self._over = over
        self._drop = drop
        self.gaps = 0
        self._early: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._by_guard: dict[int, Blocked] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._by_guard)

    def add(self, session: "DoorSession", waiting: Waiting, gaps: int) -> None:
        """A command has found nothing, for the first time or again.

        Args:
            gaps: what `gaps` was when it was sent.
        """
        blocked = session.blocked
        now = self._loop.time()
        if blocked is None:
            blocked = self._begin(session, waiting.ms)
        blocked.guard, blocked.again, blocked.nothing = waiting.guard, waiting.again, waiting.nothing
        blocked.trying = False
        self._by_guard[blocked.guard] = blocked
        if blocked.until is not None and now >= blocked.until:
            self._expire(blocked)
        elif blocked.guard in self._early:
            self.touched((blocked.guard,))
        elif gaps != self.gaps:
            self._try_anyway([blocked])

    def hold(self, session: "DoorSession", ms: int, nothing: bytes) -> None:
        """A command waits for its time to be over, and for nothing else. `ms`: 0, for ever; `nothing`: its reply."""
        self._begin(session, ms).nothing = nothing

    def _begin(self, session: "DoorSession", ms: int) -> Blocked:
        self._serial += 1
        blocked = session.blocked = Blocked(session, self._serial, self._loop.time() + ms / 1000 if ms else None)
        if blocked.until is not None:
            blocked.timer = self._loop.call_at(blocked.until, self._expire, blocked)
        return blocked

    def touched(self, guards: Iterable[int]) -> None:
        """Something has changed there."""
        found = []
        for guard in guards:
            blocked = self._by_guard.pop(guard, None)
            if blocked is not None:
                found.append(blocked)
            else:  # another door's, or one of which this door has still to hear
                self._early.add(guard)
        if len(self._early) > EARLY_MAX:
            self._early.clear()
            self.gaps += 1
        self._try(found)

    def try_all(self) -> None:
        """Something may have been missed."""
        self.gaps += 1
        self._try_anyway(list(self._by_guard.values()))

    def _try_anyway(self, found: list[Blocked]) -> None:
        """Tries those whose guards may stand still."""
        for blocked in found:
            del self._by_guard[blocked.guard]
            self._drop(blocked.guard)
        self._try(found)

    def _try(self, found: list[Blocked]) -> None:
        for blocked in sorted(found, key=lambda each: each.serial):
            blocked.trying = True
            self._again(blocked)

    def remove(self, blocked: Blocked) -> None:
        """It waits no more."""
        self._by_guard.pop(blocked.guard, None)
        if blocked.timer is not None:
            blocked.timer.cancel()

    def _expire(self, blocked: Blocked) -> None:
        if not blocked.trying:  # else its answer says what to do
            self.remove(blocked)
            self._over(blocked)
