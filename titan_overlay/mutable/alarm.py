"""Agreed timers need somebody to say what time it is: whoever leads, with an empty batch."""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

TIMER_SECONDS_MIN = 0.05


class Alarm:
    """Rings at one member when a timer of its object is due."""

    def __init__(self, group: "Group") -> None:
        self._group = group
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        """Agreed time at which it rings."""

    def set(self) -> None:
        """For the next timer that is due, if there is one. Most messages change nothing about that."""
        group = self._group
        due = group.machine.due()
        if self._timer is not None and due == self._due:
            return
        self.stop()
        self._due = due
        if due is not None and not group.trouble:
            pause = max(TIMER_SECONDS_MIN, due - group.clock.time(group.loop.time()))
            self._timer = group.loop.call_later(pause, self._ring)

    def stop(self) -> None:
        """Until it is set anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._group.leads:
            self._group.front.propose(())
        else:
            self._group.front.intake.timer_waits()
        self.set()
